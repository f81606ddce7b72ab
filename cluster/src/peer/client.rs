//! [`Peers`] over gRPC.
//!
//! Invariants: every call names the cluster and the node it means; every call
//! is bounded in time; a peer's own errors come back as they were, and whatever
//! else goes wrong is [`Error::Unreachable`].

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, transport::Channel};
use weir_proto::cluster::{
    FindMissingRequest, GetBatchRequest, GetRequest, PutBatchRequest, PutRequest, PutResponse,
    ReportRequest, peer_client::PeerClient, put_request::Start,
};

pub use super::dial::{Dial, endpoint, plain};

use super::{
    Peers, Report,
    identity::stamp,
    link::{Connection, Link},
    upload::{COMMIT_DEADLINE, GrpcUpload, cut_short, next_of, within},
    wire::{MAX_MESSAGE_BYTES, error_of, item_error, space},
};
use crate::{
    Digest, Epoch, Error, NodeId,
    blob::{BlobStream, ByteRange, Lease, Put, Verified},
    state::ClusterState,
    words::digest::pack,
};

/// How long an answer from memory may take.
const QUICK_DEADLINE: Duration = Duration::from_secs(2);
/// How long reading may take to the first byte, and from chunk to chunk.
const READ_DEADLINE: Duration = Duration::from_secs(5);

/// Chunks of an upload between us and the socket.
const CHUNKS_AHEAD: usize = 4;

/// The other nodes, reached at the addresses that the node table gives.
#[derive(Clone)]
pub struct GrpcPeers {
    state: watch::Receiver<Arc<ClusterState>>,
    dial: Dial,
    // A std mutex: held for map operations only, never across an await.
    links: Arc<Mutex<HashMap<NodeId, Arc<Link>>>>,
}

impl GrpcPeers {
    /// Peers of the cluster whose agreed state this is.
    #[must_use]
    pub fn new(state: watch::Receiver<Arc<ClusterState>>, dial: Dial) -> Self {
        Self {
            state,
            dial,
            links: Arc::default(),
        }
    }

    /// The link to a member at its present address. Links to nodes that left
    /// the table are dropped.
    fn link(&self, node: NodeId) -> Result<Arc<Link>, Error> {
        let state = self.state.borrow();
        let mut links = self.links.lock().expect("no panic while links are locked");
        let Some(member) = state.members.get(&node) else {
            links.remove(&node);
            let cause = "not a member".to_owned();
            return Err(Error::Unreachable { node, cause });
        };
        if let Some(link) = links.get(&node)
            && link.address() == member.peer_address
        {
            return Ok(Arc::clone(link));
        }
        links.retain(|known, _| state.members.contains_key(known));
        let link = Arc::new(Link::new(node, member.peer_address.clone()));
        links.insert(node, Arc::clone(&link));
        Ok(link)
    }

    /// One call on a connection, within a deadline.
    async fn call<M, T, F>(
        &self,
        to: NodeId,
        deadline: Duration,
        message: M,
        send: impl FnOnce(PeerClient<Channel>, Request<M>) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let link = self.link(to)?;
        let cluster = self.state.borrow().cluster;
        let cluster = cluster.ok_or_else(|| Error::Unreachable {
            node: to,
            cause: "the cluster has not begun".into(),
        })?;
        let called = async {
            let connection = link.connection(&self.dial).await?;
            let mut request = Request::new(message);
            stamp(&mut request, cluster, to);
            let answer = send(client(&connection), request).await;
            match answer {
                Ok(answer) => Ok(answer.into_inner()),
                Err(status) => {
                    let error = error_of(to, &status);
                    if let Error::Unreachable { .. } = error {
                        link.forget(&connection).await;
                    }
                    Err(error)
                }
            }
        };
        within(to, deadline, called).await
    }
}

