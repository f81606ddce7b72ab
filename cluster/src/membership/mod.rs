//! Which members vote in Raft, and who may take part at all.
//!
//! Pure policy; the leader's loop ([`crate::raft`]) carries it out. Rules, in
//! order of weight:
//!
//! - at most [`MOST_VOTERS`], and an odd number where that costs no zone: an
//!   even number survives no more losses than one fewer;
//! - not fewer than three while three members could vote: a draining member
//!   votes until others can in its place;
//! - spread over zones, so that with three zones or more no zone holds a
//!   majority;
//! - present voters stay, since each change is a risk.
//!
//! # Two members
//!
//! With two members left, one votes and the other follows. Two voters would
//! keep each change on two disks before it is answered, but either one's death
//! would stop the cluster for ever: not even the removal of the dead node could
//! be agreed. One voter survives the loss of the other node whole, and what its
//! own disk takes with it is no more than what had not reached the follower.
//! So nothing goes down to one voter early: while a third member is in the
//! table, on its way in or out, two voters stay two, and whoever shrinks a
//! cluster to two nodes does so by removing the third.

mod auto_remove;

use std::collections::{BTreeMap, BTreeSet};

pub use auto_remove::{Silence, to_remove};

use crate::{
    NodeId,
    peer::{CheckIn, Start},
    state::{ClusterState, MemberStatus, apply::goes_on},
};

/// Five survive the loss of any two; more only slow each write down.
pub const MOST_VOTERS: usize = 5;

/// Fewer survive no loss at all.
const LEAST_VOTERS: usize = 3;

/// The members that should vote, out of those that `able` says keep up.
/// Draining members leave once others can vote; present voters that are members
/// stay even while they are not able, as long as nobody better can take their
/// place.
#[must_use]
pub fn choose_voters(
    state: &ClusterState,
    present: &BTreeSet<NodeId>,
    able: &BTreeSet<NodeId>,
) -> BTreeSet<NodeId> {
    let staying = state
        .members
        .iter()
        .filter(|(id, member)| member.status != MemberStatus::Draining && able.contains(id));
    let draining_vote = staying.count() < LEAST_VOTERS;
    let mut by_zone: BTreeMap<&str, Vec<(Rank, NodeId)>> = BTreeMap::new();
    for (id, member) in &state.members {
        let rank = Rank {
            unable: !able.contains(id),
            draining: member.status == MemberStatus::Draining,
            newcomer: !present.contains(id),
        };
        // One that goes is not made a voter for it.
        let may_stay = !rank.draining || (draining_vote && !rank.newcomer && !rank.unable);
        if may_stay && (!rank.unable || !rank.newcomer) {
            by_zone.entry(&member.zone).or_default().push((rank, *id));
        }
    }
    for zone in by_zone.values_mut() {
        zone.sort();
    }
    let candidates: usize = by_zone.values().map(Vec::len).sum();
    let mut wanted = odd(candidates.min(MOST_VOTERS));
    let voting = by_zone.values().flatten();
    let voting = voting.filter(|(rank, _)| !rank.newcomer).count();
    if candidates == 2 && voting == 2 && state.members.len() > 2 {
        // A third is on its way in or out.
        wanted = 2;
    }
    loop {
        let chosen = pick(&by_zone, wanted);
        let most_in_a_zone = by_zone
            .values()
            .map(|zone| zone.iter().filter(|(_, id)| chosen.contains(id)).count())
            .max()
            .unwrap_or(0);
        let needless = by_zone.len() >= 3 && wanted > 3 && 2 * most_in_a_zone > wanted;
        if !needless {
            return chosen;
        }
        // One zone would hold a majority; fewer voters spread better.
        wanted -= 2;
    }
}

/// Round by round the best left in each zone, the better ones first.
fn pick(by_zone: &BTreeMap<&str, Vec<(Rank, NodeId)>>, wanted: usize) -> BTreeSet<NodeId> {
    let mut chosen = BTreeSet::new();
    for round in 0.. {
        let mut in_round: Vec<_> = by_zone
            .values()
            .filter_map(|zone| zone.get(round))
            .collect();
        let room = wanted - chosen.len();
        if in_round.is_empty() || room == 0 {
            break;
        }
        in_round.sort();
        chosen.extend(in_round.into_iter().take(room).map(|(_, id)| *id));
    }
    chosen
}

/// What a node that has just started is told. `leading` is what
/// this one knows besides if it leads a majority.
#[must_use]
pub fn check_in(
    state: &ClusterState,
    node: NodeId,
    start: &Start,
    leading: Option<Leading>,
) -> CheckIn {
    if state.removed.contains(&node) {
        return CheckIn::Removed;
    }
    let announced = state.members.get(&node).map_or(0, |member| member.boot);
    if !goes_on(announced, start.boot, &start.known_boots) {
        let why = "the node has started since this copy of its data directory was made".into();
        return CheckIn::Outdated { why };
    }
    let acknowledged = leading.and_then(|leading| leading.acknowledged);
    match acknowledged {
        Some(index) if index > start.last_log_index => CheckIn::Outdated {
            why: format!(
                "its Raft log ends at entry {}, but it had entry {index} on disk before",
                start.last_log_index
            ),
        },
        _ => CheckIn::Welcome {
            by_leader: leading.is_some(),
        },
    }
}

