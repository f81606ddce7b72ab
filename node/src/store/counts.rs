//! How many blobs there are, in all, by slot and by segment, kept up to date
//! with each blob that comes or goes.
//!
//! What is counted by slot takes 192 KiB, whatever the store holds. Changes of
//! the index call this while their shard is locked.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard,
        atomic::{
            AtomicU32, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
};

use weir_cluster::{
    Digest,
    blob::{Summaries, Summary, Version, inventory::fingerprint},
    words::ids::SLOTS,
};

/// See the [module](self).
pub(super) struct Counts {
    opened: u64,
    changes: AtomicU64,
    blobs: AtomicU64,
    bytes: AtomicU64,
    slot_blobs: Box<[AtomicU32]>,
    slot_sums: Box<[AtomicU64]>,
    /// Small blobs by segment, none of them zero. A std mutex: held for one
    /// operation on the map.
    live: Mutex<HashMap<u32, u64>>,
}

impl Counts {
    pub(super) fn new() -> Self {
        Self {
            opened: rand::random(),
            changes: AtomicU64::new(0),
            blobs: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            slot_blobs: (0..SLOTS).map(|_| AtomicU32::new(0)).collect(),
            slot_sums: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
            live: Mutex::default(),
        }
    }

    /// Number of blobs and of their bytes.
    pub(super) fn totals(&self) -> (u64, u64) {
        (self.blobs.load(Relaxed), self.bytes.load(Relaxed))
    }

    pub(super) fn version(&self) -> Version {
        Version {
            opened: self.opened,
            changes: self.changes.load(Acquire),
        }
    }

    /// What is where. The version is read first: a blob that comes or goes
    /// meanwhile makes the summaries newer than it, never older, and whoever
    /// keeps them asks once more.
    pub(super) fn summaries(&self) -> Summaries {
        let mut summaries = Summaries::empty(self.version());
        let counted = self.slot_blobs.iter().zip(&self.slot_sums);
        for (summary, (blobs, sum)) in summaries.slots.iter_mut().zip(counted) {
            *summary = Summary {
                blobs: blobs.load(Relaxed),
                sum: sum.load(Relaxed),
            };
        }
        summaries
    }

    /// Small blobs in each segment that has any, in order of number.
    pub(super) fn live(&self) -> Vec<(u32, u64)> {
        let live = self.lock();
        let mut live: Vec<_> = live
            .iter()
            .map(|(number, blobs)| (*number, *blobs))
            .collect();
        live.sort_unstable();
        live
    }

    pub(super) fn is_live(&self, segment: u32) -> bool {
        self.lock().contains_key(&segment)
    }

    /// A blob has come, into a segment if it is a small one.
    pub(super) fn came(&self, digest: &Digest, segment: Option<u32>) {
        if let Some(segment) = segment {
            *self.lock().entry(segment).or_default() += 1;
        }
        self.blobs.fetch_add(1, Relaxed);
        self.bytes.fetch_add(digest.size, Relaxed);
        let slot = digest.slot().index();
        self.slot_blobs[slot].fetch_add(1, Relaxed);
        self.slot_sums[slot].fetch_add(fingerprint(digest), Relaxed);
        // Last: whoever sees the new version sees the new sums.
        self.changes.fetch_add(1, Release);
    }

    /// A blob has gone.
    pub(super) fn went(&self, digest: &Digest, segment: Option<u32>) {
        if let Some(segment) = segment {
            leave(&mut self.lock(), segment);
        }
        self.blobs.fetch_sub(1, Relaxed);
        self.bytes.fetch_sub(digest.size, Relaxed);
        let slot = digest.slot().index();
        self.slot_blobs[slot].fetch_sub(1, Relaxed);
        self.slot_sums[slot].fetch_sub(fingerprint(digest), Relaxed);
        self.changes.fetch_add(1, Release);
    }

    /// A small blob is in another segment now, which is no change of content.
    pub(super) fn moved(&self, from: u32, to: u32) {
        let mut live = self.lock();
        leave(&mut live, from);
        *live.entry(to).or_default() += 1;
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, u64>> {
        self.live.lock().expect("no panic while the map is locked")
    }
}

fn leave(live: &mut HashMap<u32, u64>, segment: u32) {
    if let Some(blobs) = live.get_mut(&segment) {
        *blobs -= 1;
        if *blobs == 0 {
            live.remove(&segment);
        }
    }
}
