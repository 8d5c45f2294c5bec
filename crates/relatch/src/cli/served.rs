//! `adopt --via serve` and its undoing, as far as they have to do with a keeper: which one reads `relatch.toml`, what goes
//! into that file, and what is taken out again. What an entry becomes, `adopt::serve` decides.

use std::fs;
use std::path::{Path, PathBuf};

use relatch_admin::link::all_keepers;
use relatch_admin::runtime::runtime_dir;
use relatch_net::downstream::origin::{TOKEN_FILE, token_file};
use relatch_net::entropy;

use super::adopt::Sheet;
use super::ask;
use super::serve::{DEFAULT_LISTEN, state_dir};
use super::upstream::ConfigFile;
use crate::adopt::clients::Places;
use crate::adopt::files;
use crate::adopt::plan::Judgement;
use crate::adopt::serve::{self, Fit, Present, Served, Side};
use crate::adopt::store::{Record, Store};
use crate::config::edit::{self, NewServer, Taken};
use crate::config::read::Follow;
use crate::config::{self, Loaded};
use crate::exit;
use crate::render::adopt::{FileReport, Outcome, ServerReport};
use crate::render::{self, Failure};

/// The keeper that entries are to point to, and its file.
pub(crate) struct ServeSide {
    /// `relatch.toml`.
    pub(crate) path: PathBuf,
    pub(crate) side: Side,
    file: Option<Loaded>,
    /// Where the token is.
    state: PathBuf,
    /// Names that the running keeper has from its command line, so that the file's of the name would not count.
    typed: Vec<String>,
    /// Servers that are to come into the file.
    coming: Vec<NewServer>,
}

impl ServeSide {
    /// The running keeper that reads the file; where none does, what the file says.
    pub(crate) async fn find(config: &ConfigFile) -> Result<ServeSide, Failure> {
        let path = config.needed()?;
        let is_there = path.symlink_metadata().is_ok();
        // Its references are the keeper's matter.
        let file = if is_there { Some(config::load(&path, Follow::Nothing)?) } else { None };
        let said = file.as_ref().map(|file| &file.config);
        let listen = said.and_then(|said| said.listen.as_ref()).map_or(DEFAULT_LISTEN, |set| set.value);
        if listen.port() == 0 {
            return Err(Failure::usage(format!(
                "`{}` has its keeper listen on another port at every start",
                path.display()
            ))
            .cause("an entry of a client needs an address that stays")
            .hint("Give `listen` a port, such as `127.0.0.1:7332`"));
        }
        let dir = runtime_dir();
        let mut running = Vec::new();
        for keeper in all_keepers(&dir).await.map_err(|cause| ask::unreadable(&dir, &cause))? {
            match keeper.serving().await {
                Ok(Some(serving)) if serving.config.as_ref().is_some_and(|read| is_same(read, &path)) => {
                    running.push((keeper, serving));
                }
                Ok(_) => {}
                Err(trouble) => render::say(&render::config::warning(&format!(
                    "{trouble}; whether it reads this configuration is not known"
                ))),
            }
        }
        let mut typed = Vec::new();
        for (keeper, _) in &running {
            let trouble = |cause| Failure::new("The keeper does not say what it serves").cause(cause);
            let servers = keeper.status().await.map_err(trouble)?.servers;
            typed.extend(servers.into_iter().map(|server| server.name).filter(|name| {
                !said.is_some_and(|said| said.servers.iter().any(|server| server.name == *name))
            }));
        }
        let (base, state, wants_token) = match &running[..] {
            [] => {
                let dir = said.and_then(|said| said.state_dir.as_ref()).map(|set| set.value.clone());
                let open = said.and_then(|said| said.no_token.as_ref()).is_some_and(|set| set.value);
                (render::serve::base(listen), state_dir(dir)?, !open)
            }
            [(_, serving)] => (serving.base.clone(), serving.state_dir.clone(), serving.token),
            [(first, _), (second, _), ..] => {
                return Err(Failure::usage(format!("Several keepers read `{}`", path.display()))
                    .cause(format!("processes {} and {} do", first.pid, second.pid))
                    .hint("Stop all but the one that clients are to reach"));
            }
        };
        let token = wants_token.then(|| known_token(&state)).transpose()?;
        Ok(ServeSide { path, side: Side { base, token }, file, state, typed, coming: Vec::new() })
    }

