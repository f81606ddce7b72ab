//! Remote Asset: what [`fetch`] and [`push`] have in common, which is the
//! reading of their arguments.

use tonic::Status;
use weir_cluster::state::{RefKey, RefKind};
use weir_proto::asset::Qualifier;

use super::arguments;

pub(crate) mod fetch;
pub(crate) mod push;

/// URIs in one call. BuildStream sends two, mirrors make a few more.
const URIS: usize = 64;

/// Longest URI. It is part of a ref key, and is kept on every node.
const URI_BYTES: usize = 4_096;

/// Qualifiers in one call; part of each ref key.
const QUALIFIERS: usize = 32;

/// Longest name or value of a qualifier.
const QUALIFIER_BYTES: usize = 1_024;

/// The keys that a call names, one for each URI.
///
/// A call without URIs is how BuildStream finds out whether this service is
/// here at all; it counts on INVALID_ARGUMENT and nothing else.
fn keys(
    kind: RefKind,
    instance: &str,
    uris: &[String],
    qualifiers: &[Qualifier],
) -> Result<Vec<RefKey>, Status> {
    if uris.is_empty() {
        return Err(Status::invalid_argument("uris is empty; name at least one"));
    }
    if uris.len() > URIS {
        return Err(Status::invalid_argument(format!("more than {URIS} uris")));
    }
    arguments::instance(instance)?;
    for uri in uris {
        check_uri(uri)?;
    }
    let qualifiers = check_qualifiers(qualifiers)?;
    Ok(uris
        .iter()
        .map(|uri| RefKey::new(kind, instance, uri, qualifiers.clone()))
        .collect())
}

/// Checks a URI, or a key of BuildStream 1.
pub(super) fn check_uri(uri: &str) -> Result<(), Status> {
    if uri.is_empty() || uri.len() > URI_BYTES || uri.chars().any(arguments::is_unprintable) {
        return Err(Status::invalid_argument(format!(
            "uri must have 1 to {URI_BYTES} bytes and no control characters"
        )));
    }
    Ok(())
}

fn check_qualifiers(qualifiers: &[Qualifier]) -> Result<Vec<(String, String)>, Status> {
    if qualifiers.len() > QUALIFIERS {
        return Err(Status::invalid_argument(format!(
            "more than {QUALIFIERS} qualifiers"
        )));
    }
    let mut checked: Vec<(String, String)> = Vec::with_capacity(qualifiers.len());
    for Qualifier { name, value } in qualifiers {
        let printable = !name.chars().any(arguments::is_unprintable);
        if name.is_empty() || !printable || name.len().max(value.len()) > QUALIFIER_BYTES {
            return Err(Status::invalid_argument(format!(
                "qualifiers must have a printable name, and at most {QUALIFIER_BYTES} bytes \
                 in name and value each"
            )));
        }
        if checked.iter().any(|(other, _)| other == name) {
            return Err(Status::invalid_argument("qualifier names must be unique"));
        }
        checked.push((name.clone(), value.clone()));
    }
    Ok(checked)
}

/// A timestamp as a Unix second, rounded up: content that ends within a second
/// is there until its end.
fn seconds(timestamp: &prost_types::Timestamp, field: &str) -> Result<u64, Status> {
    let refuse = || Status::invalid_argument(format!("{field} is no time since 1970"));
    if !(0..1_000_000_000).contains(&timestamp.nanos) {
        return Err(refuse());
    }
    let seconds = u64::try_from(timestamp.seconds).map_err(|_| refuse())?;
    Ok(seconds + u64::from(timestamp.nanos > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn qualifier(name: &str, value: &str) -> Qualifier {
        Qualifier {
            name: name.into(),
            value: value.into(),
        }
    }

    #[test]
    fn arguments_are_bounded_and_printable() {
        let (good, long) = (qualifier("a", "b"), "x".repeat(URI_BYTES + 1));
        for (instance, uris, qualifiers, expected) in [
            ("", vec!["urn:x"], vec![good.clone()], true),
            ("a/b", vec!["urn:x", "urn:y"], vec![], true),
            ("", vec![], vec![], false),
            ("", vec![""], vec![], false),
            ("", vec!["urn:x", ""], vec![], false),
            ("", vec!["urn:\n"], vec![], false),
            ("", vec![&long], vec![], false),
            ("", vec!["urn:x"; URIS + 1], vec![], false),
            ("..", vec!["urn:x"], vec![], false),
            ("", vec!["urn:x"], vec![good.clone(), good.clone()], false),
            ("", vec!["urn:x"], vec![qualifier("", "b")], false),
            ("", vec!["urn:x"], vec![qualifier("a", &long)], false),
        ] {
            let uris: Vec<_> = uris.into_iter().map(String::from).collect();
            let keys = keys(RefKind::Blob, instance, &uris, &qualifiers);
            assert_eq!(keys.is_ok(), expected, "{instance:?} {qualifiers:?}");
        }
    }

    #[test]
    fn times_are_rounded_up_and_checked() {
        for (seconds_in, nanos, expected) in [
            (5, 0, Some(5)),
            (5, 1, Some(6)),
            (0, 0, Some(0)),
            (-1, 0, None),
            (1, -1, None),
            (1, 1_000_000_000, None),
        ] {
            let timestamp = prost_types::Timestamp {
                seconds: seconds_in,
                nanos,
            };
            assert_eq!(seconds(&timestamp, "expire_at").ok(), expected);
        }
    }
}
