//! [`Consensus`] by Raft.
//!
//! ```text
//!   propose ─► queue ─► batches, a few under way ─► leader: client_write_many
//!                                                └► other:  one Forward message
//!   barrier ─► queue ─► rounds, one under way    ─► leader: read index
//!                                                └► other:  one ReadIndex message
//! ```
//!
//! Invariants: a proposal keeps its request id however often it is sent, so it
//! is applied once; a caller is answered when its entry is applied here; a
//! barrier is answered by a round that began after it was asked for.
//!
//! Raft runs on threads of its own, so that no amount of blob traffic delays a
//! heartbeat.

use std::{
    collections::BTreeSet,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use openraft::{ServerState, async_runtime::WatchReceiver, errors::Fatal, storage::RaftLogStorage};
use rand::seq::IteratorRandom;
use tokio::{
    runtime::Runtime,
    sync::{mpsc, oneshot, watch},
    time::{Instant, timeout, timeout_at},
};
use weir_proto::cluster::raft_server::RaftServer;

use super::{
    Consensus, Raft, RaftConfig, Roles,
    applied::past_of,
    arrival::{is_new, knows_nobody},
    batches::{self, Pending},
    gate::{Gate, Stranger},
    heard::Heard,
    leader,
    network::{Network, Nodes},
    rounds,
    server::Service,
    state_machine::StateMachine,
    types::{Proposal, RaftNode, TypeConfig},
};
use crate::{
    ClusterId, Error, NodeId,
    journal::disk::Disk,
    outside,
    peer::{dial::Dial, identity::Removal},
    planted::{self, Bug},
    state::{ClusterState, Command, Member, Ref, RefKey, RequestId, Response, Settings},
    words::error::Shortfall,
};

/// Proposals that wait; beyond it callers are held back.
pub(super) const QUEUE_LIMIT: usize = 8_192;
/// Text in one proposal at most. The log, messages and batches of the rows are
/// bounded by multiples of it; the services' own limits are below it.
pub(super) const PROPOSAL_BYTES: usize = 4 << 20;

/// How long one message to the leader may take. Less than the patience of
/// callers, so that a leader that is silent is not waited for alone.
pub(super) const LEADER_DEADLINE: Duration = Duration::from_secs(2);

/// So many of the longest election timeouts after a majority answered it last, a
/// leader is told of no more: if there is a majority, it has had the time to
/// elect another.
const FOLLOWED_TIMEOUTS: u64 = 2;

/// How long a leader that stops waits for another to take over.
const HANDOVER_LIMIT: Duration = Duration::from_secs(3);

/// Why Raft could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the applied state cannot be opened")]
    State(#[source] io::Error),
    #[error("the log cannot be read")]
    Log(#[source] io::Error),
    #[error("raft cannot start: {0}")]
    Raft(#[from] Box<Fatal<TypeConfig>>),
    #[error("raft settings do not fit: {0}")]
    Config(String),
    #[error("threads for raft cannot be started")]
    Threads(#[source] io::Error),
}

/// What a node brings along to take part.
pub struct Setup {
    pub cluster: ClusterId,
    pub me: NodeId,
    pub config: RaftConfig,
    /// Holds snapshots.
    pub disk: Arc<dyn Disk>,
    /// Folder of the applied state.
    pub state_dir: PathBuf,
    pub dial: Dial,
    /// Told when another node says that this one was removed.
    pub removal: Removal,
}

/// This node's part in Raft.
pub struct RaftConsensus {
    pub(super) me: NodeId,
    pub(super) raft: Raft,
    cluster: ClusterId,
    machine: StateMachine,
    pub(super) network: Network,
    pub(super) gate: Gate,
    pub(super) stranger: Stranger,
    pub(super) removal: Removal,
    /// No node is elected within so long of an answer to the leader before it.
    pub(super) election_min: Duration,
    heard: Heard,
    /// A leader that no majority has followed for so long is told of no more.
    followed_limit: Duration,
    proposals: mpsc::Sender<Pending>,
    barriers: mpsc::Sender<Waiter<()>>,
    /// Taken when Raft stops. A std mutex: held for one `take`.
    runtime: Mutex<Option<Runtime>>,
}

/// Who waits for an answer.
pub(super) type Waiter<T> = oneshot::Sender<Result<T, Error>>;

impl RaftConsensus {
    /// Starts this node's part. The peer listener has to serve
    /// [`Self::service`] for others to reach it.
    pub async fn start(
        setup: Setup,
        mut log: impl RaftLogStorage<TypeConfig>,
    ) -> Result<Arc<Self>, StartError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("weir-raft")
            .enable_all()
            .build()
            .map_err(StartError::Threads)?;
        let handle = runtime.handle().clone();
        let starting = async {
            let past = past_of(&mut log).await.map_err(StartError::Log)?;
            let disk = Arc::clone(&setup.disk);
            let machine = StateMachine::open(&setup.state_dir, disk, past);
            Self::start_here(setup, machine.map_err(StartError::State)?, log).await
        };
        let started = handle.spawn(starting).await;
        let started = started
            .map_err(|error| StartError::Threads(io::Error::other(error)))
            .and_then(|started| started);
        match started {
            Ok(this) => {
                *this.runtime() = Some(runtime);
                Ok(this)
            }
            Err(error) => {
                // Dropping it here would wait for its threads, on one of ours.
                runtime.shutdown_background();
                Err(error)
            }
        }
    }

    fn runtime(&self) -> MutexGuard<'_, Option<Runtime>> {
        self.runtime.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts it on the runtime of the caller, over rows in memory.
    #[cfg(all(test, tokio_unstable))]
    pub(crate) async fn start_simulated(
        setup: Setup,
        rows: Arc<super::MemoryRows>,
        mut log: super::LogStore,
    ) -> Result<Arc<Self>, StartError> {
        let past = past_of(&mut log).await.map_err(StartError::Log)?;
        let opening = move |anew| {
            if anew {
                rows.clear();
            }
            Ok(Arc::clone(&rows) as Arc<dyn super::rows::RowStore>)
        };
        let machine = StateMachine::over(Box::new(opening), Arc::clone(&setup.disk), past);
        Self::start_here(setup, machine.map_err(StartError::State)?, log).await
    }

    /// Tells each term in which this node leads, until Raft stops.
    #[cfg(all(test, tokio_unstable))]
    pub(crate) async fn tell_terms_led(&self, told: impl Fn(u64)) {
        let mut changes = self.raft.metrics();
        loop {
            let metrics = self.metrics();
            if metrics.state == ServerState::Leader && metrics.running_state.is_ok() {
                told(metrics.current_term);
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    async fn start_here(
        setup: Setup,
        machine: StateMachine,
        mut log: impl RaftLogStorage<TypeConfig>,
    ) -> Result<Arc<Self>, StartError> {
        let Setup {
            cluster,
            me,
            config,
            dial,
            removal,
            ..
        } = setup;
        let election_min = Duration::from_millis(config.election_min_ms);
        let followed_limit = Duration::from_millis(FOLLOWED_TIMEOUTS * config.election_max_ms);
        let snapshots = machine.snapshots().clone();
        let gate = Gate::default();
        let nodes = Nodes {
            cluster,
            me,
            state: machine.state(),
            dial,
            gate: gate.clone(),
            removal: removal.clone(),
            snapshots,
        };
        let network = Network::new(nodes);
        let is_new = is_new(&mut log).await.map_err(StartError::Log)?;
        let config = config
            .to_openraft()
            .validate()
            .map_err(|error| StartError::Config(error.to_string()))?;
        let raft = Raft::new(
            me.0,
            Arc::new(config),
            network.clone(),
            log,
            machine.clone(),
        )
        .await
        .map_err(Box::new)?;
        network.speak_for(raft.metrics());
        if is_new || knows_nobody(&raft, &machine, me) {
            gate.open();
        }
        let (proposals, queued) = mpsc::channel(QUEUE_LIMIT);
        let (barriers, asked) = mpsc::channel(QUEUE_LIMIT);
        let this = Arc::new(Self {
            me,
            raft,
            cluster,
            machine,
            network,
            gate,
            stranger: Stranger::default(),
            removal,
            election_min,
            heard: Heard::default(),
            followed_limit,
            proposals,
            barriers,
            runtime: Mutex::default(),
        });
        tokio::spawn(batches::run(Arc::clone(&this), queued));
        tokio::spawn(rounds::run(Arc::clone(&this), asked));
        tokio::spawn(leader::run(Arc::clone(&this)));
        Ok(this)
    }

    /// The service for the peer listener.
    pub fn service(&self) -> RaftServer<Service> {
        let service = Service {
            cluster: self.cluster,
            me: self.me,
            raft: self.raft.clone(),
            state: self.machine.state(),
            gate: self.gate.clone(),
            stranger: self.stranger.clone(),
            heard: self.heard.clone(),
            snapshots: self.machine.snapshots().clone(),
        };
        service.into_server()
    }

    /// Begins the cluster with this node alone, or goes on where an earlier
    /// call was cut off. Only for the node that `weir init` made.
    pub async fn found(&self, settings: Settings, member: Member) -> Result<(), Error> {
        let address = RaftNode {
            peer_address: member.peer_address.clone(),
        };
        let fatal = |error: Fatal<TypeConfig>| Error::Internal(error.to_string());
        if !self.raft.is_initialized().await.map_err(fatal)? {
            let nodes = std::collections::BTreeMap::from([(self.me.0, address)]);
            if let Err(error) = self.raft.initialize(nodes).await {
                // Another call was first, which is as good.
                tracing::debug!(%error, "raft is initialized already");
            }
        }
        if self.state().borrow().members.contains_key(&self.me) {
            return Ok(());
        }
        self.barrier().await?;
        let (cluster, id) = (self.cluster, self.me);
        for command in [
            Command::Found { cluster, settings },
            Command::AddMember { id, member },
        ] {
            // Refused if it was done before: both are done once.
            if let Response::Refused { reason } = self.propose(command).await? {
                tracing::debug!(reason, "founding goes on");
            }
        }
        Ok(())
    }

    /// Hands leadership over, if this node leads and others vote.
    pub async fn hand_over(&self) {
        let metrics = self.metrics();
        if metrics.state != ServerState::Leader {
            return;
        }
        let voters = metrics.membership_config.membership().voter_ids();
        let others: BTreeSet<u64> = voters.filter(|id| *id != self.me.0).collect();
        self.hand_over_to(&others).await;
    }

    /// Hands leadership over to the one of these voters that has most of the log.
    pub(super) async fn hand_over_to(&self, voters: &BTreeSet<u64>) {
        let metrics = self.metrics();
        let matched = |id: &&u64| {
            let replication = metrics.replication.as_ref()?;
            replication.get(id)?.as_ref().map(|log| log.index)
        };
        let best = voters.iter().copied().max_by_key(|id| matched(&id));
        let Some(to) = best else { return };
        if self.raft.trigger().transfer_leader(to).await.is_err() {
            return;
        }
        let mut metrics = self.raft.metrics();
        let other_leads = async {
            while self.leader().is_none_or(|id| id == self.me.0) {
                if metrics.changed().await.is_err() {
                    return;
                }
            }
        };
        match timeout(HANDOVER_LIMIT, other_leads).await {
            Ok(()) => tracing::info!(to = %NodeId(to), "leadership handed over"),
            Err(_) => tracing::warn!("nobody took leadership over; an election will follow"),
        }
    }

    /// Stops taking part.
    pub async fn shutdown(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "raft did not stop cleanly");
        }
        if let Err(error) = self.machine.close() {
            tracing::warn!(%error, "applied state was not closed; it may have to be rebuilt");
        }
        let runtime = self.runtime().take();
        if let Some(runtime) = runtime {
            runtime.shutdown_background();
        }
    }

    /// A copy, so that nothing is locked while it is looked at.
    pub(super) fn metrics(&self) -> openraft::RaftMetrics<TypeConfig> {
        self.raft.metrics().borrow_watched().clone()
    }

    fn patience(&self) -> Duration {
        let patience_ms = self.machine.state().borrow().settings.ref_patience_ms;
        Duration::from_millis(patience_ms.into())
    }

    /// Whom to ask: the leader, or else any other member, who may know it. A
    /// node whose address changed hears of no leader until it has told its own.
    pub(super) fn whom_to_ask(&self) -> Option<u64> {
        self.leader().or_else(|| {
            let state = self.machine.state();
            let state = state.borrow();
            let others = state.members.keys().filter(|id| **id != self.me);
            others.choose(&mut outside::rng()).map(|id| id.0)
        })
    }

    pub(super) async fn wait_applied(&self, index: u64) {
        // The sender lives as long as the state machine, which we hold.
        let _ = self
            .machine
            .applied()
            .wait_for(|applied| *applied >= index)
            .await;
    }

    /// The leader that was known here last: whom to ask, whether or not a majority
    /// follows it still.
    pub(super) fn leader(&self) -> Option<u64> {
        leader_of(&self.raft.metrics().borrow_watched())
    }

    /// Asks for something and waits for as long as the settings say.
    async fn ask<T, W>(
        &self,
        doing: &'static str,
        queue: &mpsc::Sender<W>,
        make: impl FnOnce(Waiter<T>) -> W,
    ) -> Result<T, Error> {
        let (answer, answered) = oneshot::channel();
        let deadline = Instant::now() + self.patience();
        let stopped = || Error::Unreachable {
            node: self.me,
            cause: "raft on this node has stopped; start the node again, or ask another".into(),
        };
        // Waiting would help nobody: nothing is applied here any more.
        if self.metrics().running_state.is_err() {
            return Err(stopped());
        }
        let asked = async {
            queue.send(make(answer)).await.map_err(|_| stopped())?;
            answered.await.unwrap_or_else(|_| Err(stopped()))
        };
        timeout_at(deadline, asked)
            .await
            .unwrap_or_else(|_| Err(self.no_quorum(doing)))
    }

    fn no_quorum(&self, doing: &'static str) -> Error {
        let metrics = self.metrics();
        let voters: Vec<_> = metrics.membership_config.membership().voter_ids().collect();
        let cause = match leader_of(&metrics) {
            Some(id) if id != self.me.0 => {
                format!("the leader, node {}, does not answer", NodeId(id))
            }
            Some(_) => "it leads, but a majority of voters does not answer".to_owned(),
            None => "it knows no leader; is a majority of voters up?".to_owned(),
        };
        Error::NoQuorum(Shortfall {
            doing,
            needed: voters.len() / 2 + 1,
            got: usize::from(voters.contains(&self.me.0)),
            causes: vec![(self.me, cause)],
        })
    }
}

#[async_trait]
impl Consensus for RaftConsensus {
    async fn propose(&self, command: Command) -> Result<Response, Error> {
        let bytes = command.text_bytes();
        if bytes > PROPOSAL_BYTES {
            return Err(Error::Invalid(format!(
                "keys of {bytes} bytes in one change, at most {PROPOSAL_BYTES} are taken"
            )));
        }
        let request = RequestId(outside::random());
        let proposal = Proposal { request, command };
        self.ask("agree on a change", &self.proposals, |answer| Pending {
            proposal,
            answer,
        })
        .await
    }

    async fn barrier(&self) -> Result<(), Error> {
        if planted::is(Bug::BarrierSkipped) {
            return Ok(());
        }
        self.ask("confirm a read", &self.barriers, |answer| answer)
            .await
    }

    fn applied_ref(&self, key: &RefKey) -> Result<Option<Ref>, Error> {
        self.machine.get_ref(key)
    }

    fn state(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.machine.state()
    }

    fn roles(&self) -> Roles {
        let metrics = self.metrics();
        let membership = metrics.membership_config.membership();
        Roles {
            leader: self.heard.followed(&metrics, self.followed_limit),
            voters: membership.voter_ids().map(NodeId).collect(),
            learners: membership.learner_ids().map(NodeId).collect(),
            term: metrics.current_term,
            last_applied: metrics.last_applied.map_or(0, |last| last.index),
        }
    }
}

/// The leader that a node knew last; none if its own part in Raft has broken off,
/// since what it knew last says nothing any more.
fn leader_of(metrics: &openraft::RaftMetrics<TypeConfig>) -> Option<u64> {
    match &metrics.running_state {
        Ok(()) => metrics.current_leader,
        Err(_) => None,
    }
}
