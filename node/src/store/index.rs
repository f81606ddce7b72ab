//! What is stored, where, until when: the map in memory.
//!
//! Only durable blobs are in it. Its leases and last accesses are atomics, so
//! that finding blobs and renewing their leases takes shared locks only; an
//! entry is removed for eviction under the exclusive lock with its lease
//! checked there, so a lease that was granted is never overlooked.

use std::sync::{
    RwLock, RwLockReadGuard, RwLockWriteGuard,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use hashbrown::HashTable;
use weir_cluster::{
    Digest,
    blob::{Lease, SMALL_BLOB_BYTES},
};

use super::{
    clock::lease_end,
    counts::Counts,
    table::Table,
    uses::{Coming, Uses},
};
use crate::planted::{self, Bug};

/// Enough that two threads seldom want the same one. Each has the blobs of 256
/// slots that follow one another.
pub(super) const SHARDS: usize = 64;

/// Where a small blob is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Location {
    pub(super) segment: u32,
    /// In units of 8 bytes.
    pub(super) offset: u32,
}

/// A blob in a segment. 52 bytes, of which a million are in memory.
pub(super) struct Small {
    pub(super) hash: [u8; 32],
    pub(super) size: u32,
    pub(super) location: Location,
    pub(super) uses: Uses,
}

/// A blob in a file of its own; its digest is its name.
pub(super) struct Large {
    pub(super) digest: Digest,
    pub(super) uses: Uses,
}

#[derive(Default)]
pub(super) struct Shard {
    pub(super) small: Table,
    pub(super) large: HashTable<Large>,
}

/// The map from digest to place.
pub(super) struct Index {
    shards: Box<[RwLock<Shard>]>,
    /// Keeps clients from choosing digests that collide in the tables.
    salt: [u64; 2],
    /// Every blob counts as leased until then: leases from before a crash are
    /// not known.
    lease_floor: AtomicU32,
    /// When the store crashed before it was opened, in its time; 0 if it did not.
    crashed: AtomicU32,
    /// Seconds for which uploads and reads lease.
    lease_seconds: AtomicU32,
    counts: Counts,
}

impl Small {
    pub(super) fn digest(&self) -> Digest {
        Digest {
            hash: self.hash,
            size: u64::from(self.size),
        }
    }

    pub(super) fn is(&self, digest: &Digest) -> bool {
        self.hash == digest.hash && u64::from(self.size) == digest.size
    }
}

