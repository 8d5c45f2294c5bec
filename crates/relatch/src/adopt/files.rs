//! Clients' files on disk: read whole, written whole in one step, with a copy of what was there before.
//!
//! A link stays a link and its target is written; mode, owner, byte order mark stay; a file that changed since it was read
//! is left alone. What is to be written, others decide.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// The largest file that is read: Claude Code keeps the history of every project in its own.
const MAX_FILE: u64 = 64 * 1024 * 1024;
/// Copies that are kept of one file; the oldest go.
const COPIES: usize = 10;
const MARK: &str = "\u{feff}";

/// A file as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Loaded {
    /// Where it was looked for.
    pub(crate) path: PathBuf,
    /// Where it is, behind every link.
    pub(crate) target: PathBuf,
    /// Its text, without a byte order mark.
    pub(crate) text: String,
    marked: bool,
}

/// Why a file can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FileFault {
    /// It is not what it should be, or changed meanwhile.
    Unusable(String),
    /// The system does not allow it.
    Refused(String),
}

impl FileFault {
    pub(crate) fn why(&self) -> &str {
        match self {
            FileFault::Unusable(why) | FileFault::Refused(why) => why,
        }
    }

    fn of(doing: &str, cause: &io::Error) -> FileFault {
        let why = format!("{doing}: {cause}");
        match cause.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => FileFault::Refused(why),
            _ => FileFault::Unusable(why),
        }
    }
}

/// A file's text; `None` where there is no such file.
///
/// # Errors
/// When it can't be read, is no file, is too large or is no text.
pub(crate) fn read(path: &Path) -> Result<Option<Loaded>, FileFault> {
    let absent =
        |cause: &io::Error| matches!(cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
    match fs::symlink_metadata(path) {
        Err(cause) if absent(&cause) => return Ok(None),
        Err(cause) => return Err(FileFault::of("it can't be read", &cause)),
        Ok(_) => {}
    }
    let target = fs::canonicalize(path).map_err(|cause| match absent(&cause) {
        true => FileFault::Unusable("it is a link to nothing".to_owned()),
        false => FileFault::of("it can't be read", &cause),
    })?;
    let bytes = bytes_of(&target)?;
    let text = String::from_utf8(bytes).map_err(|fault| {
        let what = match fault.as_bytes() {
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "it is UTF-16, which its client would not read",
            _ => "it is no text in UTF-8",
        };
        FileFault::Unusable(what.to_owned())
    })?;
    let (text, marked) = match text.strip_prefix(MARK) {
        Some(text) => (text.to_owned(), true),
        None => (text, false),
    };
    Ok(Some(Loaded { path: path.to_owned(), target, text, marked }))
}

/// Whether a file could be written, looked at before anything is promised.
///
/// # Errors
/// Why it could not.
pub(crate) fn writable(loaded: &Loaded) -> Result<(), FileFault> {
    let meta = fs::metadata(&loaded.target).map_err(|cause| FileFault::of("it can't be read", &cause))?;
    if meta.permissions().readonly() {
        return Err(FileFault::Refused("it is read-only".to_owned()));
    }
    #[cfg(unix)]
    if std::os::unix::fs::MetadataExt::nlink(&meta) > 1 {
        let why = "it has several names (hard links), which writing it would part";
        return Err(FileFault::Unusable(why.to_owned()));
    }
    Ok(())
}

/// The bits of its mode by which others than its owner may read it; none where there is no such file yet.
pub(crate) fn readable_by_others(path: &Path) -> u32 {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(path).map_or(0, |meta| meta.mode() & 0o044)
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        0
    }
}

/// Writes a file anew, in one step: whoever reads it sees the old or the new text, whole.
///
/// # Errors
/// When it changed since it was read, or the system does not allow it. Nothing is written then.
pub(crate) fn write(loaded: &Loaded, text: &str) -> Result<(), FileFault> {
    writable(loaded)?;
    let meta = fs::metadata(&loaded.target).map_err(|cause| FileFault::of("it can't be read", &cause))?;
    let folder = loaded.target.parent().unwrap_or(Path::new("/"));
    let name = loaded.target.file_name().unwrap_or_default().to_string_lossy();
    let fresh = folder.join(format!(".{name}.relatch-{}", std::process::id()));
    let made = whole(&fresh, &meta, &with_mark(loaded, text)).and_then(|()| {
        if bytes_of(&loaded.target)? != with_mark(loaded, &loaded.text).as_bytes() {
            return Err(FileFault::Unusable(
                "it was changed while relatch worked on it; run this again".to_owned(),
            ));
        }
        fs::rename(&fresh, &loaded.target).map_err(|cause| FileFault::of("it can't be written", &cause))
    });
    if made.is_err() {
        let _ = fs::remove_file(&fresh);
    } else if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
    made
}

/// Keeps a copy of a file as it was read, readable by its owner alone. Gives the place of the copy.
///
/// # Errors
/// When it can't be kept.
pub(crate) fn back_up(folder: &Path, client: &str, loaded: &Loaded, at: &str) -> Result<PathBuf, FileFault> {
    let trouble = |cause: io::Error| FileFault::of("no copy of it can be kept", &cause);
    private_folder(folder).map_err(trouble)?;
    let name = loaded.target.file_name().unwrap_or_default().to_string_lossy();
    let place = relatch_wire::digest::digest(loaded.target.as_os_str().as_encoded_bytes());
    let end = format!("-{client}-{:08x}-{}", place & 0xffff_ffff, name.trim_start_matches('.'));
    let copy = folder.join(format!("{at}{end}"));
    let mut file = private(OpenOptions::new().write(true).create_new(true), &copy).map_err(trouble)?;
    file.write_all(with_mark(loaded, &loaded.text).as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(trouble)?;
    // Names begin with the time, so the oldest come first.
    let mut copies: Vec<PathBuf> = fs::read_dir(folder)
        .map_err(trouble)?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.to_string_lossy().ends_with(&end))
        .collect();
    copies.sort();
    for old in &copies[..copies.len().saturating_sub(COPIES)] {
        let _ = fs::remove_file(old);
    }
    Ok(copy)
}

