//! `google.bytestream.ByteStream`: one blob a call, of any size.
//!
//! [`cursor`] is the protocol of an upload, [`parked`] the uploads whose client
//! vanished, [`write`] and [`read`] the calls.

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
use weir_proto::bytestream::{
    QueryWriteStatusRequest, QueryWriteStatusResponse, byte_stream_server::SERVICE_NAME,
};

use self::parked::Parked;
use super::{
    ApiConfig,
    agreed::Agreed,
    cas::method_of,
    guard::Limits,
    method::{self, Answer, Capped},
    resource_name::{self, NameError},
    status,
};

mod cursor;
mod parked;
mod read;
mod write;

/// Largest message. Clients send 1 or 2 MiB of data in one, the usual limit of
/// gRPC is 4 MiB, and some fill exactly that with data: leave room for the rest.
pub(crate) const MESSAGE_BYTES: usize = (4 << 20) + (16 << 10);

/// The ByteStream service. Cheap to clone, as it is for each call.
#[derive(Clone)]
pub(crate) struct ByteStreamService(pub(crate) Arc<ByteStream>);

/// What the methods work over.
pub(crate) struct ByteStream {
    store: Arc<dyn BlobStore>,
    agreed: Agreed,
    limits: Arc<Limits>,
    parked: Arc<Parked>,
    max_blob_bytes: u64,
    drain_bytes: u64,
}

impl ByteStream {
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
            parked: Parked::new(config),
            max_blob_bytes: config.max_blob_bytes,
            drain_bytes: config.drain_bytes,
        }
    }

    /// How far an upload is. Never NOT_FOUND for a valid name: clients break on
    /// it. An upload that another call is receiving right now counts as not
    /// begun, since it cannot be continued; starting over is always right.
    async fn query(
        self: Arc<Self>,
        query: QueryWriteStatusRequest,
    ) -> Result<tonic::Response<QueryWriteStatusResponse>, Status> {
        let name = resource_name::upload(&query.resource_name)?;
        let digest = name.digest;
        let missing = self
            .store
            .find_missing(&[digest], self.agreed.lease())
            .await
            .map_err(|error| status::of(&error))?;
        let (size, complete) = if missing.is_empty() {
            (digest.size, true)
        } else {
            (self.parked.offset(&query.resource_name), false)
        };
        Ok(tonic::Response::new(QueryWriteStatusResponse {
            committed_size: i64::try_from(size).unwrap_or(i64::MAX),
            complete,
        }))
    }
}

impl From<NameError> for Status {
    fn from(error: NameError) -> Self {
        Self::invalid_argument(error.to_string())
    }
}

impl NamedService for ByteStreamService {
    const NAME: &'static str = SERVICE_NAME;
}

impl Service<Request<Body>> for ByteStreamService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Answer {
        let service = self.0.clone();
        match method_of(&request) {
            "Read" => read::serve(service.store.clone(), service.limits.clone(), request),
            "Write" => write::serve(service, request),
            "QueryWriteStatus" => method::unary(Capped::new(8), MESSAGE_BYTES, request, |query| {
                let span = tracing::debug_span!("query_write_status");
                service.query(query).instrument(span)
            }),
            _ => method::unknown(&request),
        }
    }
}
