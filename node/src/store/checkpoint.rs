//! The index, written down, so that opening need not read every segment.
//!
//! ```text
//! header: magic u32, version u32, id u64, store time u32, position (segment
//!         u32, offset u32), lease floor u32, CRC-32C of those u32
//! for each shard: small u32, large u32, CRC-32C u32 of the two and what follows
//!         small: hash [32] size u32 segment u32 offset u32 access u32 lease u32
//!         large: hash [32] size u64 access u32 lease u32
//! ```
//!
//! It lists the small blobs that lie before its position; records from there on
//! are found by a scan. It is a help, not the truth: a damaged one is ignored.
//!
//! A second file, `index.clean`, names the checkpoint with which the store was
//! closed. It is removed before the store is used again: a lease renewed later
//! is not in that checkpoint, so after a crash all blobs count as leased anew.

use std::{
    io,
    path::{Path, PathBuf},
};

use weir_cluster::{
    Digest, Error,
    journal::disk::{Disk, DiskFile, read_exact_at, replace_file},
};

use super::{
    core::Core,
    files::TEMP_DIR,
    index::{Large, Location, SHARDS, Small},
    record::{ALIGN, record_len, u32_at, u64_at},
    uses::Uses,
};

pub(super) const PATH: &str = "index.checkpoint";
pub(super) const CLEAN_PATH: &str = "index.clean";

const MAGIC: u32 = u32::from_le_bytes(*b"WrIx");
/// 2: shards go by the first bits of the hash. One of version 1 is ignored.
const VERSION: u32 = 2;
const HEADER: usize = 36;
const SECTION_HEADER: usize = 12;
const SMALL: usize = 52;
const LARGE: usize = 48;

/// What a checkpoint says besides its entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) id: u64,
    /// Store time at which it was written.
    pub(super) time: u32,
    /// All records before this place are covered.
    pub(super) position: Location,
    pub(super) lease_floor: u32,
}

/// Entries of one shard.
pub(super) struct Section {
    small: Vec<u8>,
    large: Vec<u8>,
}

/// Bytes a checkpoint takes now, about.
pub(super) fn size(core: &Core) -> u64 {
    core.index.counts().totals().0 * SMALL as u64
}

/// Replaces the checkpoint. All records before `position` are durable and in
/// the index. Answers with its id.
pub(super) fn write(core: &Core, position: Location) -> Result<u64, Error> {
    let volume = &core.volume;
    volume.check_root()?;
    let temporary = Path::new(TEMP_DIR).join(PATH);
    let head = Head {
        id: rand::random(),
        time: core.clock.now(),
        position,
        lease_floor: core.index.lease_floor(),
    };
    match volume.disk.remove(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(volume.fence("cannot remove a file", &error));
        }
        _ => {}
    }
    write_file(core, &temporary, &head)
        .and_then(|()| {
            let disk = &*volume.disk;
            disk.rename(&temporary, Path::new(PATH))?;
            disk.sync_dir(Path::new(TEMP_DIR))?;
            disk.sync_dir(Path::new(""))
        })
        .map_err(|error| volume.failed("cannot write a checkpoint", &error))?;
    Ok(head.id)
}

fn write_file(core: &Core, path: &Path, head: &Head) -> io::Result<()> {
    let file = core.volume.disk.create(path)?;
    file.write_at(&head.encode(), 0)?;
    let mut at = HEADER as u64;
    let mut outcome = Ok(());
    core.index.each_shard(|shard| {
        if outcome.is_ok() {
            let section = encode_section(shard, head.position);
            outcome = file.write_at(&section, at);
            at += section.len() as u64;
        }
    });
    outcome?;
    file.sync()
}

/// Marks the checkpoint with this id as that of a store that was closed.
pub(super) fn mark_clean(core: &Core, id: u64) -> Result<(), Error> {
    replace_file(&*core.volume.disk, Path::new(CLEAN_PATH), &clean_mark(id)).map_err(|error| {
        core.volume
            .failed("cannot mark the store as closed", &error)
    })
}

