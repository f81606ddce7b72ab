//! A cluster in memory that can be told to lie, to show that workloads and
//! oracles notice. Three nodes on real ports, one state behind them.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use tokio_stream::{Stream, wrappers::TcpListenerStream};
use tonic::{Request, Response, Status, Streaming, transport::Server};
use weir_proto::{
    asset::{
        FetchBlobRequest, FetchBlobResponse, FetchDirectoryRequest, FetchDirectoryResponse,
        PushBlobRequest, PushBlobResponse, PushDirectoryRequest, PushDirectoryResponse,
        fetch_server, push_server,
    },
    bytestream::{
        QueryWriteStatusRequest, QueryWriteStatusResponse, ReadRequest, ReadResponse, WriteRequest,
        WriteResponse, byte_stream_server,
    },
    reapi::{
        self, BatchReadBlobsRequest, BatchReadBlobsResponse, BatchUpdateBlobsRequest,
        BatchUpdateBlobsResponse, FindMissingBlobsRequest, FindMissingBlobsResponse,
        GetTreeRequest, GetTreeResponse, batch_read_blobs_response, batch_update_blobs_response,
        content_addressable_storage_server as cas_server,
    },
    rpc,
};

use super::{content::Name, tools::lock};

/// What is not as it should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lie {
    /// Nothing.
    None,
    /// Some calls happen and are answered UNAVAILABLE, which is no lie.
    Unsure,
    /// Digests are not checked.
    TakesForgeries,
    /// Some blobs come back with one byte changed.
    WrongByte,
    /// Parts of blobs begin a byte late.
    WrongPart,
    /// Some uploads are acknowledged and not kept.
    Forgets,
    /// Everything is said to be present.
    AllPresent,
    /// Cut uploads are kept as if they were whole.
    KeepsCuts,
    /// Another node than the one that took the push knows the value before.
    OldRefs,
    /// Some pushes change only the first of their URIs.
    TornUris,
    /// Some fetches miss what is there.
    Misses,
    /// Some pushes are refused, and happen.
    HappensAnyway,
    /// Refs name the blob of some other push.
    MixesUp,
}

#[derive(Default)]
struct State {
    blobs: HashMap<Name, Bytes>,
    parked: HashMap<String, Vec<u8>>,
    /// Value, the one before, and the node that took the last push.
    refs: HashMap<String, (Name, Option<Name>, usize)>,
    last_pushed: Option<Name>,
    calls: u64,
}

#[derive(Clone)]
struct Liar {
    lie: Lie,
    node: usize,
    state: Arc<Mutex<State>>,
}

/// Nodes that run until this is dropped.
pub(super) struct Liars {
    pub(super) urls: Vec<String>,
    _runtime: tokio::runtime::Runtime,
}

impl Liars {
    pub(super) fn start(lie: Lie) -> Liars {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let mut urls = Vec::new();
        for node in 0..3 {
            let liar = Liar {
                lie,
                node,
                state: state.clone(),
            };
            let listener = runtime
                .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
                .unwrap();
            urls.push(format!("http://{}", listener.local_addr().unwrap()));
            let served = Server::builder()
                .add_service(cas_server::ContentAddressableStorageServer::new(
                    liar.clone(),
                ))
                .add_service(byte_stream_server::ByteStreamServer::new(liar.clone()))
                .add_service(fetch_server::FetchServer::new(liar.clone()))
                .add_service(push_server::PushServer::new(liar))
                .serve_with_incoming(TcpListenerStream::new(listener));
            runtime.spawn(served);
        }
        Liars {
            urls,
            _runtime: runtime,
        }
    }
}

impl Liar {
    /// True for the given lie, now and then.
    fn now_and_then(&self, lie: Lie, state: &mut State) -> bool {
        state.calls += 1;
        self.lie == lie && state.calls.is_multiple_of(7)
    }

    fn store(&self, state: &mut State, name: Name, data: Bytes) -> Result<(), Status> {
        if Name::of(&data) != name && self.lie != Lie::TakesForgeries {
            return Err(Status::invalid_argument("other bytes"));
        }
        if !self.now_and_then(Lie::Forgets, state) {
            state.blobs.insert(name, data);
        }
        if self.now_and_then(Lie::Unsure, state) {
            return Err(Status::unavailable("unsure"));
        }
        Ok(())
    }

