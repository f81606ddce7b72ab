//! `build.bazel.remote.asset.v1.Fetch`.
//!
//! Only what was pushed is found; nothing is fetched from its origin. A miss is
//! NOT_FOUND and nothing else: clients give up on any other code.

use tonic::{Request, Response, Status};
use tracing::Instrument;
use weir_cluster::state::RefKind;
use weir_proto::{
    asset::{
        FetchBlobRequest, FetchBlobResponse, FetchDirectoryRequest, FetchDirectoryResponse,
        Qualifier, fetch_server,
    },
    reapi::digest_function,
    rpc,
};

use super::{keys, seconds};
use crate::api::{
    arguments,
    refs::{Hit, RefFinder},
};

/// The Fetch service.
pub(crate) struct Fetch {
    finder: RefFinder,
}

impl Fetch {
    pub(crate) fn new(finder: RefFinder) -> Self {
        Self { finder }
    }

    async fn find(
        &self,
        kind: RefKind,
        instance: &str,
        uris: &[String],
        qualifiers: &[Qualifier],
        oldest: Option<&prost_types::Timestamp>,
        function: i32,
    ) -> Result<Hit, Status> {
        let keys = keys(kind, instance, uris, qualifiers)?;
        arguments::function(function)?;
        let oldest = oldest.map(|time| seconds(time, "oldest_content_accepted"));
        let span = tracing::debug_span!("fetch", ?kind, instance);
        let hit = self
            .finder
            .find(&keys, oldest.transpose()?)
            .instrument(span)
            .await?;
        hit.ok_or_else(|| Status::not_found("no asset under these URIs and qualifiers"))
    }
}

fn timestamp(seconds: u64) -> Option<prost_types::Timestamp> {
    let seconds = i64::try_from(seconds).ok()?;
    Some(prost_types::Timestamp { seconds, nanos: 0 })
}

#[tonic::async_trait]
impl fetch_server::Fetch for Fetch {
    async fn fetch_blob(
        &self,
        request: Request<FetchBlobRequest>,
    ) -> Result<Response<FetchBlobResponse>, Status> {
        let FetchBlobRequest {
            instance_name,
            oldest_content_accepted: oldest,
            mut uris,
            qualifiers,
            digest_function: function,
            ..
        } = request.into_inner();
        let hit = self
            .find(
                RefKind::Blob,
                &instance_name,
                &uris,
                &qualifiers,
                oldest.as_ref(),
                function,
            )
            .await?;
        Ok(Response::new(FetchBlobResponse {
            status: Some(rpc::Status::default()),
            uri: uris.swap_remove(hit.index),
            qualifiers,
            expires_at: timestamp(hit.expires_at),
            blob_digest: Some(arguments::to_wire(hit.value.digest)),
            digest_function: digest_function::Value::Sha256 as i32,
        }))
    }

    async fn fetch_directory(
        &self,
        request: Request<FetchDirectoryRequest>,
    ) -> Result<Response<FetchDirectoryResponse>, Status> {
        let FetchDirectoryRequest {
            instance_name,
            oldest_content_accepted: oldest,
            mut uris,
            qualifiers,
            digest_function: function,
            ..
        } = request.into_inner();
        let kind = RefKind::Directory;
        let hit = self
            .find(
                kind,
                &instance_name,
                &uris,
                &qualifiers,
                oldest.as_ref(),
                function,
            )
            .await?;
        Ok(Response::new(FetchDirectoryResponse {
            status: Some(rpc::Status::default()),
            uri: uris.swap_remove(hit.index),
            qualifiers,
            expires_at: timestamp(hit.expires_at),
            root_directory_digest: Some(arguments::to_wire(hit.value.digest)),
            digest_function: digest_function::Value::Sha256 as i32,
        }))
    }
}
