use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::words::digest::hex;

/// Nodes as (id, zone, host, weight).
fn plan(replicas: u32, nodes: &[(u64, &str, &str, u32)]) -> EpochPlan {
    EpochPlan {
        epoch: Epoch(1),
        replicas,
        nodes: nodes
            .iter()
            .map(|&(id, zone, host, weight)| {
                let share = Share {
                    zone: zone.into(),
                    host: host.into(),
                    weight,
                };
                (NodeId(id), share)
            })
            .collect(),
        handed_off: BTreeSet::new(),
    }
}

/// Equal nodes, as many in each zone as `zones` says, with scattered ids.
fn even(replicas: u32, zones: &[usize]) -> EpochPlan {
    let mut nodes = BTreeMap::new();
    for (zone, count) in zones.iter().enumerate() {
        for member in 0..*count {
            let seed = format!("{zone}/{member}");
            let id = crate::Digest::of(seed.as_bytes()).hash;
            let share = Share {
                zone: format!("z{zone}"),
                host: String::new(),
                weight: 1,
            };
            nodes.insert(
                NodeId(u64::from_be_bytes(*id.first_chunk().unwrap())),
                share,
            );
        }
    }
    EpochPlan {
        epoch: Epoch(1),
        replicas,
        nodes,
        handed_off: BTreeSet::new(),
    }
}

fn owners(placement: &Placement, slot: Slot) -> BTreeSet<NodeId> {
    placement.owners(slot).collect()
}

fn moved(from: &Placement, to: &Placement) -> usize {
    Slot::all()
        .map(|slot| owners(to, slot).difference(&owners(from, slot)).count())
        .sum()
}

/// What must move at least, by fair shares alone.
fn ideal(from: &Placement, to: &Placement) -> f64 {
    let fair = |placement: &Placement, node| match placement.number_of(node) {
        Some(number) => placement.caps()[number] as f64 / 1.03,
        None => 0.0,
    };
    to.nodes()
        .map(|node| (fair(to, node) - fair(from, node)).max(0.0))
        .sum()
}

#[test]
fn the_table_of_fixed_members_is_pinned() {
    let placement = Placement::compute(&plan(
        3,
        &[
            (0x0123_4567_89ab_cdef, "a", "h1", 1),
            (0x1111_1111_1111_1111, "a", "h1", 2),
            (0x2222_2222_2222_2222, "b", "h2", 1),
            (0x3333_3333_3333_3333, "b", "h3", 1),
            (0xfedc_ba98_7654_3210, "c", "h4", 3),
        ],
    ));
    let mut all = Vec::new();
    for slot in Slot::all() {
        for owner in placement.owners(slot) {
            all.extend_from_slice(&owner.0.to_be_bytes());
        }
    }
    // A change here moves the blobs of every running cluster.
    assert_eq!(
        hex(&crate::Digest::of(&all).hash),
        "0027857dd5d9934343b2723d4dc838d3f531a39f5d9337ed6635cc2643c27373"
    );
}

#[test]
fn five_equal_nodes_hold_the_same_within_three_percent() {
    let placement = Placement::compute(&even(3, &[1, 1, 1, 1, 1]));
    let held: Vec<_> = placement.nodes().map(|n| placement.slots_of(n)).collect();
    let mean = (3 * SLOTS) as f64 / 5.0;
    let most = *held.iter().max().unwrap() as f64;
    assert!(most / mean <= 1.04, "{held:?}");
}

#[test]
fn a_node_more_or_less_moves_little_more_than_it_must() {
    for (before, after) in [
        (vec![1, 1, 1], vec![1, 1, 1, 1]),
        (vec![1; 5], vec![1; 6]),
        (vec![1; 10], vec![1; 11]),
        (vec![2, 2, 2], vec![3, 2, 2]),
        (vec![3, 3, 3], vec![3, 4, 3]),
        (vec![2, 2, 1], vec![2, 2, 2]),
        (vec![4, 4], vec![4, 5]),
        (vec![5], vec![6]),
    ] {
        let small = Placement::compute(&even(3, &before));
        let large = Placement::compute(&even(3, &after));
        for (from, to, what) in [(&small, &large, "add"), (&large, &small, "remove")] {
            let (moved, ideal) = (moved(from, to) as f64, ideal(from, to));
            assert!(
                moved <= 1.2 * ideal + 1.0,
                "{what} {before:?} {after:?}: moved {moved}, ideal {ideal}"
            );
        }
    }
}

#[test]
fn stand_ins_are_the_other_nodes_with_fresh_zones_first() {
    let placement = Placement::compute(&even(3, &[2, 2, 2, 1]));
    for slot in Slot::all().step_by(97) {
        let owners: Vec<_> = placement.owners(slot).collect();
        let stand_ins = placement.stand_ins(slot);
        assert_eq!(owners.len() + stand_ins.len(), 7);
        assert!(stand_ins.iter().all(|node| !owners.contains(node)));
        let fresh = |node: &NodeId| {
            let zone = placement.zone(*node);
            !owners.iter().any(|owner| placement.zone(*owner) == zone)
        };
        assert!(fresh(&stand_ins[0]), "the fourth zone has a node");
        assert!(stand_ins.is_sorted_by_key(|node| !fresh(node)));
    }
}

#[test]
fn no_nodes_and_absurd_settings_are_no_panic() {
    let none = Placement::compute(&plan(3, &[]));
    assert_eq!(none.width(), 0);
    assert_eq!(Slot::all().map(|s| none.owners(s).len()).sum::<usize>(), 0);
    assert!(none.stand_ins(Slot::all().next().unwrap()).is_empty());
    let odd = Placement::compute(&plan(u32::MAX, &[(1, "", "", 0), (2, "", "", u32::MAX)]));
    assert_eq!(odd.width(), 2);
    let zero = Placement::compute(&plan(0, &[(1, "", "", 1), (2, "", "", 1)]));
    assert_eq!(zero.width(), 1);
}

proptest! {
    // Each case computes two tables.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn owners_differ_in_zone_then_in_host(
        replicas in 1_u32..6,
        nodes in proptest::collection::btree_map(any::<u64>(), (0_u8..4, 0_u8..6, 1_u32..5), 1..14),
    ) {
        let plan = EpochPlan {
            epoch: Epoch(3),
            replicas,
            nodes: nodes.iter().map(|(id, (zone, host, weight))| {
                let share = Share { zone: zone.to_string(), host: format!("{zone}/{host}"), weight: *weight };
                (NodeId(*id), share)
            }).collect(),
            handed_off: BTreeSet::new(),
        };
        let placement = Placement::compute(&plan);
        let again = Placement::compute(&plan.clone());
        prop_assert_eq!(&placement.table, &again.table);
        let width = (replicas as usize).min(nodes.len());
        let zones: BTreeSet<_> = plan.nodes.values().map(|share| &share.zone).collect();
        let hosts: BTreeSet<_> = plan.nodes.values().map(|share| &share.host).collect();
        for slot in Slot::all() {
            let owners = owners(&placement, slot);
            prop_assert_eq!(owners.len(), width);
            let in_zones: BTreeSet<_> = owners.iter().map(|id| &plan.nodes[id].zone).collect();
            prop_assert_eq!(in_zones.len(), width.min(zones.len()));
            let on_hosts: BTreeSet<_> = owners.iter().map(|id| &plan.nodes[id].host).collect();
            prop_assert_eq!(on_hosts.len(), width.min(hosts.len()));
        }
    }
}
