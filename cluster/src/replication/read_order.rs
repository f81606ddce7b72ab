//! In which order to ask for a blob.
//!
//! Pure: the same holders and distances give the same order.

use std::time::Duration;

use crate::{NodeId, placement::view::Holders};

/// How far a node is from the one that asks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Distance {
    /// Not this node itself.
    pub remote: bool,
    /// Failed a moment ago: asked after the others of its kind.
    pub shaky: bool,
    pub other_zone: bool,
    /// Smoothed time to its first byte; zero if it was never asked, so that it is.
    pub latency: Duration,
}

/// Self, then owners, then former owners, each nearest first, then stand-ins in
/// the order in which writers chose them.
///
/// Former owners come before stand-ins: a handoff is under way far more often
/// than all owners were down at a write. This node comes first even where it
/// owns nothing: asking it costs no message.
#[must_use]
pub fn read_order(
    me: NodeId,
    holders: &Holders,
    distance: impl Fn(NodeId) -> Distance,
) -> Vec<NodeId> {
    let nearest_first = |nodes: &[NodeId]| {
        let mut nodes = nodes.to_vec();
        nodes.sort_by_key(|node| distance(*node));
        nodes
    };
    let mut order = nearest_first(&holders.owners);
    order.extend(nearest_first(&holders.former));
    order.extend(&holders.stand_ins);
    if let Some(index) = order.iter().position(|node| *node == me) {
        order[..=index].rotate_right(1);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[u64]) -> Vec<NodeId> {
        ids.iter().map(|id| NodeId(*id)).collect()
    }

    /// Nodes below 10 are in the zone of node 1, node 9 is shaky; a node's
    /// latency is its id in milliseconds.
    fn order(me: u64, owners: &[u64], former: &[u64], stand_ins: &[u64]) -> Vec<u64> {
        let holders = Holders {
            owners: ids(owners),
            former: ids(former),
            stand_ins: ids(stand_ins),
        };
        let order = read_order(NodeId(me), &holders, |node| Distance {
            remote: node.0 != me,
            shaky: node.0 == 9,
            other_zone: node.0 >= 10,
            latency: Duration::from_millis(node.0),
        });
        order.into_iter().map(|node| node.0).collect()
    }

    #[test]
    fn self_then_zone_then_fastest_then_former_owners_then_stand_ins() {
        assert_eq!(order(1, &[12, 3, 1], &[], &[]), [1, 3, 12]);
        assert_eq!(order(1, &[12, 11, 3], &[], &[]), [3, 11, 12]);
        assert_eq!(order(1, &[9, 12, 3], &[], &[]), [3, 12, 9]);
        assert_eq!(order(1, &[12], &[20, 2], &[30, 25]), [12, 2, 20, 30, 25]);
        assert_eq!(order(1, &[12, 11], &[2], &[30, 1]), [1, 11, 12, 2, 30]);
        assert_eq!(order(1, &[], &[], &[]), [0; 0]);
    }
}
