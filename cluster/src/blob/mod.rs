//! Bytes by digest: the seam that the local disk, the replicated cluster and
//! the test doubles implement.
//!
//! Three verbs: `find_missing`, `get`, `put`, the latter two also for batches
//! of small blobs.
//!
//! Invariants every implementation keeps ([`conformance`] checks them):
//!
//! - the empty blob is always present and never stored;
//! - bytes that come out under a digest hash to it, also for a range;
//! - only [`stage::Verified`] bytes, or an upload that matched, are ever stored;
//! - when `put` has returned OK the blob is durable as the store is configured;
//! - a failed or dropped upload leaves nothing behind.

use std::pin::Pin;

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;

use crate::{Digest, Error};

pub mod conformance;
pub mod inventory;
pub mod memory_store;
pub mod stage;

pub use inventory::{Held, Inventory, Summaries, Summary, Verdict, Version};
pub use stage::{Stage, Staged, Verified};

/// Largest blob that travels in batches and lives in segments. Above it a blob
/// is streamed and lives in a file of its own.
pub const SMALL_BLOB_BYTES: u64 = 1 << 20;

/// Largest piece of a stream. Well under the 4 MiB that gRPC clients accept.
pub const CHUNK_BYTES: usize = 1 << 20;

/// The bytes of a blob, in order, in non-empty pieces of at most [`CHUNK_BYTES`].
/// It ends with an error if the rest cannot be had; it never ends early with none.
pub type BlobStream = Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send>>;

/// Which bytes of a blob: from `offset`, at most `length` of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ByteRange {
    pub offset: u64,
    pub length: u64,
}

/// For how long, from now, a blob that is found or stored may not be evicted.
/// Whole seconds, kept coarsely (a lease may last a few minutes longer).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Lease {
    pub seconds: u32,
}

/// The answer to the wish to upload a blob.
pub enum Put {
    /// It is there already, with its lease renewed.
    Present,
    Upload(Box<dyn Upload>),
}

/// A place where blobs are. See the [module](self) for what all keep.
#[async_trait]
pub trait BlobStore: Send + Sync + 'static {
    /// Indices, ascending, of the digests that are not here. The lease of all
    /// others is renewed before this returns. Digests may repeat.
    async fn find_missing(&self, digests: &[Digest], lease: Lease) -> Result<Vec<u32>, Error>;

    /// Bytes of one blob. Errors: [`Error::NotFound`]; [`Error::OutOfRange`] if
    /// the range begins past the end (beginning at the end is an empty stream).
    async fn get(&self, digest: Digest, range: ByteRange) -> Result<BlobStream, Error>;

    /// Whole blobs, each at most [`SMALL_BLOB_BYTES`] or the caller's own limit;
    /// one answer per digest, in order.
    async fn get_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, Error>>;

    /// Begins an upload.
    async fn put(&self, digest: Digest) -> Result<Put, Error>;

    /// Stores whole blobs; one answer per blob, in order, when all are durable.
    async fn put_batch(&self, blobs: Vec<Verified>) -> Vec<Result<(), Error>>;
}

/// An upload under way. Dropping it aborts it and leaves nothing behind.
#[async_trait]
pub trait Upload: Send {
    /// Hands over the next bytes. Returns when they are accepted into a bounded
    /// buffer. After an error the upload is over.
    async fn write(&mut self, chunk: Bytes) -> Result<(), Error>;

    /// Ends the upload: all bytes were handed over. When it returns OK the
    /// bytes matched and the blob is durable and visible.
    async fn commit(self: Box<Self>) -> Result<(), Error>;
}

impl ByteRange {
    /// The whole blob.
    pub const ALL: Self = Self {
        offset: 0,
        length: u64::MAX,
    };

    /// The part of a blob of `digest.size` bytes that this range names, as
    /// `start..end`.
    pub fn within(self, digest: Digest) -> Result<std::ops::Range<u64>, Error> {
        if self.offset > digest.size {
            return Err(Error::OutOfRange {
                digest,
                offset: self.offset,
            });
        }
        Ok(self.offset..self.offset.saturating_add(self.length).min(digest.size))
    }
}

impl Lease {
    /// What FindMissing, uploads and reads grant where nothing else is agreed.
    pub const SHORT: Self = Self {
        seconds: 3 * 60 * 60,
    };
}

/// Reads a stream to its end. For blobs whose size the caller has bounded.
pub async fn collect(mut stream: BlobStream) -> Result<Bytes, Error> {
    use futures::StreamExt;
    let Some(first) = stream.next().await.transpose()? else {
        return Ok(Bytes::new());
    };
    let Some(second) = stream.next().await.transpose()? else {
        return Ok(first);
    };
    let mut all = Vec::with_capacity(first.len() + second.len());
    all.extend_from_slice(&first);
    all.extend_from_slice(&second);
    while let Some(chunk) = stream.next().await.transpose()? {
        all.extend_from_slice(&chunk);
    }
    Ok(all.into())
}

/// Stores one blob whose bytes are at hand, in a batch or as a stream by its size.
pub async fn put_bytes(store: &dyn BlobStore, bytes: Bytes) -> Result<Digest, Error> {
    let blob = Verified::of(bytes);
    let digest = blob.digest();
    if digest.size <= SMALL_BLOB_BYTES {
        for answer in store.put_batch(vec![blob]).await {
            answer?;
        }
        return Ok(digest);
    }
    put_verified(store.put(digest).await?, blob).await?;
    Ok(digest)
}

/// Uploads a blob whose bytes are at hand, if it is not there already.
pub async fn put_verified(put: Put, blob: Verified) -> Result<(), Error> {
    let Put::Upload(mut upload) = put else {
        return Ok(());
    };
    let mut rest = blob.into_bytes();
    while !rest.is_empty() {
        let chunk = rest.split_to(rest.len().min(CHUNK_BYTES));
        upload.write(chunk).await?;
    }
    upload.commit().await
}
