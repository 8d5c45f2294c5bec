//! Reads the configuration of a running keeper again and applies what has changed.
//!
//! Decides what can change while a keeper runs and what can't. A file that is faulty changes nothing: the keeper goes on as
//! it was, and whoever asked, the journal and the log hear why. What a change means for sessions is decided elsewhere.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use relatch_admin::reload::{Changed, Reloaded};
use relatch_core::journal::What;
use relatch_net::change::Applied;
use relatch_net::hooks::{self, About, Running};
use relatch_net::keeper::{Keeper, ServerConfig};
use relatch_net::upstream::dial::Tls;
use tokio::sync::Mutex;

use crate::keeper::{hooks_of, server};
use crate::launch::{Again, Launch};
use crate::render::{self, Failure, Style};

/// Under this name the journal speaks of the file itself.
const FILE: &str = "relatch.toml";

/// A keeper with what it was started with.
pub(crate) struct Reloader {
    keeper: Arc<Keeper>,
    again: Arc<Again>,
    config: Option<PathBuf>,
    about: About,
    /// One reload at a time.
    present: Mutex<Present>,
}

struct Present {
    launch: Launch,
    hooks: Option<Running>,
}

impl Reloader {
    /// `launch` is what `keeper` runs with, and `again` reads it anew. Its hooks are looked after from now on.
    pub(crate) fn new(keeper: Arc<Keeper>, launch: Launch, again: Again) -> Result<Arc<Reloader>, Failure> {
        let about = About { kind: launch.kind.as_str(), version: env!("CARGO_PKG_VERSION") };
        let hooks = hooks::start(&keeper, hooks_of(&launch)?, about.clone(), Tls::platform());
        Ok(Arc::new(Reloader {
            keeper,
            again: Arc::new(again),
            config: launch.config.clone(),
            about,
            present: Mutex::new(Present { launch, hooks: Some(hooks) }),
        }))
    }

    /// Whether there is a file to read again.
    pub(crate) fn reads_a_file(&self) -> bool {
        self.config.is_some()
    }

    /// Hooks are told nothing any more.
    pub(crate) async fn end(&self) {
        if let Some(hooks) = self.present.lock().await.hooks.take() {
            hooks.end().await;
        }
    }

    /// Reads everything again. With `only`, a keeper that reads another file does nothing.
    pub(crate) async fn reload(&self, only: Option<PathBuf>) -> Reloaded {
        let Some(config) = &self.config else { return Reloaded::default() };
        if only.is_some_and(|only| !same(&only, config)) {
            return Reloaded::default();
        }
        let mut present = self.present.lock().await;
        let again = Arc::clone(&self.again);
        // Files may be where reading takes its time.
        let read = tokio::task::spawn_blocking(move || (again)()).await;
        let outcome = match read {
            Ok(Ok(next)) => self.apply(&mut present, next).await,
            Ok(Err(failure)) => Err(failure),
            Err(_) => Err(Failure::new("Reading the configuration ended early").exit(crate::exit::BUG)),
        };
        let mut reloaded = match outcome {
            Ok(reloaded) => reloaded,
            Err(failure) => self.refuse(&failure),
        };
        reloaded.config = Some(config.display().to_string());
        reloaded
    }

    /// Nothing is applied before all of it is known to be right.
    async fn apply(&self, present: &mut Present, mut next: Launch) -> Result<Reloaded, Failure> {
        let servers = next.servers.iter().map(server).collect::<Result<Vec<ServerConfig>, Failure>>()?;
        let hooks = hooks_of(&next)?;
        let kept = keep(&present.launch, &mut next);
        let Applied { added, removed, changed } = self.keeper.apply(servers);
        let mut changed: Vec<Changed> =
            changed.into_iter().map(|(name, what)| Changed { name, what }).collect();
        if next.hooks != present.launch.hooks {
            if let Some(running) = present.hooks.take() {
                running.end().await;
            }
            present.hooks = Some(hooks::start(&self.keeper, hooks, self.about.clone(), Tls::platform()));
            changed.push(Changed { name: "hooks".to_owned(), what: vec!["on_change, webhook".to_owned()] });
        }
        let warnings = next.warnings.clone();
        present.launch = next;
        Ok(Reloaded { added, removed, changed, kept, warnings, ..Reloaded::default() })
    }

    fn refuse(&self, failure: &Failure) -> Reloaded {
        let detail = render::config::in_a_line(failure);
        self.keeper.tell(FILE, What::ReloadRefused, &detail);
        tracing::warn!("the configuration is not applied: {detail}");
        Reloaded { refused: Some(render::failure_text(failure, Style::Plain)), ..Reloaded::default() }
    }
}

/// What can't change while a keeper runs stays; in words.
fn keep(old: &Launch, new: &mut Launch) -> Vec<String> {
    let mut kept = Vec::new();
    if new.listen != old.listen {
        kept.push(format!("listen stays `{}`", old.listen));
        new.listen = old.listen;
    }
    if new.state_dir != old.state_dir {
        kept.push(format!("state_dir stays `{}`", old.state_dir.display()));
        new.state_dir.clone_from(&old.state_dir);
    }
    if new.token != old.token {
        kept.push(format!("no_token stays `{}`", !old.token));
        new.token = old.token;
    }
    if new.allow_hosts != old.allow_hosts {
        kept.push("allow_host stays as it was".to_owned());
        new.allow_hosts.clone_from(&old.allow_hosts);
    }
    kept
}

fn same(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    real(one) == real(other)
}
