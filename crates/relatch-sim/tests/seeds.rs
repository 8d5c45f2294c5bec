//! Thousands of worlds, each from one seed: whatever happens in them, every promise holds.
//!
//! `RELATCH_SIM_SEED=n` plays one and prints its transcript; `RELATCH_SIM_SEEDS=n` plays so many.

#![expect(clippy::print_stdout, reason = "a transcript is for reading")]

use std::collections::BTreeMap;

use relatch_sim::{Counts, Law, Options, Played, Telling, play};

/// So many in every run.
const SEEDS: u64 = 1_000;
/// Lines of a transcript that are shown of a world that went wrong.
const SHOWN: usize = 80;

fn world(seed: u64, telling: Telling) -> Played {
    play(Options { seed, fault: None, telling })
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|n| n.parse().ok())
}

/// Plays these seeds on all cores; those that go wrong, by the promise that is broken, and what there was to do.
fn play_all(seeds: u64) -> (BTreeMap<Law, Vec<u64>>, Counts) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let play_part = |core: u64| {
        let (mut wrong, mut sum): (BTreeMap<Law, Vec<u64>>, _) = (BTreeMap::new(), Counts::default());
        for seed in (core..seeds).step_by(cores as usize) {
            let played = world(seed, Telling::Nothing);
            sum.add(&played.counts);
            if let Some(breach) = played.breach {
                wrong.entry(breach.law).or_default().push(seed);
            }
        }
        (wrong, sum)
    };
    let parts = std::thread::scope(|scope| {
        let parts: Vec<_> = (0..cores).map(|core| scope.spawn(move || play_part(core))).collect();
        parts.into_iter().map(|part| part.join().expect("a panic in a world is a breach")).collect::<Vec<_>>()
    });
    let (mut wrong, mut sum): (BTreeMap<Law, Vec<u64>>, _) = (BTreeMap::new(), Counts::default());
    for (part, counts) in parts {
        part.into_iter().for_each(|(law, seeds)| wrong.entry(law).or_default().extend(seeds));
        sum.add(&counts);
    }
    wrong.values_mut().for_each(|seeds| seeds.sort_unstable());
    (wrong, sum)
}

/// Shows how a seed came to its breach.
fn show(seed: u64, lines: usize) {
    let played = world(seed, Telling::Kept);
    let all: Vec<&str> = played.transcript.lines().collect();
    println!("{}", all[0]);
    println!("…");
    for line in &all[all.len().saturating_sub(lines).max(1)..] {
        println!("{line}");
    }
    match played.breach {
        Some(breach) => panic!("{breach}\nRELATCH_SIM_SEED={seed} plays this again and prints all of it"),
        None => println!("seed {seed} holds: {:?}", played.counts),
    }
}

#[test]
fn whatever_happens_every_promise_holds_and_a_good_world_heals() {
    if let Some(seed) = number("RELATCH_SIM_SEED") {
        return show(seed, usize::MAX);
    }
    let (wrong, counts) = play_all(number("RELATCH_SIM_SEEDS").unwrap_or(SEEDS));
    for (law, seeds) in &wrong {
        println!("{law:?} is broken by {} seeds: {:?}", seeds.len(), &seeds[..seeds.len().min(8)]);
    }
    if let Some(seed) = wrong.values().flatten().min() {
        show(*seed, SHOWN);
    }
    println!("{counts:?}");
    // A world in which nothing happens shows nothing.
    assert!(counts.relatched > 0 && counts.resent > 0 && counts.given_back > 0 && counts.unknown > 0);
    assert!(counts.copied > 0);
}

#[test]
fn the_same_seed_tells_the_same_story_line_by_line() {
    for seed in 0..20 {
        let (one, other) = (world(seed, Telling::Kept), world(seed, Telling::Kept));
        assert!(one.transcript.lines().count() > 40, "seed {seed} tells a story");
        assert_eq!(one, other, "seed {seed}");
    }
    assert_ne!(world(1, Telling::Kept).transcript, world(2, Telling::Kept).transcript);
}
