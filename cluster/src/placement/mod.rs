//! Placement: which nodes own each slot.
//!
//! ```text
//!   EpochPlan ──► ring of vnodes ──► walk from each slot ──► 16,384 × owners
//!   (agreed)      (ring.rs)          zones, hosts, cap       (this table)
//! ```
//!
//! A pure function of the plan that Raft agreed on. Promised, and pinned by
//! tests:
//!
//! - the same plan gives the same table on every node and in every build;
//! - a slot has min(R, nodes) owners, all different; in different zones as far
//!   as there are zones, then on different hosts as far as there are hosts;
//! - no node holds more than 1.03 of its fair share, unless nothing else fits;
//! - adding a node moves at most 1.24 of what must move, in clusters of up to
//!   ten nodes whose zones are of like size. One large zone of several that
//!   grows moves more (1.32 with four zones of four): the price of the cap.
//!
//! Zones come before the cap: the tempting order, cap first, would put two
//! copies into one zone whenever a small zone is at its cap, and so trade
//! survival of a zone (promise P2) for balance.

mod choose;
pub mod loss;
pub mod preview;
#[cfg(test)]
mod preview_tests;
mod shares;
#[cfg(test)]
mod tests;
pub mod view;
#[cfg(test)]
mod view_tests;
mod watch;
pub mod weaker;

use std::{collections::BTreeMap, fmt};

use shares::{Taker, water_fill};

use crate::{
    Epoch, NodeId, Slot,
    ring::{Ring, WEIGHT_LIMIT},
    state::{EpochPlan, Share},
    words::ids::SLOTS,
};

/// Most copies of a blob that placement gives; a larger R counts as this. Bounds
/// the fan-out of every write; seven copies survive six losses.
pub const REPLICA_LIMIT: usize = 7;

/// Most nodes that take part; bounds the table. Nodes beyond it (those with the
/// largest ids) own nothing.
pub const NODE_LIMIT: usize = 4_096;

/// How far a node may exceed its fair share, in percent.
const CAP_PERCENT: u64 = 103;

/// The owners of every slot in one epoch.
pub struct Placement {
    epoch: Epoch,
    /// Owners of each slot.
    width: usize,
    /// Ascending by id; a node's number is its index here.
    nodes: Vec<Place>,
    zones: Vec<String>,
    /// Numbers of the owners, `width` for each slot. Two bytes an entry: 96 KiB
    /// for three copies, where ids would take four times as much.
    table: Vec<u16>,
    ring: Ring,
}

struct Place {
    id: NodeId,
    zone: u16,
    host: u16,
    weight: u32,
}

