//! What the loss of nodes would cost, by placement alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::Placement;
use crate::{NodeId, Slot, state::ClusterState};

/// What the loss of a whole zone would cost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ZoneLoss {
    pub zone: String,
    /// Members in it.
    pub nodes: u64,
    /// Slots of which every copy is there.
    pub slots_lost: u64,
    /// Slots of which a single copy would be left.
    pub slots_single: u64,
    /// Voters in it.
    pub voters: u64,
    /// Whether the voters elsewhere are no majority: pushes would wait.
    pub majority_lost: bool,
}

/// One entry for each zone that has a member or an owner, by name.
#[must_use]
pub fn zone_losses(
    state: &ClusterState,
    placement: &Placement,
    voters: &BTreeSet<NodeId>,
) -> Vec<ZoneLoss> {
    let mut zones: BTreeMap<&str, ZoneLoss> = BTreeMap::new();
    let members = state.members.values().map(|member| &*member.zone);
    for zone in members.chain(placement.zones().iter().map(|zone| &**zone)) {
        zones.entry(zone).or_insert_with(|| ZoneLoss {
            zone: zone.to_owned(),
            nodes: 0,
            slots_lost: 0,
            slots_single: 0,
            voters: 0,
            majority_lost: false,
        });
    }
    for (id, member) in &state.members {
        if let Some(loss) = zones.get_mut(&*member.zone) {
            loss.nodes += 1;
            loss.voters += u64::from(voters.contains(id));
        }
    }
    let width = placement.width();
    let mut there = vec![0; placement.zones().len()];
    for slot in Slot::all() {
        there.fill(0);
        for number in placement.owner_numbers(slot) {
            there[usize::from(placement.nodes[usize::from(*number)].zone)] += 1;
        }
        for (zone, copies) in placement.zones().iter().zip(&there) {
            if let Some(loss) = zones.get_mut(&**zone).filter(|_| *copies > 0) {
                loss.slots_lost += u64::from(*copies == width);
                loss.slots_single += u64::from(*copies + 1 == width);
            }
        }
    }
    let all = voters.len() as u64;
    let mut losses: Vec<_> = zones.into_values().collect();
    for loss in &mut losses {
        loss.majority_lost = loss.voters > 0 && 2 * (all - loss.voters) <= all;
    }
    losses
}

/// Slots whose last copies may go with a node: those it owns in an epoch alive,
/// while every other owner of that epoch is among the `gone`. Older epochs count
/// as well, because blobs may not have moved on from them yet.
#[must_use]
pub fn last_copies(placements: &[Arc<Placement>], node: NodeId, gone: &BTreeSet<NodeId>) -> u64 {
    let lost = |placement: &Placement, slot| {
        let mut owners = placement.owners(slot);
        owners.clone().any(|owner| owner == node)
            && owners.all(|owner| owner == node || gone.contains(&owner))
    };
    let slots = Slot::all().filter(|slot| placements.iter().any(|p| lost(p, *slot)));
    slots.count() as u64
}
