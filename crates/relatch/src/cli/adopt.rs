//! `relatch adopt`: puts relatch in front of the servers in clients' configuration files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use jiff::Timestamp;

use super::edit::tell_keepers;
use super::serve::state_dir;
use super::served::ServeSide;
use super::upstream::ConfigFile;
use crate::adopt::clients::{self, CLIENTS, Client, Places};
use crate::adopt::entry::{Change, Entry};
use crate::adopt::files::{self, FileFault, Loaded};
use crate::adopt::plan::{self, Front, Judgement};
use crate::adopt::probe::{self, Question};
use crate::adopt::serve::{Served, Side};
use crate::adopt::store::{Record, Store, StoreFault};
use crate::config::edit::NewServer;
use crate::exit;
use crate::render::adopt::{FileReport, Outcome, ServerReport};
use crate::render::{self, Failure, Style};

/// Put relatch in front of the servers that your clients have
#[derive(Debug, Args)]
#[command(
    after_help = "Looks at Claude Code, Claude Desktop, Cursor, VS Code, Codex, Gemini CLI, Windsurf, Zed and Cline, \
shows what it would change, and asks. Every HTTP server's entry then starts `relatch stdio`; the rest of the file stays \
byte for byte, a copy is kept, and `relatch release` puts it back. Left alone: servers that the client logs in to itself \
(OAuth), servers that are programs unless `--programs` is given, and what is switched off.

Exits with 1 when nothing was changed for want of a yes, or a file or a server's name could not be used.

Examples:
  relatch adopt --dry-run          only show it
  relatch adopt                    show it, ask, do it
  relatch adopt --client cursor --server gmail --yes
  relatch adopt --via serve        one keeper for all clients
  relatch adopt --scope project    the files of the project in this folder"
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    which: Which,

    /// What the entries say afterwards: `stdio` starts a relatch for each client, `serve` is the address of a
    /// running `relatch serve`
    #[arg(long, value_name = "SIDE", default_value = "stdio")]
    via: Via,

    /// Take servers that are programs, too: relatch then starts them, and starts them anew when they end
    #[arg(long)]
    programs: bool,

    /// Show what would change, and change nothing
    #[arg(long)]
    dry_run: bool,

    /// Do not ask
    #[arg(long)]
    yes: bool,

    /// Don't ask each server once whether it wants a login that only its client can do
    #[arg(long)]
    no_probe: bool,

    #[command(flatten)]
    config: ConfigFile,
}

