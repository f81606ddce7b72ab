//! Store time: seconds during which the store was open.
//!
//! It never goes back and never jumps, whatever the machine's date does: it
//! advances with the monotonic clock while the store is open and goes on after
//! a restart from the last value that was written down. Time that passed while
//! the node was down, or after the last value was written, does not count. So
//! a lease may last longer than was asked for, never shorter.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Instant,
};

/// Largest store time: the top bit of a last access says "touched". 68 years.
pub(super) const TIME_MAX: u32 = u32::MAX >> 1;

/// Store time at which an empty store begins, about a year: blobs that are
/// copied to a new node were used before it was there, and keep their ages.
pub(super) const BEGINNING: u32 = 1 << 25;

/// Tells the store time.
pub(super) struct Clock {
    opened: Instant,
    /// Store time when it was opened; tests add to it.
    base: AtomicU32,
}

impl Clock {
    /// Goes on from `base` seconds.
    pub(super) fn from(base: u32) -> Self {
        Self {
            opened: Instant::now(),
            base: AtomicU32::new(base),
        }
    }

    pub(super) fn now(&self) -> u32 {
        let open = u32::try_from(self.opened.elapsed().as_secs()).unwrap_or(TIME_MAX);
        self.base
            .load(Ordering::Relaxed)
            .saturating_add(open)
            .min(TIME_MAX)
    }

    /// Makes time pass.
    #[cfg(test)]
    pub(super) fn advance(&self, seconds: u32) {
        self.base.fetch_add(seconds, Ordering::Relaxed);
    }
}

/// When a lease granted at `now` ends. A second is added because `now` was
/// rounded down.
pub(super) fn lease_end(now: u32, lease_seconds: u32) -> u32 {
    now.saturating_add(lease_seconds)
        .saturating_add(1)
        .min(TIME_MAX)
}
