//! Blobs in memory, for tests of everything above a store.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::stream;

use super::{
    BlobStore, BlobStream, ByteRange, CHUNK_BYTES, Held, Inventory, Lease, Put, Stage, Summaries,
    Upload, Verified, Version,
};
use crate::{Digest, Error, Slot};

/// Keeps every blob for ever and knows no leases. Clones share their content.
#[derive(Clone, Default)]
pub struct MemoryStore {
    // A std mutex: held for map operations only, never across an await.
    content: Arc<Mutex<Content>>,
}

#[derive(Default)]
struct Content {
    blobs: BTreeMap<Digest, Bytes>,
    changes: u64,
    bytes: u64,
    /// Beyond it uploads are refused, see [`MemoryStore::set_limit`].
    limit_bytes: Option<u64>,
    /// Blobs idle for longer are declined, see [`MemoryStore::set_horizon`].
    horizon_seconds: Option<u32>,
    /// Since when all blobs here are said to be unused.
    idle_seconds: u32,
}

impl Content {
    fn insert(&mut self, digest: Digest, bytes: Bytes) -> Result<(), Error> {
        let sum = self.bytes + digest.size;
        if self.blobs.contains_key(&digest) {
            return Ok(());
        }
        if self.limit_bytes.is_some_and(|limit| sum > limit) {
            return Err(Error::Exhausted("the store in memory is full".into()));
        }
        self.blobs.insert(digest, bytes);
        self.bytes = sum;
        self.changes += 1;
        Ok(())
    }

    fn remove(&mut self, digest: Digest) -> bool {
        let removed = self.blobs.remove(&digest).is_some();
        if removed {
            self.changes += 1;
            self.bytes -= digest.size;
        }
        removed
    }
}

impl MemoryStore {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Everything that is stored, in order of digest.
    #[must_use]
    pub fn digests(&self) -> Vec<Digest> {
        self.lock().blobs.keys().copied().collect()
    }

    /// Forgets a blob; whether it was there.
    pub fn remove(&self, digest: Digest) -> bool {
        self.lock().remove(digest)
    }

    /// Forgets everything, as a volume that was lost.
    pub fn clear(&self) {
        let mut content = self.lock();
        content.blobs.clear();
        content.bytes = 0;
        content.changes += 1;
    }

    /// Refuses blobs beyond so many bytes, as a store full of leased blobs does.
    pub fn set_limit(&self, bytes: Option<u64>) {
        self.lock().limit_bytes = bytes;
    }

    /// Declines blobs that were idle for longer than this, as a full store
    /// would.
    pub fn set_horizon(&self, seconds: u32) {
        self.lock().horizon_seconds = Some(seconds);
    }

    /// Has all blobs here count as unused for so long.
    pub fn set_idle(&self, seconds: u32) {
        self.lock().idle_seconds = seconds;
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.content
            .lock()
            .expect("no panic while the map is locked")
    }

    fn bytes(&self, digest: Digest) -> Result<Bytes, Error> {
        if digest.is_empty_blob() {
            return Ok(Bytes::new());
        }
        self.lock()
            .blobs
            .get(&digest)
            .cloned()
            .ok_or(Error::NotFound(digest))
    }
}

#[async_trait]
impl BlobStore for MemoryStore {
    async fn find_missing(&self, digests: &[Digest], _: Lease) -> Result<Vec<u32>, Error> {
        let blobs = &self.lock().blobs;
        Ok((0..)
            .zip(digests)
            .filter(|(_, digest)| !digest.is_empty_blob() && !blobs.contains_key(digest))
            .map(|(index, _)| index)
            .collect())
    }

    async fn get(&self, digest: Digest, range: ByteRange) -> Result<BlobStream, Error> {
        let bytes = self.bytes(digest)?;
        let range = range.within(digest)?;
        let mut rest = bytes.slice(range.start as usize..range.end as usize);
        Ok(Box::pin(stream::iter(std::iter::from_fn(move || {
            (!rest.is_empty()).then(|| Ok(rest.split_to(rest.len().min(CHUNK_BYTES))))
        }))))
    }

