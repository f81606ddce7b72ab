//! Refs: keys that resolve to a digest.

use serde::{Deserialize, Serialize};

use crate::Digest;

/// Which service a ref belongs to. The same URI may name one ref of each kind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RefKind {
    /// Remote Asset, a blob.
    Blob,
    /// Remote Asset, a directory.
    Directory,
    /// BuildStream 1's reference storage: a Directory.
    BuildStream1,
}

/// The key of a ref.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct RefKey {
    pub kind: RefKind,
    /// Instance name as in the Remote Execution API; may be empty.
    pub instance: String,
    pub uri: String,
    /// Name and value, sorted; part of the key.
    pub qualifiers: Vec<(String, String)>,
}

/// What a push says a ref resolves to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RefValue {
    pub digest: Digest,
    /// Everything the ref needs, as a manifest blob
    /// ([`crate::state::refs::manifest`]); none if that is the blob itself alone.
    pub manifest: Option<Digest>,
    /// The Unix second from which the ref is not found any more.
    pub expire_at: Option<u64>,
    /// The Unix second of the push by the clock of the node that took it; for people.
    pub pushed_at: u64,
}

/// A ref as it is kept.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ref {
    pub value: RefValue,
    /// Unique and increasing over all writes of the cluster (the Raft log index).
    pub revision: u64,
}

impl RefKey {
    /// A key with sorted qualifiers.
    #[must_use]
    pub fn new(
        kind: RefKind,
        instance: impl Into<String>,
        uri: impl Into<String>,
        mut qualifiers: Vec<(String, String)>,
    ) -> Self {
        qualifiers.sort();
        Self {
            kind,
            instance: instance.into(),
            uri: uri.into(),
            qualifiers,
        }
    }

    /// How much text the key is made of, in bytes.
    #[must_use]
    pub fn text_bytes(&self) -> usize {
        let qualifiers = self.qualifiers.iter();
        self.instance.len()
            + self.uri.len()
            + qualifiers
                .map(|(name, value)| name.len() + value.len())
                .sum::<usize>()
    }
}

/// The closure of a ref as a blob: a version byte (1), then packed digests in
/// ascending order, without repeats.
pub mod manifest {
    use crate::{
        Digest, Error,
        words::digest::{pack, unpack},
    };

    const VERSION: u8 = 1;

    /// Encodes a closure.
    #[must_use]
    pub fn encode(mut closure: Vec<Digest>) -> Vec<u8> {
        closure.sort_unstable();
        closure.dedup();
        let mut out = vec![VERSION];
        out.extend_from_slice(&pack(&closure));
        out
    }

    /// Reads a closure back.
    pub fn decode(bytes: &[u8]) -> Result<Vec<Digest>, Error> {
        match bytes.split_first() {
            Some((&VERSION, packed)) => {
                unpack(packed).map_err(|error| Error::Internal(format!("manifest: {error}")))
            }
            Some((version, _)) => Err(Error::Internal(format!(
                "manifest has version {version}, this node reads {VERSION}"
            ))),
            None => Err(Error::Internal("manifest is empty".into())),
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_closure_comes_back_sorted_and_without_repeats() {
            let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
            let mut expected = vec![a, b];
            expected.sort_unstable();
            assert_eq!(decode(&encode(vec![b, a, b])).unwrap(), expected);
            assert!(decode(&[]).is_err());
            assert!(decode(&[9]).is_err());
            assert!(decode(&[1, 2, 3]).is_err());
        }
    }
}
