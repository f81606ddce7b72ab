//! Damage at rest is found by verifying, not by whoever needs the blob.

use std::{fs, path::Path, sync::Arc, time::Duration};

use tempfile::TempDir;
use weir_cluster::{
    Digest,
    blob::{BlobStore, Inventory, Lease, conformance::sample, put_bytes},
    journal::{
        disk::Disk,
        sim_disk::{Keep, SimDisk},
    },
};

use super::{
    super::{LocalStore, files, record::header_len, segments},
    real_disk, small,
};

/// Longer than any pass here takes; only a hang lasts so long.
const PATIENCE: Duration = Duration::from_secs(120);

async fn put_all(store: &LocalStore, seeds: std::ops::Range<u64>, len: usize) -> Vec<Digest> {
    let mut stored = Vec::new();
    for seed in seeds {
        stored.push(put_bytes(store, sample(seed, len)).await.unwrap());
    }
    stored
}

/// Waits until so many passes are finished.
async fn passes(store: &LocalStore, passes: u64) {
    let mut progress = store.scrub_progress();
    let done = progress.wait_for(|report| report.passes >= passes);
    tokio::time::timeout(PATIENCE, done).await.unwrap().unwrap();
}

/// Flips a bit in the middle of a small blob's record, in its file.
fn flip_small(dir: &TempDir, store: &LocalStore, digest: &Digest) {
    let location = store.core.index.locate(digest).unwrap();
    let at =
        u64::from(location.offset) * 8 + header_len(digest.size as u32) as u64 + digest.size / 2;
    flip(&dir.path().join(segments::path(location.segment)), at);
}

fn flip(path: &Path, at: u64) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at as usize] ^= 0x10;
    // In place: the file that is open is the one that is damaged.
    use std::os::unix::fs::FileExt;
    let file = fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(&bytes[at as usize..=at as usize], at)
        .unwrap();
}

#[tokio::test]
async fn all_damage_is_found_and_the_rest_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open(small(), real_disk(&dir)).unwrap();
    let small_blobs = put_all(&store, 0..120, 9_000).await;
    let large_blobs = put_all(&store, 200..206, (1 << 20) + 4_321).await;
    let mut damaged = Vec::new();
    for digest in small_blobs.iter().step_by(7) {
        flip_small(&dir, &store, digest);
        damaged.push(*digest);
    }
    for (digest, at) in [(large_blobs[1], 5), (large_blobs[4], (1 << 20) + 4_330)] {
        // The one in its bytes, the other in its trailer.
        flip(&dir.path().join(files::path(&digest)), at);
        damaged.push(digest);
    }
    let notify = store.damage_notify();
    let version = store.version();
    store.scrub_now();
    passes(&store, 1).await;
    tokio::time::timeout(PATIENCE, notify.notified())
        .await
        .unwrap();
    let mut found = store.quarantined();
    found.sort_unstable();
    damaged.sort_unstable();
    assert_eq!(found, damaged);
    assert_ne!(store.version(), version, "what is gone is asked for anew");
    let report = store.report().scrub;
    assert!(!report.running);
    assert_eq!(report.damaged as usize, damaged.len());
    assert_eq!(report.verified_blobs as usize, 126 - damaged.len());
    let all: Vec<Digest> = small_blobs.iter().chain(&large_blobs).copied().collect();
    let missing = store.find_missing(&all, Lease::SHORT).await.unwrap();
    assert_eq!(missing.len(), damaged.len());
    for digest in all.iter().filter(|digest| !damaged.contains(digest)) {
        let bytes = store.read_batch(&[*digest]).await.remove(0).unwrap();
        assert_eq!(Digest::of(&bytes), *digest);
    }
    // Brought again, all is well.
    put_all(&store, 0..120, 9_000).await;
    put_all(&store, 200..206, (1 << 20) + 4_321).await;
    store.scrub_now();
    passes(&store, 2).await;
    let report = store.scrub_report();
    assert_eq!((report.verified_blobs, report.passes), (126, 2));
    assert_eq!(
        report.damaged as usize,
        damaged.len(),
        "none was found again"
    );
    store.close();
}