    /// Leaves what can't go into these files, and what another server of the name is in the way of.
    pub(crate) fn settle(&mut self, sheets: &mut [Sheet<Judgement>]) {
        let file = self.file.as_ref().map_or(&[][..], |file| &file.config.servers);
        let open = files::readable_by_others(&self.path);
        for sheet in sheets {
            let read_by = files::readable_by_others(&sheet.loaded.target);
            let shown = sheet.loaded.path.display().to_string();
            for (_, judgement) in &mut sheet.servers {
                let Judgement::Adopt(adoption) = judgement else { continue };
                let Some(server) = &adoption.server else { continue };
                let refused = if self.side.token.is_some() && read_by != 0 {
                    Err(format!(
                        "the keeper's token would stand in its file, which other users can read; run `chmod 600 \
                         '{shown}'`, or use `--via stdio`"
                    ))
                } else {
                    match serve::fit(server, file, &self.coming) {
                        Ok(Fit::New) if serve::is_secret(server) && open & !read_by != 0 => Err(format!(
                            "it may have a secret, and more users can read `relatch.toml` than its file; run `chmod 600 \
                             '{}'`",
                            self.path.display()
                        )),
                        Ok(Fit::New) if self.typed.contains(&server.name) => Err(format!(
                            "the running keeper serves a `{}` that is not in `relatch.toml`; rename one of the two",
                            server.name
                        )),
                        Ok(Fit::New) => {
                            self.coming.push(NewServer::clone(server));
                            Ok(())
                        }
                        fit => fit.map(|_| ()),
                    }
                };
                if let Err(why) = refused {
                    *judgement = Judgement::Refused(why);
                }
            }
        }
    }

    /// What is kept of a server of the file. One that an earlier run has put there is still relatch's.
    pub(crate) fn served(&self, server: &NewServer, store: Option<&Store>) -> Served {
        let before = |served: &Served| {
            served.added && served.name == server.name && is_same(&served.config, &self.path)
        };
        Served {
            config: self.path.clone(),
            name: server.name.clone(),
            base: self.side.base.clone(),
            added: self.coming.iter().any(|coming| coming.name == server.name)
                || store.is_some_and(|store| store.served().any(before)),
            url: server.url.clone(),
            headers: server.headers.clone(),
            command: server.command.clone(),
            env: server.env.clone(),
            cwd: server.cwd.clone(),
            transport: server.transport.map(|transport| transport.as_str().to_owned()),
        }
    }

