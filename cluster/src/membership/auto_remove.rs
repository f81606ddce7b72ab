//! Which dead member is removed without being asked, if any.
//!
//! Off unless `auto_remove_after` is set. Removing costs a move of all that the
//! node held, so it is done only where a dead node is the likeliest cause:
//!
//! - silence counts while this node leads, by its own steady clock, and only in
//!   small steps: a leader that was itself asleep has not heard anybody either;
//! - members of two zones silent at once are more likely a network that split,
//!   or this node's own fault: then nothing is done;
//! - a member that joins counts for nothing: it has never owned a blob;
//! - one at a time, and only when no handoff is under way;
//! - never so many that fewer than a write quorum of owners that answer remain.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    NodeId,
    state::{ClusterState, MemberStatus},
};

/// Most that one look may add to a silence. A leader looks ten times a second.
const MOST_A_LOOK: Duration = Duration::from_secs(1);

/// How long each member has been silent, as the leader sees it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Silence {
    since: BTreeMap<NodeId, Duration>,
}

impl Silence {
    /// Takes note of a look that came so long after the one before. `silent`
    /// are the members that do not answer.
    pub fn look(&mut self, silent: &BTreeSet<NodeId>, after: Duration) {
        self.since.retain(|id, _| silent.contains(id));
        for id in silent {
            *self.since.entry(*id).or_default() += after.min(MOST_A_LOOK);
        }
    }

    #[must_use]
    pub fn of(&self, id: NodeId) -> Duration {
        self.since.get(&id).copied().unwrap_or_default()
    }
}

/// The member to remove now, if any.
#[must_use]
pub fn to_remove(state: &ClusterState, silence: &Silence) -> Option<NodeId> {
    let settings = &state.settings;
    if settings.auto_remove_seconds == 0 || state.epochs.len() != 1 {
        return None;
    }
    let limit = Duration::from_secs(settings.auto_remove_seconds.into());
    let members = || state.members.iter();
    let silent: Vec<_> = members()
        .filter(|(id, _)| silence.since.contains_key(id))
        .filter(|(_, member)| member.status != MemberStatus::Joining)
        .collect();
    let zones: BTreeSet<_> = silent.iter().map(|(_, member)| &member.zone).collect();
    if zones.len() != 1 {
        return None;
    }
    let (id, _) = silent
        .into_iter()
        .filter(|(id, _)| silence.of(**id) >= limit)
        .max_by_key(|(id, _)| silence.of(**id))?;
    let left = members()
        .filter(|(_, member)| member.status == MemberStatus::Active)
        .filter(|(other, _)| !silence.since.contains_key(other))
        .count();
    (left >= settings.write_quorum.max(1) as usize).then_some(*id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Epoch,
        state::{EpochPlan, tests::member},
    };

    const AFTER: u32 = 600;

    /// Members 1, 2, … in these zones, one epoch, and removal after ten minutes.
    fn state(zones: &[&str]) -> ClusterState {
        let mut state = ClusterState::default();
        state.settings.auto_remove_seconds = AFTER;
        for (id, zone) in (1..).zip(zones) {
            let mut row = member(&format!("n{id}"), zone);
            row.status = MemberStatus::Active;
            state.members.insert(NodeId(id), row);
        }
        let plan = EpochPlan {
            epoch: Epoch(1),
            replicas: 3,
            nodes: BTreeMap::new(),
            handed_off: BTreeSet::new(),
        };
        state.epochs.push(plan);
        state
    }

    fn silent(ids: &[u64], seconds: u32) -> Silence {
        let ids = ids.iter().copied().map(NodeId).collect();
        let mut silence = Silence::default();
        for _ in 0..seconds {
            silence.look(&ids, Duration::from_secs(1));
        }
        silence
    }

    #[test]
    fn one_dead_member_is_removed_when_its_time_is_up() {
        let three = state(&["a", "b", "c"]);
        assert_eq!(to_remove(&three, &silent(&[2], AFTER - 1)), None);
        assert_eq!(to_remove(&three, &silent(&[2], AFTER)), Some(NodeId(2)));
        let mut off = three.clone();
        off.settings.auto_remove_seconds = 0;
        assert_eq!(to_remove(&off, &silent(&[2], 10 * AFTER)), None);
    }

    #[test]
    fn nothing_is_removed_where_something_else_is_wrong() {
        let long = silent(&[2], 2 * AFTER);
        let mut moving = state(&["a", "b", "c"]);
        moving.epochs.push(moving.epochs[0].clone());
        assert_eq!(to_remove(&moving, &long), None, "a handoff is under way");
        let six = state(&["a", "b", "c", "a", "b", "c"]);
        let two_zones = silent(&[2, 3], 2 * AFTER);
        assert_eq!(to_remove(&six, &two_zones), None, "two zones are silent");
        let mut newer = long.clone();
        newer.look(
            &BTreeSet::from([NodeId(2), NodeId(3)]),
            Duration::from_secs(1),
        );
        assert_eq!(to_remove(&six, &newer), None, "one of them just now");
        let one_zone = silent(&[2, 5], 2 * AFTER);
        assert!(
            to_remove(&six, &one_zone).is_some(),
            "one zone, one at a time"
        );
        let mut joining = six.clone();
        joining.members.get_mut(&NodeId(3)).unwrap().status = MemberStatus::Joining;
        assert_eq!(to_remove(&joining, &two_zones), Some(NodeId(2)));
        let two = state(&["a", "b"]);
        assert_eq!(to_remove(&two, &long), None, "one owner is no write quorum");
        let pair = state(&["a", "b", "c", "b"]);
        let rest = silent(&[2, 4], 2 * AFTER);
        assert!(to_remove(&pair, &rest).is_some());
    }

    #[test]
    fn a_leader_that_slept_holds_it_against_nobody() {
        let dead = BTreeSet::from([NodeId(2)]);
        let mut silence = Silence::default();
        silence.look(&dead, Duration::from_secs(3_600));
        assert_eq!(silence.of(NodeId(2)), MOST_A_LOOK);
        silence.look(&BTreeSet::new(), Duration::from_secs(1));
        assert_eq!(silence, Silence::default(), "it answered");
    }
}
