//! Power cuts after each operation of a workload: what was acknowledged is
//! there byte for byte, what is there hashes to its name, and the store works.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use weir_cluster::{
    Digest,
    blob::{BlobStore, ByteRange, Lease, collect, conformance::sample, put_bytes},
    journal::sim_disk::{Keep, SimDisk},
};

use super::super::{LocalStore, StoreConfig, checkpoint};

/// A blob, and after how many operations its put was answered.
struct Acknowledged {
    digest: Digest,
    bytes: Bytes,
    after: usize,
    /// Operations after which it may have been evicted.
    until: usize,
}

fn tiny() -> StoreConfig {
    StoreConfig {
        capacity_bytes: 128 << 20,
        segment_bytes: 32 << 10,
        ..StoreConfig::default()
    }
}

async fn put(store: &LocalStore, disk: &SimDisk, seed: u64, len: usize) -> Acknowledged {
    let bytes = sample(seed, len);
    let digest = put_bytes(store, bytes.clone()).await.unwrap();
    Acknowledged {
        digest,
        bytes,
        after: disk.operations(),
        until: usize::MAX,
    }
}

/// Opens what each power cut leaves, from `from` operations on.
async fn check_cuts(disk: &SimDisk, from: usize, blobs: &[Acknowledged], samples: u64) {
    for at in from..=disk.operations() {
        let sampled = (0..samples).map(Keep::Sampled);
        for keep in sampled.chain([Keep::Nothing, Keep::Everything]) {
            check_cut(disk, at, keep, blobs).await;
        }
    }
}

async fn check_cut(disk: &SimDisk, at: usize, keep: Keep, blobs: &[Acknowledged]) {
    let cut = disk.after_power_cut(at, keep);
    let context = || {
        let operations = disk.describe_operations();
        let last = operations[at.saturating_sub(12)..at].join("\n  ");
        format!("cut after {at} operations, {keep:?}; the last were\n  {last}")
    };
    let store = LocalStore::open(tiny(), Arc::new(cut.clone()))
        .unwrap_or_else(|error| panic!("{error}: {}", context()));
    for blob in blobs {
        let here = store
            .find_missing(&[blob.digest], Lease::SHORT)
            .await
            .unwrap()
            .is_empty();
        let due = blob.after <= at && at < blob.until;
        assert!(here || !due, "{} is lost: {}", blob.digest, context());
        if here {
            let read = store.get(blob.digest, ByteRange::ALL).await;
            let read = match read {
                Ok(stream) => collect(stream).await,
                Err(error) => Err(error),
            };
            let read = read.unwrap_or_else(|error| panic!("{error}: {}", context()));
            assert!(read == blob.bytes, "{}", context());
        }
    }
    // What was found must survive the next cut as well, and so must a new blob.
    let present: Vec<Digest> = blobs.iter().map(|blob| blob.digest).collect();
    let missing = store.find_missing(&present, Lease::SHORT).await.unwrap();
    let new = put_bytes(&*store, sample(999_999, 100)).await.unwrap();
    let again = cut.after_power_cut(cut.operations(), Keep::Nothing);
    drop(store);
    let store = LocalStore::open(tiny(), Arc::new(again)).unwrap();
    let missing_now = store.find_missing(&present, Lease::SHORT).await.unwrap();
    assert_eq!(missing_now, missing, "{}", context());
    let found = store.find_missing(&[new], Lease::SHORT).await.unwrap();
    assert!(found.is_empty(), "{}", context());
}

#[tokio::test]
async fn puts_uploads_and_new_segments_survive_a_cut_anywhere() {
    let disk = SimDisk::new();
    let store = LocalStore::open(tiny(), Arc::new(disk.clone())).unwrap();
    let mut blobs = Vec::new();
    for (seed, len) in [
        (1, 100),
        (2, 20_000),
        (3, 20_000),
        (4, 70_000),
        (5, 200_000),
    ] {
        blobs.push(put(&store, &disk, seed, len).await);
    }
    blobs.push(put(&store, &disk, 6, (1 << 20) + 1).await);
    blobs.push(put(&store, &disk, 7, 1).await);
    drop(store);
    check_cuts(&disk, 0, &blobs, 3).await;
}

