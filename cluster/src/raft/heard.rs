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
use tonic::{Request, metadata::MetadataMap};

use super::types::{TypeConfig, Vote};
use crate::{
    NodeId,
    peer::identity::value,
    planted::{self, Bug},
};

/// How long ago a majority answered the leader that sends this, in
/// milliseconds; [`u64::MAX`] if none ever has.
const QUORUM_KEY: &str = "weir-quorum-ms";

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
    /// Takes note of a leader's message. That of an earlier term counts no more.
    pub(super) fn note(&self, vote: &Vote, metadata: &MetadataMap) {
        // A node of a version that does not say it is believed.
        let age = value(metadata, QUORUM_KEY).unwrap_or(0);
        let at = Instant::now().checked_sub(Duration::from_millis(age));
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

/// Says in a leader's message how long ago a majority answered it.
pub(super) fn say<T>(request: &mut Request<T>, metrics: &Metrics) {
    let age = quorum_age(metrics).map_or(u128::MAX, |age| age.as_millis());
    let age = u64::try_from(age).unwrap_or(u64::MAX);
    request.metadata_mut().insert(QUORUM_KEY, age.into());
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

    fn note(heard: &Heard, term: u64, leader: u64, said: Option<u64>) {
        let mut request = Request::new(());
        if let Some(age) = said {
            request.metadata_mut().insert(QUORUM_KEY, age.into());
        }
        heard.note(&Vote::new_committed(term, leader), request.metadata());
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_counts_while_it_is_heard_and_a_majority_answers_it() {
        let (heard, metrics) = (Heard::default(), follower_of(2));
        let follows = |heard: &Heard| heard.followed(&metrics, LIMIT) == Some(NodeId(2));
        assert!(!follows(&heard), "it was heard in an earlier life");
        note(&heard, 5, 2, Some(u64::MAX));
        assert!(!follows(&heard), "no majority has answered it");
        note(&heard, 5, 2, Some(100));
        assert!(follows(&heard));
        tokio::time::advance(Duration::from_millis(1_000)).await;
        assert!(follows(&heard));
        // It is heard still, and its majority is as long ago as before.
        note(&heard, 5, 2, Some(1_100));
        tokio::time::advance(Duration::from_millis(100)).await;
        assert!(!follows(&heard));
        note(&heard, 5, 2, None);
        assert!(follows(&heard), "an older version says nothing of it");
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_leader_of_the_last_term_counts() {
        let heard = Heard::default();
        note(&heard, 5, 2, Some(0));
        assert_eq!(heard.followed(&follower_of(3), LIMIT), None);
        note(&heard, 6, 3, Some(50));
        // What was sent before comes late.
        note(&heard, 5, 2, Some(0));
        assert_eq!(heard.followed(&follower_of(3), LIMIT), Some(NodeId(3)));
        assert_eq!(heard.followed(&follower_of(2), LIMIT), None);
        heard.note(&Vote::new(7, 2), Request::new(()).metadata());
        assert_eq!(
            heard.followed(&follower_of(2), LIMIT),
            None,
            "it asks for votes"
        );
    }
}