/// Makes a folder that only its owner can look into.
///
/// # Errors
/// As the system says.
pub(crate) fn private_folder(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// Opens a file that only its owner can read.
///
/// # Errors
/// As the system says.
pub(crate) fn private(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options.open(path)
}

fn with_mark(loaded: &Loaded, text: &str) -> String {
    if loaded.marked { format!("{MARK}{text}") } else { text.to_owned() }
}

fn bytes_of(target: &Path) -> Result<Vec<u8>, FileFault> {
    let trouble = |cause: io::Error| FileFault::of("it can't be read", &cause);
    // A pipe would be waited for, so what it is comes first.
    let meta = fs::metadata(target).map_err(trouble)?;
    if !meta.is_file() {
        let what = if meta.is_dir() { "it is a folder" } else { "it is no file" };
        return Err(FileFault::Unusable(what.to_owned()));
    }
    let mut bytes = Vec::new();
    let mut file = File::open(target).map_err(trouble)?.take(MAX_FILE + 1);
    file.read_to_end(&mut bytes).map_err(trouble)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(FileFault::Unusable("it is larger than 64 MiB".to_owned()));
    }
    Ok(bytes)
}

/// A new file with the mode and owner of the one whose place it takes.
fn whole(fresh: &Path, like: &fs::Metadata, text: &str) -> Result<(), FileFault> {
    let trouble = |cause: io::Error| FileFault::of("it can't be written", &cause);
    let mut file = private(OpenOptions::new().write(true).create_new(true), fresh).map_err(trouble)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let own = file.metadata().map_err(trouble)?;
        if (own.uid(), own.gid()) != (like.uid(), like.gid()) {
            std::os::unix::fs::fchown(&file, Some(like.uid()), Some(like.gid())).map_err(trouble)?;
        }
    }
    file.set_permissions(like.permissions()).map_err(trouble)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(trouble)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(folder: &Path, bytes: &[u8]) -> Loaded {
        let path = folder.join("a.json");
        fs::write(&path, bytes).unwrap();
        read(&path).unwrap().unwrap()
    }

    #[test]
    fn what_is_not_a_text_is_named() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(&dir.path().join("none/at/all")), Ok(None));
        let why = |path: &Path| read(path).unwrap_err().why().to_owned();
        assert_eq!(why(dir.path()), "it is a folder");
        let path = dir.path().join("b");
        for (bytes, expected) in [
            (&b"\xff\xfe{\0}\0"[..], "it is UTF-16, which its client would not read"),
            (&b"\x7fELF\xff\0"[..], "it is no text in UTF-8"),
        ] {
            fs::write(&path, bytes).unwrap();
            assert_eq!(why(&path), expected);
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_link_stays_and_its_target_keeps_mode_and_mark() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("dotfiles.json");
        fs::write(&target, "\u{feff}old").unwrap();
        fs::set_permissions(&target, fs::Permissions::from_mode(0o640)).unwrap();
        let link = dir.path().join("link.json");
        symlink("dotfiles.json", &link).unwrap();
        let loaded = read(&link).unwrap().unwrap();
        assert_eq!(loaded.text, "old");
        write(&loaded, "new").unwrap();
        assert_eq!(fs::read(&target).unwrap(), "\u{feff}new".as_bytes());
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left behind");

        symlink("nowhere", dir.path().join("dangling")).unwrap();
        let fault = read(&dir.path().join("dangling")).unwrap_err();
        assert_eq!(fault.why(), "it is a link to nothing");
    }

    #[test]
    fn a_file_that_changed_meanwhile_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let loaded = loaded(dir.path(), b"old");
        fs::write(&loaded.path, "newer").unwrap();
        let fault = write(&loaded, "new").unwrap_err();
        assert!(fault.why().starts_with("it was changed while"), "{fault:?}");
        assert_eq!(fs::read(&loaded.path).unwrap(), b"newer");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_is_not_to_be_written_is_not() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let loaded = loaded(dir.path(), b"old");
        fs::hard_link(&loaded.path, dir.path().join("other")).unwrap();
        assert!(write(&loaded, "new").unwrap_err().why().contains("hard links"));
        fs::remove_file(dir.path().join("other")).unwrap();
        fs::set_permissions(&loaded.path, fs::Permissions::from_mode(0o444)).unwrap();
        assert_eq!(write(&loaded, "new"), Err(FileFault::Refused("it is read-only".to_owned())));
        assert_eq!(fs::read(&loaded.path).unwrap(), b"old");
    }

    #[cfg(unix)]
    #[test]
    fn copies_are_private_and_the_oldest_go() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let loaded = loaded(dir.path(), b"\xef\xbb\xbfold");
        let folder = dir.path().join("state/backups");
        for at in 10..30 {
            back_up(&folder, "cursor", &loaded, &at.to_string()).unwrap();
        }
        let mut copies: Vec<PathBuf> =
            fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        copies.sort();
        assert_eq!(copies.len(), COPIES);
        assert!(copies[0].file_name().unwrap().to_string_lossy().starts_with("20-cursor-"));
        assert_eq!(fs::read(&copies[0]).unwrap(), b"\xef\xbb\xbfold");
        for (path, mode) in [(&copies[0], 0o600), (&folder, 0o700)] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, mode);
        }
    }
}
