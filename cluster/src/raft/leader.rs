//! What a leader does beside leading: it takes joining nodes in and leaving
//! nodes out.
//!
//! A dull loop around [`crate::membership`]. Every step may be cut off by the
//! loss of leadership; the next leader's loop looks at the state and goes on.
//!
//! One change of Raft's membership at a time, in this order: finish what was
//! begun; take members in as learners; give leadership away if this node goes;
//! set the voters; drop nodes that were removed. A voter that was removed is
//! first replaced and only then dropped, so the cluster is never without voters.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use openraft::{ChangeMembers, Instant as _, ServerState, type_config::TypeConfigExt};
use tokio::time::Instant;

use super::{
    RaftConsensus,
    forms::ForwardAnswer,
    server,
    types::{Proposal, RaftNode, TypeConfig},
};
use crate::{
    NodeId,
    membership::{Silence, choose_voters, to_remove},
    outside,
    raft::Consensus,
    state::{ClusterState, Command, MemberStatus, RequestId},
};

/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// A node that is this many entries behind has caught up well enough to vote
/// and to own blobs: the rest reaches it while the change is agreed.
const CAUGHT_UP_ENTRIES: u64 = 1_000;

/// A node that has not answered for so long is not able to vote.
const SILENCE_LIMIT: Duration = Duration::from_secs(10);

/// How long nodes that have caught up wait for others that join with them, so
/// that they become owners in one epoch: each epoch moves blobs.
const GATHER_TIME: Duration = Duration::from_secs(2);

/// How long a node that was removed and answers stays on to hear of it, by the
/// log that tells it, before the others only refuse what it sends.
const PARTING_TIME: Duration = Duration::from_secs(1);

/// Runs for ever; does something only while this node leads.
pub(super) async fn run(this: Arc<RaftConsensus>) {
    let mut memory = Memory::default();
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let Some(look) = Look::at(&this) else {
            memory = Memory::default();
            continue;
        };
        if let Err(error) = step(&this, &look, &mut memory).await {
            // Mostly a change of leader or another change under way.
            tracing::debug!(error, "membership does not change yet");
        }
    }
}

/// What a leader remembers from look to look.
#[derive(Default)]
struct Memory {
    /// Since when nodes that have caught up wait for others.
    gathering: Option<Instant>,
    /// Since when nodes that were removed are kept to hear of it.
    parting: Option<Instant>,
    silence: Silence,
    looked: Option<Instant>,
}

/// The cluster as its leader sees it.
struct Look {
    state: Arc<ClusterState>,
    /// In Raft's membership, voters or not.
    known: BTreeSet<NodeId>,
    /// Voters of the last configuration.
    voters: BTreeSet<NodeId>,
    /// Whether a change of voters is half done.
    joint: bool,
    /// Nodes that answer and have caught up.
    able: BTreeSet<NodeId>,
    /// Members that have not answered for a while.
    silent: BTreeSet<NodeId>,
}

impl Look {
    /// None unless this node leads.
    fn at(this: &RaftConsensus) -> Option<Self> {
        let metrics = this.metrics();
        if metrics.state != ServerState::Leader {
            return None;
        }
        let membership = metrics.membership_config.membership();
        let configs = membership.get_joint_config();
        let last = metrics.last_log_index.unwrap_or(0);
        let now = TypeConfig::now();
        let state = this.state().borrow().clone();
        let mut able = BTreeSet::from([this.me]);
        let mut heard_of = BTreeSet::from([this.me]);
        for (id, matched) in metrics.replication.iter().flatten() {
            let behind = last.saturating_sub(matched.as_ref().map_or(0, |log| log.index));
            let heard = metrics
                .heartbeat
                .as_ref()
                .and_then(|heard| (*heard.get(id)?).as_ref());
            let silent = heard.is_none_or(|at| now.saturating_duration_since(**at) > SILENCE_LIMIT);
            if !silent {
                heard_of.insert(NodeId(*id));
            }
            if matched.is_some() && behind <= CAUGHT_UP_ENTRIES && !silent {
                able.insert(NodeId(*id));
            }
        }
        let silent = state.members.keys().copied();
        let silent = silent.filter(|id| !heard_of.contains(id)).collect();
        Some(Self {
            state,
            known: membership.nodes().map(|(id, _)| NodeId(*id)).collect(),
            voters: configs.last()?.iter().copied().map(NodeId).collect(),
            joint: configs.len() > 1,
            able,
            silent,
        })
    }
}

