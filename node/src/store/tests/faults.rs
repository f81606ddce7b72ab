//! Disks that fail and bits that flip.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use weir_cluster::{
    Digest, Error,
    blob::{BlobStore, ByteRange, Lease, Put, Verified, collect, conformance::sample, put_bytes},
    journal::{
        disk::Disk,
        sim_disk::{Keep, SimDisk},
    },
};

use super::{
    super::{
        LocalStore, OpenError, checkpoint, files, fsck,
        record::{Header, Prepared},
        segments,
    },
    small,
};

fn open(disk: &SimDisk) -> Result<Arc<LocalStore>, OpenError> {
    LocalStore::open(small(), Arc::new(disk.clone()))
}

async fn read(store: &LocalStore, digest: Digest) -> Result<Bytes, Error> {
    collect(store.get(digest, ByteRange::ALL).await?).await
}

/// Puts some blobs one after another; those that were acknowledged, and the
/// first error.
async fn put_some(store: &LocalStore) -> (Vec<Digest>, Option<Error>) {
    let mut stored = Vec::new();
    for (seed, len) in [
        (1, 50),
        (2, 30_000),
        (3, 40_000),
        (4, (1 << 20) + 9),
        (5, 8),
        (6, 60_000),
    ] {
        match put_bytes(store, sample(seed, len)).await {
            Ok(digest) => stored.push(digest),
            Err(error) => return (stored, Some(error)),
        }
    }
    (stored, None)
}

/// A disk with some blobs on which the store was closed.
async fn filled() -> (SimDisk, Vec<Digest>) {
    let disk = SimDisk::new();
    let store = open(&disk).unwrap();
    let (stored, None) = put_some(&store).await else {
        panic!("a sound disk failed");
    };
    store.close();
    let disk = disk.after_power_cut(disk.operations(), Keep::Nothing);
    (disk, stored)
}

#[tokio::test]
async fn the_first_failure_fences_the_volume_and_loses_nothing() {
    for of_sync in [false, true] {
        let mut nth = 0;
        loop {
            nth += 1;
            let disk = SimDisk::new();
            let store = open(&disk).unwrap();
            match of_sync {
                true => disk.fail_sync(nth),
                false => disk.fail_write(nth),
            }
            let (stored, error) = put_some(&store).await;
            let Some(error) = error else { break };
            let context = format!("{} {nth}", if of_sync { "sync" } else { "write" });
            assert!(matches!(error, Error::Fenced(_)), "{context}: {error}");
            let later = put_bytes(&*store, sample(77, 10)).await.unwrap_err();
            assert!(matches!(later, Error::Fenced(_)), "{context}: {later}");
            let large = store.put(Digest::of(&sample(78, 2 << 20))).await;
            assert!(matches!(large.err(), Some(Error::Fenced(_))), "{context}");
            assert_ne!(store.report().volume, "ok");
            for digest in &stored {
                assert!(read(&store, *digest).await.is_ok(), "{context}");
            }
            store.close();
            let cut = disk.after_power_cut(disk.operations(), Keep::Nothing);
            let store = open(&cut).unwrap();
            for digest in &stored {
                let bytes = read(&store, *digest).await.unwrap();
                assert_eq!(Digest::of(&bytes), *digest, "{context}");
            }
            assert_eq!(store.report().volume, "ok");
        }
        assert!(nth > 8, "only {nth} operations were tried");
    }
}

