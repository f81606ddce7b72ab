//! What happens to a packet: a pure function of the rules, the state of its
//! wire, a seeded sequence and the time.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use crate::seeded::Words;

/// How long a reordered packet waits while those behind it pass.
const REORDER_HOLD: Duration = Duration::from_millis(5);

/// What a wire of limited rate may have under way; more is lost, as in a
/// router whose queue is full.
const QUEUE_LIMIT: Duration = Duration::from_millis(500);

/// One direction between two rooms. The default passes everything at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Link {
    /// Nothing passes.
    pub cut: bool,
    /// How long every packet takes.
    pub delay: Duration,
    /// What it takes more, from none to all of this.
    pub jitter: Duration,
    /// Share of packets that are lost, 0 to 1.
    pub loss: f64,
    /// Share that arrives twice.
    pub duplicate: f64,
    /// Share that is overtaken by others.
    pub reorder: f64,
    /// Bits a second, if limited.
    pub rate: Option<u64>,
}

impl Link {
    /// A direction in which nothing passes.
    pub const CUT: Link = Link {
        cut: true,
        delay: Duration::ZERO,
        jitter: Duration::ZERO,
        loss: 0.0,
        duplicate: 0.0,
        reorder: 0.0,
        rate: None,
    };

    /// Both at once, one behind the other.
    pub fn and(self, other: Link) -> Link {
        let either = |one: f64, two: f64| 1.0 - (1.0 - one) * (1.0 - two);
        Link {
            cut: self.cut || other.cut,
            delay: self.delay + other.delay,
            jitter: self.jitter + other.jitter,
            loss: either(self.loss, other.loss),
            duplicate: either(self.duplicate, other.duplicate),
            reorder: either(self.reorder, other.reorder),
            rate: match (self.rate, other.rate) {
                (Some(one), Some(two)) => Some(one.min(two)),
                (one, two) => one.or(two),
            },
        }
    }
}

/// From one port to another.
pub type Pair = (usize, usize);

/// Rules in layers, so that faults can be combined and taken away one by one.
#[derive(Debug, Default)]
pub(super) struct Rules {
    layers: BTreeMap<u64, BTreeMap<Pair, Link>>,
    next: u64,
    /// All layers together.
    combined: BTreeMap<Pair, Link>,
}

impl Rules {
    pub(super) fn lay(&mut self, links: BTreeMap<Pair, Link>) -> u64 {
        let id = self.next;
        self.next += 1;
        self.layers.insert(id, links);
        self.combine();
        id
    }

    pub(super) fn lift(&mut self, id: u64) -> bool {
        let found = self.layers.remove(&id).is_some();
        self.combine();
        found
    }

    pub(super) fn link(&self, pair: Pair) -> Link {
        self.combined.get(&pair).copied().unwrap_or_default()
    }

    fn combine(&mut self) {
        self.combined.clear();
        for (pair, link) in self.layers.values().flatten() {
            let before = self.combined.entry(*pair).or_default();
            *before = before.and(*link);
        }
    }
}

/// What one direction remembers of the packets before.
#[derive(Debug)]
pub(super) struct Wire {
    words: Words,
    /// When the wire is free for the next packet, where its rate is limited.
    free_at: Duration,
    /// When the packet before arrives: jitter alone changes no order.
    last_at: Duration,
    pub(super) counts: Counts,
}

/// What a direction has done with packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// That passed, each counted once.
    pub passed: u64,
    /// That were lost, for whatever reason.
    pub lost: u64,
    /// Of those that passed: that arrived twice.
    pub doubled: u64,
    /// Of those that passed: that were overtaken.
    pub overtaken: u64,
}

