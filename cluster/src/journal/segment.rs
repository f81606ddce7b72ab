//! One file of records: its name, its header, and what is in it.

use std::path::{Path, PathBuf};

use super::{
    Position,
    record::{self, ALIGNMENT, Found},
};

/// Bytes before the first record.
pub(super) const HEADER_BYTES: usize = 40;

/// First bytes of every segment.
const MAGIC: [u8; 8] = *b"weirjrnl";

/// Format of headers and records.
pub(super) const VERSION: u32 = 1;

const SUFFIX: &str = ".segment";

pub(super) fn path(dir: &Path, sequence: u64) -> PathBuf {
    dir.join(format!("{sequence:016x}{SUFFIX}"))
}

/// The sequence number of a file, if its name is that of a segment.
pub(super) fn sequence(name: &str) -> Option<u64> {
    let digits = name
        .strip_suffix(SUFFIX)
        .filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}

/// What a segment says about itself.
pub(super) struct Header {
    pub(super) sequence: u64,
    /// Where the records of the segment before end; 0 in the very first.
    pub(super) previous_end: u64,
}

/// What the first bytes of a segment are.
pub(super) enum HeaderFound {
    Whole(Header),
    UnknownVersion(u32),
    /// None that was written.
    Bad,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.previous_end.to_le_bytes());
        let sum = crc32c::crc32c(&bytes[..32]);
        bytes[32..36].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    pub(super) fn decode(segment: &[u8]) -> HeaderFound {
        let Some((bytes, _)) = segment.split_first_chunk::<HEADER_BYTES>() else {
            return HeaderFound::Bad;
        };
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| bytes[at + byte]));
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        if bytes[..8] != MAGIC || crc32c::crc32c(&bytes[..32]) != word(32) {
            return HeaderFound::Bad;
        }
        match word(8) {
            VERSION => HeaderFound::Whole(Self {
                sequence: long(16),
                previous_end: long(24),
            }),
            version => HeaderFound::UnknownVersion(version),
        }
    }
}

/// The whole records from the first on, until there is none.
pub(super) fn records(
    sequence: u64,
    segment: &[u8],
) -> impl Iterator<Item = (Position, Found<'_>)> {
    let mut at = HEADER_BYTES;
    std::iter::from_fn(move || {
        let found = at_offset(sequence, segment, at)?;
        at = found.0.end() as usize;
        Some(found)
    })
}

/// Whether behind a bad place there is a record that was written after the
/// bytes at that place had been synced.
pub(super) fn is_damage(sequence: u64, segment: &[u8], bad: usize) -> bool {
    let from = bad.next_multiple_of(ALIGNMENT).max(HEADER_BYTES);
    (from..segment.len())
        .step_by(ALIGNMENT)
        .filter_map(|at| at_offset(sequence, segment, at))
        .any(|(_, found)| found.batch as usize > bad)
}

fn at_offset(sequence: u64, segment: &[u8], at: usize) -> Option<(Position, Found<'_>)> {
    let offset = u32::try_from(at).ok()?;
    let found = record::check(sequence, offset, segment.get(at..)?)?;
    let position = Position {
        segment: sequence,
        offset,
        len: found.payload.len() as u32,
    };
    Some((position, found))
}
