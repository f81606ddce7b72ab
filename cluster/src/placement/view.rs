//! A view: members and placement at one moment, as one immutable value.
//!
//! Requests and repair read the view they began with; no request asks Raft who
//! owns a blob. Invariants:
//!
//! - placements are newest first; the first is the one that writes go to;
//! - a placement is computed once for each epoch and shared by later views;
//! - every number that a verb needs (copies, write quorum, lease) comes from
//!   here, already cut down to what the nodes allow.

use std::sync::Arc;

pub use super::watch::{at_least, watch};

use super::Placement;
use crate::{
    ClusterId, Digest, Epoch, NodeId,
    blob::Lease,
    replication::quorum::Need,
    state::{ClusterState, Member},
};

/// Nodes that may hold a blob under one placement, counted from its first
/// owner: writers look no further for stand-ins, and so readers need not
/// either. More than that many nodes down at once is no quorum.
pub const REACH: usize = 32;

/// What a node knows of the cluster. Cheap to clone as `Arc<View>`.
#[derive(Debug)]
pub struct View {
    me: NodeId,
    state: Arc<ClusterState>,
    placements: Vec<Arc<Placement>>,
}

/// Where to look for a blob, in the order that depends on agreement alone.
/// [`crate::replication::read_order`] sorts it by distance.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Holders {
    /// Owners in the current epoch.
    pub owners: Vec<NodeId>,
    /// Owners in older epochs only, newer epochs first: they hold the blob until
    /// the handoff is done.
    pub former: Vec<NodeId>,
    /// Nodes that may stand in for owners, and last the members that own nothing
    /// in this view: a newer epoch, not seen here yet, may have made them owners.
    pub stand_ins: Vec<NodeId>,
}

impl View {
    /// The view of node `me`. Takes over the placements that `previous` has.
    #[must_use]
    pub fn from_state(me: NodeId, state: &Arc<ClusterState>, previous: Option<&Self>) -> Self {
        let known = |epoch: Epoch| {
            let known = previous?.placements.iter();
            known.clone().find(|known| known.epoch() == epoch).cloned()
        };
        let placements = state
            .epochs
            .iter()
            .rev()
            .map(|plan| known(plan.epoch).unwrap_or_else(|| Arc::new(Placement::compute(plan))))
            .collect();
        Self {
            me,
            state: Arc::clone(state),
            placements,
        }
    }

    #[must_use]
    pub fn me(&self) -> NodeId {
        self.me
    }

    #[must_use]
    pub fn cluster(&self) -> Option<ClusterId> {
        self.state.cluster
    }

    #[must_use]
    pub fn state(&self) -> &Arc<ClusterState> {
        &self.state
    }

