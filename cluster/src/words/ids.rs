//! Identifiers. Each is its own type, so that none is taken for another.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::digest::hex;

/// Slots the hash space is cut into; see [`Slot`].
pub const SLOTS: usize = 16_384;

/// A node's identity: random, minted when it joins, stored on its volume and
/// never used again after the node is removed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub u64);

/// A cluster's identity: random, minted by `weir init`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ClusterId(pub u128);

/// Number of a placement. Later epochs have larger numbers.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(pub u64);

/// One of [`SLOTS`] equal slices of the hash space: the first 14 bits of the hash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Slot(u16);

impl NodeId {
    /// A fresh identity. Never zero.
    pub fn mint(rng: &mut impl rand::Rng) -> Self {
        Self(rng.random_range(1..=u64::MAX))
    }
}

impl ClusterId {
    /// A fresh identity.
    pub fn mint(rng: &mut impl rand::Rng) -> Self {
        Self(rng.random())
    }
}

impl Slot {
    #[must_use]
    pub fn of_hash(hash: &[u8; 32]) -> Self {
        Self(u16::from_be_bytes([hash[0], hash[1]]) >> 2)
    }

    /// Every slot, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..SLOTS as u16).map(Self)
    }

    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// The slot with this number, if there is one.
    #[must_use]
    pub fn from_index(index: usize) -> Option<Self> {
        (index < SLOTS).then_some(Self(index as u16))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {self}")
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0.to_be_bytes()))
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cluster {self}")
    }
}

/// A text that is no identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {what}: expected {digits} hexadecimal digits")]
pub struct IdError {
    what: &'static str,
    digits: usize,
    text: String,
}

impl FromStr for NodeId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        match u64::from_str_radix(text, 16) {
            Ok(id) if text.len() == 16 => Ok(Self(id)),
            _ => Err(IdError {
                what: "node id",
                digits: 16,
                text: text.into(),
            }),
        }
    }
}

impl FromStr for ClusterId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        match u128::from_str_radix(text, 16) {
            Ok(id) if text.len() == 32 => Ok(Self(id)),
            _ => Err(IdError {
                what: "cluster id",
                digits: 32,
                text: text.into(),
            }),
        }
    }
}

impl From<ClusterId> for String {
    fn from(id: ClusterId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for ClusterId {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_from_their_text() {
        let node = NodeId(0x00ab_cdef_0123_4567);
        assert_eq!(node.to_string().parse(), Ok(node));
        let cluster = ClusterId(77);
        assert_eq!(cluster.to_string().parse(), Ok(cluster));
        assert!("77".parse::<NodeId>().is_err());
        assert!("".parse::<ClusterId>().is_err());
    }

    #[test]
    fn slots_are_the_first_fourteen_bits() {
        let mut hash = [0xff; 32];
        assert_eq!(Slot::of_hash(&hash).index(), SLOTS - 1);
        hash[..2].copy_from_slice(&[0, 4]);
        assert_eq!(Slot::of_hash(&hash).index(), 1);
        assert_eq!(Slot::all().count(), SLOTS);
    }
}
