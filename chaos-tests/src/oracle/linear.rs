//! Linearizability of registers: is there one order of all operations of a
//! key, in which each lies between its start and its end, and each read finds
//! what was written last?
//!
//! Keys are judged one by one: linearizability is local. All URIs of one push
//! are one key, so that a push that changed them one after the other shows as
//! a register that went back.
//!
//! - A write that failed did not happen.
//! - A write of unknown outcome may take effect at any time from its start on,
//!   or never. One whose value nobody read is left out: without
//!   compare-and-set, nothing can tell that it happened.
//! - Reads that were not answered say nothing.
//! - Times that are equal are concurrent.
//!
//! Values are unique among the writes of a key, so that it is known which
//! write each read saw. That makes judging a matter of sorting
//! (`zones`), where a search over orders, as porcupine does
//! it, is exponential in the number of clients. Deletes are not unique: keys
//! that have some are searched (`frontier`), within bounds.

use std::collections::HashSet;

use super::{Verdict, frontier, per_key, zones};
use crate::history::{ABSENT, Kind, Operation, Outcome};

/// Judges a history of registers that start absent.
#[must_use]
pub fn check(history: &[Operation]) -> Verdict {
    let mut verdict = Verdict::default();
    per_key(history, |key, operations| {
        verdict.keys += 1;
        verdict.operations += operations.len();
        match judge(operations) {
            frontier::Outcome::Possible => {}
            frontier::Outcome::Impossible(violation) => verdict.violations.push(*violation),
            frontier::Outcome::Undecided => verdict.undecided.push(key),
        }
    });
    verdict
}

/// Judges the operations of one key, sorted by start.
pub(super) fn judge(operations: &[Operation]) -> frontier::Outcome {
    let telling = telling(operations);
    if is_mapped(&telling) {
        match zones::violation(&telling) {
            Some(violation) => frontier::Outcome::Impossible(Box::new(violation)),
            None => frontier::Outcome::Possible,
        }
    } else {
        frontier::search(&telling)
    }
}

/// The operations that say something, unknown ones with an end that never
/// comes.
fn telling(operations: &[Operation]) -> Vec<Operation> {
    let reads = || {
        operations
            .iter()
            .filter(|op| op.kind == Kind::Read && op.outcome == Outcome::Ok)
    };
    let seen: HashSet<u64> = reads().map(|read| read.value).collect();
    operations
        .iter()
        .filter(|op| match (op.kind, op.outcome) {
            (Kind::Ask, _) | (_, Outcome::Failed) => false,
            (Kind::Read, outcome) => outcome == Outcome::Ok,
            (_, Outcome::Ok) => true,
            (_, Outcome::Unknown) => seen.contains(&op.value),
        })
        .map(|op| {
            let end = match op.outcome {
                Outcome::Unknown => u64::MAX,
                _ => op.end,
            };
            Operation { end, ..*op }
        })
        .collect()
}

/// Whether the value of a read tells which write it saw.
fn is_mapped(operations: &[Operation]) -> bool {
    let mut values = HashSet::new();
    operations
        .iter()
        .filter(|op| op.kind != Kind::Read)
        .all(|op| op.value != ABSENT && values.insert(op.value))
}

#[cfg(test)]
#[path = "linear_tests.rs"]
mod tests;
