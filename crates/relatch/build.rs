//! Tells the program which commit it is built from, as `RELATCH_BUILD` (`abc1234 2026-11-25`, `abc1234-dirty 2026-11-25`
//! or `commit unknown`).
//!
//! The first that knows is believed: the variable `RELATCH_COMMIT` (with the date of `SOURCE_DATE_EPOCH`, if that is
//! set), a git checkout of relatch itself, the file `commit` that `git archive` fills in. Nothing here reads the clock
//! or the network, so the same sources say the same; without git the build goes on and says that it doesn't know.
//! It runs again only when the commit moves or when a source of the program changes, which builds the program anyway.

use std::path::{Path, PathBuf};
use std::process::Command;

/// So many digits of a commit are shown, however git would shorten it in this clone.
const SHOWN: usize = 7;

/// What the program is made of, from the root of the repository. Other files may change and it stays the same program.
const SOURCES: [&str; 15] = [
    "Cargo.toml",
    "Cargo.lock",
    "crates/relatch-wire/Cargo.toml",
    "crates/relatch-wire/src",
    "crates/relatch-core/Cargo.toml",
    "crates/relatch-core/src",
    "crates/relatch-store/Cargo.toml",
    "crates/relatch-store/src",
    "crates/relatch-net/Cargo.toml",
    "crates/relatch-net/src",
    "crates/relatch-admin/Cargo.toml",
    "crates/relatch-admin/src",
    "crates/relatch/Cargo.toml",
    "crates/relatch/src",
    "crates/relatch/build.rs",
];

fn main() -> Result<(), String> {
    let here = std::env::var_os("CARGO_MANIFEST_DIR").ok_or("CARGO_MANIFEST_DIR is not set")?;
    let here = PathBuf::from(here);
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=commit");
    println!("cargo::rerun-if-env-changed=RELATCH_COMMIT");
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    let known = match given()? {
        Some(build) => Some(build),
        None => checkout(&here).or_else(|| archive(&here)),
    };
    println!("cargo::rustc-env=RELATCH_BUILD={}", known.as_deref().unwrap_or("commit unknown"));
    Ok(())
}

/// What whoever builds has said.
fn given() -> Result<Option<String>, String> {
    let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let Some(commit) = set("RELATCH_COMMIT") else { return Ok(None) };
    let (digits, dirty) = match commit.strip_suffix("-dirty") {
        Some(digits) => (digits, true),
        None => (commit.as_str(), false),
    };
    if digits.len() < SHOWN || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(format!("`RELATCH_COMMIT` is `{commit}`, which is no commit such as `abc1234`"));
    }
    let date = match set("SOURCE_DATE_EPOCH") {
        Some(seconds) => {
            let seconds = seconds.parse().ok().filter(|seconds| *seconds <= LAST_SECOND);
            Some(date(seconds.ok_or("`SOURCE_DATE_EPOCH` is no count of seconds since 1970")?))
        }
        None => None,
    };
    Ok(Some(shown(digits, dirty, date.as_deref())))
}

/// What git says, if it speaks of relatch and not of a repository around an unpacked tarball.
fn checkout(here: &Path) -> Option<String> {
    git(here, &["ls-files", "--error-unmatch", "build.rs"])?;
    let root = PathBuf::from(git(here, &["rev-parse", "--show-toplevel"])?);
    let said = git(here, &["log", "-1", "--format=%H %cs"])?;
    let (commit, date) = said.split_once(' ')?;
    // The reflog of HEAD grows whenever HEAD comes to another commit.
    let branch = git(here, &["symbolic-ref", "--quiet", "HEAD"]);
    for name in ["HEAD", "logs/HEAD"].into_iter().chain(branch.as_deref()) {
        watch(&here.join(git(here, &["rev-parse", "--git-path", name])?));
    }
    for source in SOURCES {
        watch(&root.join(source));
    }
    let mut look = vec!["status", "--porcelain", "--untracked-files=normal", "--"];
    look.extend(SOURCES);
    let dirty = !git(&root, &look)?.is_empty();
    Some(shown(commit, dirty, Some(date)))
}

/// Runs this again when a file changes; one that is missing would count as changed for ever.
fn watch(path: &Path) {
    if path.exists() {
        println!("cargo::rerun-if-changed={}", path.display());
    }
}

/// What `git archive` has left in a tarball; in a checkout the file holds a placeholder.
fn archive(here: &Path) -> Option<String> {
    let text = std::fs::read_to_string(here.join("commit")).ok()?;
    let (commit, date) = text.trim().split_once(' ')?;
    let digits = commit.len() >= SHOWN && commit.bytes().all(|b| b.is_ascii_hexdigit());
    digits.then(|| shown(commit, false, Some(date)))
}

fn shown(commit: &str, dirty: bool, date: Option<&str>) -> String {
    let dirty = if dirty { "-dirty" } else { "" };
    let date = date.map(|date| format!(" {date}")).unwrap_or_default();
    format!("{}{dirty}{date}", &commit[..SHOWN])
}

/// What git answers; nothing if it is missing, refuses, or knows nothing here.
fn git(dir: &Path, arguments: &[&str]) -> Option<String> {
    // Looking must not write: a refreshed index would look like a change to others.
    let out =
        Command::new("git").arg("--no-optional-locks").args(arguments).current_dir(dir).output().ok()?;
    out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

/// The end of the year 9999.
const LAST_SECOND: u64 = 253_402_300_799;

/// The day in UTC of a count of seconds since 1970.
fn date(seconds: u64) -> String {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut days = seconds / 86_400;
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let mut month = 0;
    for length in [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        month += 1;
        if days < length {
            break;
        }
        days -= length;
    }
    format!("{year:04}-{month:02}-{:02}", days + 1)
}
