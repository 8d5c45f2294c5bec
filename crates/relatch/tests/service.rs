//! `relatch service` in a home of its own, with a service manager that only writes down what it is told.

#![expect(clippy::unwrap_used, reason = "a test that can not go on fails")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    /// Whose service manager does what it is told, or nothing at all.
    fn with(manager_works: bool) -> Home {
        let home = Home { dir: tempfile::tempdir().unwrap() };
        let bin = home.path("bin");
        std::fs::create_dir_all(&bin).unwrap();
        let refuses = if manager_works { "" } else { "echo 'Failed to connect to bus' >&2; exit 1" };
        for name in ["systemctl", "launchctl"] {
            let script =
                format!("#!/bin/sh\necho \"{name} $*\" >> '{}'\n{refuses}\n", home.path("told").display());
            std::fs::write(bin.join(name), script).unwrap();
            std::fs::set_permissions(bin.join(name), std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        home
    }

    fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    fn unit(&self) -> PathBuf {
        self.path(".config/systemd/user/relatch.service")
    }

    fn typed(&self, line: &[&str]) -> (i32, String, String) {
        let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_relatch"))
            .arg("service")
            .args(line)
            .env_clear()
            .env("HOME", self.dir.path())
            .env("PATH", format!("{}:/usr/bin:/bin", self.path("bin").display()))
            .output()
            .unwrap();
        (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
    }

    /// What the service manager was told since the last time.
    fn told(&self) -> Vec<String> {
        let told = std::fs::read_to_string(self.path("told")).unwrap_or_default();
        let _ = std::fs::remove_file(self.path("told"));
        told.lines().map(str::to_owned).collect()
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

const GMAIL: &str = "gmail=http://127.0.0.1:8761/mcp";

#[test]
fn a_service_is_installed_looked_at_and_taken_away_again() {
    let home = Home::with(true);
    let (code, out, err) = home.typed(&["install", "--manager", "systemd", "--", GMAIL]);
    assert_eq!(code, 0, "{err}");
    assert!(err.starts_with(&format!("Written: {}\n", home.unit().display())), "{err}");
    assert!(err.contains("loginctl enable-linger"), "{err}");
    assert!(out.contains("claude mcp add --transport http gmail http://127.0.0.1:7332/gmail/mcp"), "{out}");
    let token = read(&home.path(".local/state/relatch/token"));
    assert!(out.contains(&format!("Relatch-Token: {}", token.trim())), "{out}");
    assert!(!read(&home.unit()).contains(token.trim()));
    assert!(
        read(&home.unit()).contains(&format!("ExecStart={} serve {GMAIL}\n", env!("CARGO_BIN_EXE_relatch")))
    );
    assert_eq!(
        home.told(),
        ["systemctl --user daemon-reload", "systemctl --user enable --now relatch.service"]
    );

    let (code, out, _) = home.typed(&["status", "--manager", "systemd"]);
    assert_eq!((code, home.told()), (0, vec!["systemctl --user is-active relatch.service".to_owned()]));
    assert_eq!(out, format!("✓ runs\n  {}  as relatch wrote it\n", home.unit().display()));

    // Other arguments, and nobody has touched the unit: it is written anew.
    let (code, ..) =
        home.typed(&["install", "--manager", "systemd", "--no-start", "--", GMAIL, "--hold", "5m"]);
    assert_eq!((code, home.told().len()), (0, 0));
    assert!(read(&home.unit()).contains("--hold 5m\n"));

    let (code, _, err) = home.typed(&["uninstall", "--manager", "systemd"]);
    assert_eq!((code, err), (0, format!("Removed: {}\n", home.unit().display())));
    assert_eq!(
        home.told(),
        ["systemctl --user disable --now relatch.service", "systemctl --user daemon-reload"]
    );
    assert!(!home.unit().exists());
    let (code, out, _) = home.typed(&["status", "--manager", "systemd"]);
    assert_eq!((code, out.as_str()), (1, "not installed\n"));
    let (code, _, err) = home.typed(&["uninstall", "--manager", "systemd"]);
    assert_eq!((code, err.as_str()), (0, "No service of relatch's is installed\n"));
}

#[test]
fn a_unit_that_somebody_else_wrote_or_changed_is_left_as_it_is() {
    let home = Home::with(true);
    let install = ["install", "--manager", "systemd", "--", GMAIL];
    std::fs::create_dir_all(home.unit().parent().unwrap()).unwrap();
    std::fs::write(home.unit(), "[Service]\nExecStart=/bin/true\n").unwrap();
    let (code, _, err) = home.typed(&install);
    assert_eq!(code, 4);
    assert!(err.contains("is there already, and was not written by relatch"), "{err}");
    assert_eq!(read(&home.unit()), "[Service]\nExecStart=/bin/true\n");
    let (code, _, err) = home.typed(&["uninstall", "--manager", "systemd"]);
    assert_eq!(code, 4);
    assert!(err.contains("was not written by relatch"), "{err}");
    assert!(home.told().is_empty() && home.unit().exists());

    let (code, ..) = home.typed(&["install", "--manager", "systemd", "--replace", "--", GMAIL]);
    assert_eq!(code, 0);
    let kept = home.unit().with_file_name("relatch.service.before-relatch");
    assert_eq!(read(&kept), "[Service]\nExecStart=/bin/true\n");

    let changed = read(&home.unit()).replace("RestartSec=1", "RestartSec=9");
    std::fs::write(home.unit(), &changed).unwrap();
    let (code, _, err) = home.typed(&install);
    assert_eq!(code, 4);
    assert!(err.contains("was changed after relatch had written it") && err.contains("--replace"), "{err}");
    assert_eq!(read(&home.unit()), changed);
    let (code, ..) = home.typed(&["uninstall", "--manager", "systemd", "--force"]);
    assert_eq!((code, home.unit().exists()), (0, false));
}

#[test]
fn a_service_manager_that_cannot_be_reached_is_named_and_the_unit_stays() {
    let home = Home::with(false);
    let (code, _, err) = home.typed(&["install", "--manager", "systemd", "--", GMAIL]);
    assert_eq!(code, 1);
    assert!(
        err.contains(
            "error: `systemctl --user daemon-reload` did not work\n  cause: Failed to connect to bus"
        ),
        "{err}"
    );
    assert!(
        err.contains("hint: The unit is written; where a service manager runs, start it with `systemctl --user daemon-reload && "),
        "{err}"
    );
    assert!(home.unit().exists());
    let (code, out, _) = home.typed(&["status", "--manager", "systemd"]);
    assert_eq!(code, 1);
    assert!(out.starts_with("✗ does not run\n"), "{out}");
    let (code, ..) = home.typed(&["uninstall", "--manager", "systemd"]);
    assert_eq!((code, home.unit().exists()), (0, false));
}

#[test]
fn what_could_not_start_is_not_installed_and_a_dry_run_changes_nothing() {
    let home = Home::with(true);
    for (line, words) in [
        (&["--", "nonsense"][..], "`nonsense` is no address"),
        (&["--", GMAIL, "--hold", "soon"], "can't be started with these arguments"),
        (&["--", GMAIL, "--header", "Authorization: Bearer s3cret"], "for every program of yours to read"),
        (&["--socket", "--manager", "launchd", "--", GMAIL], "`--socket` is there for systemd only"),
    ] {
        let manager = if line.contains(&"launchd") { &[][..] } else { &["--manager", "systemd"] };
        let (code, _, err) = home.typed(&[&["install"], manager, line].concat());
        assert_eq!(code, 2, "{line:?}");
        assert!(err.contains(words) && !err.contains("s3cret"), "{err}");
    }
    let (code, out, _) =
        home.typed(&["install", "--dry-run", "--socket", "--manager", "systemd", "--", GMAIL]);
    assert_eq!(code, 0);
    assert!(out.contains("Type=notify\n") && out.contains("ListenStream=127.0.0.1:7332\n"), "{out}");
    assert!(home.told().is_empty() && !home.path(".config").exists());
}