impl Index {
    pub(super) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            salt: rand::random(),
            lease_floor: AtomicU32::new(0),
            crashed: AtomicU32::new(0),
            lease_seconds: AtomicU32::new(Lease::SHORT.seconds),
            counts: Counts::new(),
        }
    }

    /// How much there is, and where.
    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }

    pub(super) fn set_lease_floor(&self, end: u32) {
        self.lease_floor.store(end, Relaxed);
    }

    /// The store crashed at that time: any lease from before it may last.
    pub(super) fn set_crashed(&self, time: u32) {
        self.crashed.store(time, Relaxed);
        self.set_lease_floor(self.lease_end(time));
    }

    /// For how long uploads and reads lease from now on. What was leased stays
    /// so; what a crash made unknown was granted for so long.
    pub(super) fn set_lease(&self, lease: Lease) {
        self.lease_seconds.store(lease.seconds, Relaxed);
        let crashed = self.crashed.load(Relaxed);
        if crashed > 0 {
            self.set_lease_floor(self.lease_end(crashed));
        }
    }

    /// When a lease ends that an upload or a read is granted at that time.
    pub(super) fn lease_end(&self, time: u32) -> u32 {
        lease_end(time, self.lease_seconds.load(Relaxed))
    }

    pub(super) fn lease_floor(&self) -> u32 {
        self.lease_floor.load(Relaxed)
    }

    /// Whether the blob is here; if so it counts as used now, and leased.
    pub(super) fn touch(&self, digest: &Digest, now: u32, lease_end: u32) -> bool {
        let shard = self.read(shard_of(&digest.hash));
        match self.uses(&shard, digest) {
            Some(uses) => {
                let renewed = !planted::is(Bug::LeaseNotRenewed);
                uses.touch(now, if renewed { lease_end } else { 0 });
                true
            }
            None => false,
        }
    }

    /// Whether the blob is here; if so its lease is extended. Counts as no use.
    pub(super) fn hold(&self, digest: &Digest, lease_end: u32) -> bool {
        let shard = self.read(shard_of(&digest.hash));
        let uses = self.uses(&shard, digest);
        uses.inspect(|uses| uses.hold(lease_end)).is_some()
    }

    /// Whether the blob is here; if so that is all that comes of bringing it.
    pub(super) fn renew(&self, digest: &Digest, coming: Coming, now: u32) -> bool {
        match coming {
            Coming::Put => self.touch(digest, now, self.lease_end(now)),
            Coming::Adopted { lease_end, .. } => self.hold(digest, lease_end),
        }
    }

    /// Whether the blob is here. Counts as no use.
    pub(super) fn contains(&self, digest: &Digest) -> bool {
        let shard = self.read(shard_of(&digest.hash));
        self.uses(&shard, digest).is_some()
    }

    /// Where a small blob is. Counts as no use.
    pub(super) fn locate(&self, digest: &Digest) -> Option<Location> {
        let shard = self.read(shard_of(&digest.hash));
        self.find_small(&shard, digest).map(|entry| entry.location)
    }

    /// Adds a small blob, or moves it to where it is now.
    pub(super) fn put_small(&self, digest: Digest, location: Location, uses: Uses) {
        let mut shard = self.write(shard_of(&digest.hash));
        match shard.small.find_mut(self.key(&digest.hash), &digest) {
            Some(held) => {
                self.counts.moved(held.location.segment, location.segment);
                held.location = location;
            }
            None => {
                let entry = Small {
                    hash: digest.hash,
                    size: digest.size as u32,
                    location,
                    uses,
                };
                shard.small.insert(entry, |entry| self.key(&entry.hash));
                self.counts.came(&digest, Some(location.segment));
            }
        }
    }

    /// Moves a small blob, unless it has gone or moved otherwise meanwhile; its
    /// second chance is taken.
    pub(super) fn move_small(&self, digest: &Digest, from: Location, to: Location) {
        let mut shard = self.write(shard_of(&digest.hash));
        let found = shard.small.find_mut(self.key(&digest.hash), digest);
        if let Some(entry) = found
            && entry.location == from
        {
            entry.location = to;
            entry.uses.pass_over();
            self.counts.moved(from.segment, to.segment);
        }
    }

    /// Adds a large blob; nothing changes if it is there.
    pub(super) fn put_large(&self, digest: Digest, uses: Uses) {
        let mut shard = self.write(shard_of(&digest.hash));
        let entry = shard.large.entry(
            self.key(&digest.hash),
            |entry| entry.digest == digest,
            |entry| self.key(&entry.digest.hash),
        );
        if let hashbrown::hash_table::Entry::Vacant(free) = entry {
            free.insert(Large { digest, uses });
            self.counts.came(&digest, None);
        }
    }

    /// Takes a small blob out if it is at `location` and `agreed` by its claim.
    pub(super) fn remove_small_if(
        &self,
        digest: &Digest,
        location: Location,
        agreed: impl FnOnce(&Uses) -> bool,
    ) -> bool {
        let mut shard = self.write(shard_of(&digest.hash));
        let key = self.key(&digest.hash);
        let found = shard.small.find(key, digest);
        let goes = found.is_some_and(|entry| entry.location == location && agreed(&entry.uses));
        if goes {
            shard
                .small
                .remove(key, digest, |entry| self.key(&entry.hash));
            self.counts.went(digest, Some(location.segment));
        }
        goes
    }

    /// Takes a large blob out if `agreed` by its claim.
    pub(super) fn remove_large_if(
        &self,
        digest: &Digest,
        agreed: impl FnOnce(&Uses) -> bool,
    ) -> bool {
        let mut shard = self.write(shard_of(&digest.hash));
        let found = shard
            .large
            .find_entry(self.key(&digest.hash), |entry| entry.digest == *digest);
        match found {
            Ok(entry) if agreed(&entry.get().uses) => {
                entry.remove();
                self.counts.went(digest, None);
                true
            }
            _ => false,
        }
    }

    /// Takes the second chance of large blobs.
    pub(super) fn pass_over(&self, digests: &[Digest]) {
        for digest in digests {
            let shard = self.read(shard_of(&digest.hash));
            if let Some(uses) = self.uses(&shard, digest) {
                uses.pass_over();
            }
        }
    }

    /// Visits the shards one after another, each locked against removal while
    /// it is visited.
    pub(super) fn each_shard(&self, visit: impl FnMut(&Shard)) {
        self.visit_some(u64::MAX, visit);
    }

    /// The same for those whose bit is set.
    pub(super) fn visit_some(&self, shards: u64, mut visit: impl FnMut(&Shard)) {
        for shard in (0..SHARDS).filter(|shard| shards & (1 << shard) != 0) {
            visit(&self.read(shard));
        }
    }

    /// Fills one shard with up to `most` small blobs it does not hold yet: what
    /// a checkpoint restores.
    pub(super) fn fill(&self, shard: usize, most: usize, entries: impl Iterator<Item = Small>) {
        let mut held = self.write(shard);
        held.small.reserve(most, |entry| self.key(&entry.hash));
        for entry in entries {
            let segment = entry.location.segment;
            self.counts.came(&entry.digest(), Some(segment));
            held.small.insert(entry, |entry| self.key(&entry.hash));
        }
    }

    fn uses<'a>(&self, shard: &'a Shard, digest: &Digest) -> Option<&'a Uses> {
        if digest.size <= SMALL_BLOB_BYTES {
            self.find_small(shard, digest).map(|entry| &entry.uses)
        } else {
            shard
                .large
                .find(self.key(&digest.hash), |entry| entry.digest == *digest)
                .map(|entry| &entry.uses)
        }
    }

    fn find_small<'a>(&self, shard: &'a Shard, digest: &Digest) -> Option<&'a Small> {
        shard.small.find(self.key(&digest.hash), digest)
    }

    fn key(&self, hash: &[u8; 32]) -> u64 {
        let left = super::record::u64_at(hash, 0) ^ self.salt[0];
        let right = super::record::u64_at(hash, 8) ^ self.salt[1];
        let product = u128::from(left) * u128::from(right);
        (product as u64) ^ ((product >> 64) as u64)
    }

    // Std locks: held for table operations only, never across an await.
    fn read(&self, shard: usize) -> RwLockReadGuard<'_, Shard> {
        self.shards[shard]
            .read()
            .expect("no panic while a shard is locked")
    }

    fn write(&self, shard: usize) -> RwLockWriteGuard<'_, Shard> {
        self.shards[shard]
            .write()
            .expect("no panic while a shard is locked")
    }
}

