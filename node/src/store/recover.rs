//! Opening: from what is on the disk to the index in memory.
//!
//! The disk is the truth. A write that was cut off is dropped, a damaged record
//! is set aside and costs itself only. Whatever becomes visible here is synced
//! first: after the death of the process alone, the kernel may still hold it
//! in memory only.

use std::{io, path::Path, sync::Arc};

use weir_cluster::{Digest, blob::Lease, journal::disk::DiskFile};

use super::{
    Core, OpenError,
    clock::{Clock, lease_end},
    files,
    index::{Location, Uses},
    record::ALIGN,
    scan::{Found, Verify, scan},
    segments::{self, SEGMENT_HEADER, Segment},
};

/// What opening found besides the blobs.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    /// Newest store time that was written down.
    pub(super) time: u32,
    /// Records and files that are damaged.
    pub(super) bad: u64,
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
    recover_segments(core, &mut recovered)?;
    recover_files(core, &mut recovered)?;
    core.clock = Clock::from(recovered.time);
    let floor = lease_end(recovered.time, Lease::SHORT.seconds);
    core.index.set_lease_floor(floor);
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

fn recover_segments(core: &Core, recovered: &mut Recovered) -> Result<(), OpenError> {
    let disk = &*core.volume.disk;
    let dir = Path::new(segments::DIR);
    let listed = disk
        .list(dir)
        .map_err(OpenError::io("cannot list the segments"))?;
    let mut numbers: Vec<u32> = listed
        .iter()
        .filter_map(|entry| segments::number_of(&entry.name))
        .collect();
    numbers.sort_unstable();
    for number in numbers {
        let path = segments::path(number);
        let file = disk
            .open(&path)
            .map_err(OpenError::io("cannot open a segment"))?;
        check_version(&*file)?;
        core.segments.skip_to(number.saturating_add(1));
        let end = recover_segment(core, number, &*file, SEGMENT_HEADER, recovered)?;
        if end == SEGMENT_HEADER {
            disk.remove(&path)
                .map_err(OpenError::io("cannot remove an empty segment"))?;
            continue;
        }
        core.volume.add(end);
        let segment = Segment::new(number, file, end, end);
        core.segments.insert(Arc::new(segment));
    }
    Ok(())
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

/// Indexes the records from `start`; returns where they end.
fn recover_segment(
    core: &Core,
    number: u32,
    file: &dyn DiskFile,
    start: u64,
    recovered: &mut Recovered,
) -> Result<u64, OpenError> {
    let mut found = Vec::new();
    let end = scan(file, start, Verify::Checksums, |item| match item {
        Found::Record {
            offset,
            digest,
            time,
        } => found.push((digest, offset, time)),
        Found::Bad { offset, digest } => {
            recovered.bad += 1;
            core.quarantine
                .note(digest, &format!("segment {number} offset {offset}"));
        }
    })
    .map_err(OpenError::io("cannot read a segment"))?;
    let cut_off = file.len().and_then(|len| match len > end {
        true => file.set_len(end.max(SEGMENT_HEADER)),
        false => Ok(()),
    });
    cut_off
        .and_then(|()| file.sync())
        .map_err(OpenError::io("cannot sync a segment"))?;
    for (digest, offset, time) in found {
        recovered.time = recovered.time.max(time);
        let location = Location {
            segment: number,
            offset: (offset / ALIGN) as u32,
        };
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
    let opened = core.volume.disk.open(&files::path(&digest));
    let trailer = opened.and_then(|file| files::read_trailer(&*file, &digest));
    match trailer {
        Ok(Some(trailer)) => {
            recovered.time = recovered.time.max(trailer.time);
            core.index.put_large(digest, Uses::new(trailer.time, 0));
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