    fn load(&self, state: &mut State, name: Name) -> Result<Bytes, Status> {
        let data = match state.blobs.get(&name) {
            Some(data) => data.clone(),
            None if name.size == 0 => Bytes::new(),
            None => return Err(Status::not_found("absent")),
        };
        if !data.is_empty() && self.now_and_then(Lie::WrongByte, state) {
            let mut wrong = data.to_vec();
            wrong[0] ^= 1;
            return Ok(wrong.into());
        }
        Ok(data)
    }
}

fn name_of(digest: Option<&reapi::Digest>) -> Result<Name, Status> {
    digest
        .and_then(Name::from_wire)
        .ok_or_else(|| Status::invalid_argument("no digest"))
}

/// The last two segments of a resource name.
fn named(resource: &str) -> Result<Name, Status> {
    let mut segments = resource.rsplit('/');
    let size = segments.next().and_then(|size| size.parse().ok());
    let hash = segments.next();
    hash.zip(size)
        .and_then(|(hash, size)| Name::parse(hash, size))
        .ok_or_else(|| Status::invalid_argument("no resource"))
}

fn told(outcome: &Result<(), Status>) -> Option<rpc::Status> {
    Some(match outcome {
        Ok(()) => rpc::Status::default(),
        Err(status) => rpc::Status {
            code: status.code() as i32,
            message: status.message().into(),
            details: Vec::new(),
        },
    })
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl cas_server::ContentAddressableStorage for Liar {
    async fn find_missing_blobs(
        &self,
        request: Request<FindMissingBlobsRequest>,
    ) -> Result<Response<FindMissingBlobsResponse>, Status> {
        let state = lock(&self.state);
        let mut missing = request.into_inner().blob_digests;
        missing.retain(|digest| {
            let name = name_of(Some(digest)).unwrap();
            let there = name.size == 0 || state.blobs.contains_key(&name);
            self.lie != Lie::AllPresent && !there
        });
        Ok(Response::new(FindMissingBlobsResponse {
            missing_blob_digests: missing,
        }))
    }

    async fn batch_update_blobs(
        &self,
        request: Request<BatchUpdateBlobsRequest>,
    ) -> Result<Response<BatchUpdateBlobsResponse>, Status> {
        let mut state = lock(&self.state);
        let mut responses = Vec::new();
        for blob in request.into_inner().requests {
            let name = name_of(blob.digest.as_ref())?;
            let outcome = self.store(&mut state, name, blob.data);
            responses.push(batch_update_blobs_response::Response {
                digest: blob.digest,
                status: told(&outcome),
            });
        }
        Ok(Response::new(BatchUpdateBlobsResponse { responses }))
    }

    async fn batch_read_blobs(
        &self,
        request: Request<BatchReadBlobsRequest>,
    ) -> Result<Response<BatchReadBlobsResponse>, Status> {
        let mut state = lock(&self.state);
        let mut responses = Vec::new();
        for digest in request.into_inner().digests {
            let loaded = self.load(&mut state, name_of(Some(&digest))?);
            responses.push(batch_read_blobs_response::Response {
                digest: Some(digest),
                status: told(&loaded.as_ref().map(drop).map_err(Clone::clone)),
                data: loaded.unwrap_or_default(),
                ..Default::default()
            });
        }
        Ok(Response::new(BatchReadBlobsResponse { responses }))
    }

    type GetTreeStream = Answers<GetTreeResponse>;

    async fn get_tree(
        &self,
        _: Request<GetTreeRequest>,
    ) -> Result<Response<Self::GetTreeStream>, Status> {
        Err(Status::unimplemented("not asked"))
    }
}

#[tonic::async_trait]
impl byte_stream_server::ByteStream for Liar {
    type ReadStream = Answers<ReadResponse>;

    async fn read(
        &self,
        request: Request<ReadRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let request = request.into_inner();
        let data = self.load(&mut lock(&self.state), named(&request.resource_name)?)?;
        let late = usize::from(self.lie == Lie::WrongPart && request.read_limit > 0);
        let from = (request.read_offset as usize + late).min(data.len());
        let to = match request.read_limit as usize {
            0 => data.len(),
            limit => (from + limit).min(data.len()),
        };
        let parts: Vec<_> = data[from..to]
            .chunks(1 << 20)
            .map(|part| {
                Ok(ReadResponse {
                    data: Bytes::copy_from_slice(part),
                })
            })
            .collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(parts))))
    }

    async fn write(
        &self,
        request: Request<Streaming<WriteRequest>>,
    ) -> Result<Response<WriteResponse>, Status> {
        let mut messages = request.into_inner();
        let mut upload = String::new();
        while let Some(message) = messages.message().await? {
            let mut state = lock(&self.state);
            if upload.is_empty() {
                upload = message.resource_name;
                let parked = state.parked.entry(upload.clone()).or_default();
                parked.truncate(message.write_offset as usize);
                if parked.len() != message.write_offset as usize {
                    return Err(Status::invalid_argument("offset"));
                }
            }
            let parked = state.parked.entry(upload.clone()).or_default();
            parked.extend_from_slice(&message.data);
            let name = named(&upload)?;
            if message.finish_write {
                let data = state.parked.remove(&upload).unwrap_or_default();
                self.store(&mut state, name, data.into())?;
                let committed_size = name.size as i64;
                return Ok(Response::new(WriteResponse { committed_size }));
            }
            if self.lie == Lie::KeepsCuts {
                let data = parked.clone();
                state.blobs.insert(name, data.into());
            }
        }
        Err(Status::invalid_argument("not finished"))
    }

    async fn query_write_status(
        &self,
        request: Request<QueryWriteStatusRequest>,
    ) -> Result<Response<QueryWriteStatusResponse>, Status> {
        let state = lock(&self.state);
        let parked = state.parked.get(&request.into_inner().resource_name);
        Ok(Response::new(QueryWriteStatusResponse {
            committed_size: parked.map_or(0, Vec::len) as i64,
            complete: false,
        }))
    }
}

