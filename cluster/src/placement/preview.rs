//! What a change of members or settings would move, without making it.
//!
//! The change is applied to a copy of agreed state by the function that would
//! apply it for real, so what it refuses is refused here, and the owners are
//! those that there would be. Bytes are an estimate: each node's own account,
//! spread evenly over the slots that it owns.

use std::collections::{BTreeMap, BTreeSet};

use super::Placement;
use crate::{
    Digest, Epoch, Error, NodeId, Slot,
    state::{
        ClusterState, Command, EpochPlan, Member, MemberStatus, RefRows, Response, Settings, apply,
        refs::{Ref, RefKey},
    },
    words::ids::SLOTS,
};

/// A change to look at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// None: what is moving now, from the oldest epoch alive to the current one.
    Nothing,
    /// A node joins and becomes an owner.
    Join {
        zone: String,
        weight: u32,
    },
    Drain(NodeId),
    /// A member is removed as dead.
    Remove(NodeId),
    Relabel {
        id: NodeId,
        zone: String,
        host: String,
        weight: u32,
    },
    Settle(Settings),
}

/// What a change would do.
#[derive(Debug)]
pub struct Preview {
    /// The epochs compared; the same number if no new one would begin.
    pub from: Epoch,
    pub to: Epoch,
    /// Copies of each blob before and after.
    pub copies: (usize, usize),
    /// Pairs of a slot and an owner that it did not have before.
    pub moved: u64,
    /// How many such pairs fair shares alone would ask for.
    pub ideal: u64,
    /// Bytes that owners would fetch.
    pub moved_bytes: u64,
    /// Each node that is an owner before or after, by id.
    pub nodes: Vec<NodeMove>,
    /// The node that would have joined.
    pub newcomer: Option<NodeId>,
    /// Agreed state and placement afterwards.
    pub state: ClusterState,
    pub placement: Placement,
}

/// What a change would mean for one node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeMove {
    pub id: NodeId,
    pub zone: String,
    pub slots_before: u64,
    pub slots_after: u64,
    /// Slots that it would own and does not now, and bytes to fetch for them.
    pub gains: u64,
    pub fetches_bytes: u64,
    /// Bytes it would hold in the end.
    pub bytes_after: u64,
}

/// Looks at a change. `bytes` is what each node says it holds. Refusals are
/// [`Error::Invalid`].
pub fn preview(
    state: &ClusterState,
    change: &Change,
    bytes: &BTreeMap<NodeId, u64>,
) -> Result<Preview, Error> {
    let before = match change {
        Change::Nothing => state.epochs.first(),
        _ => state.epochs.last(),
    };
    let newcomer = matches!(change, Change::Join { .. }).then(|| fresh_id(state));
    let mut after = state.clone();
    for command in commands(change, newcomer) {
        let effects = apply(&mut after, &NoRows, 0, command)?;
        if let Response::Refused { reason } = effects.response {
            return Err(Error::Invalid(reason));
        }
    }
    let none = EpochPlan {
        epoch: Epoch(0),
        replicas: 0,
        nodes: BTreeMap::new(),
        handed_off: BTreeSet::new(),
    };
    let before = Placement::compute(before.unwrap_or(&none));
    let placement = Placement::compute(after.epochs.last().unwrap_or(&none));
    let nodes = moves(&before, &placement, bytes);
    Ok(Preview {
        from: before.epoch(),
        to: placement.epoch(),
        copies: (before.width(), placement.width()),
        moved: nodes.iter().map(|node| node.gains).sum(),
        ideal: ideal(&before, &placement),
        moved_bytes: nodes.iter().map(|node| node.fetches_bytes).sum(),
        nodes,
        newcomer,
        state: after,
        placement,
    })
}

