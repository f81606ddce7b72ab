//! Members that come, leave, come in another's place, or change.
//!
//! Rules: a removed id never comes back; the last owner cannot leave; an epoch
//! is retired only by handoff marks, so no placement that may still be needed
//! to find a blob is ever dropped.

use super::{
    CHANGED, Change, MAX_LABEL_BYTES, MAX_MEMBERS, MAX_WEIGHT, Member, MemberStatus, NodeId,
    Refusal, UNCHANGED, begin_epoch, check_room_for_epoch,
};
use crate::{
    Epoch,
    planted::{self, Bug},
    state::ClusterState,
};

pub(super) fn add(state: &mut ClusterState, id: NodeId, member: Member) -> Result<Change, Refusal> {
    if let Some(row) = state.members.get(&id) {
        return if row.name == member.name {
            // The same node asks again; its addresses change by Announce.
            Ok(UNCHANGED)
        } else {
            Err(format!("node id {id} belongs to member {:?}", row.name))
        };
    }
    if state.removed.contains(&id) && !planted::is(Bug::RemovedIdReused) {
        return Err(format!("node {id} was removed from the cluster"));
    }
    let taken = state
        .members
        .iter()
        .find(|(_, row)| row.name == member.name);
    if let Some((other, _)) = taken {
        return Err(format!(
            "the name {:?} is taken by node {other}",
            member.name
        ));
    }
    if state.members.len() >= MAX_MEMBERS {
        return Err(format!("a cluster has at most {MAX_MEMBERS} members"));
    }
    check_member(&member)?;
    let (status, boot) = (MemberStatus::Joining, 0);
    let row = Member {
        status,
        boot,
        ..member
    };
    state.members.insert(id, row);
    Ok(CHANGED)
}

pub(super) fn announce(
    state: &mut ClusterState,
    id: NodeId,
    addresses: [String; 3],
    boot: u64,
    known_boots: &[u64],
) -> Result<Change, Refusal> {
    for address in &addresses {
        check_label("address", address)?;
    }
    let was_removed = state.removed.contains(&id);
    let Some(member) = state.members.get_mut(&id) else {
        let why = if was_removed {
            "was removed from the cluster"
        } else {
            "is no member"
        };
        return Err(format!("node {id} {why}"));
    };
    if !goes_on(member.boot, boot, known_boots) {
        return Err(format!(
            "node {id} comes from an older copy of its data directory: it has started since"
        ));
    }
    // An address may be another member's old one: machines swap addresses, and
    // that member announces its own. Callers name the node they mean.
    let [peer_address, client_address, admin_address] = addresses;
    let row = Member {
        peer_address,
        client_address,
        admin_address,
        boot,
        ..member.clone()
    };
    let changed = row != *member;
    *member = row;
    Ok(Change {
        changed,
        rows: Vec::new(),
    })
}

/// Whether a start goes on from the one that was announced last: the data
/// directory knows it, or it is the same start that asks again.
#[must_use]
pub fn goes_on(announced: u64, boot: u64, known_boots: &[u64]) -> bool {
    let knows_it = known_boots.contains(&announced) || planted::is(Bug::OldCopyLetIn);
    announced == 0 || announced == boot || knows_it
}

pub(super) fn drain(state: &mut ClusterState, id: NodeId, on: bool) -> Result<Change, Refusal> {
    let status = status_of(state, id)?;
    let wanted = match (status, on) {
        (MemberStatus::Draining, true)
        | (MemberStatus::Active, false)
        | (MemberStatus::Joining, false) => return Ok(UNCHANGED),
        // It owns nothing yet, so no epoch has to begin.
        (MemberStatus::Joining, true) => {
            set_status(state, id, MemberStatus::Draining);
            return Ok(CHANGED);
        }
        (MemberStatus::Active, true) => MemberStatus::Draining,
        // Becomes an owner as a joining node does: when it has caught up.
        (MemberStatus::Draining, false) => {
            set_status(state, id, MemberStatus::Joining);
            return Ok(CHANGED);
        }
    };
    check_owners_left(state, id)?;
    check_room_for_epoch(state)?;
    set_status(state, id, wanted);
    begin_epoch(state);
    Ok(CHANGED)
}

pub(super) fn remove(state: &mut ClusterState, id: NodeId, force: bool) -> Result<Change, Refusal> {
    let status = status_of(state, id)?;
    let owns = state.epochs.iter().any(|plan| plan.nodes.contains_key(&id));
    if !force && status == MemberStatus::Active {
        return Err(format!("node {id} owns blobs; drain it first"));
    }
    if !force && owns && !planted::is(Bug::RemovedWhileOwner) {
        return Err(format!(
            "node {id} has not drained yet: blobs are still moving away from it"
        ));
    }
    if status == MemberStatus::Active {
        check_owners_left(state, id)?;
    }
    take_out(state, id);
    let is_owner = |plan: &super::EpochPlan| plan.nodes.contains_key(&id);
    // A removal is the way out when handoffs wait for a dead node, so it may
    // begin an epoch where all others have to wait.
    if state.epochs.last().is_some_and(is_owner) {
        begin_epoch(state);
    }
    retire(state);
    Ok(CHANGED)
}

