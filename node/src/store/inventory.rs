//! What repair asks of this store.
//!
//! Beside what [`Inventory`] promises:
//!
//! - summaries are counted as blobs come and go and cost the same however many
//!   there are; listing slots visits only the shards that they lie in;
//! - a closed or fenced store claims to hold nothing, so that nobody drops a
//!   copy on its word;
//! - a small copy that was dropped leaves its record behind. The space comes
//!   back when the segment holds nothing else any more, or with the cleaner. If
//!   the node dies before the next checkpoint, the copy is found again; it is
//!   offered and dropped once more;
//! - times are whole seconds. A renewal of a lease after the list may be missed
//!   for as long as the list is old, if the blob had been used just before it:
//!   whoever drops copies takes the age of the list off `lease_seconds`.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use weir_cluster::{
    Digest, Error, Slot,
    blob::{
        BlobStream, ByteRange, Held, Inventory, Put, SMALL_BLOB_BYTES, Summaries, Verified,
        Version, put_verified,
    },
    words::ids::SLOTS,
};

use super::{
    LocalStore, blocking, cleaner,
    core::Core,
    index::{SHARDS, Shard},
    uses::Coming,
};

/// Blobs that are listed without leaving the async thread: some 100 µs.
const LISTED_AT_ONCE: u64 = 4_096;

/// How often a copy is looked up again because the cleaner moved it meanwhile.
const DROP_TRIES: u32 = 8;

#[async_trait]
impl Inventory for LocalStore {
    fn version(&self) -> Version {
        self.core.index.counts().version()
    }

    fn summaries(&self) -> Summaries {
        self.core.index.counts().summaries()
    }

    async fn list(&self, slots: &[Slot]) -> Result<Vec<Held>, Error> {
        let wanted = SlotSet::of(slots);
        let (blobs, _) = self.core.index.counts().totals();
        let visited = blobs / SHARDS as u64 * u64::from(wanted.shards.count_ones());
        if visited <= LISTED_AT_ONCE {
            return Ok(list(&self.core, &wanted));
        }
        let core = self.core.clone();
        blocking(move || list(&core, &wanted)).await
    }

    fn hold(&self, blobs: &[Held]) -> Vec<bool> {
        let now = self.core.clock.now();
        let held = blobs.iter().map(|blob| {
            blob.digest.is_empty_blob()
                || self
                    .core
                    .index
                    .renew(&blob.digest, Coming::adopted(blob, now), now)
        });
        let held: Vec<bool> = held.collect();
        // After the leases: one that was extended after the last checkpoint
        // would be forgotten.
        match self.core.volume.check_writable() {
            Ok(()) => held,
            Err(_) => vec![false; blobs.len()],
        }
    }

    fn declines(&self, blob: &Held) -> bool {
        self.core.declines(blob)
    }

    async fn read(&self, digest: Digest) -> Result<BlobStream, Error> {
        self.stream(digest, ByteRange::ALL.within(digest)?).await
    }

    async fn read_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, Error>> {
        self.read_all(digests).await
    }

    async fn adopt(&self, blob: Held) -> Result<Put, Error> {
        self.begin_adoption(&blob).await
    }

    async fn adopt_batch(&self, blobs: Vec<(Verified, Held)>) -> Vec<Result<(), Error>> {
        let now = self.core.clock.now();
        let mut answers = vec![Ok(()); blobs.len()];
        let mut small = Vec::new();
        let mut places = Vec::new();
        for (place, (blob, held)) in blobs.into_iter().enumerate() {
            let held = Held {
                digest: blob.digest(),
                ..held
            };
            if held.digest.size <= SMALL_BLOB_BYTES {
                small.push((blob, Coming::adopted(&held, now)));
                places.push(place);
            } else {
                answers[place] = match self.begin_adoption(&held).await {
                    Ok(put) => put_verified(put, blob).await,
                    Err(error) => Err(error),
                };
            }
        }
        if !small.is_empty() {
            let adopted = self.core.adopt_all(small).await;
            for (place, answer) in places.into_iter().zip(adopted) {
                answers[place] = answer;
            }
        }
        answers
    }

