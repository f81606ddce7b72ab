//! What a check of a stopped store says of it.

use std::{collections::BTreeSet, sync::Arc};

use weir_cluster::{
    Digest, Slot,
    blob::{Held, Inventory, conformance::sample, put_bytes},
    journal::sim_disk::{Keep, SimDisk},
};

use super::super::{LocalStore, StoreConfig, fsck, fsck::Place};

fn open(disk: &SimDisk) -> Arc<LocalStore> {
    let config = StoreConfig {
        capacity_bytes: 64 << 20,
        segment_bytes: 32 << 10,
        ..StoreConfig::default()
    };
    LocalStore::open(config, Arc::new(disk.clone())).unwrap()
}

async fn inventory(store: &LocalStore) -> Vec<Held> {
    let slots: Vec<Slot> = Slot::all().collect();
    store.list(&slots).await.unwrap()
}

/// Some blobs, a file among them; half of what was there before is dropped.
async fn fill(store: &LocalStore, round: u64) {
    let mut held = inventory(store).await;
    held.truncate(held.len() / 2);
    store.drop_copies(&held).await.unwrap();
    for (seed, len) in [(1, 50), (2, 20_000), (3, 30_000), (4, (1 << 20) + 9)] {
        let bytes = sample(100 * round + seed, len);
        put_bytes(store, bytes).await.unwrap();
    }
}

/// After a power cut anywhere, and closed or not: a check lists what a start
/// finds, copies that were dropped left out as far as they are for a start, and
/// calls nothing damaged that a cut explains.
#[tokio::test]
async fn a_list_is_what_a_start_would_find() {
    let disk = SimDisk::new();
    let store = open(&disk);
    fill(&store, 1).await;
    store.write_checkpoint();
    fill(&store, 2).await;
    store.close();
    drop(store);
    let store = open(&disk);
    fill(&store, 3).await;
    store.close();
    drop(store);
    let mut sizes = BTreeSet::new();
    for at in 0..=disk.operations() {
        for keep in [Keep::Nothing, Keep::Everything, Keep::Sampled(at as u64)] {
            let cut = disk.after_power_cut(at, keep);
            let (report, holdings) = fsck::list(&cut).unwrap();
            let listed: BTreeSet<Digest> = holdings.keys().copied().collect();
            let found = inventory(&open(&cut)).await;
            let found: BTreeSet<Digest> = found.iter().map(|held| held.digest).collect();
            assert_eq!(listed, found, "cut after {at} operations, {keep:?}");
            assert!(
                report.is_clean(),
                "cut after {at} operations, {keep:?}: {report}"
            );
            sizes.insert(found.len());
        }
    }
    assert!(sizes.len() >= 6, "{sizes:?}");
}

#[tokio::test]
async fn a_list_says_where_and_leaves_out_what_is_damaged() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let damaged = put_bytes(&*store, sample(2, 10_000)).await.unwrap();
    // Behind it: the last record might have been cut off.
    let small = put_bytes(&*store, sample(1, 20_000)).await.unwrap();
    let large = put_bytes(&*store, sample(3, 2 << 20)).await.unwrap();
    store.close();
    drop(store);
    let (_, all) = fsck::list(&disk).unwrap();
    let Some(Place::Record { segment, offset }) = all.get(&damaged).cloned() else {
        panic!("{all:?}");
    };
    let path = super::super::segments::path(segment);
    disk.flip_bits(&path, offset + 5_000, 1).unwrap();
    let (report, left) = fsck::list(&disk).unwrap();
    assert_eq!(left.keys().copied().collect::<BTreeSet<_>>(), {
        BTreeSet::from([small, large])
    });
    assert_eq!(left[&large].to_string(), {
        format!(
            "files/{}/{}-{}",
            &large.hash_hex()[..2],
            large.hash_hex(),
            large.size
        )
    });
    assert!(left[&small].to_string().starts_with("segment "));
    // The record, and the entry of the checkpoint that leads to it.
    assert_eq!(report.damaged, 2, "{report}");
}
