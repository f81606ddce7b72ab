//! Blobs (promises P1, P6 and P12): what was acknowledged, or was called
//! present, is found from then on.
//!
//! That FindMissingBlobs calls a blob missing is no claim that it is gone: while
//! an owner is down or blobs move, it means "upload it again". Only a cluster
//! that nothing was done to has no reason for that.
//!
//! A blob is a key that is written once, with one value, so that uploads of
//! the same bytes by many clients are all the same. Between an upload of
//! unknown outcome and its repetition a blob may come and go: some owners have
//! it, and no more is promised. After an acknowledgement it may not, for as
//! long as its lease lasts.

use super::{Verdict, Violation, per_key};
use crate::history::{ABSENT, Kind, Operation, Outcome};

const LOST: &str = "a blob is said to be absent after it was acknowledged or called present";
const INVENTED: &str = "a blob was found that nobody had begun to upload";

/// Judges a history of blobs. `undisturbed` says that all nodes were up and
/// nothing moved; `lease` for how many microseconds a promise holds, if not for
/// the whole history.
#[must_use]
pub fn check(history: &[Operation], undisturbed: bool, lease: Option<u64>) -> Verdict {
    let mut verdict = Verdict::default();
    per_key(history, |_, operations| {
        verdict.keys += 1;
        verdict.operations += operations.len();
        verdict
            .violations
            .extend(lost(operations, undisturbed, lease).or_else(|| invented(operations)));
    });
    verdict
}

fn lost(operations: &[Operation], undisturbed: bool, lease: Option<u64>) -> Option<Violation> {
    let absent = |op: &&Operation| {
        op.outcome == Outcome::Ok
            && (op.kind == Kind::Read || undisturbed && op.kind == Kind::Ask)
            && op.value == ABSENT
    };
    operations.iter().filter(absent).find_map(|lost| {
        // A lease begins at the latest when the call did that promised it, on
        // the clock of whoever grants it.
        let holds = |op: &&Operation| {
            op.outcome == Outcome::Ok
                && promises(op)
                && op.before(lost)
                && lease.is_none_or(|lease| lost.end <= op.start.saturating_add(lease))
        };
        let promise = operations.iter().filter(holds).min_by_key(|op| op.end)?;
        Some(violated(LOST, *lost, vec![*promise]))
    })
}

/// Whether an answer promises that the blob is there from now on. Reading it
/// does not: it may be the only copy.
fn promises(op: &Operation) -> bool {
    op.kind == Kind::Write || op.kind == Kind::Ask && op.value != ABSENT
}

fn invented(operations: &[Operation]) -> Option<Violation> {
    let first = operations
        .iter()
        .filter(|op| op.may_change())
        .min_by_key(|op| op.start);
    let found = |op: &&Operation| {
        op.outcome == Outcome::Ok
            && matches!(op.kind, Kind::Read | Kind::Ask)
            && op.value != ABSENT
            && first.is_none_or(|first| op.end < first.start)
    };
    let found = operations.iter().find(found)?;
    Some(violated(
        INVENTED,
        *found,
        first.copied().into_iter().collect(),
    ))
}

fn violated(rule: &'static str, impossible: Operation, because: Vec<Operation>) -> Violation {
    Violation {
        key: impossible.key,
        rule,
        impossible,
        because,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::simulated::{ask, hit, miss, write};

    fn check(history: &[Operation], rule: Option<&str>) {
        let verdict = super::check(history, true, None);
        let found = verdict.violations.first().map(|found| found.rule);
        assert_eq!(found, rule, "{verdict:?}");
    }

    #[test]
    fn what_was_acknowledged_or_called_present_stays() {
        check(&[write(1, 0, 9), hit(1, 10, 19), ask(1, 20, 29)], None);
        check(&[miss(0, 9), write(1, 5, 15), miss(6, 14)], None);
        check(&[write(1, 0, 9), miss(10, 19)], Some(LOST));
        check(&[write(1, 0, 9), ask(0, 10, 19)], Some(LOST));
        check(
            &[write(1, 0, 9).unknown(), ask(1, 10, 19), miss(20, 29)],
            Some(LOST),
        );
        // Unknown, so it may come and go.
        check(
            &[write(1, 0, 9).unknown(), hit(1, 10, 19), miss(20, 29)],
            None,
        );
        // UNAVAILABLE is no absence.
        check(&[write(1, 0, 9), miss(10, 19).unknown()], None);
    }

    #[test]
    fn missing_means_upload_again_while_something_is_down() {
        let history = [write(1, 0, 9), ask(0, 10, 19), hit(1, 20, 29)];
        assert!(super::check(&history, false, None).insist().is_ok());
        check(&history, Some(LOST));
    }

    #[test]
    fn a_promise_ends_with_its_lease_and_the_next_begins_anew() {
        let lost = |history: &[Operation]| super::check(history, true, Some(50)).insist().is_err();
        assert!(lost(&[write(1, 0, 9), miss(40, 50)]));
        assert!(!lost(&[write(1, 0, 9), miss(40, 51)]));
        assert!(lost(&[write(1, 0, 9), ask(1, 30, 39), miss(71, 80)]));
        assert!(!lost(&[write(1, 0, 9), hit(1, 30, 39), miss(71, 80)]));
    }

    #[test]
    fn nothing_is_found_before_it_is_uploaded() {
        check(&[hit(1, 0, 9), write(1, 10, 19)], Some(INVENTED));
        check(&[write(1, 0, 9).failed(), hit(1, 10, 19)], Some(INVENTED));
        check(&[hit(1, 0, 11), write(1, 10, 19)], None);
    }
}