    async fn drop_copies(&self, blobs: &[Held]) -> Result<u64, Error> {
        let core = self.core.clone();
        let blobs = blobs.to_vec();
        blocking(move || drop_all(&core, &blobs)).await?
    }
}

fn list(core: &Core, wanted: &SlotSet) -> Vec<Held> {
    let (now, floor) = (core.clock.now(), core.index.lease_floor());
    let mut held = Vec::new();
    let visit = |shard: &Shard| {
        let small = shard.small.iter();
        let small = small.filter(|entry| wanted.has(Slot::of_hash(&entry.hash)));
        held.extend(small.map(|entry| entry.uses.held(entry.digest(), now, floor)));
        let large = shard.large.iter();
        let large = large.filter(|entry| wanted.has(entry.digest.slot()));
        held.extend(large.map(|entry| entry.uses.held(entry.digest, now, floor)));
    };
    core.index.visit_some(wanted.shards, visit);
    held
}

fn drop_all(core: &Arc<Core>, blobs: &[Held]) -> Result<u64, Error> {
    let (mut dropped, mut segments) = (0, Vec::new());
    let outcome = blobs.iter().try_for_each(|blob| {
        core.volume.check_writable()?;
        let now = core.clock.now();
        if blob.digest.size > SMALL_BLOB_BYTES {
            let gone = cleaner::remove_file(core, &blob.digest, |uses| uses.is_as_told(blob, now))?;
            dropped += u64::from(gone);
        } else if let Some(segment) = drop_small(core, blob, now) {
            dropped += 1;
            segments.push(segment);
        }
        Ok(())
    });
    core.keeper.dropped(&segments);
    // What went is gone, whatever came after it.
    match outcome {
        Err(error) if dropped == 0 => Err(error),
        _ => Ok(dropped),
    }
}

/// Takes a small copy out of the index; in which segment it was.
fn drop_small(core: &Core, blob: &Held, now: u32) -> Option<u32> {
    for _ in 0..DROP_TRIES {
        let location = core.index.locate(&blob.digest)?;
        let mut told = true;
        let gone = core.index.remove_small_if(&blob.digest, location, |uses| {
            told = uses.is_as_told(blob, now);
            told
        });
        match gone {
            true => return Some(location.segment),
            false if !told => return None,
            // It moved.
            false => {}
        }
    }
    None
}

/// Slots, and the shards that they lie in.
struct SlotSet {
    bits: Box<[u64; SLOTS / 64]>,
    /// A bit for each.
    shards: u64,
}

impl SlotSet {
    fn of(slots: &[Slot]) -> Self {
        let mut set = Self {
            bits: Box::new([0; SLOTS / 64]),
            shards: 0,
        };
        for slot in slots {
            let index = slot.index();
            set.bits[index / 64] |= 1 << (index % 64);
            set.shards |= 1 << (index * SHARDS / SLOTS);
        }
        set
    }

    fn has(&self, slot: Slot) -> bool {
        let index = slot.index();
        self.bits[index / 64] & (1 << (index % 64)) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::index::shard_of;

    #[test]
    fn a_slot_lies_in_the_shard_of_its_blobs() {
        for number in 0..2_000u32 {
            let digest = Digest::of(&number.to_le_bytes());
            let set = SlotSet::of(&[digest.slot()]);
            assert_eq!(set.shards, 1 << shard_of(&digest.hash));
            assert!(set.has(digest.slot()));
            assert_eq!(
                set.bits.iter().map(|bits| bits.count_ones()).sum::<u32>(),
                1
            );
        }
        let all: Vec<_> = Slot::all().collect();
        assert_eq!(SlotSet::of(&all).shards, u64::MAX);
    }
}
