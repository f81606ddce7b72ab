//! Checking in: what a node does before it takes part in Raft.
//!
//! ```text
//!   start ─► nothing to lose, or nobody to ask? ───────────────────► gate opens
//!      └───► ask every other node ─► removed, or an older copy ─────► Barred
//!                 ▲        ├───────► the leader, or a majority of
//!                 └─ pause ┘         the voters, has nothing against it ─► gate opens
//! ```
//!
//! What is promised: a node that was removed, and one whose data directory is
//! an older copy of what it was, do not vote, as long as one of the nodes that
//! answer knows better. A majority has seen every start that was announced, and
//! the leader knows besides how much of the log was on the node's disk. What is
//! not: a copy made after the last start, of a node that has written since, is
//! noticed by the leader alone; without a leader it passes.
//!
//! A copy from the time when the node was alone knows nobody whom it could ask.
//! It ends when another voter calls it ([`super::gate::Stranger`]).
//!
//! Nodes answer while they wait for answers themselves, so that a cluster that
//! starts as a whole goes on.
//!
//! The tempting alternative, to let Raft sort it out, fails twice: Raft takes a
//! log that has become shorter for what it was and may lose what was agreed,
//! and a removed node that comes back calls elections for ever.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    time::Duration,
};

use futures::future::join_all;
use openraft::{RaftLogReader, ServerState, async_runtime::WatchReceiver, storage::RaftLogStorage};
use tokio::time::{Instant, sleep};

use super::{
    Raft, RaftConsensus, heard::quorum_age, state_machine::StateMachine, types::TypeConfig,
};
use crate::{
    NodeId,
    membership::{self, Leading},
    peer::{CheckIn, Start},
    planted::{self, Bug},
    raft::Consensus,
};

/// How long one node may take to answer. Asked of all at once, it bounds a round.
const ANSWER_DEADLINE: Duration = Duration::from_secs(2);
/// Between two rounds.
const ROUND_PAUSE: Duration = Duration::from_millis(200);
/// How long a node that was removed waits to be taken out of Raft.
const REPLACED_LIMIT: Duration = Duration::from_secs(5);
/// How often it is said that nobody answers.
const REMINDER: Duration = Duration::from_secs(30);

/// Why a node may not take part, with what to do about it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Barred {
    #[error(
        "node {node} was removed from the cluster and does not come back; to use this machine \
         again, choose an empty folder as node.data and run `weir join`"
    )]
    Removed { node: NodeId },
    #[error(
        "the data directory of node {node} is an older copy: {why}. It must not vote any more: \
         start the node with its own directory, or, if that is lost, run \
         `weir node remove --dead NAME` on another node, choose an empty folder as node.data, \
         and run `weir join`"
    )]
    Outdated { node: NodeId, why: String },
}

impl RaftConsensus {
    /// What this node says to another that has just started.
    #[must_use]
    pub fn check_in(&self, node: NodeId, start: &Start) -> CheckIn {
        membership::check_in(&self.state().borrow(), node, start, self.leading(node))
    }

    /// Returns once this node takes part in Raft; an error if it may not.
    pub async fn arrive(&self, start: &Start) -> Result<(), Barred> {
        let began = Instant::now();
        let mut reminded = began;
        while !self.gate.is_open() {
            let answers = self.ask_around(start).await?;
            if self.may_enter(&answers) {
                self.gate.open();
                tracing::info!(answers = answers.len(), "checked in with the cluster");
                break;
            }
            if reminded.elapsed() > REMINDER {
                reminded = Instant::now();
                let (seconds, answers) = (began.elapsed().as_secs(), answers.len());
                tracing::warn!(
                    seconds,
                    answers,
                    "this node waits for a majority of voters to check in with"
                );
            }
            sleep(ROUND_PAUSE).await;
        }
        Ok(())
    }

    /// Returns when this node has been removed from the cluster, and others
    /// vote in its place; or when it turns out to be a copy after all.
    pub async fn expelled(&self, start: &Start) -> Barred {
        let me = self.me;
        let mut states = self.state();
        let applied = async {
            let removed = states.wait_for(|state| state.removed.contains(&me));
            if removed.await.is_err() {
                // Raft has stopped, and says nothing any more.
                std::future::pending::<()>().await;
            }
            self.replaced().await;
            Barred::Removed { node: me }
        };
        let forked = async {
            let stranger = self.stranger.seen().await;
            let why = format!(
                "node {stranger} counts it among the voters, and it knows nothing of that node"
            );
            Barred::Outdated { node: me, why }
        };
        let told = async {
            loop {
                self.removal.heard().await;
                if let Err(barred) = self.ask_around(start).await {
                    return barred;
                }
                sleep(ROUND_PAUSE).await;
            }
        };
        tokio::select! {
            barred = applied => barred,
            barred = told => barred,
            barred = forked => barred,
        }
    }

