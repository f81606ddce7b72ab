//! The hash ring: vnodes at explicit points, walked in order.
//!
//! Invariants:
//!
//! - a vnode's position is the first eight bytes, big-endian, of
//!   SHA-256(`ring/v1/` node id `/` number), so every node of every build on
//!   every machine computes the same ring from the same members;
//! - a walk visits each node once, in the order of its first vnode from there.
//!
//! `hashring` serves as a sorted set of points and nothing more. Its default
//! hasher is deterministic, but what `derive(Hash)` feeds it is not (native
//! endianness, `usize` prefixes): positions are therefore our own and the
//! hasher passes them through. Its `get_with_replicas` is the tempting call;
//! it copies the whole ring each time, returns vnodes (mostly the same node
//! again) and knows no zones.

use std::hash::{BuildHasher, Hash, Hasher};

use hashring::HashRing;
use sha2::{Digest as _, Sha256};

use crate::NodeId;

/// Vnodes for each unit of weight: 256 keep the largest of five equal arcs
/// within 7 % of the mean, and 100 nodes within 25,600 points.
pub const VNODES_PER_WEIGHT: u32 = 256;

/// Largest weight that counts; bounds the ring at 16,384 vnodes a node. Weights
/// are relative: a cluster whose disks differ by more divides all of them.
pub const WEIGHT_LIMIT: u32 = 64;

/// Nodes on a ring.
pub struct Ring {
    points: HashRing<Vnode, PassThrough>,
    nodes: usize,
}

impl Ring {
    /// A ring of these nodes and weights. A weight counts as at least 1 and at
    /// most [`WEIGHT_LIMIT`]; each node is given once.
    pub fn new(nodes: impl IntoIterator<Item = (NodeId, u32)>) -> Self {
        let mut vnodes = Vec::new();
        let mut count = 0;
        for (node, weight) in nodes {
            count += 1;
            let number = VNODES_PER_WEIGHT * weight.clamp(1, WEIGHT_LIMIT);
            vnodes.extend((0..number).map(|number| Vnode::new(node, number)));
        }
        // Two vnodes at one point (one chance in 2^64 for a pair): the lower id
        // stands first on every node, whatever the order they were given in.
        vnodes.sort_unstable_by_key(|vnode| (vnode.position, vnode.node));
        vnodes.dedup_by_key(|vnode| vnode.position);
        let mut points = HashRing::with_hasher(PassThrough);
        points.batch_add(vnodes);
        Self {
            points,
            nodes: count,
        }
    }

    /// All nodes, each once, in ring order from this position on.
    pub fn walk(&self, position: u64) -> Walk<'_> {
        Walk {
            ring: self,
            next: position,
            vnodes_left: self.points.len(),
            seen: Vec::new(),
        }
    }

    /// The last position whose walk is that of this one.
    pub fn alike_until(&self, position: u64) -> u64 {
        match self.points.get(&Position(position)) {
            Some(vnode) if vnode.position >= position => vnode.position,
            // The walk wraps.
            _ => u64::MAX,
        }
    }
}

/// See [`Ring::walk`].
pub struct Walk<'a> {
    ring: &'a Ring,
    next: u64,
    vnodes_left: usize,
    seen: Vec<NodeId>,
}

impl Iterator for Walk<'_> {
    type Item = NodeId;

    fn next(&mut self) -> Option<NodeId> {
        while self.seen.len() < self.ring.nodes && self.vnodes_left > 0 {
            self.vnodes_left -= 1;
            let vnode = self.ring.points.get(&Position(self.next))?;
            self.next = vnode.position.wrapping_add(1);
            if !self.seen.contains(&vnode.node) {
                self.seen.push(vnode.node);
                return Some(vnode.node);
            }
        }
        None
    }
}

#[derive(Clone, Copy)]
struct Vnode {
    position: u64,
    node: NodeId,
}

impl Vnode {
    fn new(node: NodeId, number: u32) -> Self {
        let hash: [u8; 32] = Sha256::digest(format!("ring/v1/{node}/{number}")).into();
        let mut first = [0; 8];
        first.copy_from_slice(&hash[..8]);
        Self {
            position: u64::from_be_bytes(first),
            node,
        }
    }
}

impl Hash for Vnode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.position);
    }
}

struct Position(u64);

impl Hash for Position {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0);
    }
}

/// Hands a position through as its own hash.
struct PassThrough;

impl BuildHasher for PassThrough {
    type Hasher = PositionHasher;

    fn build_hasher(&self) -> PositionHasher {
        PositionHasher(0)
    }
}

struct PositionHasher(u64);

impl Hasher for PositionHasher {
    fn write_u64(&mut self, position: u64) {
        self.0 = position;
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("positions are written as one u64");
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walked(ring: &Ring, position: u64) -> Vec<u64> {
        ring.walk(position).map(|node| node.0).collect()
    }

    #[test]
    fn a_walk_visits_every_node_once_and_wraps() {
        let ring = Ring::new((1..=20).map(|id| (NodeId(id), 1)));
        for position in [0, 1 << 40, 1 << 63, u64::MAX] {
            let mut nodes = walked(&ring, position);
            nodes.sort_unstable();
            assert_eq!(nodes, (1..=20).collect::<Vec<_>>());
        }
        assert!(walked(&Ring::new([]), 0).is_empty());
    }

    #[test]
    fn the_order_of_members_does_not_matter() {
        let ahead = Ring::new((1..=9).map(|id| (NodeId(id), 1)));
        let back = Ring::new((1..=9).rev().map(|id| (NodeId(id), 1)));
        for slice in 0..256 {
            assert_eq!(walked(&ahead, slice << 56), walked(&back, slice << 56));
        }
    }

    #[test]
    fn walks_are_alike_up_to_a_vnode_and_no_further() {
        let ring = Ring::new((1..=5).map(|id| (NodeId(id), 1)));
        let mut position = 0;
        let mut arcs = 0;
        loop {
            let until = ring.alike_until(position);
            let here = walked(&ring, position);
            assert_eq!(here, walked(&ring, until), "from {position:x}");
            assert_eq!(until, ring.alike_until(until));
            arcs += 1;
            let Some(next) = until.checked_add(1) else {
                break;
            };
            position = next;
        }
        // One for each vnode, and the way from the last one around.
        assert_eq!(arcs, ring.points.len() + 1);
        assert_eq!(Ring::new([]).alike_until(7), u64::MAX);
    }

    #[test]
    fn positions_are_pinned() {
        let vnode = Vnode::new(NodeId(1), 0);
        // printf 'ring/v1/0000000000000001/0' | sha256sum
        assert_eq!(vnode.position, 0xe8a0_0704_1e82_421d);
    }

    #[test]
    fn weights_are_bounded() {
        let ring = Ring::new([(NodeId(1), 0), (NodeId(2), u32::MAX)]);
        let expected = VNODES_PER_WEIGHT * (1 + WEIGHT_LIMIT);
        assert_eq!(ring.points.len(), expected as usize);
    }
}
