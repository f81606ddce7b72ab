//! Checking a store that is not open, down to the digests of its blobs.
//!
//! The index that opening would build must be the one that the segments and
//! files alone give. `repair` sets damaged files aside and removes the
//! checkpoint, so that the next start rebuilds the index from the truth.

mod report;

use std::{
    collections::{BTreeMap, HashSet},
    io,
    path::Path,
};

use sha2::{Digest as _, Sha256};
use weir_cluster::{
    Digest,
    journal::disk::{Disk, DiskFile, read_exact_at},
};

pub use self::report::{FsckReport, Holdings, Place};
use super::{
    OpenError, checkpoint, files,
    index::Location,
    record::ALIGN,
    scan::{Found, Verify, is_unwritten, scan},
    segments::{self, SEGMENT_HEADER},
};

/// Bytes of a file read at a time.
const PIECE: u64 = 4 * files::CHUNK;

/// Reads everything and changes nothing. The store must not be open.
pub fn check(disk: &dyn Disk) -> Result<FsckReport, OpenError> {
    Ok(run(disk, false)?.0)
}

/// As [`check`], and gives what the store holds. It must not be open.
pub fn list(disk: &dyn Disk) -> Result<(FsckReport, Holdings), OpenError> {
    run(disk, false)
}

/// Checks, sets damaged files aside and has the index rebuilt at the next
/// start. Damaged records stay in their segments, unreachable, until the
/// cleaner removes these. The store must not be open.
pub fn repair(disk: &dyn Disk) -> Result<FsckReport, OpenError> {
    Ok(run(disk, true)?.0)
}

/// Digests of intact records, by place.
type Records = BTreeMap<Location, Digest>;

fn run(disk: &dyn Disk, repair: bool) -> Result<(FsckReport, Holdings), OpenError> {
    let mut report = FsckReport::default();
    let intact = check_segments(disk, &mut report)?;
    let mut holdings = check_checkpoint(disk, &intact, &mut report)?;
    check_files(disk, repair, &mut holdings, &mut report)?;
    if repair && report.damaged > 0 {
        for path in [checkpoint::CLEAN_PATH, checkpoint::PATH] {
            match disk.remove(Path::new(path)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(OpenError::io("cannot remove the checkpoint")(error));
                }
                _ => {}
            }
        }
        disk.sync_dir(Path::new(""))
            .map_err(OpenError::io("cannot remove the checkpoint"))?;
    }
    Ok((report, holdings))
}

fn check_segments(disk: &dyn Disk, report: &mut FsckReport) -> Result<Records, OpenError> {
    let mut intact = Records::new();
    let mut blobs = HashSet::new();
    let names = names(disk, Path::new(segments::DIR))?;
    let newest = names
        .iter()
        .filter_map(|name| segments::number_of(name))
        .max();
    for name in names {
        let Some(number) = segments::number_of(&name) else {
            report.damage(format!("segments/{name} is no segment"));
            continue;
        };
        let file = disk
            .open(&segments::path(number))
            .map_err(OpenError::io("cannot open a segment"))?;
        let header = read_exact_at(&*file, SEGMENT_HEADER as usize, 0);
        let version = header.ok().and_then(|header| segments::version_of(&header));
        if let Some(version) = version
            && version != segments::version()
        {
            return Err(OpenError::Version(version));
        }
        let scanned = scan(
            &*file,
            SEGMENT_HEADER,
            Verify::Digests,
            |found| match found {
                Found::Record { offset, digest, .. } => {
                    let place = Location {
                        segment: number,
                        offset: (offset / ALIGN) as u32,
                    };
                    intact.insert(place, digest);
                    if blobs.insert(digest) {
                        report.small_blobs += 1;
                        report.bytes += digest.size;
                    }
                }
                Found::Bad { offset, digest } => damaged_record(report, number, offset, digest),
            },
        )
        .map_err(OpenError::io("cannot read a segment"))?;
        // The newest segment may end in a write that was cut off, and that may
        // be the one with which it begins.
        let is_newest = newest == Some(number);
        if version.is_none() && !(is_newest && scanned.end == SEGMENT_HEADER) {
            report.damage(format!("segment {number}: header is damaged"));
        }
        let torn = is_newest || is_unwritten(&*file, scanned.end).unwrap_or(false);
        if scanned.unreadable || !torn {
            for found in scanned.rest {
                if let Found::Bad { offset, digest } = found {
                    damaged_record(report, number, offset, digest);
                }
            }
        }
    }
    Ok(intact)
}

