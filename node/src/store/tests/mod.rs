//! Tests of the whole store.

use std::sync::Arc;

use tempfile::TempDir;
use weir_cluster::{
    blob::{BlobStore, Lease, conformance, put_bytes},
    journal::disk::{Disk, RealDisk},
};

use super::{LocalStore, StoreConfig, cleaner, keeper};

mod crash;
mod eviction;
mod faults;
mod fsck;
mod inventory;
mod model;
mod ranges;
mod scrub;
mod volume;

impl LocalStore {
    /// Cleans as the keeper does; returns the bytes freed.
    pub(super) fn clean(&self, want: u64) -> u64 {
        let core = self.core.clone();
        let cleaning =
            std::thread::spawn(move || cleaner::clean(&core, 0, want, u32::MAX).unwrap().freed);
        cleaning.join().unwrap()
    }

    pub(super) fn write_checkpoint(&self) {
        let core = self.core.clone();
        let writing = std::thread::spawn(move || keeper::write_checkpoint(&core));
        writing.join().unwrap();
    }
}

/// A store so small that segments fill up.
pub(super) fn small() -> StoreConfig {
    StoreConfig {
        capacity_bytes: 64 << 20,
        segment_bytes: 64 << 10,
        ..StoreConfig::default()
    }
}

pub(super) fn real_disk(dir: &TempDir) -> Arc<dyn Disk> {
    Arc::new(RealDisk::new(dir.path()))
}

#[tokio::test]
async fn keeps_what_every_store_keeps() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open(small(), real_disk(&dir)).unwrap();
    conformance::check(&*store).await;
    conformance::check_inventory(&*store).await;
    store.close();
}

#[tokio::test]
async fn what_was_stored_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut digests = Vec::new();
    for round in 0..4u64 {
        let store = LocalStore::open(small(), real_disk(&dir)).unwrap();
        let missing = store.find_missing(&digests, Lease::SHORT).await.unwrap();
        assert!(missing.is_empty(), "round {round}: {missing:?}");
        for (digest, read) in digests.iter().zip(store.get_batch(&digests).await) {
            assert_eq!(weir_cluster::Digest::of(&read.unwrap()), *digest);
        }
        for (seed, len) in [(0, 1), (1, 5_000), (2, 70_000), (3, 1 << 20), (4, 3 << 20)] {
            let bytes = conformance::sample(1_000 * round + seed, len);
            digests.push(put_bytes(&*store, bytes).await.unwrap());
        }
        if round % 2 == 0 {
            store.close();
        }
    }
}