#[tokio::test]
async fn what_the_disk_cannot_read_is_set_aside_and_brought_again() {
    let disk = SimDisk::new();
    let store = LocalStore::open(small(), Arc::new(disk.clone())).unwrap();
    let stored = put_all(&store, 0..20, 9_000).await;
    let large = put_all(&store, 20..22, (1 << 20) + 1).await;
    let first = store.core.index.locate(&stored[0]).unwrap().segment;
    let lost: Vec<Digest> = stored
        .iter()
        .filter(|digest| {
            let location = store.core.index.locate(digest).unwrap();
            location.segment == first && location.offset > 3_000
        })
        .copied()
        .collect();
    assert!(!lost.is_empty());
    disk.fail_reads(&segments::path(first), 24_000).unwrap();
    disk.fail_reads(&files::path(&large[0]), 1_000).unwrap();
    store.scrub_now();
    passes(&store, 1).await;
    let found = store.quarantined();
    assert!(found.contains(&large[0]) && !found.contains(&large[1]));
    assert!(lost.iter().all(|digest| found.contains(digest)));
    assert!(
        !found.contains(&stored[0]),
        "it lies before what is unreadable"
    );
    assert_eq!(store.report().volume, "ok");
    put_all(&store, 0..20, 9_000).await;
    put_all(&store, 20..22, (1 << 20) + 1).await;
    store.scrub_now();
    passes(&store, 2).await;
    assert_eq!(store.scrub_report().verified_blobs, 22);
}

/// A pass that is under way when the node stops goes on where it was.
#[tokio::test]
async fn a_pass_goes_on_after_a_restart() {
    let disk = SimDisk::new();
    let open = || LocalStore::open(small(), Arc::new(disk.clone())).unwrap();
    let store = open();
    put_all(&store, 0..400, 9_000).await;
    put_all(&store, 400..402, (1 << 20) + 1).await;
    // So long that a step of 64 KiB rests for 62 ms.
    store.set_scrub_interval(Duration::from_secs(30 * 86_400));
    let mut progress = store.scrub_progress();
    let under_way = progress.wait_for(|report| report.verified_blobs >= 20);
    tokio::time::timeout(PATIENCE, under_way)
        .await
        .unwrap()
        .unwrap();
    store.close();
    let before = store.scrub_report();
    assert!(before.running && before.verified_blobs < 402, "{before:?}");
    drop(store);
    let store = open();
    let mut progress = store.scrub_progress();
    let resumed = progress.wait_for(|report| report.running);
    let resumed = tokio::time::timeout(PATIENCE, resumed)
        .await
        .unwrap()
        .unwrap()
        .clone();
    assert_eq!(resumed.verified_blobs, before.verified_blobs);
    // Without an interval it stands still; asked to hurry, it begins anew.
    store.scrub_now();
    passes(&store, 1).await;
    assert_eq!(store.scrub_report().verified_blobs, 402);
    // And the count of passes is kept.
    store.close();
    drop(store);
    let store = open();
    passes(&store, 1).await;
    assert!(!store.scrub_report().running);
}

#[tokio::test]
async fn passes_come_once_an_interval() {
    let disk = SimDisk::new();
    let store = LocalStore::open(small(), Arc::new(disk.clone())).unwrap();
    let operations = disk.operations();
    put_all(&store, 0..5, 900).await;
    store.set_scrub_interval(Duration::from_secs(3_600));
    passes(&store, 1).await;
    for pass in 2..4 {
        store.core.clock.advance(3_500);
        store.set_scrub_interval(Duration::from_secs(3_601 + pass));
        assert_eq!(store.scrub_report().passes, pass - 1, "not due yet");
        store.core.clock.advance(200);
        store.set_scrub_interval(Duration::from_secs(3_600 + pass));
        passes(&store, pass).await;
    }
    assert!(disk.operations() > operations);
    // A damaged state only costs what was done.
    store.close();
    let cut = disk.after_power_cut(disk.operations(), Keep::Nothing);
    cut.flip_bits(Path::new("scrub.state"), 9, 1).unwrap();
    let store = LocalStore::open(small(), Arc::new(cut)).unwrap();
    assert_eq!(store.scrub_report().passes, 0);
    store.scrub_now();
    passes(&store, 1).await;
    assert_eq!(store.scrub_report().verified_blobs, 5);
}

/// A pass must not race through a dead disk and throw the whole index away.
#[tokio::test]
async fn a_dying_volume_is_fenced_and_not_searched_on() {
    let disk = SimDisk::new();
    let store = LocalStore::open(small(), Arc::new(disk.clone())).unwrap();
    put_all(&store, 0..200, 9_000).await;
    for entry in disk.list(Path::new(segments::DIR)).unwrap() {
        let path = Path::new(segments::DIR).join(entry.name);
        disk.fail_reads(&path, 0).unwrap();
    }
    disk.make_read_only();
    store.scrub_now();
    let fenced = async {
        while store.core.volume.fenced().is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, fenced).await.unwrap();
    store.close();
    let report = store.report();
    assert_eq!(report.blobs, 200, "what cannot be told is not given up");
    assert_eq!(store.scrub_report().damaged, 0);
}
