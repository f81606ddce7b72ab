use std::{
    io,
    num::NonZeroU8,
    path::Path,
    sync::{Arc, Mutex},
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::sync::oneshot;

use super::{
    FIRST_MARK, Journal, JournalConfig, JournalError, Position, Record,
    disk::Disk,
    sim_disk::{Keep, SimDisk},
};

const DIR: &str = "raft/log";

type Read = Vec<(Position, u8, Vec<u8>)>;

fn config(segment_bytes: u64) -> JournalConfig {
    JournalConfig {
        dir: DIR.into(),
        segment_bytes,
    }
}

fn open(disk: &SimDisk, segment_bytes: u64) -> Result<(Journal, Read), JournalError> {
    let mut read = Vec::new();
    let journal = Journal::open(
        Arc::new(disk.clone()),
        config(segment_bytes),
        &mut |position, kind, payload| {
            read.push((position, kind, payload.to_vec()));
            Ok(())
        },
    )?;
    Ok((journal, read))
}

fn record(kind: u8, payload: impl Into<Vec<u8>>) -> Record {
    Record {
        kind: NonZeroU8::new(kind).unwrap(),
        payload: payload.into(),
    }
}

async fn append(journal: &Journal, records: Vec<Record>) -> Result<Vec<Position>, JournalError> {
    let (told, result) = oneshot::channel();
    let done = Box::new(move |result| drop(told.send(result)));
    journal.append(records, done).await?;
    result.await.unwrap()
}

/// What was read but the marks, which may come more than once.
fn plain(read: &Read) -> Vec<Vec<u8>> {
    let plain = read.iter().filter(|(_, kind, _)| *kind < FIRST_MARK);
    plain.map(|(_, _, payload)| payload.clone()).collect()
}

fn last_mark(read: &Read, kind: u8) -> Option<Vec<u8>> {
    let found = read.iter().rev().find(|(_, found, _)| *found == kind);
    found.map(|(_, _, payload)| payload.clone())
}

fn segments(disk: &SimDisk) -> Vec<String> {
    let entries = disk.list(Path::new(DIR)).unwrap();
    entries.into_iter().map(|entry| entry.name).collect()
}

#[tokio::test]
async fn records_are_read_back_by_position_and_in_order() {
    let disk = SimDisk::new();
    let (journal, read) = open(&disk, 1 << 20).unwrap();
    assert!(read.is_empty());
    let mut positions = Vec::new();
    let payloads: Vec<Vec<u8>> = (0..20u8).map(|n| vec![n; usize::from(n) * 7]).collect();
    for payload in &payloads {
        positions.extend(
            append(&journal, vec![record(1, payload.clone())])
                .await
                .unwrap(),
        );
    }
    for (position, payload) in positions.iter().zip(&payloads) {
        assert_eq!(&journal.read(*position).unwrap(), payload);
    }
    drop(journal);
    let (journal, read) = open(&disk, 1 << 20).unwrap();
    assert_eq!(plain(&read), payloads);
    assert_eq!(
        read.iter().map(|(at, ..)| *at).collect::<Vec<_>>(),
        positions
    );
    assert_eq!(journal.read(positions[19]).unwrap(), payloads[19]);
}

#[tokio::test]
async fn what_waits_shares_a_sync_and_is_answered_in_order() {
    let disk = SimDisk::new();
    let (journal, _) = open(&disk, 1 << 20).unwrap();
    let before = disk.operations();
    let order = Arc::new(Mutex::new(Vec::new()));
    // A callback holds the writer up until all the others are queued.
    let (release, held) = std::sync::mpsc::channel::<()>();
    let (told, holding) = oneshot::channel();
    let hold = Box::new(move |_| {
        told.send(()).unwrap();
        held.recv().unwrap();
    });
    journal
        .append(vec![record(1, "first")], hold)
        .await
        .unwrap();
    holding.await.unwrap();
    for n in 0..50 {
        let order = order.clone();
        let done = Box::new(move |result: Result<_, _>| {
            result.unwrap();
            order.lock().unwrap().push(n);
        });
        journal.append(vec![record(1, [n])], done).await.unwrap();
    }
    release.send(()).unwrap();
    drop(journal);
    assert_eq!(*order.lock().unwrap(), (0..50).collect::<Vec<u8>>());
    let syncs = disk.describe_operations()[before..]
        .iter()
        .filter(|operation| operation.starts_with("sync"))
        .count();
    assert_eq!(syncs, 2);
}

#[tokio::test]
async fn segments_roll_repeat_marks_and_are_removed_whole() {
    let disk = SimDisk::new();
    let (journal, _) = open(&disk, 1024).unwrap();
    append(
        &journal,
        vec![record(FIRST_MARK, "old"), record(FIRST_MARK, "new")],
    )
    .await
    .unwrap();
    let mut last = None;
    for n in 0..40u8 {
        last = append(&journal, vec![record(1, vec![n; 100])])
            .await
            .unwrap()
            .pop();
    }
    // Larger than a segment.
    let big = append(&journal, vec![record(2, vec![9; 5000])])
        .await
        .unwrap()[0];
    assert_eq!(journal.read(big).unwrap(), vec![9; 5000]);
    assert!(segments(&disk).len() > 4);
    let last = last.unwrap();
    let (told, result) = oneshot::channel();
    let done = Box::new(move |result| drop(told.send(result)));
    journal.remove_before(last.segment, done).unwrap();
    result.await.unwrap().unwrap();
    assert_eq!(journal.read(last).unwrap(), vec![39; 100]);
    drop(journal);
    let cut = disk.after_power_cut(disk.operations(), Keep::Nothing);
    assert_eq!(segments(&cut).len(), 2);
    let (_, read) = open(&cut, 1024).unwrap();
    assert_eq!(last_mark(&read, FIRST_MARK).unwrap(), b"new");
    assert!(plain(&read).ends_with(&[vec![39; 100], vec![9; 5000]]));
}

/// P10: Raft goes on on a disk that has room for bytes and for no other file.
#[tokio::test]
async fn without_room_for_another_file_the_last_one_goes_on() {
    const SEGMENT: u64 = 1 << 20;
    let disk = SimDisk::new();
    let (journal, _) = open(&disk, SEGMENT).unwrap();
    let mut expected = Vec::new();
    let mut fill = async |count: usize| {
        for _ in 0..count {
            let payload = vec![expected.len() as u8; 100_000];
            append(&journal, vec![record(1, payload.clone())])
                .await
                .unwrap();
            expected.push(payload);
        }
    };
    fill(5).await;
    let before = segments(&disk);
    disk.set_files_max(0);
    // Past the attempt to begin a segment and the next.
    fill(60).await;
    assert_eq!(segments(&disk), before);
    disk.set_files_max(usize::MAX);
    fill(60).await;
    let after = segments(&disk).len();
    assert!(after >= before.len() + 2, "{after} segments");
    drop(journal);
    let (_, read) = open(&disk, SEGMENT).unwrap();
    assert!(plain(&read) == expected, "records are lost");
}

#[tokio::test]
async fn the_first_error_fences_for_good() {
    let faults: [fn(&SimDisk); 3] = [
        |disk| disk.fail_write(1),
        |disk| disk.fail_sync(1),
        |disk| disk.set_capacity(0),
    ];
    for (index, fault) in faults.iter().enumerate() {
        let disk = SimDisk::new();
        let (journal, _) = open(&disk, 64).unwrap();
        append(&journal, vec![record(1, "a")]).await.unwrap();
        fault(&disk);
        let error = append(&journal, vec![record(1, "b")]).await.unwrap_err();
        assert!(
            matches!(error, JournalError::Fenced { .. }),
            "fault {index}: {error}"
        );
        disk.set_capacity(1 << 20);
        let before = disk.operations();
        append(&journal, vec![record(1, "c")]).await.unwrap_err();
        assert_eq!(
            disk.operations(),
            before,
            "fault {index}: written after an error"
        );
        drop(journal);
        let cut = disk.after_power_cut(usize::MAX, Keep::Nothing);
        assert_eq!(plain(&open(&cut, 64).unwrap().1), [b"a"], "fault {index}");
    }
}

/// After a failed sync the bytes are in memory only; whoever reads them back
/// must write them again before trusting them.
#[tokio::test]
async fn what_a_failed_sync_left_in_memory_is_written_again() {
    let disk = SimDisk::new();
    let (journal, _) = open(&disk, 1 << 16).unwrap();
    append(&journal, vec![record(1, "a")]).await.unwrap();
    disk.fail_sync(1);
    append(&journal, vec![record(1, "b")]).await.unwrap_err();
    drop(journal);
    let (journal, read) = open(&disk, 1 << 16).unwrap();
    assert_eq!(plain(&read), [b"a", b"b"]);
    append(&journal, vec![record(1, "c")]).await.unwrap();
    let cut = disk.after_power_cut(disk.operations(), Keep::Nothing);
    assert_eq!(plain(&open(&cut, 1 << 16).unwrap().1), [b"a", b"b", b"c"]);
}

/// A record of a torn batch that was itself kept must not come back once others
/// are written in front of it.
#[tokio::test]
async fn what_is_left_of_a_torn_batch_does_not_come_back() {
    let disk = SimDisk::new();
    let (journal, _) = open(&disk, 1 << 16).unwrap();
    append(&journal, vec![record(1, "a")]).await.unwrap();
    let both = vec![record(1, vec![2; 600]), record(1, vec![3; 600])];
    let positions = append(&journal, both).await.unwrap();
    drop(journal);
    let torn = disk.after_power_cut(usize::MAX, Keep::Nothing);
    let file = Path::new(DIR).join(&segments(&torn)[0]);
    let within = u64::from(positions[0].offset) + 100;
    torn.flip_bits(&file, within, 1).unwrap();
    let (journal, read) = open(&torn, 1 << 16).unwrap();
    assert_eq!(plain(&read), [b"a"]);
    append(&journal, vec![record(1, vec![4; 600])])
        .await
        .unwrap();
    drop(journal);
    let (_, read) = open(&torn, 1 << 16).unwrap();
    assert_eq!(plain(&read), [b"a".to_vec(), vec![4; 600]]);
}

/// Opening writes, too: after any cut, and after a failed sync without one, it
/// may be cut off anywhere.
#[tokio::test]
async fn opening_may_be_cut_off_anywhere() {
    let disk = SimDisk::new();
    let (journal, _) = open(&disk, 2300).unwrap();
    append(&journal, vec![record(FIRST_MARK, vec![9; 700])])
        .await
        .unwrap();
    append(&journal, vec![record(1, vec![1; 1000])])
        .await
        .unwrap();
    append(&journal, vec![record(1, vec![2; 1000])])
        .await
        .unwrap();
    disk.fail_sync(1);
    append(&journal, vec![record(1, vec![3; 200])])
        .await
        .unwrap_err();
    drop(journal);
    let mut opened: Vec<(SimDisk, usize)> = (0..=disk.operations())
        .map(|at| (disk.after_power_cut(at, Keep::Everything), 0))
        .collect();
    opened.push((disk.clone(), disk.operations()));
    for (first, (disk, before)) in opened.iter().enumerate() {
        let (_, read) = open(disk, 2300).unwrap();
        for at in *before..=disk.operations() {
            for seed in 0..40 {
                let hint = format!("cut {first}, then at {at} with seed {seed}");
                let cut = disk.after_power_cut(at, Keep::Sampled(seed));
                let (_, again) = open(&cut, 2300).unwrap_or_else(|error| panic!("{hint}: {error}"));
                let (read, again) = (plain(&read), plain(&again));
                // What only memory had after the failed sync may be gone.
                assert!(
                    read.starts_with(&again) && again.len() + 1 >= read.len(),
                    "{hint}"
                );
                assert!(*before > 0 || again == read, "{hint}");
            }
        }
    }
}

#[tokio::test]
async fn damage_in_the_middle_is_refused_wherever_it_is() {
    let disk = SimDisk::new();
    let (journal, _) = open(&disk, 512).unwrap();
    for n in 0..12u8 {
        append(&journal, vec![record(1, vec![n + 1; 64])])
            .await
            .unwrap();
    }
    drop(journal);
    let sound = disk.after_power_cut(usize::MAX, Keep::Nothing);
    let (_, read) = open(&sound.after_power_cut(0, Keep::Nothing), 512).unwrap();
    let (last, ..) = *read.last().unwrap();
    for name in segments(&sound) {
        let path = Path::new(DIR).join(&name);
        let sequence = super::segment::sequence(&name).unwrap();
        let end = match sequence == last.segment {
            true => u64::from(last.offset),
            false => sound.open(&path).unwrap().len().unwrap(),
        };
        for offset in 0..end {
            // Bytes 36 to 40 of the header mean nothing.
            if (36..40).contains(&offset) {
                continue;
            }
            let damaged = sound.after_power_cut(0, Keep::Nothing);
            damaged.flip_bits(&path, offset, 0x10).unwrap();
            let before = damaged.operations();
            let error = open(&damaged, 512).err();
            let error = error.unwrap_or_else(|| panic!("{name} at {offset} was not noticed"));
            assert!(
                matches!(&error, JournalError::Damaged { file, .. } if *file == path),
                "{name} at {offset}: {error}"
            );
            assert!(error.to_string().contains("must not go on with this data"));
            assert_eq!(damaged.operations(), before, "nothing is changed");
        }
    }
    // The very last record cannot be told from one that was never synced.
    let path = Path::new(DIR).join(segments(&sound).pop().unwrap());
    sound
        .flip_bits(&path, u64::from(last.offset) + 20, 1)
        .unwrap();
    assert_eq!(plain(&open(&sound, 512).unwrap().1).len(), 11);
}

#[tokio::test]
async fn a_missing_segment_or_another_version_is_refused() {
    let disk = SimDisk::new();
    let (journal, _) = open(&disk, 64).unwrap();
    for n in 0..4 {
        append(&journal, vec![record(1, [n; 64])]).await.unwrap();
    }
    drop(journal);
    let names = segments(&disk);
    disk.remove(&Path::new(DIR).join(&names[1])).unwrap();
    let error = open(&disk, 64).err().unwrap();
    assert!(error.to_string().contains("missing"), "{error}");

    let disk = SimDisk::new();
    drop(open(&disk, 64).unwrap());
    let file = disk.open(&Path::new(DIR).join(&names[0])).unwrap();
    let mut header = super::disk::read_exact_at(&*file, 40, 0).unwrap();
    header[8] = 7;
    let sum = crc32c::crc32c(&header[..32]);
    header[32..36].copy_from_slice(&sum.to_le_bytes());
    file.write_at(&header, 0).unwrap();
    let error = open(&disk, 64).err().unwrap();
    assert!(
        matches!(error, JournalError::UnknownVersion { found: 7, .. }),
        "{error}"
    );
}

#[tokio::test]
async fn too_large_a_record_is_refused_alone() {
    let (journal, _) = open(&SimDisk::new(), 1 << 16).unwrap();
    let large = vec![0; super::MAX_PAYLOAD_BYTES + 1];
    let error = append(&journal, vec![record(1, large)]).await.unwrap_err();
    assert!(matches!(error, JournalError::TooLarge { .. }));
    append(&journal, vec![record(1, "fits")]).await.unwrap();
}

/// Appends in bursts, and cuts the power after every operation.
#[tokio::test]
async fn nothing_acknowledged_is_lost_by_a_power_cut() {
    let seed: u64 = rand::random();
    for round in 0..6 {
        let mut rng = StdRng::seed_from_u64(seed + round);
        let segment_bytes = rng.random_range(600..4000);
        let disk = SimDisk::new();
        let (journal, _) = open(&disk, segment_bytes).unwrap();
        // For each append in order: its payloads, and how many operations had
        // been done when it was acknowledged.
        let acked = Arc::new(Mutex::new(Vec::new()));
        let mut appended: Vec<Vec<Vec<u8>>> = Vec::new();
        for n in 0..30u32 {
            let count = rng.random_range(1..4);
            let payloads: Vec<Vec<u8>> = (0..count)
                .map(|_| [n.to_le_bytes().to_vec(), vec![5; rng.random_range(0..700)]].concat())
                .collect();
            appended.push(payloads.clone());
            let (acked, disk) = (acked.clone(), disk.clone());
            let done = Box::new(move |result: Result<Vec<Position>, JournalError>| {
                result.unwrap();
                acked.lock().unwrap().push(disk.operations());
            });
            let records = payloads.into_iter().map(|payload| record(3, payload));
            journal.append(records.collect(), done).await.unwrap();
            if rng.random_bool(0.3) {
                append(&journal, vec![record(FIRST_MARK, n.to_le_bytes())])
                    .await
                    .unwrap();
            }
        }
        drop(journal);
        let acked = acked.lock().unwrap().clone();
        let all = appended.concat();
        for at in 0..=disk.operations() {
            let mut keeps = vec![Keep::Nothing, Keep::Everything];
            keeps.extend((0..4).map(|_| Keep::Sampled(rng.random())));
            for keep in keeps {
                let hint = format!("seed {seed} round {round} cut at {at} {keep:?}");
                let cut = disk.after_power_cut(at, keep);
                let (_, read) = open(&cut, segment_bytes).unwrap_or_else(|error| {
                    panic!("{hint}: {error}\n{:#?}", disk.describe_operations())
                });
                let read = plain(&read);
                assert!(all.starts_with(&read), "{hint}: invented or reordered");
                let sure = acked.iter().filter(|acked_at| **acked_at <= at).count();
                let sure: usize = appended[..sure].iter().map(Vec::len).sum();
                assert!(read.len() >= sure, "{hint}: {} of {sure}", read.len());
                check_second_cut(&cut, segment_bytes, &read, &hint, &mut rng);
            }
        }
    }
}

/// Whatever opening read is there after another cut, during it or after.
fn check_second_cut(
    disk: &SimDisk,
    segment_bytes: u64,
    first: &[Vec<u8>],
    hint: &str,
    rng: &mut StdRng,
) {
    let done = disk.operations();
    let at = rng.random_range(0..=done);
    let again = disk.after_power_cut(at, Keep::Sampled(rng.random()));
    let (_, read) = open(&again, segment_bytes)
        .unwrap_or_else(|error| panic!("{hint}, again at {at}: {error}"));
    assert_eq!(plain(&read), first, "{hint}, again at {at}");
}

#[test]
fn errors_name_their_cause_once() {
    let error = JournalError::Fenced {
        doing: "write",
        source: Arc::new(io::Error::other("no luck")),
    };
    assert!(!error.to_string().contains("no luck"));
    assert!(std::error::Error::source(&error).is_some());
}
