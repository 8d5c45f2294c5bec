//! What `relatch --version` says, and how the build script comes to know the commit.

#![expect(clippy::unwrap_used, reason = "a test that can not go on fails")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What git fills in when it packs a tarball.
const PLACEHOLDER: &str = "$Format:%H %cs$\n";

/// What `--version` says of the commit, from a build script that was run in `dir`.
fn built_in(script: &Path, dir: &Path, set: &[(&str, &str)]) -> Result<String, String> {
    let out = Command::new(script)
        .current_dir(dir)
        .env_remove("RELATCH_COMMIT")
        .env_remove("SOURCE_DATE_EPOCH")
        .env("CARGO_MANIFEST_DIR", dir)
        .envs(set.iter().copied())
        .output()
        .expect("the build script runs");
    if !out.status.success() {
        return Err(String::from_utf8_lossy(&out.stderr).into_owned());
    }
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let build = text.lines().find_map(|line| line.strip_prefix("cargo::rustc-env=RELATCH_BUILD="));
    Ok(build.expect("it says what it knows").to_owned())
}

/// The build script, built as cargo builds it.
fn build_script(into: &Path) -> PathBuf {
    let script = into.join("script");
    let out = Command::new(Path::new(env!("CARGO")).with_file_name("rustc"))
        .args(["--edition", "2024", "-o"])
        .arg(&script)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("build.rs"))
        .output()
        .expect("rustc runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    script
}

