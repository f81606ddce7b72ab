//! Whether a leader is followed, as far as it is heard of here.
//!
//! Raft goes on naming the leader that it knew: a leader that is cut off leads
//! in its own eyes, and whoever hears nobody keeps its last vote. Neither can
//! have anything agreed. So a leader says in each of its messages how long ago a
//! majority answered it, and the others remember the latest of that.
//!
//! This is for those who are told who leads. Whom to ask is another matter: the
//! leader that was known last is as good a guess as any.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use openraft::{Instant as _, type_config::TypeConfigExt};
use tokio::time::Instant;

use super::types::{TypeConfig, Vote};
use crate::{
    NodeId,
    planted::{self, Bug},
};

type Metrics = openraft::RaftMetrics<TypeConfig>;

/// The last that was heard of a leader. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Heard {
    // A std mutex: held for a comparison only, never across an await.
    last: Arc<Mutex<Option<Word>>>,
}

/// A leader's word for the majority that follows it.
#[derive(Clone, Copy)]
struct Word {
    term: u64,
    leader: u64,
    /// When the majority answered, by the clock of this node.
    at: Instant,
}

impl Heard {
    /// Takes note of a leader's message, which says how long ago a majority
    /// answered it. That of an earlier term counts no more.
    pub(super) fn note(&self, vote: &Vote, age: Duration) {
        let at = Instant::now().checked_sub(age);
        let Some(at) = at.filter(|_| vote.committed) else {
            return;
        };
        let word = Word {
            term: vote.leader_id.term,
            leader: vote.leader_id.voted_for,
            at,
        };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        // Messages overtake each other.
        if last.is_none_or(|last| (last.term, last.at) < (word.term, word.at)) {
            *last = Some(word);
        }
    }

    /// The leader that a node knows, if a majority followed it less than `limit`
    /// ago. None where its own part in Raft has broken off: what it knew last
    /// says nothing any more.
    pub(super) fn followed(&self, metrics: &Metrics, limit: Duration) -> Option<NodeId> {
        let leader = metrics.current_leader?;
        if metrics.running_state.is_err() {
            return None;
        }
        if planted::is(Bug::LeaderUnfollowed) {
            return Some(NodeId(leader));
        }
        let age = if leader == metrics.id {
            quorum_age(metrics)
        } else {
            let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            let word = last.filter(|last| last.leader == leader);
            word.map(|word| word.at.elapsed())
        };
        age.filter(|age| *age < limit).map(|_| NodeId(leader))
    }
}

/// How long ago a majority answered this node, which leads. Nothing at all for
/// one that votes alone, and none if none ever has.
pub(super) fn quorum_age(metrics: &Metrics) -> Option<Duration> {
    let membership = metrics.membership_config.membership();
    if membership.voter_ids().eq([metrics.id]) {
        return Some(Duration::ZERO);
    }
    let at = metrics.last_quorum_acked?;
    Some(TypeConfig::now().saturating_duration_since(*at))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(1_200);

    /// A node that takes another for its leader.
    fn follower_of(leader: u64) -> Metrics {
        let mut metrics = Metrics::new_initial(1);
        metrics.current_leader = Some(leader);
        metrics
    }

    fn note(heard: &Heard, term: u64, leader: u64, age_ms: u64) {
        let vote = Vote::new_committed(term, leader);
        heard.note(&vote, Duration::from_millis(age_ms));
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_counts_while_it_is_heard_and_a_majority_answers_it() {
        let (heard, metrics) = (Heard::default(), follower_of(2));
        let follows = |heard: &Heard| heard.followed(&metrics, LIMIT) == Some(NodeId(2));
        assert!(!follows(&heard), "it was heard in an earlier life");
        note(&heard, 5, 2, u64::MAX);
        assert!(!follows(&heard), "no majority has answered it");
        note(&heard, 5, 2, 100);
        assert!(follows(&heard));
        tokio::time::advance(Duration::from_millis(1_000)).await;
        assert!(follows(&heard));
        // It is heard still, and its majority is as long ago as before.
        note(&heard, 5, 2, 1_100);
        tokio::time::advance(Duration::from_millis(100)).await;
        assert!(!follows(&heard));
        note(&heard, 5, 2, 0);
        assert!(follows(&heard));
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_leader_of_the_last_term_counts() {
        let heard = Heard::default();
        note(&heard, 5, 2, 0);
        assert_eq!(heard.followed(&follower_of(3), LIMIT), None);
        note(&heard, 6, 3, 50);
        // What was sent before comes late.
        note(&heard, 5, 2, 0);
        assert_eq!(heard.followed(&follower_of(3), LIMIT), Some(NodeId(3)));
        assert_eq!(heard.followed(&follower_of(2), LIMIT), None);
        heard.note(&Vote::new(7, 2), Duration::ZERO);
        assert_eq!(
            heard.followed(&follower_of(2), LIMIT),
            None,
            "it asks for votes"
        );
    }
}