impl Placement {
    /// Computes the table: some milliseconds for ten nodes.
    #[must_use]
    pub fn compute(plan: &EpochPlan) -> Self {
        let (nodes, zones) = number(&plan.nodes);
        let width = (plan.replicas as usize)
            .clamp(1, REPLICA_LIMIT)
            .min(nodes.len());
        let ring = Ring::new(nodes.iter().map(|node| (node.id, node.weight)));
        let mut placement = Self {
            epoch: plan.epoch,
            width,
            table: Vec::new(),
            nodes,
            zones,
            ring,
        };
        placement.table = placement.choose_all();
        placement
    }

    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Copies of each blob: R, or as many as there are nodes.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// The owners of a slot, in ring order.
    pub fn owners(&self, slot: Slot) -> impl ExactSizeIterator<Item = NodeId> + Clone + '_ {
        self.owner_numbers(slot)
            .iter()
            .map(|number| self.nodes[usize::from(*number)].id)
    }

    /// The nodes that hold a slot's blobs for owners that are down, first to
    /// last: nodes in zones without an owner before the others, each in ring
    /// order. Readers and writers use the same order. Walks the ring: for the
    /// paths on which something has failed.
    #[must_use]
    pub fn stand_ins(&self, slot: Slot) -> Vec<NodeId> {
        let owners = self.owner_numbers(slot);
        let mut rest: Vec<u16> = self
            .walk(beginning(slot))
            .filter(|number| !owners.contains(number))
            .collect();
        let zone_of = |number: u16| self.nodes[usize::from(number)].zone;
        rest.sort_by_key(|number| {
            owners
                .iter()
                .any(|owner| zone_of(*owner) == zone_of(*number))
        });
        rest.into_iter()
            .map(|number| self.nodes[usize::from(number)].id)
            .collect()
    }

    /// Nodes that take part, ascending.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = NodeId> + Clone + '_ {
        self.nodes.iter().map(|node| node.id)
    }

    #[must_use]
    pub fn contains(&self, node: NodeId) -> bool {
        self.number_of(node).is_some()
    }

    /// A node's zone, as a number below the number of zones.
    #[must_use]
    pub fn zone(&self, node: NodeId) -> Option<usize> {
        Some(usize::from(self.nodes[self.number_of(node)?].zone))
    }

    /// Zones of the nodes that take part.
    #[must_use]
    pub fn zones(&self) -> &[String] {
        &self.zones
    }

    /// Slots that a node owns.
    #[must_use]
    pub fn slots_of(&self, node: NodeId) -> usize {
        let Some(number) = self.number_of(node) else {
            return 0;
        };
        self.table
            .iter()
            .filter(|owner| usize::from(**owner) == number)
            .count()
    }

    fn number_of(&self, node: NodeId) -> Option<usize> {
        self.nodes
            .binary_search_by_key(&node, |place| place.id)
            .ok()
    }

    fn owner_numbers(&self, slot: Slot) -> &[u16] {
        &self.table[slot.index() * self.width..][..self.width]
    }

    /// Numbers of all nodes in ring order from a position.
    fn walk(&self, position: u64) -> impl Iterator<Item = u16> + '_ {
        self.ring
            .walk(position)
            .filter_map(|node| self.number_of(node).map(|number| number as u16))
    }

    /// The most slots that each node is given while others have room.
    fn caps(&self) -> Vec<u64> {
        let shares = self.fair_shares();
        let cap = |share: u64| (share * CAP_PERCENT).div_ceil(100);
        shares.into_iter().map(cap).collect()
    }

    /// The slots that each node should hold, by weights and zones alone.
    fn fair_shares(&self) -> Vec<u64> {
        let slots = SLOTS as u64;
        let width = self.width as u64;
        let spread = self.zones.len() >= self.width;
        let mut zones = vec![(0, 0); self.zones.len()];
        for node in &self.nodes {
            let (weight, count) = &mut zones[usize::from(node.zone)];
            *weight += u64::from(node.weight);
            *count += 1;
        }
        let takers: Vec<_> = zones
            .iter()
            .map(|&(weight, count)| Taker {
                weight,
                // With fewer zones than copies each zone has one of every slot.
                least: if spread { 0 } else { slots },
                most: if spread { slots } else { slots * count },
            })
            .collect();
        let shares = water_fill(slots * width, &takers);
        let mut fair = vec![0; self.nodes.len()];
        for (zone, share) in shares.into_iter().enumerate() {
            let members: Vec<_> = (0..self.nodes.len())
                .filter(|number| usize::from(self.nodes[*number].zone) == zone)
                .collect();
            let takers: Vec<_> = members
                .iter()
                .map(|number| Taker {
                    weight: u64::from(self.nodes[*number].weight),
                    least: 0,
                    most: slots,
                })
                .collect();
            for (number, share) in members.into_iter().zip(water_fill(share, &takers)) {
                fair[number] = share;
            }
        }
        fair
    }
}

/// Where a slot begins on the ring: a slot is the first 14 bits of a hash, a
/// position the first 64.
fn beginning(slot: Slot) -> u64 {
    (slot.index() as u64) << (u64::BITS - SLOTS.ilog2())
}

/// Gives nodes, zones and hosts their numbers.
fn number(shares: &BTreeMap<NodeId, Share>) -> (Vec<Place>, Vec<String>) {
    let shares = || shares.iter().take(NODE_LIMIT);
    let mut zones: Vec<String> = shares().map(|(_, share)| share.zone.clone()).collect();
    zones.sort_unstable();
    zones.dedup();
    let mut hosts = BTreeMap::new();
    let nodes = shares()
        .map(|(id, share)| {
            let zone = zones.partition_point(|zone| *zone < share.zone) as u16;
            // A node without a host label is a host of its own.
            let own = share.host.is_empty().then_some(*id);
            let next = hosts.len() as u16;
            let host = *hosts.entry((own, share.host.as_str())).or_insert(next);
            Place {
                id: *id,
                zone,
                host,
                weight: share.weight.clamp(1, WEIGHT_LIMIT),
            }
        })
        .collect();
    (nodes, zones)
}

impl fmt::Debug for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Placement")
            .field("epoch", &self.epoch)
            .field("width", &self.width)
            .field("nodes", &self.nodes.len())
            .field("zones", &self.zones)
            .finish_non_exhaustive()
    }
}
