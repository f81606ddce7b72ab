//! When a write is durable: counting acks over nodes and zones.
//!
//! Pure. Promise P1: W owners in min(W, zones) distinct zones.

use crate::planted::{self, Bug};

/// How many acks, from how many zones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Need {
    acks: usize,
    zones: usize,
}

/// Acks for one blob. The caller counts each node once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quorum {
    need: Need,
    acks: usize,
    zones: ZoneSet,
}

/// Where a quorum stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The blob is durable as promised.
    Reached,
    /// Those that have not answered yet decide.
    Open,
    /// Whatever they answer, it will not be reached.
    Lost,
}

/// Zones as bits. Zones from the 64th on share the last bit: two of them count
/// as one, on both sides of the comparison, which may ask for less spread in a
/// cluster of more than 64 zones but never counts an ack as more than it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct ZoneSet(u64);

impl ZoneSet {
    /// With a node of this zone; a node without one adds nothing.
    fn with(self, zone: Option<usize>) -> Self {
        match zone {
            Some(zone) => Self(self.0 | 1 << zone.min(63)),
            None => self,
        }
    }

    fn len(self) -> usize {
        self.0.count_ones() as usize
    }
}

impl Need {
    /// W acks, or as many as there are owners (at least one), from min(W, zones
    /// of the owners) zones.
    pub fn new(write_quorum: usize, owner_zones: impl Iterator<Item = Option<usize>>) -> Self {
        let (mut owners, mut zones) = (0, ZoneSet::default());
        for zone in owner_zones {
            owners += 1;
            zones = zones.with(zone);
        }
        let acks = write_quorum.min(owners).max(1);
        Self {
            acks,
            zones: zones.len().min(acks),
        }
    }

    /// Acks needed.
    #[must_use]
    pub fn acks(self) -> usize {
        self.acks
    }

    /// Zones they must come from.
    #[must_use]
    pub fn zones(self) -> usize {
        self.zones
    }
}

impl Quorum {
    #[must_use]
    pub fn new(need: Need) -> Self {
        Self {
            need,
            acks: 0,
            zones: ZoneSet::default(),
        }
    }

    /// One more node has the blob durably.
    pub fn ack(&mut self, zone: Option<usize>) {
        self.acks += 1;
        self.zones = self.zones.with(zone);
    }

    /// Acks so far.
    #[must_use]
    pub fn acks(&self) -> usize {
        self.acks
    }

    #[must_use]
    pub fn need(&self) -> Need {
        self.need
    }

    /// The verdict, given the zones of the nodes that may still ack.
    pub fn verdict(&self, open: impl Iterator<Item = Option<usize>>) -> Verdict {
        if self.is_reached() {
            return Verdict::Reached;
        }
        let mut most = *self;
        open.for_each(|zone| most.ack(zone));
        if most.is_reached() {
            Verdict::Open
        } else {
            Verdict::Lost
        }
    }

    #[must_use]
    pub fn is_reached(&self) -> bool {
        if planted::is(Bug::AckBelowQuorum) {
            return self.acks + 1 >= self.need.acks;
        }
        if planted::is(Bug::ZonesNotCounted) {
            return self.acks >= self.need.acks;
        }
        self.acks >= self.need.acks && self.zones.len() >= self.need.zones
    }

    /// Whether the zones are what is lacking, so that a further ack must come
    /// from a zone that has none.
    #[must_use]
    pub fn lacks_zone(&self, zone: Option<usize>) -> bool {
        self.zones.len() < self.need.zones && self.zones.with(zone) != self.zones
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Zones as letters: `owners`, then acks, then those still open.
    fn check(write_quorum: usize, owners: &str, acks: &str, open: &str, expected: Verdict) {
        let zones = |text: &str| -> Vec<Option<usize>> {
            text.bytes()
                .map(|zone| Some(usize::from(zone - b'a')))
                .collect()
        };
        let mut quorum = Quorum::new(Need::new(write_quorum, zones(owners).into_iter()));
        for zone in zones(acks) {
            quorum.ack(zone);
        }
        let verdict = quorum.verdict(zones(open).into_iter());
        assert_eq!(
            verdict, expected,
            "W={write_quorum} {owners}: {acks} + {open}"
        );
    }

    #[test]
    fn acks_and_zones_both_count() {
        use Verdict::{Lost, Open, Reached};
        for (write_quorum, owners, acks, open, expected) in [
            (2, "abc", "", "abc", Open),
            (2, "abc", "a", "b", Open),
            (2, "abc", "a", "", Lost),
            (2, "abc", "ab", "", Reached),
            // Fewer nodes than W: all of them.
            (2, "a", "a", "", Reached),
            (2, "a", "", "", Lost),
            // Two acks in one zone are not enough where owners span two.
            (2, "aab", "aa", "b", Open),
            (2, "aab", "aa", "", Lost),
            (2, "aab", "aab", "", Reached),
            // One zone: spread cannot be asked for.
            (2, "aaa", "aa", "", Reached),
            // A stand-in in another zone helps, in the same zone it does not.
            (3, "abb", "bb", "a", Open),
            (3, "abb", "bbb", "", Lost),
            (3, "abb", "bbc", "", Reached),
            (1, "abc", "c", "", Reached),
            (0, "abc", "", "", Lost),
            (9, "abc", "ab", "c", Open),
            (9, "abc", "abc", "", Reached),
        ] {
            check(write_quorum, owners, acks, open, expected);
        }
    }

    #[test]
    fn nothing_is_ever_durable_without_an_ack() {
        let quorum = Quorum::new(Need::new(0, std::iter::empty()));
        assert_eq!(quorum.verdict(std::iter::empty()), Verdict::Lost);
    }

    #[test]
    fn zones_past_the_last_bit_count_as_one() {
        let mut quorum = Quorum::new(Need::new(2, [Some(1), Some(80), Some(90)].into_iter()));
        assert_eq!(quorum.need().zones(), 2);
        quorum.ack(Some(80));
        quorum.ack(Some(90));
        assert!(!quorum.is_reached());
        assert!(quorum.lacks_zone(Some(1)) && !quorum.lacks_zone(Some(70)));
    }
}
