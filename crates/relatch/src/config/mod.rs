//! The configuration file, `relatch.toml`: where it is, what it may say, and what it says.
//!
//! A file is validated whole before anything of it is used: [`read::read`] gives a [`Config`] or every fault with its
//! place. What a configuration becomes is `launch`'s; what of it changes while a keeper runs, the keeper's.

pub(crate) mod edit;
pub(crate) mod fault;
pub(crate) mod keys;
pub(crate) mod place;
pub(crate) mod read;
pub(crate) mod refer;
pub(crate) mod schema;
mod veil;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use fault::Faulty;
use read::Follow;
use refer::{Text, World};
use relatch_core::policy::Transport;

/// A value of the file, and its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Set<T> {
    pub(crate) value: T,
    pub(crate) line: usize,
}

/// What a file says. What it does not say is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) listen: Option<Set<SocketAddr>>,
    pub(crate) state_dir: Option<Set<PathBuf>>,
    pub(crate) no_token: Option<Set<bool>>,
    pub(crate) allow_hosts: Option<Set<Vec<String>>>,
    pub(crate) on_change: Option<Set<Vec<String>>>,
    pub(crate) webhook: Option<Set<Text>>,
    /// In the order of the file.
    pub(crate) servers: Vec<Server>,
    /// Files of `${file:…}` that others may read.
    pub(crate) open_files: Vec<PathBuf>,
}

/// One `[server.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) name: String,
    pub(crate) line: usize,
    pub(crate) place: Where,
    pub(crate) headers: Vec<(String, Set<Text>)>,
    pub(crate) hold: Option<Set<u64>>,
    pub(crate) stateful: Option<Set<bool>>,
    pub(crate) replay: Option<Set<Vec<(String, bool)>>>,
    pub(crate) gateway_errors: Option<Set<bool>>,
    pub(crate) transport: Option<Set<Transport>>,
    pub(crate) tell: Option<Set<bool>>,
    pub(crate) ca: Option<Set<PathBuf>>,
    pub(crate) cert: Option<Set<PathBuf>>,
    pub(crate) key: Option<Set<PathBuf>>,
    pub(crate) proxy: Option<Set<Text>>,
    pub(crate) copies: Option<Set<bool>>,
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Where {
    /// At an address.
    Url(Set<Text>),
    /// In a process for each session, or for all.
    Command(Program),
}

/// A server that is a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    /// The program and its arguments.
    pub(crate) words: Set<Vec<String>>,
    pub(crate) env: Vec<(String, Set<Text>)>,
    pub(crate) cwd: Option<Set<PathBuf>>,
    pub(crate) inherit_env: Option<Set<Vec<String>>>,
    pub(crate) shared: Option<Set<bool>>,
}

/// A file that was read: what it says, and what is worth a look in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Loaded {
    pub(crate) path: PathBuf,
    pub(crate) config: Config,
    /// In words.
    pub(crate) warnings: Vec<String>,
}

/// Reads and validates the file at `path`.
///
/// # Errors
/// Everything that is wrong with it.
pub(crate) fn load(path: &Path, follow: Follow<'_>) -> Result<Loaded, Faulty> {
    let world = place::System;
    let (text, open) = world.file(path).map_err(|cause| {
        let hint = (!path.exists()).then(|| "`relatch add NAME URL` makes it".to_owned());
        Faulty::whole(path, format!("`{}` {cause}", path.display()), hint)
    })?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let config = read::read(&text, folder, &world, follow)
        .map_err(|faults| Faulty { path: path.to_owned(), faults })?;
    let mut warnings = Vec::new();
    if open && read::has_secret(&config) {
        warnings.push(readable(path));
    }
    let keys = config.servers.iter().filter_map(|server| server.key.as_ref());
    warnings.extend(keys.filter(|key| place::readable_by_others(&key.value)).map(|key| readable(&key.value)));
    warnings.extend(config.open_files.iter().map(|path| readable(path)));
    Ok(Loaded { path: path.to_owned(), config, warnings })
}

fn readable(path: &Path) -> String {
    let path = path.display();
    format!("`{path}` holds a secret, and other users can read it: run `chmod 600 '{path}'`")
}
