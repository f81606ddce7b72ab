//! A part of a damaged blob.

use std::sync::Arc;

use weir_cluster::{
    Digest, Error,
    blob::{
        BlobStore, ByteRange, Lease, SMALL_BLOB_BYTES, collect, conformance::sample, put_bytes,
    },
    journal::sim_disk::SimDisk,
};

use super::{
    super::{LocalStore, files, segments},
    small,
};

/// What is asked for has a wrong bit; in the other part of a file there is none.
#[tokio::test]
async fn one_flipped_bit_gives_no_bytes_of_its_part() {
    for len in [200_000_usize, 3 << 20] {
        let disk = SimDisk::new();
        let store = LocalStore::open(small(), Arc::new(disk.clone())).unwrap();
        let bytes = sample(7, len);
        let digest: Digest = put_bytes(&*store, bytes.clone()).await.unwrap();
        let is_small = digest.size <= SMALL_BLOB_BYTES;
        let (path, offset) = match is_small {
            true => (segments::path(1), 1_000),
            false => (files::path(&digest), 1_000),
        };
        disk.flip_bits(&path, offset, 1).unwrap();
        let length = 5_000;
        let part = |offset| store.get(digest, ByteRange { offset, length });
        if !is_small {
            let end = digest.size - length;
            let sound = collect(part(end).await.unwrap()).await.unwrap();
            assert!(sound == bytes[end as usize..]);
        }
        let outcome = match part(0).await {
            Ok(stream) => collect(stream).await,
            Err(error) => Err(error),
        };
        let error = outcome.expect_err("a bit of it is wrong");
        assert!(matches!(error, Error::Corrupt(_)), "{error}");
        let missing = store.find_missing(&[digest], Lease::SHORT).await;
        assert_eq!(missing.unwrap(), [0], "{len} bytes");
    }
}
