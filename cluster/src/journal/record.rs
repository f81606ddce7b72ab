//! One record as bytes.

use std::path::{Path, PathBuf};

use super::segment;

/// Kinds from here on are marks: the latest of each stands.
pub const FIRST_MARK: u8 = 0x80;

/// Bytes before the payload.
pub(super) const HEADER_BYTES: usize = 16;

/// Records begin at multiples of this.
pub(super) const ALIGNMENT: usize = 8;

/// What is appended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Not 0: zeros end a segment.
    pub kind: std::num::NonZeroU8,
    pub payload: Vec<u8>,
}

/// Where a record is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Position {
    pub segment: u64,
    pub offset: u32,
    /// Length of the payload.
    pub len: u32,
}

impl Position {
    /// The file it is in, of a journal in that folder.
    #[must_use]
    pub fn file(self, dir: &Path) -> PathBuf {
        segment::path(dir, self.segment)
    }

    pub(super) fn stored_len(self) -> usize {
        stored_len(self.len as usize)
    }

    /// Where the next record begins.
    pub(super) fn end(self) -> u64 {
        u64::from(self.offset) + self.stored_len() as u64
    }
}

/// A record that was found whole.
pub(super) struct Found<'a> {
    pub(super) kind: u8,
    /// Offset of the batch that it was written in.
    pub(super) batch: u32,
    pub(super) payload: &'a [u8],
}

pub(super) fn stored_len(payload: usize) -> usize {
    HEADER_BYTES + payload.next_multiple_of(ALIGNMENT)
}

pub(super) fn is_mark(kind: u8) -> bool {
    kind >= FIRST_MARK
}

/// The bytes before the payload of a record at `offset` of a segment.
pub(super) fn header(segment: u64, offset: u32, batch: u32, record: &Record) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(&(record.payload.len() as u32).to_le_bytes());
    header[8..12].copy_from_slice(&batch.to_le_bytes());
    header[12] = record.kind.get();
    let sum = checksum(segment, offset, &header, &record.payload);
    header[4..8].copy_from_slice(&sum.to_le_bytes());
    header
}

/// The record that `bytes` begin with, if they are one that was written at
/// `offset` of that segment.
pub(super) fn check(segment: u64, offset: u32, bytes: &[u8]) -> Option<Found<'_>> {
    let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
    let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| header[at + byte]));
    let (len, sum, batch, kind) = (word(0), word(4), word(8), header[12]);
    if kind == 0 || header[13..] != [0; 3] || batch > offset {
        return None;
    }
    let payload = rest.get(..len as usize)?;
    let padding = rest.get(payload.len()..payload.len().next_multiple_of(ALIGNMENT))?;
    if padding.iter().any(|byte| *byte != 0) {
        return None;
    }
    (checksum(segment, offset, header, payload) == sum).then_some(Found {
        kind,
        batch,
        payload,
    })
}

fn checksum(segment: u64, offset: u32, header: &[u8; HEADER_BYTES], payload: &[u8]) -> u32 {
    let mut sum = crc32c::crc32c(&segment.to_le_bytes());
    sum = crc32c::crc32c_append(sum, &offset.to_le_bytes());
    sum = crc32c::crc32c_append(sum, &header[..4]);
    sum = crc32c::crc32c_append(sum, &header[8..]);
    crc32c::crc32c_append(sum, payload)
}