    /// Only what these entries need goes into the file.
    pub(crate) fn keep_only<'a>(&mut self, records: impl Iterator<Item = &'a Record>) {
        let needed: Vec<&str> =
            records.filter_map(|record| record.served.as_ref()).map(|served| served.name.as_str()).collect();
        self.coming.retain(|server| needed.contains(&server.name.as_str()));
    }

    /// What the file gets.
    pub(crate) fn report(&self, places: &Places) -> Option<FileReport> {
        if self.coming.is_empty() {
            return None;
        }
        let mut report = FileReport::of("relatch", places.shown(&self.path));
        for server in &self.coming {
            let after = vec![serve::shown(server)];
            let outcome = Outcome::Changed { before: Vec::new(), after, secrets: Vec::new() };
            report.servers.push(ServerReport { name: server.name.clone(), project: None, outcome });
        }
        Some(report)
    }

    /// The token that clients are to show, made where there was none until now.
    pub(crate) fn token(&self) -> Result<Option<String>, Failure> {
        self.side.token.as_ref().map(|_| kept_token(&self.state)).transpose()
    }

    /// Puts the servers into the file: all of them or none.
    pub(crate) fn write(&self) -> Result<(), Failure> {
        if self.coming.is_empty() {
            return Ok(());
        }
        edit::add(&self.path, &self.coming, Taken::Refuse)
    }

    /// Takes the servers out again that no entry uses after all.
    pub(crate) fn undo(&self, used: &[Served]) {
        for server in &self.coming {
            if used.iter().any(|served| served.name == server.name) {
                continue;
            }
            match edit::remove(&self.path, &server.name) {
                Ok(()) => render::say(&format!(
                    "`{}` is out of `{}` again, since no entry points to it\n",
                    server.name,
                    self.path.display()
                )),
                Err(failure) => render::failure(&failure.hint(format!(
                    "`{}` is still in the file; `relatch remove {}` takes it out",
                    server.name, server.name
                ))),
            }
        }
        if self.file.is_none() && fs::read(&self.path).is_ok_and(|left| left.is_empty()) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A server that goes out of a file, or why it stays.
pub(crate) struct Leaving {
    pub(crate) served: Served,
    /// It was edited since, or the file can't be read.
    pub(crate) stays: Option<String>,
}

/// Servers that only `adopt` has put into their files, and that no entry uses once `done` are released.
pub(crate) fn leaving(store: &Store, done: &[&Record]) -> Vec<Leaving> {
    let same = |a: &Served, b: &Served| a.name == b.name && is_same(&a.config, &b.config);
    let mut found: Vec<Leaving> = Vec::new();
    for served in done.iter().filter_map(|record| record.served.as_ref()).filter(|served| served.added) {
        let used = store.all().iter().any(|record| {
            !done.contains(&record) && record.served.as_ref().is_some_and(|other| same(other, served))
        });
        if used || found.iter().any(|other| same(&other.served, served)) {
            continue;
        }
        let stays = match fs::read_to_string(&served.config) {
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => continue,
            Err(cause) => Some(format!("the file can't be read: {cause}")),
            Ok(text) => match serve::present(&text, served) {
                Ok(Present::Gone) => continue,
                Ok(Present::AsWritten) => None,
                Ok(Present::Edited) => {
                    Some(format!("it was edited since; `relatch remove {}` takes it out", served.name))
                }
                Err(why) => Some(format!("the file can't be edited: {why}")),
            },
        };
        found.push(Leaving { served: served.clone(), stays });
    }
    found
}

/// What goes out of which file.
pub(crate) fn leaving_reports(leaving: &[Leaving], places: &Places) -> Vec<FileReport> {
    let mut files: Vec<&Path> = leaving.iter().map(|one| one.served.config.as_path()).collect();
    files.dedup();
    files
        .into_iter()
        .map(|file| {
            let mut report = FileReport::of("relatch", places.shown(file));
            for Leaving { served, stays } in leaving.iter().filter(|one| one.served.config == file) {
                let before = vec![serve::shown(&served.server())];
                let outcome = match stays {
                    Some(why) => Outcome::Left(why.clone()),
                    None => Outcome::Changed { before, after: Vec::new(), secrets: Vec::new() },
                };
                report.servers.push(ServerReport { name: served.name.clone(), project: None, outcome });
            }
            report
        })
        .collect()
}

/// Takes them out. Gives the files that have changed, and whether all went well.
pub(crate) fn take_out(leaving: &[Leaving]) -> (Vec<PathBuf>, bool) {
    let (mut files, mut well) = (Vec::new(), true);
    for Leaving { served, stays } in leaving {
        if stays.is_some() {
            continue;
        }
        match edit::remove(&served.config, &served.name) {
            Ok(()) => {
                render::say(&format!("`{}` is out of `{}`\n", served.name, served.config.display()));
                if !files.contains(&served.config) {
                    files.push(served.config.clone());
                }
            }
            Err(failure) => {
                render::failure(&failure);
                well = false;
            }
        }
    }
    (files, well)
}

/// The token where there is one. A rehearsal makes none: a word of its own stands for it until it is needed.
fn known_token(state: &Path) -> Result<String, Failure> {
    if state.join(TOKEN_FILE).symlink_metadata().is_ok() { kept_token(state) } else { Ok(entropy::token()) }
}

fn kept_token(state: &Path) -> Result<String, Failure> {
    token_file(state)
        .map_err(|cause| Failure::new("The token for clients can't be read").cause(cause).exit(exit::REFUSED))
}

fn is_same(a: &Path, b: &Path) -> bool {
    let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    a == b || real(a) == real(b)
}
