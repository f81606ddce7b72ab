//! Large blobs: a file each, `files/<first byte>/<hash>-<size>`.
//!
//! After the blob's bytes comes a trailer: the CRC-32C of each 256 KiB, u32
//! each, then 64 bytes of footer:
//!
//! ```text
//!  0 magic u32   4 version u8   5 digest function u8   6 zero u16   8 namespace u32
//! 12 chunk bytes u32   16 size u64   24 hash [32]   56 store time u32
//! 60 CRC-32C of the checksums and the footer up to here
//! ```
//!
//! A file is complete and synced before it gets its name, and visible in the
//! index only after its folder is synced (a rename alone does not survive a
//! power cut).

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use weir_cluster::{
    Digest,
    blob::SMALL_BLOB_BYTES,
    journal::disk::{Disk, DiskFile, may_open_no_more, read_exact_at},
    words::digest::DigestFunction,
};

use super::{
    record::{u32_at, u64_at},
    volume::sync_failed,
};
use crate::planted::{self, Bug};

/// The folder of large blobs.
pub(super) const DIR: &str = "files";
/// Uploads under way; emptied at the start.
pub(super) const TEMP_DIR: &str = "tmp";
/// Damaged files that were set aside.
pub(super) const QUARANTINE_DIR: &str = "quarantine";

/// Bytes under one checksum.
pub(super) const CHUNK: u64 = 256 << 10;

const FOOTER: usize = 64;
const MAGIC: u32 = u32::from_le_bytes(*b"WrFl");
const VERSION: u8 = 1;

/// Names of files: each is changed by one thread at a time.
pub(super) struct Names {
    /// By first byte of the hash; whether its folder is known to exist durably.
    /// Std mutexes held across a rename and a sync, on blocking threads only.
    folders: Vec<Mutex<bool>>,
    temporary: AtomicU64,
}

/// What the end of a file says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Trailer {
    pub(super) digest: Digest,
    pub(super) time: u32,
    /// Checksum of each chunk.
    pub(super) crcs: Vec<u32>,
}

impl Names {
    pub(super) fn new() -> Self {
        Self {
            folders: (0..256).map(|_| Mutex::new(false)).collect(),
            temporary: AtomicU64::new(0),
        }
    }

    /// Keeps others from changing the name of this blob, or of its neighbours.
    pub(super) fn lock(&self, digest: &Digest) -> MutexGuard<'_, bool> {
        self.folders[usize::from(digest.hash[0])]
            .lock()
            .expect("no panic while a name is changed")
    }

    /// A name for an upload that none has had since the start.
    pub(super) fn temporary(&self) -> PathBuf {
        let number = self.temporary.fetch_add(1, Relaxed);
        Path::new(TEMP_DIR).join(number.to_string())
    }
}

/// Gives a synced file its name, durably. `exists` is the lock on its name.
pub(super) fn publish(
    disk: &dyn Disk,
    from: &Path,
    digest: &Digest,
    exists: &mut bool,
) -> io::Result<()> {
    let folder = folder(digest.hash[0]);
    if !*exists {
        disk.create_dir(&folder)?;
        sync_folder(disk, Path::new(DIR))?;
        *exists = true;
    }
    let to = path(digest);
    disk.rename(from, &to)?;
    // A rename is sure only when both folders are synced.
    let synced = match planted::is(Bug::FolderSyncSkipped) {
        true => Ok(()),
        false => sync_folder(disk, &folder),
    };
    let synced = synced.and_then(|()| sync_folder(disk, Path::new(TEMP_DIR)));
    synced.or_else(|error| match may_open_no_more(&error) {
        // Nothing was synced in vain: it is as if nobody had tried.
        true => disk.rename(&to, from).map_err(sync_failed).and(Err(error)),
        false => Err(error),
    })
}

/// A folder has to be opened for it, which fails for want of handles before
/// anything was to be synced.
fn sync_folder(disk: &dyn Disk, folder: &Path) -> io::Result<()> {
    disk.sync_dir(folder)
        .map_err(|error| match may_open_no_more(&error) {
            true => error,
            false => sync_failed(error),
        })
}

pub(super) fn folder(first: u8) -> PathBuf {
    Path::new(DIR).join(format!("{first:02x}"))
}

/// Where a large blob is.
pub(super) fn path(digest: &Digest) -> PathBuf {
    folder(digest.hash[0]).join(name(digest))
}

/// Where a damaged large blob is set aside.
pub(super) fn quarantine_path(digest: &Digest) -> PathBuf {
    Path::new(QUARANTINE_DIR).join(name(digest))
}