    #[must_use]
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        self.state.members.get(&node)
    }

    /// The zone of a member; of a node that left, the zone it had.
    #[must_use]
    pub fn zone(&self, node: NodeId) -> Option<&str> {
        if let Some(member) = self.member(node) {
            return Some(&member.zone);
        }
        self.placements
            .iter()
            .find_map(|placement| Some(&*placement.zones()[placement.zone(node)?]))
    }

    /// Placements of the epochs that are alive, newest first.
    #[must_use]
    pub fn placements(&self) -> &[Arc<Placement>] {
        &self.placements
    }

    /// The placement that writes go to; none before the cluster has begun.
    #[must_use]
    pub fn current(&self) -> Option<&Placement> {
        self.placements.first().map(|placement| &**placement)
    }

    /// The current epoch; zero before the cluster has begun.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.current().map_or(Epoch(0), Placement::epoch)
    }

    /// Whether this node alone holds every blob, so that no peer is to be asked.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        matches!(&*self.placements, [only] if only.nodes().eq([self.me]))
    }

    /// Owners of a blob in the current epoch, in ring order.
    pub fn owners(&self, digest: Digest) -> impl ExactSizeIterator<Item = NodeId> + Clone + '_ {
        // `None` and an empty placement look alike: no owners.
        let owners = self.current().map(|current| current.owners(digest.slot()));
        let count = owners.as_ref().map_or(0, ExactSizeIterator::len);
        Counted {
            inner: owners.into_iter().flatten(),
            count,
        }
    }

    #[must_use]
    pub fn owns(&self, node: NodeId, digest: Digest) -> bool {
        self.owners(digest).any(|owner| owner == node)
    }

    /// Nodes that take a blob's writes when owners are down, first to last.
    #[must_use]
    pub fn stand_ins(&self, digest: Digest) -> Vec<NodeId> {
        let Some(current) = self.current() else {
            return Vec::new();
        };
        let mut stand_ins = current.stand_ins(digest.slot());
        stand_ins.truncate(REACH.saturating_sub(current.width()));
        stand_ins
    }

    /// Owners of a blob that are members still. A node that was replaced stays an
    /// owner of the current epoch in name, until its successor begins the next.
    pub fn live_owners(&self, digest: Digest) -> impl Iterator<Item = NodeId> + Clone + '_ {
        self.owners(digest)
            .filter(|owner| self.member(*owner).is_some())
    }

    /// Every member that may hold a blob. Walks the ring of each epoch: for reads
    /// that the owners could not serve. Nodes that left for good are not among
    /// them: waiting for their answer would turn every miss into a doubt.
    #[must_use]
    pub fn holders(&self, digest: Digest) -> Holders {
        let slot = digest.slot();
        let owners: Vec<_> = self.live_owners(digest).collect();
        let is_member = |node: &NodeId| self.member(*node).is_some();
        let mut former = Vec::new();
        for placement in self.placements.iter().skip(1) {
            for node in placement.owners(slot).filter(is_member) {
                if !owners.contains(&node) && !former.contains(&node) {
                    former.push(node);
                }
            }
        }
        let mut stand_ins = Vec::new();
        let mut add = |node: NodeId| {
            let known = [&owners, &former, &stand_ins];
            if !known.iter().any(|list| list.contains(&node)) {
                stand_ins.push(node);
            }
        };
        for placement in &self.placements {
            let reach = REACH.saturating_sub(placement.width());
            let further = placement.stand_ins(slot);
            let reached = further.into_iter().take(reach);
            reached.filter(is_member).for_each(&mut add);
        }
        let placed = |node: &NodeId| self.placements.iter().any(|p| p.contains(*node));
        let outside = self.state.members.keys().filter(|node| !placed(node));
        outside.copied().take(REACH).for_each(&mut add);
        Holders {
            owners,
            former,
            stand_ins,
        }
    }

    /// A node's zone as a number, for counting zones of the current epoch.
    #[must_use]
    pub fn zone_number(&self, node: NodeId) -> Option<usize> {
        self.current()?.zone(node)
    }

    /// What makes a write of this blob durable: W acks, or as many as there are
    /// owners, from min(W, zones of the owners) zones. Owners that left count:
    /// a loss makes no promise smaller by itself.
    #[must_use]
    pub fn need(&self, digest: Digest) -> Need {
        Need::new(
            self.state.settings.write_quorum as usize,
            self.owners(digest).map(|owner| self.zone_number(owner)),
        )
    }

    /// Copies of each blob (R), cut down to the nodes there are.
    #[must_use]
    pub fn replicas(&self) -> usize {
        self.current().map_or(0, Placement::width)
    }

    /// Durable copies before a write is answered (W), cut down to R.
    #[must_use]
    pub fn write_quorum(&self) -> usize {
        (self.state.settings.write_quorum as usize).clamp(1, self.replicas().max(1))
    }

    /// What finding, uploading and reading a blob renew its lease by.
    #[must_use]
    pub fn lease(&self) -> Lease {
        Lease {
            seconds: self.state.settings.lease_seconds,
        }
    }
}

/// A flattened iterator whose length is known.
#[derive(Clone)]
struct Counted<I> {
    inner: I,
    count: usize,
}

impl<I: Iterator> Iterator for Counted<I> {
    type Item = I::Item;

    fn next(&mut self) -> Option<I::Item> {
        let item = self.inner.next()?;
        self.count -= 1;
        Some(item)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.count, Some(self.count))
    }
}

impl<I: Iterator> ExactSizeIterator for Counted<I> {}
