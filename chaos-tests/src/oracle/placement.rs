//! Which nodes should hold a blob, worked out a second time.
//!
//! Written from what the placement promises and from how its ring is defined,
//! not from its code, so that one mistake is not made twice:
//!
//! - a node of weight `w` (at least 1, at most 64) has 256 `w` points on the
//!   ring; each is the first eight bytes, big-endian, of
//!   SHA-256(`ring/v1/` id in 16 hex digits `/` number);
//! - a slot is the first 14 bits of a hash, and the walk for it begins at its
//!   lowest hash; nodes are met in the order of their first point from there;
//! - each of the min(R, 7, nodes) copies goes to the first node met that is in
//!   a zone without a copy, if there is such a node; else on a host without
//!   one, if there is; else anywhere. Among these, nodes below their cap come
//!   first, and only if there are none the first at its cap;
//! - slots are given out in order, and the cap is 103 % of the fair share,
//!   rounded up: all copies are shared among zones by weight, where a zone
//!   takes at most one copy of a slot (or, with fewer zones than copies, at
//!   least one), and then among the nodes of each zone by weight.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
};

use sha2::{Digest as _, Sha256};

/// Slices of the hash space.
pub const SLOTS: usize = 16_384;

/// One node that takes part.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    pub zone: String,
    /// Empty: a host of its own.
    pub host: String,
    pub weight: u32,
}

/// The owners of every slot, by node id, in the order of the walk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Owners {
    slots: Vec<Vec<u64>>,
}

impl Owners {
    /// Works out the owners under `replicas` copies.
    #[must_use]
    pub fn of(replicas: u32, nodes: &BTreeMap<u64, Place>) -> Owners {
        let copies = (replicas.clamp(1, 7) as usize).min(nodes.len());
        let ring = ring(nodes);
        let caps = caps(copies, nodes);
        let mut held: BTreeMap<u64, u64> = BTreeMap::new();
        let slots = (0..SLOTS)
            .map(|slot| {
                let walk = walk(&ring, nodes.len(), (slot as u64) << 50);
                let owners = choose(copies, &walk, nodes, |node| {
                    held.get(&node).copied().unwrap_or(0) < caps[&node]
                });
                for owner in &owners {
                    *held.entry(*owner).or_default() += 1;
                }
                owners
            })
            .collect();
        Owners { slots }
    }

    /// The owners of a blob.
    #[must_use]
    pub fn of_hash(&self, hash: &[u8; 32]) -> &[u64] {
        self.of_slot(usize::from(u16::from_be_bytes([hash[0], hash[1]])) >> 2)
    }

    /// How many slots each owner has.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<u64, u64> {
        let mut counts = BTreeMap::new();
        for owner in self.slots.iter().flatten() {
            *counts.entry(*owner).or_default() += 1;
        }
        counts
    }

    /// The owners of a slot.
    #[must_use]
    pub fn of_slot(&self, slot: usize) -> &[u64] {
        &self.slots[slot]
    }
}

/// Points and whose they are; of two at one place the lower id stands.
fn ring(nodes: &BTreeMap<u64, Place>) -> BTreeMap<u64, u64> {
    let mut ring = BTreeMap::new();
    for (id, place) in nodes {
        for number in 0..256 * place.weight.clamp(1, 64) {
            let hash = Sha256::digest(format!("ring/v1/{id:016x}/{number}"));
            let place = hash[..8]
                .iter()
                .fold(0, |place: u64, byte| place << 8 | u64::from(*byte));
            ring.entry(place).or_insert(*id);
        }
    }
    ring
}

/// Nodes from a place on, each once, round the whole ring.
fn walk(ring: &BTreeMap<u64, u64>, nodes: usize, from: u64) -> Vec<u64> {
    let mut met = Vec::with_capacity(nodes);
    let mut points = ring.range(from..).chain(ring.range(..from));
    while met.len() < nodes {
        match points.next() {
            Some((_, id)) if !met.contains(id) => met.push(*id),
            Some(_) => {}
            None => break,
        }
    }
    met
}

fn choose(
    copies: usize,
    walk: &[u64],
    nodes: &BTreeMap<u64, Place>,
    has_room: impl Fn(u64) -> bool,
) -> Vec<u64> {
    let mut owners: Vec<u64> = Vec::with_capacity(copies);
    while owners.len() < copies {
        let zones: BTreeSet<&str> = owners.iter().map(|id| &*nodes[id].zone).collect();
        let hosts: BTreeSet<&str> = owners.iter().map(|id| &*nodes[id].host).collect();
        let is_new_zone = |id: &u64| !zones.contains(&*nodes[id].zone);
        let is_new_host = |id: &u64| nodes[id].host.is_empty() || !hosts.contains(&*nodes[id].host);
        let free: Vec<u64> = walk
            .iter()
            .copied()
            .filter(|id| !owners.contains(id))
            .collect();
        let only = |wanted: &dyn Fn(&u64) -> bool| -> Vec<u64> {
            free.iter().copied().filter(|id| wanted(id)).collect()
        };
        let candidates = [only(&is_new_zone), only(&is_new_host), free.clone()]
            .into_iter()
            .find(|candidates| !candidates.is_empty());
        let Some(candidates) = candidates else { break };
        let roomy = candidates.iter().find(|id| has_room(**id));
        owners.push(*roomy.unwrap_or(&candidates[0]));
    }
    owners
}

