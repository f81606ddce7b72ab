//! How what repair asks looks on the wire.

use bytes::Bytes;
use weir_proto::cluster::{self as proto, ReportResponse, report_response};

use super::{RepairReport, Report, ScrubReport};
use crate::{
    Error, Slot,
    blob::{Held, Summaries, Summary, Verdict, Version},
    words::{
        digest::{PACKED_BYTES, unpack},
        ids::SLOTS,
    },
};

/// A packed digest, seconds idle, seconds leased.
const HELD_BYTES: usize = PACKED_BYTES + 8;
/// Number of blobs, sum of fingerprints.
const SUMMARY_BYTES: usize = 12;

pub(super) fn pack_held(blobs: &[Held]) -> Bytes {
    let mut out = Vec::with_capacity(blobs.len() * HELD_BYTES);
    for blob in blobs {
        blob.digest.pack_into(&mut out);
        out.extend_from_slice(&blob.idle_seconds.to_be_bytes());
        out.extend_from_slice(&blob.lease_seconds.to_be_bytes());
    }
    out.into()
}

pub(super) fn unpack_held(packed: &[u8]) -> Result<Vec<Held>, Error> {
    let (items, rest) = packed.as_chunks::<HELD_BYTES>();
    if !rest.is_empty() {
        let bytes = packed.len();
        return Err(Error::Invalid(format!(
            "a list of {bytes} bytes is cut short: {HELD_BYTES} bytes a blob"
        )));
    }
    let mut digests = Vec::with_capacity(items.len());
    for item in items {
        let digest = unpack(&item[..PACKED_BYTES]);
        let digest = digest.map_err(|error| Error::Invalid(error.to_string()))?;
        digests.extend(digest.first().map(|digest| Held {
            digest: *digest,
            idle_seconds: u32_at(item, PACKED_BYTES),
            lease_seconds: u32_at(item, PACKED_BYTES + 4),
        }));
    }
    Ok(digests)
}

pub(super) fn pack_summaries(summaries: &Summaries) -> Bytes {
    let mut out = Vec::with_capacity(SLOTS * SUMMARY_BYTES);
    for summary in &summaries.slots {
        out.extend_from_slice(&summary.blobs.to_be_bytes());
        out.extend_from_slice(&summary.sum.to_be_bytes());
    }
    out.into()
}

pub(super) fn unpack_summaries(version: Version, packed: &[u8]) -> Result<Summaries, Error> {
    let (items, rest) = packed.as_chunks::<SUMMARY_BYTES>();
    if items.len() != SLOTS || !rest.is_empty() {
        return Err(Error::Invalid(format!(
            "summaries take {} bytes, got {}",
            SLOTS * SUMMARY_BYTES,
            packed.len()
        )));
    }
    let slots = items.iter().map(|item| Summary {
        blobs: u32_at(item, 0),
        sum: u64::from(u32_at(item, 4)) << 32 | u64::from(u32_at(item, 8)),
    });
    Ok(Summaries {
        version,
        slots: slots.collect(),
    })
}

pub(super) fn pack_verdicts(verdicts: &[Verdict]) -> Bytes {
    verdicts.iter().map(|verdict| *verdict as u8).collect()
}

pub(super) fn unpack_verdicts(packed: &[u8]) -> Result<Vec<Verdict>, Error> {
    const VERDICTS: [Verdict; 3] = [Verdict::Holds, Verdict::Declines, Verdict::Wants];
    let verdict = |byte: &u8| VERDICTS.get(usize::from(*byte)).copied();
    let verdicts: Option<Vec<_>> = packed.iter().map(verdict).collect();
    verdicts.ok_or_else(|| Error::Invalid("a verdict that is not known here".into()))
}

pub(super) fn slot_of(number: u32) -> Result<Slot, Error> {
    Slot::from_index(number as usize)
        .ok_or_else(|| Error::Invalid(format!("there is no slot {number}")))
}

