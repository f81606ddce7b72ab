//! What a client asks of a node, in a line each.

use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Runtime;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};
use weir_cluster::Digest;
use weir_proto::{
    asset::{
        FetchBlobRequest, PushBlobRequest, fetch_client::FetchClient, push_client::PushClient,
    },
    reapi::{
        BatchReadBlobsRequest, BatchUpdateBlobsRequest, Digest as WireDigest,
        batch_update_blobs_request::Request,
        content_addressable_storage_client::ContentAddressableStorageClient,
    },
};

/// Longest call; a ref call may wait for an election.
const CALL_LIMIT: Duration = Duration::from_secs(20);

/// A client of one node.
pub(crate) struct Client {
    runtime: Runtime,
    channel: Channel,
}

impl Client {
    pub(crate) fn new(url: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let endpoint = Endpoint::from_shared(url.to_owned()).unwrap();
        let channel = {
            let _inside = runtime.enter();
            endpoint.timeout(CALL_LIMIT).connect_lazy()
        };
        Self { runtime, channel }
    }

    fn cas(&self) -> ContentAddressableStorageClient<Channel> {
        ContentAddressableStorageClient::new(self.channel.clone())
            .max_decoding_message_size(8 << 20)
    }

    /// Uploads one blob of at most 3 MiB.
    pub(crate) fn upload(&self, data: Bytes) -> Result<Digest, Status> {
        let digest = Digest::of(&data);
        let request = BatchUpdateBlobsRequest {
            requests: vec![Request {
                digest: Some(wire(digest)),
                data,
                ..Default::default()
            }],
            ..Default::default()
        };
        let answer = self
            .runtime
            .block_on(self.cas().batch_update_blobs(request));
        for answer in answer?.into_inner().responses {
            told(answer.status.unwrap_or_default())?;
        }
        Ok(digest)
    }

    /// The bytes of one blob, which are its own.
    pub(crate) fn read(&self, digest: Digest) -> Result<Bytes, Status> {
        let request = BatchReadBlobsRequest {
            digests: vec![wire(digest)],
            ..Default::default()
        };
        let answer = self.runtime.block_on(self.cas().batch_read_blobs(request));
        let mut answers = answer?.into_inner().responses;
        let answer = answers.pop().expect("one answer for one digest");
        told(answer.status.unwrap_or_default())?;
        assert_eq!(Digest::of(&answer.data), digest, "wrong bytes");
        Ok(answer.data)
    }

    pub(crate) fn push(&self, uri: &str, digest: Digest) -> Result<(), Status> {
        let request = PushBlobRequest {
            uris: vec![uri.to_owned()],
            blob_digest: Some(wire(digest)),
            ..Default::default()
        };
        let mut push = PushClient::new(self.channel.clone());
        self.runtime.block_on(push.push_blob(request)).map(drop)
    }

    /// The hash of what a ref names; the code NOT_FOUND when there is none.
    pub(crate) fn fetch(&self, uri: &str) -> Result<String, Status> {
        let request = FetchBlobRequest {
            uris: vec![uri.to_owned()],
            ..Default::default()
        };
        let mut fetch = FetchClient::new(self.channel.clone());
        let answer = self
            .runtime
            .block_on(fetch.fetch_blob(request))?
            .into_inner();
        told(answer.status.unwrap_or_default())?;
        Ok(answer.blob_digest.unwrap_or_default().hash)
    }
}

fn wire(digest: Digest) -> WireDigest {
    WireDigest {
        hash: digest.hash_hex(),
        size_bytes: digest.size as i64,
    }
}

fn told(status: weir_proto::rpc::Status) -> Result<(), Status> {
    match Code::from(status.code) {
        Code::Ok => Ok(()),
        code => Err(Status::new(code, status.message)),
    }
}
