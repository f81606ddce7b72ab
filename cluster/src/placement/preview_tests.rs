//! Protects: what an operator is told before a change is what the change does.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{
    Placement,
    loss::{last_copies, zone_losses},
    preview::{Change, Preview, preview},
    view::View,
};
use crate::{
    Error, NodeId,
    replication::tests::network::{epoch_of, node, state_of},
    state::{ClusterState, Command, apply},
    words::ids::SLOTS,
};

const KIB: u64 = 1 << 10;

/// Each node holds one KiB for each slot that it owns.
fn bytes(state: &ClusterState) -> BTreeMap<NodeId, u64> {
    let placement = Placement::compute(state.epochs.last().unwrap());
    let held = |id| (id, placement.slots_of(id) as u64 * KIB);
    placement.nodes().map(held).collect()
}

fn look(state: &ClusterState, change: &Change) -> Preview {
    preview(state, change, &bytes(state)).unwrap()
}

fn join(zone: &str) -> Change {
    Change::Join {
        zone: zone.into(),
        weight: 1,
    }
}

#[test]
fn a_join_gives_the_newcomer_its_share_and_says_what_it_costs() {
    let state = state_of(&["a", "b", "c"], 3, 2);
    let seen = look(&state, &join("d"));
    assert_eq!((seen.from.0, seen.to.0), (1, 2));
    let new = seen
        .nodes
        .iter()
        .find(|node| Some(node.id) == seen.newcomer);
    let new = new.unwrap();
    assert_eq!((new.slots_before, new.gains), (0, new.slots_after));
    assert_eq!(new.fetches_bytes, new.gains * KIB);
    assert_eq!(new.bytes_after, new.slots_after * KIB);
    assert_eq!(seen.moved_bytes, seen.moved * KIB);
    let share = 3 * SLOTS as u64 / 4;
    assert!(new.slots_after.abs_diff(share) < share / 20, "{new:?}");
    // Nothing was changed.
    assert_eq!(state.epochs.len(), 1);
}

#[test]
fn a_drain_moves_what_the_node_owned_to_the_others() {
    let state = state_of(&["a", "a", "b", "c"], 3, 2);
    let seen = look(&state, &Change::Drain(node(1)));
    let gone = seen.nodes.iter().find(|move_| move_.id == node(1)).unwrap();
    assert!(gone.slots_before > 0);
    assert_eq!((gone.slots_after, gone.bytes_after), (0, 0));
    assert!(seen.moved >= gone.slots_before);
    assert_eq!(seen.copies, (3, 3));
    let seen = look(&state_of(&["a", "b", "c"], 3, 2), &Change::Remove(node(1)));
    assert_eq!(
        (seen.moved, seen.copies),
        (0, (3, 2)),
        "all have all already"
    );
}

#[test]
fn what_would_be_refused_is_refused_with_the_same_words() {
    let state = state_of(&["a"], 1, 1);
    let refusal = preview(&state, &Change::Drain(node(1)), &BTreeMap::new()).unwrap_err();
    assert!(matches!(&refusal, Error::Invalid(why) if why.contains("last that owns blobs")));
    let unknown = preview(&state, &Change::Remove(node(9)), &BTreeMap::new()).unwrap_err();
    assert!(unknown.to_string().contains("no member"));
}

#[test]
fn settings_and_labels_that_placement_does_not_depend_on_move_nothing() {
    let mut state = ClusterState::clone(&state_of(&["a", "b", "c", "d"], 3, 2));
    for member in state.members.values_mut() {
        member.peer_address = "127.0.0.1:1".into();
    }
    let mut settings = state.settings.clone();
    settings.set("lease", "1h").unwrap();
    let seen = look(&state, &Change::Settle(settings.clone()));
    assert_eq!((seen.from, seen.moved), (seen.to, 0));
    settings.set("replicas", "4").unwrap();
    let seen = look(&state, &Change::Settle(settings));
    assert_eq!((seen.copies, seen.moved), ((3, 4), SLOTS as u64));
    let member = &state.members[&node(4)];
    let heavier = Change::Relabel {
        id: node(4),
        zone: member.zone.clone(),
        host: member.host.clone(),
        weight: 2,
    };
    let seen = look(&state, &heavier);
    assert!(seen.moved > 0 && seen.ideal > 0, "{seen:?}");
}

