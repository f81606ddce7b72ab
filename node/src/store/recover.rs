//! Opening: from what is on the disk to the index in memory.
//!
//! The disk is the truth. A write that was cut off is dropped, a damaged record
//! is set aside and costs itself only. Whatever becomes visible here is synced
//! first: after the death of the process alone, the kernel may still hold it
//! in memory only.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::Path,
    sync::Arc,
};

use weir_cluster::{Digest, journal::disk::DiskFile};

use super::{
    OpenError,
    checkpoint::{self, Head},
    clock::{BEGINNING, Clock},
    core::Core,
    files::{self, Trailer},
    index::Location,
    record::ALIGN,
    scan::{Found, Scanned, Verify, is_unwritten, scan},
    segments::{self, SEGMENT_HEADER, Segment},
    uses::Uses,
};

/// What opening found besides the blobs.
#[derive(Debug, Default)]
struct Recovered {
    /// Newest store time that was written down.
    time: u32,
    /// Records and files that are damaged.
    bad: u64,
    /// What the checkpoint knows of large blobs; their names are the truth.
    large: HashMap<Digest, Uses>,
}

/// A segment as it is found.
struct OpenSegment {
    file: Arc<dyn DiskFile>,
    len: u64,
}

/// Creates what is missing of the store's folders.
pub(super) fn create_folders(core: &Core) -> Result<(), OpenError> {
    let disk = &*core.volume.disk;
    for dir in [
        segments::DIR,
        files::DIR,
        files::TEMP_DIR,
        files::QUARANTINE_DIR,
    ] {
        disk.create_dir(Path::new(dir))
            .map_err(OpenError::io("cannot create the store's folders"))?;
    }
    disk.sync_dir(Path::new(""))
        .map_err(OpenError::io("cannot create the store's folders"))
}

/// Fills the index of `core`, which nobody else uses yet.
pub(super) fn recover(core: &mut Core) -> Result<(), OpenError> {
    let mut recovered = Recovered::default();
    sweep_uploads(core)?;
    let closed_with = checkpoint::take_clean_mark(&*core.volume.disk)
        .map_err(OpenError::io("cannot read the mark of a closed store"))?;
    let found = open_segments(core)?;
    let head = load_checkpoint(core, &found, &mut recovered)?;
    let newest = found.keys().next_back().copied();
    for (number, segment) in found {
        let newest = newest == Some(number);
        recover_segment(core, number, segment, newest, head.as_ref(), &mut recovered)?;
    }
    recover_files(core, &mut recovered)?;
    let is_empty = core.index.counts().totals().0 == 0;
    if is_empty {
        recovered.time = recovered.time.max(BEGINNING);
    }
    core.clock = Clock::from(recovered.time);
    match head {
        Some(head) if closed_with == Some(head.id) => core.index.set_lease_floor(head.lease_floor),
        _ if is_empty => {}
        _ => core.index.set_crashed(recovered.time),
    }
    if recovered.bad > 0 {
        tracing::error!(bad = recovered.bad, "damaged blobs found in the store");
    }
    Ok(())
}

/// Removes what uploads left that were cut off.
fn sweep_uploads(core: &Core) -> Result<(), OpenError> {
    let disk = &*core.volume.disk;
    let dir = Path::new(files::TEMP_DIR);
    let left = disk
        .list(dir)
        .map_err(OpenError::io("cannot list unfinished uploads"))?;
    for entry in left {
        disk.remove(&dir.join(entry.name))
            .map_err(OpenError::io("cannot remove an unfinished upload"))?;
    }
    Ok(())
}

fn open_segments(core: &Core) -> Result<BTreeMap<u32, OpenSegment>, OpenError> {
    let disk = &*core.volume.disk;
    let listed = disk
        .list(Path::new(segments::DIR))
        .map_err(OpenError::io("cannot list the segments"))?;
    let mut found = BTreeMap::new();
    for entry in listed {
        let Some(number) = segments::number_of(&entry.name) else {
            tracing::warn!(name = entry.name, "foreign file in the store");
            continue;
        };
        let file = disk
            .open(&segments::path(number))
            .map_err(OpenError::io("cannot open a segment"))?;
        check_version(&*file)?;
        core.segments.skip_to(number.saturating_add(1));
        let len = entry.len;
        found.insert(number, OpenSegment { file, len });
    }
    Ok(found)
}

/// Restores what the checkpoint lists; `None` if all must be scanned.
fn load_checkpoint(
    core: &Core,
    found: &BTreeMap<u32, OpenSegment>,
    recovered: &mut Recovered,
) -> Result<Option<Head>, OpenError> {
    let Some(mut reader) = checkpoint::Reader::open(&*core.volume.disk)
        .map_err(OpenError::io("cannot read the checkpoint"))?
    else {
        return Ok(None);
    };
    let lens: HashMap<u32, u64> = found
        .iter()
        .map(|(number, segment)| (*number, segment.len))
        .collect();
    for shard in 0..checkpoint::SECTIONS {
        let Some(section) = reader.section() else {
            tracing::error!("the checkpoint is damaged; reading all segments instead");
            return Ok(None);
        };
        // Segments that the cleaner removed since are gone with their entries.
        let held = section.small().filter(|entry| {
            lens.get(&entry.location.segment)
                .is_some_and(|len| checkpoint::end_of(entry) <= *len)
        });
        core.index.fill(shard, section.small_len(), held);
        for large in section.large() {
            recovered.large.insert(large.digest, large.uses);
        }
    }
    recovered.time = reader.head.time;
    // Numbers below its position are covered by it, so none is given again.
    core.segments.skip_to(reader.head.position.segment);
    Ok(Some(reader.head))
}

