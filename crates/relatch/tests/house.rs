//! The invariants of ARCHITECTURE.md that no compiler holds.

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The names of every crate that `package` is built from.
fn tree_of(package: &str) -> Vec<String> {
    let out = Command::new(env!("CARGO"))
        .current_dir(root())
        .args([
            "tree",
            "--offline",
            "--locked",
            "-p",
            package,
            "-e",
            "normal",
            "--prefix",
            "none",
            "-f",
            "{p}",
        ])
        .output()
        .expect("cargo runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8_lossy(&out.stdout);
    text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

#[test]
fn wire_and_core_are_built_without_anything_that_does_io() {
    for package in ["relatch-wire", "relatch-core"] {
        let tree = tree_of(package);
        assert!(tree.iter().any(|name| name == "serde_json"), "the tree of {package} was read: {tree:?}");
        for io in ["tokio", "hyper", "mio", "socket2", "rustls", "rusqlite", "async-std", "reqwest", "jiff"] {
            assert!(!tree.iter().any(|name| name == io), "{package} is built with {io}");
        }
    }
}

#[test]
fn dependencies_point_one_way() {
    let forbidden: [(&str, &[&str]); 7] = [
        ("relatch-wire", &["relatch-core", "relatch-store", "relatch-net", "relatch-admin", "relatch"]),
        ("relatch-core", &["relatch-store", "relatch-net", "relatch-admin", "relatch"]),
        ("relatch-store", &["relatch-net", "relatch-admin", "relatch"]),
        ("relatch-admin", &["relatch-net", "relatch"]),
        ("relatch-net", &["relatch-admin", "relatch"]),
        ("relatch-sim", &["relatch-store", "relatch-net", "relatch-admin", "relatch"]),
        // Nothing that is there to break the core is in the program.
        ("relatch", &["relatch-sim"]),
    ];
    for (package, others) in forbidden {
        let tree = tree_of(package);
        for other in others {
            assert!(!tree[1..].iter().any(|name| name == other), "{package} depends on {other}");
        }
    }
}

#[test]
fn nothing_that_is_handed_out_is_built_with_what_only_tests_need() {
    let tree = tree_of("relatch");
    assert!(tree.iter().any(|name| name == "relatch-core"), "the tree was read: {tree:?}");
    assert!(!tree.iter().any(|name| name == "relatch-fuzz"), "relatch is built with its fuzz targets");
}

/// The README's first command names no program, so the workspace has to say which one is meant.
#[test]
fn cargo_run_means_the_program_and_not_what_measures_it() {
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--no-deps", "--format-version", "1"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    let metadata: serde_json::Value = serde_json::from_slice(&out.stdout).expect("cargo says JSON");
    let packages = metadata["packages"].as_array().expect("the workspace has packages");
    let runs: Vec<_> = packages.iter().filter_map(|package| package["default_run"].as_str()).collect();
    assert_eq!(runs, ["relatch"]);
}

#[test]
fn only_the_core_asks_for_the_verdict() {
    for place in ["relatch-net", "relatch-admin", "relatch-store", "relatch"] {
        for file in rust_files(&root().join("crates").join(place).join("src")) {
            let text = std::fs::read_to_string(&file).expect("a source file");
            // The verdict lives in `relatch_core::exchange`, and nothing else that the shell could need does.
            assert!(
                !text.contains("relatch_core::exchange"),
                "{} decides about sending again",
                file.display()
            );
        }
    }
}

#[test]
fn only_render_prints_and_only_the_screen_of_the_live_view_draws() {
    for file in rust_files(&root().join("crates/relatch/src")) {
        let path = file.to_string_lossy().replace('\\', "/");
        let text = std::fs::read_to_string(&file).expect("a source file");
        let render = path.contains("/render/");
        let prints = ["println!(", "print!(", "eprintln!(", "eprint!("].iter().any(|p| text.contains(p));
        assert!(!prints || render, "{path} prints");
        // To ask what they are writes nothing, and a stdio keeper's client gets its messages there.
        let text = text.replace("io::stdout().is_terminal()", "").replace("io::stderr().is_terminal()", "");
        let text = text.replace("holders::name(&std::io::stdout())", "");
        let text =
            if path.ends_with("/src/keeper.rs") { text.replace("tokio::io::stdout()", "") } else { text };
        let draws = ["io::stdout()", "io::stderr()", "CrosstermBackend", "execute!(", "queue!("];
        let draws = draws.iter().any(|place| text.contains(place));
        assert!(!draws || render || path.ends_with("/tui/screen.rs"), "{path} writes to the terminal");
    }
}

#[test]
fn every_test_that_the_threat_model_names_exists() {
    let text = std::fs::read_to_string(root().join("SECURITY.md")).expect("SECURITY.md");
    let named: Vec<&str> =
        text.split('`').skip(1).step_by(2).filter(|code| code.matches('_').count() > 1).collect();
    assert!(named.len() > 25, "its names were read: {named:?}");
    let sources: String = rust_files(&root().join("crates"))
        .iter()
        .map(|file| std::fs::read_to_string(file).expect("a source file"))
        .collect();
    for name in named {
        assert!(
            sources.contains(&format!("fn {name}(")),
            "SECURITY.md names {name}, and no such test is there"
        );
    }
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a source folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found
}
