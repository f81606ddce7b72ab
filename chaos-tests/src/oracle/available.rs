//! What `refs.reads = "available"` allows (promise P4): a hit may be as old as
//! the node that answers is behind, a miss is confirmed by a majority.
//!
//! - A hit names a value whose push began before the answer, and did not fail.
//! - A miss is linearizable: the key was absent at one moment between the
//!   question and the answer. A hit, however old, is proof that its push had
//!   taken effect when it was answered, and a miss may not be later.
//!
//! Not promised: that answers of one node, or to one client, never go back. A
//! node that is started again may be further behind than before.

use std::collections::HashMap;

use super::{Verdict, frontier, linear, per_key};
use crate::history::{ABSENT, Kind, Operation, Outcome};

/// Judges a history of refs that were read in this mode.
#[must_use]
pub fn check(history: &[Operation]) -> Verdict {
    let mut verdict = Verdict::default();
    per_key(history, |key, operations| {
        verdict.keys += 1;
        verdict.operations += operations.len();
        // The first hit of each value. It stands for all: a push that began
        // before the first answer began before the later ones.
        let mut hits: HashMap<u64, Operation> = HashMap::new();
        for read in operations.iter().filter(|op| is_hit(op)) {
            let first = hits.entry(read.value).or_insert(*read);
            if read.end < first.end {
                *first = *read;
            }
        }
        // A push that was seen had happened by then.
        let effects = operations.iter().filter(|op| !is_hit(op)).map(|op| {
            let Some(hit) = hits.get(&op.value).filter(|_| op.may_change()) else {
                return *op;
            };
            let end = match op.outcome {
                Outcome::Unknown => hit.end,
                _ => op.end.min(hit.end),
            };
            Operation {
                end,
                outcome: Outcome::Ok,
                ..*op
            }
        });
        let effects: Vec<Operation> = effects.collect();
        // The hits with nothing but their own push decide whether they were
        // possible at all.
        let hit_alone = hits.values().find_map(|hit| {
            let mut pair: Vec<Operation> = operations
                .iter()
                .filter(|op| op.value == hit.value && op.kind == Kind::Write)
                .copied()
                .collect();
            pair.push(*hit);
            impossible(&pair)
        });
        match hit_alone {
            Some(violation) => verdict.violations.push(violation),
            None => match linear::judge(&effects) {
                frontier::Outcome::Possible => {}
                frontier::Outcome::Impossible(violation) => verdict.violations.push(*violation),
                frontier::Outcome::Undecided => verdict.undecided.push(key),
            },
        }
    });
    verdict
}

fn is_hit(op: &Operation) -> bool {
    op.kind == Kind::Read && op.outcome == Outcome::Ok && op.value != ABSENT
}

fn impossible(operations: &[Operation]) -> Option<super::Violation> {
    match linear::judge(operations) {
        frontier::Outcome::Impossible(violation) => Some(*violation),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::simulated::{delete, hit, miss, write};

    fn check(history: &[Operation], good: bool) {
        let verdict = super::check(history);
        assert_eq!(verdict.insist().is_ok(), good, "{verdict:?}");
    }

    #[test]
    fn hits_may_be_old_but_not_invented() {
        check(&[write(1, 0, 9), write(2, 10, 19), hit(1, 30, 39)], true);
        check(
            &[
                write(1, 0, 9),
                write(2, 10, 19),
                hit(2, 20, 29),
                hit(1, 30, 39),
            ],
            true,
        );
        check(&[write(1, 0, 9), hit(7, 30, 39)], false);
        check(&[hit(1, 0, 9), write(1, 10, 19)], false);
        check(&[write(1, 0, 9).failed(), hit(1, 30, 39)], false);
        check(&[write(1, 0, 9).unknown(), hit(1, 30, 39)], true);
        check(&[hit(1, 0, 9), write(1, 10, 19).unknown()], false);
    }

    #[test]
    fn misses_are_confirmed() {
        check(&[write(1, 10, 19), miss(0, 9)], true);
        check(&[write(1, 10, 19), miss(15, 29)], true);
        check(&[write(1, 10, 19), miss(20, 29)], false);
        // An outcome that nobody knew is known once somebody saw it.
        check(&[write(1, 0, 9).unknown(), miss(20, 29)], true);
        check(
            &[write(1, 0, 9).unknown(), hit(1, 10, 15), miss(20, 29)],
            false,
        );
        // Seen while the push was still running.
        check(&[write(1, 0, 99), hit(1, 10, 15), miss(20, 29)], false);
        check(&[write(1, 0, 99), hit(1, 10, 25), miss(20, 29)], true);
    }

    #[test]
    fn misses_after_a_delete_are_good() {
        check(&[write(1, 0, 9), delete(10, 19), miss(20, 29)], true);
        check(&[write(1, 0, 9), delete(10, 19), hit(1, 20, 29)], true);
        check(&[delete(0, 9), write(1, 10, 19), miss(20, 29)], false);
    }
}
