//! Which lie is noticed by whom.

use std::time::Duration;

use super::{
    Artifacts, Blobs, Done, Load, Nodes, Options, Presence, Refs, Workload, ledger,
    liar::{Liars, Lie},
};
use crate::{
    history::Operation,
    invariants::durable,
    oracle::{Verdict, blobs, linear},
};

const LIMIT: Duration = Duration::from_secs(120);

/// Runs of a lie until it is noticed: some are seldom told.
const RUNS: u64 = 16;

/// Runs a workload against nodes that lie; what is wrong with it, if anything.
fn found<W: Workload>(
    lie: Lie,
    seed: u64,
    workload: W,
    operations: usize,
    judge: impl FnOnce(&[Operation]) -> Verdict,
) -> Option<String> {
    let liars = Liars::start(lie);
    let options = Options {
        per_second: 2_000.0,
        ..Options::new(Nodes::new(liars.urls.clone()), seed)
    };
    let load = Load::start(workload, options).unwrap();
    // A breach ends the wait, and is found again below.
    let _ = load.reach(operations, LIMIT);
    let done: Done = load.finish().unwrap();
    let judged = judge(&done.history).insist();
    let depth = durable::Depth {
        seed,
        parts_every: 4,
        patience: Duration::ZERO,
    };
    let names = ledger::blobs(&done.ledger.entries());
    let durable = durable::check(&liars.urls[..1], &names, depth).map(drop);
    let wrong = [done.insist(), judged, durable];
    let texts = wrong.iter().filter_map(|wrong| wrong.as_ref().err());
    texts
        .map(|error| format!("{error:#}"))
        .reduce(|a, b| a + "\n" + &b)
}

fn check(lie: Lie, says: &str, run: impl Fn(u64) -> Option<String>) {
    let mut told = Vec::new();
    for seed in 0..RUNS {
        let text = run(seed).unwrap_or_default();
        if text.contains(says) {
            return;
        }
        told.push(text);
    }
    panic!("{lie:?} is told as {told:?}");
}

#[test]
fn honest_nodes_are_not_accused() {
    for lie in [Lie::None, Lie::Unsure] {
        let exact = |history: &[Operation]| blobs::check(history, lie == Lie::None, None);
        let artifacts = Artifacts { keys: 5, pulls: 50 };
        for found in [
            found(lie, 1, Refs::new(5, 0.5), 300, linear::check),
            found(lie, 2, artifacts, 80, linear::check),
            found(lie, 3, Blobs::new(200_000), 300, exact),
            found(lie, 4, Presence::new(50, None), 2_000, exact),
        ] {
            assert_eq!(found, None, "{lie:?}");
        }
    }
}

/// What makes uploads worth judging is really done.
#[test]
fn uploads_are_cut_resumed_and_forged() {
    let liars = Liars::start(Lie::None);
    let options = Options {
        per_second: 2_000.0,
        ..Options::new(Nodes::new(liars.urls.clone()), 5)
    };
    let load = Load::start(Blobs::new(3_000_000), options).unwrap();
    load.reach(400, LIMIT).unwrap();
    let counts = load.finish().unwrap().counts;
    for what in ["cut", "resumed", "forged"] {
        assert!(counts.contains_key(what), "nothing was {what}: {counts:?}");
    }
}

#[test]
fn lies_about_refs_are_noticed() {
    for (lie, says) in [
        (Lie::OldRefs, "have a violation"),
        (Lie::TornUris, "have a violation"),
        (Lie::Misses, "have a violation"),
        (Lie::HappensAnyway, "that nobody wrote"),
        (Lie::MixesUp, "names the blob"),
        (Lie::WrongByte, "other bytes"),
    ] {
        check(lie, says, |seed| {
            found(lie, seed, Refs::new(5, 0.5), 300, linear::check)
        });
    }
}

#[test]
fn lies_about_artifacts_are_noticed() {
    for (lie, says) in [
        (Lie::Forgets, "is not whole"),
        (Lie::AllPresent, "absent"),
        (Lie::WrongByte, "other bytes"),
        (Lie::TornUris, "have a violation"),
    ] {
        let artifacts = Artifacts { keys: 3, pulls: 60 };
        check(lie, says, |seed| {
            found(lie, seed, artifacts, 80, linear::check)
        });
    }
}

#[test]
fn lies_about_blobs_are_noticed() {
    for (lie, says) in [
        (Lie::TakesForgeries, "took"),
        (Lie::WrongByte, "other bytes"),
        (Lie::WrongPart, "other bytes than"),
        (Lie::Forgets, "said to be absent"),
        (Lie::AllPresent, "present"),
        (Lie::KeepsCuts, "other bytes"),
    ] {
        let judge = |history: &[Operation]| blobs::check(history, true, None);
        // Cuts of several messages: a single one may not arrive at all.
        let max_bytes = match lie {
            Lie::KeepsCuts => 3_000_000,
            _ => 500_000,
        };
        check(lie, says, |seed| {
            found(lie, seed, Blobs::new(max_bytes), 200, judge)
        });
    }
}

#[test]
fn lies_about_presence_are_noticed() {
    for (lie, says) in [
        (Lie::AllPresent, "present, node"),
        (Lie::Forgets, "said to be absent"),
        (Lie::WrongByte, "other bytes"),
    ] {
        let judge = |history: &[Operation]| blobs::check(history, true, None);
        check(lie, says, |seed| {
            found(lie, seed, Presence::new(50, None), 2_000, judge)
        });
    }
}
