//! How fast repair goes, and when it rests.
//!
//! Pure: time is a parameter. Two rules, the longer rest counts:
//!
//! - no more bytes a second than the setting, over more than `BURST`;
//! - while clients are served, each piece of work is followed by a rest of
//!   [`TRANQUILITY`] times as long as it took: a slow disk or network is then
//!   left to the clients for most of the time, whatever its speed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// Rest for each unit of work while clients are served.
pub const TRANQUILITY: u32 = 2;
/// Longest rest after one piece of work: it goes on even behind a stalled disk.
const LONGEST_REST: Duration = Duration::from_secs(5);
/// How long a request counts as "clients are served".
pub const BUSY_FOR: Duration = Duration::from_secs(1);
/// The rate holds over more than this; idle time is not saved up beyond it.
const BURST: Duration = Duration::from_secs(1);

/// Counts what is done for clients on this node. Clones share the count.
#[derive(Clone, Default, Debug)]
pub struct Foreground(Arc<AtomicU64>);

impl Foreground {
    /// A request came.
    pub fn bump(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    #[must_use]
    pub fn requests(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A token bucket that may be overdrawn, and the watch on clients.
#[derive(Default, Debug)]
pub struct Budget {
    /// Time, since any fixed moment, at which all bytes so far are paid for.
    paid_at: Duration,
    requests: u64,
    /// When the number of requests was last seen to grow.
    busy_until: Duration,
}

impl Budget {
    /// Whether clients are served, given how many requests there were by now.
    pub fn is_busy(&mut self, now: Duration, requests: u64) -> bool {
        if requests != self.requests {
            self.requests = requests;
            self.busy_until = now + BUSY_FOR;
        }
        now < self.busy_until
    }

    /// How long to rest after so many bytes. A rate of 0 is no limit.
    pub fn pause(
        &mut self,
        now: Duration,
        rate: u64,
        bytes: u64,
        took: Duration,
        busy: bool,
    ) -> Duration {
        let rest = match busy {
            true => (took * TRANQUILITY).min(LONGEST_REST),
            false => Duration::ZERO,
        };
        if rate == 0 {
            return rest;
        }
        let cost = Duration::from_secs_f64(bytes as f64 / rate as f64);
        self.paid_at = self.paid_at.max(now.saturating_sub(BURST)) + cost;
        rest.max(self.paid_at.saturating_sub(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn the_rate_holds_over_time() {
        let mut budget = Budget::default();
        let (mut now, mut bytes) = (MS(10_000), 0);
        let begun = now;
        for size in (1..400).map(|n| n * 1_000) {
            bytes += size;
            now += budget.pause(now, 10 << 20, size, MS(1), false);
        }
        let least = Duration::from_secs_f64(bytes as f64 / f64::from(10 << 20)) - BURST;
        assert!(
            now - begun + MS(1) >= least,
            "{:?} for {bytes}",
            now - begun
        );
        assert!(now - begun <= least + MS(100), "{:?}", now - begun);
    }

    #[test]
    fn without_a_rate_only_clients_slow_it_down() {
        let mut budget = Budget::default();
        assert!(!budget.is_busy(MS(10), 0));
        assert_eq!(budget.pause(MS(10), 0, 1 << 30, MS(5), false), MS(0));
        assert!(budget.is_busy(MS(20), 1));
        assert_eq!(budget.pause(MS(20), 0, 1, MS(5), true), MS(5) * TRANQUILITY);
        assert!(budget.is_busy(MS(1_019), 1));
        assert!(!budget.is_busy(MS(1_020), 1));
        let stalled = budget.pause(MS(20), 0, 1, MS(60_000), true);
        assert_eq!(stalled, LONGEST_REST);
    }
}