/// What the leader of a majority knows of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Leading {
    /// The last entry of the Raft log that is on that node's disk for sure.
    pub acknowledged: Option<u64>,
}

/// Lower is better.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    unable: bool,
    draining: bool,
    newcomer: bool,
}

fn odd(count: usize) -> usize {
    count - usize::from(count > 0 && count.is_multiple_of(2))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::state::tests::member;

    fn state(zones: &[usize]) -> ClusterState {
        let mut state = ClusterState::default();
        for (index, zone) in zones.iter().enumerate() {
            let id = index as u64 + 1;
            let row = member(&format!("n{id}"), &format!("z{zone}"));
            state.members.insert(NodeId(id), row);
        }
        state
    }

    fn ids(numbers: impl IntoIterator<Item = u64>) -> BTreeSet<NodeId> {
        numbers.into_iter().map(NodeId).collect()
    }

    #[test]
    fn voters_are_odd_spread_and_kept() {
        let three = state(&[0, 1, 2]);
        let all = ids(1..=3);
        assert_eq!(choose_voters(&three, &ids([1]), &all), all);
        // Two nodes: one voter, as two survive no loss either.
        assert_eq!(
            choose_voters(&state(&[0, 1]), &ids([1]), &ids([1, 2])),
            ids([1])
        );
        // Six nodes in three zones: five voters, two zones with two of them.
        let six = state(&[0, 1, 2, 0, 1, 2]);
        assert_eq!(choose_voters(&six, &all, &ids(1..=6)).len(), 5);
        // A voter that is down stays while nobody can take its place …
        assert_eq!(choose_voters(&three, &all, &ids([1, 2])), all);
        // … and goes when somebody in its zone can.
        assert_eq!(
            choose_voters(&state(&[0, 1, 2, 2]), &all, &ids([1, 2, 4])),
            ids([1, 2, 4])
        );
    }

    #[test]
    fn a_draining_voter_stays_until_another_can_take_its_place() {
        let mut four = state(&[0, 1, 2, 3]);
        let drain = |state: &mut ClusterState, id| {
            let row = state.members.get_mut(&NodeId(id)).unwrap();
            row.status = MemberStatus::Draining;
        };
        drain(&mut four, 3);
        let (all, three) = (ids(1..=4), ids(1..=3));
        // The fourth has not caught up yet, and then it has.
        assert_eq!(choose_voters(&four, &three, &three), three);
        assert_eq!(choose_voters(&four, &three, &all), ids([1, 2, 4]));
        // A draining node that does not vote never comes to vote.
        let by_others = choose_voters(&four, &ids([1]), &three);
        assert_eq!(by_others, ids([1]));
        // Three nodes, one drains: three voters to the end.
        let mut last = state(&[0, 1, 2]);
        drain(&mut last, 2);
        assert_eq!(choose_voters(&last, &three, &three), three);
        last.members.remove(&NodeId(2));
        assert_eq!(choose_voters(&last, &three, &ids([1, 3])), ids([1]));
        // One of two drains: the other votes.
        let mut two = state(&[0, 1]);
        drain(&mut two, 1);
        assert_eq!(choose_voters(&two, &ids([1]), &ids([1, 2])), ids([2]));
    }

    #[test]
    fn two_voters_stay_two_while_a_third_is_on_its_way() {
        // The dead third was replaced by a node that has not caught up.
        let replaced = state(&[0, 1, 2]);
        let (present, able) = (ids([1, 2, 9]), ids([1, 2]));
        assert_eq!(choose_voters(&replaced, &present, &able), able);
        assert_eq!(choose_voters(&replaced, &able, &ids(1..=3)), ids(1..=3));
        // A cluster that grows does not begin with two.
        assert_eq!(choose_voters(&replaced, &ids([1]), &able), ids([1]));
    }

    proptest! {
        #[test]
        fn no_zone_has_a_majority_when_three_can_share(
            zones in proptest::collection::vec(0usize..4, 1..12),
            present in 0u64..4096,
            down in 0u64..4096,
        ) {
            let state = state(&zones);
            let of = |mask: u64| ids((1..=zones.len() as u64).filter(|id| mask >> id & 1 == 1));
            let (present, able) = (of(present), of(!down));
            let chosen = choose_voters(&state, &present, &able);
            prop_assert!(chosen.len() <= MOST_VOTERS);
            let two = chosen.len() == 2 && zones.len() > 2;
            prop_assert!(chosen.is_empty() || chosen.len() % 2 == 1 || two);
            prop_assert_eq!(chosen.is_empty(), able.union(&present).all(|id| !state.members.contains_key(id)));
            prop_assert!(chosen.iter().all(|id| able.contains(id) || present.contains(id)));
            // Choosing again changes nothing.
            prop_assert_eq!(&choose_voters(&state, &chosen, &able), &chosen);
            let zone = |id: &NodeId| zones[id.0 as usize - 1];
            let usable: BTreeSet<_> = able.union(&present).map(zone).collect();
            if usable.len() >= 3 && chosen.len() >= 3 {
                for of_zone in &usable {
                    let count = chosen.iter().filter(|id| zone(id) == *of_zone).count();
                    prop_assert!(2 * count < chosen.len(), "zone {of_zone} in {chosen:?}");
                }
            }
        }
    }
}
