//! What goes when room is needed: a plan from figures, with no I/O in it.
//!
//! A unit is what can be removed at a time: a segment (whose blobs that are
//! still wanted move to a new one first) or a file. Leased blobs never go.
//! Blobs used since they were written, or since the cleaner last passed over
//! them, get a second chance, unless nothing else is left. Among the rest the
//! unit used least recently goes first.
//!
//! The tempting alternative, to go by age alone, copies a segment of leased
//! blobs again and again to gain a few bytes each time; hence the least yield.

use weir_cluster::Digest;

/// Part of a segment that must be gained for the copying to be worth it.
const YIELD_GOOD: u64 = 4;
/// The same when there is no better segment.
const YIELD_LEAST: u64 = 32;

/// Something that can be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    Segment(u32),
    File(Digest),
}

/// Figures of one unit, in bytes on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) name: Name,
    pub(super) bytes: u64,
    /// Of these, held by leases.
    pub(super) leased: u64,
    /// Of these, with a second chance.
    pub(super) touched: u64,
    /// Latest use of what is neither leased nor touched, in store time.
    pub(super) last_use: u32,
    /// Latest use of what is touched and not leased.
    pub(super) last_touch: u32,
}

/// Which of a unit's blobs survive its removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spare {
    LeasedAndTouched,
    Leased,
}

/// What to do, in this order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) victims: Vec<(Name, Spare)>,
    /// Files whose second chance is taken by this.
    pub(super) passed_over: Vec<Digest>,
    /// Bytes this frees.
    pub(super) freed: u64,
}

/// Plans to free at least `need` bytes, by blobs last used before `before` only;
/// frees less if there is no more to free.
pub(super) fn plan(mut units: Vec<Unit>, need: u64, before: u32) -> Plan {
    let mut plan = Plan::default();
    let mut horizon = 0;
    for (spare, least) in [
        (Spare::LeasedAndTouched, YIELD_GOOD),
        (Spare::LeasedAndTouched, YIELD_LEAST),
        (Spare::Leased, YIELD_LEAST),
    ] {
        units.sort_by_key(|unit| unit.use_of_the_gone(spare));
        units.retain(|unit| {
            let gain = unit.gain(spare);
            let chosen = plan.freed < need
                && gain > 0
                && gain >= unit.bytes / least
                && unit.use_of_the_gone(spare) < before;
            if chosen {
                plan.freed += gain;
                plan.victims.push((unit.name, spare));
                horizon = horizon.max(unit.use_of_the_gone(spare));
            }
            !chosen
        });
    }
    plan.passed_over = units
        .iter()
        .filter(|unit| unit.touched > 0 && unit.last_touch <= horizon)
        .filter_map(|unit| match unit.name {
            Name::File(digest) => Some(digest),
            Name::Segment(_) => None,
        })
        .collect();
    plan
}

impl Unit {
    fn gain(&self, spare: Spare) -> u64 {
        let kept = match spare {
            Spare::LeasedAndTouched => self.leased + self.touched,
            Spare::Leased => self.leased,
        };
        self.bytes.saturating_sub(kept)
    }

    fn use_of_the_gone(&self, spare: Spare) -> u32 {
        match spare {
            Spare::LeasedAndTouched => self.last_use,
            Spare::Leased => self.last_use.max(self.last_touch),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(number: u32, leased: u64, touched: u64, last_use: u32) -> Unit {
        Unit {
            name: Name::Segment(number),
            bytes: 100,
            leased,
            touched,
            last_use: if touched < 100 { last_use } else { 0 },
            last_touch: if touched > 0 { last_use } else { 0 },
        }
    }

    fn file(id: u8, leased: u64, touched: u64, last_use: u32) -> Unit {
        let digest = Digest {
            hash: [id; 32],
            size: 100,
        };
        Unit {
            name: Name::File(digest),
            ..segment(0, leased, touched, last_use)
        }
    }

    fn check(units: &[Unit], need: u64, expected: &[(Unit, Spare)]) -> Plan {
        let plan = plan(units.to_vec(), need, u32::MAX);
        let expected: Vec<_> = expected
            .iter()
            .map(|(unit, spare)| (unit.name, *spare))
            .collect();
        assert_eq!(plan.victims, expected);
        plan
    }

    const BOTH: Spare = Spare::LeasedAndTouched;

    #[test]
    fn the_least_recently_used_goes_first_and_no_more_than_is_needed() {
        let units = [
            segment(1, 0, 0, 30),
            file(2, 0, 0, 10),
            segment(3, 0, 0, 20),
        ];
        check(&units, 0, &[]);
        check(&units, 1, &[(units[1], BOTH)]);
        let plan = check(&units, 150, &[(units[1], BOTH), (units[2], BOTH)]);
        assert_eq!(plan.freed, 200);
    }

    #[test]
    fn room_for_an_old_blob_is_made_by_older_ones_only() {
        let units = [file(1, 0, 0, 10), file(2, 0, 100, 20), segment(3, 0, 0, 30)];
        for (before, freed) in [(10, 0), (11, 100), (20, 100), (21, 200), (31, 300)] {
            assert_eq!(plan(units.to_vec(), 1000, before).freed, freed, "{before}");
        }
    }

    #[test]
    fn what_is_leased_stays_whatever_is_needed() {
        let units = [
            segment(1, 100, 0, 1),
            file(2, 100, 0, 1),
            segment(3, 99, 0, 1),
        ];
        assert_eq!(check(&units, 1000, &[]).freed, 0);
    }

    #[test]
    fn a_second_chance_is_given_while_there_are_others() {
        let units = [file(1, 0, 100, 5), segment(2, 0, 0, 9), file(3, 0, 100, 12)];
        let plan = check(&units, 50, &[(units[1], BOTH)]);
        // The one used before the victim had its chance; the later one has not.
        assert_eq!(
            plan.passed_over,
            [Digest {
                hash: [1; 32],
                size: 100
            }]
        );
        check(&units, 200, &[(units[1], BOTH), (units[0], Spare::Leased)]);
    }

    #[test]
    fn segments_that_yield_little_wait() {
        let units = [segment(1, 90, 0, 1), segment(2, 50, 10, 2)];
        check(&units, 10, &[(units[1], BOTH)]);
        check(&units, 45, &[(units[1], BOTH), (units[0], BOTH)]);
    }
}
