//! What a leader does beside leading: it takes joining nodes in.
//!
//! A dull loop around [`crate::membership`]. Every step may be cut off by the
//! loss of leadership; the next leader's loop looks at the state and goes on.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use openraft::{Instant as _, ServerState, type_config::TypeConfigExt};

use super::{
    RaftConsensus,
    types::{RaftNode, TypeConfig},
};
use crate::{
    NodeId,
    membership::choose_voters,
    raft::Consensus,
    state::{ClusterState, Command, MemberStatus},
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

/// Runs for ever; does something only while this node leads.
pub(super) async fn run(this: Arc<RaftConsensus>) {
    let mut gathering = None;
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let Some(look) = Look::at(&this) else {
            gathering = None;
            continue;
        };
        if let Err(error) = step(&this, &look, &mut gathering).await {
            // Mostly a change of leader or another change under way.
            tracing::debug!(error, "membership does not change yet");
        }
    }
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
        let mut able = BTreeSet::from([this.me]);
        for (id, matched) in metrics.replication.iter().flatten() {
            let behind = last.saturating_sub(matched.as_ref().map_or(0, |log| log.index));
            let heard = metrics
                .heartbeat
                .as_ref()
                .and_then(|heard| (*heard.get(id)?).as_ref());
            let silent = heard.is_none_or(|at| now.saturating_duration_since(**at) > SILENCE_LIMIT);
            if matched.is_some() && behind <= CAUGHT_UP_ENTRIES && !silent {
                able.insert(NodeId(*id));
            }
        }
        Some(Self {
            state: this.state().borrow().clone(),
            known: membership.nodes().map(|(id, _)| NodeId(*id)).collect(),
            voters: configs.last()?.iter().copied().map(NodeId).collect(),
            joint: configs.len() > 1,
            able,
        })
    }
}

async fn step(
    this: &RaftConsensus,
    look: &Look,
    gathering: &mut Option<Instant>,
) -> Result<(), String> {
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
    let wanted = choose_voters(&look.state, &look.voters, &look.able);
    if !wanted.is_empty() && wanted != look.voters {
        tracing::info!(voters = ?wanted, "changing the voters");
        change_voters(this, &wanted).await?;
    }
    activate(this, look, gathering).await
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
