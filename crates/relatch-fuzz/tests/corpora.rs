//! Replays every kept input through the code that found it, on stable Rust and without a fuzzer.
//!
//! `fuzz/corpus/TARGET` holds what reaches far, and what once broke something (`regression-…`).

use std::fs;
use std::path::{Path, PathBuf};

use relatch_fuzz::TARGETS;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus")
}

/// The files of one target, in order.
fn files(target: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(corpus().join(target))
        .unwrap_or_else(|cause| panic!("there is no corpus for `{target}`: {cause}"))
        .map(|entry| entry.expect("a file").path())
        .collect();
    files.sort();
    files
}

#[test]
fn every_kept_input_holds() {
    let mut broken = Vec::new();
    for (name, target) in TARGETS {
        let files = files(name);
        assert!(files.len() >= 5, "the corpus of `{name}` has {} files", files.len());
        for file in files {
            let input = fs::read(&file).expect("a kept input");
            if std::panic::catch_unwind(|| target(&input)).is_err() {
                broken.push(file);
            }
        }
    }
    assert!(broken.is_empty(), "these inputs break what must hold: {broken:#?}");
}

#[test]
fn every_target_has_its_fuzz_program_and_every_corpus_its_target() {
    let known: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    for folder in fs::read_dir(corpus()).expect("the corpora").flatten() {
        let name = folder.file_name();
        assert!(known.iter().any(|known| name == **known), "nobody reads {}", folder.path().display());
    }
    for name in known {
        let program = corpus().join(format!("../fuzz_targets/{name}.rs"));
        let text =
            fs::read_to_string(&program).unwrap_or_else(|cause| panic!("{}: {cause}", program.display()));
        assert!(text.contains(&format!("run(\"{name}\"")), "{} runs another target", program.display());
    }
}

#[test]
fn the_corpora_stay_small() {
    let sizes = TARGETS
        .iter()
        .flat_map(|(name, _)| files(name))
        .map(|file| fs::metadata(file).map_or(0, |m| m.len()));
    let (count, bytes) = sizes.fold((0, 0), |(count, bytes), size| (count + 1, bytes + size));
    assert!(
        count <= 1_500 && bytes <= 1_000_000,
        "{count} files of {bytes} bytes: minimise them (`cargo fuzz cmin`)"
    );
}
