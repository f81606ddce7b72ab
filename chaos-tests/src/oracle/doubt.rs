//! When an answer may have been worth nothing, though nobody lied.
//!
//! A sync that is under way while a machine loses power may be reported as
//! done and be lost. One such report does no harm: what is acknowledged has
//! more copies. Where several machines lose power so close together that one
//! call may rest on more than one of them, what was answered in these instants
//! is taken for nothing: a write for one of unknown outcome, a read for no
//! evidence. What was answered before the first order is insisted on.

use serde::{Deserialize, Serialize};

use crate::history::{Kind, Operation, Outcome};

/// Longest call, in microseconds: cuts that are further apart do not meet in
/// one.
const CALL_LIMIT: u64 = 10_000_000;

/// Longest time, in microseconds, from when a node gave an answer until its
/// client wrote it down: both may wait for a processor.
const UNDER_WAY: u64 = 1_000_000;

/// A machine loses power. Times are microseconds of the run's clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cut {
    pub node: usize,
    /// When it was ordered.
    pub from: u64,
    /// When its process was gone.
    pub to: u64,
}

/// The spans in which answers are in doubt.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Doubt(Vec<(u64, u64)>);

impl Doubt {
    /// What these cuts leave in doubt.
    #[must_use]
    pub fn of(cuts: &[Cut]) -> Doubt {
        let in_doubt = |cut: &&Cut| {
            cuts.iter().any(|other| {
                other.node != cut.node
                    && other.from <= cut.to
                    && cut.from <= other.to.saturating_add(CALL_LIMIT)
            })
        };
        let cuts = cuts.iter().filter(in_doubt);
        let span = |cut: &Cut| (cut.from, cut.to.saturating_add(UNDER_WAY));
        Doubt(cuts.map(span).collect())
    }

    /// Whether an answer that came then is in doubt.
    #[must_use]
    pub fn covers(&self, at: u64) -> bool {
        self.0.iter().any(|(from, to)| (*from..=*to).contains(&at))
    }

    /// A history without what is in doubt.
    #[must_use]
    pub fn leave(&self, history: &[Operation]) -> Vec<Operation> {
        let evidence = |operation: &Operation| {
            let mut operation = *operation;
            if operation.outcome == Outcome::Ok && self.covers(operation.end) {
                match operation.kind {
                    Kind::Write | Kind::Delete => operation.outcome = Outcome::Unknown,
                    Kind::Read | Kind::Ask => return None,
                }
            }
            Some(operation)
        };
        history.iter().filter_map(evidence).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn cut(node: usize, from: u64, to: u64) -> Cut {
        Cut { node, from, to }
    }

    fn answered(kind: Kind, end: u64) -> Operation {
        Operation::done(kind, end, end - 1, end)
    }

    #[test]
    fn one_machine_leaves_nothing_in_doubt() {
        let doubt = Doubt::of(&[cut(1, 10, 20), cut(1, 500, 510)]);
        assert_eq!(doubt, Doubt::default());
        assert!(!doubt.covers(15));
    }

    #[test]
    fn machines_that_fail_together_leave_what_was_answered_meanwhile() {
        let doubt = Doubt::of(&[cut(1, 100, 110), cut(2, 100, 130)]);
        let late = 130 + UNDER_WAY;
        let history: Vec<_> = [(Kind::Write, 99), (Kind::Write, 100), (Kind::Write, late)]
            .into_iter()
            .chain([(Kind::Write, late + 1), (Kind::Read, 98)])
            .chain([(Kind::Read, 120), (Kind::Ask, late)])
            .map(|(kind, end)| answered(kind, end))
            .collect();
        let left = doubt.leave(&history);
        let outcomes: Vec<_> = left.iter().map(|one| (one.end, one.outcome)).collect();
        let expected = [
            (99, Outcome::Ok),
            (100, Outcome::Unknown),
            (late, Outcome::Unknown),
            (late + 1, Outcome::Ok),
            (98, Outcome::Ok),
        ];
        assert_eq!(outcomes, expected);
    }

    /// A call may have had its first copy on the one and its second on the
    /// other: what the second one answers is in doubt, what the first did is
    /// not, for then the second still had its copy.
    #[test]
    fn the_second_of_two_close_together_is_in_doubt() {
        let close = Doubt::of(&[cut(1, 100, 110), cut(2, 5_000_000, 5_000_010)]);
        assert!(close.covers(5_000_005) && !close.covers(105));
        let apart = Doubt::of(&[cut(1, 100, 110), cut(2, 20_000_000, 20_000_010)]);
        assert_eq!(apart, Doubt::default());
    }
}
