//! How long a blob is wanted: its last use and its lease, in store time.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use weir_cluster::{Digest, blob::Held};

use super::clock::lease_end;
use crate::planted::{self, Bug};

/// Top bit of a last access: used since it was written or last passed over.
const TOUCHED: u32 = 1 << 31;

/// Last use and lease of a blob, both in store time.
#[derive(Debug)]
pub(super) struct Uses {
    access: AtomicU32,
    lease_end: AtomicU32,
}

/// How much an entry is still wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    /// May not be evicted.
    Leased,
    /// Used since it was written or last passed over by the cleaner.
    Touched,
    Cold,
}

/// With which life a blob comes into the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coming {
    /// Brought by a client: used now, and leased for a short time.
    Put,
    /// Copied from another node: last used then, leased until then.
    Adopted { access: u32, lease_end: u32 },
}

impl Uses {
    pub(super) fn new(access: u32, lease_end: u32) -> Self {
        Self {
            access: AtomicU32::new(access),
            lease_end: AtomicU32::new(lease_end),
        }
    }

    /// As written in a checkpoint: last access with its mark, end of the lease.
    pub(super) fn parts(&self) -> (u32, u32) {
        (self.access.load(Relaxed), self.lease_end.load(Relaxed))
    }

    /// Time of the last use.
    pub(super) fn access(&self) -> u32 {
        self.access.load(Relaxed) & !TOUCHED
    }

    pub(super) fn lease_end(&self) -> u32 {
        self.lease_end.load(Relaxed)
    }

    pub(super) fn touch(&self, now: u32, lease_end: u32) {
        self.access.store(now | TOUCHED, Relaxed);
        self.hold(lease_end);
    }

    /// Extends the lease and counts as no use.
    pub(super) fn hold(&self, lease_end: u32) {
        self.lease_end.fetch_max(lease_end, Relaxed);
    }

    /// Takes the second chance: from here only a new use counts.
    pub(super) fn pass_over(&self) {
        self.access.fetch_and(!TOUCHED, Relaxed);
    }

    pub(super) fn claim(&self, now: u32) -> Claim {
        if self.lease_end.load(Relaxed) > now && !planted::is(Bug::LeasedEvicted) {
            Claim::Leased
        } else if self.access.load(Relaxed) & TOUCHED != 0 {
            Claim::Touched
        } else {
            Claim::Cold
        }
    }

    /// As told to other nodes. Leases from before a crash are not known, so
    /// until `lease_floor` each blob counts as leased: owners take it then.
    pub(super) fn held(&self, digest: Digest, now: u32, lease_floor: u32) -> Held {
        Held {
            digest,
            idle_seconds: now.saturating_sub(self.access()),
            lease_seconds: self.lease_end().max(lease_floor).saturating_sub(now),
        }
    }

    /// Whether nobody has used the blob, nor renewed its lease, since it was
    /// told to be `held`.
    ///
    /// The lease floor counts as no lease here. Nobody asked for it, and it was
    /// told, so all owners hold the blob for at least as long; if it counted, a
    /// node could drop nothing for hours after each crash.
    pub(super) fn is_as_told(&self, held: &Held, now: u32) -> bool {
        if planted::is(Bug::UsedBlobDropped) {
            return true;
        }
        let idle = now.saturating_sub(self.access());
        let leased = self.lease_end().saturating_sub(now);
        // Times of both sides are whole seconds, rounded down.
        idle.saturating_add(1) >= held.idle_seconds
            && leased <= held.lease_seconds.saturating_add(1)
    }
}

impl Coming {
    /// Of a copy that is told to be `held` elsewhere.
    ///
    /// No second is added for rounding, unlike to a new lease: `held` has it,
    /// and leases that nodes tell each other again and again would never end.
    pub(super) fn adopted(held: &Held, now: u32) -> Self {
        Self::Adopted {
            access: now.saturating_sub(held.idle_seconds),
            lease_end: match held.lease_seconds {
                0 => 0,
                seconds => lease_end(now, seconds - 1),
            },
        }
    }

    /// Of a blob that becomes visible now, where an upload is leased until
    /// `lease_end`.
    pub(super) fn uses(self, now: u32, lease_end: u32) -> Uses {
        match self {
            Self::Put => Uses::new(now, lease_end),
            Self::Adopted { access, lease_end } => Uses::new(access, lease_end),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(idle_seconds: u32, lease_seconds: u32) -> Held {
        Held {
            digest: Digest::of(b"weir"),
            idle_seconds,
            lease_seconds,
        }
    }

    #[test]
    fn an_adopted_copy_has_the_age_and_the_lease_it_had() {
        for held in [told(0, 0), told(50, 0), told(50, 1), told(7, 10_801)] {
            let coming = Coming::adopted(&held, 1_000);
            assert_eq!(coming.uses(1_000, 0).held(held.digest, 1_000, 0), held);
            // Told on and on, it ends when it would have ended.
            let later = coming.uses(1_000, 0).held(held.digest, 1_001, 0);
            let again = Coming::adopted(&later, 5_000).uses(5_000, 0);
            assert_eq!(
                again.held(held.digest, 5_000, 0).lease_seconds,
                held.lease_seconds.saturating_sub(1)
            );
        }
        assert_eq!(Coming::adopted(&told(50, 0), 20).uses(20, 0).access(), 0);
    }

    #[test]
    fn a_use_or_a_longer_lease_is_noticed() {
        let uses = Uses::new(100, 500);
        let held = uses.held(Digest::of(b"weir"), 300, 0);
        assert_eq!((held.idle_seconds, held.lease_seconds), (200, 200));
        for now in [300, 301, 400, 1_000] {
            assert!(uses.is_as_told(&held, now), "{now}");
        }
        let used = Uses::new(100, 500);
        used.touch(310, 0);
        assert!(!used.is_as_told(&held, 320));
        let leased = Uses::new(100, 500);
        leased.hold(900);
        assert!(!leased.is_as_told(&held, 320));
        // The floor is told, and keeps nothing from going.
        let held = uses.held(Digest::of(b"weir"), 600, 11_400);
        assert_eq!(held.lease_seconds, 10_800);
        assert!(uses.is_as_told(&held, 601));
    }
}
