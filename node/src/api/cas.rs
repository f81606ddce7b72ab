//! `build.bazel.remote.execution.v2.ContentAddressableStorage`.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use tonic::{Status, body::Body, server::NamedService};
use tower::Service;
use tracing::Instrument;
use weir_cluster::blob::BlobStore;
use weir_proto::reapi::{compressor, content_addressable_storage_server::SERVICE_NAME};

use super::{
    ApiConfig,
    agreed::Agreed,
    arguments,
    fast_codec::{FindMissingCodec, Missing, Question},
    guard::{Limits, answer::with_room},
    method::{self, Answer, Capped},
    status, tree,
};

mod read;
mod update;

/// Room for all that is not a blob in the largest batch.
const BATCH_OVERHEAD_BYTES: u64 = 4 << 20;

/// Largest FindMissingBlobs request: some 850,000 digests. Pants sends 180,000
/// in one, which is over the usual 4 MiB.
const QUESTION_BYTES: usize = 64 << 20;

/// Blobs in one batch. Enough for the largest batch of blobs of 300 bytes.
const BATCH_BLOBS: usize = 200_000;

/// The CAS service. Cheap to clone, as it is for each call.
#[derive(Clone)]
pub(crate) struct CasService(pub(crate) Arc<Cas>);

/// What the methods work over.
pub(crate) struct Cas {
    store: Arc<dyn BlobStore>,
    agreed: Agreed,
    limits: Arc<Limits>,
    max_batch_bytes: u64,
    max_blob_bytes: u64,
}

impl Cas {
    pub(crate) fn new(
        store: Arc<dyn BlobStore>,
        agreed: Agreed,
        limits: Arc<Limits>,
        config: &ApiConfig,
    ) -> Self {
        Self {
            store,
            agreed,
            limits,
            max_batch_bytes: config.max_batch_bytes,
            max_blob_bytes: config.max_blob_bytes,
        }
    }

    /// Largest request message of any method.
    pub(crate) fn message_bytes(&self) -> usize {
        let batch = self.max_batch_bytes.saturating_add(BATCH_OVERHEAD_BYTES);
        usize::try_from(batch)
            .unwrap_or(usize::MAX)
            .max(QUESTION_BYTES)
    }

    async fn find_missing(
        self: Arc<Self>,
        question: Question,
    ) -> Result<tonic::Response<Missing>, Status> {
        arguments::instance(&question.instance)?;
        arguments::function(question.function)?;
        let digests = question.digests;
        let missing = self
            .store
            .find_missing(&digests, self.agreed.lease())
            .await
            .map_err(|error| status::of(&error))?;
        let answer = Missing(
            missing
                .into_iter()
                .filter_map(|index| digests.get(index as usize).copied())
                .collect(),
        );
        let room = self.limits.answers.room(answer.bytes()).await?;
        Ok(with_room(answer, room))
    }
}

/// Compressors are not offered, so a client that names one made a mistake.
fn check_compressor(value: i32) -> Result<(), Status> {
    if value == compressor::Value::Identity as i32 {
        return Ok(());
    }
    Err(Status::invalid_argument(format!(
        "compressor {value} is not offered; send the bytes as they are"
    )))
}

impl NamedService for CasService {
    const NAME: &'static str = SERVICE_NAME;
}

impl Service<Request<Body>> for CasService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Answer {
        let cas = self.0.clone();
        let limit = cas.message_bytes();
        match method_of(&request) {
            "FindMissingBlobs" => method::unary(FindMissingCodec, limit, request, |question| {
                let span = tracing::debug_span!("find_missing_blobs",
                    instance = %question.instance, digests = question.digests.len());
                cas.find_missing(question).instrument(span)
            }),
            "BatchUpdateBlobs" => {
                method::unary(Capped::new(BATCH_BLOBS), limit, request, |batch| {
                    let batch: weir_proto::reapi::BatchUpdateBlobsRequest = batch;
                    let span = tracing::debug_span!("batch_update_blobs",
                        instance = %batch.instance_name, blobs = batch.requests.len());
                    cas.batch_update(batch).instrument(span)
                })
            }
            "BatchReadBlobs" => method::unary(Capped::new(BATCH_BLOBS), limit, request, |batch| {
                let batch: weir_proto::reapi::BatchReadBlobsRequest = batch;
                let span = tracing::debug_span!("batch_read_blobs",
                        instance = %batch.instance_name, blobs = batch.digests.len());
                cas.batch_read(batch).instrument(span)
            }),
            "GetTree" => tree::serve(cas.store.clone(), cas.limits.clone(), limit, request),
            _ => method::unknown(&request),
        }
    }
}

/// The last segment of the path.
pub(crate) fn method_of(request: &Request<Body>) -> &str {
    let path = request.uri().path();
    path.rsplit_once('/').map_or(path, |(_, method)| method)
}
