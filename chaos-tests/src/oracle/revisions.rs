//! Revisions (promise P3): every write of a key raises its revision, and all
//! URIs of one push share value and revision.
//!
//! Judged are the operations whose answer told a revision:
//!
//! - a value has one revision, through whatever URI it was read, and a
//!   revision names one value;
//! - an operation does not tell a lower revision than one that had ended
//!   before it began; a write tells a higher one.
//!
//! Linear in the number of operations but for the sorting, so that all of a
//! run can be judged, however many clients shared a key. Hits that may be old
//! (`refs.reads = "available"`) are judged by the first rule alone.

use std::collections::HashMap;

use super::{Verdict, Violation, per_key};
use crate::history::{ABSENT, Kind, Operation, Outcome, UNTOLD};

const TWO_VALUES: &str = "one revision names two values";
const TWO_REVISIONS: &str = "one value has two revisions";
const BACK: &str = "a revision is lower than one that was told before";
const NO_GROWTH: &str = "a write did not raise the revision";

/// Judges the revisions of a history. `reads_are_confirmed` says that reads
/// were linearizable.
#[must_use]
pub fn check(history: &[Operation], reads_are_confirmed: bool) -> Verdict {
    let mut verdict = Verdict::default();
    per_key(history, |_, operations| {
        verdict.keys += 1;
        verdict.operations += operations.len();
        let told: Vec<Operation> = operations
            .iter()
            .filter(|op| op.revision != UNTOLD && op.outcome == Outcome::Ok)
            .copied()
            .collect();
        let violation = one_to_one(&told).or_else(|| growing(&told, reads_are_confirmed));
        verdict.violations.extend(violation);
    });
    verdict
}

fn one_to_one(told: &[Operation]) -> Option<Violation> {
    let mut by_value: HashMap<u64, Operation> = HashMap::new();
    let mut by_revision: HashMap<u64, Operation> = HashMap::new();
    told.iter().find_map(|op| {
        let same = by_revision.entry(op.revision).or_insert(*op);
        if same.value != op.value {
            return Some(violated(TWO_VALUES, *op, *same));
        }
        // Absence has as many revisions as there were deletes.
        let same = by_value.entry(op.value).or_insert(*op);
        let differs = op.value != ABSENT && same.revision != op.revision;
        differs.then(|| violated(TWO_REVISIONS, *op, *same))
    })
}

/// `told` is sorted by start.
fn growing(told: &[Operation], reads_are_confirmed: bool) -> Option<Violation> {
    let counts = |op: &Operation| reads_are_confirmed || op.kind != Kind::Read;
    let mut ended: Vec<Operation> = told.iter().filter(|op| counts(op)).copied().collect();
    ended.sort_unstable_by_key(|op| op.end);
    let mut ended = ended.into_iter().peekable();
    let mut highest: Option<Operation> = None;
    for op in told.iter().filter(|op| counts(op)) {
        while let Some(earlier) = ended.next_if(|earlier| earlier.end < op.start) {
            if highest.is_none_or(|highest| highest.revision < earlier.revision) {
                highest = Some(earlier);
            }
        }
        let Some(highest) = highest else { continue };
        if op.revision < highest.revision {
            return Some(violated(BACK, *op, highest));
        }
        if op.kind != Kind::Read && op.revision == highest.revision {
            return Some(violated(NO_GROWTH, *op, highest));
        }
    }
    None
}

fn violated(rule: &'static str, impossible: Operation, because: Operation) -> Violation {
    Violation {
        key: impossible.key,
        rule,
        impossible,
        because: vec![because],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::simulated::{hit, write};

    fn check(history: &[Operation], confirmed: bool, rule: Option<&str>) {
        let verdict = super::check(history, confirmed);
        let found = verdict.violations.first().map(|found| found.rule);
        assert_eq!(found, rule, "{verdict:?}");
    }

    #[test]
    fn revisions_grow_and_are_shared_by_all_uris() {
        let good = [
            write(1, 0, 9).revision(5),
            hit(1, 10, 19).uri(0).revision(5),
            hit(1, 10, 19).uri(1).revision(5),
            write(2, 20, 29).revision(8),
            hit(2, 20, 35),
            hit(2, 40, 49).revision(8),
        ];
        check(&good, true, None);
    }

    #[test]
    fn each_rule_is_noticed() {
        let first = write(1, 0, 9).revision(5);
        let uris = [first, hit(1, 10, 19).uri(1).revision(6)];
        check(&uris, true, Some(TWO_REVISIONS));
        check(
            &[first, write(2, 20, 29).revision(5)],
            true,
            Some(TWO_VALUES),
        );
        check(&[first, write(2, 20, 29).revision(4)], true, Some(BACK));
        let stale = [
            first,
            write(2, 20, 29).revision(6),
            hit(1, 30, 39).revision(5),
        ];
        check(&stale, true, Some(BACK));
        check(&stale, false, None);
        let deletes = [
            crate::oracle::simulated::delete(0, 9).revision(5),
            crate::oracle::simulated::delete(10, 19).revision(5),
        ];
        check(&deletes, true, Some(NO_GROWTH));
        // Concurrent operations may tell revisions in any order.
        check(
            &[write(1, 0, 9).revision(6), write(2, 5, 15).revision(5)],
            true,
            None,
        );
    }
}
