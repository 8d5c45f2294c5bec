//! Where keepers leave their sockets: a folder of this user alone.
//!
//! Access is decided by file modes and ownership and by nothing else: whoever may open the socket may ask.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The folder of control sockets: `$RELATCH_RUNTIME_DIR`, else `$XDG_RUNTIME_DIR/relatch`, else a folder of this user
/// in the place for temporary files.
#[must_use]
pub fn runtime_dir() -> PathBuf {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(dir) = set("RELATCH_RUNTIME_DIR") {
        return dir;
    }
    if let Some(dir) = set("XDG_RUNTIME_DIR") {
        return dir.join("relatch");
    }
    std::env::temp_dir().join(format!("relatch-{}", rustix::process::getuid().as_raw()))
}

/// Makes `dir` (mode 0700), or checks that it is a folder of this user that nobody else can enter. Parents that are
/// missing are made too.
///
/// # Errors
/// Anything else at that place, and a folder of another user.
pub fn private_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let found = std::fs::symlink_metadata(dir)?;
    let refuse = |what: &str| {
        Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("`{}` {what}", dir.display())))
    };
    if !found.is_dir() {
        return refuse("is not a folder");
    }
    if found.uid() != rustix::process::geteuid().as_raw() {
        return refuse("belongs to another user");
    }
    if found.mode() & 0o077 != 0 {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_others_could_enter_is_closed_to_them() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b");
        private_dir(&inner).unwrap();
        std::fs::set_permissions(&inner, std::fs::Permissions::from_mode(0o755)).unwrap();
        private_dir(&inner).unwrap();
        assert_eq!(std::fs::metadata(&inner).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_link_in_place_of_the_folder_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        assert!(private_dir(&link).is_err());
    }
}