/// The id in the mark, which is taken away durably.
pub(super) fn take_clean_mark(disk: &dyn Disk) -> io::Result<Option<u64>> {
    let path = PathBuf::from(CLEAN_PATH);
    let mark = match disk.open(&path) {
        Ok(file) => read_exact_at(&*file, 12, 0).unwrap_or_default(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    disk.remove(&path)?;
    disk.sync_dir(Path::new(""))?;
    let intact = mark.len() == 12 && clean_mark(u64_at(&mark, 0)) == mark[..];
    Ok(intact.then(|| u64_at(&mark, 0)))
}

fn clean_mark(id: u64) -> [u8; 12] {
    let mut mark = [0; 12];
    mark[..8].copy_from_slice(&id.to_le_bytes());
    let crc = crc32c::crc32c(&mark[..8]);
    mark[8..].copy_from_slice(&crc.to_le_bytes());
    mark
}

/// An intact checkpoint, read section by section.
pub(super) struct Reader {
    file: std::sync::Arc<dyn DiskFile>,
    pub(super) head: Head,
    at: u64,
    len: u64,
}

impl Reader {
    /// Opens the checkpoint; `None` if there is none that can be read.
    pub(super) fn open(disk: &dyn Disk) -> io::Result<Option<Self>> {
        let file = match disk.open(Path::new(PATH)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let len = file.len()?;
        let Some(head) = read_exact_at(&*file, HEADER, 0)
            .ok()
            .and_then(|bytes| Head::parse(&bytes))
        else {
            return Ok(None);
        };
        Ok(Some(Self {
            file,
            head,
            at: HEADER as u64,
            len,
        }))
    }

    /// The next shard's entries; `None` if they are damaged.
    pub(super) fn section(&mut self) -> Option<Section> {
        let header = read_exact_at(&*self.file, SECTION_HEADER, self.at).ok()?;
        let (small, large) = (u32_at(&header, 0) as usize, u32_at(&header, 4) as usize);
        let small_len = small.checked_mul(SMALL)?;
        let len = small_len.checked_add(large.checked_mul(LARGE)?)?;
        self.at += SECTION_HEADER as u64;
        // Before anything is reserved for it.
        if len as u64 > self.len.checked_sub(self.at)? {
            return None;
        }
        let mut entries = read_exact_at(&*self.file, len, self.at).ok()?;
        self.at += len as u64;
        let crc = crc32c::crc32c_append(crc32c::crc32c(&header[..8]), &entries);
        if crc != u32_at(&header, 8) {
            return None;
        }
        let large = entries.split_off(small_len);
        Some(Section {
            small: entries,
            large,
        })
    }
}

impl Section {
    /// Number of small blobs in it.
    pub(super) fn small_len(&self) -> usize {
        self.small.len() / SMALL
    }

    pub(super) fn small(&self) -> impl Iterator<Item = Small> {
        self.small.chunks_exact(SMALL).map(|entry| {
            let mut hash = [0; 32];
            hash.copy_from_slice(&entry[..32]);
            Small {
                hash,
                size: u32_at(entry, 32),
                location: Location {
                    segment: u32_at(entry, 36),
                    offset: u32_at(entry, 40),
                },
                uses: Uses::new(u32_at(entry, 44), u32_at(entry, 48)),
            }
        })
    }

    pub(super) fn large(&self) -> impl Iterator<Item = Large> {
        self.large.chunks_exact(LARGE).map(|entry| {
            let mut hash = [0; 32];
            hash.copy_from_slice(&entry[..32]);
            Large {
                digest: Digest {
                    hash,
                    size: u64_at(entry, 32),
                },
                uses: Uses::new(u32_at(entry, 40), u32_at(entry, 44)),
            }
        })
    }
}

/// Where a blob's record ends in its segment.
pub(super) fn end_of(entry: &Small) -> u64 {
    u64::from(entry.location.offset) * ALIGN + record_len(entry.size)
}

impl Head {
    fn encode(&self) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        out[..4].copy_from_slice(&MAGIC.to_le_bytes());
        out[4..8].copy_from_slice(&VERSION.to_le_bytes());
        out[8..16].copy_from_slice(&self.id.to_le_bytes());
        out[16..20].copy_from_slice(&self.time.to_le_bytes());
        out[20..24].copy_from_slice(&self.position.segment.to_le_bytes());
        out[24..28].copy_from_slice(&self.position.offset.to_le_bytes());
        out[28..32].copy_from_slice(&self.lease_floor.to_le_bytes());
        let crc = crc32c::crc32c(&out[..32]);
        out[32..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let intact = u32_at(bytes, 0) == MAGIC
            && u32_at(bytes, 4) == VERSION
            && u32_at(bytes, 32) == crc32c::crc32c(&bytes[..32]);
        intact.then(|| Self {
            id: u64_at(bytes, 8),
            time: u32_at(bytes, 16),
            position: Location {
                segment: u32_at(bytes, 20),
                offset: u32_at(bytes, 24),
            },
            lease_floor: u32_at(bytes, 28),
        })
    }
}

fn encode_section(shard: &super::index::Shard, position: Location) -> Vec<u8> {
    let mut out = vec![0; SECTION_HEADER];
    out.reserve(shard.small.len() * SMALL + shard.large.len() * LARGE);
    let mut small: u32 = 0;
    for entry in shard.small.iter().filter(|entry| entry.location < position) {
        small += 1;
        let (access, lease_end) = entry.uses.parts();
        out.extend_from_slice(&entry.hash);
        for number in [
            entry.size,
            entry.location.segment,
            entry.location.offset,
            access,
            lease_end,
        ] {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }
    for entry in &shard.large {
        let (access, lease_end) = entry.uses.parts();
        out.extend_from_slice(&entry.digest.hash);
        out.extend_from_slice(&entry.digest.size.to_le_bytes());
        out.extend_from_slice(&access.to_le_bytes());
        out.extend_from_slice(&lease_end.to_le_bytes());
    }
    out[..4].copy_from_slice(&small.to_le_bytes());
    out[4..8].copy_from_slice(&(shard.large.len() as u32).to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&out[..8]), &out[SECTION_HEADER..]);
    out[8..12].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Number of sections in a checkpoint.
pub(super) const SECTIONS: usize = SHARDS;