/// The digest in the name of a file.
pub(super) fn digest_of(name: &str) -> Option<Digest> {
    let (hash, size) = name.split_once('-')?;
    let digest = Digest::parse(hash, size.parse().ok()?).ok()?;
    (self::name(&digest) == name && digest.size > SMALL_BLOB_BYTES).then_some(digest)
}

/// Length of the file of a blob of `size` bytes; `None` if there is no such file.
pub(super) fn file_len(size: u64) -> Option<u64> {
    size.checked_add(trailer_len(size))
        .filter(|len| i64::try_from(*len).is_ok())
}

/// What is appended to the bytes of a blob.
pub(super) fn trailer(digest: &Digest, time: u32, crcs: &[u32]) -> Vec<u8> {
    let mut out = Vec::with_capacity(crcs.len() * 4 + FOOTER);
    for crc in crcs {
        out.extend_from_slice(&crc.to_le_bytes());
    }
    out.extend_from_slice(&MAGIC.to_le_bytes());
    out.extend_from_slice(&[VERSION, DigestFunction::Sha256 as u8, 0, 0]);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&(CHUNK as u32).to_le_bytes());
    out.extend_from_slice(&digest.size.to_le_bytes());
    out.extend_from_slice(&digest.hash);
    out.extend_from_slice(&time.to_le_bytes());
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

/// Reads the trailer of the blob's file; `None` if it is not intact.
pub(super) fn read_trailer(file: &dyn DiskFile, digest: &Digest) -> io::Result<Option<Trailer>> {
    if Some(file.len()?) != file_len(digest.size) {
        return Ok(None);
    }
    let Ok(len) = usize::try_from(trailer_len(digest.size)) else {
        return Ok(None);
    };
    let bytes = read_exact_at(file, len, digest.size)?;
    Ok(parse_trailer(&bytes).filter(|trailer| trailer.digest == *digest))
}

fn parse_trailer(bytes: &[u8]) -> Option<Trailer> {
    let (crcs, footer) = bytes.split_at_checked(bytes.len().checked_sub(FOOTER)?)?;
    let (covered, crc) = bytes.split_at(bytes.len() - 4);
    if u32_at(footer, 0) != MAGIC
        || footer[4] != VERSION
        || footer[5] != DigestFunction::Sha256 as u8
        || u32_at(footer, 8) != 0
        || u64::from(u32_at(footer, 12)) != CHUNK
        || u32_at(crc, 0) != crc32c::crc32c(covered)
    {
        return None;
    }
    let mut digest = Digest {
        hash: [0; 32],
        size: u64_at(footer, 16),
    };
    digest.hash.copy_from_slice(&footer[24..56]);
    Some(Trailer {
        digest,
        time: u32_at(footer, 56),
        crcs: crcs.chunks_exact(4).map(|crc| u32_at(crc, 0)).collect(),
    })
}

impl Trailer {
    /// Whether `bytes`, which begin at the chunk `first` and end at the end of
    /// a chunk or of the blob, are those that were written.
    pub(super) fn matches(&self, first: usize, bytes: &[u8]) -> bool {
        if planted::is(Bug::RangeUnchecked) {
            return true;
        }
        let mut crcs = self.crcs.iter().skip(first);
        bytes
            .chunks(CHUNK as usize)
            .all(|chunk| crcs.next() == Some(&crc32c::crc32c(chunk)))
    }
}

fn trailer_len(size: u64) -> u64 {
    size.div_ceil(CHUNK) * 4 + FOOTER as u64
}

fn name(digest: &Digest) -> String {
    format!("{}-{}", digest.hash_hex(), digest.size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trailer_comes_back_and_no_other_bytes_are_one() {
        let digest = Digest {
            hash: [9; 32],
            size: 3 * CHUNK + 1,
        };
        let bytes = trailer(&digest, 5, &[1, 2, 3, 4]);
        assert_eq!(bytes.len() as u64, trailer_len(digest.size));
        let back = parse_trailer(&bytes).unwrap();
        assert_eq!((back.digest, back.time), (digest, 5));
        assert_eq!(back.crcs, [1, 2, 3, 4]);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(parse_trailer(&flipped), None, "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert_eq!(parse_trailer(&bytes[..len]), None);
        }
    }

    #[test]
    fn names_come_back_and_others_are_none() {
        let digest = Digest {
            hash: [0xab; 32],
            size: SMALL_BLOB_BYTES + 1,
        };
        assert_eq!(digest_of(&name(&digest)), Some(digest));
        let hash = digest.hash_hex();
        for name in [
            "",
            "-",
            &hash,
            &format!("{hash}-1"),
            &format!("{hash}-01048577"),
        ] {
            assert_eq!(digest_of(name), None, "{name}");
        }
        assert_eq!(file_len(u64::MAX), None);
        assert_eq!(file_len(i64::MAX as u64), None);
    }
}
