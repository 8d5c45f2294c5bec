//! Writes servers into the configuration file and takes them out: everything else in it stays as it is.
//!
//! Comments, order and formatting are the user's. The file is replaced in one step, so that nobody ever reads half of it;
//! links are followed, and a new file is for its owner alone. What was edited is validated before it is written.

use std::io::Write;
use std::path::{Path, PathBuf};

use relatch_core::policy::Transport;
use toml_edit::{DocumentMut, InlineTable, Item, Table, Value};

use super::fault::Faulty;
use super::place::System;
use super::read::{Follow, read};
use super::refer::World;
use crate::exit;
use crate::launch::Ways;
use crate::render::Failure;

/// A server as it is to stand in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NewServer {
    pub(crate) name: String,
    /// As it is to be written; `${…}` may stand in it.
    pub(crate) url: String,
    /// A program and its arguments, in place of an address.
    pub(crate) command: Vec<String>,
    /// Names and values of its variables as they are to be written; `${…}` may stand in them.
    pub(crate) env: Vec<(String, String)>,
    pub(crate) cwd: Option<String>,
    pub(crate) inherit_env: Option<Vec<String>>,
    pub(crate) shared: bool,
    /// Names and values as they are to be written; `${…}` may stand in them.
    pub(crate) headers: Vec<(String, String)>,
    /// As `45s`.
    pub(crate) hold: Option<String>,
    pub(crate) stateful: bool,
    pub(crate) replay: Vec<(String, bool)>,
    pub(crate) gateway_errors_refused: bool,
    pub(crate) transport: Option<Transport>,
    pub(crate) tell: bool,
    /// Whole paths.
    pub(crate) ways: Box<Ways>,
    /// Whether no copies are kept.
    pub(crate) no_copies: bool,
}

/// What becomes of a server whose name is in the file already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// That is an error.
    Refuse,
    /// The new one takes its place.
    Replace,
}

/// Adds these servers to the file at `path`, which is made where it is not there; all of them or none.
///
/// # Errors
/// A name that is taken, a file that is faulty before or after, or one that can't be written. Nothing is changed then.
pub(crate) fn add(path: &Path, servers: &[NewServer], taken: Taken) -> Result<(), Failure> {
    let (mut document, old) = open(path)?;
    for server in servers {
        let all = document
            .entry("server")
            .or_insert_with(|| {
                let mut all = Table::new();
                // `[server]` alone says nothing.
                all.set_implicit(true);
                Item::Table(all)
            })
            .as_table_like_mut()
            .ok_or_else(|| Failure::usage(format!("`server` in `{}` is no table", path.display())))?;
        if taken == Taken::Refuse && all.contains_key(&server.name) {
            return Err(Failure::usage(format!(
                "`{}` has a server `{}` already",
                path.display(),
                server.name
            ))
            .hint("Give the new one another name, or put it in the other's place with `--replace`"));
        }
        match all.get_mut(&server.name).and_then(Item::as_table_mut) {
            // Its header and the comments above it stay.
            Some(there) => {
                there.clear();
                fill(there, server);
            }
            None => {
                let mut table = Table::new();
                fill(&mut table, server);
                all.insert(&server.name, Item::Table(table));
            }
        }
    }
    write(path, old.as_deref(), &document)
}

/// Takes a server out of the file at `path`, with the comments right above it.
///
/// # Errors
/// A name that is not there, or a file that is faulty or can't be written. Nothing is changed then.
pub(crate) fn remove(path: &Path, name: &str) -> Result<(), Failure> {
    let (mut document, old) = open(path)?;
    if old.is_none() {
        return Err(Failure::usage(format!("`{}` is not there", path.display())));
    }
    let all = document.get_mut("server").and_then(Item::as_table_like_mut);
    let known: Vec<String> = all.iter().flat_map(|all| all.iter()).map(|(name, _)| name.to_owned()).collect();
    let Some(all) = all.filter(|all| all.contains_key(name)) else {
        let failure = Failure::usage(format!("`{}` has no server `{name}`", path.display()));
        return Err(match known.is_empty() {
            true => failure.cause("it names none"),
            false => failure.hint(format!("There are `{}`", known.join("`, `"))),
        });
    };
    all.remove(name);
    write(path, old.as_deref(), &document)
}

