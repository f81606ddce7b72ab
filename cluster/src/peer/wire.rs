//! How what nodes say to each other looks on the wire.
//!
//! Invariants: an [`Error`] that a peer answers comes out as the same variant
//! here, or as [`Error::Unreachable`] if it says nothing of the blob; anything
//! that does not parse is [`Error::Invalid`] on the server, and about the node
//! on the client.

use std::{io, sync::Arc};

use serde::{Deserialize, Serialize};
use tonic::{Code, Status};
use weir_proto::cluster::Space;

use crate::{
    Digest, DigestFunction, Epoch, Error, NodeId,
    words::{digest::unpack, error::Mismatch},
};

/// Largest message either side takes: twice what batches are filled to, for
/// digests, framing and a blob that fills a message alone.
pub const MAX_MESSAGE_BYTES: usize = 8 << 20;

/// The first byte of encoded errors.
const ERROR_VERSION: u8 = 1;

/// An error as it travels in a status' details.
#[derive(Serialize, Deserialize)]
enum WireError {
    NotFound(Digest),
    Mismatch(Digest, WireMismatch),
    Invalid(String),
    OutOfRange(Digest, u64),
    Exhausted(String),
    Corrupt(Digest),
    Fenced(String),
    StaleEpoch(Epoch, Epoch),
    Io(String, String),
    Internal(String),
}

#[derive(Serialize, Deserialize)]
enum WireMismatch {
    Hash(Digest),
    TooShort(u64),
    TooLong,
}

/// An error as the answer to a call.
#[must_use]
pub fn status_of(error: &Error) -> Status {
    let mut details = vec![ERROR_VERSION];
    // Encoding to memory what has no maps and no floats does not fail; without
    // details the other side takes the status for a transport's.
    if let Ok(encoded) = postcard::to_allocvec(&to_wire(error)) {
        details.extend_from_slice(&encoded);
    }
    Status::with_details(code_of(error), error.to_string(), details.into())
}

/// A status as an error: the peer's own, if it sent one, else that the peer
/// did not do what it was asked.
#[must_use]
pub fn error_of(node: NodeId, status: &Status) -> Error {
    if let Some((&ERROR_VERSION, encoded)) = status.details().split_first()
        && let Ok(error) = postcard::from_bytes(encoded)
    {
        return from_wire(error);
    }
    let cause = format!("{:?}: {}", status.code(), status.message());
    Error::Unreachable { node, cause }
}

/// The code of one answer in a batch; zero for OK.
#[must_use]
pub fn item_code<T>(answer: &Result<T, Error>) -> u32 {
    match answer {
        Ok(_) => 0,
        Err(error) => code_of(error) as u32,
    }
}

/// The error of one answer in a batch.
#[must_use]
pub fn item_error(node: NodeId, digest: Digest, code: u32, message: String) -> Error {
    match i32::try_from(code).map(Code::from_i32) {
        Ok(Code::NotFound) => Error::NotFound(digest),
        Ok(Code::DataLoss) => Error::Corrupt(digest),
        Ok(Code::ResourceExhausted) => Error::Exhausted(message),
        Ok(Code::Unavailable) => Error::Fenced(message),
        // A mismatch too: what we sent was verified, so the bytes changed on
        // the way, which is no fault of the client.
        _ => Error::Internal(format!("node {node}: {message}")),
    }
}

fn code_of(error: &Error) -> Code {
    match error {
        Error::NotFound(_) => Code::NotFound,
        Error::Mismatch { .. } | Error::Invalid(_) => Code::InvalidArgument,
        Error::OutOfRange { .. } => Code::OutOfRange,
        Error::Exhausted(_) => Code::ResourceExhausted,
        Error::Corrupt(_) => Code::DataLoss,
        Error::StaleEpoch { .. } => Code::Aborted,
        Error::Fenced(_) | Error::Unreachable { .. } | Error::NoQuorum(_) => Code::Unavailable,
        Error::Io { .. } | Error::Internal(_) => Code::Internal,
    }
}

fn to_wire(error: &Error) -> WireError {
    match error {
        Error::NotFound(digest) => WireError::NotFound(*digest),
        Error::Mismatch { digest, mismatch } => WireError::Mismatch(
            *digest,
            match mismatch {
                Mismatch::Hash { actual } => WireMismatch::Hash(*actual),
                Mismatch::TooShort { got } => WireMismatch::TooShort(*got),
                Mismatch::TooLong => WireMismatch::TooLong,
            },
        ),
        Error::Invalid(what) => WireError::Invalid(what.clone()),
        Error::OutOfRange { digest, offset } => WireError::OutOfRange(*digest, *offset),
        Error::Exhausted(what) => WireError::Exhausted(what.clone()),
        Error::Corrupt(digest) => WireError::Corrupt(*digest),
        Error::Fenced(why) => WireError::Fenced(why.clone()),
        Error::StaleEpoch { theirs, ours } => WireError::StaleEpoch(*theirs, *ours),
        Error::Io { doing, source } => WireError::Io(doing.clone(), source.to_string()),
        // A peer answers for its own store, which asks no other node.
        Error::Unreachable { .. } | Error::NoQuorum(_) => WireError::Internal(error.to_string()),
        Error::Internal(what) => WireError::Internal(what.clone()),
    }
}