async fn step(this: &RaftConsensus, look: &Look, memory: &mut Memory) -> Result<(), String> {
    let since = memory.looked.replace(Instant::now());
    let since = since.map_or(Duration::ZERO, |at| at.elapsed());
    memory.silence.look(&look.silent, since);
    if look.joint {
        // A leader before this one, or a call of ours, was cut off half way.
        return change_voters(this, &look.voters).await;
    }
    for (id, member) in &look.state.members {
        if !look.known.contains(id) {
            let node = RaftNode {
                peer_address: member.peer_address.clone(),
            };
            tracing::info!(node = %id, name = member.name, "taking a node in as learner");
            let added = this.raft.add_learner(id.0, node, false).await;
            added.map_err(|error| error.to_string())?;
        }
    }
    let mut wanted = choose_voters(&look.state, &look.voters, &look.able);
    if look.goes(this.me) {
        let heirs = look.heirs(this.me);
        if !heirs.is_empty() {
            tracing::info!("this node goes, and hands leadership over");
            this.hand_over_to(&heirs).await;
            return Ok(());
        }
        // Whoever follows has to vote first.
        if !wanted.is_empty() && look.voters.contains(&this.me) {
            wanted.insert(this.me);
        }
    }
    if !wanted.is_empty() && wanted != look.voters {
        tracing::info!(voters = ?wanted, "changing the voters");
        return change_voters(this, &wanted).await;
    }
    let gone = look.gone();
    if gone.is_empty() {
        memory.parting = None;
    } else if gone.iter().any(|id| look.able.contains(&NodeId(*id)))
        && memory.parting.get_or_insert_with(Instant::now).elapsed() < PARTING_TIME
    {
        return Ok(());
    } else {
        tracing::info!(nodes = ?gone, "nodes that were removed take no part any more");
        let change = ChangeMembers::RemoveNodes(gone);
        let changed = this.raft.change_membership(change, true).await;
        return changed.map(drop).map_err(|error| error.to_string());
    }
    if let Some(id) = to_remove(&look.state, &memory.silence) {
        return remove(this, look, id, memory.silence.of(id)).await;
    }
    activate(this, look, &mut memory.gathering).await
}

impl Look {
    /// Whether a node is on its way out.
    fn goes(&self, id: NodeId) -> bool {
        let member = self.state.members.get(&id);
        member.map_or(self.state.removed.contains(&id), |member| {
            member.status == MemberStatus::Draining
        })
    }

    /// Voters that may lead in this node's place.
    fn heirs(&self, me: NodeId) -> BTreeSet<u64> {
        let able = self.voters.intersection(&self.able);
        let heirs = able.filter(|id| **id != me && !self.goes(**id));
        heirs.map(|id| id.0).collect()
    }

    /// Nodes that were removed and do not vote any more. One that is in no
    /// table yet is not meant: so a cluster begins.
    fn gone(&self) -> BTreeSet<u64> {
        let learners = self.known.difference(&self.voters);
        let gone = learners.filter(|id| self.state.removed.contains(id));
        gone.map(|id| id.0).collect()
    }
}

/// Removes a member that has been dead for as long as the settings allow.
/// Proposed here or nowhere: only a leader knows who is silent.
async fn remove(
    this: &RaftConsensus,
    look: &Look,
    id: NodeId,
    silent: Duration,
) -> Result<(), String> {
    let name = look.state.members.get(&id).map(|member| &member.name);
    let seconds = silent.as_secs();
    tracing::warn!(node = %id, name, seconds, "a node that has been silent too long is removed");
    let proposal = Proposal {
        request: RequestId(outside::random()),
        command: Command::Remove { id, force: true },
    };
    match server::write(&this.raft, vec![proposal]).await {
        ForwardAnswer::Done(_) => Ok(()),
        ForwardAnswer::NotLeader(_) => Err("this node leads no more".into()),
        ForwardAnswer::Failed(cause) => Err(cause),
    }
}

async fn change_voters(this: &RaftConsensus, voters: &BTreeSet<NodeId>) -> Result<(), String> {
    let ids: BTreeSet<u64> = voters.iter().map(|id| id.0).collect();
    // Voters that leave stay on as learners.
    let changed = this.raft.change_membership(ids, true).await;
    changed.map(drop).map_err(|error| error.to_string())
}

/// Makes owners of the nodes that joined and have caught up.
async fn activate(
    this: &RaftConsensus,
    look: &Look,
    gathering: &mut Option<Instant>,
) -> Result<(), String> {
    let joining = look
        .state
        .members
        .iter()
        .filter(|(_, member)| member.status == MemberStatus::Joining);
    let (ready, coming): (Vec<_>, Vec<_>) = joining
        .map(|(id, _)| *id)
        .partition(|id| look.able.contains(id));
    let enough =
        !look.state.epochs.is_empty() || ready.len() >= look.state.settings.initial_nodes as usize;
    if ready.is_empty() || !enough {
        *gathering = None;
        return Ok(());
    }
    let since = *gathering.get_or_insert_with(Instant::now);
    if !coming.is_empty() && since.elapsed() < GATHER_TIME {
        return Ok(());
    }
    *gathering = None;
    tracing::info!(nodes = ?ready, "nodes become owners");
    let done = this.propose(Command::Activate { nodes: ready }).await;
    done.map(drop).map_err(|error| error.to_string())
}
