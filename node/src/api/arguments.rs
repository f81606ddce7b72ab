//! Arguments that many calls share: digests, digest functions and instance names.

use tonic::Status;
use weir_cluster::Digest;
use weir_proto::reapi::{self, digest_function};

/// Longest instance name. It is part of every ref key, so it costs memory and
/// log space on every node.
pub(crate) const INSTANCE_BYTES: usize = 256;

/// Words that may not be a segment of an instance name, since resource names
/// are told apart by them.
pub(crate) const RESERVED: [&str; 7] = [
    "blobs",
    "uploads",
    "actions",
    "actionResults",
    "operations",
    "capabilities",
    "compressed-blobs",
];

/// Checks a digest from a client.
///
/// A size of zero with any hash but that of nothing is refused too: stores
/// hold every digest of size zero for the empty blob, and would send bytes
/// that do not hash to it.
pub(crate) fn digest(wire: &reapi::Digest) -> Result<Digest, Status> {
    let digest = Digest::parse(&wire.hash, wire.size_bytes)
        .map_err(|error| Status::invalid_argument(format!("digest is malformed: {error}")))?;
    check_empty(digest)
}

/// See [`digest`].
pub(crate) fn check_empty(digest: Digest) -> Result<Digest, Status> {
    if digest.size == 0 && digest != Digest::EMPTY {
        return Err(Status::invalid_argument(format!(
            "digest {digest} names no blob: its size is 0, but its hash is not that of 0 bytes"
        )));
    }
    Ok(digest)
}

/// A digest that the message must have.
pub(crate) fn required(wire: Option<&reapi::Digest>, field: &str) -> Result<Digest, Status> {
    match wire {
        Some(wire) => digest(wire),
        None => Err(Status::invalid_argument(format!("{field} is not set"))),
    }
}

/// The form on the wire.
pub(crate) fn to_wire(digest: Digest) -> reapi::Digest {
    reapi::Digest {
        hash: digest.hash_hex(),
        // Sizes come from the wire or from blobs in memory, so they fit.
        size_bytes: i64::try_from(digest.size).unwrap_or(i64::MAX),
    }
}

/// Checks the digest function of a request. Unset stands for SHA-256, the only
/// one whose hashes have this length and are announced.
pub(crate) fn function(value: i32) -> Result<(), Status> {
    match digest_function::Value::try_from(value) {
        Ok(digest_function::Value::Unknown | digest_function::Value::Sha256) => Ok(()),
        Ok(other) => Err(Status::invalid_argument(format!(
            "digest function {} is not supported; use SHA256",
            other.as_str_name()
        ))),
        Err(_) => Err(Status::invalid_argument(format!(
            "digest function {value} is unknown; use SHA256"
        ))),
    }
}

/// Checks an instance name: nothing, or segments joined by slashes.
pub(crate) fn instance(name: &str) -> Result<(), Status> {
    match instance_fault(name) {
        None => Ok(()),
        Some(fault) => Err(Status::invalid_argument(format!("instance name {fault}"))),
    }
}

/// What is wrong with an instance name. The name itself is not repeated: it
/// may be huge, or made to spoil a terminal.
pub(crate) fn instance_fault(name: &str) -> Option<String> {
    if name.is_empty() {
        return None;
    }
    if name.len() > INSTANCE_BYTES {
        return Some(format!("is longer than {INSTANCE_BYTES} bytes"));
    }
    if name.chars().any(is_unprintable) {
        return Some("has a control character".into());
    }
    name.split('/').find_map(|segment| match segment {
        "" => Some("has an empty segment".into()),
        "." | ".." => Some("has a segment of dots".into()),
        _ if RESERVED.contains(&segment) => Some(format!("has the reserved segment {segment:?}")),
        _ if segment.contains('\\') => Some("has a backslash".into()),
        _ => None,
    })
}

/// Control characters, and those that change how text around them is shown.
pub(crate) fn is_unprintable(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instance_names_are_printable_segments() {
        for name in [
            "",
            "main",
            "a/b/c",
            "Ünïcode",
            "with space",
            "a.b",
            "...",
            "x%2fy",
        ] {
            assert_eq!(instance_fault(name), None, "{name:?}");
        }
        for name in [
            "/",
            "a/",
            "/a",
            "a//b",
            ".",
            "..",
            "a/../b",
            "a/./b",
            "blobs",
            "a/uploads",
            "x\0",
            "x\n",
            "\u{202e}txt",
            "a\\b",
            "compressed-blobs/zstd",
            "operations",
        ] {
            assert!(instance_fault(name).is_some(), "{name:?}");
        }
        assert!(instance_fault(&"a".repeat(INSTANCE_BYTES + 1)).is_some());
    }

    #[test]
    fn a_size_of_zero_needs_the_hash_of_nothing() {
        let mut wire = to_wire(Digest::EMPTY);
        assert_eq!(digest(&wire).unwrap(), Digest::EMPTY);
        wire.hash = Digest::of(b"a").hash_hex();
        assert!(digest(&wire).is_err());
    }

    #[test]
    fn only_sha256_is_spoken() {
        assert!(function(0).is_ok() && function(1).is_ok());
        for value in [-1, 2, 3, 4, 5, 6, 7, 8, 9, 10, i32::MAX] {
            assert!(function(value).is_err(), "{value}");
        }
    }
}