fn fill(table: &mut Table, server: &NewServer) {
    let NewServer { name: _, url, command, env, cwd, inherit_env, shared, transport, no_copies, .. } = server;
    if command.is_empty() {
        table.insert("url", toml_edit::value(url));
    } else {
        table.insert("command", toml_edit::value(command.iter().collect::<toml_edit::Array>()));
    }
    if let Some(transport) = transport {
        table.insert("transport", toml_edit::value(transport.as_str()));
    }
    if !env.is_empty() {
        let pairs: InlineTable = env.iter().map(|(name, value)| (name, Value::from(value))).collect();
        table.insert("env", toml_edit::value(pairs));
    }
    if let Some(cwd) = cwd {
        table.insert("cwd", toml_edit::value(cwd));
    }
    if let Some(names) = inherit_env {
        table.insert("inherit_env", toml_edit::value(names.iter().collect::<toml_edit::Array>()));
    }
    if *shared {
        table.insert("shared", toml_edit::value(true));
    }
    let NewServer { headers, hold, stateful, replay, gateway_errors_refused, tell, ways, .. } = server;
    if !headers.is_empty() {
        let pairs: InlineTable = headers.iter().map(|(name, value)| (name, Value::from(value))).collect();
        table.insert("headers", toml_edit::value(pairs));
    }
    if let Some(hold) = hold {
        table.insert("hold", toml_edit::value(hold));
    }
    if *stateful {
        table.insert("stateful", toml_edit::value(true));
    }
    if !replay.is_empty() {
        let word = |always: bool| if always { "always" } else { "never" };
        let pairs: InlineTable =
            replay.iter().map(|(glob, always)| (glob, Value::from(word(*always)))).collect();
        table.insert("replay", toml_edit::value(pairs));
    }
    if *tell {
        table.insert("tell", toml_edit::value(true));
    }
    if *no_copies {
        table.insert("copies", toml_edit::value(false));
    }
    if *gateway_errors_refused {
        table.insert("gateway_errors", toml_edit::value("refused"));
    }
    let Ways { ca, cert, key, proxy } = &**ways;
    for (name, path) in [("ca", ca), ("cert", cert), ("key", key)] {
        if let Some(path) = path {
            table.insert(name, toml_edit::value(path.display().to_string()));
        }
    }
    if let Some(proxy) = proxy {
        table.insert("proxy", toml_edit::value(proxy));
    }
}

/// The file as it is, which has to be right; an empty one where there is none.
fn open(path: &Path) -> Result<(DocumentMut, Option<String>), Failure> {
    if path.symlink_metadata().is_err_and(|cause| cause.kind() == std::io::ErrorKind::NotFound) {
        return Ok((DocumentMut::new(), None));
    }
    let (text, _) = System.file(path).map_err(|cause| {
        Failure::usage(format!("`{}` {cause}", path.display())).hint("Nothing was changed")
    })?;
    check(path, &text)?;
    let document = text.parse().map_err(|fault: toml_edit::TomlError| {
        Failure::usage(format!("`{}` can't be edited", path.display())).cause(fault.message())
    })?;
    Ok((document, Some(text)))
}

/// What it refers to may be elsewhere: only how it is written counts here.
fn check(path: &Path, text: &str) -> Result<(), Faulty> {
    let folder = path.parent().unwrap_or(Path::new("."));
    match read(text, folder, &System, Follow::Nothing) {
        Ok(_) => Ok(()),
        Err(faults) => Err(Faulty { path: path.to_owned(), faults }),
    }
}

fn write(path: &Path, old: Option<&str>, document: &DocumentMut) -> Result<(), Failure> {
    let text = document.to_string();
    check(path, &text)?;
    if old == Some(text.as_str()) {
        return Ok(());
    }
    replace(path, text.as_bytes(), old.is_some()).map_err(|cause| {
        let failure = Failure::new(format!("`{}` can't be written", path.display()))
            .cause(&cause)
            .hint("Nothing was changed");
        match cause.kind() {
            std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
                failure.exit(exit::REFUSED)
            }
            _ => failure,
        }
    })
}

