//! Raft's messages to other nodes.
//!
//! Over connections of their own, so that bulk traffic never delays a
//! heartbeat. Every message names the cluster and the node it means
//! ([`crate::peer::identity`]); every call is bounded: votes by the time that
//! openraft gives them, entries and snapshots by deadlines of their own. A peer
//! that cannot be reached is reported as unreachable, which openraft backs off
//! from; any other error it would try again at once.
//!
//! Entries go one message at a time (openraft's sequential stream), each with
//! all that waits. A native stream would have to poll for entries before it
//! dials: dialling first retries a dead peer thousands of times a second.

use std::{
    collections::HashMap,
    future::Future,
    io,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use futures::{FutureExt, future::Either};
use openraft::{
    RaftNetworkFactory, RaftNetworkV2,
    alias::WatchReceiverOf,
    async_runtime::WatchReceiver,
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::RPCOption,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
        VoteRequest, VoteResponse,
    },
};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};
use weir_proto::cluster::{
    Payload as Message, SnapshotChunk, peer_client::PeerClient, raft_client::RaftClient,
};

use super::{
    forms::{ForwardAnswer, ReadIndexAnswer, TransferForm},
    gate::Gate,
    heard::quorum_age,
    snapshot::Snapshots,
    types::{Proposal, RaftNode, Snapshot, SnapshotFile, TypeConfig, Vote},
    wire::{self, Wire},
};
use crate::{
    ClusterId, Error, NodeId,
    blob::CHUNK_BYTES,
    journal::disk::{DiskFile, read_exact_at},
    outside,
    peer::{
        CheckIn, Start, check_in_answer, check_in_message,
        dial::{Channel, Dial},
        identity::{Removal, misled, stamp},
        link::Link,
    },
    state::ClusterState,
};

/// Largest message: a batch of entries, each at most some hundred KiB.
pub(super) const MESSAGE_LIMIT_BYTES: usize = 64 << 20;

/// How long a follower may take for entries: its fsync and the way there and
/// back. openraft gives them three quarters of a heartbeat interval, and what
/// does not fit in that it would send again for ever. It ends heartbeats after
/// an interval itself.
const APPEND_DEADLINE: Duration = Duration::from_secs(5);

/// How long ago a majority answered the leader that sends entries, in
/// milliseconds; [`u64::MAX`] if none ever has.
pub(super) const QUORUM_KEY: &str = "weir-quorum-ms";

/// How long a snapshot may take in all. A million refs are some hundred MiB.
const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(600);

/// Chunks of a snapshot between the file and the socket.
const CHUNKS_AHEAD: usize = 4;

/// Connections to the other nodes. Clones share them.
#[derive(Clone)]
pub(super) struct Network {
    shared: Arc<Shared>,
}

/// What [`Network`] needs to reach the other nodes.
pub(super) struct Nodes {
    pub(super) cluster: ClusterId,
    pub(super) me: NodeId,
    pub(super) state: watch::Receiver<Arc<ClusterState>>,
    pub(super) dial: Dial,
    pub(super) gate: Gate,
    pub(super) removal: Removal,
    pub(super) snapshots: Snapshots,
}

struct Shared {
    nodes: Nodes,
    /// A std mutex: held for map operations only, never across an await.
    links: Mutex<HashMap<u64, Arc<Link>>>,
    /// What Raft says of itself, once it runs.
    metrics: OnceLock<Metrics>,
}

type Metrics = WatchReceiverOf<TypeConfig, openraft::RaftMetrics<TypeConfig>>;

/// Calls to one node.
pub(super) struct Peer {
    network: Network,
    to: u64,
    /// Where it was when it was added; the node table knows better.
    first_address: String,
}

type RpcError = RPCError<TypeConfig>;

