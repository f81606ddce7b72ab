use std::{
    io::{self, Write as _},
    time::Instant,
};

use super::*;
use crate::{
    oracle::simulated::{Shape, corrupt, delete, hit, is_possible, miss, simulate, write},
    seeded::Words,
};

fn judge_all(history: &[Operation], good: bool, what: &str) {
    let verdict = check(history);
    assert_eq!(verdict.insist().is_ok(), good, "{what}: {verdict:?}");
    // The search comes to the same, whatever sorting says.
    let mut sorted = telling(history);
    sorted.sort_by_key(|op| op.start);
    let searched = frontier::search(&sorted);
    assert_eq!(
        searched == frontier::Outcome::Possible,
        good,
        "{what}: {searched:?}"
    );
    assert_eq!(is_possible(history), good, "{what}: by hand");
}

/// Each is a way in which a cluster has gone wrong before.
#[test]
fn bad_histories_are_refused() {
    let two_writes = [write(1, 0, 9), write(2, 10, 19)];
    let with = |more: &[Operation]| [&two_writes, more].concat();
    for (what, history) in [
        ("a stale read", with(&[hit(1, 20, 29)])),
        ("a lost write", with(&[hit(2, 20, 29), hit(1, 30, 39)])),
        ("a value from nowhere", with(&[hit(3, 20, 29)])),
        (
            "a read from the future",
            vec![hit(1, 0, 9), write(1, 10, 19)],
        ),
        (
            "two concurrent writes, seen in both orders by two readers",
            vec![
                write(1, 0, 100),
                write(2, 0, 100),
                hit(1, 10, 19),
                hit(2, 20, 29),
                hit(2, 11, 18),
                hit(1, 21, 28),
            ],
        ),
        (
            "a value that comes back after it was deleted",
            vec![write(1, 0, 9), delete(10, 19), hit(1, 20, 29)],
        ),
        (
            "a value that comes back after it was seen deleted",
            vec![write(1, 0, 9), delete(10, 40), miss(15, 19), hit(1, 20, 29)],
        ),
        (
            "a miss after an acknowledged write",
            vec![write(1, 0, 9), miss(10, 19)],
        ),
        (
            "a miss after a hit, while the write still runs",
            vec![write(1, 0, 99), hit(1, 10, 19), miss(20, 29)],
        ),
        (
            "a write of unknown outcome that takes effect twice",
            vec![
                write(1, 0, 9).unknown(),
                hit(1, 10, 19),
                write(2, 20, 29),
                hit(2, 30, 39),
                hit(1, 40, 49),
            ],
        ),
        (
            "a write of unknown outcome, seen before it began",
            vec![hit(1, 0, 9), write(1, 10, 19).unknown()],
        ),
        (
            "a refused write that is seen",
            vec![write(1, 0, 9).failed(), hit(1, 10, 19)],
        ),
        (
            "the URIs of one push changed one after the other",
            vec![
                write(1, 0, 9),
                write(2, 10, 60),
                hit(2, 20, 29).uri(0),
                hit(1, 30, 39).uri(1),
            ],
        ),
        (
            "two leaders, each with readers of its own",
            vec![
                write(1, 0, 9),
                write(2, 0, 9),
                hit(1, 10, 19),
                hit(2, 20, 29),
                hit(1, 30, 39),
            ],
        ),
        (
            "an acknowledged write that nobody ever sees",
            vec![
                write(1, 0, 9),
                write(2, 10, 19),
                hit(1, 25, 29),
                hit(1, 35, 39),
            ],
        ),
        (
            "a miss after an unknown write was seen",
            vec![write(1, 0, 9).unknown(), hit(1, 20, 29), miss(30, 39)],
        ),
    ] {
        judge_all(&history, false, what);
    }
}