impl Wire {
    pub(super) fn new(seed: u64, (from, to): Pair) -> Wire {
        let seed = seed ^ ((from as u64) << 32 | to as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Wire {
            words: Words::new(seed),
            free_at: Duration::ZERO,
            last_at: Duration::ZERO,
            counts: Counts::default(),
        }
    }

    /// When a packet of `bytes` that is sent at `now` arrives, and whether it
    /// does so twice; `None` if it is lost.
    pub(super) fn send(&mut self, link: &Link, now: Duration, bytes: usize) -> Option<Arrival> {
        let arrival = self.decide(link, now, bytes);
        match &arrival {
            None => self.counts.lost += 1,
            Some(arrival) => {
                self.counts.passed += 1;
                self.counts.doubled += u64::from(arrival.twice);
            }
        }
        arrival
    }

    fn decide(&mut self, link: &Link, now: Duration, bytes: usize) -> Option<Arrival> {
        if link.cut || self.happens(link.loss) {
            return None;
        }
        let mut at = now;
        if let Some(rate) = link.rate {
            let start = self.free_at.max(now);
            if start - now > QUEUE_LIMIT {
                return None;
            }
            let takes = Duration::from_secs_f64(bytes as f64 * 8.0 / rate.max(1) as f64);
            self.free_at = start + takes;
            at = self.free_at;
        }
        at += link.delay;
        if !link.jitter.is_zero() {
            let nanos = link.jitter.as_nanos() as usize;
            at += Duration::from_nanos(self.words.below(nanos + 1) as u64);
        }
        at = at.max(self.last_at);
        let twice = self.happens(link.duplicate);
        if self.happens(link.reorder) {
            self.counts.overtaken += 1;
            at += REORDER_HOLD;
        } else {
            self.last_at = at;
        }
        Some(Arrival { at, twice })
    }

    fn happens(&mut self, share: f64) -> bool {
        const PARTS: usize = 1_000_000;
        // No word is drawn for what cannot happen: a run without faults is
        // the same whichever rules there were before.
        share > 0.0 && self.words.below(PARTS) < (share * PARTS as f64) as usize
    }
}

/// See [`Wire::send`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arrival {
    pub(super) at: Duration,
    pub(super) twice: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn wire() -> Wire {
        Wire::new(1, (1, 2))
    }

    #[test]
    fn without_rules_a_packet_arrives_when_it_is_sent() {
        let arrival = wire().send(&Link::default(), MS, 1500);
        assert_eq!(
            arrival,
            Some(Arrival {
                at: MS,
                twice: false
            })
        );
    }

    #[test]
    fn shares_come_true_and_follow_the_seed() {
        let link = Link {
            loss: 0.1,
            duplicate: 0.2,
            reorder: 0.25,
            ..Link::default()
        };
        let run = |seed| {
            let mut wire = Wire::new(seed, (1, 2));
            let arrivals: Vec<_> = (0..10_000).map(|_| wire.send(&link, MS, 100)).collect();
            (arrivals, wire.counts)
        };
        let (first, counts) = run(7);
        assert_eq!(first, run(7).0);
        assert_ne!(first, run(8).0);
        let near = |found: u64, wanted: u64| found.abs_diff(wanted) < wanted / 5;
        assert!(near(counts.lost, 1000), "{counts:?}");
        assert!(near(counts.doubled, 1800), "{counts:?}");
        assert!(near(counts.overtaken, 2250), "{counts:?}");
    }

    #[test]
    fn jitter_changes_times_but_no_order() {
        let link = Link {
            delay: 10 * MS,
            jitter: 10 * MS,
            ..Link::default()
        };
        let mut wire = wire();
        let mut last = Duration::ZERO;
        for sent in 0..1000 {
            let now = MS * sent;
            let at = wire.send(&link, now, 100).unwrap().at;
            assert!(at >= last && at >= now + 10 * MS, "{sent}: {at:?}");
            last = at;
        }
    }

    #[test]
    fn a_rate_spaces_packets_and_a_full_queue_loses_them() {
        let link = Link {
            rate: Some(8_000_000),
            ..Link::default()
        };
        let mut wire = wire();
        let times: Vec<_> = (0..3)
            .map(|_| wire.send(&link, MS, 1000).unwrap().at)
            .collect();
        assert_eq!(times, [2 * MS, 3 * MS, 4 * MS]);
        let sent = (0..2000).filter_map(|_| wire.send(&link, MS, 1000)).count();
        assert!((490..510).contains(&sent), "{sent}");
    }

    #[test]
    fn layers_add_up_and_are_lifted_one_by_one() {
        let slow = Link {
            delay: MS,
            rate: Some(5),
            ..Link::default()
        };
        let mut rules = Rules::default();
        let one = rules.lay(BTreeMap::from([((1, 2), slow)]));
        let two = rules.lay(BTreeMap::from([((1, 2), slow.and(Link::CUT))]));
        assert!(rules.link((1, 2)).cut);
        assert_eq!(rules.link((1, 2)).delay, 2 * MS);
        assert_eq!(rules.link((2, 1)), Link::default());
        assert!(rules.lift(two) && !rules.lift(two));
        assert_eq!(rules.link((1, 2)), slow);
        assert!(rules.lift(one));
        assert_eq!(rules.link((1, 2)), Link::default());
    }
}