impl Network {
    pub(super) fn new(nodes: Nodes) -> Self {
        let shared = Shared {
            nodes,
            links: Mutex::default(),
            metrics: OnceLock::new(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Has a leader's messages say whether a majority follows it.
    pub(super) fn speak_for(&self, metrics: Metrics) {
        // Set once, where Raft is started.
        let _ = self.shared.metrics.set(metrics);
    }

    /// Asks what a node knows of this one, which has just started. The one
    /// message that leaves while the gate is closed.
    pub(super) async fn check_in(
        &self,
        to: NodeId,
        address: &str,
        start: &Start,
        deadline: Duration,
    ) -> Result<CheckIn, Error> {
        let message = check_in_message(self.shared.nodes.me, start);
        let asked = self.send(to.0, address, deadline, message, |channel, request| async {
            PeerClient::new(channel).check_in(request).await
        });
        Ok(check_in_answer(asked.await?))
    }

    /// Sends proposals to the node that is taken for the leader.
    pub(super) async fn forward(
        &self,
        to: u64,
        proposals: &Vec<Proposal>,
        deadline: Duration,
    ) -> Result<ForwardAnswer, Error> {
        self.call(
            to,
            "",
            deadline,
            proposals,
            |mut peer, message| async move { peer.forward(message).await },
        )
        .await
    }

    /// Asks the node that is taken for the leader how far to apply.
    pub(super) async fn read_index(
        &self,
        to: u64,
        deadline: Duration,
    ) -> Result<ReadIndexAnswer, Error> {
        let nothing: Vec<Proposal> = Vec::new();
        self.call(to, "", deadline, &nothing, |mut peer, message| async move {
            peer.read_index(message).await
        })
        .await
    }

    /// The link to a node at its present address.
    fn link(&self, to: u64, first_address: &str) -> Result<Arc<Link>, Error> {
        let node = NodeId(to);
        let state = self.shared.nodes.state.borrow();
        let address = match state.members.get(&node) {
            Some(member) => &member.peer_address,
            None if !first_address.is_empty() => first_address,
            None => {
                let cause = "its address is not known".to_owned();
                return Err(Error::Unreachable { node, cause });
            }
        };
        let mut links = self
            .shared
            .links
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = links.get(&to)
            && link.address() == address
        {
            return Ok(Arc::clone(link));
        }
        let link = Arc::new(Link::new(node, address.to_owned()));
        links.insert(to, Arc::clone(&link));
        Ok(link)
    }

    /// One message and its answer.
    async fn call<M: Wire, A: Wire, F>(
        &self,
        to: u64,
        first_address: &str,
        deadline: Duration,
        message: &M,
        send: impl FnOnce(RaftClient<Channel>, Request<Message>) -> F,
    ) -> Result<A, Error>
    where
        F: Future<Output = Result<Response<Message>, Status>>,
    {
        let data = wire::encode(message).into();
        let answer = self
            .send_raft(to, first_address, deadline, Message { data }, send)
            .await?;
        wire::decode(&answer.data)
    }

    /// One of Raft's messages: it leaves only through an open gate.
    async fn send_raft<M, F>(
        &self,
        to: u64,
        first_address: &str,
        deadline: Duration,
        message: M,
        send: impl FnOnce(RaftClient<Channel>, Request<M>) -> F,
    ) -> Result<Message, Error>
    where
        F: Future<Output = Result<Response<Message>, Status>>,
    {
        let nodes = &self.shared.nodes;
        if !nodes.gate.is_open() {
            let (node, cause) = (nodes.me, Gate::CLOSED.to_owned());
            return Err(Error::Unreachable { node, cause });
        }
        self.send(to, first_address, deadline, message, |channel, request| {
            let client = RaftClient::new(channel)
                .max_decoding_message_size(MESSAGE_LIMIT_BYTES)
                .max_encoding_message_size(MESSAGE_LIMIT_BYTES);
            send(client, request)
        })
        .await
    }

    async fn send<M, A, F>(
        &self,
        to: u64,
        first_address: &str,
        deadline: Duration,
        message: M,
        send: impl FnOnce(Channel, Request<M>) -> F,
    ) -> Result<A, Error>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let node = NodeId(to);
        let nodes = &self.shared.nodes;
        let link = self.link(to, first_address)?;
        let called = async {
            let connection = link.connection(&nodes.dial).await?;
            let mut request = Request::new(message);
            stamp(&mut request, nodes.cluster, nodes.me, node);
            match send(connection.channel.clone(), request).await {
                Ok(answer) => Ok(answer.into_inner()),
                Err(status) => {
                    nodes.removal.listen(&status);
                    if misled(&status) {
                        link.misled(&connection, status.message()).await;
                    } else if status.code() == Code::Unavailable {
                        link.forget(&connection).await;
                    }
                    let cause = status.message().to_owned();
                    Err(Error::Unreachable { node, cause })
                }
            }
        };
        timeout(deadline, called).await.unwrap_or_else(|_| {
            let cause = format!("no answer within {deadline:?}");
            Err(Error::Unreachable { node, cause })
        })
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &RaftNode) -> Peer {
        Peer {
            network: self.clone(),
            to: target,
            first_address: node.peer_address.clone(),
        }
    }
}

impl Peer {
    async fn call<M: Wire, A: Wire, F>(
        &self,
        message: &M,
        deadline: Duration,
        send: impl FnOnce(RaftClient<Channel>, Request<Message>) -> F,
    ) -> Result<A, RpcError>
    where
        F: Future<Output = Result<Response<Message>, Status>>,
    {
        self.network
            .call(self.to, &self.first_address, deadline, message, send)
            .await
            .map_err(rpc_error)
    }
}

fn rpc_error(error: Error) -> RpcError {
    match error {
        Error::Unreachable { .. } => RPCError::Unreachable(Unreachable::new(&error)),
        error => RPCError::Network(NetworkError::new(&error)),
    }
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        let metrics = self.network.shared.metrics.get();
        self.call(&request, APPEND_DEADLINE, |mut peer, mut message| {
            if let Some(metrics) = metrics {
                let age = quorum_age(&metrics.borrow_watched());
                let age_ms = age.map_or(u64::MAX, |age| age.as_millis() as u64);
                message.metadata_mut().insert(QUORUM_KEY, age_ms.into());
            }
            async move { peer.append_entries(message).await }
        })
        .await
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.call(
            &request,
            option.soft_ttl(),
            |mut peer, message| async move { peer.vote(message).await },
        )
        .await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.call(
            &request,
            option.soft_ttl(),
            |mut peer, message| async move { peer.pre_vote(message).await },
        )
        .await
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<openraft::raft::TransferLeaderResponse<TypeConfig>, RpcError> {
        let last = request.last_log_id().copied();
        let form = TransferForm::new(request.from_leader(), *request.to_node_id(), last);
        // An empty answer means that the node took it.
        let taken: Vec<Proposal> = self
            .call(&form, option.soft_ttl(), |mut peer, message| async move {
                peer.transfer_leader(message).await
            })
            .await?;
        debug_assert!(taken.is_empty());
        Ok(Ok(()))
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let (chunks, to_send) = mpsc::channel(CHUNKS_AHEAD);
        let snapshots = self.network.shared.nodes.snapshots.clone();
        let sent = snapshot.snapshot.clone();
        let file = outside::blocking(move || snapshots.open_file(&sent))
            .await
            .map_err(io::Error::other)
            .flatten()
            .map_err(|error| StreamingError::Network(NetworkError::new(&error)))?;
        let head = wire::encode(&SnapshotHead {
            vote,
            meta: snapshot.meta,
        });
        let len = snapshot.snapshot.len;
        // Ends by itself when the receiver is dropped.
        let reading = tokio::spawn(read_chunks(file, len, head, chunks));
        let sending = self.network.send_raft(
            self.to,
            &self.first_address,
            SNAPSHOT_DEADLINE,
            ReceiverStream::new(to_send),
            |mut peer, message| async move { peer.install_snapshot(message).await },
        );
        let answer = match futures::future::select(Box::pin(sending), Box::pin(cancel)).await {
            Either::Left((answer, _)) => answer,
            Either::Right((closed, _)) => return Err(StreamingError::Closed(closed)),
        };
        if let Some(Ok(Err(error))) = reading.now_or_never() {
            tracing::warn!(%error, "snapshot cannot be read while sending it");
        }
        answer
            .and_then(|answer| wire::decode(&answer.data))
            .map_err(|error| rpc_error(error).into())
    }
}

/// Reads a snapshot file in chunks, behind its head, until nobody takes them.
async fn read_chunks(
    file: Arc<dyn DiskFile>,
    len: u64,
    head: Vec<u8>,
    chunks: mpsc::Sender<SnapshotChunk>,
) -> io::Result<()> {
    let first = SnapshotChunk {
        head: head.into(),
        ..SnapshotChunk::default()
    };
    if chunks.send(first).await.is_err() {
        return Ok(());
    }
    let mut offset = 0;
    while offset < len {
        let file = Arc::clone(&file);
        let want = CHUNK_BYTES.min((len - offset) as usize);
        let reading = move || read_exact_at(&*file, want, offset);
        let data = outside::blocking(reading)
            .await
            .map_err(io::Error::other)??;
        offset += data.len() as u64;
        let chunk = SnapshotChunk {
            data: data.into(),
            ..SnapshotChunk::default()
        };
        if chunks.send(chunk).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// The first message of a snapshot.
pub(super) struct SnapshotHead {
    pub(super) vote: Vote,
    pub(super) meta: super::types::SnapshotMeta,
}
