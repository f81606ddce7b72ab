//! What a disk refuses and how slow it is. Pure: nothing waits here.

use std::{ops::Range, time::Duration};

use serde::{Deserialize, Serialize};

use crate::seeded::Words;

/// What is asked of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    Read,
    Write,
    /// Has no place: it meets every failure of its kind.
    Sync,
}

/// Accesses that give EIO.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub access: Access,
    /// Bytes of the disk; whoever touches one of them is refused.
    pub range: Range<u64>,
    /// How often; `None` for as long as it lasts.
    pub times: Option<u32>,
}

impl Failure {
    /// Of this kind everywhere.
    #[must_use]
    pub fn everywhere(access: Access, times: Option<u32>) -> Failure {
        Failure {
            access,
            range: 0..u64::MAX,
            times,
        }
    }
}

/// How much longer a disk takes than it would.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slow {
    /// Milliseconds of each sync, drawn from here.
    pub sync_ms: Range<u64>,
    /// Of each read and write.
    pub access_ms: Range<u64>,
    /// What they are drawn from.
    pub seed: u64,
}

/// The rules in force, and how often they were met.
#[derive(Debug)]
pub(super) struct Rules {
    failures: Vec<Failure>,
    slow: Slow,
    words: Words,
    refused: u64,
}

impl Default for Rules {
    /// None.
    fn default() -> Rules {
        Rules {
            failures: Vec::new(),
            slow: Slow::default(),
            words: Words::new(0),
            refused: 0,
        }
    }
}

impl Rules {
    /// Lays down one more failure.
    pub(super) fn fail(&mut self, failure: Failure) {
        self.failures.push(failure);
    }

    /// Takes the place of how slow it was.
    pub(super) fn slow(&mut self, slow: Slow) {
        self.words = Words::new(slow.seed);
        self.slow = slow;
    }

    /// Lifts all of them.
    pub(super) fn lift(&mut self) {
        self.failures.clear();
        self.slow = Slow::default();
    }

    /// Accesses that were refused so far.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    /// Whether an access is refused.
    pub(super) fn refuse(&mut self, access: Access, offset: u64, length: u64) -> bool {
        let meets = |failure: &&mut Failure| {
            let Range { start, end } = failure.range;
            let is_there = access == Access::Sync || offset < end && start < offset + length;
            failure.access == access && failure.times != Some(0) && is_there
        };
        let Some(met) = self.failures.iter_mut().find(meets) else {
            return false;
        };
        met.times = met.times.map(|times| times - 1);
        self.refused += 1;
        true
    }

    /// How long an access is held up.
    pub(super) fn delay(&mut self, access: Access) -> Duration {
        let range = match access {
            Access::Sync => &self.slow.sync_ms,
            Access::Read | Access::Write => &self.slow.access_ms,
        };
        let span = range.end.saturating_sub(range.start) as usize;
        let drawn = match span {
            0 => 0,
            _ => range.start + self.words.below(span) as u64,
        };
        Duration::from_millis(drawn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_meets_its_range_and_kind_and_no_other() {
        let mut rules = Rules::default();
        rules.fail(Failure {
            access: Access::Read,
            range: 100..200,
            times: None,
        });
        for (access, offset, length, refused) in [
            (Access::Read, 0, 100, false),
            (Access::Read, 0, 101, true),
            (Access::Read, 199, 10, true),
            (Access::Read, 200, 10, false),
            (Access::Write, 150, 10, false),
            (Access::Sync, 0, 0, false),
        ] {
            let is = rules.refuse(access, offset, length);
            assert_eq!(is, refused, "{access:?} of {length} at {offset}");
        }
        assert_eq!(rules.refused(), 2);
        rules.lift();
        assert!(!rules.refuse(Access::Read, 150, 1));
    }

    #[test]
    fn a_failure_that_is_counted_ends() {
        let mut rules = Rules::default();
        rules.fail(Failure::everywhere(Access::Sync, Some(1)));
        assert!(rules.refuse(Access::Sync, 0, 0));
        assert!(!rules.refuse(Access::Sync, 0, 0));
    }

    #[test]
    fn delays_are_within_their_range() {
        let mut rules = Rules::default();
        assert_eq!(rules.delay(Access::Sync), Duration::ZERO);
        rules.slow(Slow {
            sync_ms: 10..300,
            access_ms: 0..0,
            seed: 5,
        });
        let drawn: Vec<u128> = (0..100)
            .map(|_| rules.delay(Access::Sync).as_millis())
            .collect();
        assert!(drawn.iter().all(|ms| (10..300).contains(ms)), "{drawn:?}");
        assert!(drawn.iter().max() > drawn.iter().min());
        assert_eq!(rules.delay(Access::Read), Duration::ZERO);
    }
}
