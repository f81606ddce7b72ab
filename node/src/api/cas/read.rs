//! BatchReadBlobs: whole blobs in one answer that any gRPC client takes.

use bytes::Bytes;
use tonic::{Code, Status};
use weir_cluster::{
    Digest, Error,
    blob::{ByteRange, SMALL_BLOB_BYTES, collect},
};
use weir_proto::{
    reapi::{BatchReadBlobsRequest, BatchReadBlobsResponse, batch_read_blobs_response, compressor},
    rpc,
};

use super::Cas;
use crate::api::{arguments, status};

/// Largest answer. gRPC clients refuse messages over 4 MiB unless told otherwise.
const ANSWER_BYTES: u64 = (4 << 20) - 1_024;

/// What a blob takes in the answer beside its bytes: hash, size, status, tags.
const ENTRY_BYTES: u64 = 100;

impl Cas {
    pub(super) async fn batch_read(
        self,
        batch: BatchReadBlobsRequest,
    ) -> Result<BatchReadBlobsResponse, Status> {
        arguments::instance(&batch.instance_name)?;
        arguments::function(batch.digest_function)?;
        let checked: Vec<_> = batch.digests.iter().map(arguments::digest).collect();
        let total = checked.iter().flatten().map(|digest| digest.size);
        let total = total.fold(0u64, u64::saturating_add);
        if total > ANSWER_BYTES {
            return Err(Status::invalid_argument(format!(
                "blobs of {total} bytes in all do not fit into an answer of {ANSWER_BYTES} bytes; \
                 split the batch, or use ByteStream"
            )));
        }
        let mut room = ANSWER_BYTES;
        let asked: Vec<Result<Digest, Status>> = checked
            .into_iter()
            .map(|digest| fit(digest?, &mut room))
            .collect();
        let digests: Vec<_> = asked.iter().flatten().copied().collect();
        let mut answers = self.get_all(&digests).await.into_iter();
        let responses = batch.digests.into_iter().zip(asked);
        let responses = responses.map(|(wire, asked)| {
            let answer = asked.and_then(|_| {
                let lost = || Err(Error::Internal("a store left out an answer".into()));
                answers
                    .next()
                    .unwrap_or_else(lost)
                    .map_err(|error| short(&error))
            });
            let (data, status) = match answer {
                Ok(bytes) => (bytes, rpc::Status::default()),
                Err(refused) => (Bytes::new(), status::of_blob(&Err(refused))),
            };
            batch_read_blobs_response::Response {
                digest: Some(wire),
                data,
                compressor: compressor::Value::Identity as i32,
                status: Some(status),
            }
        });
        Ok(BatchReadBlobsResponse {
            responses: responses.collect(),
        })
    }

    /// Whole blobs; one answer each, in order.
    async fn get_all(&self, digests: &[Digest]) -> Vec<Result<Bytes, Error>> {
        let is_small = |digest: &Digest| digest.size <= SMALL_BLOB_BYTES;
        if digests.is_empty() || digests.iter().all(is_small) {
            return self.store.get_batch(digests).await;
        }
        let small: Vec<_> = digests.iter().copied().filter(is_small).collect();
        let mut small = self.store.get_batch(&small).await.into_iter();
        let mut answers = Vec::with_capacity(digests.len());
        for digest in digests {
            answers.push(if is_small(digest) {
                let lost = || Err(Error::Internal("a store left out an answer".into()));
                small.next().unwrap_or_else(lost)
            } else {
                // At most three fit into an answer.
                match self.store.get(*digest, ByteRange::ALL).await {
                    Ok(stream) => collect(stream).await,
                    Err(error) => Err(error),
                }
            });
        }
        answers
    }
}

/// Takes room for a blob in the answer.
fn fit(digest: Digest, room: &mut u64) -> Result<Digest, Status> {
    match room.checked_sub(digest.size + ENTRY_BYTES) {
        Some(rest) => {
            *room = rest;
            Ok(digest)
        }
        None => Err(Status::invalid_argument("batch too large")),
    }
}

/// As [`status::of`], with a message that thousands of times fit into an answer.
fn short(error: &Error) -> Status {
    match error {
        Error::NotFound(_) => Status::new(Code::NotFound, "not found"),
        other => status::of(other),
    }
}
