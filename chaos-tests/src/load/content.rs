//! Blobs that say what they are.
//!
//! ```text
//!  "weir-load/1 " seed key value length "\n"     64 bytes of text
//!  pages of 4,096 bytes, each with its number    follow from the header
//! ```
//!
//! Any reader can tell from the bytes alone which write they came from and
//! whether they are whole, without a table of what was written. Any part can
//! be made without making what stands before it. Blobs shorter than a header
//! are the first bytes of a page and say nothing.

use std::ops::Range;

use sha2::{Digest as _, Sha256};
use weir_proto::reapi;

use crate::seeded;

/// Bytes of a header.
pub const HEADER_BYTES: usize = 64;

const MAGIC: &str = "weir-load/1";
const PAGE_BYTES: usize = 4_096;

/// A blob's digest, in 40 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Name {
    pub hash: [u8; 32],
    pub size: u64,
}

impl Name {
    #[must_use]
    pub fn of(bytes: &[u8]) -> Name {
        Name {
            hash: Sha256::digest(bytes).into(),
            size: bytes.len() as u64,
        }
    }

    /// Of a digest as it is sent; `None` if it is none.
    #[must_use]
    pub fn from_wire(digest: &reapi::Digest) -> Option<Name> {
        Name::parse(&digest.hash, u64::try_from(digest.size_bytes).ok()?)
    }

    /// From 64 hexadecimal digits.
    #[must_use]
    pub fn parse(hex: &str, size: u64) -> Option<Name> {
        let mut hash = [0; 32];
        if hex.len() != 64 || !hex.is_ascii() {
            return None;
        }
        for (index, byte) in hash.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * index..2 * index + 2], 16).ok()?;
        }
        Some(Name { hash, size })
    }

    #[must_use]
    pub fn hex(&self) -> String {
        self.hash.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[must_use]
    pub fn to_wire(&self) -> reapi::Digest {
        reapi::Digest {
            hash: self.hex(),
            size_bytes: self.size as i64,
        }
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.hex(), self.size)
    }
}

/// Which blob it is; everything else follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Content {
    /// Of the workload.
    pub seed: u64,
    pub key: u32,
    /// As in the history.
    pub value: u64,
    /// Bytes of the blob.
    pub length: u64,
}

impl Content {
    /// The text at its beginning.
    #[must_use]
    pub fn header(&self) -> [u8; HEADER_BYTES] {
        let text = format!(
            "{MAGIC} {:016x} {:08x} {:016x} {:08x}",
            self.seed, self.key, self.value, self.length
        );
        let mut header = [b' '; HEADER_BYTES];
        header[HEADER_BYTES - 1] = b'\n';
        let count = text.len().min(HEADER_BYTES - 1);
        header[..count].copy_from_slice(&text.as_bytes()[..count]);
        header
    }

    /// What the header of these bytes says; `None` if they have none.
    #[must_use]
    pub fn read_header(bytes: &[u8]) -> Option<Content> {
        let text = std::str::from_utf8(bytes.get(..HEADER_BYTES)?).ok()?;
        let mut words = text.split_whitespace();
        if words.next() != Some(MAGIC) {
            return None;
        }
        let mut number = || u64::from_str_radix(words.next()?, 16).ok();
        Some(Content {
            seed: number()?,
            key: u32::try_from(number()?).ok()?,
            value: number()?,
            length: number()?,
        })
    }

    /// The whole blob.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.part(0..self.length)
    }

    /// A part of the blob; what stands past its end is left out.
    #[must_use]
    pub fn part(&self, range: Range<u64>) -> Vec<u8> {
        let page = self.page();
        let end = range.end.min(self.length);
        let mut part = Vec::with_capacity(end.saturating_sub(range.start) as usize);
        let mut at = range.start;
        while at < end {
            let number = at / PAGE_BYTES as u64;
            let from = (at % PAGE_BYTES as u64) as usize;
            let count = (PAGE_BYTES - from).min((end - at) as usize);
            let mut page = page.clone();
            page[..8].copy_from_slice(&(number ^ self.mixed()).to_le_bytes());
            if number == 0 && self.length >= HEADER_BYTES as u64 {
                page[..HEADER_BYTES].copy_from_slice(&self.header());
            }
            part.extend_from_slice(&page[from..from + count]);
            at += count as u64;
        }
        part
    }

    /// The digest of the whole blob.
    #[must_use]
    pub fn name(&self) -> Name {
        Name::of(&self.bytes())
    }

    fn page(&self) -> Vec<u8> {
        seeded::bytes(self.mixed(), PAGE_BYTES)
    }

    /// One word that differs wherever any part of the name does.
    fn mixed(&self) -> u64 {
        let words = [u64::from(self.key), self.value, self.length];
        words.iter().fold(self.seed, |mixed, word| {
            let mut next = seeded::Words::new(mixed ^ word.rotate_left(17));
            next.next().unwrap_or_default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(length: u64) -> Content {
        Content {
            seed: 0xfeed,
            key: 12,
            value: 3 << 32 | 7,
            length,
        }
    }

    #[test]
    fn bytes_say_what_they_are() {
        for length in [64, 65, 4096, 4097, 100_000] {
            let bytes = content(length).bytes();
            assert_eq!(bytes.len() as u64, length);
            assert_eq!(Content::read_header(&bytes), Some(content(length)));
        }
        assert_eq!(Content::read_header(&content(63).bytes()), None);
        assert_eq!(Content::read_header(&[b'x'; 100]), None);
    }

    #[test]
    fn a_part_is_that_part_of_the_whole() {
        let content = content(20_000);
        let bytes = content.bytes();
        for (from, to) in [
            (0, 1),
            (63, 65),
            (4_000, 9_000),
            (8_192, 8_193),
            (19_999, 99_999),
        ] {
            let end = to.min(bytes.len());
            assert_eq!(content.part(from as u64..to as u64), bytes[from..end]);
        }
    }

    #[test]
    fn no_two_are_the_same() {
        let other = |change: fn(&mut Content)| {
            let mut other = content(1000);
            change(&mut other);
            other.name()
        };
        let names = [
            content(1000).name(),
            other(|c| c.seed += 1),
            other(|c| c.key += 1),
            other(|c| c.value += 1),
            other(|c| c.length += 1),
        ];
        for (index, name) in names.iter().enumerate() {
            assert!(!names[..index].contains(name));
        }
    }

    #[test]
    fn names_come_back_from_the_wire() {
        let name = content(100).name();
        assert_eq!(Name::from_wire(&name.to_wire()), Some(name));
        assert_eq!(Name::parse("zz", 1), None);
    }
}
