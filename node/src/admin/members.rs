//! Members that come, change and go.
//!
//! The agreed rules are in [`weir_cluster::state`]. Here is what no agreed
//! state knows: whether a member answers, and whether what it holds is held
//! elsewhere as well.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tonic::Status;
use weir_cluster::{
    NodeId,
    peer::Report,
    placement::{loss::last_copies, view::View},
    state::{ClusterState, Command, Member, MemberStatus, Response as Answer},
};
use weir_proto::cluster::{JoinRequest, RelabelRequest, RemoveRequest};

use super::{
    Admin,
    survey::{Survey, report},
};
use crate::{
    api,
    planted::{self, Bug},
    status::bytes_text,
};

/// Asked so often in vain, a member counts as gone: a restart, or one lost
/// message, must not cost a node its place.
const ASK_TIMES: u32 = 3;
const ASK_PAUSE: Duration = Duration::from_millis(500);

/// How long a call waits for a cluster that is being founded.
const FOUND_PATIENCE: Duration = Duration::from_secs(5);

/// Most names that a message lists.
const NAMES_LISTED: usize = 20;

impl Admin {
    /// Agreed state that is as new as this call.
    pub(super) async fn fresh_state(&self) -> Result<Arc<ClusterState>, Status> {
        let consensus = &self.parts.consensus;
        let mut state = consensus.state();
        let founded = state.wait_for(|state| state.cluster.is_some());
        let founded = tokio::time::timeout(FOUND_PATIENCE, founded).await;
        let is_founded = matches!(founded, Ok(Ok(_)));
        drop(founded);
        if !is_founded {
            return Err(Status::unavailable(
                "this node knows no cluster yet: it is just being founded, or this node has not \
                 reached the others; try again",
            ));
        }
        let barrier = consensus.barrier().await;
        barrier.map_err(|error| api::status::of(&error))?;
        let state = state.borrow().clone();
        Ok(state)
    }

    pub(super) async fn propose(&self, command: Command) -> Result<(), Status> {
        match self.parts.consensus.propose(command).await {
            Ok(Answer::Done { .. }) => Ok(()),
            Ok(Answer::Refused { reason }) => Err(Status::failed_precondition(reason)),
            Err(error) => Err(api::status::of(&error)),
        }
    }

    /// Enters a node in the node table; under a dead member's name, in its place.
    pub(super) async fn join(&self, request: JoinRequest) -> Result<NodeId, Status> {
        let state = self.fresh_state().await?;
        let id = NodeId::mint(&mut rand::rng());
        let member = Member {
            name: request.name,
            zone: request.zone,
            host: request.host,
            weight: request.weight,
            peer_address: request.peer_address,
            client_address: request.client_address,
            admin_address: request.admin_address,
            status: MemberStatus::Joining,
            boot: 0,
        };
        let named = |(_, known): &(&NodeId, &Member)| known.name == member.name;
        let command = match state.members.iter().find(named) {
            None => Command::AddMember { id, member },
            Some((old, known)) => {
                let (old, name) = (*old, &known.name);
                if self.answer(old).await.is_ok() {
                    return Err(Status::already_exists(format!(
                        "the name {name:?} is taken by a node that answers ({old} at {}); \
                         choose another node.name",
                        known.peer_address
                    )));
                }
                let slots = self.slots_at_stake(&state, old).await;
                if slots > 0 {
                    return Err(Status::failed_precondition(format!(
                        "the name {name:?} is taken by a node that does not answer and may have \
                         the last copies of {slots} of 16384 slots; start it again on its own \
                         data directory or, if it is gone for good: \
                         weir node remove --dead {name} --force-lose, and join again"
                    )));
                }
                tracing::info!(%old, new = %id, name, "a new node takes the place of a dead one");
                Command::Replace { old, id, member }
            }
        };
        self.propose(command).await?;
        Ok(id)
    }

