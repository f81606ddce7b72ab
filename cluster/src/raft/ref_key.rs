//! Keys of refs as bytes that sort as the keys do.

use std::io;

use crate::state::{RefKey, RefKind};

/// Kind, instance, URI and qualifiers, each text ended by a zero byte that no
/// text may have; so rows of one instance and a prefix of URIs are neighbours.
pub(super) fn encode_key(key: &RefKey) -> Vec<u8> {
    let mut out = Vec::with_capacity(key.text_bytes() + 16);
    out.push(match key.kind {
        RefKind::Blob => 1,
        RefKind::Directory => 2,
        RefKind::BuildStream1 => 3,
    });
    let qualifiers = key
        .qualifiers
        .iter()
        .flat_map(|(name, value)| [name.as_str(), value.as_str()]);
    for text in [key.instance.as_str(), key.uri.as_str()]
        .into_iter()
        .chain(qualifiers)
    {
        for byte in text.bytes() {
            // Zero and one are written as two bytes, in an order that keeps
            // that of the texts.
            match byte {
                0 => out.extend([1, 1]),
                1 => out.extend([1, 2]),
                byte => out.push(byte),
            }
        }
        out.push(0);
    }
    out
}

/// Reads a key back; bytes that no key gives are refused.
pub(super) fn decode_key(bytes: &[u8]) -> io::Result<RefKey> {
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "key of a ref cannot be read");
    let (kind, rest) = bytes.split_first().ok_or_else(bad)?;
    let kind = match kind {
        1 => RefKind::Blob,
        2 => RefKind::Directory,
        3 => RefKind::BuildStream1,
        _ => return Err(bad()),
    };
    let mut texts = Vec::new();
    let mut text = Vec::new();
    let mut bytes = rest.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            0 => {
                let text = String::from_utf8(std::mem::take(&mut text)).map_err(|_| bad())?;
                texts.push(text);
            }
            1 => match bytes.next() {
                Some(1) => text.push(0),
                Some(2) => text.push(1),
                _ => return Err(bad()),
            },
            byte => text.push(*byte),
        }
    }
    let mut texts = texts.into_iter();
    let (Some(instance), Some(uri), true) = (texts.next(), texts.next(), text.is_empty()) else {
        return Err(bad());
    };
    let mut qualifiers = Vec::new();
    while let Some(name) = texts.next() {
        qualifiers.push((name, texts.next().ok_or_else(bad)?));
    }
    Ok(RefKey {
        kind,
        instance,
        uri,
        qualifiers,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys() -> impl Strategy<Value = RefKey> {
        let kind = prop_oneof![
            Just(RefKind::Blob),
            Just(RefKind::Directory),
            Just(RefKind::BuildStream1)
        ];
        let text = "[a-c\u{0}\u{1}\u{2}é/]{0,6}";
        let qualifiers = proptest::collection::vec((text, text), 0..3);
        (kind, text, text, qualifiers)
            .prop_map(|(kind, instance, uri, rest)| RefKey::new(kind, instance, uri, rest))
    }

    proptest! {
        #[test]
        fn keys_come_back_and_keep_their_order(a in keys(), b in keys()) {
            prop_assert_eq!(&decode_key(&encode_key(&a)).unwrap(), &a);
            prop_assert_eq!(encode_key(&a).cmp(&encode_key(&b)), a.cmp(&b));
        }

        #[test]
        fn arbitrary_bytes_are_refused_not_believed(bytes: Vec<u8>) {
            if let Ok(key) = decode_key(&bytes) {
                prop_assert_eq!(encode_key(&key), bytes);
            }
        }
    }
}
