//! A server over stores and a consensus in memory, and what tests send to it.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::task::JoinHandle;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint, server::TcpIncoming},
};
use weir_cluster::{
    Digest, Error, NodeId,
    blob::{
        BlobStore, BlobStream, ByteRange, Lease, Put, Upload, Verified, memory_store::MemoryStore,
        put_bytes,
    },
    raft::memory::MemoryConsensus,
    state::{Member, MemberStatus, Settings},
    words::error::Shortfall,
};
use weir_node::api::{self, ApiConfig, ApiParts};
use weir_proto::reapi;

pub(crate) use weir_cluster::blob::conformance::sample;

/// A node's client port.
pub(crate) struct Server {
    pub(crate) channel: Channel,
    pub(crate) store: ProbedStore,
    pub(crate) consensus: Arc<MemoryConsensus>,
    endpoint: Endpoint,
    task: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::with(ApiConfig::default(), Settings::default()).await
    }

    pub(crate) async fn with(config: ApiConfig, settings: Settings) -> Self {
        let member = Member {
            name: "one".into(),
            zone: "a".into(),
            host: "h".into(),
            weight: 1,
            peer_address: "127.0.0.1:1".into(),
            client_address: "127.0.0.1:2".into(),
            admin_address: "127.0.0.1:3".into(),
            status: MemberStatus::Active,
            boot: 0,
        };
        let consensus = MemoryConsensus::founded(settings, vec![(NodeId(1), member)]);
        let consensus = Arc::new(consensus.expect("one member is a cluster"));
        let store = ProbedStore::default();
        let parts = ApiParts {
            store: Arc::new(store.clone()),
            consensus: consensus.clone(),
            config,
        };
        let api = api::services(parts).await.expect("descriptors are whole");
        let address = "127.0.0.1:0".parse().expect("an address");
        let incoming = TcpIncoming::bind(address).expect("a port is free");
        let incoming = incoming.with_nodelay(Some(true));
        let address = incoming.local_addr().expect("it is bound");
        let task = tokio::spawn(async move {
            tonic::transport::Server::builder()
                .add_routes(api.routes)
                .serve_with_incoming(incoming)
                .await
                .expect("the server runs");
        });
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("a good URL");
        let channel = endpoint.connect().await.expect("the server listens");
        Self {
            channel,
            store,
            consensus,
            endpoint,
            task,
        }
    }

    /// Another connection.
    pub(crate) async fn another_channel(&self) -> Channel {
        self.endpoint.connect().await.expect("the server listens")
    }

    /// Puts a blob into the store, past the services.
    pub(crate) async fn put(&self, bytes: impl Into<Bytes>) -> Digest {
        put_bytes(&self.store.inner, bytes.into())
            .await
            .expect("memory has room")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A store that can lose its quorum, and counts.
#[derive(Clone, Default)]
pub(crate) struct ProbedStore {
    pub(crate) inner: MemoryStore,
    quorum_lost: Arc<AtomicBool>,
    questions: Arc<AtomicUsize>,
    live_uploads: Arc<AtomicUsize>,
}

impl ProbedStore {
    pub(crate) fn lose_quorum(&self, lost: bool) {
        self.quorum_lost.store(lost, Ordering::SeqCst);
    }

    /// How often it was asked what is missing.
    pub(crate) fn questions(&self) -> usize {
        self.questions.load(Ordering::SeqCst)
    }

    /// Uploads that are neither finished nor given up.
    pub(crate) fn live_uploads(&self) -> usize {
        self.live_uploads.load(Ordering::SeqCst)
    }

    fn need_quorum(&self, doing: &'static str) -> Result<(), Error> {
        if !self.quorum_lost.load(Ordering::SeqCst) {
            return Ok(());
        }
        Err(Error::NoQuorum(Shortfall {
            doing,
            needed: 2,
            got: 1,
            causes: vec![(NodeId(7), "it is away".into())],
        }))
    }
}

#[async_trait]
impl BlobStore for ProbedStore {
    async fn find_missing(&self, digests: &[Digest], lease: Lease) -> Result<Vec<u32>, Error> {
        self.questions.fetch_add(1, Ordering::SeqCst);
        self.need_quorum("find missing blobs")?;
        self.inner.find_missing(digests, lease).await
    }

    async fn get(&self, digest: Digest, range: ByteRange) -> Result<BlobStream, Error> {
        self.inner.get(digest, range).await
    }

    async fn get_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, Error>> {
        self.inner.get_batch(digests).await
    }

    async fn put(&self, digest: Digest) -> Result<Put, Error> {
        self.need_quorum("write blob")?;
        Ok(match self.inner.put(digest).await? {
            Put::Present => Put::Present,
            Put::Upload(upload) => {
                self.live_uploads.fetch_add(1, Ordering::SeqCst);
                let live = LiveUpload(self.live_uploads.clone());
                Put::Upload(Box::new(ProbedUpload { upload, live }))
            }
        })
    }

    async fn put_batch(&self, blobs: Vec<Verified>) -> Vec<Result<(), Error>> {
        if let Err(error) = self.need_quorum("write blob") {
            return blobs.iter().map(|_| Err(error.clone())).collect();
        }
        self.inner.put_batch(blobs).await
    }
}

struct ProbedUpload {
    upload: Box<dyn Upload>,
    live: LiveUpload,
}

struct LiveUpload(Arc<AtomicUsize>);

impl Drop for LiveUpload {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Upload for ProbedUpload {
    async fn write(&mut self, chunk: Bytes) -> Result<(), Error> {
        self.upload.write(chunk).await
    }

    async fn commit(self: Box<Self>) -> Result<(), Error> {
        let Self { upload, live } = *self;
        let outcome = upload.commit().await;
        drop(live);
        outcome
    }
}

/// Waits until a condition holds; fails after ten seconds.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let poll = async {
        while !holds().await {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(10), poll).await;
    assert!(waited.is_ok(), "waited in vain until {what}");
}

/// The code of a call that must fail.
pub(crate) fn code<T: std::fmt::Debug>(outcome: Result<T, Status>) -> Code {
    let status = outcome.expect_err("must be refused");
    assert!(!status.message().is_empty(), "{status:?} says nothing");
    status.code()
}

pub(crate) fn wire(digest: Digest) -> reapi::Digest {
    reapi::Digest {
        hash: digest.hash_hex(),
        size_bytes: digest.size as i64,
    }
}

/// A Directory message that names files and directories.
pub(crate) fn directory(files: &[Digest], directories: &[Digest]) -> Bytes {
    use prost::Message;
    let file = |(index, digest): (usize, &Digest)| reapi::FileNode {
        name: format!("file{index}"),
        digest: Some(wire(*digest)),
        ..Default::default()
    };
    let node = |(index, digest): (usize, &Digest)| reapi::DirectoryNode {
        name: format!("directory{index}"),
        digest: Some(wire(*digest)),
    };
    let message = reapi::Directory {
        files: files.iter().enumerate().map(file).collect(),
        directories: directories.iter().enumerate().map(node).collect(),
        ..Default::default()
    };
    message.encode_to_vec().into()
}