/// How many slots each node is given while others have room.
fn caps(copies: usize, nodes: &BTreeMap<u64, Place>) -> BTreeMap<u64, u64> {
    let slots = SLOTS as u64;
    let mut zones: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for (id, place) in nodes {
        zones.entry(&place.zone).or_default().push(*id);
    }
    let weight = |id: &u64| u64::from(nodes[id].weight.clamp(1, 64));
    let few_zones = zones.len() < copies;
    let glasses = zones
        .values()
        .map(|members| Glass {
            width: members.iter().map(weight).sum(),
            filled: if few_zones { slots } else { 0 },
            size: if few_zones {
                slots * members.len() as u64
            } else {
                slots
            },
        })
        .collect();
    let shares = pour(slots * copies as u64, glasses);
    let mut caps = BTreeMap::new();
    for (members, share) in zones.values().zip(shares) {
        let glasses = members
            .iter()
            .map(|id| Glass {
                width: weight(id),
                filled: 0,
                size: slots,
            })
            .collect();
        for (id, share) in members.iter().zip(pour(share, glasses)) {
            caps.insert(*id, (share * 103).div_ceil(100));
        }
    }
    caps
}

/// Something to be filled to the common level: `width` for each step of it,
/// never above `size`.
#[derive(Clone, Copy)]
struct Glass {
    width: u64,
    filled: u64,
    size: u64,
}

impl Glass {
    /// Compares the levels above which these glasses take their next unit.
    fn next_level(&self, other: &Glass) -> Ordering {
        (u128::from(self.filled) * u128::from(other.width))
            .cmp(&(u128::from(other.filled) * u128::from(self.width)))
    }
}

/// Fills glasses unit by unit until they hold `total`, those of the lowest
/// level first; glasses of one level rise together, even past the total.
fn pour(total: u64, mut glasses: Vec<Glass>) -> Vec<u64> {
    while glasses.iter().map(|glass| glass.filled).sum::<u64>() < total {
        let lowest = glasses
            .iter()
            .filter(|glass| glass.filled < glass.size)
            .min_by(|a, b| a.next_level(b))
            .copied();
        let Some(lowest) = lowest else { break };
        for glass in &mut glasses {
            if glass.filled < glass.size && glass.next_level(&lowest).is_eq() {
                glass.filled += 1;
            }
        }
    }
    glasses.into_iter().map(|glass| glass.filled).collect()
}

#[cfg(test)]
mod tests {
    use weir_cluster::{
        Epoch, NodeId, Slot,
        placement::Placement,
        state::{EpochPlan, Share},
    };

    use super::*;
    use crate::seeded::Words;

    fn check(replicas: u32, nodes: &BTreeMap<u64, Place>, what: &str) {
        let shares = nodes.iter().map(|(id, place)| {
            let share = Share {
                zone: place.zone.clone(),
                host: place.host.clone(),
                weight: place.weight,
            };
            (NodeId(*id), share)
        });
        let theirs = Placement::compute(&EpochPlan {
            epoch: Epoch(1),
            replicas,
            nodes: shares.collect(),
            handed_off: BTreeSet::new(),
        });
        let ours = Owners::of(replicas, nodes);
        for slot in Slot::all() {
            let theirs: Vec<u64> = theirs.owners(slot).map(|node| node.0).collect();
            assert_eq!(
                ours.of_slot(slot.index()),
                theirs,
                "{what}, {slot:?}: {nodes:?}"
            );
        }
    }

    fn random(words: &mut Words) -> (u32, BTreeMap<u64, Place>) {
        let (zones, hosts) = (1 + words.below(5), 1 + words.below(4));
        let largest = [1, 4, 64][words.below(3)];
        let nodes = (0..1 + words.below(10)).map(|_| {
            let zone = words.below(zones);
            let place = Place {
                zone: format!("z{zone}"),
                host: match words.below(hosts) {
                    0 => String::new(),
                    // Some hosts stand in two zones, which labels allow.
                    host => format!("h{host}-{}", zone / 2),
                },
                weight: 1 + words.below(largest) as u32,
            };
            (words.next().unwrap(), place)
        });
        let nodes = nodes.collect();
        (1 + words.below(8) as u32, nodes)
    }

    #[test]
    fn two_implementations_agree() {
        for seed in 0..16 {
            let (replicas, nodes) = random(&mut Words::new(seed));
            check(replicas, &nodes, &format!("seed {seed}, {replicas} copies"));
        }
    }

    #[test]
    fn nobody_owns_anything_in_an_empty_plan() {
        let owners = Owners::of(3, &BTreeMap::new());
        assert!(owners.of_hash(&[7; 32]).is_empty());
    }

    #[test]
    fn a_change_of_one_weight_is_noticed() {
        let place = |weight| Place {
            zone: String::new(),
            host: String::new(),
            weight,
        };
        let plan = |last| BTreeMap::from([(1, place(1)), (2, place(1)), (3, place(last))]);
        assert_ne!(Owners::of(2, &plan(1)), Owners::of(2, &plan(2)));
    }
}
