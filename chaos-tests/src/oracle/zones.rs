//! Linearizability of a register whose reads tell which write they saw, by
//! sorting (Gibbons and Korach, "Testing shared memories", 1997).
//!
//! A write and the reads of its value follow each other with no other write
//! between them: they are a cluster. Of a cluster only two moments matter, the
//! first end `f` and the last start `s` of its operations. Cluster A must come
//! before B if some operation of A ends before some operation of B starts:
//! `f(A) < s(B)`. A history is possible if and only if no read ends before its
//! write starts, and no two clusters must each come before the other.
//!
//! ```text
//!   f < s  forward: the value is in force from f to s; no two may overlap
//!   s ≤ f  backward: one moment between s and f will do; there is one,
//!          unless a forward zone covers all of it
//! ```

use std::collections::HashMap;

use super::Violation;
use crate::history::{ABSENT, Kind, Operation, Outcome};

const NOWHERE: &str = "a read found a value that nobody wrote";
const FUTURE: &str = "a read found a value before its write began";
const MISS: &str = "a read found nothing after the key was seen set";
const BACK: &str = "a value was seen again after it had been replaced";

/// A write, and the first end and last start among it and its reads.
#[derive(Clone, Copy)]
struct Cluster {
    write: Operation,
    first_end: Operation,
    last_start: Operation,
}

impl Cluster {
    fn of(write: Operation) -> Cluster {
        Cluster {
            write,
            first_end: write,
            last_start: write,
        }
    }

    fn add(&mut self, read: Operation) {
        if read.end < self.first_end.end {
            self.first_end = read;
        }
        if read.start > self.last_start.start {
            self.last_start = read;
        }
    }

    fn f(&self) -> u64 {
        self.first_end.end
    }

    fn s(&self) -> u64 {
        self.last_start.start
    }

    fn is_forward(&self) -> bool {
        self.f() < self.s()
    }

    fn contradicts(&self, other: &Cluster) -> bool {
        self.f() < other.s() && other.f() < self.s()
    }
}

/// The first contradiction in the operations of one key, if there is one.
///
/// Writes have unique values, none of them [`ABSENT`]; the end of one whose
/// outcome is unknown is never.
pub(super) fn violation(operations: &[Operation]) -> Option<Violation> {
    let mut clusters = HashMap::with_capacity(operations.len() / 2 + 1);
    clusters.insert(ABSENT, Cluster::of(beginning(operations.first()?.key)));
    for write in operations.iter().filter(|op| op.kind != Kind::Read) {
        clusters.insert(write.value, Cluster::of(*write));
    }
    for read in operations.iter().filter(|op| op.kind == Kind::Read) {
        let Some(cluster) = clusters.get_mut(&read.value) else {
            return Some(violated(NOWHERE, *read, Vec::new()));
        };
        if read.end < cluster.write.start {
            return Some(violated(FUTURE, *read, vec![cluster.write]));
        }
        cluster.add(*read);
    }
    let (mut forward, backward): (Vec<Cluster>, Vec<Cluster>) =
        clusters.into_values().partition(Cluster::is_forward);
    forward.sort_unstable_by_key(|cluster| (cluster.f(), cluster.write.value));
    for pair in forward.windows(2) {
        if pair[0].contradicts(&pair[1]) {
            return Some(explain(&pair[0], &pair[1]));
        }
    }
    // They do not overlap, so the last that begins before a backward zone is
    // the only one that may cover it.
    backward.iter().find_map(|inner| {
        let later = forward.partition_point(|outer| outer.f() < inner.s());
        let outer = forward.get(later.checked_sub(1)?)?;
        outer.contradicts(inner).then(|| explain(outer, inner))
    })
}

/// Before everything, the key was absent.
fn beginning(key: u32) -> Operation {
    Operation {
        process: u32::MAX,
        key,
        kind: Kind::Delete,
        outcome: Outcome::Ok,
        node: 0,
        uri: 0,
        start: 0,
        end: 0,
        value: ABSENT,
        revision: 0,
    }
}

fn explain(one: &Cluster, other: &Cluster) -> Violation {
    let ends = [
        one.first_end,
        one.last_start,
        other.first_end,
        other.last_start,
    ];
    let reads = ends.iter().filter(|op| op.kind == Kind::Read);
    // Writes alone contradict nobody, so there is one.
    let impossible = *reads.max_by_key(|op| op.start).unwrap_or(&other.last_start);
    let mut because: Vec<Operation> = Vec::new();
    for op in ends.iter().chain([&one.write, &other.write]) {
        if *op != impossible && op.start > 0 && !because.contains(op) {
            because.push(*op);
        }
    }
    because.sort_by_key(|op| (op.start, op.end));
    let rule = if impossible.value == ABSENT {
        MISS
    } else {
        BACK
    };
    violated(rule, impossible, because)
}

fn violated(rule: &'static str, impossible: Operation, because: Vec<Operation>) -> Violation {
    Violation {
        key: impossible.key,
        rule,
        impossible,
        because,
    }
}