/// The plainest case, in a moment: small, in more than one piece, and a file.
#[tokio::test]
async fn what_was_answered_survives_a_cut_right_after() {
    for (seed, len) in [(11, 100), (12, 70_000), (13, (1 << 20) + 1)] {
        let disk = SimDisk::new();
        let store = LocalStore::open(tiny(), Arc::new(disk.clone())).unwrap();
        let blob = put(&store, &disk, seed, len).await;
        let at = disk.operations();
        drop(store);
        check_cut(&disk, at, Keep::Nothing, &[blob]).await;
    }
}

#[tokio::test]
async fn groups_of_writers_survive_a_cut_anywhere() {
    let disk = SimDisk::new();
    let store = LocalStore::open(tiny(), Arc::new(disk.clone())).unwrap();
    let writers = (0..40).map(|seed| put(&store, &disk, 100 + seed, 1_000 + 100 * seed as usize));
    let blobs = futures::future::join_all(writers).await;
    drop(store);
    check_cuts(&disk, 0, &blobs, 3).await;
}

#[tokio::test]
async fn closing_and_opening_survive_a_cut_anywhere() {
    let disk = SimDisk::new();
    let mut blobs = Vec::new();
    for round in 0..3 {
        let store = LocalStore::open(tiny(), Arc::new(disk.clone())).unwrap();
        for seed in 0..4 {
            blobs.push(put(&store, &disk, 200 + 10 * round + seed, 12_000).await);
        }
        if round == 1 {
            blobs.push(put(&store, &disk, 290, (1 << 20) + 5).await);
        }
        store.close();
    }
    assert!(checkpoint::Reader::open(&disk).unwrap().is_some());
    check_cuts(&disk, 0, &blobs, 3).await;
}

#[tokio::test]
async fn cleaning_survives_a_cut_anywhere() {
    let disk = SimDisk::new();
    let store = LocalStore::open(tiny(), Arc::new(disk.clone())).unwrap();
    let mut blobs = Vec::new();
    for seed in 0..12 {
        blobs.push(put(&store, &disk, 300 + seed, 9_000).await);
    }
    let from = disk.operations();
    // Every other blob is leased for longer than the others.
    store.core.clock.advance(Lease::SHORT.seconds * 2);
    let (kept, cold): (Vec<_>, Vec<_>) = (0..blobs.len()).partition(|index| index % 2 == 0);
    for index in kept {
        assert!(store.touch(&blobs[index].digest));
    }
    for index in cold {
        blobs[index].until = from;
    }
    let cleaned = store.clean(u64::MAX);
    assert!(cleaned > 20_000, "only {cleaned} bytes were freed");
    store.write_checkpoint();
    blobs.push(put(&store, &disk, 399, 9_000).await);
    drop(store);
    assert!(disk.operations() > from + 10);
    check_cuts(&disk, from, &blobs, 3).await;
}

#[tokio::test]
async fn checkpoints_between_writes_survive_a_cut_anywhere() {
    let disk = SimDisk::new();
    let store = LocalStore::open(tiny(), Arc::new(disk.clone())).unwrap();
    let mut blobs = Vec::new();
    for round in 0..3 {
        for seed in 0..3 {
            blobs.push(put(&store, &disk, 400 + 10 * round + seed, 9_000).await);
        }
        store.write_checkpoint();
    }
    blobs.push(put(&store, &disk, 499, 9_000).await);
    drop(store);
    check_cuts(&disk, 0, &blobs, 3).await;
    // And without the checkpoint, from the segments alone.
    let cut = disk.after_power_cut(disk.operations(), Keep::Nothing);
    weir_cluster::journal::disk::Disk::remove(&cut, Path::new(checkpoint::PATH)).unwrap();
    check_cut(&cut, cut.operations(), Keep::Everything, &blobs).await;
}
