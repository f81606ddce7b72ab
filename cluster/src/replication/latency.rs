//! How fast each peer has answered lately, so that reads go to the fastest and
//! silence is noticed early.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use tokio::time::Instant;

use super::read_order::Distance;
use crate::{NodeId, placement::view::View};

/// Longest wait for the first byte before the next candidate is asked as well.
const PATIENCE_SAME_ZONE: Duration = Duration::from_millis(200);
const PATIENCE_OTHER_ZONE: Duration = Duration::from_millis(500);
/// Shortest: below it a busy scheduler looks like silence.
const PATIENCE_LEAST: Duration = Duration::from_millis(50);
/// Silence is that many times the usual wait.
const PATIENCE_FACTOR: u32 = 8;
/// How long a peer that failed is asked last. Peers themselves fail fast while
/// they know of a refusal; this spares them even the question.
const SHAKY: Duration = Duration::from_secs(5);
/// Peers remembered; above it everything is forgotten and learned again.
const NODES_LIMIT: usize = 4_096;

#[derive(Default)]
pub(super) struct Latencies {
    // A std mutex: held for map operations only, never across an await.
    nodes: Mutex<HashMap<NodeId, Memory>>,
}

#[derive(Clone, Copy, Default)]
struct Memory {
    smoothed: Duration,
    failed_at: Option<Instant>,
}

impl Latencies {
    /// A peer gave its first byte after this time.
    pub(super) fn observe(&self, node: NodeId, took: Duration) {
        let mut nodes = self.lock();
        if nodes.len() >= NODES_LIMIT && !nodes.contains_key(&node) {
            nodes.clear();
        }
        let memory = nodes.entry(node).or_default();
        memory.failed_at = None;
        memory.smoothed = if memory.smoothed.is_zero() {
            took
        } else {
            (memory.smoothed * 7 + took) / 8
        };
    }

    /// A peer did not do what it was asked, for a reason of its own.
    pub(super) fn failed(&self, node: NodeId) {
        self.lock().entry(node).or_default().failed_at = Some(Instant::now());
    }

    pub(super) fn of(&self, node: NodeId) -> Option<Duration> {
        let smoothed = self.lock().get(&node)?.smoothed;
        (!smoothed.is_zero()).then_some(smoothed)
    }

    pub(super) fn distance(&self, view: &View, node: NodeId) -> Distance {
        let memory = self.lock().get(&node).copied().unwrap_or_default();
        Distance {
            remote: node != view.me(),
            shaky: memory
                .failed_at
                .is_some_and(|failed_at| failed_at.elapsed() < SHAKY),
            other_zone: view.zone(node) != view.zone(view.me()),
            latency: memory.smoothed,
        }
    }

    /// How long to wait for a node's first byte before asking another as well.
    pub(super) fn patience(&self, view: &View, node: NodeId) -> Duration {
        let distance = self.distance(view, node);
        let most = if distance.other_zone {
            PATIENCE_OTHER_ZONE
        } else {
            PATIENCE_SAME_ZONE
        };
        if distance.latency.is_zero() {
            return most;
        }
        (distance.latency * PATIENCE_FACTOR).clamp(PATIENCE_LEAST, most)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, Memory>> {
        self.nodes.lock().expect("no panic while the map is locked")
    }
}