    async fn get_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, Error>> {
        digests.iter().map(|digest| self.bytes(*digest)).collect()
    }

    async fn put(&self, digest: Digest) -> Result<Put, Error> {
        if digest.is_empty_blob() || self.lock().blobs.contains_key(&digest) {
            return Ok(Put::Present);
        }
        Ok(Put::Upload(Box::new(MemoryUpload {
            store: self.clone(),
            stage: Stage::new(digest),
            bytes: BytesMut::new(),
        })))
    }

    async fn put_batch(&self, blobs: Vec<Verified>) -> Vec<Result<(), Error>> {
        let mut stored = self.lock();
        blobs
            .into_iter()
            .map(|blob| {
                if blob.digest().is_empty_blob() {
                    return Ok(());
                }
                stored.insert(blob.digest(), blob.into_bytes())
            })
            .collect()
    }
}

#[async_trait]
impl Inventory for MemoryStore {
    fn version(&self) -> Version {
        Version {
            opened: 1,
            changes: self.lock().changes,
        }
    }

    fn summaries(&self) -> Summaries {
        let mut summaries = Summaries::empty(self.version());
        for digest in self.lock().blobs.keys() {
            summaries.slots[digest.slot().index()].add(digest);
        }
        summaries
    }

    async fn list(&self, slots: &[Slot]) -> Result<Vec<Held>, Error> {
        let content = self.lock();
        let digests = content.blobs.keys();
        Ok(digests
            .filter(|digest| slots.contains(&digest.slot()))
            .map(|digest| Held {
                digest: *digest,
                idle_seconds: content.idle_seconds,
                lease_seconds: 0,
            })
            .collect())
    }

    fn hold(&self, blobs: &[Held]) -> Vec<bool> {
        let content = self.lock();
        blobs
            .iter()
            .map(|blob| blob.digest.is_empty_blob() || content.blobs.contains_key(&blob.digest))
            .collect()
    }

    fn declines(&self, blob: &Held) -> bool {
        let horizon = self.lock().horizon_seconds;
        blob.lease_seconds == 0 && horizon.is_some_and(|seconds| blob.idle_seconds > seconds)
    }

    async fn read(&self, digest: Digest) -> Result<BlobStream, Error> {
        self.get(digest, ByteRange::ALL).await
    }

    async fn read_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, Error>> {
        self.get_batch(digests).await
    }

    async fn adopt(&self, blob: Held) -> Result<Put, Error> {
        self.put(blob.digest).await
    }

    async fn adopt_batch(&self, blobs: Vec<(Verified, Held)>) -> Vec<Result<(), Error>> {
        let blobs = blobs.into_iter().map(|(blob, _)| blob).collect();
        self.put_batch(blobs).await
    }

    async fn drop_copies(&self, blobs: &[Held]) -> Result<u64, Error> {
        let mut content = self.lock();
        let dropped = blobs.iter().filter(|blob| content.remove(blob.digest));
        Ok(dropped.count() as u64)
    }
}

struct MemoryUpload {
    store: MemoryStore,
    stage: Stage,
    bytes: BytesMut,
}

#[async_trait]
impl Upload for MemoryUpload {
    async fn write(&mut self, chunk: Bytes) -> Result<(), Error> {
        self.stage.update(&chunk)?;
        self.bytes.extend_from_slice(&chunk);
        Ok(())
    }

    async fn commit(self: Box<Self>) -> Result<(), Error> {
        let staged = self.stage.finish()?;
        self.store
            .lock()
            .insert(staged.digest(), self.bytes.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn keeps_what_every_store_keeps() {
        crate::blob::conformance::check(&MemoryStore::new()).await;
        crate::blob::conformance::check_inventory(&MemoryStore::new()).await;
    }
}
