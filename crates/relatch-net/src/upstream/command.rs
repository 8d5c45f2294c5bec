//! A server that is a command: what is run, and how it is shown.
//!
//! Decides nothing; `child` runs it.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

/// A command and its surroundings. There is no shell in between.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Command {
    /// The program: a path, or a name to be found on `PATH`.
    pub program: String,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Set beside what it has of relatch's own environment, and before it.
    pub env: Vec<(String, String)>,
    /// The variables that it has of relatch's own environment; all of them unless set.
    pub inherit: Option<Vec<String>>,
    /// Where it runs; where relatch runs unless set.
    pub folder: Option<PathBuf>,
    /// A program that runs the command as its arguments and ends it, with all that it has started, when relatch is
    /// gone. Without one a relatch that is killed leaves its servers to see the end of their input.
    pub guard: Option<Vec<OsString>>,
    /// It keeps nothing per client: one process serves all sessions.
    pub shared: bool,
}

/// Why a command can't be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// Nothing was given.
    #[error("the command is empty")]
    Empty,
    /// A name that no folder of `PATH` has.
    #[error("`{program}` is not on `PATH`")]
    NotOnPath {
        /// The name.
        program: String,
    },
    /// A path where nothing is.
    #[error("there is no `{program}`")]
    NotThere {
        /// The path.
        program: String,
    },
    /// A file that is no program.
    #[error("`{program}` may not be executed")]
    NotExecutable {
        /// The path.
        program: String,
    },
    /// A working folder where none is.
    #[error("there is no folder `{folder}` to run it in")]
    NoFolder {
        /// The path.
        folder: String,
    },
}

/// The most characters of a command that are shown.
const SHOWN: usize = 200;

impl Command {
    /// The variables with which it is started; none where it has all of relatch's, and its own beside them.
    pub(crate) fn inherited(&self) -> Option<Vec<(&str, OsString)>> {
        let names = self.inherit.as_ref()?;
        Some(names.iter().filter_map(|name| Some((name.as_str(), std::env::var_os(name)?))).collect())
    }

    /// The program without its folder.
    pub(crate) fn short(&self) -> &str {
        self.program.rsplit('/').next().unwrap_or(&self.program)
    }

    /// The program where it is now.
    ///
    /// # Errors
    /// Whatever keeps it from being run, by its name.
    pub fn find(&self) -> Result<PathBuf, CommandError> {
        let program = self.program.clone();
        if program.is_empty() {
            return Err(CommandError::Empty);
        }
        if let Some(folder) = self.folder.as_ref().filter(|folder| !folder.is_dir()) {
            return Err(CommandError::NoFolder { folder: folder.display().to_string() });
        }
        if program.contains('/') {
            let path = self.folder.as_deref().unwrap_or(Path::new("")).join(&program);
            return match may_run(&path) {
                Some(true) => Ok(path),
                Some(false) => Err(CommandError::NotExecutable { program }),
                None => Err(CommandError::NotThere { program }),
            };
        }
        let configured =
            self.env.iter().rev().find(|(name, _)| name == "PATH").map(|(_, value)| value.into());
        let path = configured.or_else(|| std::env::var_os("PATH")).unwrap_or_default();
        std::env::split_paths(&path)
            .map(|folder| folder.join(&program))
            .find(|path| may_run(path) == Some(true))
            .ok_or(CommandError::NotOnPath { program })
    }
}

/// Whether a file is a program; `None` where there is no file.
fn may_run(path: &Path) -> Option<bool> {
    use std::os::unix::fs::PermissionsExt;
    let found = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file)?;
    Some(found.permissions().mode() & 0o111 != 0)
}

/// Without the values of its variables, which may be secrets.
impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.env.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Command")
            .field("line", &self.to_string())
            .field("env", &names)
            .field("inherit", &self.inherit)
            .field("folder", &self.folder)
            .field("shared", &self.shared)
            .finish_non_exhaustive()
    }
}

/// The command as it would be typed, shortened: arguments are seen by every user of the machine anyway.
impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.program.clone();
        for argument in &self.arguments {
            text.push(' ');
            let plain = |c: char| c.is_ascii_alphanumeric() || "/._-=:@,+%~".contains(c);
            if !argument.is_empty() && argument.chars().all(plain) {
                text.push_str(argument);
            } else {
                text.push_str(&format!("'{argument}'"));
            }
        }
        let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
        let mut shown: String = clean.clone().take(SHOWN).collect();
        if clean.count() > SHOWN {
            shown.push('…');
        }
        f.write_str(&shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(program: &str, arguments: &[&str]) -> Command {
        Command {
            program: program.to_owned(),
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            ..Command::default()
        }
    }

    #[test]
    fn a_command_is_shown_as_it_would_be_typed() {
        assert_eq!(command("npx", &["-y", "@a/b", "a b", ""]).to_string(), "npx -y @a/b 'a b' ''");
        let long = command("x", &[&"y".repeat(500)]).to_string();
        assert_eq!((long.chars().count(), long.ends_with('…')), (SHOWN + 1, true));
        assert_eq!(command("a\u{1b}[31m", &[]).to_string(), "a [31m");
    }

    #[test]
    fn what_can_not_be_run_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let file = file.display().to_string();
        assert!(command("sh", &[]).find().is_ok());
        assert_eq!(command("", &[]).find(), Err(CommandError::Empty));
        let words = |program: &str| command(program, &[]).find().unwrap_err().to_string();
        assert_eq!(words("no-such-program"), "`no-such-program` is not on `PATH`");
        assert_eq!(words("/no/such"), "there is no `/no/such`");
        assert_eq!(words(&file), format!("`{file}` may not be executed"));
        let nowhere = Command { folder: Some("/no/such".into()), ..command("sh", &[]) };
        assert_eq!(nowhere.find().unwrap_err().to_string(), "there is no folder `/no/such` to run it in");
        let elsewhere = Command {
            env: vec![("PATH".to_owned(), folder.path().display().to_string())],
            ..command("sh", &[])
        };
        assert!(elsewhere.find().is_err(), "the command's own PATH counts");
    }

    #[test]
    fn values_of_variables_are_shown_nowhere() {
        let secret = Command { env: vec![("KEY".to_owned(), "s3cret".to_owned())], ..command("sh", &[]) };
        let shown = format!("{secret:?} {secret}");
        assert!(shown.contains("KEY") && !shown.contains("s3cret"), "{shown}");
    }
}