pub(super) fn version_of(version: &proto::Version) -> Version {
    Version {
        opened: version.opened,
        changes: version.changes,
    }
}

pub(super) fn version_message(version: Version) -> proto::Version {
    proto::Version {
        opened: version.opened,
        changes: version.changes,
    }
}

pub(super) fn report_message(report: Report) -> ReportResponse {
    let (repair, scrub) = (report.repair, report.scrub);
    ReportResponse {
        blobs: report.blobs,
        bytes: report.bytes,
        capacity_bytes: report.capacity_bytes,
        volume: report.volume,
        version: report.version,
        repair: Some(report_response::Repair {
            lacking_blobs: repair.lacking_blobs,
            lacking_bytes: repair.lacking_bytes,
            surplus_blobs: repair.surplus_blobs,
            surplus_bytes: repair.surplus_bytes,
            fetched_bytes: repair.fetched_bytes,
            fetched_blobs: repair.fetched_blobs,
            bytes_per_second: repair.bytes_per_second,
            settled_epoch: repair.settled_epoch,
            settled: repair.settled,
            trouble: repair.trouble,
            look_age_ms: repair.look_age_ms,
        }),
        scrub: Some(report_response::Scrub {
            running: scrub.running,
            verified_blobs: scrub.verified_blobs,
            verified_bytes: scrub.verified_bytes,
            damaged: scrub.damaged,
            passes: scrub.passes,
        }),
    }
}

pub(super) fn report_of(message: ReportResponse) -> Report {
    let repair = message.repair.unwrap_or_default();
    let scrub = message.scrub.unwrap_or_default();
    Report {
        blobs: message.blobs,
        bytes: message.bytes,
        capacity_bytes: message.capacity_bytes,
        volume: message.volume,
        version: message.version,
        repair: RepairReport {
            lacking_blobs: repair.lacking_blobs,
            lacking_bytes: repair.lacking_bytes,
            surplus_blobs: repair.surplus_blobs,
            surplus_bytes: repair.surplus_bytes,
            fetched_bytes: repair.fetched_bytes,
            fetched_blobs: repair.fetched_blobs,
            bytes_per_second: repair.bytes_per_second,
            settled_epoch: repair.settled_epoch,
            settled: repair.settled,
            trouble: repair.trouble,
            look_age_ms: repair.look_age_ms,
        },
        scrub: ScrubReport {
            running: scrub.running,
            verified_blobs: scrub.verified_blobs,
            verified_bytes: scrub.verified_bytes,
            damaged: scrub.damaged,
            passes: scrub.passes,
        },
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_be_bytes(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Digest;

    #[test]
    fn lists_summaries_and_verdicts_come_back_as_they_were() {
        let held: Vec<_> = (0..5_u32)
            .map(|number| Held {
                digest: Digest::of(&number.to_be_bytes()),
                idle_seconds: number * 7,
                lease_seconds: u32::MAX - number,
            })
            .collect();
        assert_eq!(unpack_held(&pack_held(&held)).unwrap(), held);
        assert!(unpack_held(&pack_held(&held)[1..]).is_err());

        let version = Version {
            opened: 3,
            changes: 9,
        };
        let mut summaries = Summaries::empty(version);
        for blob in &held {
            summaries.slots[blob.digest.slot().index()].add(&blob.digest);
        }
        let packed = pack_summaries(&summaries);
        assert_eq!(unpack_summaries(version, &packed).unwrap(), summaries);
        assert!(unpack_summaries(version, &packed[12..]).is_err());

        let verdicts = [Verdict::Wants, Verdict::Holds, Verdict::Declines];
        assert_eq!(
            unpack_verdicts(&pack_verdicts(&verdicts)).unwrap(),
            verdicts
        );
        assert!(unpack_verdicts(&[3]).is_err());
        assert!(slot_of(16_383).is_ok() && slot_of(16_384).is_err());
    }
}