    /// Makes a member owner of nothing, or calls it back.
    pub(super) async fn drain(&self, named: &str, cancel: bool) -> Result<String, Status> {
        let state = self.fresh_state().await?;
        let id = find(&state, named)?;
        let Member { name, status, .. } = &state.members[&id];
        let on = !cancel;
        match (status, on) {
            (MemberStatus::Draining, true) => {
                return Ok(format!("{name} is draining already"));
            }
            (MemberStatus::Active | MemberStatus::Joining, false) => {
                return Ok(format!("{name} is not draining"));
            }
            (MemberStatus::Draining, false) => {}
            (MemberStatus::Active | MemberStatus::Joining, true) => {
                check_owners_left(&state, id)?;
            }
        }
        self.propose(Command::Drain { id, on }).await?;
        if !on {
            return Ok(format!(
                "{name} is called back; it owns its share again as soon as it has caught up"
            ));
        }
        let mut message = format!("{name} drains: its blobs move to the others");
        let others = owners(&state, id);
        if others < state.settings.replicas as usize {
            message += &format!(
                "; {others} are left to hold copies, {} are wanted of each blob",
                state.settings.replicas
            );
        }
        if let Err(why) = report(&self.parts, id).await {
            message +=
                &format!("; it does not answer now ({why}), so what only it holds cannot move yet");
        }
        Ok(message)
    }

    /// Takes a member out for ever.
    pub(super) async fn remove(&self, request: &RemoveRequest) -> Result<String, Status> {
        let state = self.fresh_state().await?;
        let id = find(&state, &request.node)?;
        let name = &state.members[&id].name;
        let answer = self.answer(id).await;
        if request.dead {
            if answer.is_ok() {
                return Err(Status::failed_precondition(format!(
                    "{name} answers; drain it, so that nothing is lost: \
                     weir node drain {name} --wait"
                )));
            }
            let slots = self.slots_at_stake(&state, id).await;
            if slots > 0 && !request.force_lose {
                return Err(Status::failed_precondition(format!(
                    "without {name}, {slots} of 16384 slots would lose their last copies: no \
                     other owner of theirs answers, or what {name} had has not moved to them \
                     yet. Bring {name} or another of their owners back or, if they are gone for \
                     good: weir node remove --dead {name} --force-lose"
                )));
            }
            self.propose(Command::Remove { id, force: true }).await?;
            return Ok(format!(
                "{name} was removed; the others make up for its copies, see `weir status`"
            ));
        }
        let report = match answer {
            Ok(report) => Some(report),
            Err(_) if request.force_lose => None,
            Err(why) => {
                return Err(Status::failed_precondition(format!(
                    "{name} does not answer ({why}); if it is gone for good: \
                     weir node remove --dead {name}"
                )));
            }
        };
        if let Some(report) = report.filter(|_| !request.force_lose) {
            check_drained(&state, id, &report)?;
        }
        let force = request.force_lose;
        self.propose(Command::Remove { id, force }).await?;
        Ok(format!(
            "{name} was removed; stop its process. Its data directory is of no use any more"
        ))
    }

    /// Changes zone, host or weight; what is not named stays.
    pub(super) async fn relabel(&self, request: RelabelRequest) -> Result<String, Status> {
        let state = self.fresh_state().await?;
        let id = find(&state, &request.node)?;
        let old = &state.members[&id];
        let row = relabelled(old, &request)?;
        if row == *old {
            return Ok(format!("nothing changes: {} is so already", old.name));
        }
        let moves = old.status == MemberStatus::Active;
        let command = Command::Relabel {
            id,
            zone: row.zone.clone(),
            host: row.host.clone(),
            weight: row.weight,
        };
        self.propose(command).await?;
        let after = if moves {
            "; a new epoch begins and blobs move, see `weir status`"
        } else {
            ""
        };
        Ok(format!(
            "{} is in zone {}, on host {}, with weight {}{after}. Say the same in its weir.toml",
            row.name, row.zone, row.host, row.weight
        ))
    }

    /// A member's account of itself; why there is none, after asking again.
    async fn answer(&self, id: NodeId) -> Result<Report, String> {
        let mut answer = report(&self.parts, id).await;
        for _ in 1..ASK_TIMES {
            if answer.is_ok() {
                break;
            }
            tokio::time::sleep(ASK_PAUSE).await;
            answer = report(&self.parts, id).await;
        }
        answer
    }

    /// Slots whose last copies may be at a member that does not answer.
    pub(super) async fn slots_at_stake(&self, state: &Arc<ClusterState>, id: NodeId) -> u64 {
        if planted::is(Bug::LastCopiesForgotten) {
            return 0;
        }
        let survey = Survey::take(&self.parts).await;
        let view = View::from_state(self.parts.me, state, Some(&survey.view));
        last_copies(view.placements(), id, &gone(&survey, &view))
    }
}

/// Nodes of any placement alive that are no members, or do not answer.
fn gone(survey: &Survey, view: &View) -> BTreeSet<NodeId> {
    let placed = view.placements().iter().flat_map(|p| p.nodes());
    placed.filter(|id| !survey.is_up(*id)).collect()
}

