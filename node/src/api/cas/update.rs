//! BatchUpdateBlobs: each blob is stored or refused for itself.

use std::sync::Arc;

use bytes::Bytes;
use tonic::{Response, Status};
use weir_cluster::{
    Digest, Error,
    blob::{SMALL_BLOB_BYTES, Verified, put_bytes},
};
use weir_proto::reapi::{
    BatchUpdateBlobsRequest, BatchUpdateBlobsResponse, batch_update_blobs_request,
    batch_update_blobs_response,
};

use super::{Cas, check_compressor};
use crate::api::{arguments, status};

/// Up to so many bytes are hashed where the call runs (some 80 µs); more goes
/// to blocking threads, so that other calls of this thread do not wait.
const INLINE_HASH_BYTES: usize = 128 << 10;

/// How much one blocking thread hashes: enough to outweigh waking it, little
/// enough to spread a full batch over the cores.
const HASH_PIECE_BYTES: usize = 1 << 20;

impl Cas {
    pub(super) async fn batch_update(
        self: Arc<Self>,
        batch: BatchUpdateBlobsRequest,
    ) -> Result<Response<BatchUpdateBlobsResponse>, Status> {
        arguments::instance(&batch.instance_name)?;
        arguments::function(batch.digest_function)?;
        let total: u64 = batch
            .requests
            .iter()
            .map(|blob| blob.data.len() as u64)
            .sum();
        if total > self.max_batch_bytes {
            return Err(Status::invalid_argument(format!(
                "batch has {total} bytes of blobs, the limit is {}; split it, or use ByteStream",
                self.max_batch_bytes
            )));
        }
        let mut outcomes = Vec::with_capacity(batch.requests.len());
        let mut indices = Vec::with_capacity(batch.requests.len());
        let mut blobs = Vec::with_capacity(batch.requests.len());
        for (index, blob) in batch.requests.iter().enumerate() {
            match self.check(blob) {
                Ok(digest) => {
                    indices.push(index);
                    blobs.push((digest, blob.data.clone()));
                    outcomes.push(Ok(()));
                }
                Err(refused) => outcomes.push(Err(refused)),
            }
        }
        for (index, outcome) in indices.into_iter().zip(self.store_all(blobs).await?) {
            outcomes[index] = outcome.map_err(|error| status::of(&error));
        }
        let responses = batch.requests.into_iter().zip(&outcomes);
        let responses = responses.map(|(blob, outcome)| batch_update_blobs_response::Response {
            digest: blob.digest,
            status: Some(status::of_blob(outcome)),
        });
        Ok(Response::new(BatchUpdateBlobsResponse {
            responses: responses.collect(),
        }))
    }

    fn check(&self, blob: &batch_update_blobs_request::Request) -> Result<Digest, Status> {
        check_compressor(blob.compressor)?;
        let digest = arguments::required(blob.digest.as_ref(), "digest")?;
        if digest.size > self.max_blob_bytes {
            return Err(Status::invalid_argument(format!(
                "blob is over the limit of {} bytes (api.max_blob_bytes)",
                self.max_blob_bytes
            )));
        }
        Ok(digest)
    }

    /// Verifies and stores blobs; one outcome each, in order.
    async fn store_all(
        &self,
        blobs: Vec<(Digest, Bytes)>,
    ) -> Result<Vec<Result<(), Error>>, Status> {
        let mut outcomes = Vec::with_capacity(blobs.len());
        let mut small = Vec::with_capacity(blobs.len());
        let mut small_at = Vec::with_capacity(blobs.len());
        let mut large = Vec::new();
        for (index, checked) in verify(blobs).await?.into_iter().enumerate() {
            outcomes.push(Ok(()));
            match checked {
                Ok(blob) if blob.digest().size <= SMALL_BLOB_BYTES => {
                    small_at.push(index);
                    small.push(blob);
                }
                Ok(blob) => large.push((index, blob)),
                Err(error) => outcomes[index] = Err(error),
            }
        }
        if !small.is_empty() {
            for (index, outcome) in small_at.into_iter().zip(self.store.put_batch(small).await) {
                outcomes[index] = outcome;
            }
        }
        // At most 64 of these fit into a batch, and few clients send one at
        // all, so one after the other is quick enough.
        for (index, blob) in large {
            outcomes[index] = put_bytes(&*self.store, blob.into_bytes()).await.map(drop);
        }
        Ok(outcomes)
    }
}

type Checked = Vec<Result<Verified, Error>>;

/// Hashes blobs, off this thread if they are many bytes.
async fn verify(blobs: Vec<(Digest, Bytes)>) -> Result<Checked, Status> {
    let total: usize = blobs.iter().map(|(_, bytes)| bytes.len()).sum();
    if total <= INLINE_HASH_BYTES {
        return Ok(check_all(blobs));
    }
    let mut pieces = Vec::new();
    let mut piece = Vec::new();
    let mut piece_bytes = 0;
    for (digest, bytes) in blobs {
        piece_bytes += bytes.len();
        piece.push((digest, bytes));
        if piece_bytes >= HASH_PIECE_BYTES {
            pieces.push(hash_elsewhere(std::mem::take(&mut piece)));
            piece_bytes = 0;
        }
    }
    pieces.push(hash_elsewhere(piece));
    let mut checked = Vec::new();
    for piece in pieces {
        let outcome = piece.await;
        checked.extend(outcome.map_err(|_| Status::internal("a hashing thread panicked"))?);
    }
    Ok(checked)
}

fn hash_elsewhere(piece: Vec<(Digest, Bytes)>) -> tokio::task::JoinHandle<Checked> {
    tokio::task::spawn_blocking(move || check_all(piece))
}

fn check_all(blobs: Vec<(Digest, Bytes)>) -> Checked {
    let check = |(digest, bytes)| Verified::check(digest, bytes);
    blobs.into_iter().map(check).collect()
}
