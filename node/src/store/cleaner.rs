//! Making room: the plan of [`super::eviction`] carried out.
//!
//! A segment is removed after the blobs that survive it are durable elsewhere.
//! Whether a blob goes is asked again under the index's lock at the moment it
//! goes, so a lease granted meanwhile holds.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use tokio::sync::oneshot;
use weir_cluster::{Digest, Error, blob::Verified};

use super::{
    appender::{Job, stopped},
    clock::TIME_MAX,
    core::Core,
    eviction::{Name, Spare, Unit, plan},
    files,
    index::Location,
    quarantine::Defect,
    read::read_record,
    record::{Prepared, record_len},
    segments::{self, Segment},
    uses::{Claim, Uses},
};

/// Bytes of surviving blobs that are moved at a time; also the memory it takes.
const COPY_BYTES: u64 = 4 << 20;

/// What a cleaning came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cleaned {
    /// Bytes that were freed.
    pub(super) freed: u64,
    /// Bytes that could have been, at most, until the first lease ends.
    pub(super) could: u64,
    pub(super) first_lease_end: u32,
}

/// Frees `want` bytes, or as many as may be; nothing at all if that is less
/// than `need`, since then it would help nobody. Only blobs last used before
/// `before` go.
pub(super) fn clean(core: &Arc<Core>, need: u64, want: u64, before: u32) -> Result<Cleaned, Error> {
    core.volume.check_writable()?;
    let now = core.clock.now();
    let Survey {
        units,
        first_lease_end,
    } = survey(core, now);
    let plan = plan(units, want, before);
    let mut cleaned = Cleaned {
        freed: 0,
        could: plan.freed,
        first_lease_end,
    };
    if plan.freed < need {
        return Ok(cleaned);
    }
    let before = core.volume.used();
    for (name, spare) in plan.victims {
        match name {
            Name::Segment(number) => retire_segment(core, number, spare, now)?,
            Name::File(digest) => retire_file(core, &digest, spare, now)?,
        }
        cleaned.freed = before.saturating_sub(core.volume.used());
        if cleaned.freed >= want {
            break;
        }
    }
    core.index.pass_over(&plan.passed_over);
    Ok(cleaned)
}

struct Survey {
    units: Vec<Unit>,
    first_lease_end: u32,
}

/// Adds up what is where, by claim.
fn survey(core: &Core, now: u32) -> Survey {
    let mut segments: HashMap<u32, Unit> = core
        .segments
        .all()
        .iter()
        .filter(|segment| !segment.is_active())
        .map(|segment| (segment.number, whole_segment(segment)))
        .collect();
    let mut files = Vec::new();
    let mut first_lease_end = TIME_MAX;
    let mut note = |unit: &mut Unit, bytes: u64, uses: &Uses| match claim(core, uses, now) {
        Claim::Leased => {
            unit.leased += bytes;
            first_lease_end = first_lease_end.min(uses.lease_end().max(core.index.lease_floor()));
        }
        Claim::Touched => {
            unit.touched += bytes;
            unit.last_touch = unit.last_touch.max(uses.access());
        }
        Claim::Cold => unit.last_use = unit.last_use.max(uses.access()),
    };
    core.index.each_shard(|shard| {
        for entry in shard.small.iter() {
            if let Some(unit) = segments.get_mut(&entry.location.segment) {
                note(unit, record_len(entry.size), &entry.uses);
            }
        }
        for entry in &shard.large {
            let mut unit = Unit {
                name: Name::File(entry.digest),
                bytes: files::file_len(entry.digest.size).unwrap_or(0),
                leased: 0,
                touched: 0,
                last_use: 0,
                last_touch: 0,
            };
            let bytes = unit.bytes;
            note(&mut unit, bytes, &entry.uses);
            if unit.leased == 0 {
                files.push(unit);
            }
        }
    });
    let mut units: Vec<_> = segments.into_values().collect();
    units.append(&mut files);
    Survey {
        units,
        first_lease_end,
    }
}

fn whole_segment(segment: &Segment) -> Unit {
    Unit {
        name: Name::Segment(segment.number),
        bytes: segment.end(),
        leased: 0,
        touched: 0,
        last_use: 0,
        last_touch: 0,
    }
}

fn claim(core: &Core, uses: &Uses, now: u32) -> Claim {
    match now < core.index.lease_floor() {
        true => Claim::Leased,
        false => uses.claim(now),
    }
}