/// Another version's segments are refused; damage is left to the scan.
fn check_version(file: &dyn DiskFile) -> Result<(), OpenError> {
    let mut header = [0; SEGMENT_HEADER as usize];
    match file.read_at(&mut header, 0) {
        Ok(len) => match segments::version_of(&header[..len]) {
            Some(version) if version != segments::version() => Err(OpenError::Version(version)),
            _ => Ok(()),
        },
        Err(error) => {
            tracing::error!(%error, "cannot read the header of a segment");
            Ok(())
        }
    }
}

/// Indexes the records that the checkpoint does not cover.
fn recover_segment(
    core: &Core,
    number: u32,
    segment: OpenSegment,
    newest: bool,
    head: Option<&Head>,
    recovered: &mut Recovered,
) -> Result<(), OpenError> {
    let start = match head.map(|head| head.position) {
        Some(position) if number < position.segment => segment.len,
        Some(position) if number == position.segment => u64::from(position.offset) * ALIGN,
        _ => 0,
    };
    let start = start.max(SEGMENT_HEADER);
    let end = match start < segment.len {
        true => scan_segment(core, number, &*segment.file, start, newest, recovered)?,
        false => start,
    };
    if end == SEGMENT_HEADER {
        return core
            .volume
            .disk
            .remove(&segments::path(number))
            .map_err(OpenError::io("cannot remove an empty segment"));
    }
    core.volume.add(end);
    let segment = Segment::new(number, segment.file, end, end);
    core.segments.insert(Arc::new(segment));
    Ok(())
}

/// Indexes the records from `start`; returns where the segment ends.
///
/// A write that was cut off can only be at the end of the newest segment, as
/// each was synced before the next began. Anything else that is no record is
/// damage: it is reported and left where it is, and what cannot be read now is
/// never cut off, since it may hold records.
fn scan_segment(
    core: &Core,
    number: u32,
    file: &dyn DiskFile,
    start: u64,
    newest: bool,
    recovered: &mut Recovered,
) -> Result<u64, OpenError> {
    let mut found = Vec::new();
    let mut damage = Vec::new();
    let Scanned {
        mut end,
        rest,
        unreadable,
    } = scan(file, start, Verify::Checksums, |item| match item {
        Found::Record {
            offset,
            digest,
            time,
        } => found.push((digest, offset, time)),
        Found::Bad { .. } => damage.push(item),
    })
    .map_err(OpenError::io("cannot read a segment"))?;
    let len = file.len().map_err(OpenError::io("cannot read a segment"))?;
    let torn = !unreadable && (newest || is_unwritten(file, end).unwrap_or(false));
    if !torn {
        damage.extend(rest);
        end = len;
    } else if len > end {
        file.set_len(end)
            .map_err(OpenError::io("cannot cut a segment off"))?;
    }
    file.sync()
        .map_err(OpenError::io("cannot sync a segment"))?;
    for item in damage {
        if let Found::Bad { offset, digest } = item {
            recovered.bad += 1;
            let place = format!("segment {number} offset {offset}");
            core.quarantine.note(digest, &place);
        }
    }
    for (digest, offset, time) in found {
        recovered.time = recovered.time.max(time);
        let location = Location {
            segment: number,
            offset: (offset / ALIGN) as u32,
        };
        // Its lease is not known: the floor stands for it.
        core.index.put_small(digest, location, Uses::new(time, 0));
    }
    Ok(end)
}

fn recover_files(core: &Core, recovered: &mut Recovered) -> Result<(), OpenError> {
    for first in 0..=u8::MAX {
        let folder = files::folder(first);
        let listed = match core.volume.disk.list(&folder) {
            Ok(listed) => listed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(OpenError::io("cannot list the files")(error)),
        };
        // A rename that was not synced must not be lost later.
        core.volume
            .disk
            .sync_dir(&folder)
            .map_err(OpenError::io("cannot sync the folder of files"))?;
        for entry in listed {
            let Some(digest) = files::digest_of(&entry.name) else {
                tracing::warn!(name = entry.name, "foreign file in the store");
                continue;
            };
            recover_file(core, digest, entry.len, recovered);
        }
    }
    core.volume
        .disk
        .sync_dir(Path::new(files::DIR))
        .map_err(OpenError::io("cannot sync the folder of files"))
}

fn recover_file(core: &Core, digest: Digest, len: u64, recovered: &mut Recovered) {
    if let Some(uses) = recovered.large.remove(&digest)
        && files::file_len(digest.size) == Some(len)
    {
        core.index.put_large(digest, uses);
        core.volume.add(len);
        return;
    }
    let opened = core.volume.disk.open(&files::path(&digest));
    let trailer = opened.and_then(|file| files::read_trailer(&*file, &digest));
    match trailer {
        Ok(Some(Trailer { time, .. })) => {
            recovered.time = recovered.time.max(time);
            // As above.
            core.index.put_large(digest, Uses::new(time, 0));
            core.volume.add(len);
        }
        Ok(None) => {
            recovered.bad += 1;
            core.set_file_aside(&digest, "trailer is damaged");
        }
        Err(error) => {
            recovered.bad += 1;
            core.set_file_aside(&digest, &error.to_string());
        }
    }
}
