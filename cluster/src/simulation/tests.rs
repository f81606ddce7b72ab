//! Runs by seed.
#![expect(clippy::print_stderr, reason = "which seeds fail, and what happened")]

use std::{
    fmt::Write,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::{
    Outcome, broken_connections, older_copy, power_cuts, run,
    sight::{leader_in_the_way, minority},
};
use crate::planted;

/// How many seeds, from 0 on, or from one to before another: `1000..2000`.
const SEEDS_VARIABLE: &str = "WEIR_SEEDS";
/// One seed, whose trace is printed if it fails.
const SEED_VARIABLE: &str = "WEIR_SEED";
/// A file for the whole trace of that seed, with every message.
const TRACE_VARIABLE: &str = "WEIR_TRACE";
/// What everyday tests have time for.
const SEEDS: u64 = 200;
/// Seeds that once found something, run besides.
const KEPT: &[u64] = &[802, 998, 2567, 3698];
/// How many seeds are run twice.
const SAME: u64 = 5;
/// Lines of the trace of one seed that are printed.
const LINES: usize = 400;
/// One wrong entry makes all after it wrong: the first ones say enough.
const VIOLATIONS: usize = 8;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is no number: {text}")),
    )
}

/// The seeds that [`SEEDS_VARIABLE`] names; without it those of every day.
fn seeds() -> Vec<u64> {
    let Ok(text) = std::env::var(SEEDS_VARIABLE) else {
        return (0..SEEDS).chain(KEPT.iter().copied()).collect();
    };
    match text.split_once("..").map(|(a, b)| (a.parse(), b.parse())) {
        Some((Ok(from), Ok(to))) => (from..to).collect(),
        _ => (0..number(SEEDS_VARIABLE).unwrap_or(SEEDS)).collect(),
    }
}

fn complaint(seed: u64, outcome: &Outcome) -> Option<String> {
    if outcome.violations.is_empty() {
        return None;
    }
    let mut text = format!(
        "seed {seed}; again: {SEED_VARIABLE}={seed} cargo test -p weir-cluster --lib simulation::tests::seeds\n"
    );
    for violation in outcome.violations.iter().take(VIOLATIONS) {
        let _ = writeln!(text, "  {violation}");
    }
    Some(text)
}

/// P1 to P4, P8 and P9 under faults of network, power and membership.
#[test]
fn seeds_of_faults_break_no_promise() {
    if let Some(seed) = number(SEED_VARIABLE) {
        let outcome = run(seed);
        if let Some(file) = std::env::var_os(TRACE_VARIABLE) {
            std::fs::write(file, &outcome.trace).unwrap();
        }
        let events: Vec<_> = outcome
            .trace
            .lines()
            .filter(|line| !line.contains(" > "))
            .collect();
        let from = events.len().saturating_sub(LINES);
        eprintln!("{}", events[from..].join("\n"));
        eprintln!("{:?} of {:?}", outcome.counts, outcome.simulated);
        assert_eq!(complaint(seed, &outcome), None);
        return;
    }
    let seeds = seeds();
    let begun = Instant::now();
    let (next, failed) = (AtomicUsize::new(0), std::sync::Mutex::new(Vec::new()));
    let total = std::sync::Mutex::new((Duration::ZERO, 0, 0, 0, 0));
    // One that finds what is planted is enough.
    let is_planted = std::env::var_os(planted::VARIABLE).is_some();
    let work = || loop {
        let Some(&seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) else {
            return;
        };
        if is_planted && !failed.lock().unwrap().is_empty() {
            return;
        }
        let outcome = run(seed);
        let mut total = total.lock().unwrap();
        total.0 += outcome.simulated;
        total.1 += outcome.counts.messages;
        total.2 += outcome.counts.answers;
        total.3 += outcome.counts.faults;
        total.4 += outcome.counts.refs;
        if let Some(text) = complaint(seed, &outcome) {
            eprintln!("{text}");
            failed.lock().unwrap().push(seed);
        }
    };
    let threads = thread::available_parallelism().map_or(2, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let (simulated, messages, answers, faults, refs) = total.into_inner().unwrap();
    let took = begun.elapsed();
    let seeds = seeds.len() as u64;
    eprintln!(
        "{seeds} seeds: {:.0} s simulated in {:.1} s ({:.0} times), {messages} messages, \
         {answers} answers, {refs} of refs judged, {faults} faults",
        simulated.as_secs_f64(),
        took.as_secs_f64(),
        simulated.as_secs_f64() / took.as_secs_f64(),
    );
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "seeds that fail: {failed:?}");
    // A run in which nothing happens shows nothing.
    assert!(
        answers > 20 * seeds && faults > seeds,
        "too little happened"
    );
}

/// Insists that a script breaks no promise with any of these seeds.
fn all_hold(seeds: std::ops::Range<u64>, script: fn(u64) -> Outcome) {
    for seed in seeds {
        let violations = script(seed).violations;
        assert!(violations.is_empty(), "seed {seed}: {violations:#?}");
    }
}

/// P3: what was acknowledged outlives a power cut of all nodes at once, also if
/// the leader had not synced it itself.
#[test]
fn power_cuts_of_all_nodes_lose_nothing() {
    all_hold(0..3, power_cuts);
}

/// P8: what can be reached is read, although what led there before is dead.
#[test]
fn broken_connections_cost_no_read() {
    all_hold(0..3, broken_connections);
}

/// P9: a majority knows of each start; a copy from before it waits to be heard.
#[test]
fn an_older_copy_never_takes_part() {
    all_hold(0..2, older_copy);
}

/// P12: a leader is told of where something can be agreed, and nowhere else.
#[test]
fn a_minority_tells_of_no_leader() {
    all_hold(0..4, minority);
}

/// P4: a leader that no majority answers does not keep others from being elected.
#[test]
fn a_leader_that_hears_nobody_makes_way() {
    all_hold(0..4, leader_in_the_way);
}

/// What is not found may not be looked for.
#[test]
#[cfg(debug_assertions)]
fn planted_bugs_are_caught() {
    let seeds = "simulation::tests::seeds_of_faults_break_no_promise";
    planted::run::each_is_caught_by_seeds(seeds, SEEDS_VARIABLE);
}

/// Without this no failure could be looked at again.
#[test]
fn the_same_seed_gives_the_same_run() {
    let twice = |seed| {
        let (once, again) = (run(seed), run(seed));
        let lines = once.trace.lines().zip(again.trace.lines()).enumerate();
        for (line, (a, b)) in lines {
            assert_eq!(a, b, "seed {seed}, line {line}");
        }
        assert_eq!(once.trace.len(), again.trace.len(), "seed {seed}");
        assert!(once.trace.lines().count() > 1_000, "seed {seed} is no run");
    };
    thread::scope(|scope| {
        for seed in 1_000..1_000 + SAME {
            scope.spawn(move || twice(seed));
        }
    });
}