fn client(connection: &Connection) -> PeerClient<Channel> {
    PeerClient::new(connection.channel.clone())
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

#[async_trait]
impl Peers for GrpcPeers {
    async fn find_missing(
        &self,
        to: NodeId,
        epoch: Epoch,
        digests: &[Digest],
        lease: Lease,
    ) -> Result<Vec<u32>, Error> {
        let message = FindMissingRequest {
            space: space(),
            digests: pack(digests).into(),
            epoch: epoch.0,
            lease_seconds: lease.seconds,
        };
        let answer = self
            .call(
                to,
                QUICK_DEADLINE,
                message,
                |mut client, request| async move { client.find_missing(request).await },
            )
            .await?;
        Ok(answer.missing)
    }

    async fn get(&self, to: NodeId, digest: Digest, range: ByteRange) -> Result<BlobStream, Error> {
        let message = GetRequest {
            space: space(),
            digest: pack(&[digest]).into(),
            offset: range.offset,
            length: range.length,
        };
        let answers = self
            .call(
                to,
                READ_DEADLINE,
                message,
                |mut client, request| async move { client.get(request).await },
            )
            .await?;
        let chunks = stream::unfold(Some(answers), move |answers| async move {
            let mut answers = answers?;
            loop {
                match within(to, READ_DEADLINE, next_of(to, &mut answers)).await {
                    Ok(Some(answer)) if answer.data.is_empty() => {}
                    Ok(Some(answer)) => return Some((Ok(answer.data), Some(answers))),
                    Ok(None) => return None,
                    Err(error) => return Some((Err(error), None)),
                }
            }
        });
        Ok(chunks.boxed())
    }

    async fn get_batch(
        &self,
        to: NodeId,
        digests: &[Digest],
    ) -> Result<Vec<Result<Bytes, Error>>, Error> {
        let message = GetBatchRequest {
            space: space(),
            digests: pack(digests).into(),
        };
        let mut answers = self
            .call(
                to,
                READ_DEADLINE,
                message,
                |mut client, request| async move { client.get_batch(request).await },
            )
            .await?;
        let mut blobs = Vec::with_capacity(digests.len());
        while let Some(answer) = within(to, READ_DEADLINE, next_of(to, &mut answers)).await? {
            for item in answer.items {
                let Some(digest) = digests.get(blobs.len()) else {
                    return Err(miscounted(to, blobs.len() + 1, digests.len()));
                };
                blobs.push(match item.code {
                    0 => Ok(item.data),
                    code => Err(item_error(to, *digest, code, item.message)),
                });
            }
        }
        if blobs.len() != digests.len() {
            return Err(miscounted(to, blobs.len(), digests.len()));
        }
        Ok(blobs)
    }

    async fn put(&self, to: NodeId, epoch: Epoch, digest: Digest) -> Result<Put, Error> {
        let (messages, queue) = mpsc::channel(CHUNKS_AHEAD);
        let start = PutRequest {
            start: Some(Start {
                space: space(),
                digest: pack(&[digest]).into(),
                epoch: epoch.0,
            }),
            ..PutRequest::default()
        };
        let ahead = stream::once(std::future::ready(start)).chain(ReceiverStream::new(queue));
        let mut answers = self
            .call(
                to,
                QUICK_DEADLINE,
                ahead,
                |mut client, request| async move { client.put(request).await },
            )
            .await?;
        let first = within(to, QUICK_DEADLINE, next_of(to, &mut answers)).await?;
        match first {
            Some(PutResponse { present: true, .. }) => Ok(Put::Present),
            Some(_) => Ok(Put::Upload(Box::new(GrpcUpload {
                node: to,
                messages,
                answers,
            }))),
            None => Err(cut_short(to)),
        }
    }

    async fn put_batch(
        &self,
        to: NodeId,
        epoch: Epoch,
        blobs: &[Verified],
    ) -> Result<Vec<Result<(), Error>>, Error> {
        let digests: Vec<_> = blobs.iter().map(Verified::digest).collect();
        let message = PutBatchRequest {
            space: space(),
            epoch: epoch.0,
            digests: pack(&digests).into(),
            data: blobs.iter().map(|blob| blob.bytes().clone()).collect(),
        };
        let answer = self
            .call(
                to,
                COMMIT_DEADLINE,
                message,
                |mut client, request| async move { client.put_batch(request).await },
            )
            .await?;
        if answer.items.len() != blobs.len() {
            return Err(miscounted(to, answer.items.len(), blobs.len()));
        }
        let items = answer.items.into_iter().zip(digests);
        Ok(items
            .map(|(item, digest)| match item.code {
                0 => Ok(()),
                code => Err(item_error(to, digest, code, item.message)),
            })
            .collect())
    }

    async fn report(&self, to: NodeId) -> Result<Report, Error> {
        let answer = self
            .call(
                to,
                QUICK_DEADLINE,
                ReportRequest {},
                |mut client, request| async move { client.report(request).await },
            )
            .await?;
        Ok(Report {
            blobs: answer.blobs,
            bytes: answer.bytes,
            capacity_bytes: answer.capacity_bytes,
            volume: answer.volume,
            version: answer.version,
        })
    }
}

fn miscounted(node: NodeId, got: usize, asked: usize) -> Error {
    Error::Internal(format!(
        "node {node} gave {got} answers to {asked} questions"
    ))
}