/// A member by name or id.
pub(super) fn find(state: &ClusterState, named: &str) -> Result<NodeId, Status> {
    let by_name = state.members.iter().find(|(_, row)| row.name == named);
    if let Some((id, _)) = by_name {
        return Ok(*id);
    }
    match named.parse::<NodeId>() {
        Ok(id) if state.members.contains_key(&id) => Ok(id),
        Ok(id) if state.removed.contains(&id) => {
            Err(Status::not_found(format!("node {id} was removed already")))
        }
        _ => {
            let rows = state.members.values().take(NAMES_LISTED);
            let mut names: Vec<_> = rows.map(|row| row.name.as_str()).collect();
            names.sort_unstable();
            if state.members.len() > NAMES_LISTED {
                names.push("...");
            }
            Err(Status::not_found(format!(
                "no member is named {named:?}; there are {}",
                names.join(", ")
            )))
        }
    }
}

/// A member as it would be with its labels changed.
pub(super) fn relabelled(old: &Member, request: &RelabelRequest) -> Result<Member, Status> {
    let RelabelRequest {
        zone, host, weight, ..
    } = request;
    if zone.is_none() && host.is_none() && weight.is_none() {
        return Err(Status::invalid_argument(
            "name what to change: --zone, --host or --weight",
        ));
    }
    Ok(Member {
        zone: zone.clone().unwrap_or_else(|| old.zone.clone()),
        host: host.clone().unwrap_or_else(|| old.host.clone()),
        weight: weight.unwrap_or(old.weight),
        ..old.clone()
    })
}

/// Active members without this one.
fn owners(state: &ClusterState, without: NodeId) -> usize {
    let active = state
        .members
        .iter()
        .filter(|(id, row)| **id != without && row.status == MemberStatus::Active);
    active.count()
}

/// Refuses to leave fewer owners than uploads need.
fn check_owners_left(state: &ClusterState, id: NodeId) -> Result<(), Status> {
    let (left, needed) = (owners(state, id), state.settings.write_quorum as usize);
    if left >= needed {
        return Ok(());
    }
    let name = &state.members[&id].name;
    let left = match left {
        0 => "no other active member".into(),
        1 => "1 active member".to_owned(),
        _ => format!("{left} active members"),
    };
    Err(Status::failed_precondition(format!(
        "{name} cannot drain: {left} would be left, and an upload is answered at {needed} copies \
         (write_quorum). Let another node join first, or ask for fewer copies: \
         weir settings set write_quorum=..."
    )))
}

/// Refuses to remove a member that may hold the only copy of a blob.
fn check_drained(state: &ClusterState, id: NodeId, report: &Report) -> Result<(), Status> {
    let Member { name, status, .. } = &state.members[&id];
    let advice = format!("weir node drain {name} --wait");
    if *status == MemberStatus::Active {
        return Err(Status::failed_precondition(format!(
            "{name} is active and owns blobs; drain it first: {advice}"
        )));
    }
    let repair = &report.repair;
    let mut holds = Vec::new();
    if repair.surplus_blobs > 0 {
        holds.push(format!(
            "{} blobs ({}) are not confirmed elsewhere",
            repair.surplus_blobs,
            bytes_text(repair.surplus_bytes)
        ));
    }
    let epochs: Vec<_> = state
        .epochs
        .iter()
        .filter(|plan| plan.nodes.contains_key(&id))
        .map(|plan| plan.epoch.to_string())
        .collect();
    if !epochs.is_empty() {
        holds.push(format!(
            "it still serves epoch {}, from which blobs are moving",
            epochs.join(", ")
        ));
    }
    if !repair.settled && holds.is_empty() {
        // It may hold what it was never asked about.
        let trouble = match &*repair.trouble {
            "" => "it has not compared all it holds with the others yet",
            trouble => trouble,
        };
        holds.push(trouble.to_owned());
    }
    // One that never served holds nothing, whether it has looked or not.
    let untouched = *status == MemberStatus::Joining && epochs.is_empty() && report.blobs == 0;
    if holds.is_empty() || untouched || planted::is(Bug::RemovedUndrained) {
        return Ok(());
    }
    Err(Status::failed_precondition(format!(
        "{name} may hold the only copy of a blob: {}. Wait for it: {advice}",
        holds.join("; ")
    )))
}
