//! A digest names a blob: the hash of its bytes and their number.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::ids::Slot;

/// Length of a packed digest: 32 bytes of hash, then the size as big-endian u64.
pub const PACKED_BYTES: usize = 40;

/// How a hash is computed. On disk and between nodes it travels as the number
/// that the Remote Execution API gave it, so that another function needs no
/// new format.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[repr(u8)]
pub enum DigestFunction {
    /// SHA-256 (FIPS 180-4).
    #[default]
    Sha256 = 1,
}

/// The SHA-256 and the size of a blob.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Digest {
    pub hash: [u8; 32],
    pub size: u64,
}

/// Why a text or packed form is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    #[error("hash has {0} characters, expected 64 hexadecimal digits (SHA-256)")]
    HashLength(usize),
    #[error("hash has a character that is no lower-case hexadecimal digit")]
    HashCharacter,
    #[error("size {0} is negative")]
    NegativeSize(i64),
    #[error("packed digests take {PACKED_BYTES} bytes each, got {0} bytes")]
    PackedLength(usize),
}

impl Digest {
    /// The empty blob: present everywhere, stored nowhere.
    pub const EMPTY: Self = Self {
        hash: [
            0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f,
            0xb9, 0x24, 0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b,
            0x78, 0x52, 0xb8, 0x55,
        ],
        size: 0,
    };

    /// The digest of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self {
            hash: Sha256::digest(bytes).into(),
            size: bytes.len() as u64,
        }
    }

    /// Parses the form of the Remote Execution API: 64 lower-case hexadecimal
    /// digits and a size that is not negative.
    pub fn parse(hash: &str, size: i64) -> Result<Self, DigestError> {
        let size = u64::try_from(size).map_err(|_| DigestError::NegativeSize(size))?;
        Ok(Self {
            hash: parse_hash(hash)?,
            size,
        })
    }

    /// The hash as 64 lower-case hexadecimal digits.
    #[must_use]
    pub fn hash_hex(&self) -> String {
        hex(&self.hash)
    }

    /// The slice of the hash space that this blob falls into.
    #[must_use]
    pub fn slot(&self) -> Slot {
        Slot::of_hash(&self.hash)
    }

    #[must_use]
    pub fn is_empty_blob(&self) -> bool {
        self.size == 0
    }

    /// Appends the packed form.
    pub fn pack_into(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.hash);
        out.extend_from_slice(&self.size.to_be_bytes());
    }
}

/// Packs digests for the wire between nodes.
#[must_use]
pub fn pack(digests: &[Digest]) -> Vec<u8> {
    let mut out = Vec::with_capacity(digests.len() * PACKED_BYTES);
    for digest in digests {
        digest.pack_into(&mut out);
    }
    out
}

/// Reads packed digests back.
pub fn unpack(packed: &[u8]) -> Result<Vec<Digest>, DigestError> {
    let (items, rest) = packed.as_chunks::<PACKED_BYTES>();
    if !rest.is_empty() {
        return Err(DigestError::PackedLength(packed.len()));
    }
    Ok(items
        .iter()
        .map(|item| {
            let mut digest = Digest::EMPTY;
            digest.hash.copy_from_slice(&item[..32]);
            let mut size = [0; 8];
            size.copy_from_slice(&item[32..]);
            digest.size = u64::from_be_bytes(size);
            digest
        })
        .collect())
}

fn parse_hash(text: &str) -> Result<[u8; 32], DigestError> {
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
        return Err(DigestError::HashLength(text.len()));
    };
    if pairs.len() != 32 {
        return Err(DigestError::HashLength(text.len()));
    }
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(pairs) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Ok(hash)
}

fn nibble(character: u8) -> Result<u8, DigestError> {
    match character {
        b'0'..=b'9' => Ok(character - b'0'),
        b'a'..=b'f' => Ok(character - b'a' + 10),
        _ => Err(DigestError::HashCharacter),
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    out
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.hash_hex(), self.size)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}…/{}", &self.hash_hex()[..8], self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_blob_is_what_sha256_says() {
        assert_eq!(Digest::of(b""), Digest::EMPTY);
    }

    #[test]
    fn text_and_packed_forms_come_back_unchanged() {
        let digests = [Digest::of(b"a"), Digest::EMPTY, Digest::of(&[7; 70_000])];
        for digest in digests {
            let size = i64::try_from(digest.size).unwrap();
            assert_eq!(Digest::parse(&digest.hash_hex(), size), Ok(digest));
        }
        assert_eq!(unpack(&pack(&digests)), Ok(digests.to_vec()));
    }

    #[test]
    fn what_is_no_digest_is_refused_with_the_reason() {
        let hash = Digest::EMPTY.hash_hex();
        for (text, size, why) in [
            ("", 0, DigestError::HashLength(0)),
            (&hash[1..], 0, DigestError::HashLength(63)),
            (&hash[2..], 0, DigestError::HashLength(62)),
            (&hash.to_uppercase()[..], 0, DigestError::HashCharacter),
            (&hash.replace('e', "/")[..], 0, DigestError::HashCharacter),
            (&hash[..], -1, DigestError::NegativeSize(-1)),
        ] {
            assert_eq!(Digest::parse(text, size), Err(why), "{text:?} {size}");
        }
        assert_eq!(unpack(&[0; 41]), Err(DigestError::PackedLength(41)));
    }
}
