//! Raft's messages from other nodes.
//!
//! A message that means another node or another cluster is refused before it
//! is read: an address may be reused, and a vote for the wrong node is how a
//! cluster splits. So is one from a node that was removed, and any at all while
//! this node has not checked in ([`super::arrival`]).

use std::{sync::Arc, time::Duration};

use futures::TryStreamExt;
use openraft::{
    ReadPolicy, ServerState,
    async_runtime::WatchReceiver,
    errors::{ClientWriteError, LinearizableReadError, RaftError},
    raft::{AppendEntriesRequest, SnapshotResponse, TransferLeaderRequest, VoteRequest},
    storage::Snapshot as RaftSnapshot,
};
use tokio::{sync::watch, time::timeout};
use tonic::{Request, Response, Status, Streaming, metadata::MetadataMap};
use weir_proto::cluster::{
    Payload as Message, SnapshotChunk,
    raft_server::{Raft as RaftApi, RaftServer},
};

use super::{
    Raft,
    forms::{ForwardAnswer, Forwarded, ReadIndexAnswer, TransferForm},
    gate::{Gate, Stranger},
    heard::Heard,
    network::{MESSAGE_LIMIT_BYTES, QUORUM_KEY, SnapshotHead},
    snapshot::Snapshots,
    types::{LogId, Proposal, TypeConfig, Vote},
    wire::{self, Wire},
};
use crate::{ClusterId, NodeId, outside, peer::identity, state::ClusterState};

/// How long a sender of a snapshot may be silent.
const CHUNK_DEADLINE: Duration = Duration::from_secs(30);

/// Proposals in one forwarded message; a node sends fewer.
const FORWARDED_LIMIT: usize = 4_096;

/// Raft's service for the peer listener; made by
/// [`super::RaftConsensus::service`].
#[derive(Clone)]
pub struct Service {
    pub(super) cluster: ClusterId,
    pub(super) me: NodeId,
    pub(super) raft: Raft,
    pub(super) state: watch::Receiver<Arc<ClusterState>>,
    pub(super) gate: Gate,
    pub(super) stranger: Stranger,
    pub(super) heard: Heard,
    pub(super) snapshots: Snapshots,
}

impl Service {
    pub(super) fn into_server(self) -> RaftServer<Self> {
        RaftServer::new(self)
            .max_decoding_message_size(MESSAGE_LIMIT_BYTES)
            .max_encoding_message_size(MESSAGE_LIMIT_BYTES)
    }

    fn admit(&self, metadata: &MetadataMap) -> Result<(), Status> {
        identity::check(metadata, self.cluster, self.me)?;
        // A removed node that still votes is waited for: the one that leads has
        // to be heard until others vote in its place.
        let refusal = identity::check_sender(metadata, &self.state.borrow().removed);
        if let (Err(status), Some(from)) = (refusal, identity::sender(metadata))
            && !self.votes(from)
        {
            return Err(status);
        }
        // Not UNAVAILABLE: the connection is good and should be kept.
        let closed = || Status::aborted(Gate::CLOSED);
        self.gate.is_open().then_some(()).ok_or_else(closed)
    }

    fn votes(&self, node: NodeId) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        membership.voter_ids().any(|id| id == node.0)
    }

    /// A message that only voters send. A node that votes alone gets none.
    fn admit_voter(&self, metadata: &MetadataMap) -> Result<(), Status> {
        self.admit(metadata)?;
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let Some(from) = identity::sender(metadata) else {
            return Ok(());
        };
        if !membership.voter_ids().eq([self.me.0]) || from == self.me {
            return Ok(());
        }
        let known = membership.get_node(&from.0).is_some()
            || self.state.borrow().members.contains_key(&from);
        // What was agreed before it led alone may not be applied yet.
        let term = metrics.last_applied.map(|last| last.leader_id.term);
        let leads = metrics.state == ServerState::Leader && term == Some(metrics.current_term);
        if leads && !known {
            self.stranger.saw(from);
        }
        let what = format!("node {} votes alone, and knows of no other voter", self.me);
        Err(Status::aborted(what))
    }

    fn read_from_voter<M: Wire>(&self, request: Request<Message>) -> Result<M, Status> {
        self.admit_voter(request.metadata())?;
        decode(request)
    }

    fn read<M: Wire>(&self, request: Request<Message>) -> Result<M, Status> {
        self.admit(request.metadata())?;
        decode(request)
    }
}

fn decode<M: Wire>(request: Request<Message>) -> Result<M, Status> {
    wire::decode(&request.into_inner().data)
        .map_err(|error| Status::invalid_argument(error.to_string()))
}

fn answer<A: Wire>(answer: &A) -> Result<Response<Message>, Status> {
    let data = wire::encode(answer).into();
    Ok(Response::new(Message { data }))
}

/// Raft has stopped on this node, or cannot go on.
fn stopped(error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("raft on this node has stopped: {error}"))
}

#[tonic::async_trait]
impl RaftApi for Service {
    async fn vote(&self, request: Request<Message>) -> Result<Response<Message>, Status> {
        let request: VoteRequest<TypeConfig> = self.read_from_voter(request)?;
        answer(&self.raft.vote(request).await.map_err(stopped)?)
    }

    async fn pre_vote(&self, request: Request<Message>) -> Result<Response<Message>, Status> {
        let request: VoteRequest<TypeConfig> = self.read_from_voter(request)?;
        answer(&self.raft.pre_vote(request).await.map_err(stopped)?)
    }