#[test]
fn no_change_shows_what_moves_now() {
    let first = state_of(&["a", "b", "c", "d"], 3, 2);
    assert_eq!(look(&first, &Change::Nothing).moved, 0);
    let second = epoch_of(&first, &[1, 2, 3]);
    let seen = look(&second, &Change::Nothing);
    assert_eq!((seen.from.0, seen.to.0), (1, 2));
    assert!(seen.moved > 0);
}

#[test]
fn a_preview_of_a_cluster_without_owners_is_no_panic() {
    let mut state = ClusterState::clone(&state_of(&[], 3, 2));
    state.epochs.clear();
    let seen = preview(&state, &join("a"), &BTreeMap::new()).unwrap();
    assert_eq!((seen.copies, seen.moved), ((0, 1), SLOTS as u64));
    assert_eq!(seen.moved_bytes, 0);
}

#[test]
fn the_loss_of_a_zone_is_counted_in_copies_and_votes() {
    let check = |zones: &[&str], replicas, expected: &[(&str, u64, bool, bool)]| {
        let state = state_of(zones, replicas, 1);
        let placement = Placement::compute(&state.epochs[0]);
        let voters = state.members.keys().copied().collect();
        let losses = zone_losses(&state, &placement, &voters);
        let seen: Vec<_> = losses
            .iter()
            .map(|loss| {
                let single = loss.slots_single > 0;
                (&*loss.zone, loss.slots_lost, single, loss.majority_lost)
            })
            .collect();
        assert_eq!(seen, expected, "{zones:?} R={replicas}");
    };
    let all = SLOTS as u64;
    check(
        &["a", "b", "c"],
        3,
        &[
            ("a", 0, false, false),
            ("b", 0, false, false),
            ("c", 0, false, false),
        ],
    );
    check(
        &["a", "a", "b"],
        3,
        &[("a", 0, true, true), ("b", 0, false, false)],
    );
    check(&["a", "a"], 2, &[("a", all, false, true)]);
}

#[test]
fn last_copies_are_those_that_no_other_owner_alive_has() {
    let first = state_of(&["a", "b", "c"], 3, 2);
    let view = View::from_state(node(1), &first, None);
    let gone = |ids: &[u64]| ids.iter().copied().map(node).collect::<BTreeSet<_>>();
    let lost = |view: &View, ids: &[u64]| last_copies(view.placements(), node(1), &gone(ids));
    assert_eq!(lost(&view, &[1]), 0);
    assert_eq!(lost(&view, &[1, 2]), 0);
    assert_eq!(lost(&view, &[1, 2, 3]), SLOTS as u64);
    // What only the first node held has not moved on from the older epoch yet.
    let alone = epoch_of(&first, &[1]);
    let second = epoch_of(&alone, &[1, 2, 3]);
    let view = View::from_state(node(1), &second, None);
    assert_eq!(lost(&view, &[1]), SLOTS as u64);
}

/// In clusters of up to ten nodes with zones of like size. Where one zone of
/// many large ones grows, as much as 1.33 of what must move was seen.
#[test]
fn a_join_moves_little_more_than_it_must() {
    for (zones, in_each) in [(3, 1), (3, 2), (3, 3), (4, 1), (4, 2), (5, 1), (5, 2)] {
        let labels: Vec<String> = (0..zones * in_each)
            .map(|node| format!("z{}", node % zones))
            .collect();
        let labels: Vec<_> = labels.iter().map(String::as_str).collect();
        let state = state_of(&labels, 3, 2);
        for into in 0..=zones {
            let seen = look(&state, &join(&format!("z{into}")));
            assert!(seen.ideal > 0);
            assert!(
                seen.moved * 100 <= seen.ideal * 124,
                "{zones} zones of {in_each}, one more into {into}: moved {}, ideal {}",
                seen.moved,
                seen.ideal
            );
        }
    }
}

proptest! {
    // Each case computes two tables.
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// The owners that are shown are those that there will be.
    #[test]
    fn a_drain_does_what_was_shown(count in 2_usize..7, drained in 0_usize..7) {
        let zones = ["a", "b", "c", "a", "b", "c", "d"];
        let state = state_of(&zones[..count], 3, 2);
        let id = node(1 + (drained % count) as u64);
        let seen = look(&state, &Change::Drain(id));
        let mut real = ClusterState::clone(&state);
        let rows = BTreeMap::new();
        apply(&mut real, &rows, 1, Command::Drain { id, on: true }).unwrap();
        prop_assert_eq!(&real, &seen.state);
        let placement = Placement::compute(real.epochs.last().unwrap());
        for node in &seen.nodes {
            prop_assert_eq!(placement.slots_of(node.id) as u64, node.slots_after);
        }
    }
}
