//! The one function that changes agreed state.
//!
//! Every node applies the same commands in the same order, so every rule here
//! is a function of state, rows and command alone: no clock, no randomness, no
//! order of a hash map. A command that breaks a rule is answered
//! [`Response::Refused`] and changes nothing; it stays in the log all the same.
//!
//! Rules are checked before the first change. That is why there is no undo: an
//! error (rows that cannot be read) or a refusal leaves the state as it was.

mod members;

pub use members::goes_on;

use std::collections::BTreeSet;

use super::{
    ClusterState, Command, Effects, EpochPlan, LIVE_EPOCHS, Member, MemberStatus, Ref, RefKey,
    RefRows, RefValue, Response, Settings, Share,
};
use crate::{
    ClusterId, Epoch, Error, NodeId,
    planted::{self, Bug},
};

/// Most rows of the node table: the table travels whole to every watcher.
pub const MAX_MEMBERS: usize = 1_024;

/// Longest name, zone, host or address of a member, in bytes.
pub const MAX_LABEL_BYTES: usize = 255;

/// Largest share of the ring, relative to a node of weight 1. A ring point is
/// kept per unit, so this bounds the ring.
pub const MAX_WEIGHT: u32 = 1_000;

/// Most refs that one command writes or removes: they are applied in one step,
/// and every node waits for it.
pub const MAX_REFS_PER_COMMAND: usize = 4_096;

/// Longest key of a ref: instance, URI and qualifiers together, in bytes.
/// Keys are held in pages of the row store; BuildStream's take a few hundred.
pub const MAX_REF_KEY_BYTES: usize = 16 * 1024;

/// Applies one command. `revision` is its log index.
///
/// On an error nothing was changed; the only cause is that `rows` cannot be read.
pub fn apply(
    state: &mut ClusterState,
    rows: &dyn RefRows,
    revision: u64,
    command: Command,
) -> Result<Effects, Error> {
    if state.cluster.is_none() && !matches!(command, Command::Found { .. }) {
        return Ok(refused("the cluster is not founded yet"));
    }
    let done = match command {
        Command::Found { cluster, settings } => found(state, cluster, settings),
        Command::SetRefs { keys, value } => set_refs(keys, &value, revision),
        Command::RemoveRefs { refs } => remove_refs(rows, refs)?,
        Command::AddMember { id, member } => members::add(state, id, member),
        Command::Announce {
            id,
            peer_address,
            client_address,
            admin_address,
            boot,
            known_boots,
        } => {
            let addresses = [peer_address, client_address, admin_address];
            members::announce(state, id, addresses, boot, &known_boots)
        }
        Command::Activate { nodes } => activate(state, &nodes),
        Command::Drain { id, on } => members::drain(state, id, on),
        Command::Remove { id, force } => members::remove(state, id, force),
        Command::Replace { old, id, member } => members::replace(state, old, id, member),
        Command::Relabel {
            id,
            zone,
            host,
            weight,
        } => members::relabel(state, id, zone, host, weight),
        Command::HandedOff { id, epoch } => members::handed_off(state, id, epoch),
        Command::Settle { settings } => settle(state, settings),
    };
    Ok(match done {
        Ok(Change { changed, rows }) => Effects {
            changed,
            rows,
            response: Response::Done { revision },
        },
        Err(reason) => refused(reason),
    })
}

/// What a command that was not refused did.
struct Change {
    changed: bool,
    rows: Vec<(RefKey, Option<Ref>)>,
}

const UNCHANGED: Change = Change {
    changed: false,
    rows: Vec::new(),
};

const CHANGED: Change = Change {
    changed: true,
    rows: Vec::new(),
};

type Refusal = String;

fn refused(reason: impl Into<String>) -> Effects {
    Effects {
        changed: false,
        rows: Vec::new(),
        response: Response::Refused {
            reason: reason.into(),
        },
    }
}

fn found(
    state: &mut ClusterState,
    cluster: ClusterId,
    settings: Settings,
) -> Result<Change, Refusal> {
    if let Some(existing) = state.cluster {
        return Err(format!("cluster {existing} is founded already"));
    }
    settings.check()?;
    state.cluster = Some(cluster);
    state.settings = settings;
    Ok(CHANGED)
}

