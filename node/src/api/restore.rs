//! Blobs that no write quorum confirms at the moment.
//!
//! While blobs move to new owners, or stand-ins hold them for owners that were
//! down, FindMissing reports blobs as missing that can be read all the same. The
//! tempting reading, that such a blob is absent, would refuse the push of what
//! was just uploaded, leave a reference that is there out of the closure, or
//! hide a ref for as long as its blobs move.
//! What can be read is stored again, which makes it durable at its owners.

use std::collections::HashSet;

use futures::StreamExt;
use weir_cluster::{
    Digest, Error,
    blob::{BlobStore, ByteRange, Put, Verified},
};

use super::{directories, gather::is_doubt};
use crate::planted::{self, Bug};

/// Of blobs that are not confirmed, those that are absent. Those that can be
/// read are stored again.
///
/// Where nobody can tell (nodes that may hold a blob do not answer), that is an
/// error for blobs that `must_be_known`, and absence for others: clients list
/// references that they never uploaded, and a node that is down must not stop
/// their pushes.
pub(super) async fn absent(
    store: &dyn BlobStore,
    must_be_known: impl Fn(Digest) -> bool,
    unconfirmed: Vec<Digest>,
) -> Result<HashSet<Digest>, Error> {
    let mut absent = HashSet::new();
    let mut note = |digest: Digest, outcome: Result<(), Error>| match outcome {
        Ok(()) => Ok(()),
        Err(_) if planted::is(Bug::AbsentTargetTaken) => Ok(()),
        Err(Error::NotFound(_) | Error::Corrupt(_)) => {
            absent.insert(digest);
            Ok(())
        }
        Err(error) if must_be_known(digest) || !is_doubt(&error) => Err(error),
        Err(error) => {
            tracing::debug!(%digest, %error, "reference counts as absent");
            absent.insert(digest);
            Ok(())
        }
    };
    let (small, large): (Vec<_>, Vec<_>) = unconfirmed
        .into_iter()
        .partition(|digest| digest.size <= directories::PIECE_BYTES);
    let mut rest = &small[..];
    while !rest.is_empty() {
        let piece = directories::next_piece(rest);
        rest = &rest[piece.len()..];
        for (digest, outcome) in piece.iter().zip(again_small(store, piece).await) {
            note(*digest, outcome)?;
        }
    }
    for digest in large {
        note(digest, again_large(store, digest).await)?;
    }
    Ok(absent)
}

/// Reads blobs and stores them again, one answer for each.
async fn again_small(store: &dyn BlobStore, digests: &[Digest]) -> Vec<Result<(), Error>> {
    let mut answers = Vec::with_capacity(digests.len());
    let mut found = Vec::new();
    for (digest, read) in digests.iter().zip(store.get_batch(digests).await) {
        let checked = read.and_then(|bytes| Verified::check(*digest, bytes));
        answers.push(checked.map(|blob| found.push(blob)));
    }
    let mut stored = store.put_batch(found).await.into_iter();
    for answer in answers.iter_mut().filter(|answer| answer.is_ok()) {
        *answer = stored.next().unwrap_or(Ok(()));
    }
    answers
}

/// Streams a blob from wherever it is to its owners.
async fn again_large(store: &dyn BlobStore, digest: Digest) -> Result<(), Error> {
    let mut chunks = store.get(digest, ByteRange::ALL).await?;
    let Put::Upload(mut upload) = store.put(digest).await? else {
        return Ok(());
    };
    while let Some(chunk) = chunks.next().await {
        upload.write(chunk?).await?;
    }
    upload.commit().await
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;
    use bytes::Bytes;
    use weir_cluster::{
        blob::{BlobStream, Lease, conformance::sample, memory_store::MemoryStore, put_bytes},
        words::error::Shortfall,
    };

    use super::*;

    /// Confirms nothing that was not stored through it, reads everything but
    /// what it cannot tell of.
    struct Moving {
        elsewhere: MemoryStore,
        untold: Vec<Digest>,
        stored: Mutex<Vec<Digest>>,
    }

    impl Moving {
        fn check(&self, digest: Digest) -> Result<(), Error> {
            if self.untold.contains(&digest) {
                return Err(Error::NoQuorum(Shortfall {
                    doing: "read blob",
                    needed: 1,
                    got: 0,
                    causes: vec![],
                }));
            }
            Ok(())
        }
    }

    #[async_trait]
    impl BlobStore for Moving {
        async fn find_missing(&self, _: &[Digest], _: Lease) -> Result<Vec<u32>, Error> {
            unreachable!("asked before")
        }

        async fn get(&self, digest: Digest, range: ByteRange) -> Result<BlobStream, Error> {
            self.check(digest)?;
            self.elsewhere.get(digest, range).await
        }

        async fn get_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, Error>> {
            let read = self.elsewhere.get_batch(digests).await;
            let told = |(digest, read): (&Digest, _)| self.check(*digest).and(read);
            digests.iter().zip(read).map(told).collect()
        }

        async fn put(&self, digest: Digest) -> Result<Put, Error> {
            self.stored.lock().unwrap().push(digest);
            self.elsewhere.remove(digest);
            self.elsewhere.put(digest).await
        }

        async fn put_batch(&self, blobs: Vec<Verified>) -> Vec<Result<(), Error>> {
            let digests = blobs.iter().map(Verified::digest);
            self.stored.lock().unwrap().extend(digests);
            self.elsewhere.put_batch(blobs).await
        }
    }

    #[tokio::test]
    async fn what_can_be_read_is_stored_again_and_only_the_rest_is_absent() {
        let elsewhere = MemoryStore::new();
        let small = put_bytes(&elsewhere, sample(1, 2_000)).await.unwrap();
        let large = put_bytes(&elsewhere, sample(2, 5 << 20)).await.unwrap();
        let never = Digest::of(&sample(3, 100));
        let never_large = Digest::of(&sample(4, 5 << 20));
        let untold = Digest::of(&sample(5, 100));
        let store = Moving {
            elsewhere,
            untold: vec![untold],
            stored: Mutex::default(),
        };
        let asked = vec![small, never, large, never_large, untold];
        let absent = super::absent(&store, |digest| digest == small, asked)
            .await
            .unwrap();
        assert_eq!(absent, HashSet::from([never, never_large, untold]));
        assert_eq!(*store.stored.lock().unwrap(), [small, large]);
        // Of its target a push must know.
        let error = super::absent(&store, |_| true, vec![untold]).await;
        assert!(matches!(error, Err(Error::NoQuorum(_))), "{error:?}");
        let absent = super::absent(&store, |_| true, vec![never]).await.unwrap();
        assert_eq!(absent, HashSet::from([never]));
    }
}