#[test]
fn good_histories_are_left_alone() {
    for (what, history) in [
        ("nothing", vec![]),
        ("only misses", vec![miss(0, 9), miss(10, 19)]),
        (
            "a read of either of two concurrent writes",
            vec![write(1, 0, 20), write(2, 0, 20), hit(2, 30, 39)],
        ),
        (
            "a miss and a hit while a write runs",
            vec![
                write(1, 10, 50),
                miss(15, 20),
                hit(1, 15, 20),
                hit(1, 30, 40),
            ],
        ),
        (
            "an unknown write that takes effect late",
            vec![
                write(1, 0, 9).unknown(),
                miss(20, 29),
                write(2, 30, 39),
                hit(2, 40, 49),
                hit(1, 50, 59),
            ],
        ),
        (
            "an unknown write that never takes effect",
            vec![write(1, 0, 9), write(2, 10, 19).unknown(), hit(1, 20, 29)],
        ),
        (
            "times that are equal are concurrent",
            vec![write(1, 0, 10), miss(10, 20)],
        ),
        (
            "a delete of unknown outcome",
            vec![
                write(1, 0, 9),
                delete(10, 19).unknown(),
                hit(1, 20, 29),
                miss(30, 39),
            ],
        ),
        (
            "an unanswered read",
            vec![write(1, 0, 9), miss(10, 19).unknown()],
        ),
    ] {
        judge_all(&history, true, what);
    }
}

/// What a register that is right answers is never refused.
#[test]
fn a_right_register_is_never_refused() {
    for seed in 0..300 {
        let mut words = Words::new(seed);
        let shape = Shape {
            keys: 1 + words.below(3),
            clients: 1 + words.below(7),
            rounds: 1 + words.below(30),
            unknown: words.below(20),
            // Many unknown deletes are more than the search is made for.
            deletes: if seed % 3 == 0 { 5 } else { 0 },
        };
        let history = simulate(shape, &mut words);
        let verdict = check(&history);
        let refused = verdict.violations.first();
        assert!(refused.is_none(), "seed {seed}: {}", refused.unwrap());
        assert!(verdict.undecided.is_empty(), "seed {seed}: {shape:?}");
    }
}

/// On histories that are small enough to try every order, there is neither a
/// false alarm nor a miss, by sorting and by searching.
#[test]
fn verdicts_are_those_of_trying_every_order() {
    let (mut good, mut bad) = (0, 0);
    for seed in 0..6_000 {
        let mut words = Words::new(seed);
        let shape = Shape {
            keys: 1,
            clients: 2 + words.below(3),
            rounds: 2,
            unknown: 20,
            deletes: if seed % 2 == 0 { 15 } else { 0 },
        };
        let mut history = simulate(shape, &mut words);
        for _ in 0..words.below(5) {
            corrupt(&mut history, &mut words);
        }
        let expected = is_possible(&history);
        judge_all(&history, expected, &format!("seed {seed}: {history:?}"));
        *if expected { &mut good } else { &mut bad } += 1;
    }
    assert!(good > 500 && bad > 500, "{good} good, {bad} bad");
}

/// What it says is enough: the operations that it names contradict each other
/// by themselves.
#[test]
fn an_explanation_stands_alone() {
    let mut explained = 0;
    for seed in 0..400 {
        let mut words = Words::new(seed);
        let shape = Shape {
            keys: 1,
            clients: 4,
            rounds: 25,
            unknown: 3,
            deletes: 0,
        };
        let mut history = simulate(shape, &mut words);
        corrupt(&mut history, &mut words);
        let verdict = check(&history);
        let Some(violation) = verdict.violations.first() else {
            continue;
        };
        let mut told = violation.because.clone();
        told.push(violation.impossible);
        assert!(told.len() <= 6, "{violation}");
        assert!(!is_possible(&told), "seed {seed}: {violation}");
        assert!(violation.to_string().contains("impossible: process"));
        explained += 1;
    }
    assert!(explained > 40, "{explained}");
}

/// Large histories are judged whole; the time is printed, not asserted.
#[test]
fn many_operations_are_judged() {
    let shape = Shape {
        keys: 2_000,
        clients: 8,
        rounds: 62,
        unknown: 1,
        deletes: 0,
    };
    let mut history = simulate(shape, &mut Words::new(1));
    let start = Instant::now();
    check(&history).insist().unwrap();
    let took = start.elapsed();
    // A closed stderr is no reason to fail a test.
    let _ = writeln!(io::stderr(), "{} operations in {took:?}", history.len());
    let stale = history
        .iter()
        .rposition(|op| op.kind == Kind::Read)
        .unwrap();
    history[stale].value = u64::MAX;
    assert_eq!(check(&history).violations.len(), 1);
}
