//! Which node takes a copy next, and when a blob is truly absent.
//!
//! Pure. Both rest on one order that writers and readers share: owners in ring
//! order, then stand-ins in ring order ([`View::stand_ins`]).

use super::shortfall::shortfall;
use crate::{
    Digest, Error, NodeId,
    placement::view::{Holders, View},
    planted::{self, Bug},
};

/// The next node to write a blob to: an owner that was not tried yet, then a
/// stand-in. `alive` are the nodes that hold the blob or still may.
///
/// While the nodes alive span too few zones for the quorum, a node in a further
/// zone comes first: the tempting rule, ring order alone, would stack stand-ins
/// into one zone and then fail for want of zones while other zones live.
#[must_use]
pub fn next_writer(
    view: &View,
    digest: Digest,
    tried: &[NodeId],
    alive: &[NodeId],
) -> Option<NodeId> {
    let untried = |node: &NodeId| !tried.contains(node);
    let mut order: Vec<NodeId> = view.owners(digest).filter(untried).collect();
    order.extend(view.stand_ins(digest).into_iter().filter(untried));
    let mut zones: Vec<_> = alive.iter().map(|node| view.zone_number(*node)).collect();
    zones.sort_unstable();
    zones.dedup();
    let fresh = |node: &&NodeId| !zones.contains(&view.zone_number(**node));
    let spread = zones.len() >= view.need(digest).zones();
    let first = order.first();
    if spread {
        return first.copied();
    }
    order.iter().find(fresh).or(first).copied()
}

/// What a read may say when no node gave the blob: NOT_FOUND if that is true,
/// else that too few could be asked.
///
/// It is true when every owner, current or former, answered that it has no copy
/// and fewer stand-ins than the write quorum failed to answer: a durable blob
/// that no owner holds was written while all owners were down, to at least W
/// stand-ins, one of which has then answered. A failed stand-in is thus no
/// reason to refuse every miss while one of many nodes is down.
#[must_use]
pub fn absence(
    digest: Digest,
    holders: &Holders,
    write_quorum: usize,
    failed: Vec<(NodeId, Error)>,
) -> Error {
    let owns = |node: &NodeId| holders.owners.contains(node) || holders.former.contains(node);
    let owner_failed =
        failed.iter().any(|(node, _)| owns(node)) && !planted::is(Bug::NotFoundInDoubt);
    // Who is neither, left the cluster since it was asked.
    let stands_in = |node: &NodeId| holders.stand_ins.contains(node) && !owns(node);
    let stand_ins_failed = failed.iter().filter(|(node, _)| stands_in(node)).count();
    if holders.owners.is_empty() || owner_failed || stand_ins_failed >= write_quorum {
        return shortfall("read blob", 1, 0, failed);
    }
    Error::NotFound(digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replication::tests::network::{node, state_of};

    fn view_of(zones: &[&str]) -> View {
        View::from_state(node(1), &state_of(zones, 3, 2), None)
    }

    #[test]
    fn owners_come_first_and_each_node_once() {
        let view = view_of(&["a", "b", "c", "a", "b"]);
        let digest = Digest::of(b"blob");
        let mut tried = Vec::new();
        while let Some(next) = next_writer(&view, digest, &tried, &tried) {
            tried.push(next);
        }
        let mut expected: Vec<_> = view.owners(digest).collect();
        expected.extend(view.stand_ins(digest));
        assert_eq!(tried, expected);
        assert_eq!(tried.len(), 5);
    }

    #[test]
    fn a_zone_that_is_lacking_comes_before_ring_order() {
        let view = view_of(&["a", "a", "a", "b", "b", "c"]);
        for seed in 0..200_u32 {
            let digest = Digest::of(&seed.to_be_bytes());
            let owners: Vec<_> = view.owners(digest).collect();
            let alive = &owners[..1];
            let next = next_writer(&view, digest, &owners, alive).unwrap();
            assert_ne!(view.zone(next), view.zone(alive[0]), "{digest}");
        }
    }

    #[test]
    fn not_found_is_said_only_when_it_is_true() {
        let holders = Holders {
            owners: vec![node(1), node(2)],
            former: vec![node(3)],
            stand_ins: vec![node(4), node(5)],
        };
        let digest = Digest::of(b"absent");
        let down = |ids: &[u64]| -> Vec<(NodeId, Error)> {
            let cause = || "refused".to_owned();
            ids.iter()
                .map(|id| node(*id))
                .map(|node| {
                    (
                        node,
                        Error::Unreachable {
                            node,
                            cause: cause(),
                        },
                    )
                })
                .collect()
        };
        for (failed, absent) in [
            (&[][..], true),
            (&[4], true),
            (&[4, 5], false),
            (&[1], false),
            (&[3], false),
            // Nodes that left.
            (&[8, 9], true),
        ] {
            let error = super::absence(digest, &holders, 2, down(failed));
            let told = matches!(error, Error::NotFound(_));
            assert_eq!(told, absent, "{failed:?} down: {error}");
        }
        let nobody = super::absence(digest, &Holders::default(), 2, Vec::new());
        assert!(matches!(nobody, Error::NoQuorum(_)), "{nobody}");
    }
}
