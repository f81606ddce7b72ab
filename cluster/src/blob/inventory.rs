//! What a node holds, slot by slot: what repair asks of a store beside the
//! three verbs.
//!
//! Invariants every implementation keeps:
//!
//! - [`Inventory::version`] changes with every blob that comes or goes, also
//!   across restarts, so that equal versions mean equal content;
//! - nothing here counts as a use: repair never makes a blob look wanted, or it
//!   would fight eviction for ever;
//! - a copy is dropped only while nobody renewed its lease since it was listed.

use async_trait::async_trait;
use bytes::Bytes;

use super::{BlobStore, BlobStream, Put, Verified};
use crate::{Digest, Error, Slot, words::ids::SLOTS};

/// Names the content of a store at a moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Version {
    /// Random, minted when the store was opened.
    pub opened: u64,
    /// Blobs that came or went since.
    pub changes: u64,
}

/// The blobs of one slot in twelve bytes: equal summaries mean equal blobs,
/// but for one chance in 2^64.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    pub blobs: u32,
    /// Sum of [`fingerprint`]s, modulo 2^64: the order does not matter, and
    /// taking out is subtracting.
    pub sum: u64,
}

/// The summaries of all slots, and the version that they are of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Summaries {
    pub version: Version,
    /// [`SLOTS`] of them.
    pub slots: Vec<Summary>,
}

/// A blob that a node holds, with what is left of its life there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Held {
    pub digest: Digest,
    /// Seconds since its last use, while the store was open.
    pub idle_seconds: u32,
    /// Seconds for which it may not be evicted.
    pub lease_seconds: u32,
}

/// What an owner says of a blob that another node holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It is here, leased for at least as long as there.
    Holds,
    /// It would be evicted here by now: let it go.
    Declines,
    /// It is lacking here and will be fetched.
    Wants,
}

/// A store whose content can be compared, copied and thinned out by repair.
#[async_trait]
pub trait Inventory: BlobStore {
    fn version(&self) -> Version;

    fn summaries(&self) -> Summaries;

    /// The blobs of some slots, in no order.
    async fn list(&self, slots: &[Slot]) -> Result<Vec<Held>, Error>;

    /// For each blob whether it is here. One that is keeps its lease for at
    /// least as long as given.
    fn hold(&self, blobs: &[Held]) -> Vec<bool>;

    /// Whether this store has evicted blobs that were used later than this one,
    /// so that fetching it would only have it evicted again. Never true of a
    /// leased blob.
    fn declines(&self, blob: &Held) -> bool;

    /// As [`BlobStore::get`] of the whole blob, without using it.
    async fn read(&self, digest: Digest) -> Result<BlobStream, Error>;

    /// As [`BlobStore::get_batch`], without using the blobs.
    async fn read_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, Error>>;

    /// As [`BlobStore::put`], for a copy that keeps its age and lease.
    async fn adopt(&self, blob: Held) -> Result<Put, Error>;

    /// As [`BlobStore::put_batch`], for copies that keep their age and lease.
    async fn adopt_batch(&self, blobs: Vec<(Verified, Held)>) -> Vec<Result<(), Error>>;

    /// Drops copies, each unless its lease was renewed since it was listed so;
    /// how many went.
    async fn drop_copies(&self, blobs: &[Held]) -> Result<u64, Error>;
}

impl Summary {
    pub fn add(&mut self, digest: &Digest) {
        self.blobs = self.blobs.wrapping_add(1);
        self.sum = self.sum.wrapping_add(fingerprint(digest));
    }

    pub fn remove(&mut self, digest: &Digest) {
        self.blobs = self.blobs.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(fingerprint(digest));
    }
}

impl Summaries {
    /// Of a store that holds nothing.
    #[must_use]
    pub fn empty(version: Version) -> Self {
        Self {
            version,
            slots: vec![Summary::default(); SLOTS],
        }
    }

    #[must_use]
    pub fn of(&self, slot: Slot) -> Summary {
        self.slots.get(slot.index()).copied().unwrap_or_default()
    }
}

/// Eight bytes of a digest that are not those its slot comes from, mixed with
/// its size.
#[must_use]
pub fn fingerprint(digest: &Digest) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest.hash[8..16]);
    u64::from_le_bytes(bytes) ^ digest.size.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
