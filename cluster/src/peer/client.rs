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
use tonic::{Request, Status};
use weir_proto::cluster::{
    FindMissingRequest, GetBatchRequest, GetRequest, ListRequest, OfferRequest, PutBatchRequest,
    PutRequest, PutResponse, ReportRequest, ScrubRequest, SummariesRequest,
    peer_client::PeerClient, put_request,
};

pub use super::dial::{Dial, endpoint, plain};

use super::{
    Peers, Report,
    dial::Channel,
    identity::{Removal, misled, stamp},
    link::{Connection, Link},
    repair_wire::{
        pack_held, report_of, unpack_held, unpack_summaries, unpack_verdicts, version_message,
        version_of,
    },
    upload::{COMMIT_DEADLINE, GrpcUpload, cut_short, next_of, within},
    wire::{MAX_MESSAGE_BYTES, error_of, item_error, space},
};
use crate::{
    Digest, Epoch, Error, NodeId, Slot,
    blob::{BlobStream, ByteRange, Held, Lease, Put, Summaries, Verdict, Verified, Version},
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
    me: NodeId,
    state: watch::Receiver<Arc<ClusterState>>,
    dial: Dial,
    removal: Removal,
    // A std mutex: held for map operations only, never across an await.
    links: Arc<Mutex<HashMap<NodeId, Arc<Link>>>>,
}

impl GrpcPeers {
    /// Peers of node `me` in the cluster whose agreed state this is.
    #[must_use]
    pub fn new(me: NodeId, state: watch::Receiver<Arc<ClusterState>>, dial: Dial) -> Self {
        Self {
            me,
            state,
            dial,
            removal: Removal::default(),
            links: Arc::default(),
        }
    }

    /// Tells `removal` when a peer says that this node was removed.
    #[must_use]
    pub fn listening(self, removal: Removal) -> Self {
        Self { removal, ..self }
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
            stamp(&mut request, cluster, self.me, to);
            let answer = send(client(&connection), request).await;
            match answer {
                Ok(answer) => Ok(answer.into_inner()),
                Err(status) => {
                    self.removal.listen(&status);
                    let error = error_of(to, &status);
                    if misled(&status) {
                        link.misled(&connection, status.message()).await;
                    } else if let Error::Unreachable { .. } = error {
                        link.forget(&connection).await;
                    }
                    Err(error)
                }
            }
        };
        within(to, deadline, called).await
    }

    /// The bytes of one blob.
    async fn stream(&self, to: NodeId, message: GetRequest) -> Result<BlobStream, Error> {
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

    /// Whole blobs, one answer for each.
    async fn batch(
        &self,
        to: NodeId,
        digests: &[Digest],
        repair: bool,
    ) -> Result<Vec<Result<Bytes, Error>>, Error> {
        let message = GetBatchRequest {
            space: space(),
            digests: pack(digests).into(),
            repair,
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
            repair: false,
        };
        self.stream(to, message).await
    }

    async fn get_batch(
        &self,
        to: NodeId,
        digests: &[Digest],
    ) -> Result<Vec<Result<Bytes, Error>>, Error> {
        self.batch(to, digests, false).await
    }

    async fn put(&self, to: NodeId, epoch: Epoch, digest: Digest) -> Result<Put, Error> {
        let (messages, queue) = mpsc::channel(CHUNKS_AHEAD);
        let start = PutRequest {
            start: Some(put_request::Start {
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
        Ok(report_of(answer))
    }

    async fn summaries(
        &self,
        to: NodeId,
        epoch: Epoch,
        known: Option<Version>,
    ) -> Result<Option<Summaries>, Error> {
        let message = SummariesRequest {
            space: space(),
            epoch: epoch.0,
            known: known.map(version_message),
        };
        let answer = self
            .call(
                to,
                QUICK_DEADLINE,
                message,
                |mut client, request| async move { client.summaries(request).await },
            )
            .await?;
        if answer.unchanged {
            return Ok(None);
        }
        let version = answer.version.as_ref().map(version_of).unwrap_or_default();
        unpack_summaries(version, &answer.slots).map(Some)
    }

    async fn list(&self, to: NodeId, epoch: Epoch, slots: &[Slot]) -> Result<Vec<Held>, Error> {
        let message = ListRequest {
            space: space(),
            epoch: epoch.0,
            slots: slots.iter().map(|slot| slot.index() as u32).collect(),
        };
        let mut pages = self
            .call(
                to,
                READ_DEADLINE,
                message,
                |mut client, request| async move { client.list(request).await },
            )
            .await?;
        let mut blobs = Vec::new();
        while let Some(page) = within(to, READ_DEADLINE, next_of(to, &mut pages)).await? {
            blobs.append(&mut unpack_held(&page.held)?);
        }
        Ok(blobs)
    }

    async fn offer(
        &self,
        to: NodeId,
        epoch: Epoch,
        from: NodeId,
        blobs: &[Held],
    ) -> Result<Vec<Verdict>, Error> {
        let message = OfferRequest {
            space: space(),
            epoch: epoch.0,
            from: from.0,
            held: pack_held(blobs),
        };
        let answer = self
            .call(
                to,
                QUICK_DEADLINE,
                message,
                |mut client, request| async move { client.offer(request).await },
            )
            .await?;
        let verdicts = unpack_verdicts(&answer.verdicts)?;
        if verdicts.len() != blobs.len() {
            return Err(miscounted(to, verdicts.len(), blobs.len()));
        }
        Ok(verdicts)
    }

    async fn read(&self, to: NodeId, digest: Digest) -> Result<BlobStream, Error> {
        let message = GetRequest {
            space: space(),
            digest: pack(&[digest]).into(),
            offset: 0,
            length: digest.size,
            repair: true,
        };
        self.stream(to, message).await
    }

    async fn read_batch(
        &self,
        to: NodeId,
        digests: &[Digest],
    ) -> Result<Vec<Result<Bytes, Error>>, Error> {
        self.batch(to, digests, true).await
    }

    async fn scrub(&self, to: NodeId) -> Result<(), Error> {
        self.call(
            to,
            QUICK_DEADLINE,
            ScrubRequest {},
            |mut client, request| async move { client.scrub(request).await },
        )
        .await
        .map(drop)
    }
}

fn miscounted(node: NodeId, got: usize, asked: usize) -> Error {
    Error::Internal(format!(
        "node {node} gave {got} answers to {asked} questions"
    ))
}