/// The whole file or nothing: written beside it, and put in its place.
fn replace(path: &Path, text: &[u8], exists: bool) -> std::io::Result<()> {
    use std::fs::{DirBuilder, OpenOptions, Permissions};
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
    // The file that a link means, not the link.
    let path: PathBuf = if exists { path.canonicalize()? } else { path.to_owned() };
    let folder = path.parent().unwrap_or(Path::new("."));
    let mode = if exists {
        let mode = std::fs::metadata(&path)?.permissions().mode() & 0o7777;
        if mode & 0o222 == 0 {
            // It could be replaced all the same; but it was made so on purpose.
            return Err(std::io::Error::new(std::io::ErrorKind::PermissionDenied, "the file is read-only"));
        }
        mode
    } else {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        0o600
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = folder.join(format!(".{name}.{}.new", std::process::id()));
    let written =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside).and_then(|mut file| {
            file.write_all(text)?;
            file.set_permissions(Permissions::from_mode(mode))?;
            file.sync_all()?;
            std::fs::rename(&beside, &path)
        });
    if written.is_err() {
        // What was begun is not left lying about; an older one of this name is not ours.
        let _ = std::fs::remove_file(&beside);
    }
    written
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const WRITTEN: &str = "# mine\n[serve]\nlisten   =   \"127.0.0.1:1\" # odd\n\n# about b\n[server.b]\nurl='http://b/'\n\n\n[server.a] # first\nhold = \"1m\"\nurl = \"http://a/\"\n";

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("relatch.toml");
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    fn server(name: &str) -> NewServer {
        NewServer { name: name.to_owned(), url: "http://h/${KEY}".to_owned(), ..NewServer::default() }
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_the_user_wrote_stays_as_it_is() {
        let (_dir, path) = file(WRITTEN);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let new = NewServer {
            headers: vec![("Authorization".to_owned(), "Bearer ${TOKEN}".to_owned())],
            hold: Some("5m".to_owned()),
            stateful: true,
            replay: vec![("send_*".to_owned(), false), ("*".to_owned(), true)],
            gateway_errors_refused: true,
            transport: Some(Transport::Sse),
            ..server("new")
        };
        add(&path, &[new], Taken::Refuse).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(
            text,
            format!(
                "{WRITTEN}\n[server.new]\nurl = \"http://h/${{KEY}}\"\ntransport = \"sse\"\nheaders = {{ Authorization = \"Bearer ${{TOKEN}}\" }}\nhold = \"5m\"\nstateful = true\n\
                 replay = {{ \"send_*\" = \"never\", \"*\" = \"always\" }}\ngateway_errors = \"refused\"\n"
            )
        );
        assert_eq!(mode(&path), 0o640);
        remove(&path, "new").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), WRITTEN);
        remove(&path, "b").unwrap();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "# mine\n[serve]\nlisten   =   \"127.0.0.1:1\" # odd\n\n\n[server.a] # first\nhold = \"1m\"\nurl = \"http://a/\"\n"
        );
    }

    #[test]
    fn a_name_that_is_taken_is_refused_or_replaced() {
        let (_dir, path) = file(WRITTEN);
        let failure = add(&path, &[server("new"), server("a")], Taken::Refuse).unwrap_err();
        assert!(failure.what.contains("has a server `a` already"), "{failure}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), WRITTEN, "all of them or none");
        add(&path, &[server("b")], Taken::Replace).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("# about b\n[server.b]\nurl = \"http://h/${KEY}\"\n"), "{text}");
    }

    #[test]
    fn a_new_file_is_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/relatch.toml");
        add(&path, &[server("x")], Taken::Refuse).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "[server.x]\nurl = \"http://h/${KEY}\"\n");
        assert_eq!(mode(&path), 0o600);
        assert_eq!(
            std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1,
            "nothing is left beside it"
        );
    }

    #[test]
    fn a_link_stays_a_link() {
        let (dir, path) = file(WRITTEN);
        let link = dir.path().join("link.toml");
        std::os::unix::fs::symlink("relatch.toml", &link).unwrap();
        add(&link, &[server("x")], Taken::Refuse).unwrap();
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(std::fs::read_to_string(&path).unwrap().contains("[server.x]"));
        // One that leads nowhere is no place for a new file.
        let nowhere = dir.path().join("nowhere.toml");
        std::os::unix::fs::symlink("gone.toml", &nowhere).unwrap();
        let failure = add(&nowhere, &[server("x")], Taken::Refuse).unwrap_err();
        assert!(failure.what.contains("is not there"), "{failure}");
    }

    #[test]
    fn a_file_that_is_faulty_or_read_only_is_left_as_it_is() {
        let (_dir, path) = file("[server.a]\nurll = \"http://a/\"\n");
        let failure = add(&path, &[server("x")], Taken::Refuse).unwrap_err();
        assert!(failure.faulty.is_some() && failure.exit == exit::USAGE);
        let (_dir, path) = file(WRITTEN);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
        let failure = add(&path, &[server("x")], Taken::Refuse).unwrap_err();
        assert_eq!((failure.exit, failure.causes), (exit::REFUSED, vec!["the file is read-only".to_owned()]));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), WRITTEN);
        // What could not be read again is not written.
        let (_dir, path) = file(WRITTEN);
        let wrong = NewServer { url: "nonsense".to_owned(), ..server("x") };
        assert!(add(&path, &[wrong], Taken::Refuse).unwrap_err().faulty.is_some());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), WRITTEN);
    }

    #[test]
    fn servers_in_inline_tables_are_edited_too() {
        let (_dir, path) = file("server = { a = { url = \"http://a/\" } }\n");
        add(&path, &[server("b")], Taken::Refuse).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(check(&path, &text).is_ok() && text.contains("b = {"), "{text}");
        remove(&path, "a").unwrap();
        assert!(!std::fs::read_to_string(&path).unwrap().contains("http://a/"));
        assert!(remove(&path, "a").unwrap_err().hint.unwrap().contains("`b`"));
    }
}