    async fn append_entries(&self, request: Request<Message>) -> Result<Response<Message>, Status> {
        // A node of a version that does not say it is believed.
        let age_ms = identity::value(request.metadata(), QUORUM_KEY).unwrap_or(0);
        let request: AppendEntriesRequest<TypeConfig> = self.read_from_voter(request)?;
        self.heard
            .note(&request.vote, Duration::from_millis(age_ms));
        answer(&self.raft.append_entries(request).await.map_err(stopped)?)
    }

    async fn transfer_leader(
        &self,
        request: Request<Message>,
    ) -> Result<Response<Message>, Status> {
        let form: TransferForm = self.read(request)?;
        let bad = |error: crate::Error| Status::invalid_argument(error.to_string());
        let from = Vote::from_read(form.from).map_err(bad)?;
        let last: Option<LogId> = Option::from_read(form.last).map_err(bad)?;
        let request = TransferLeaderRequest::new(from, form.to, last);
        let outcome = self.raft.handle_transfer_leader(request).await;
        outcome
            .map_err(stopped)?
            .map_err(|error| Status::aborted(error.to_string()))?;
        answer(&Vec::<Proposal>::new())
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<SnapshotChunk>>,
    ) -> Result<Response<Message>, Status> {
        self.admit(request.metadata())?;
        let metadata = request.metadata().clone();
        let mut chunks = request.into_inner();
        let first = next_chunk(&mut chunks).await?;
        let first = first.ok_or_else(|| Status::invalid_argument("a snapshot without a head"))?;
        let head: SnapshotHead = wire::decode(&first.head)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let failed =
            |error: std::io::Error| Status::internal(format!("cannot keep the snapshot: {error}"));
        let snapshots = self.snapshots.clone();
        let mut writer = blocking(move || snapshots.temporary())
            .await?
            .map_err(failed)?;
        let path = writer.path().to_owned();
        let received = async {
            while let Some(chunk) = next_chunk(&mut chunks).await? {
                let appended;
                (writer, appended) = blocking(move || {
                    let appended = writer.append(&chunk.data);
                    (writer, appended)
                })
                .await?;
                appended.map_err(failed)?;
            }
            let file = blocking(move || writer.close()).await?.map_err(failed)?;
            // openraft takes a snapshot that cannot be installed for a broken
            // disk and stops for good: a torn one must not come that far.
            let (snapshots, last) = (self.snapshots.clone(), head.meta.last_log_id);
            let file = blocking(move || snapshots.verify(&file, last).map(|_| file))
                .await?
                .map_err(|error| Status::data_loss(format!("the snapshot is damaged: {error}")))?;
            self.admit_voter(&metadata)?;
            Ok::<_, Status>(file)
        };
        let snapshot = received
            .await
            .inspect_err(|_| self.snapshots.discard(&path))?;
        let snapshot = RaftSnapshot {
            meta: head.meta,
            snapshot,
        };
        let outcome: SnapshotResponse<TypeConfig> = self
            .raft
            .install_full_snapshot(head.vote, snapshot)
            .await
            .map_err(stopped)?;
        answer(&outcome)
    }

    async fn forward(&self, request: Request<Message>) -> Result<Response<Message>, Status> {
        let proposals: Vec<Proposal> = self.read(request)?;
        if proposals.len() > FORWARDED_LIMIT {
            let count = proposals.len();
            return Err(Status::invalid_argument(format!(
                "{count} proposals in one message, at most {FORWARDED_LIMIT} are taken"
            )));
        }
        answer(&write(&self.raft, proposals).await)
    }

    async fn read_index(&self, request: Request<Message>) -> Result<Response<Message>, Status> {
        let _nothing: Vec<Proposal> = self.read(request)?;
        answer(&read_index(&self.raft).await)
    }
}

/// Writes a batch on this node, if it leads.
pub(super) async fn write(raft: &Raft, proposals: Vec<Proposal>) -> ForwardAnswer {
    let mut answers = Vec::with_capacity(proposals.len());
    let mut results = match raft.client_write_many(proposals).await {
        Ok(results) => results,
        Err(error) => return ForwardAnswer::Failed(error.to_string()),
    };
    loop {
        match results.try_next().await {
            Ok(Some(Ok(done))) => answers.push(Forwarded::Applied {
                index: done.log_id.index,
                response: done.response,
            }),
            Ok(Some(Err(ClientWriteError::ForwardToLeader(to)))) if answers.is_empty() => {
                return ForwardAnswer::NotLeader(to.leader_id);
            }
            // Discarded by a new leader, or never taken: applied once in any
            // case, since it is sent again under the same request id.
            Ok(Some(Err(_))) => answers.push(Forwarded::Lost),
            Ok(None) => return ForwardAnswer::Done(answers),
            Err(error) => return ForwardAnswer::Failed(error.to_string()),
        }
    }
}

/// How far to apply before a read is current, if this node leads.
pub(super) async fn read_index(raft: &Raft) -> ReadIndexAnswer {
    match raft.get_read_log_id(ReadPolicy::ReadIndex).await {
        Ok((read, _)) => ReadIndexAnswer::Index(read.log_id().index),
        Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to))) => {
            ReadIndexAnswer::NotLeader(to.leader_id)
        }
        Err(error) => ReadIndexAnswer::Failed(error.to_string()),
    }
}

async fn next_chunk(
    chunks: &mut Streaming<SnapshotChunk>,
) -> Result<Option<SnapshotChunk>, Status> {
    timeout(CHUNK_DEADLINE, chunks.message())
        .await
        .map_err(|_| Status::deadline_exceeded("the sender of the snapshot fell silent"))?
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Status> {
    outside::blocking(work)
        .await
        .map_err(|error| Status::internal(error.to_string()))
}

#[cfg(test)]
mod tests;