#[tokio::test]
async fn a_full_volume_refuses_and_is_not_fenced() {
    let disk = SimDisk::new();
    disk.set_capacity(1 << 20);
    let store = open(&disk).unwrap();
    let mut refused = 0;
    for seed in 0..40 {
        match put_bytes(&*store, sample(seed, 50_000)).await {
            Ok(_) => assert_eq!(refused, 0, "room came from nowhere"),
            Err(Error::Exhausted(_)) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!((20..40).contains(&refused), "{refused} of 40 were refused");
    let large = put_bytes(&*store, sample(50, 2 << 20)).await.unwrap_err();
    assert!(matches!(large, Error::Exhausted(_)), "{large}");
    assert_eq!(store.report().volume, "full");
    disk.set_capacity(8 << 20);
    put_bytes(&*store, sample(51, 2 << 20)).await.unwrap();
    assert_eq!(store.report().volume, "ok");
}

/// Flips a bit at each of many places of each file, one at a time.
async fn flip(disk: &SimDisk, path: &Path, mut check: impl AsyncFnMut(SimDisk, u64)) {
    let len = disk.open(path).unwrap().len().unwrap();
    let step = (len / 60).max(1);
    for offset in (0..len.min(200))
        .step_by(7)
        .chain((0..len).step_by(step as usize))
    {
        let damaged = disk.after_power_cut(0, Keep::Nothing);
        damaged.flip_bits(path, offset, 1 << (offset % 8)).unwrap();
        check(damaged, offset).await;
    }
}

/// Every blob is either exact, or missing, or told to be damaged; of those
/// that are not exact at most `most`.
async fn check_damaged(disk: SimDisk, stored: &[Digest], most: usize, context: &str) {
    let store = open(&disk).unwrap();
    let mut lost = Vec::new();
    for digest in stored {
        match read(&store, *digest).await {
            Ok(bytes) => assert_eq!(Digest::of(&bytes), *digest, "{context}"),
            Err(Error::Corrupt(_) | Error::NotFound(_)) => lost.push(*digest),
            Err(error) => panic!("{context}: {error}"),
        }
    }
    assert!(lost.len() <= most, "{context}: lost {lost:?}");
    let missing = store.find_missing(stored, Lease::SHORT).await.unwrap();
    assert_eq!(missing.len(), lost.len(), "{context}");
    // What was lost can be brought again.
    for (seed, len) in [(1, 50), (2, 30_000), (3, 40_000), (5, 8), (6, 60_000)] {
        let digest = put_bytes(&*store, sample(seed, len)).await.unwrap();
        assert!(read(&store, digest).await.is_ok(), "{context}");
    }
}

#[tokio::test]
async fn flipped_bits_cost_a_blob_and_never_give_wrong_bytes() {
    let (disk, stored) = filled().await;
    let mut paths = vec![Path::new(checkpoint::PATH).to_owned()];
    for entry in disk.list(Path::new(segments::DIR)).unwrap() {
        paths.push(Path::new(segments::DIR).join(entry.name));
    }
    let large = stored.iter().find(|digest| digest.size > 1 << 20).unwrap();
    paths.push(files::path(large));
    assert!(paths.len() >= 4, "{paths:?}");
    for path in &paths {
        let most = usize::from(path != Path::new(checkpoint::PATH));
        flip(&disk, path, async |damaged, offset| {
            let context = format!("{} offset {offset}", path.display());
            check_damaged(damaged.clone(), &stored, most, &context).await;
            // The same without the checkpoint: the scan finds the damage.
            let _ = damaged.remove(Path::new(checkpoint::PATH));
            check_damaged(damaged, &stored, most, &format!("{context}, scan")).await;
        })
        .await;
    }
}

#[tokio::test]
async fn fsck_finds_every_flipped_bit_and_repair_leaves_a_clean_store() {
    let (disk, stored) = filled().await;
    let sound = fsck::check(&disk).unwrap();
    assert!(sound.is_clean() && sound.checkpoint, "{sound}");
    assert_eq!((sound.small_blobs, sound.large_blobs), (5, 1));
    let large = stored.iter().find(|digest| digest.size > 1 << 20).unwrap();
    let damaged = disk.after_power_cut(0, Keep::Nothing);
    damaged.flip_bits(&files::path(large), 500_000, 1).unwrap();
    damaged
        .flip_bits(&segments::path(1), 16 + 64 + 20, 1)
        .unwrap();
    let before = damaged.operations();
    let found = fsck::check(&damaged).unwrap();
    assert_eq!(damaged.operations(), before, "a check changes nothing");
    assert_eq!((found.small_blobs, found.large_blobs), (4, 0), "{found}");
    assert!(!found.is_clean());
    fsck::repair(&damaged).unwrap();
    let store = open(&damaged).unwrap();
    let missing = store.find_missing(&stored, Lease::SHORT).await.unwrap();
    assert_eq!(missing, [0, 3]);
    put_some(&store).await;
    store.close();
    drop(store);
    let (store, missing) = (open(&damaged).unwrap(), Lease::SHORT);
    assert!(
        store
            .find_missing(&stored, missing)
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn an_upload_that_is_dropped_leaves_no_file_and_no_room_taken() {
    let disk = SimDisk::new();
    let store = open(&disk).unwrap();
    let bytes = sample(1, 3 << 20);
    let used = store.core.volume.used();
    for chunks in 0..3 {
        let Put::Upload(mut upload) = store.put(Digest::of(&bytes)).await.unwrap() else {
            panic!("present though never stored");
        };
        for chunk in bytes.chunks(1 << 20).take(chunks) {
            upload.write(Bytes::copy_from_slice(chunk)).await.unwrap();
        }
        drop(upload);
    }
    // The threads of the uploads hold their turns until they have cleaned up.
    let turns = super::super::upload::UPLOADS_AT_ONCE as u32;
    let all = store.core.uploads.acquire_many(turns).await.unwrap();
    assert_eq!(disk.list(Path::new(files::TEMP_DIR)).unwrap(), []);
    assert_eq!(store.core.volume.used(), used);
    drop(all);
}

#[tokio::test]
async fn a_record_forged_inside_a_blob_is_never_believed() {
    // A record whose checksums are right and whose digest is a lie.
    let forged = Digest::of(b"the true bytes");
    let lie = Prepared::new(Verified::of(Bytes::from_static(b"something else")), 0);
    let mut header = lie.header.clone();
    header[24..56].copy_from_slice(&forged.hash);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&header[..20]), &header[24..]);
    header[20..24].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(Header::parse(&header).unwrap().digest, forged);
    let mut body = header;
    body.extend_from_slice(b"something else");
    body.resize(200, 0);

    let disk = SimDisk::new();
    let store = open(&disk).unwrap();
    let outer = put_bytes(&*store, body.into()).await.unwrap();
    let after = put_bytes(&*store, sample(1, 500)).await.unwrap();
    drop(store);
    let disk = disk.after_power_cut(disk.operations(), Keep::Nothing);
    disk.flip_bits(&segments::path(1), 16, 1).unwrap();
    let store = open(&disk).unwrap();
    let wanted = [outer, forged, after];
    let missing = store.find_missing(&wanted, Lease::SHORT).await.unwrap();
    assert_eq!(missing, [0, 1]);
}

#[tokio::test]
async fn another_format_is_refused() {
    let (disk, _) = filled().await;
    let path = segments::path(1);
    let file = disk.open(&path).unwrap();
    let mut header = weir_cluster::journal::disk::read_exact_at(&*file, 12, 0).unwrap();
    header[4] = 9;
    file.write_at(&header, 0).unwrap();
    file.write_at(&crc32c::crc32c(&header).to_le_bytes(), 12)
        .unwrap();
    assert!(matches!(open(&disk).err(), Some(OpenError::Version(9))));
    assert!(matches!(fsck::check(&disk), Err(OpenError::Version(9))));
}

/// Blobs in several segments, without a checkpoint.
async fn without_checkpoint() -> (SimDisk, Vec<Digest>) {
    let disk = SimDisk::new();
    let store = open(&disk).unwrap();
    let mut stored = Vec::new();
    for seed in 0..8 {
        stored.push(put_bytes(&*store, sample(seed, 30_000)).await.unwrap());
    }
    store.close();
    for path in [checkpoint::PATH, checkpoint::CLEAN_PATH] {
        disk.remove(Path::new(path)).unwrap();
    }
    (
        disk.after_power_cut(disk.operations(), Keep::Everything),
        stored,
    )
}

fn segment_files(disk: &SimDisk) -> Vec<std::path::PathBuf> {
    let mut names = disk.list(Path::new(segments::DIR)).unwrap();
    names.sort_by(|a, b| a.name.cmp(&b.name));
    let names = names.iter();
    names
        .map(|entry| Path::new(segments::DIR).join(&entry.name))
        .collect()
}

/// A disk that does not answer for a while must not cost what is on it: opening
/// may neither cut off nor remove what it cannot read.
#[tokio::test]
async fn what_cannot_be_read_at_start_is_left_where_it_is() {
    let (disk, stored) = without_checkpoint().await;
    let files = segment_files(&disk);
    assert!(files.len() > 2, "{files:?}");
    for file in &files {
        for offset in [0, 100, 40_000] {
            let disk = disk.after_power_cut(0, Keep::Everything);
            disk.fail_reads(file, offset).unwrap();
            // It may open without the blobs in question, or refuse.
            if let Ok(store) = open(&disk) {
                store.close();
            }
            disk.fail_reads(file, u64::MAX).unwrap();
            for path in [checkpoint::PATH, checkpoint::CLEAN_PATH] {
                // A checkpoint would only repeat what could not be read.
                let _ = disk.remove(Path::new(path));
            }
            let store = open(&disk).unwrap();
            let missing = store.find_missing(&stored, Lease::SHORT).await.unwrap();
            assert!(
                missing.is_empty(),
                "{} from {offset}: {missing:?}",
                file.display()
            );
        }
    }
}

/// Only the newest segment may end in a write that was cut off; in an older one
/// the same is damage, to be told and kept.
#[tokio::test]
async fn rot_at_the_end_of_an_older_segment_is_told() {
    let (disk, _) = without_checkpoint().await;
    let files = segment_files(&disk);
    let len = disk.open(&files[0]).unwrap().len().unwrap();
    disk.flip_bits(&files[0], len - 100, 1).unwrap();
    let store = open(&disk).unwrap();
    assert_eq!(store.quarantined().len(), 1);
    assert_eq!(disk.open(&files[0]).unwrap().len().unwrap(), len);
    drop(store);
    let report = fsck::check(&disk).unwrap();
    assert!(!report.is_clean(), "{report}");
}

/// P10: what a process lacks says nothing of the volume. A name that was given
/// and could not be made sure of is taken back.
#[tokio::test]
async fn a_lack_of_handles_is_told_and_leaves_nothing() {
    for handles in 0..4 {
        let disk = SimDisk::new();
        let store = open(&disk).unwrap();
        let content = sample(1, (1 << 20) + 9);
        disk.set_handles(handles);
        let stored = put_bytes(&*store, content.clone()).await;
        disk.set_handles(u64::MAX);
        match stored {
            // The last round has as many as it takes.
            Ok(_) => assert_eq!(handles, 3),
            Err(error) => assert!(matches!(error, Error::Exhausted(_)), "{handles}: {error}"),
        }
        assert_eq!(store.report().volume, "ok");
        if handles < 3 {
            assert_eq!(store.report().blobs, 0);
            assert!(files_of(&disk).is_empty(), "{:?}", files_of(&disk));
        }
        let digest = put_bytes(&*store, content.clone()).await.unwrap();
        assert_eq!(read(&store, digest).await.unwrap(), content);
        let cut = disk.after_power_cut(disk.operations(), Keep::Nothing);
        assert_eq!(read(&open(&cut).unwrap(), digest).await.unwrap(), content);
    }
}

/// Files of large blobs and of uploads.
fn files_of(disk: &SimDisk) -> Vec<String> {
    let mut found = Vec::new();
    for first in 0..=u8::MAX {
        let listed = disk.list(&files::folder(first)).unwrap_or_default();
        found.extend(listed.into_iter().map(|entry| entry.name));
    }
    let uploads = disk.list(Path::new(files::TEMP_DIR)).unwrap();
    found.extend(uploads.into_iter().map(|entry| entry.name));
    found
}
