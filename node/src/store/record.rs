//! One blob in a segment: a header, the bytes, zeros up to a multiple of 8.
//!
//! ```text
//!  0  magic u32       4 version u8   5 digest function u8   6 zero u16
//!  8  namespace u32  12 store time u32   16 size u32   20 crc of the header u32
//! 24  hash [32]      56 crc of each 64 KiB of the body u32 …, zeros to 8
//! ```
//!
//! Numbers are little-endian, checksums CRC-32C. The header's checksum covers
//! all of it but itself.

use bytes::Bytes;
use weir_cluster::{
    Digest,
    blob::{SMALL_BLOB_BYTES, Verified},
    words::digest::DigestFunction,
};

use super::uses::Coming;
use crate::planted::{self, Bug};

/// Records begin at multiples of this.
pub(super) const ALIGN: u64 = 8;

/// Bytes of body under one checksum.
pub(super) const CHUNK: usize = 64 << 10;

pub(super) const MAGIC: u32 = u32::from_le_bytes(*b"WrRc");
const VERSION: u8 = 1;
const FIXED: usize = 56;

/// The longest header: that of a blob of [`SMALL_BLOB_BYTES`].
pub(super) const HEADER_MAX: usize = header_len(SMALL_BLOB_BYTES as u32);

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) digest: Digest,
    /// Store time at which the record was written.
    pub(super) time: u32,
    /// Checksums of the body's chunks, as they are on disk.
    crcs: Vec<u8>,
}

/// A record ready to be written.
pub(super) struct Prepared {
    pub(super) digest: Digest,
    pub(super) header: Vec<u8>,
    pub(super) body: Bytes,
    pub(super) coming: Coming,
}

/// Length of the header of a blob of `size` bytes.
pub(super) const fn header_len(size: u32) -> usize {
    FIXED + ((size as usize).div_ceil(CHUNK) * 4).next_multiple_of(ALIGN as usize)
}

/// Length of the whole record of a blob of `size` bytes.
pub(super) const fn record_len(size: u32) -> u64 {
    header_len(size) as u64 + (size as u64).next_multiple_of(ALIGN)
}

impl Prepared {
    /// The record of a blob that is neither empty nor above [`SMALL_BLOB_BYTES`].
    pub(super) fn new(blob: Verified, time: u32) -> Self {
        let digest = blob.digest();
        let body = blob.into_bytes();
        debug_assert!(!body.is_empty() && body.len() as u64 <= SMALL_BLOB_BYTES);
        let size = body.len() as u32;
        let mut header = vec![0; header_len(size)];
        header[..4].copy_from_slice(&MAGIC.to_le_bytes());
        header[4] = VERSION;
        header[5] = DigestFunction::Sha256 as u8;
        // 8..12: namespace 0, shared by all instances.
        header[12..16].copy_from_slice(&time.to_le_bytes());
        header[16..20].copy_from_slice(&size.to_le_bytes());
        header[24..FIXED].copy_from_slice(&digest.hash);
        for (chunk, crc) in body.chunks(CHUNK).zip(header[FIXED..].chunks_mut(4)) {
            crc.copy_from_slice(&crc32c::crc32c(chunk).to_le_bytes());
        }
        let crc = header_crc(&header);
        header[20..24].copy_from_slice(&crc.to_le_bytes());
        Self {
            digest,
            header,
            body,
            coming: Coming::Put,
        }
    }

    /// The same of a copy from another node. Its age is not in the record: if
    /// the node dies before the next checkpoint, the blob counts as used when
    /// it was adopted, and is kept longer than it need be.
    pub(super) fn adopted(blob: Verified, time: u32, coming: Coming) -> Self {
        Self {
            coming,
            ..Self::new(blob, time)
        }
    }

    /// Zeros that follow the body.
    pub(super) fn padding(&self) -> &'static [u8] {
        const ZEROS: [u8; ALIGN as usize] = [0; ALIGN as usize];
        &ZEROS[..self.body.len().next_multiple_of(ALIGN as usize) - self.body.len()]
    }

    /// Length of the whole record.
    pub(super) fn len(&self) -> u64 {
        record_len(self.body.len() as u32)
    }
}

impl Header {
    /// Reads the header at the start of `bytes`; `None` if there is no intact one.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let fixed = bytes.get(..FIXED)?;
        let size = u32_at(fixed, 16);
        if u32_at(fixed, 0) != MAGIC
            || fixed[4] != VERSION
            || fixed[5] != DigestFunction::Sha256 as u8
            || u32_at(fixed, 8) != 0
            || size == 0
            || u64::from(size) > SMALL_BLOB_BYTES
        {
            return None;
        }
        let header = bytes.get(..header_len(size))?;
        if header_crc(header) != u32_at(header, 20) {
            return None;
        }
        let mut digest = Digest {
            hash: [0; 32],
            size: u64::from(size),
        };
        digest.hash.copy_from_slice(&header[24..FIXED]);
        Some(Self {
            digest,
            time: u32_at(header, 12),
            crcs: header[FIXED..].to_vec(),
        })
    }

    pub(super) fn size(&self) -> u32 {
        self.digest.size as u32
    }

    /// Whether these are the bytes the record was written with.
    pub(super) fn matches(&self, body: &[u8]) -> bool {
        if planted::is(Bug::ChecksumUnchecked) {
            return true;
        }
        body.len() as u64 == self.digest.size
            && body
                .chunks(CHUNK)
                .zip(self.crcs.chunks(4))
                .all(|(chunk, crc)| crc32c::crc32c(chunk).to_le_bytes() == crc)
    }
}

fn header_crc(header: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&header[..20]), &header[24..])
}

/// The little-endian number at `at`.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

/// The little-endian number at `at`.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

#[cfg(test)]
mod tests {
    use weir_cluster::blob::conformance::sample;

    use super::*;

    #[test]
    fn any_flipped_bit_is_noticed() {
        for len in [1, 7, 8, 1000, 65_536, 65_537] {
            let record = Prepared::new(Verified::of(sample(1, len)), 77);
            let header = Header::parse(&record.header).unwrap();
            assert_eq!((header.digest, header.time), (record.digest, 77));
            assert!(header.matches(&record.body));
            assert_eq!(record.len() % ALIGN, 0);
            for bit in 0..record.header.len() * 8 {
                let mut bytes = record.header.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(Header::parse(&bytes), None, "bit {bit} of {len}");
            }
            for at in [0, len / 2, len - 1] {
                let mut body = record.body.to_vec();
                body[at] ^= 0x10;
                assert!(!header.matches(&body));
            }
            assert!(!header.matches(&record.body[..len - 1]));
        }
    }

    #[test]
    fn a_header_that_is_cut_off_is_none() {
        let record = Prepared::new(Verified::of(sample(2, 200_000)), 0);
        for len in 0..record.header.len() {
            assert_eq!(Header::parse(&record.header[..len]), None);
        }
    }
}
