//! The files that small blobs share.
//!
//! A segment has a number, never given twice, and grows at its end only while
//! it is the active one, the newest. It begins with 16 bytes: magic u32,
//! version u32, its number u32, CRC-32C of those u32. Records follow.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, RwLock,
        atomic::{
            AtomicBool, AtomicU32, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
};

use weir_cluster::journal::disk::{Disk, DiskFile};

use super::{record::u32_at, volume::sync_failed};

/// The folder of segments.
pub(super) const DIR: &str = "segments";

/// Where the first record begins.
pub(super) const SEGMENT_HEADER: u64 = 16;

const MAGIC: u32 = u32::from_le_bytes(*b"WrSg");
const VERSION: u32 = 1;

/// One segment. Its file stays readable while somebody holds this, also after
/// it was removed.
pub(super) struct Segment {
    pub(super) number: u32,
    pub(super) file: Arc<dyn DiskFile>,
    /// Bytes that were reserved for it.
    pub(super) allocated: u64,
    /// Where its durable records end.
    end: AtomicU64,
    /// Whether it is the one that grows.
    active: AtomicBool,
}

/// All segments by number.
pub(super) struct Segments {
    // A std lock: held for map operations only, never across an await.
    held: RwLock<BTreeMap<u32, Arc<Segment>>>,
    next: AtomicU32,
}

impl Segment {
    pub(super) fn new(number: u32, file: Arc<dyn DiskFile>, allocated: u64, end: u64) -> Self {
        Self {
            number,
            file,
            allocated,
            end: AtomicU64::new(end),
            active: AtomicBool::new(false),
        }
    }

    /// Creates the file of a segment, durably and with room for `allocated` bytes.
    pub(super) fn create(disk: &dyn Disk, number: u32, allocated: u64) -> io::Result<Self> {
        let path = path(number);
        let file = disk.create(&path)?;
        let prepared = file
            .allocate(allocated)
            .and_then(|()| file.write_at(&header(number), 0))
            .and_then(|()| file.sync().map_err(sync_failed))
            .and_then(|()| disk.sync_dir(Path::new(DIR)).map_err(sync_failed));
        if let Err(error) = prepared {
            // Best effort: an empty segment is also swept at the next start.
            let _ = disk.remove(&path);
            return Err(error);
        }
        let segment = Self::new(number, file, allocated, SEGMENT_HEADER);
        segment.set_active(true);
        Ok(segment)
    }

    pub(super) fn end(&self) -> u64 {
        self.end.load(Acquire)
    }

    pub(super) fn is_active(&self) -> bool {
        self.active.load(Acquire)
    }

    pub(super) fn set_active(&self, active: bool) {
        self.active.store(active, Release);
    }

    pub(super) fn set_end(&self, end: u64) {
        self.end.store(end, Release);
    }
}

impl Segments {
    pub(super) fn new() -> Self {
        Self {
            held: RwLock::default(),
            next: AtomicU32::new(1),
        }
    }

    pub(super) fn get(&self, number: u32) -> Option<Arc<Segment>> {
        self.read().get(&number).cloned()
    }

    /// All of them, oldest first.
    pub(super) fn all(&self) -> Vec<Arc<Segment>> {
        self.read().values().cloned().collect()
    }

    pub(super) fn insert(&self, segment: Arc<Segment>) {
        self.skip_to(segment.number.saturating_add(1));
        self.write().insert(segment.number, segment);
    }

    pub(super) fn remove(&self, number: u32) {
        self.write().remove(&number);
    }

    /// Gives no number below `next` any more.
    pub(super) fn skip_to(&self, next: u32) {
        self.next.fetch_max(next, Relaxed);
    }

    /// The number that the next segment will have.
    pub(super) fn next(&self) -> u32 {
        self.next.load(Relaxed)
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<u32, Arc<Segment>>> {
        self.held.read().expect("no panic while the map is locked")
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<u32, Arc<Segment>>> {
        self.held.write().expect("no panic while the map is locked")
    }
}

/// Where a segment is.
pub(super) fn path(number: u32) -> PathBuf {
    Path::new(DIR).join(format!("{number:08x}"))
}

/// The number in the name of a segment's file.
pub(super) fn number_of(name: &str) -> Option<u32> {
    let number = u32::from_str_radix(name, 16).ok()?;
    (format!("{number:08x}") == name).then_some(number)
}

/// The version a segment was written in, if these are the first bytes of any.
pub(super) fn version_of(bytes: &[u8]) -> Option<u32> {
    let intact = bytes.len() >= SEGMENT_HEADER as usize
        && u32_at(bytes, 0) == MAGIC
        && u32_at(bytes, 12) == crc32c::crc32c(&bytes[..12]);
    intact.then(|| u32_at(bytes, 4))
}

/// The version this program writes and reads.
pub(super) const fn version() -> u32 {
    VERSION
}

fn header(number: u32) -> [u8; SEGMENT_HEADER as usize] {
    let mut header = [0; SEGMENT_HEADER as usize];
    header[..4].copy_from_slice(&MAGIC.to_le_bytes());
    header[4..8].copy_from_slice(&VERSION.to_le_bytes());
    header[8..12].copy_from_slice(&number.to_le_bytes());
    let crc = crc32c::crc32c(&header[..12]);
    header[12..].copy_from_slice(&crc.to_le_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_headers_come_back() {
        for number in [0, 1, 255, u32::MAX] {
            let path = path(number);
            let name = path.file_name().unwrap().to_str().unwrap();
            assert_eq!(number_of(name), Some(number));
            assert_eq!(version_of(&header(number)), Some(VERSION));
        }
        for name in ["", "1", "0000000g", "+0000001", "000000001", "0000000A"] {
            assert_eq!(number_of(name), None, "{name}");
        }
        let mut damaged = header(1);
        damaged[9] ^= 1;
        assert_eq!(version_of(&damaged), None);
    }
}
