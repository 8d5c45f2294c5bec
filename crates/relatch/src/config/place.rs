//! Where the configuration file is, and how files and variables are read.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::refer::World;

/// The most bytes of a configuration or of a secret's file.
const MOST: u64 = 1024 * 1024;

/// The platforms, as far as they differ in where configuration belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Platform {
    /// Where the XDG base folders hold.
    Xdg,
    /// macOS.
    Mac,
    /// Windows.
    Windows,
}

impl Platform {
    const HERE: Platform = if cfg!(target_os = "macos") {
        Platform::Mac
    } else if cfg!(windows) {
        Platform::Windows
    } else {
        Platform::Xdg
    };
}

/// The file by its name on the command line, else by `RELATCH_CONFIG`.
pub(crate) fn named(given: Option<&Path>) -> Option<PathBuf> {
    let variable = || std::env::var_os("RELATCH_CONFIG").filter(|value| !value.is_empty()).map(PathBuf::from);
    let named = given.map(Path::to_owned).or_else(variable)?;
    // A keeper says where its file is to those who work elsewhere.
    Some(std::path::absolute(&named).unwrap_or(named))
}

/// The file where nobody names one; none where there is no home.
pub(crate) fn usual() -> Option<PathBuf> {
    usual_on(Platform::HERE, &|name| std::env::var_os(name).map(PathBuf::from))
}

fn usual_on(platform: Platform, variable: &dyn Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    // A path that isn't absolute is to be ignored, says the specification of base folders.
    let set = |name| variable(name).filter(|path| path.is_absolute());
    let home = |below: &str| set("HOME").map(|home| home.join(below));
    let base = match platform {
        Platform::Windows => variable("APPDATA").filter(|path| !path.as_os_str().is_empty()),
        Platform::Mac => set("XDG_CONFIG_HOME").or_else(|| home("Library/Application Support")),
        Platform::Xdg => set("XDG_CONFIG_HOME").or_else(|| home(".config")),
    };
    base.map(|base| base.join("relatch").join("relatch.toml"))
}

/// Whether a file that is there may be read by others than its owner.
pub(crate) fn readable_by_others(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|about| about.permissions().mode() & 0o077 != 0)
}

/// The environment and the files of this process.
pub(crate) struct System;

impl World for System {
    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn variables(&self) -> Vec<String> {
        std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect()
    }

    fn file(&self, path: &Path) -> Result<(String, bool), String> {
        let words = |cause: &std::io::Error| match cause.kind() {
            std::io::ErrorKind::NotFound => "is not there".to_owned(),
            std::io::ErrorKind::PermissionDenied => "may not be read by this user".to_owned(),
            _ => format!("can't be read: {cause}"),
        };
        let about = std::fs::metadata(path).map_err(|cause| words(&cause))?;
        if about.is_dir() {
            return Err("is a folder".to_owned());
        }
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(|cause| words(&cause))?;
        match file.take(MOST + 1).read_to_string(&mut text) {
            Ok(_) if text.len() as u64 > MOST => Err("is longer than 1 MiB".to_owned()),
            Ok(_) => Ok((text, others_may_read(&about))),
            Err(cause) if cause.kind() == std::io::ErrorKind::InvalidData => {
                Err("is no text in UTF-8".to_owned())
            }
            Err(cause) => Err(words(&cause)),
        }
    }
}

#[cfg(unix)]
fn others_may_read(about: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    about.is_file() && about.mode() & 0o044 != 0
}

#[cfg(not(unix))]
fn others_may_read(_: &std::fs::Metadata) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_where_the_platform_keeps_configuration() {
        let set = |pairs: &'static [(&'static str, &'static str)]| {
            move |name: &str| {
                pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| PathBuf::from(value))
            }
        };
        for (platform, pairs, expected) in [
            (Platform::Xdg, &[("HOME", "/h")][..], Some("/h/.config/relatch/relatch.toml")),
            (Platform::Xdg, &[("HOME", "/h"), ("XDG_CONFIG_HOME", "/c")], Some("/c/relatch/relatch.toml")),
            (
                Platform::Xdg,
                &[("HOME", "/h"), ("XDG_CONFIG_HOME", "c")],
                Some("/h/.config/relatch/relatch.toml"),
            ),
            (Platform::Mac, &[("HOME", "/h")], Some("/h/Library/Application Support/relatch/relatch.toml")),
            (Platform::Windows, &[("APPDATA", "C:/a")], Some("C:/a/relatch/relatch.toml")),
            (Platform::Xdg, &[], None),
        ] {
            assert_eq!(
                usual_on(platform, &set(pairs)),
                expected.map(PathBuf::from),
                "{platform:?} {pairs:?}"
            );
        }
    }
}
