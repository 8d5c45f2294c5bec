//! `serve` as a service of this user: what its unit says, where it stands, and whether it is still as relatch wrote it.
//!
//! Everything here is text and decisions; the files and the service manager are touched by `cli/service.rs` alone.

mod launchd;
mod systemd;

use std::path::{Path, PathBuf};

use relatch_wire::digest::digest;

/// Who starts services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Manager {
    /// systemd, as the user's own instance.
    Systemd,
    /// macOS.
    Launchd,
}

/// What is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    /// The program, absolute.
    pub(crate) program: PathBuf,
    /// Its arguments, `serve` first.
    pub(crate) arguments: Vec<String>,
    /// Where the service manager listens, so that it starts the keeper for its first client.
    pub(crate) socket: Option<std::net::SocketAddr>,
}

/// A file of the service manager's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unit {
    /// Where it stands.
    pub(crate) path: PathBuf,
    /// All of it.
    pub(crate) text: String,
}

/// What stands where a unit would.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing.
    Nothing,
    /// The same.
    Same,
    /// Something that relatch wrote, for other arguments or by another version.
    Ours,
    /// Something that relatch wrote and somebody has changed since.
    Edited,
    /// Something that relatch did not write.
    Foreign,
}

/// What a line starts with that says who wrote the rest of the file, as a digest of it.
const SIGNED: &str = "Written by `relatch service install`; as it was, its digest is ";

impl Manager {
    /// Of this system, if it has one that is known.
    pub(crate) fn here() -> Option<Manager> {
        match std::env::consts::OS {
            "linux" => Some(Manager::Systemd),
            "macos" => Some(Manager::Launchd),
            _ => None,
        }
    }

    /// Its units for this service, in a user's home and configuration folder.
    pub(crate) fn units(self, service: &Service, home: &Path, config: &Path) -> Vec<Unit> {
        match self {
            Manager::Systemd => systemd::units(service, config),
            Manager::Launchd => vec![launchd::unit(service, home)],
        }
    }

    /// Every place where it may have a unit of relatch's.
    pub(crate) fn places(self, home: &Path, config: &Path) -> Vec<PathBuf> {
        match self {
            Manager::Systemd => systemd::places(config),
            Manager::Launchd => vec![launchd::place(home)],
        }
    }

    /// What starts the service, now and from now on.
    pub(crate) fn start(self, units: &[Unit]) -> Vec<Vec<String>> {
        match self {
            Manager::Systemd => systemd::start(units.len() > 1),
            Manager::Launchd => launchd::start(&units[0].path),
        }
    }

    /// What ends it, now and from now on.
    pub(crate) fn stop(self, places: &[PathBuf]) -> Vec<Vec<String>> {
        match self {
            Manager::Systemd => systemd::stop(places),
            Manager::Launchd => launchd::stop(),
        }
    }

    /// What the service manager has to be told when its files are gone.
    pub(crate) fn forget(self) -> Vec<Vec<String>> {
        match self {
            Manager::Systemd => vec![systemd::reload()],
            Manager::Launchd => vec![],
        }
    }

    /// What asks whether it runs.
    pub(crate) fn ask(self) -> Vec<String> {
        match self {
            Manager::Systemd => systemd::ask(),
            Manager::Launchd => launchd::ask(),
        }
    }

    /// What is worth knowing when it is installed.
    pub(crate) fn advice(self) -> Option<&'static str> {
        match self {
            Manager::Systemd => {
                Some("It runs while you are logged in; `loginctl enable-linger` lets it run always")
            }
            Manager::Launchd => None,
        }
    }
}

/// What stands in the place of `unit`, given what was read there.
pub(crate) fn found(read: Option<&str>, unit: Option<&Unit>) -> Found {
    let Some(text) = read else { return Found::Nothing };
    if unit.is_some_and(|unit| unit.text == text) {
        return Found::Same;
    }
    match signature(text) {
        Some((signature, rest)) if signature == format!("{:016x}", digest(rest.as_bytes())) => Found::Ours,
        Some(_) => Found::Edited,
        None => Found::Foreign,
    }
}

