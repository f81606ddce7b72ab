use std::sync::Arc;

use super::view::View;
use crate::{
    Digest, Epoch,
    replication::tests::network::{epoch_of, node, state_of},
    state::ClusterState,
};

fn weaker(view: &View) -> Vec<String> {
    view.weaker().iter().map(ToString::to_string).collect()
}

fn check_weaker(zones: &[&str], replicas: u32, write_quorum: u32, expected: &[&str]) {
    let state = state_of(zones, replicas, write_quorum);
    let view = View::from_state(node(1), &state, None);
    assert_eq!(
        weaker(&view),
        expected,
        "{zones:?} R={replicas} W={write_quorum}"
    );
}

#[test]
fn what_is_weaker_than_configured_is_named() {
    check_weaker(&["a", "b", "c"], 3, 2, &[]);
    check_weaker(
        &["a"],
        3,
        2,
        &[
            "blobs have 1 copy instead of 3: the cluster has 1 node (P1, P2)",
            "uploads are answered at 1 copy instead of 2: the cluster has 1 node (P1)",
        ],
    );
    check_weaker(
        &["a", "a", "b"],
        3,
        2,
        &[
            "copies share zones: 2 zones for 3 copies; the loss of one zone may leave a single copy (P2)",
        ],
    );
    let view = View::from_state(node(1), &Arc::default(), None);
    assert_eq!(
        weaker(&view),
        ["no node takes part yet: nothing can be stored (P1, P3)"]
    );
}

#[test]
fn numbers_are_cut_down_to_the_nodes_there_are() {
    let view = View::from_state(node(1), &state_of(&["a", "b"], 3, 3), None);
    assert_eq!((view.replicas(), view.write_quorum()), (2, 2));
    let need = view.need(Digest::of(b"x"));
    assert_eq!((need.acks(), need.zones()), (2, 2));
    assert!(!view.is_alone());
    let alone = View::from_state(node(1), &state_of(&["a"], 3, 2), None);
    assert!(alone.is_alone());
    let other = View::from_state(node(2), &state_of(&["a"], 3, 2), None);
    assert!(!other.is_alone());
}

#[test]
fn placements_are_kept_from_view_to_view_and_dropped_with_their_epoch() {
    let first = state_of(&["a", "b", "c", "d"], 3, 2);
    let one = View::from_state(node(1), &first, None);
    let second = epoch_of(&first, &[1, 2, 3]);
    let two = View::from_state(node(1), &second, Some(&one));
    assert!(Arc::ptr_eq(&two.placements()[1], &one.placements()[0]));
    assert_eq!(two.epoch(), Epoch(2));
    let mut third = ClusterState::clone(&second);
    third.epochs.remove(0);
    let three = View::from_state(node(1), &Arc::new(third), Some(&two));
    assert_eq!(three.placements().len(), 1);
    assert!(Arc::ptr_eq(&three.placements()[0], &two.placements()[0]));
}

#[test]
fn holders_are_owners_then_former_owners_then_the_rest_each_once() {
    let first = state_of(&["a", "b", "c", "d", "e"], 3, 2);
    let view = View::from_state(node(1), &epoch_of(&first, &[1, 2, 3, 4]), None);
    for seed in 0..100_u8 {
        let digest = Digest::of(&[seed]);
        let holders = view.holders(digest);
        assert_eq!(holders.owners, view.owners(digest).collect::<Vec<_>>());
        for node in &holders.former {
            assert!(
                view.placements()[1]
                    .owners(digest.slot())
                    .any(|owner| owner == *node)
            );
        }
        let mut all = [holders.owners, holders.former, holders.stand_ins].concat();
        all.sort_unstable();
        assert_eq!(all, (1..=5).map(node).collect::<Vec<_>>());
    }
}
