//! What repair asks of this store.

use async_trait::async_trait;
use bytes::Bytes;
use weir_cluster::{
    Digest, Error, Slot,
    blob::{BlobStore, BlobStream, ByteRange, Held, Inventory, Put, Summaries, Verified, Version},
};

use super::LocalStore;

#[async_trait]
impl Inventory for LocalStore {
    fn version(&self) -> Version {
        Version {
            opened: rand::random(),
            changes: 0,
        }
    }

    fn summaries(&self) -> Summaries {
        let mut summaries = Summaries::empty(self.version());
        self.core.index.each_shard(|shard| {
            let small = shard.small.iter().map(|entry| entry.digest());
            for digest in small.chain(shard.large.iter().map(|entry| entry.digest)) {
                summaries.slots[digest.slot().index()].add(&digest);
            }
        });
        summaries
    }

    async fn list(&self, slots: &[Slot]) -> Result<Vec<Held>, Error> {
        let now = self.core.clock.now();
        let mut held = Vec::new();
        self.core.index.each_shard(|shard| {
            let small = shard
                .small
                .iter()
                .map(|entry| (entry.digest(), &entry.uses));
            let large = shard.large.iter().map(|entry| (entry.digest, &entry.uses));
            let wanted = small
                .chain(large)
                .filter(|(digest, _)| slots.contains(&digest.slot()));
            held.extend(wanted.map(|(digest, uses)| Held {
                digest,
                idle_seconds: now.saturating_sub(uses.access()),
                lease_seconds: uses.lease_end().saturating_sub(now),
            }));
        });
        Ok(held)
    }

    fn hold(&self, blobs: &[Held]) -> Vec<bool> {
        blobs
            .iter()
            .map(|blob| self.core.index.contains(&blob.digest))
            .collect()
    }

    fn declines(&self, _: &Held) -> bool {
        false
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
        self.put_batch(blobs.into_iter().map(|(blob, _)| blob).collect())
            .await
    }

    async fn drop_copies(&self, _: &[Held]) -> Result<u64, Error> {
        Ok(0)
    }
}