fn set_refs(keys: Vec<RefKey>, value: &RefValue, revision: u64) -> Result<Change, Refusal> {
    if keys.is_empty() {
        return Err("no keys to set".into());
    }
    check_count(keys.len())?;
    for key in &keys {
        let bytes = key.text_bytes();
        if bytes > MAX_REF_KEY_BYTES {
            return Err(format!(
                "key of {bytes} bytes is longer than {MAX_REF_KEY_BYTES}"
            ));
        }
    }
    let mut unique: BTreeSet<_> = keys.into_iter().collect();
    if planted::is(Bug::UrisOneByOne) {
        unique = unique.into_iter().take(1).collect();
    }
    let row = Ref {
        value: value.clone(),
        revision,
    };
    Ok(Change {
        changed: false,
        rows: unique
            .into_iter()
            .map(|key| (key, Some(row.clone())))
            .collect(),
    })
}

/// A ref that was written again since the caller looked has another revision
/// and stays: a withdrawal never takes away a newer push.
fn remove_refs(
    rows: &dyn RefRows,
    refs: Vec<(RefKey, u64)>,
) -> Result<Result<Change, Refusal>, Error> {
    if let Err(reason) = check_count(refs.len()) {
        return Ok(Err(reason));
    }
    let mut removed = BTreeSet::new();
    for (key, revision) in refs {
        let as_seen = |row: Ref| row.revision == revision || planted::is(Bug::NewerPushWithdrawn);
        if rows.get(&key)?.is_some_and(as_seen) {
            removed.insert(key);
        }
    }
    Ok(Ok(Change {
        changed: false,
        rows: removed.into_iter().map(|key| (key, None)).collect(),
    }))
}

fn activate(state: &mut ClusterState, nodes: &[NodeId]) -> Result<Change, Refusal> {
    let mut joining = BTreeSet::new();
    for id in nodes {
        match state.members.get(id).map(|member| member.status) {
            Some(MemberStatus::Joining) => {
                joining.insert(*id);
            }
            Some(MemberStatus::Active) => {}
            Some(MemberStatus::Draining) => {
                return Err(format!("node {id} is draining"));
            }
            None => return Err(format!("node {id} is no member")),
        }
    }
    if joining.is_empty() {
        return Ok(UNCHANGED);
    }
    check_room_for_epoch(state)?;
    for id in joining {
        if let Some(member) = state.members.get_mut(&id) {
            member.status = MemberStatus::Active;
        }
    }
    begin_epoch(state);
    Ok(CHANGED)
}

fn settle(state: &mut ClusterState, settings: Settings) -> Result<Change, Refusal> {
    settings.check()?;
    if settings == state.settings {
        return Ok(UNCHANGED);
    }
    // Before the first epoch there is no placement to replace.
    let moves = settings.replicas != state.settings.replicas && !state.epochs.is_empty();
    if moves {
        check_room_for_epoch(state)?;
    }
    state.settings = settings;
    if moves {
        begin_epoch(state);
    }
    Ok(CHANGED)
}

/// Adds the placement that follows from the active members and the settings.
fn begin_epoch(state: &mut ClusterState) {
    let last = state.epochs.last().map_or(Epoch(0), |plan| plan.epoch);
    let nodes = state
        .members
        .iter()
        .filter(|(_, member)| member.status == MemberStatus::Active)
        .map(|(id, member)| {
            let share = Share {
                zone: member.zone.clone(),
                host: member.host.clone(),
                weight: member.weight,
            };
            (*id, share)
        })
        .collect();
    state.epochs.push(EpochPlan {
        epoch: Epoch(last.0 + 1),
        replicas: state.settings.replicas,
        nodes,
        handed_off: BTreeSet::new(),
    });
}

fn check_room_for_epoch(state: &ClusterState) -> Result<(), Refusal> {
    if state.epochs.len() < LIVE_EPOCHS {
        return Ok(());
    }
    let oldest = state.epochs.first().map_or(Epoch(0), |plan| plan.epoch);
    Err(format!(
        "{LIVE_EPOCHS} epochs are alive already; a new one can begin when the handoff \
         from epoch {oldest} has finished"
    ))
}

fn check_count(refs: usize) -> Result<(), Refusal> {
    if refs > MAX_REFS_PER_COMMAND {
        return Err(format!(
            "{refs} refs in one command, at most {MAX_REFS_PER_COMMAND} are taken"
        ));
    }
    Ok(())
}