/// Which servers of which files are meant.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// Only this client; may be repeated
    #[arg(long = "client", value_name = "NAME", value_parser = known_clients())]
    clients: Vec<&'static Client>,

    /// Only the servers of this name; may be repeated
    #[arg(long = "server", value_name = "NAME")]
    servers: Vec<String>,

    /// Whose files: your own, or those of the project in the current folder, which others may share
    #[arg(long, value_name = "WHOSE", default_value = "user")]
    scope: Scope,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Via {
    /// `relatch stdio` with the server's address
    Stdio,
    /// The address of the keeper that serves `relatch.toml`; the servers go into that file
    Serve,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Scope {
    /// Your own files
    User,
    /// `.mcp.json` and its like in the current folder
    Project,
}

/// One file, and what is to become of its servers.
pub(crate) struct Sheet<T> {
    pub(crate) client: &'static Client,
    pub(crate) loaded: Loaded,
    pub(crate) servers: Vec<(Entry, T)>,
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let places = places()?;
    let state = state_dir(None)?;
    let mut serve = match arguments.via {
        Via::Stdio => None,
        Via::Serve => Some(ServeSide::find(&arguments.config).await?),
    };
    let wants_token = serve.as_ref().is_some_and(|serve| serve.side.token.is_some());
    if wants_token && arguments.which.scope == Scope::Project {
        return Err(Failure::usage("`--via serve` can't be used for the files of a project")
            .cause("the keeper's token would stand in files that others share")
            .hint("Leave it out: each entry then starts `relatch stdio`"));
    }
    // What can't be read is asked for again before anything is written.
    let known = Store::look(&state).ok();
    let front = arguments.which.front(serve.as_ref(), known.as_ref())?;
    let front = Front { programs: arguments.programs, ..front };
    let (mut sheets, mut reports) = arguments.which.sheets(&places, |client, text, entry| {
        let named = arguments.which.servers.contains(&entry.name);
        plan::judge(client, text, entry, &front, named)
    });
    arguments.which.all_found(&sheets, &reports)?;
    if !arguments.no_probe {
        leave_challenged(&mut sheets).await;
    }
    if let Some(serve) = &mut serve {
        serve.settle(&mut sheets);
    }
    let mut work = Vec::new();
    for sheet in &sheets {
        let served = |server: &NewServer| serve.as_ref().map(|serve| serve.served(server, known.as_ref()));
        let (report, changed) = prepared(sheet, &places, &front, served);
        reports.push(report);
        work.extend(changed.map(|changed| (sheet, changed)));
    }
    if let Some(serve) = &mut serve {
        serve.keep_only(work.iter().flat_map(|(_, changed)| &changed.records));
        reports.extend(serve.report(&places));
    }
    let _ = render::out(&render::adopt::plan(&reports, Style::stdout()));
    let faults = reports.iter().any(FileReport::is_faulty);
    if work.is_empty() {
        render::say(&render::adopt::nothing(&reports, "adopt"));
        return Ok(code(&reports, faults));
    }
    if arguments.dry_run {
        render::say("Nothing was changed: this was a rehearsal\n");
        return Ok(code(&reports, faults));
    }
    if !agreed(arguments.yes, "adopt")? {
        return Ok(ExitCode::from(exit::NO));
    }
    let _held = Store::hold(&state).map_err(store_failure)?;
    let mut store = Store::look(&state).map_err(store_failure)?;
    let token = serve.as_ref().map(ServeSide::token).transpose()?.flatten();
    if let Some(serve) = &serve {
        serve.write()?;
    }
    let (mut done, mut used) = (Vec::new(), Vec::new());
    for (sheet, mut changed) in work {
        if let (Some(serve), Some(token)) = (&serve, &token) {
            changed.show(&serve.side, token);
        }
        let served: Vec<Served> = changed.records.iter().filter_map(|record| record.served.clone()).collect();
        let outcome = changed.apply(sheet, &state, &mut store);
        if outcome.is_ok() {
            used.extend(served);
        }
        done.push((sheet.client, sheet.loaded.path.clone(), outcome));
    }
    if let Some(serve) = &serve {
        serve.undo(&used);
    }
    let mut code = told(&done, &places, "adopted", faults);
    if let (Some(serve), false) = (&serve, used.is_empty()) {
        let nobody = "Until one does, the clients don't reach these servers: run `relatch serve`, or `relatch service install`";
        code = code.max(tell_keepers(&serve.path, nobody).await);
    }
    Ok(ExitCode::from(code))
}

/// The new text of a file, and what is kept of it.
struct Changed {
    text: String,
    records: Vec<Record>,
}

impl Changed {
    /// The token that clients show, in place of the one that was planned with.
    fn show(&mut self, side: &Side, token: &str) {
        let Some(planned) = side.token.as_deref().filter(|planned| *planned != token) else { return };
        self.text = self.text.replace(planned, token);
        for region in self.records.iter_mut().flat_map(|record| &mut record.written) {
            *region = region.replace(planned, token);
        }
    }

    /// Keeps what was there, then writes. What could not be written is not kept.
    fn apply(self, sheet: &Sheet<Judgement>, state: &Path, store: &mut Store) -> Result<PathBuf, FileFault> {
        let at = now();
        let copy = files::back_up(&state.join("backups"), sheet.client.id, &sheet.loaded, &at)?;
        let before: Vec<Record> = store.in_file(&sheet.loaded.target).cloned().collect();
        let unkept = |fault: StoreFault| FileFault::Unusable(format!("what it was can't be kept: {fault}"));
        store.change(self.records.clone(), &[]).map_err(unkept)?;
        if let Err(fault) = files::write(&sheet.loaded, &self.text) {
            let _ = store.change(before, &self.records);
            return Err(fault);
        }
        Ok(copy)
    }
}

impl Which {
    /// What is put in front of the servers.
    fn front(&self, serve: Option<&ServeSide>, store: Option<&Store>) -> Result<Front, Failure> {
        let side = serve.map(|serve| serve.side.clone());
        let kept = store.iter().flat_map(|store| store.served()).map(|served| served.base.clone());
        let known = side.iter().map(|side| side.base.clone()).chain(kept).collect();
        if self.scope == Scope::Project {
            return Ok(Front { program: "relatch".to_owned(), programs: false, side, known });
        }
        let own = std::env::current_exe()
            .map_err(|cause| Failure::new("The place of this program is not known").cause(cause))?;
        Ok(Front {
            program: stable(&own, std::env::var_os("PATH").as_deref()).to_string_lossy().into_owned(),
            programs: false,
            side,
            known,
        })
    }

    /// The files that are there, each server judged; and a report for each that can't be used.
    pub(crate) fn sheets<T>(
        &self,
        places: &Places,
        judge: impl Fn(&'static Client, &str, &Entry) -> T,
    ) -> (Vec<Sheet<T>>, Vec<FileReport>) {
        let scope = match self.scope {
            Scope::User => clients::Scope::User,
            Scope::Project => clients::Scope::Project,
        };
        let (mut sheets, mut reports) = (Vec::new(), Vec::new());
        let mut seen = BTreeSet::new();
        let wanted =
            CLIENTS.iter().filter(|c| self.clients.is_empty() || self.clients.iter().any(|w| w.id == c.id));
        for client in wanted {
            for path in client.files(places, scope) {
                let mut fault = |fault: FileFault| {
                    let refused = matches!(fault, FileFault::Refused(_));
                    reports.push(FileReport::faulty(client.title, places.shown(&path), fault.why(), refused));
                };
                let loaded = match files::read(&path) {
                    Ok(Some(loaded)) => loaded,
                    Ok(None) => continue,
                    Err(why) => {
                        fault(why);
                        continue;
                    }
                };
                // Two names of one file, by a link, are one file.
                if !seen.insert((client.id, loaded.target.clone())) {
                    continue;
                }
                match client.read(&loaded.text) {
                    Ok(entries) => {
                        let wanted = entries
                            .into_iter()
                            .filter(|entry| self.servers.is_empty() || self.servers.contains(&entry.name));
                        let servers = wanted
                            .map(|entry| (judge(client, &loaded.text, &entry), entry))
                            .map(|(j, e)| (e, j))
                            .collect();
                        sheets.push(Sheet { client, loaded, servers });
                    }
                    Err(why) => fault(FileFault::Unusable(why)),
                }
            }
        }
        (sheets, reports)
    }

    /// Whether no client and no server was picked.
    pub(crate) fn is_everything(&self) -> bool {
        self.clients.is_empty() && self.servers.is_empty()
    }

    /// A server that was named and is nowhere is a mistake.
    pub(crate) fn all_found<T>(&self, sheets: &[Sheet<T>], faulty: &[FileReport]) -> Result<(), Failure> {
        for name in &self.servers {
            if !sheets.iter().any(|sheet| sheet.servers.iter().any(|(entry, _)| entry.name == *name)) {
                // It may be in one of these.
                let _ = render::out(&render::adopt::plan(faulty, Style::stdout()));
                return Err(Failure::usage(format!(
                    "No client that was looked at has a server called `{name}`"
                ))
                .hint("`relatch adopt --dry-run` shows every server that your clients have"));
            }
        }
        Ok(())
    }
}

/// The clients that `--client` takes.
fn known_clients() -> impl TypedValueParser<Value = &'static Client> {
    let ids: Vec<&str> = CLIENTS.iter().map(|client| client.id).collect();
    PossibleValuesParser::new(ids).try_map(|id| clients::called(&id).ok_or("no client that relatch knows"))
}

pub(crate) fn places() -> Result<Places, Failure> {
    Places::of_this_process()
        .map_err(|cause| Failure::usage("The clients' files can't be looked for").cause(cause))
}

/// Whether the user wants it.
pub(crate) fn agreed(yes: bool, verb: &str) -> Result<bool, Failure> {
    if yes {
        return Ok(true);
    }
    if !render::can_ask() {
        render::say(&format!(
            "Nothing was changed\nhint: Run `relatch {verb} --yes` to do it without being asked\n"
        ));
        return Ok(false);
    }
    render::say("Do it? [y/N] ");
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .map_err(|cause| Failure::new("No answer could be read").cause(cause))?;
    let agreed = matches!(answer.trim(), "y" | "Y" | "yes" | "Yes");
    if !agreed {
        render::say("Nothing was changed\n");
    }
    Ok(agreed)
}

/// Says how the writing went, and what has to be done in each client.
pub(crate) fn told(
    done: &[(&'static Client, PathBuf, Result<PathBuf, FileFault>)],
    places: &Places,
    verb: &str,
    faults: bool,
) -> u8 {
    let mut worst = if faults { Some(exit::NO) } else { None };
    let mut reread: Vec<(&str, &str)> = Vec::new();
    for (client, path, outcome) in done {
        let file = places.shown(path);
        match outcome {
            Ok(copy) => {
                render::say(&format!("{file}: {verb}; a copy of what it was is {}\n", places.shown(copy)));
                reread.extend(client.reread.map(|how| (client.title, how)));
            }
            Err(fault) => {
                let refused = matches!(fault, FileFault::Refused(_));
                worst = Some(if refused && worst.is_none() { exit::REFUSED } else { exit::NO });
                render::failure(&Failure::new(format!("`{file}` was not changed")).cause(fault.why()));
            }
        }
    }
    reread.dedup();
    for (title, how) in reread {
        render::say(&format!("In {title}: {how}\n"));
    }
    worst.unwrap_or(exit::DONE)
}

/// The exit code of a run that changed nothing.
pub(crate) fn code(reports: &[FileReport], faults: bool) -> ExitCode {
    if !faults {
        return ExitCode::from(exit::DONE);
    }
    let refused = reports.iter().filter(|report| report.is_faulty()).all(|report| report.refused);
    ExitCode::from(if refused { exit::REFUSED } else { exit::NO })
}

pub(crate) fn store_failure(fault: StoreFault) -> Failure {
    let failure = Failure::new(fault.to_string());
    match fault {
        StoreFault::Held => failure.hint("Wait for the other one to end").exit(exit::REFUSED),
        StoreFault::Unreadable(..) => failure
            .hint("Move it away; what was adopted can then only be released from the entries themselves"),
        StoreFault::Unwritable(..) => failure.exit(exit::REFUSED),
    }
}

/// The time, as names of copies begin.
pub(crate) fn now() -> String {
    Timestamp::now().strftime("%Y%m%dT%H%M%S.%3fZ").to_string()
}

/// Asks every server that is to be adopted and could belong to a login of its client.
async fn leave_challenged(sheets: &mut [Sheet<Judgement>]) {
    let mut asked = Vec::new();
    let mut questions = Vec::new();
    for (at, sheet) in sheets.iter().enumerate() {
        for (number, (_, judgement)) in sheet.servers.iter().enumerate() {
            let Judgement::Adopt(adoption) = judgement else { continue };
            if let (Some(url), false) = (&adoption.url, adoption.has_credentials()) {
                asked.push((at, number));
                questions.push(Question {
                    url: url.clone(),
                    transport: adoption.transport,
                    headers: adoption.headers.clone(),
                });
            }
        }
    }
    for ((at, number), challenged) in asked.into_iter().zip(probe::challenged(questions).await) {
        if challenged {
            sheets[at].servers[number].1 = Judgement::Left(
                "it wants a login (401 with a challenge), which its client does by itself".to_owned(),
            );
        }
    }
}

/// What a file would become, and the report of it.
fn prepared(
    sheet: &Sheet<Judgement>,
    places: &Places,
    front: &Front,
    served: impl Fn(&NewServer) -> Option<Served>,
) -> (FileReport, Option<Changed>) {
    let text = &sheet.loaded.text;
    let chosen: Vec<(&Entry, &[Change])> = sheet
        .servers
        .iter()
        .filter_map(|(entry, judgement)| match judgement {
            Judgement::Adopt(adoption) => Some((entry, &adoption.changes[..])),
            Judgement::Adopted
            | Judgement::Left(_)
            | Judgement::Refused(_)
            | Judgement::Program
            | Judgement::Off => None,
        })
        .collect();
    let mut report = FileReport::of(sheet.client.title, places.shown(&sheet.loaded.path));
    let mut fault = None;
    let mut changed = None;
    if !chosen.is_empty() {
        match files::writable(&sheet.loaded).and_then(|()| {
            plan::carried_out(sheet.client, text, &chosen, |entry| front.holds(sheet.client, entry))
                .map_err(FileFault::Unusable)
        }) {
            Ok((after, written)) => changed = Some((after, written)),
            Err(why) => fault = Some(why),
        }
    }
    if let Some(fault) = fault {
        report.fault = Some(fault.why().to_owned());
        report.refused = matches!(fault, FileFault::Refused(_));
    }
    let mut records = Vec::new();
    let mut written = changed.iter().flat_map(|(_, written)| written.iter());
    for (entry, judgement) in &sheet.servers {
        let outcome = match judgement {
            Judgement::Adopt(adoption) => match written.next() {
                Some(written) => {
                    records.push(Record {
                        file: sheet.loaded.target.clone(),
                        client: sheet.client.id.to_owned(),
                        project: entry.project.clone(),
                        server: entry.name.clone(),
                        original: entry.written(text),
                        written: written.clone(),
                        served: adoption.server.as_deref().and_then(&served),
                        at: Timestamp::now().to_string(),
                    });
                    let before = entry.written(text);
                    let secrets = secrets(sheet.client, &[&before, written]);
                    Outcome::Changed { before, after: written.clone(), secrets }
                }
                None => Outcome::Left("its file can't be changed".to_owned()),
            },
            Judgement::Adopted => match gone(entry) {
                Some(program) => Outcome::Left(format!(
                    "it starts `{program}`, which is not there; `relatch release` it and adopt it anew"
                )),
                None => Outcome::Already,
            },
            Judgement::Left(why) => Outcome::Left(why.clone()),
            Judgement::Refused(why) => Outcome::Refused(why.clone()),
            Judgement::Program if plan::is_bridge(entry) => Outcome::Left(
                "it reaches its server through `mcp-remote`; where that needs no login, `relatch stdio URL` can stand in \
                 its place"
                    .to_owned(),
            ),
            Judgement::Program => {
                Outcome::Left("it is a program; `--programs` takes it, too".to_owned())
            }
            Judgement::Off => Outcome::Left(format!(
                "it is switched off in {}; `--server` takes it all the same",
                sheet.client.title
            )),
        };
        report.servers.push(ServerReport {
            name: entry.name.clone(),
            project: entry.project.clone(),
            outcome,
        });
    }
    (report, changed.map(|(text, _)| Changed { text, records }))
}

/// The relatch that an entry starts, when it is not there: moved, or gone with an update.
fn gone(entry: &Entry) -> Option<&str> {
    entry.text("command").filter(|program| Path::new(program).is_absolute() && !Path::new(program).exists())
}

/// What is not to be shown of these texts of an entry.
pub(crate) fn secrets(client: &Client, texts: &[&[String]]) -> Vec<String> {
    texts.iter().flat_map(|regions| plan::secrets(client, regions)).collect()
}

/// The place of this program that outlives an update: the one on `PATH`, where that is a link to it.
fn stable(own: &Path, path: Option<&std::ffi::OsStr>) -> PathBuf {
    let real = |path: &Path| std::fs::canonicalize(path).ok();
    let own_real = real(own);
    path.into_iter()
        .flat_map(std::env::split_paths)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(own.file_name().unwrap_or_default()))
        .find(|candidate| own_real.is_some() && real(candidate) == own_real)
        .unwrap_or_else(|| own.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn the_place_that_outlives_an_update_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let (cellar, bin) = (dir.path().join("cellar/0.1.0"), dir.path().join("bin"));
        for folder in [&cellar, &bin] {
            std::fs::create_dir_all(folder).unwrap();
        }
        let own = cellar.join("relatch");
        std::fs::write(&own, "").unwrap();
        std::os::unix::fs::symlink(&own, bin.join("relatch")).unwrap();
        let path = std::env::join_paths([Path::new("relative"), dir.path(), &bin]).unwrap();
        assert_eq!(stable(&own, Some(&path)), bin.join("relatch"));
        assert_eq!(stable(&own, None), own);
        assert_eq!(stable(&own, Some(dir.path().as_os_str())), own);
    }
}
