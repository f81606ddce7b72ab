use prost::Message;
use weir_proto::reapi::{self, FindMissingBlobsRequest, FindMissingBlobsResponse};

use super::*;

fn request(digests: Vec<reapi::Digest>) -> FindMissingBlobsRequest {
    FindMissingBlobsRequest {
        instance_name: "a/b".into(),
        blob_digests: digests,
        digest_function: 1,
    }
}

#[test]
fn reads_what_others_write_and_writes_what_others_read() {
    let mut digests = vec![Digest::EMPTY, Digest::of(b"a"), Digest::of(&[1; 1_000])];
    digests.push(Digest {
        hash: [0xab; 32],
        size: i64::MAX as u64,
    });
    let wire: Vec<_> = digests
        .iter()
        .map(|digest| arguments::to_wire(*digest))
        .collect();
    let question = Question::decode(&request(wire.clone()).encode_to_vec().into()).unwrap();
    assert_eq!(question.digests, digests);
    assert_eq!((&question.instance[..], question.function), ("a/b", 1));
    let mut answer = Vec::new();
    for digest in &digests {
        put_entry(digest, &mut answer);
    }
    let answer = FindMissingBlobsResponse::decode(&answer[..]).unwrap();
    assert_eq!(answer.missing_blob_digests, wire);
}

#[test]
fn unusual_but_legal_encodings_are_read() {
    let digest = Digest::of(b"a");
    // Size before hash, an unknown field of each wire type, a hash set twice.
    let mut entry = vec![0x10, 1, 0x0a, 1, b'x', 0x1a, 2, 9, 9, 0x20, 5];
    entry.extend([0x29, 0, 0, 0, 0, 0, 0, 0, 0, 0x35, 0, 0, 0, 0, 0x0a, 64]);
    entry.extend(digest.hash_hex().into_bytes());
    let mut message = vec![0x12, entry.len() as u8];
    message.extend(entry);
    let question = Question::decode(&message.into()).unwrap();
    assert_eq!(question.digests, [digest]);
}

#[test]
fn malformed_messages_are_refused() {
    let good = arguments::to_wire(Digest::of(b"a"));
    for hash in ["", "zz", &good.hash.to_uppercase(), &good.hash[1..]] {
        let bad = reapi::Digest {
            hash: hash.into(),
            size_bytes: 1,
        };
        let message = request(vec![good.clone(), bad]).encode_to_vec();
        assert!(Question::decode(&message.into()).is_err(), "{hash}");
    }
    let negative = reapi::Digest {
        size_bytes: -1,
        ..good.clone()
    };
    assert!(Question::decode(&request(vec![negative]).encode_to_vec().into()).is_err());
    let whole = request(vec![good]).encode_to_vec();
    for end in 1..whole.len() {
        // Cut between fields the message is whole again; the digest is the second.
        let outcome = Question::decode(&Bytes::copy_from_slice(&whole[..end]));
        assert!(
            outcome.is_err() || end == 5 || end == whole.len() - 2,
            "{end}"
        );
    }
    for junk in [
        &[0x13][..],
        &[0x12, 0xff, 0xff, 0xff, 0xff, 0x7f],
        &[0xff; 11],
        &[0x0a, 1, 0xff],
    ] {
        assert!(Question::decode(&Bytes::copy_from_slice(junk)).is_err());
    }
}

proptest::proptest! {
    #[test]
    fn no_bytes_break_the_decoder(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let _ = Question::decode(&bytes.into());
    }
}