#[tonic::async_trait]
impl fetch_server::Fetch for Liar {
    async fn fetch_blob(
        &self,
        request: Request<FetchBlobRequest>,
    ) -> Result<Response<FetchBlobResponse>, Status> {
        let mut state = lock(&self.state);
        if self.now_and_then(Lie::Misses, &mut state) {
            return Err(Status::not_found("a lie"));
        }
        for uri in request.into_inner().uris {
            let Some((name, before, node)) = state.refs.get(&uri).copied() else {
                continue;
            };
            let is_old = self.lie == Lie::OldRefs && node != self.node;
            let name = before.filter(|_| is_old).unwrap_or(name);
            return Ok(Response::new(FetchBlobResponse {
                uri,
                blob_digest: Some(name.to_wire()),
                ..Default::default()
            }));
        }
        Err(Status::not_found("absent"))
    }

    async fn fetch_directory(
        &self,
        _: Request<FetchDirectoryRequest>,
    ) -> Result<Response<FetchDirectoryResponse>, Status> {
        Err(Status::unimplemented("not asked"))
    }
}

#[tonic::async_trait]
impl push_server::Push for Liar {
    async fn push_blob(
        &self,
        request: Request<PushBlobRequest>,
    ) -> Result<Response<PushBlobResponse>, Status> {
        let mut state = lock(&self.state);
        let request = request.into_inner();
        let mut name = name_of(request.blob_digest.as_ref())?;
        if !state.blobs.contains_key(&name) && self.lie != Lie::Forgets {
            return Err(Status::not_found("its blob is absent"));
        }
        let told = name;
        if self.now_and_then(Lie::MixesUp, &mut state) {
            name = state.last_pushed.unwrap_or(name);
        }
        state.last_pushed = Some(told);
        let torn = self.now_and_then(Lie::TornUris, &mut state);
        let count = if torn { 1 } else { request.uris.len() };
        for uri in request.uris.into_iter().take(count) {
            let before = state.refs.get(&uri).map(|(name, ..)| *name);
            state.refs.insert(uri, (name, before, self.node));
        }
        if self.now_and_then(Lie::HappensAnyway, &mut state) {
            return Err(Status::resource_exhausted("a lie"));
        }
        if self.now_and_then(Lie::Unsure, &mut state) {
            return Err(Status::unavailable("unsure"));
        }
        Ok(Response::new(PushBlobResponse {}))
    }

    async fn push_directory(
        &self,
        _: Request<PushDirectoryRequest>,
    ) -> Result<Response<PushDirectoryResponse>, Status> {
        Err(Status::unimplemented("not asked"))
    }
}
