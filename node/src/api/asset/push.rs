//! `build.bazel.remote.asset.v1.Push`.

use tonic::{Request, Response, Status};
use tracing::Instrument;
use weir_cluster::{Digest, state::RefKind};
use weir_proto::{
    asset::{
        PushBlobRequest, PushBlobResponse, PushDirectoryRequest, PushDirectoryResponse, push_server,
    },
    reapi,
};

use super::{keys, seconds};
use crate::api::{
    arguments,
    gather::{Roots, Target},
    publish::Publisher,
};

/// References in one push. More do not fit into the largest request anyway;
/// trees are named by their root.
const REFERENCES: usize = 100_000;

/// The Push service.
pub(crate) struct Push {
    publisher: Publisher,
}

impl Push {
    pub(crate) fn new(publisher: Publisher) -> Self {
        Self { publisher }
    }
}

#[tonic::async_trait]
impl push_server::Push for Push {
    async fn push_blob(
        &self,
        request: Request<PushBlobRequest>,
    ) -> Result<Response<PushBlobResponse>, Status> {
        let push = request.into_inner();
        let keys = keys(
            RefKind::Blob,
            &push.instance_name,
            &push.uris,
            &push.qualifiers,
        )?;
        arguments::function(push.digest_function)?;
        let digest = arguments::required(push.blob_digest.as_ref(), "blob_digest")?;
        let roots = roots(&push.references_blobs, &push.references_directories)?;
        let expire_at = push.expire_at.map(|time| seconds(&time, "expire_at"));
        let span = tracing::debug_span!("push_blob",
            instance = %push.instance_name, size = digest.size);
        self.publisher
            .publish(keys, Target::Blob(digest), &roots, expire_at.transpose()?)
            .instrument(span)
            .await?;
        Ok(Response::new(PushBlobResponse {}))
    }

    async fn push_directory(
        &self,
        request: Request<PushDirectoryRequest>,
    ) -> Result<Response<PushDirectoryResponse>, Status> {
        let push = request.into_inner();
        let keys = keys(
            RefKind::Directory,
            &push.instance_name,
            &push.uris,
            &push.qualifiers,
        )?;
        arguments::function(push.digest_function)?;
        let digest = push.root_directory_digest.as_ref();
        let digest = arguments::required(digest, "root_directory_digest")?;
        let roots = roots(&push.references_blobs, &push.references_directories)?;
        let expire_at = push.expire_at.map(|time| seconds(&time, "expire_at"));
        let span = tracing::debug_span!("push_directory",
            instance = %push.instance_name, size = digest.size);
        self.publisher
            .publish(
                keys,
                Target::Directory(digest),
                &roots,
                expire_at.transpose()?,
            )
            .instrument(span)
            .await?;
        Ok(Response::new(PushDirectoryResponse {}))
    }
}

fn roots(blobs: &[reapi::Digest], directories: &[reapi::Digest]) -> Result<Roots, Status> {
    if blobs.len() + directories.len() > REFERENCES {
        return Err(Status::invalid_argument(format!(
            "more than {REFERENCES} references"
        )));
    }
    Ok(Roots {
        blobs: checked(blobs)?,
        directories: checked(directories)?,
    })
}

fn checked(digests: &[reapi::Digest]) -> Result<Vec<Digest>, Status> {
    digests.iter().map(arguments::digest).collect()
}