fn git(dir: &Path, arguments: &[&str]) -> String {
    let out: Output = Command::new("git")
        .current_dir(dir)
        .args(["-c", "user.name=a", "-c", "user.email=a@example.invalid"])
        .args(arguments)
        .env("GIT_COMMITTER_DATE", "2026-03-01T12:00:00Z")
        .output()
        .expect("git runs");
    assert!(out.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

/// A repository that has relatch's layout and one commit; gives the folder of the program.
fn repository(root: &Path) -> PathBuf {
    let here = root.join("crates/relatch");
    std::fs::create_dir_all(here.join("src")).unwrap();
    std::fs::create_dir_all(here.join("tests")).unwrap();
    std::fs::write(root.join(".gitattributes"), "crates/relatch/commit export-subst\n").unwrap();
    std::fs::write(here.join("commit"), PLACEHOLDER).unwrap();
    for file in ["build.rs", "src/main.rs", "tests/a.rs"] {
        std::fs::write(here.join(file), "").unwrap();
    }
    git(root, &["init", "--quiet"]);
    git(root, &["add", "."]);
    git(root, &["commit", "--quiet", "-m", "one"]);
    here
}

#[test]
fn the_long_version_says_the_commit_and_the_short_one_does_not() {
    let said = |flag| {
        let out = Command::new(env!("CARGO_BIN_EXE_relatch")).arg(flag).output().expect("relatch runs");
        assert!(out.status.success());
        String::from_utf8(out.stdout).expect("text")
    };
    let short = said("-V");
    assert_eq!(short, format!("relatch {}\n", env!("CARGO_PKG_VERSION")));
    let long = said("--version");
    let commit = long
        .strip_prefix(short.trim_end())
        .and_then(|rest| rest.strip_prefix(" (")?.strip_suffix(")\n"))
        .unwrap_or_else(|| panic!("{long:?} begins as {short:?} does"));
    assert!(commit == "commit unknown" || is_commit(commit), "{commit:?}");
}

/// Seven digits, `-dirty` or not, a day or none.
fn is_commit(text: &str) -> bool {
    let (commit, date) = text.split_once(' ').unwrap_or((text, "0000-00-00"));
    let digits = commit.strip_suffix("-dirty").unwrap_or(commit);
    digits.len() == 7
        && digits.bytes().all(|b| b.is_ascii_hexdigit())
        && date.len() == 10
        && date
            .bytes()
            .enumerate()
            .all(|(at, b)| if [4, 7].contains(&at) { b == b'-' } else { b.is_ascii_digit() })
}

#[test]
fn a_checkout_says_its_commit_and_whether_what_is_built_has_changed_since() {
    let dir = tempfile::tempdir().unwrap();
    let script = build_script(dir.path());
    let root = dir.path().join("checkout");
    let here = repository(&root);
    let commit = git(&root, &["rev-parse", "HEAD"])[..7].to_owned();
    assert_eq!(built_in(&script, &here, &[]).unwrap(), format!("{commit} 2026-03-01"));

    std::fs::write(here.join("tests/a.rs"), "// a test is not in the program\n").unwrap();
    assert_eq!(built_in(&script, &here, &[]).unwrap(), format!("{commit} 2026-03-01"));

    std::fs::write(here.join("src/new.rs"), "").unwrap();
    assert_eq!(built_in(&script, &here, &[]).unwrap(), format!("{commit}-dirty 2026-03-01"));
    git(&root, &["add", "."]);
    git(&root, &["commit", "--quiet", "-m", "two"]);
    let second = git(&root, &["rev-parse", "HEAD"])[..7].to_owned();
    assert_ne!(second, commit);
    assert_eq!(built_in(&script, &here, &[]).unwrap(), format!("{second} 2026-03-01"));
}

#[test]
fn the_file_that_a_tarball_has_is_marked_to_be_filled_in() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(here.join("commit")).unwrap();
    // In a tarball it is filled in already.
    assert!(
        text == PLACEHOLDER
            || text.trim().len() == "0123456789abcdef0123456789abcdef01234567 2026-01-01".len()
    );
    let attributes = std::fs::read_to_string(here.join("../../.gitattributes")).unwrap();
    assert!(attributes.lines().any(|line| line == "crates/relatch/commit export-subst"), "{attributes}");
}

#[test]
fn a_tarball_knows_its_commit_even_inside_a_foreign_repository() {
    let dir = tempfile::tempdir().unwrap();
    let script = build_script(dir.path());
    let root = dir.path().join("checkout");
    repository(&root);
    let commit = git(&root, &["rev-parse", "HEAD"])[..7].to_owned();

    let foreign = dir.path().join("foreign");
    let unpacked = foreign.join("relatch");
    std::fs::create_dir_all(&unpacked).unwrap();
    git(&foreign, &["init", "--quiet"]);
    git(&foreign, &["commit", "--quiet", "--allow-empty", "-m", "not relatch"]);
    let tar = dir.path().join("relatch.tar");
    git(&root, &["archive", "-o", tar.to_str().unwrap(), "HEAD"]);
    let done = Command::new("tar").arg("-xf").arg(&tar).arg("-C").arg(&unpacked).status().expect("tar runs");
    assert!(done.success());
    let here = unpacked.join("crates/relatch");
    assert_eq!(built_in(&script, &here, &[]).unwrap(), format!("{commit} 2026-03-01"));
    // Without git on the machine it is the same.
    assert_eq!(built_in(&script, &here, &[("PATH", "")]).unwrap(), format!("{commit} 2026-03-01"));

    std::fs::remove_file(here.join("commit")).unwrap();
    assert_eq!(built_in(&script, &here, &[]).unwrap(), "commit unknown");
}

#[test]
fn whoever_builds_may_say_the_commit_and_nonsense_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let script = build_script(dir.path());
    let said = |set: &[(&str, &str)]| built_in(&script, dir.path(), set);
    let full = "0123456789abcdef0123456789abcdef01234567";
    assert_eq!(said(&[("RELATCH_COMMIT", full)]).unwrap(), "0123456");
    for (epoch, day) in [
        ("0", "1970-01-01"),
        ("951782400", "2000-02-29"),
        ("1709251199", "2024-02-29"),
        ("1798761599", "2026-12-31"),
        ("4107542400", "2100-03-01"),
    ] {
        assert_eq!(
            said(&[("RELATCH_COMMIT", "abc1234-dirty"), ("SOURCE_DATE_EPOCH", epoch)]).unwrap(),
            format!("abc1234-dirty {day}")
        );
    }
    assert_eq!(said(&[("RELATCH_COMMIT", "")]).unwrap(), "commit unknown");
    for nonsense in ["v0.1.0", "abc", "abc1234-clean", "ünïcode"] {
        let refused = said(&[("RELATCH_COMMIT", nonsense)]).unwrap_err();
        assert!(refused.contains("`RELATCH_COMMIT`") && refused.contains(nonsense), "{refused}");
    }
    let refused = said(&[("RELATCH_COMMIT", "abc1234"), ("SOURCE_DATE_EPOCH", "today")]).unwrap_err();
    assert!(refused.contains("SOURCE_DATE_EPOCH"), "{refused}");
}