/// The text with a first line that says who wrote it; `comment` makes a comment of a line.
fn signed(text: &str, comment: impl Fn(&str) -> String) -> String {
    let line = comment(&format!("{SIGNED}{:016x}", digest(text.as_bytes())));
    match text.strip_prefix("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n") {
        // Nothing may stand before an XML declaration.
        Some(rest) => format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{line}\n{rest}"),
        None => format!("{line}\n{text}"),
    }
}

/// The digest that a text names, and the text without that line.
fn signature(text: &str) -> Option<(&str, String)> {
    let line = text.lines().take(2).find(|line| line.contains(SIGNED))?;
    let signature = line.split(SIGNED).nth(1)?.get(..16)?;
    Some((signature, text.replacen(&format!("{line}\n"), "", 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> Service {
        Service {
            program: "/opt/re latch/relatch".into(),
            arguments: vec![
                "serve".into(),
                "gmail=http://127.0.0.1:8761/mcp?a=100%".into(),
                "--on-change".into(),
                "say \"$1\" \\".into(),
            ],
            socket: None,
        }
    }

    #[test]
    fn a_unit_of_systemd_says_what_it_runs_and_when_it_is_ready() {
        let units = Manager::Systemd.units(&service(), Path::new("/home/a"), Path::new("/home/a/.config"));
        assert_eq!(units.len(), 1);
        assert_eq!(units[0].path, Path::new("/home/a/.config/systemd/user/relatch.service"));
        let (_, text) = signature(&units[0].text).unwrap();
        insta::assert_snapshot!(text);
    }

    #[test]
    fn with_a_socket_there_are_two_units_and_the_first_client_starts_the_keeper() {
        let service = Service { socket: Some("127.0.0.1:7332".parse().unwrap()), ..service() };
        let units = Manager::Systemd.units(&service, Path::new("/h"), Path::new("/c"));
        assert_eq!(units[1].path, Path::new("/c/systemd/user/relatch.socket"));
        insta::assert_snapshot!(signature(&units[1].text).unwrap().1);
        assert!(units[0].text.contains("Requires=relatch.socket\n"), "{}", units[0].text);
        assert!(Manager::Systemd.start(&units)[1].contains(&"relatch.socket".to_owned()));
    }

    #[test]
    fn a_property_list_of_launchd_escapes_what_it_runs() {
        let mut service = service();
        service.arguments.push("a=http://h/mcp?a=1&b=<2>".into());
        let units = Manager::Launchd.units(&service, Path::new("/Users/a"), Path::new("/unused"));
        assert_eq!(units[0].path, Path::new("/Users/a/Library/LaunchAgents/dev.relatch.serve.plist"));
        insta::assert_snapshot!(signature(&units[0].text).unwrap().1);
    }

    #[test]
    fn what_somebody_has_changed_is_told_from_what_relatch_wrote() {
        for manager in [Manager::Systemd, Manager::Launchd] {
            let [unit] = &manager.units(&service(), Path::new("/h"), Path::new("/c"))[..] else { panic!() };
            let other = Service { arguments: vec!["serve".into()], ..service() };
            let other = &manager.units(&other, Path::new("/h"), Path::new("/c"))[0];
            assert_eq!(found(None, Some(unit)), Found::Nothing);
            assert_eq!(found(Some(&unit.text), Some(unit)), Found::Same);
            assert_eq!(found(Some(&other.text), Some(unit)), Found::Ours);
            assert_eq!(found(Some(&other.text), None), Found::Ours);
            assert_eq!(found(Some(&unit.text.replace("serve", "swerve")), Some(unit)), Found::Edited);
            assert_eq!(found(Some("[Service]\nExecStart=/bin/true\n"), Some(unit)), Found::Foreign);
            assert_eq!(found(Some(""), Some(unit)), Found::Foreign);
        }
    }
}