/// Whether a blob is evicted; if so the horizon takes note.
fn goes(core: &Core, uses: &Uses, spare: Spare, now: u32) -> bool {
    let goes = match claim(core, uses, now) {
        Claim::Leased => false,
        Claim::Touched => spare == Spare::Leased,
        Claim::Cold => true,
    };
    if goes {
        core.horizon.raise(uses.access());
    }
    goes
}

fn retire_segment(core: &Arc<Core>, number: u32, spare: Spare, now: u32) -> Result<(), Error> {
    let Some(segment) = core.segments.get(number) else {
        return Ok(());
    };
    let mut held: Vec<(Digest, Location)> = Vec::new();
    core.index.each_shard(|shard| {
        for entry in shard
            .small
            .iter()
            .filter(|entry| entry.location.segment == number)
        {
            held.push((entry.digest(), entry.location));
        }
    });
    held.retain(|(digest, location)| {
        !core
            .index
            .remove_small_if(digest, *location, |uses| goes(core, uses, spare, now))
    });
    held.sort_unstable_by_key(|(_, location)| *location);
    move_blobs(core, &segment, &held)?;
    // The copies are in newer segments; with the durability of the operating
    // system these must be on disk before the old ones go.
    let (answer, answered) = oneshot::channel();
    core.queue.push(Job::Settle { answer });
    answered.blocking_recv().map_err(|_| stopped())??;
    remove_segment(core, &segment)
}

/// Removes a segment that nothing in the index leads to.
fn remove_segment(core: &Core, segment: &Segment) -> Result<(), Error> {
    let number = segment.number;
    core.volume.check_writable()?;
    core.volume
        .disk
        .remove(&segments::path(number))
        .map_err(|error| core.volume.fence("cannot remove a segment", &error))?;
    core.segments.remove(number);
    core.volume.free(segment.end());
    Ok(())
}

/// Removes those of the segments whose last copy was dropped; answers with
/// those that must be looked at again once they are sealed.
///
/// Only segments that copies were dropped from: another in which nothing is
/// found may be one that could not be read.
pub(super) fn remove_emptied(core: &Core, numbers: &BTreeSet<u32>) -> Result<Vec<u32>, Error> {
    let mut growing = Vec::new();
    for number in numbers {
        let Some(segment) = core.segments.get(*number) else {
            continue;
        };
        if segment.is_active() {
            growing.push(*number);
        } else if !core.index.counts().is_live(*number) {
            remove_segment(core, &segment)?;
        }
    }
    Ok(growing)
}

/// Appends blobs again. A damaged one is set aside.
fn move_blobs(
    core: &Arc<Core>,
    segment: &Segment,
    held: &[(Digest, Location)],
) -> Result<(), Error> {
    let mut records = Vec::new();
    let mut bytes = 0;
    for (index, (digest, location)) in held.iter().enumerate() {
        let read = read_record(&*segment.file, digest, location.offset);
        let blob = match read {
            Ok(Some(body)) => {
                Verified::check(*digest, body).map_err(|_| Defect::Bytes("hash does not match"))
            }
            Ok(None) => Err(Defect::Bytes("checksum does not match")),
            Err(error) => Err(Defect::Unread(error)),
        };
        match blob {
            Ok(blob) => {
                let record = Prepared::new(blob, core.clock.now());
                bytes += record.len();
                records.push((record, *location));
            }
            Err(defect) => match core.set_aside_small(digest, *location, &defect) {
                Error::Corrupt(_) => {}
                fenced => return Err(fenced),
            },
        }
        if !records.is_empty() && (bytes >= COPY_BYTES || index + 1 == held.len()) {
            bytes = 0;
            let records = std::mem::take(&mut records);
            let (answer, answered) = oneshot::channel();
            core.queue.push(Job::Copy { records, answer });
            answered.blocking_recv().map_err(|_| stopped())??;
        }
    }
    Ok(())
}

fn retire_file(core: &Core, digest: &Digest, spare: Spare, now: u32) -> Result<(), Error> {
    remove_file(core, digest, |uses| goes(core, uses, spare, now)).map(|_| ())
}

/// Removes a large blob if `agreed`; whether it went.
pub(super) fn remove_file(
    core: &Core,
    digest: &Digest,
    agreed: impl FnOnce(&Uses) -> bool,
) -> Result<bool, Error> {
    let volume = &core.volume;
    let _name = core.names.lock(digest);
    volume.check_writable()?;
    if !core.index.remove_large_if(digest, agreed) {
        return Ok(false);
    }
    volume
        .disk
        .remove(&files::path(digest))
        .map_err(|error| volume.fence("cannot remove a file", &error))?;
    volume.free(files::file_len(digest.size).unwrap_or(0));
    Ok(true)
}
