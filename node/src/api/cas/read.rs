//! BatchReadBlobs: whole blobs in one answer that any gRPC client takes.

use std::sync::Arc;

use bytes::Bytes;
use tonic::{Code, Response, Status};
use weir_cluster::{
    Digest, Error,
    blob::{ByteRange, SMALL_BLOB_BYTES, collect},
};
use weir_proto::{
    reapi::{BatchReadBlobsRequest, BatchReadBlobsResponse, batch_read_blobs_response, compressor},
    rpc,
};

use super::Cas;
use crate::api::{arguments, guard::answer::with_room, status};

/// Largest answer. gRPC clients refuse messages over 4 MiB unless told otherwise.
const ANSWER_BYTES: u64 = (4 << 20) - 1_024;

/// What a blob takes in the answer beside its bytes: hash, size, status, tags.
/// Malformed digests take the same: what is sent back of them is what came.
const ENTRY_BYTES: u64 = 100;

impl Cas {
    pub(super) async fn batch_read(
        self: Arc<Self>,
        batch: BatchReadBlobsRequest,
    ) -> Result<Response<BatchReadBlobsResponse>, Status> {
        arguments::instance(&batch.instance_name)?;
        arguments::function(batch.digest_function)?;
        let asked: Vec<_> = batch.digests.iter().map(arguments::digest).collect();
        let sizes = asked.iter().map(|digest| match digest {
            Ok(digest) => digest.size.saturating_add(ENTRY_BYTES),
            Err(_) => ENTRY_BYTES,
        });
        let total = sizes.fold(0u64, u64::saturating_add);
        if total > ANSWER_BYTES {
            return Err(Status::invalid_argument(format!(
                "an answer would take {total} bytes, clients take {ANSWER_BYTES}; \
                 split the batch, or use ByteStream"
            )));
        }
        let room = self.limits.answers.room(total).await?;
        let mut explained = 0;
        let digests: Vec<_> = asked.iter().flatten().copied().collect();
        let mut answers = self.get_all(&digests).await.into_iter();
        let responses = batch.digests.into_iter().zip(asked);
        let responses = responses.map(|(wire, asked)| {
            let answer = asked.and_then(|_| {
                let lost = || Err(Error::Internal("a store left out an answer".into()));
                answers
                    .next()
                    .unwrap_or_else(lost)
                    .map_err(|error| short(&error, &mut explained))
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
        let answer = BatchReadBlobsResponse {
            responses: responses.collect(),
        };
        Ok(with_room(answer, room))
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

/// Errors of one batch that are told at length.
const EXPLAINED: usize = 100;

/// As [`status::of`], with a message that thousands of times fit into an answer.
fn short(error: &Error, explained: &mut usize) -> Status {
    if matches!(error, Error::NotFound(_)) {
        return Status::new(Code::NotFound, "not found");
    }
    let status = status::of(error);
    *explained += 1;
    if *explained > EXPLAINED {
        return Status::new(status.code(), "as above");
    }
    status
}