fn from_wire(error: WireError) -> Error {
    match error {
        WireError::NotFound(digest) => Error::NotFound(digest),
        WireError::Mismatch(digest, mismatch) => Error::Mismatch {
            digest,
            mismatch: match mismatch {
                WireMismatch::Hash(actual) => Mismatch::Hash { actual },
                WireMismatch::TooShort(got) => Mismatch::TooShort { got },
                WireMismatch::TooLong => Mismatch::TooLong,
            },
        },
        WireError::Invalid(what) => Error::Invalid(what),
        WireError::OutOfRange(digest, offset) => Error::OutOfRange { digest, offset },
        WireError::Exhausted(what) => Error::Exhausted(what),
        WireError::Corrupt(digest) => Error::Corrupt(digest),
        WireError::Fenced(why) => Error::Fenced(why),
        WireError::StaleEpoch(theirs, ours) => Error::StaleEpoch { theirs, ours },
        WireError::Io(doing, source) => Error::Io {
            doing,
            source: Arc::new(io::Error::other(source)),
        },
        WireError::Internal(what) => Error::Internal(what),
    }
}

/// SHA-256 in the namespace that all instances share.
#[must_use]
pub fn space() -> Option<Space> {
    Some(Space {
        digest_function: DigestFunction::Sha256 as u32,
        namespace: 0,
    })
}

/// Refuses spaces that this node does not know.
pub fn check_space(space: Option<&Space>) -> Result<(), Error> {
    match space {
        Some(space) if *space == self::space().unwrap_or_default() => Ok(()),
        Some(space) => Err(Error::Invalid(format!(
            "digest function {} in namespace {} is not known here",
            space.digest_function, space.namespace
        ))),
        None => Err(Error::Invalid("digest space is missing".into())),
    }
}

/// Packed digests of a request.
pub fn digests(packed: &[u8]) -> Result<Vec<Digest>, Error> {
    unpack(packed).map_err(|error| Error::Invalid(error.to_string()))
}

/// The one packed digest of a request.
pub fn digest(packed: &[u8]) -> Result<Digest, Error> {
    match digests(packed)?[..] {
        [digest] => Ok(digest),
        ref other => Err(Error::Invalid(format!(
            "expected one digest, got {}",
            other.len()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::error::Shortfall;

    #[test]
    fn errors_come_back_as_they_were() {
        let digest = Digest::of(b"blob");
        let mismatch = |mismatch| Error::Mismatch { digest, mismatch };
        let node = NodeId(3);
        for error in [
            Error::NotFound(digest),
            mismatch(Mismatch::Hash {
                actual: Digest::EMPTY,
            }),
            mismatch(Mismatch::TooShort { got: 3 }),
            mismatch(Mismatch::TooLong),
            Error::Invalid("no".into()),
            Error::OutOfRange { digest, offset: 9 },
            Error::Exhausted("full".into()),
            Error::Corrupt(digest),
            Error::Fenced("fsync failed".into()),
            Error::StaleEpoch {
                theirs: Epoch(1),
                ours: Epoch(2),
            },
            Error::io("writing segment 3", io::Error::other("disk on fire")),
            Error::Internal("odd".into()),
        ] {
            let back = error_of(node, &status_of(&error));
            assert_eq!(
                std::mem::discriminant(&back),
                std::mem::discriminant(&error)
            );
            assert_eq!(back.to_string(), error.to_string());
        }
        let none = Error::NoQuorum(Shortfall {
            doing: "write",
            needed: 2,
            got: 1,
            causes: vec![],
        });
        assert!(matches!(
            error_of(node, &status_of(&none)),
            Error::Internal(_)
        ));
    }

    #[test]
    fn what_a_transport_says_is_about_the_node() {
        for status in [
            Status::unavailable("connection refused"),
            Status::invalid_argument("message too large"),
            Status::with_details(Code::NotFound, "", vec![9, 9].into()),
            Status::with_details(Code::NotFound, "", vec![ERROR_VERSION, 200, 1].into()),
        ] {
            let error = error_of(NodeId(3), &status);
            assert!(matches!(error, Error::Unreachable { .. }), "{error}");
        }
    }

    #[test]
    fn unknown_spaces_and_torn_digests_are_refused() {
        assert!(check_space(space().as_ref()).is_ok());
        assert!(check_space(None).is_err());
        assert!(
            check_space(Some(&Space {
                digest_function: 9,
                namespace: 0
            }))
            .is_err()
        );
        assert!(
            check_space(Some(&Space {
                digest_function: 1,
                namespace: 1
            }))
            .is_err()
        );
        assert!(digest(&[0; 40]).is_ok());
        for packed in [0, 39, 80] {
            assert!(digest(&vec![0; packed]).is_err(), "{packed}");
        }
    }
}