pub(super) fn replace(
    state: &mut ClusterState,
    old: NodeId,
    id: NodeId,
    member: Member,
) -> Result<Change, Refusal> {
    status_of(state, old)?;
    let name = &state.members[&old].name;
    if *name != member.name {
        return Err(format!(
            "node {old} is named {name:?}, not {:?}",
            member.name
        ));
    }
    if state.members.contains_key(&id) || state.removed.contains(&id) {
        return Err(format!("node id {id} is taken"));
    }
    check_member(&member)?;
    // The old one stays an owner of the current epoch, in name only, until the
    // new one has caught up: one epoch moves less than two.
    take_out(state, old);
    add(state, id, member)?;
    retire(state);
    Ok(CHANGED)
}

pub(super) fn relabel(
    state: &mut ClusterState,
    id: NodeId,
    zone: String,
    host: String,
    weight: u32,
) -> Result<Change, Refusal> {
    status_of(state, id)?;
    let row = Member {
        zone,
        host,
        weight,
        ..state.members[&id].clone()
    };
    if state.members[&id] == row {
        return Ok(UNCHANGED);
    }
    check_member(&row)?;
    let moves = row.status == MemberStatus::Active;
    if moves {
        check_room_for_epoch(state)?;
    }
    state.members.insert(id, row);
    if moves {
        begin_epoch(state);
    }
    Ok(CHANGED)
}

pub(super) fn handed_off(
    state: &mut ClusterState,
    id: NodeId,
    epoch: Epoch,
) -> Result<Change, Refusal> {
    let Some(current) = state.epochs.last_mut() else {
        return Err("the cluster has no epoch yet".into());
    };
    if current.epoch != epoch {
        // A mark of an epoch that another has followed says nothing any more.
        return Ok(UNCHANGED);
    }
    if !current.nodes.contains_key(&id) {
        return Err(format!("node {id} owns nothing in epoch {epoch}"));
    }
    if !current.handed_off.insert(id) {
        return Ok(UNCHANGED);
    }
    retire(state);
    Ok(CHANGED)
}

/// Drops the epochs that nobody needs any more: all but the current one, once
/// every owner of it that is still a member holds what it owns.
fn retire(state: &mut ClusterState) {
    let Some(current) = state.epochs.last() else {
        return;
    };
    let mut owners = current
        .nodes
        .keys()
        .filter(|id| state.members.contains_key(id));
    let all_hold = match planted::is(Bug::EpochRetiredEarly) {
        true => owners.any(|id| current.handed_off.contains(id)),
        false => owners.all(|id| current.handed_off.contains(id)),
    };
    if all_hold && state.epochs.len() > 1 {
        state.epochs.drain(..state.epochs.len() - 1);
    }
}

fn take_out(state: &mut ClusterState, id: NodeId) {
    state.members.remove(&id);
    state.removed.insert(id);
}

fn status_of(state: &ClusterState, id: NodeId) -> Result<MemberStatus, Refusal> {
    match state.members.get(&id) {
        Some(member) => Ok(member.status),
        None if state.removed.contains(&id) => Err(format!("node {id} was removed already")),
        None => Err(format!("node {id} is no member")),
    }
}

fn set_status(state: &mut ClusterState, id: NodeId, status: MemberStatus) {
    if let Some(member) = state.members.get_mut(&id) {
        member.status = status;
    }
}

/// Refuses to take the last owner away.
fn check_owners_left(state: &ClusterState, id: NodeId) -> Result<(), Refusal> {
    let others = state
        .members
        .iter()
        .any(|(other, member)| *other != id && member.status == MemberStatus::Active);
    if others {
        return Ok(());
    }
    Err(format!(
        "node {id} is the last that owns blobs; let another join first"
    ))
}

fn check_member(member: &Member) -> Result<(), Refusal> {
    for (what, text) in [
        ("name", &member.name),
        ("zone", &member.zone),
        ("host", &member.host),
        ("peer address", &member.peer_address),
    ] {
        if text.is_empty() {
            return Err(format!("the {what} of a member is empty"));
        }
    }
    for (what, text) in [
        ("name", &member.name),
        ("zone", &member.zone),
        ("host", &member.host),
        ("address", &member.peer_address),
        ("address", &member.client_address),
        ("address", &member.admin_address),
    ] {
        check_label(what, text)?;
    }
    if !(1..=MAX_WEIGHT).contains(&member.weight) {
        return Err(format!(
            "weight is {}, expected 1 to {MAX_WEIGHT}",
            member.weight
        ));
    }
    Ok(())
}

fn check_label(what: &str, text: &str) -> Result<(), Refusal> {
    if text.len() > MAX_LABEL_BYTES {
        return Err(format!(
            "a member's {what} has {} bytes, at most {MAX_LABEL_BYTES} are taken",
            text.len()
        ));
    }
    Ok(())
}