/// The shard a hash belongs to, the same in every process.
pub(super) fn shard_of(hash: &[u8; 32]) -> usize {
    usize::from(hash[0]) * SHARDS / 256
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::uses::Claim;

    #[test]
    fn an_entry_stays_small() {
        assert!(size_of::<Small>() <= 56, "{}", size_of::<Small>());
    }

    #[test]
    fn a_lease_and_a_touch_each_hold_an_entry() {
        let index = Index::new();
        let digest = Digest::of(b"weir");
        let here = Location {
            segment: 1,
            offset: 2,
        };
        assert!(!index.touch(&digest, 5, 10));
        index.put_small(digest, here, Uses::new(5, 10));
        let claim = |now| {
            let mut claims = Vec::new();
            index.each_shard(|shard| {
                claims.extend(shard.small.iter().map(|entry| entry.uses.claim(now)));
            });
            claims
        };
        assert_eq!(claim(9), [Claim::Leased]);
        assert_eq!(claim(10), [Claim::Cold]);
        assert!(index.touch(&digest, 12, 14));
        assert_eq!(claim(13), [Claim::Leased]);
        assert_eq!(claim(14), [Claim::Touched]);
        // A shorter lease takes nothing away.
        assert!(index.touch(&digest, 12, 13));
        assert_eq!(claim(13), [Claim::Leased]);
        let there = Location {
            segment: 2,
            offset: 2,
        };
        index.move_small(&digest, there, here);
        assert_eq!(index.locate(&digest), Some(here));
        index.move_small(&digest, here, there);
        assert_eq!(index.locate(&digest), Some(there));
        assert_eq!(claim(14), [Claim::Cold]);
        assert!(!index.remove_small_if(&digest, here, |_| true));
        assert!(!index.remove_small_if(&digest, there, |_| false));
        assert_eq!(index.counts().totals(), (1, 4));
        assert!(index.remove_small_if(&digest, there, |_| true));
        assert_eq!(index.counts().totals(), (0, 0));
    }
}
