//! Reading Directory and Tree messages from a store, within bounds.

use bytes::Bytes;
use weir_cluster::{
    Digest, Error,
    blob::{BlobStore, ByteRange, SMALL_BLOB_BYTES, collect},
};

/// Largest Directory or Tree message that is read. A directory of 100,000
/// files takes some 10 MiB.
pub(crate) const DIRECTORY_BYTES: u64 = 32 << 20;

/// How much is asked of the store at once: bytes, and digests.
pub(super) const PIECE_BYTES: u64 = 4 << 20;
const PIECE_DIGESTS: usize = 2_000;

/// The next digests to read together: at most what fits into one piece, at
/// least one. The caller reads piece by piece, so that a level of any width
/// takes little memory.
pub(crate) fn next_piece(wanted: &[Digest]) -> &[Digest] {
    let mut bytes = 0;
    let fits = wanted.iter().take(PIECE_DIGESTS).take_while(|digest| {
        bytes += digest.size;
        bytes <= PIECE_BYTES
    });
    &wanted[..fits.count().max(1).min(wanted.len())]
}

/// Reads a piece: for each digest its bytes, or `None` if the blob is absent.
/// Any other error is that digest's answer: what cannot be told is not absence.
pub(crate) async fn read_piece(
    store: &dyn BlobStore,
    piece: &[Digest],
) -> Vec<Result<Option<Bytes>, Error>> {
    if let [digest] = piece
        && digest.size > SMALL_BLOB_BYTES
    {
        return vec![read_one(store, *digest).await];
    }
    let (small, large): (Vec<_>, Vec<_>) = piece
        .iter()
        .enumerate()
        .partition(|(_, digest)| digest.size <= SMALL_BLOB_BYTES);
    let mut found = vec![Ok(None); piece.len()];
    let digests: Vec<_> = small.iter().map(|(_, digest)| **digest).collect();
    if !digests.is_empty() {
        for ((index, _), answer) in small.into_iter().zip(store.get_batch(&digests).await) {
            found[index] = present(answer);
        }
    }
    for (index, digest) in large {
        found[index] = read_one(store, *digest).await;
    }
    found
}

/// Reads one message of any size up to [`DIRECTORY_BYTES`].
async fn read_one(store: &dyn BlobStore, digest: Digest) -> Result<Option<Bytes>, Error> {
    if digest.size > DIRECTORY_BYTES {
        return Err(Error::Invalid(format!(
            "{digest} is no Directory that is read: it is over {DIRECTORY_BYTES} bytes"
        )));
    }
    read_whole(store, digest).await
}

/// Reads a blob whose size the caller has bounded.
pub(crate) async fn read_whole(
    store: &dyn BlobStore,
    digest: Digest,
) -> Result<Option<Bytes>, Error> {
    match store.get(digest, ByteRange::ALL).await {
        Ok(stream) => present(collect(stream).await),
        Err(error) => present(Err(error)),
    }
}

fn present(answer: Result<Bytes, Error>) -> Result<Option<Bytes>, Error> {
    match answer {
        Ok(bytes) => Ok(Some(bytes)),
        Err(Error::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use weir_cluster::blob::{conformance::sample, memory_store::MemoryStore, put_bytes};

    use super::*;

    fn sized(size: u64) -> Digest {
        Digest {
            hash: [1; 32],
            size,
        }
    }

    #[test]
    fn pieces_are_bounded_and_never_empty() {
        let small = vec![sized(10); 5_000];
        assert_eq!(next_piece(&small).len(), PIECE_DIGESTS);
        let large = vec![sized(PIECE_BYTES / 2); 5];
        assert_eq!(next_piece(&large).len(), 2);
        assert_eq!(next_piece(&[sized(u64::MAX), sized(1)]).len(), 1);
        assert_eq!(next_piece(&[]).len(), 0);
    }

    #[tokio::test]
    async fn small_large_and_absent_ones_come_in_order() {
        let store = MemoryStore::new();
        let small = put_bytes(&store, sample(1, 100)).await.unwrap();
        let large = put_bytes(&store, sample(2, 2 << 20)).await.unwrap();
        let absent = Digest::of(b"absent");
        let found = read_piece(&store, &[large, absent, small, large]).await;
        let sizes: Vec<_> = found
            .into_iter()
            .map(|bytes| bytes.unwrap().as_ref().map(Bytes::len))
            .collect();
        assert_eq!(sizes, [Some(2 << 20), None, Some(100), Some(2 << 20)]);
        let too_large = read_piece(&store, &[sized(DIRECTORY_BYTES + 1)]).await;
        assert!(too_large[0].is_err());
    }
}
