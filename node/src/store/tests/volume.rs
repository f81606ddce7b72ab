//! Volumes that vanish, fill up, or take no more writes.

use std::{fs, path::Path, sync::Arc};

use weir_cluster::{
    Digest, Error,
    blob::{BlobStore, ByteRange, collect, conformance::sample, put_bytes},
    journal::sim_disk::SimDisk,
};

use super::{
    super::{LocalStore, files, segments},
    small,
};

fn open(disk: &SimDisk) -> Arc<LocalStore> {
    LocalStore::open(small(), Arc::new(disk.clone())).unwrap()
}

fn check_fenced(error: Error, why: &str) {
    assert!(matches!(error, Error::Fenced(_)), "{error}");
    assert!(error.to_string().contains(why), "{error}");
}

/// What lies below a mount point is another disk, mostly the small one of the
/// system: the store must neither fill it nor take it for its own, emptied.
#[tokio::test]
async fn a_folder_that_vanished_is_never_created_again() {
    let dir = tempfile::tempdir().unwrap();
    let (root, moved) = (dir.path().join("blobs"), dir.path().join("moved"));
    for large in [false, true] {
        fs::create_dir_all(&root).unwrap();
        let disk = weir_cluster::journal::disk::RealDisk::new(&root);
        let store = LocalStore::open(small(), Arc::new(disk)).unwrap();
        let small_blob = put_bytes(&*store, sample(1, 9_000)).await.unwrap();
        let large_blob = put_bytes(&*store, sample(2, 2 << 20)).await.unwrap();
        fs::rename(&root, &moved).unwrap();
        // As the mount point of a volume that was taken off.
        fs::create_dir(&root).unwrap();
        let error = match large {
            true => put_bytes(&*store, sample(3, 2 << 20)).await.unwrap_err(),
            // The segment in use is open and still the right one; the next is not.
            false => loop {
                let seed = 100 + store.report().blobs;
                match put_bytes(&*store, sample(seed, 9_000)).await {
                    Ok(_) => assert!(store.report().blobs < 20),
                    Err(error) => break error,
                }
            },
        };
        check_fenced(error, "was its volume unmounted?");
        assert!(store.report().volume.contains("unmounted"));
        // What is open can be read, and nothing is taken for damaged.
        for digest in [small_blob, large_blob] {
            let stream = store.get(digest, ByteRange::ALL).await.unwrap();
            assert_eq!(Digest::of(&collect(stream).await.unwrap()), digest);
        }
        assert_eq!(store.quarantined(), []);
        store.close();
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
        fs::remove_dir_all(&root).unwrap();
        fs::remove_dir_all(&moved).unwrap();
    }
}

/// Also while nobody writes.
#[tokio::test]
async fn the_keeper_notices_that_the_folder_has_gone() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("blobs");
    fs::create_dir(&root).unwrap();
    let disk = weir_cluster::journal::disk::RealDisk::new(&root);
    let store = LocalStore::open(small(), Arc::new(disk)).unwrap();
    fs::rename(&root, dir.path().join("moved")).unwrap();
    // Asked for anything, as it asks itself every few seconds.
    let _ = store.core.keeper.make_room(1, None).await;
    assert!(store.report().volume.contains("unmounted"));
    assert!(!root.exists());
}

/// Without room for another file, what needs one is refused until there is.
#[tokio::test]
async fn a_volume_out_of_inodes_refuses_and_recovers() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let kept = put_bytes(&*store, sample(1, 9_000)).await.unwrap();
    disk.set_files_max(1);
    let mut seed = 10;
    let refused = loop {
        seed += 1;
        match put_bytes(&*store, sample(seed, 9_000)).await {
            Ok(_) => assert!(seed < 30, "a segment has an end"),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, Error::Exhausted(_)), "{refused}");
    let refused = put_bytes(&*store, sample(2, 2 << 20)).await.unwrap_err();
    assert!(matches!(refused, Error::Exhausted(_)), "{refused}");
    store.write_checkpoint();
    assert_eq!(store.report().volume, "full: no room for another file");
    disk.set_files_max(usize::MAX);
    for (seed, len) in [(3, 9_000), (2, 2 << 20)] {
        put_bytes(&*store, sample(seed, len)).await.unwrap();
    }
    assert_eq!(store.report().volume, "ok");
    let stream = store.get(kept, ByteRange::ALL).await.unwrap();
    assert_eq!(Digest::of(&collect(stream).await.unwrap()), kept);
}

#[tokio::test]
async fn a_volume_that_turned_read_only_is_fenced_and_read_on() {
    for len in [9_000, 2 << 20] {
        let disk = SimDisk::new();
        let store = open(&disk);
        let kept = put_bytes(&*store, sample(1, len)).await.unwrap();
        disk.make_read_only();
        let error = put_bytes(&*store, sample(2, len)).await.unwrap_err();
        check_fenced(error, "Read-only file system");
        let stream = store.get(kept, ByteRange::ALL).await.unwrap();
        assert_eq!(Digest::of(&collect(stream).await.unwrap()), kept);
    }
}

/// A read that fails costs the one copy, which can be brought again.
#[tokio::test]
async fn a_copy_that_cannot_be_read_is_set_aside_and_brought_again() {
    for len in [9_000, 2 << 20] {
        let disk = SimDisk::new();
        let store = open(&disk);
        let bytes = sample(1, len);
        let digest = put_bytes(&*store, bytes.clone()).await.unwrap();
        let path = match store.core.index.locate(&digest) {
            Some(location) => segments::path(location.segment),
            None => files::path(&digest),
        };
        disk.fail_reads(&path, 20).unwrap();
        let read = match store.get(digest, ByteRange::ALL).await {
            Ok(stream) => collect(stream).await,
            Err(error) => Err(error),
        };
        assert!(matches!(read, Err(Error::Corrupt(_))), "{read:?}");
        assert_eq!(store.report().volume, "ok");
        assert_eq!(store.quarantined(), [digest]);
        // The bad block stays where it is; the new copy lies elsewhere.
        let path_now = Path::new(&path).to_owned();
        put_bytes(&*store, bytes.clone()).await.unwrap();
        if len < 1 << 20 {
            // In the same segment, which is readable again up to its end.
            disk.fail_reads(&path_now, u64::MAX).unwrap();
        }
        let stream = store.get(digest, ByteRange::ALL).await.unwrap();
        assert!(collect(stream).await.unwrap() == bytes);
    }
}

/// Where nothing can be read because the whole volume has failed, no copy is
/// given up: each may be sound, and is found again when the volume is back.
#[tokio::test]
async fn a_volume_that_neither_reads_nor_writes_is_in_doubt_and_gives_up_no_copy() {
    for len in [9_000, 2 << 20] {
        let disk = SimDisk::new();
        let store = open(&disk);
        let digest = put_bytes(&*store, sample(1, len)).await.unwrap();
        let path = match store.core.index.locate(&digest) {
            Some(location) => segments::path(location.segment),
            None => files::path(&digest),
        };
        disk.fail_reads(&path, 20).unwrap();
        disk.make_read_only();
        for _ in 0..2 {
            let read = match store.get(digest, ByteRange::ALL).await {
                Ok(stream) => collect(stream).await,
                Err(error) => Err(error),
            };
            assert!(matches!(read, Err(Error::Fenced(_))), "{read:?}");
        }
        assert!(store.core.index.contains(&digest));
        assert!(store.quarantined().is_empty());
        assert_ne!(store.report().volume, "ok");
    }
}
