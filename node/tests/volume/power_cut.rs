//! A real power cut, as far as a file system can have one: an ext4 volume that
//! is shut down without a flush while a store writes to it.
//!
//! As often as `WEIR_CUTS` says; the default is for every change of the code.
//! How long a store writes before each cut, and whether it was closed in good
//! order before, follows from `WEIR_SEED`.

use std::{
    fmt,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    str::FromStr,
    sync::Arc,
};

use weir_cluster::{
    Digest,
    blob::{BlobStore, Lease, conformance::sample, put_bytes},
    journal::disk::RealDisk,
};
use weir_node::store::{LocalStore, StoreConfig, fsck};

use crate::{node::stage, volume::Volume};

/// Tells the child process where to write.
const CHILD_DIR: &str = "WEIR_POWER_CUT_DIR";
const CHILD_ROUND: &str = "WEIR_POWER_CUT_ROUND";

const DEFAULT_CUTS: u64 = 60;
const DEFAULT_SEED: u64 = 1;

/// Acknowledgements before a cut, at most; the child is some ahead of them.
const ENOUGH_MAX: u64 = 60;

/// Cuts that one store lives through; then the next begins with nothing. No
/// blob can be evicted so soon, and the volume has room for so many.
const CUTS_OF_A_STORE: u64 = 15;

const WRITERS: u64 = 8;
const INODES: u32 = 16_384;

fn config() -> StoreConfig {
    StoreConfig {
        capacity_bytes: 384 << 20,
        segment_bytes: 1 << 20,
        ..StoreConfig::default()
    }
}

fn open(dir: &Path) -> Arc<LocalStore> {
    LocalStore::open(config(), Arc::new(RealDisk::new(dir))).unwrap()
}

/// One of each ten is a file or has several checksums.
fn blob(round: u64, writer: u64, count: u64) -> bytes::Bytes {
    let seed = round << 40 | writer << 32 | count;
    let len = match count % 20 {
        13 => (1 << 20) + 1 + (seed % 1000) as usize,
        7 => 100_000,
        _ => 1_000 + (seed % 3000) as usize,
    };
    sample(seed, len)
}

/// The number in a variable of the environment.
fn number<T: FromStr>(name: &str, default: T) -> T
where
    T::Err: fmt::Debug,
{
    std::env::var(name).map_or(default, |text| text.parse().expect(name))
}

/// Runs as a process of its own: stores blobs until it is killed, and prints
/// each that was acknowledged.
#[test]
fn child_that_writes() {
    let Ok(dir) = std::env::var(CHILD_DIR) else {
        return;
    };
    let round: u64 = number(CHILD_ROUND, 0);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store = open(Path::new(&dir));
    let (acknowledged, mut received) = tokio::sync::mpsc::channel(1);
    runtime.spawn(async move {
        for writer in 0..WRITERS {
            let (store, acknowledged) = (store.clone(), acknowledged.clone());
            tokio::spawn(async move {
                for count in 0.. {
                    if put_bytes(&*store, blob(round, writer, count))
                        .await
                        .is_err()
                        || acknowledged.send((writer, count)).await.is_err()
                    {
                        return;
                    }
                }
            });
        }
    });
    let mut out = std::io::stdout();
    while let Some((writer, count)) = received.blocking_recv() {
        // The parent may be gone; then there is nobody to write for.
        if writeln!(out, "stored {writer} {count}")
            .and_then(|()| out.flush())
            .is_err()
        {
            return;
        }
    }
}

/// Lets a child write to the volume, cuts the power after `enough` blobs were
/// acknowledged, and returns those.
fn write_and_cut(volume: &Volume, store: &Path, round: u64, enough: usize) -> Vec<Digest> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "power_cut::child_that_writes", "--nocapture"])
        .env(CHILD_DIR, store)
        .env(CHILD_ROUND, round.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut acknowledged = Vec::new();
    for line in lines.map_while(Result::ok) {
        // The test harness prints lines of its own, also before ours.
        if let Some((_, numbers)) = line.split_once("stored ") {
            let (writer, count) = numbers.split_once(' ').unwrap();
            acknowledged.push((writer.parse().unwrap(), count.parse().unwrap()));
        }
        if acknowledged.len() == enough {
            break;
        }
    }
    // What was acknowledged after the cut was ordered is unknown: a sync that
    // is under way when a file system is shut down may still report success.
    volume.cut_power();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(acknowledged.len(), enough, "the child ended early");
    let digests = acknowledged
        .into_iter()
        .map(|(writer, count)| Digest::of(&blob(round, writer, count)));
    digests.collect()
}

/// What came of all cuts.
#[derive(Default)]
struct Totals {
    cuts: u64,
    acknowledged: usize,
    read: usize,
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Totals {
            cuts,
            acknowledged,
            read,
        } = self;
        write!(
            f,
            "{cuts} power cuts, {acknowledged} blobs acknowledged, {read} read back, 0 lost"
        )
    }
}

/// Everything acknowledged is there and is read back, byte for byte.
async fn insist_whole(store: &LocalStore, all: &[Digest], context: &str) -> usize {
    let missing = store.find_missing(all, Lease::SHORT).await.unwrap();
    let (lost, of) = (missing.len(), all.len());
    assert_eq!(lost, 0, "{context}: lost {lost} of {of}");
    for (digest, answer) in all.iter().zip(store.get_batch(all).await) {
        let bytes = answer.unwrap_or_else(|error| panic!("{context}: {error}"));
        assert_eq!(Digest::of(&bytes), *digest, "{context}");
    }
    of
}

#[test]
fn acknowledged_blobs_survive_the_shutdown_of_a_real_file_system() {
    let _stage = stage();
    let dir = tempfile::tempdir().unwrap();
    let Some(mut volume) = Volume::new(dir.path(), INODES) else {
        return;
    };
    let cuts = number("WEIR_CUTS", DEFAULT_CUTS);
    let seed = number("WEIR_SEED", DEFAULT_SEED);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut totals = Totals::default();
    let mut all = Vec::new();
    let store_dir = volume.mount.join("store");
    for round in 0..cuts {
        let context = format!("WEIR_SEED={seed}, cut {round}");
        let drawn = Digest::of(&sample(seed << 32 | round, 16)).hash;
        if round % CUTS_OF_A_STORE == 0 {
            all.clear();
            let _ = std::fs::remove_dir_all(&store_dir);
            std::fs::create_dir(&store_dir).unwrap();
            // As `weir init` leaves it: only the store is cut short.
            std::fs::File::open(&volume.mount)
                .unwrap()
                .sync_all()
                .unwrap();
        }
        let enough = 1 + u64::from(drawn[0]) % ENOUGH_MAX;
        let new = write_and_cut(&volume, &store_dir, round, enough as usize);
        totals.cuts += 1;
        totals.acknowledged += new.len();
        all.extend(new);
        volume.mount_again();
        let report = fsck::check(&RealDisk::new(&store_dir)).unwrap();
        assert!(report.is_clean(), "{context}: {report}");
        let store = open(&store_dir);
        totals.read += runtime.block_on(insist_whole(&store, &all, &context));
        if drawn[1].is_multiple_of(2) {
            store.close();
        }
    }
    // A line even where output is captured: this is a figure.
    let _ = writeln!(std::io::stderr(), "WEIR_SEED={seed}: {totals}");
}
