//! What every [`BlobStore`] keeps, as one suite that each of them runs.

mod inventory;

pub use inventory::check_inventory;

use bytes::Bytes;
use rand::{RngCore, SeedableRng, rngs::SmallRng};

use super::{
    BlobStore, ByteRange, CHUNK_BYTES, Lease, Put, SMALL_BLOB_BYTES, Verified, collect, put_bytes,
};
use crate::{Digest, Error};

/// Runs the suite on a store; panics at the first rule that does not hold.
/// Other blobs may be in the store, none with the suite's seeds.
pub async fn check(store: &dyn BlobStore) {
    the_empty_blob_is_present(store).await;
    what_was_put_comes_back(store).await;
    ranges_are_exact(store).await;
    batches_answer_one_by_one(store).await;
    bad_uploads_leave_nothing(store).await;
    a_second_put_finds_it_present(store).await;
}

/// Bytes that no other test has, the same for the same seed.
#[must_use]
pub fn sample(seed: u64, len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    SmallRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes.into()
}

async fn is_missing(store: &dyn BlobStore, digest: Digest) -> bool {
    let missing = store.find_missing(&[digest], Lease::SHORT).await.unwrap();
    assert!(missing.is_empty() || missing == [0], "{missing:?}");
    !missing.is_empty()
}

async fn the_empty_blob_is_present(store: &dyn BlobStore) {
    assert!(!is_missing(store, Digest::EMPTY).await);
    let stream = store.get(Digest::EMPTY, ByteRange::ALL).await.unwrap();
    assert!(collect(stream).await.unwrap().is_empty());
    assert_eq!(
        store.get_batch(&[Digest::EMPTY]).await[0]
            .as_ref()
            .unwrap()
            .len(),
        0
    );
    assert!(matches!(
        store.put(Digest::EMPTY).await.unwrap(),
        Put::Present
    ));
    assert!(store.put_batch(vec![Verified::of(Bytes::new())]).await[0].is_ok());
}

async fn what_was_put_comes_back(store: &dyn BlobStore) {
    let small = SMALL_BLOB_BYTES as usize;
    for (seed, len) in (100..).zip([1, 4095, small - 1, small, small + 1, 3 * small + 7]) {
        let bytes = sample(seed, len);
        assert!(is_missing(store, Digest::of(&bytes)).await);
        let digest = put_bytes(store, bytes.clone()).await.unwrap();
        assert!(!is_missing(store, digest).await);
        let stream = store.get(digest, ByteRange::ALL).await.unwrap();
        assert!(collect(stream).await.unwrap() == bytes, "{len} bytes");
    }
}

async fn ranges_are_exact(store: &dyn BlobStore) {
    for (seed, len) in [(200, 70_000), (201, 2 * CHUNK_BYTES + 12_345)] {
        let bytes = sample(seed, len);
        let digest = put_bytes(store, bytes.clone()).await.unwrap();
        let size = len as u64;
        for (offset, length) in [
            (0, 1),
            (1, 65_536),
            (65_535, 2),
            (65_536, 10_000_000),
            (size - 1, 1),
            (size, 1),
            (size, 0),
            (7, 0),
            (7, u64::MAX),
        ] {
            let stream = store
                .get(digest, ByteRange { offset, length })
                .await
                .unwrap();
            let end = offset.saturating_add(length).min(size) as usize;
            assert!(
                collect(stream).await.unwrap() == bytes[offset as usize..end],
                "offset {offset} length {length} of {len}"
            );
        }
        let beyond = ByteRange {
            offset: size + 1,
            length: 1,
        };
        let error = store.get(digest, beyond).await.err().expect("past the end");
        assert!(matches!(error, Error::OutOfRange { .. }), "{error}");
    }
}

async fn batches_answer_one_by_one(store: &dyn BlobStore) {
    let blobs: Vec<_> = (300..310)
        .map(|seed| Verified::of(sample(seed, 3_000)))
        .collect();
    let absent = Digest::of(&sample(399, 10));
    assert!(
        store
            .put_batch(blobs.clone())
            .await
            .iter()
            .all(Result::is_ok)
    );
    let mut wanted: Vec<_> = blobs.iter().map(Verified::digest).collect();
    wanted.insert(3, absent);
    wanted.push(wanted[0]);
    let answers = store.get_batch(&wanted).await;
    assert_eq!(answers.len(), wanted.len());
    for (digest, answer) in wanted.iter().zip(answers) {
        match answer {
            Ok(bytes) => assert_eq!(Digest::of(&bytes), *digest),
            Err(Error::NotFound(digest)) => assert_eq!(digest, absent),
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(
        store.find_missing(&wanted, Lease::SHORT).await.unwrap(),
        [3]
    );
    let error = store
        .get(absent, ByteRange::ALL)
        .await
        .err()
        .expect("absent");
    assert!(matches!(error, Error::NotFound(_)), "{error}");
}

async fn bad_uploads_leave_nothing(store: &dyn BlobStore) {
    for (seed, len) in [(400, 10_000), (401, 3 << 20)] {
        let bytes = sample(seed, len);
        let digest = Digest::of(&bytes);
        let mut flipped = bytes.to_vec();
        flipped[len / 2] ^= 1;
        let mut long = bytes.to_vec();
        long.push(0);
        for bad in [flipped, bytes[..len - 1].to_vec(), long, Vec::new()] {
            let Put::Upload(mut upload) = store.put(digest).await.unwrap() else {
                panic!("present though never stored");
            };
            let mut outcome = Ok(());
            for chunk in bad.chunks(CHUNK_BYTES) {
                if outcome.is_ok() {
                    outcome = upload.write(Bytes::copy_from_slice(chunk)).await;
                }
            }
            if outcome.is_ok() {
                outcome = upload.commit().await;
            }
            let error = outcome.expect_err("bytes do not match");
            assert!(matches!(error, Error::Mismatch { .. }), "{error}");
            assert!(is_missing(store, digest).await);
        }
        let Put::Upload(mut upload) = store.put(digest).await.unwrap() else {
            panic!("present though never stored");
        };
        upload.write(bytes.slice(..100)).await.unwrap();
        drop(upload);
        assert!(is_missing(store, digest).await);
    }
}

async fn a_second_put_finds_it_present(store: &dyn BlobStore) {
    for (seed, len) in [(500, 2_000), (501, 2 << 20)] {
        let bytes = sample(seed, len);
        let digest = put_bytes(store, bytes.clone()).await.unwrap();
        assert!(matches!(store.put(digest).await.unwrap(), Put::Present));
        assert_eq!(put_bytes(store, bytes).await.unwrap(), digest);
    }
}