    /// Waits until this node votes no more. As long as it leads: without it
    /// nobody could make others vote. Else not for ever: it may not hear of it.
    async fn replaced(&self) {
        let asked = Instant::now();
        loop {
            let metrics = self.metrics();
            let mut voters = metrics.membership_config.membership().voter_ids();
            let votes = voters.any(|id| id == self.me.0);
            let leads = metrics.state == ServerState::Leader;
            if !votes || (!leads && asked.elapsed() > REPLACED_LIMIT) {
                return;
            }
            sleep(ROUND_PAUSE).await;
        }
    }

    /// Asks every other node that this one knows, once. Who welcomed it.
    async fn ask_around(&self, start: &Start) -> Result<BTreeMap<NodeId, bool>, Barred> {
        let metrics = self.metrics();
        let start = Start {
            last_log_index: metrics.last_log_index.unwrap_or(0),
            ..start.clone()
        };
        let nodes = metrics.membership_config.membership().nodes();
        let mut others: BTreeMap<NodeId, String> = nodes
            .map(|(id, node)| (NodeId(*id), node.peer_address.clone()))
            .collect();
        for (id, member) in &self.state().borrow().members {
            others.insert(*id, member.peer_address.clone());
        }
        others.remove(&self.me);
        let asked = others.iter().map(|(id, address)| {
            let answer = self.network.check_in(*id, address, &start, ANSWER_DEADLINE);
            async move { (*id, answer.await) }
        });
        let mut welcomes = BTreeMap::new();
        for (id, answer) in join_all(asked).await {
            match answer {
                Ok(CheckIn::Welcome { by_leader }) => {
                    welcomes.insert(id, by_leader);
                }
                Ok(CheckIn::Removed) => return Err(Barred::Removed { node: self.me }),
                Ok(CheckIn::Outdated { why }) => {
                    return Err(Barred::Outdated { node: self.me, why });
                }
                Err(error) => tracing::debug!(node = %id, %error, "no answer to the check-in"),
            }
        }
        Ok(welcomes)
    }

    /// Whether these welcomes are enough.
    fn may_enter(&self, welcomes: &BTreeMap<NodeId, bool>) -> bool {
        if welcomes.values().any(|by_leader| *by_leader) {
            return true;
        }
        if planted::is(Bug::EnteredAlone) {
            return true;
        }
        let metrics = self.metrics();
        let voters = metrics.membership_config.membership().get_joint_config();
        let is_here = |id: &u64| *id == self.me.0 || welcomes.contains_key(&NodeId(*id));
        let majority = |voters: &BTreeSet<u64>| {
            let here = voters.iter().filter(|id| is_here(id)).count();
            2 * here > voters.len()
        };
        !voters.is_empty() && voters.iter().all(majority)
    }

    /// What this node knows of another as the leader of a majority. One that was
    /// unseated without noticing may know of entries that are no more: it counts
    /// only while a majority has answered it lately, so that no other can have
    /// been elected.
    fn leading(&self, node: NodeId) -> Option<Leading> {
        let metrics = self.metrics();
        if metrics.state != ServerState::Leader {
            return None;
        }
        let lately = quorum_age(&metrics).is_some_and(|age| age < self.election_min);
        // Only then all that was agreed before its term is applied here.
        let term = metrics.last_applied.map(|last| last.leader_id.term);
        if !lately || term != Some(metrics.current_term) {
            return None;
        }
        let matched = metrics.replication.as_ref()?.get(&node.0);
        let acknowledged = matched.and_then(|matched| matched.as_ref());
        Some(Leading {
            acknowledged: acknowledged.map(|log| log.index),
        })
    }
}

/// Whether there is nobody whom a node could check in with.
pub(super) fn knows_nobody(raft: &Raft, machine: &StateMachine, me: NodeId) -> bool {
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    let membership = metrics.membership_config.membership();
    let state = machine.state();
    let state = state.borrow();
    membership.nodes().all(|(id, _)| *id == me.0) && state.members.keys().all(|id| *id == me)
}

/// Whether a log has never been used: no entry, no vote.
pub(super) async fn is_new(log: &mut impl RaftLogStorage<TypeConfig>) -> io::Result<bool> {
    let last = log.get_log_state().await?.last_log_id;
    let vote = log.get_log_reader().await.read_vote().await?;
    Ok(last.is_none() && vote.is_none())
}