fn damaged_record(report: &mut FsckReport, segment: u32, offset: u64, digest: Option<Digest>) {
    let what = digest.map_or("no record".into(), |digest| format!("blob {digest}"));
    report.damage(format!("segment {segment} offset {offset}: {what}"));
}

fn check_files(
    disk: &dyn Disk,
    repair: bool,
    holdings: &mut Holdings,
    report: &mut FsckReport,
) -> Result<(), OpenError> {
    for first in 0..=u8::MAX {
        let folder = files::folder(first);
        for name in names(disk, &folder)? {
            let Some(digest) = files::digest_of(&name) else {
                report.damage(format!("{} is no blob", folder.join(&name).display()));
                continue;
            };
            let checked = disk
                .open(&files::path(&digest))
                .and_then(|file| is_intact(&*file, &digest));
            let why = match checked {
                Ok(true) => {
                    report.large_blobs += 1;
                    report.bytes += digest.size;
                    holdings.insert(digest, Place::File(files::path(&digest)));
                    continue;
                }
                Ok(false) => "bytes do not match".to_owned(),
                Err(error) => error.to_string(),
            };
            report.damage(format!("file of blob {digest}: {why}"));
            if repair {
                disk.create_dir(Path::new(files::QUARANTINE_DIR))
                    .and_then(|()| {
                        disk.rename(&files::path(&digest), &files::quarantine_path(&digest))
                    })
                    .and_then(|()| disk.sync_dir(&folder))
                    .and_then(|()| disk.sync_dir(Path::new(files::QUARANTINE_DIR)))
                    .map_err(OpenError::io("cannot set a damaged file aside"))?;
            }
        }
    }
    Ok(())
}

/// Whether trailer, checksums and hash all match.
pub(super) fn is_intact(file: &dyn DiskFile, digest: &Digest) -> io::Result<bool> {
    let Some(trailer) = files::read_trailer(file, digest)? else {
        return Ok(false);
    };
    let mut hasher = Sha256::new();
    let mut at = 0;
    while at < digest.size {
        let len = PIECE.min(digest.size - at);
        let bytes = read_exact_at(file, len as usize, at)?;
        if !trailer.matches((at / files::CHUNK) as usize, &bytes) {
            return Ok(false);
        }
        hasher.update(&bytes);
        at += len;
    }
    let hash: [u8; 32] = hasher.finalize().into();
    Ok(hash == digest.hash)
}

/// Every entry must lead to the intact record of its blob, unless the cleaner
/// has removed the segment since. Gives the small blobs that are held: what the
/// checkpoint lists, and the records that it does not cover.
fn check_checkpoint(
    disk: &dyn Disk,
    intact: &Records,
    report: &mut FsckReport,
) -> Result<Holdings, OpenError> {
    let opened =
        checkpoint::Reader::open(disk).map_err(OpenError::io("cannot read the checkpoint"))?;
    let Some(mut reader) = opened else {
        return Ok(held(intact.iter()));
    };
    let segments: HashSet<u32> = names(disk, Path::new(segments::DIR))?
        .iter()
        .filter_map(|name| segments::number_of(name))
        .collect();
    let mut listed = Records::new();
    for _ in 0..checkpoint::SECTIONS {
        let Some(section) = reader.section() else {
            report.damage("the checkpoint is damaged".into());
            return Ok(held(intact.iter()));
        };
        for entry in section.small() {
            let (digest, place) = (entry.digest(), entry.location);
            if intact.get(&place) == Some(&digest) {
                listed.insert(place, digest);
            } else if segments.contains(&place.segment) {
                report.damage(format!(
                    "checkpoint: blob {digest} is not at segment {} offset {}",
                    place.segment,
                    u64::from(place.offset) * ALIGN
                ));
            }
        }
    }
    report.checkpoint = true;
    let uncovered = intact.range(reader.head.position..);
    Ok(held(listed.iter().chain(uncovered)))
}

/// Of two records of a blob the later one counts.
fn held<'a>(records: impl Iterator<Item = (&'a Location, &'a Digest)>) -> Holdings {
    let held = records.map(|(place, digest)| {
        let (segment, offset) = (place.segment, u64::from(place.offset) * ALIGN);
        (*digest, Place::Record { segment, offset })
    });
    held.collect()
}

fn names(disk: &dyn Disk, dir: &Path) -> Result<Vec<String>, OpenError> {
    match disk.list(dir) {
        Ok(entries) => {
            let mut names: Vec<_> = entries.into_iter().map(|entry| entry.name).collect();
            names.sort_unstable();
            Ok(names)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(OpenError::io("cannot list the store's files")(error)),
    }
}
