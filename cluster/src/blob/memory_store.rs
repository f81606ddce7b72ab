//! Blobs in memory, for tests of everything above a store.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::stream;

use super::{BlobStore, BlobStream, ByteRange, CHUNK_BYTES, Lease, Put, Stage, Upload, Verified};
use crate::{Digest, Error};

/// Keeps every blob for ever. Clones share their content.
#[derive(Clone, Default)]
pub struct MemoryStore {
    // A std mutex: held for map operations only, never across an await.
    blobs: Arc<Mutex<BTreeMap<Digest, Bytes>>>,
}

impl MemoryStore {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Everything that is stored, in order of digest.
    #[must_use]
    pub fn digests(&self) -> Vec<Digest> {
        self.lock().keys().copied().collect()
    }

    /// Forgets a blob; whether it was there.
    pub fn remove(&self, digest: Digest) -> bool {
        self.lock().remove(&digest).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Digest, Bytes>> {
        self.blobs.lock().expect("no panic while the map is locked")
    }

    fn bytes(&self, digest: Digest) -> Result<Bytes, Error> {
        if digest.is_empty_blob() {
            return Ok(Bytes::new());
        }
        self.lock()
            .get(&digest)
            .cloned()
            .ok_or(Error::NotFound(digest))
    }
}

#[async_trait]
impl BlobStore for MemoryStore {
    async fn find_missing(&self, digests: &[Digest], _: Lease) -> Result<Vec<u32>, Error> {
        let blobs = self.lock();
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
        if digest.is_empty_blob() || self.lock().contains_key(&digest) {
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
                if !blob.digest().is_empty_blob() {
                    stored.insert(blob.digest(), blob.into_bytes());
                }
                Ok(())
            })
            .collect()
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
            .insert(staged.digest(), self.bytes.freeze());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn keeps_what_every_store_keeps() {
        crate::blob::conformance::check(&MemoryStore::new()).await;
    }
}