/// The commands that would make a change.
fn commands(change: &Change, newcomer: Option<NodeId>) -> Vec<Command> {
    match (change.clone(), newcomer) {
        (Change::Join { zone, weight }, Some(id)) => {
            let own = format!("new-{id}");
            let member = Member {
                name: own.clone(),
                zone,
                host: own.clone(),
                weight,
                peer_address: own,
                client_address: String::new(),
                admin_address: String::new(),
                status: MemberStatus::Joining,
                boot: 0,
            };
            let nodes = vec![id];
            vec![
                Command::AddMember { id, member },
                Command::Activate { nodes },
            ]
        }
        (Change::Nothing | Change::Join { .. }, _) => Vec::new(),
        (Change::Drain(id), _) => vec![Command::Drain { id, on: true }],
        (Change::Remove(id), _) => vec![Command::Remove { id, force: true }],
        (
            Change::Relabel {
                id,
                zone,
                host,
                weight,
            },
            _,
        ) => vec![Command::Relabel {
            id,
            zone,
            host,
            weight,
        }],
        (Change::Settle(settings), _) => vec![Command::Settle { settings }],
    }
}

/// An id that no node has: the real one is random, and its share differs by as
/// little as points on the ring do.
fn fresh_id(state: &ClusterState) -> NodeId {
    let hash = Digest::of(b"a node that joins").hash;
    let first = u64::from_be_bytes(*hash.first_chunk().unwrap_or(&[1; 8]));
    let taken = |id: &NodeId| state.members.contains_key(id) || state.removed.contains(id);
    (0..=u64::MAX)
        .map(|step| NodeId(first.wrapping_add(step)))
        .find(|id| !taken(id))
        .unwrap_or(NodeId(first))
}

fn moves(before: &Placement, after: &Placement, bytes: &BTreeMap<NodeId, u64>) -> Vec<NodeMove> {
    let ids: BTreeSet<_> = before.nodes().chain(after.nodes()).collect();
    let zone = |placement: &Placement, id| Some(placement.zones()[placement.zone(id)?].clone());
    let mut moves: BTreeMap<_, _> = ids
        .into_iter()
        .map(|id| {
            let node = NodeMove {
                id,
                zone: zone(after, id)
                    .or_else(|| zone(before, id))
                    .unwrap_or_default(),
                slots_before: before.slots_of(id) as u64,
                slots_after: after.slots_of(id) as u64,
                gains: 0,
                fetches_bytes: 0,
                bytes_after: 0,
            };
            (id, node)
        })
        .collect();
    let slot_bytes = slot_bytes(before, &moves, bytes);
    for (slot, bytes) in Slot::all().zip(slot_bytes) {
        let had = before.owners(slot);
        for owner in after.owners(slot) {
            let Some(node) = moves.get_mut(&owner) else {
                continue;
            };
            node.bytes_after += bytes;
            if !had.clone().any(|old| old == owner) {
                node.gains += 1;
                node.fetches_bytes += bytes;
            }
        }
    }
    moves.into_values().collect()
}

/// Bytes of one copy of each slot: the mean of what its owners have, as far as
/// they say; else the mean of all slots.
fn slot_bytes(
    placement: &Placement,
    nodes: &BTreeMap<NodeId, NodeMove>,
    bytes: &BTreeMap<NodeId, u64>,
) -> Vec<u64> {
    if placement.width() == 0 {
        return vec![0; SLOTS];
    }
    let each: BTreeMap<_, _> = nodes
        .values()
        .filter(|node| node.slots_before > 0)
        .filter_map(|node| Some((node.id, bytes.get(&node.id)? / node.slots_before)))
        .collect();
    let mean = each.values().sum::<u64>() / each.len().max(1) as u64;
    Slot::all()
        .map(|slot| {
            let known = placement.owners(slot).filter_map(|owner| each.get(&owner));
            let (sum, count) =
                known.fold((0_u64, 0), |(sum, count), bytes| (sum + bytes, count + 1));
            sum.checked_div(count).unwrap_or(mean)
        })
        .collect()
}

/// What must move at least, by fair shares alone.
fn ideal(before: &Placement, after: &Placement) -> u64 {
    let fair = |placement: &Placement| -> BTreeMap<_, _> {
        placement.nodes().zip(placement.fair_shares()).collect()
    };
    let had = fair(before);
    let more = |(id, share): (NodeId, u64)| {
        share.saturating_sub(had.get(&id).copied().unwrap_or_default())
    };
    fair(after).into_iter().map(more).sum()
}

/// No change that is looked at here reads refs.
struct NoRows;

impl RefRows for NoRows {
    fn get(&self, _: &RefKey) -> Result<Option<Ref>, Error> {
        Ok(None)
    }
}
