//! Room that is kept for what must go on when the disk is full.
//!
//! ```text
//!   reserve  ┌────────┬────────┬────────┬────────┐   a file of nothing,
//!            │  step  │  step  │  step  │  step  │   allocated in full
//!            └────────┴────────┴────────┴────────┘
//!                                        ◄─ given up, one at a time, when a
//!                                           write finds no room; then the
//!                                           write is tried again
//! ```
//!
//! [`ReservedDisk`] stands between a journal and its disk. So Raft can still
//! vote, remove a node and agree that something is deleted, when blobs or
//! another program have filled the volume. Only writes are tried again, at the
//! same place with the same bytes; a sync never is.
//!
//! Not promised: a disk that delays running out of room to the sync (network
//! and copy-on-write file systems) fails there, as without a reserve; and other
//! programs may take the room that is given up, which is why it is given up in
//! steps.

use std::{
    io::{self, ErrorKind},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::disk::{DirEntry, Disk, DiskFile, is_full, may_open_no_more};

/// Twice what a journal is filled with zeros ahead: one step takes it further.
const STEP_BYTES: u64 = 8 << 20;

/// Between attempts to open a file when the process has too many.
const PAUSE: Duration = Duration::from_millis(100);

/// The file, at the root of the disk.
const FILE: &str = "reserve";

/// A disk with some room kept back.
#[derive(Clone)]
pub struct ReservedDisk {
    reserve: Arc<Reserve>,
}

struct Reserve {
    disk: Arc<dyn Disk>,
    whole: u64,
    /// A std mutex: held while the file is changed, which is rare.
    file: Mutex<Kept>,
}

struct Kept {
    file: Arc<dyn DiskFile>,
    bytes: u64,
}

impl ReservedDisk {
    /// Enough for four steps.
    pub const DEFAULT_BYTES: u64 = 4 * STEP_BYTES;

    /// Keeps so many bytes of a disk back, or what there is room for. Where next
    /// to nothing else is free, a step is given up at once, so that a node whose
    /// disk is full can start. Blocks.
    pub fn open(disk: Arc<dyn Disk>, whole: u64) -> io::Result<Self> {
        let file = match disk.open(Path::new(FILE)) {
            Err(error) if error.kind() == ErrorKind::NotFound => disk.create(Path::new(FILE))?,
            opened => opened?,
        };
        let bytes = file.len()?.min(whole);
        let this = Self {
            reserve: Arc::new(Reserve {
                disk,
                whole,
                file: Mutex::new(Kept { file, bytes }),
            }),
        };
        this.refill();
        // A node has more to write when it starts than goes through here.
        if this.free_bytes()? < STEP_BYTES {
            this.reserve.give_up();
        }
        let lacking = this.lacking();
        if lacking > 0 {
            tracing::warn!(
                lacking,
                "the disk has no room for the whole reserve of raft"
            );
        }
        Ok(this)
    }

    /// Bytes of the reserve that have been given up.
    #[must_use]
    pub fn lacking(&self) -> u64 {
        self.reserve.whole - self.reserve.kept().bytes
    }

    /// Takes back what was given up, if there is room for it and as much again.
    /// To be called now and then. Blocks.
    pub fn refill(&self) {
        let Reserve { disk, whole, .. } = &*self.reserve;
        let mut kept = self.reserve.kept();
        let lacking = whole - kept.bytes;
        let free = disk.free_bytes().unwrap_or(0);
        if lacking == 0 || free < lacking + whole {
            return;
        }
        match kept.file.allocate(*whole) {
            Ok(()) => {
                kept.bytes = *whole;
                tracing::info!(bytes = whole, "raft has its reserve of room on the disk");
            }
            Err(error) => {
                tracing::debug!(%error, "no room for the reserve yet");
                // What a failed attempt took goes back.
                let _ = kept.file.set_len(kept.bytes);
            }
        }
    }
}

impl Reserve {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a step was given up; none if there is nothing left.
    fn give_up(&self) -> bool {
        let mut kept = self.kept();
        let left = kept.bytes.saturating_sub(STEP_BYTES);
        if kept.bytes == 0 || kept.file.set_len(left).is_err() {
            return false;
        }
        // Some file systems hand freed room out only after that. Nothing that
        // matters is in the file, so it does not matter whether it succeeds.
        let _ = kept.file.sync();
        kept.bytes = left;
        tracing::warn!(
            left,
            "the disk is full; raft goes on with the room kept for it"
        );
        true
    }

    /// Acts, giving up step after step while there is no room.
    fn make_room<T>(&self, act: impl Fn() -> io::Result<T>) -> io::Result<T> {
        loop {
            match patiently(&act) {
                Err(error) if is_full(&error) && self.give_up() => {}
                outcome => return outcome,
            }
        }
    }
}

/// Acts, as often as it takes while the process may open no more files. Whoever
/// writes waits meanwhile, which clients know as a node that is slow; a journal
/// that is told would be fenced until the next start.
fn patiently<T>(act: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let mut told = false;
    loop {
        match act() {
            Err(error) if may_open_no_more(&error) => {
                if !told {
                    tracing::warn!(%error, "raft waits until it may open a file");
                    told = true;
                }
                std::thread::sleep(PAUSE);
            }
            outcome => return outcome,
        }
    }
}

struct ReservedFile {
    file: Arc<dyn DiskFile>,
    reserve: Arc<Reserve>,
}

impl ReservedDisk {
    fn file(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        let reserve = Arc::clone(&self.reserve);
        Arc::new(ReservedFile { file, reserve })
    }
}

impl Disk for ReservedDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let opened = patiently(|| self.reserve.disk.open(path));
        opened.map(|file| self.file(file))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let disk = &self.reserve.disk;
        // Bytes that are given up make no room for a file.
        let created = match disk.free_files() {
            Ok(0) => patiently(|| disk.create(path)),
            _ => self.reserve.make_room(|| disk.create(path)),
        };
        created.map(|file| self.file(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.reserve
            .make_room(|| self.reserve.disk.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.reserve.disk.remove(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.reserve
            .make_room(|| self.reserve.disk.create_dir(path))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        patiently(|| self.reserve.disk.list(dir))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        patiently(|| self.reserve.disk.sync_dir(dir))
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.reserve.disk.free_bytes()
    }

    fn free_files(&self) -> io::Result<u64> {
        self.reserve.disk.free_files()
    }

    fn give_up_reserve(&self) -> bool {
        self.reserve.give_up()
    }
}

impl DiskFile for ReservedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.reserve.make_room(|| self.file.write_at(data, offset))
    }

    fn write_parts_at(&self, parts: &[io::IoSlice<'_>], offset: u64) -> io::Result<()> {
        let write = || self.file.write_parts_at(parts, offset);
        self.reserve.make_room(write)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.reserve.make_room(|| self.file.allocate(len))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.reserve.make_room(|| self.file.set_len(len))
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU8;

    use tokio::sync::oneshot;

    use super::*;
    use crate::journal::{Journal, JournalConfig, Record, sim_disk::SimDisk};

    const WHOLE: u64 = ReservedDisk::DEFAULT_BYTES;

    async fn append(journal: &Journal, bytes: usize) -> bool {
        let (told, written) = oneshot::channel();
        let record = Record {
            kind: NonZeroU8::MIN,
            payload: vec![7; bytes],
        };
        let done = Box::new(move |outcome: Result<_, _>| {
            let _ = told.send(outcome.is_ok());
        });
        journal.append(vec![record], done).await.is_ok() && written.await.unwrap_or(false)
    }

    #[tokio::test]
    async fn a_journal_goes_on_when_the_disk_is_full_and_takes_its_room_back() {
        let disk = SimDisk::new();
        disk.set_capacity(3 * WHOLE);
        let reserved = ReservedDisk::open(Arc::new(disk.clone()), WHOLE).unwrap();
        assert_eq!(reserved.lacking(), 0);
        let config = JournalConfig {
            dir: "log".into(),
            segment_bytes: 1 << 20,
        };
        let open = || {
            Journal::open(
                Arc::new(reserved.clone()),
                config.clone(),
                &mut |_, _, _| Ok(()),
            )
        };
        let journal = open().unwrap();
        assert!(append(&journal, 1_000).await);
        // Something else fills the disk to the last byte.
        let blobs = disk.create(Path::new("blobs")).unwrap();
        blobs.allocate(disk.free_bytes().unwrap()).unwrap();
        for _ in 0..12 {
            assert!(append(&journal, 1 << 20).await, "it is fenced");
        }
        let lacking = reserved.lacking();
        assert!(lacking > 0 && lacking < WHOLE, "{lacking} given up");
        reserved.refill();
        assert_eq!(reserved.lacking(), lacking, "there is no room yet");
        // Room comes back, and so does the reserve; across a restart too.
        blobs.set_len(0).unwrap();
        reserved.refill();
        assert_eq!(reserved.lacking(), 0);
        drop(journal);
        assert!(append(&open().unwrap(), 10).await);
        let again = ReservedDisk::open(Arc::new(disk.clone()), WHOLE).unwrap();
        assert_eq!(again.lacking(), 0);
        // A start on a full disk finds some room.
        blobs.allocate(disk.free_bytes().unwrap()).unwrap();
        let full = ReservedDisk::open(Arc::new(disk.clone()), WHOLE).unwrap();
        assert_eq!(full.lacking(), STEP_BYTES);
        assert_eq!(disk.free_bytes().unwrap(), STEP_BYTES);
    }

    #[test]
    fn what_cannot_be_opened_for_want_of_files_is_opened_when_there_are_some() {
        let too_many = rustix::io::Errno::MFILE.raw_os_error();
        let tries = std::cell::Cell::new(0);
        let opened = patiently(|| match tries.replace(tries.get() + 1) {
            0..3 => Err(io::Error::from_raw_os_error(too_many)),
            number => Ok(number),
        });
        assert_eq!(opened.unwrap(), 3);
        // Nothing else is tried again, least of all a sync.
        tries.set(0);
        let failed: io::Result<()> = patiently(|| {
            tries.set(tries.get() + 1);
            Err(rustix::io::Errno::IO.into())
        });
        assert!(failed.is_err());
        assert_eq!(tries.get(), 1);
    }

    #[test]
    fn nothing_is_given_up_for_a_file_that_has_no_inode() {
        let disk = SimDisk::new();
        let reserved = ReservedDisk::open(Arc::new(disk.clone()), WHOLE).unwrap();
        disk.set_files_max(0);
        let created = reserved.create(Path::new("another"));
        assert!(created.is_err_and(|error| is_full(&error)));
        assert_eq!(reserved.lacking(), 0);
    }

    #[tokio::test]
    async fn past_the_reserve_the_journal_is_fenced() {
        let disk = SimDisk::new();
        disk.set_capacity(3 * WHOLE);
        let reserved = ReservedDisk::open(Arc::new(disk.clone()), WHOLE).unwrap();
        let config = JournalConfig::new("log");
        let journal =
            Journal::open(Arc::new(reserved.clone()), config, &mut |_, _, _| Ok(())).unwrap();
        let blobs = disk.create(Path::new("blobs")).unwrap();
        blobs.allocate(disk.free_bytes().unwrap()).unwrap();
        let mut written = 0;
        while append(&journal, 1 << 20).await {
            written += 1;
            assert!(written < 100);
        }
        assert_eq!(reserved.lacking(), WHOLE);
        assert!(written > 20, "only {written} MiB of the reserve were used");
    }
}
