//! The network in memory: calls over connections that can break.
//!
//! A call goes straight to the services of the other node, with its messages
//! encoded, but late. Over a cut nothing arrives until it is healed, in one
//! direction or both; nobody is told. A connection that breaks ends the calls
//! on it at both sides. What one call says arrives whole and in order, as HTTP/2
//! sees to that; calls may overtake each other.
//!
//! The tempting alternative, gRPC over pipes in memory, is ten times slower, and
//! HTTP/2 reads the clock of the machine: no two runs are the same. The wire has
//! tests of its own (`tests/peer_loopback.rs`).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::FutureExt;
use rand::Rng;
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use super::{line::Line, world::World};
use crate::{
    outside,
    peer::dial::{Channel, Dial},
};

/// What a message takes, in milliseconds.
const DELAY_MS: std::ops::Range<u64> = 0..6;

/// The network. Clones are the same.
#[derive(Clone)]
pub(super) struct Network {
    world: World,
    // A std mutex: held for short synchronous sections.
    state: Arc<Mutex<State>>,
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    listeners: BTreeMap<usize, Arc<Listener>>,
    /// Everybody who ever listened: messages are under way to those who have
    /// ended. Lines do not own them, since they know lines.
    kept: Vec<Arc<Listener>>,
    connections: Vec<(usize, usize, CancellationToken)>,
    /// Directions in which nothing arrives.
    cuts: BTreeSet<(usize, usize)>,
    /// Nodes without power: silent until they are started again.
    dark: BTreeSet<usize>,
    /// What messages from and to a node take more, in milliseconds.
    slow: BTreeMap<usize, u64>,
}

/// What a process serves until its life ends.
pub(super) struct Listener {
    pub(super) services: Routes,
    pub(super) life: CancellationToken,
}

/// The address of a node.
pub(super) fn address(node: usize) -> String {
    format!("node{node}:1")
}

impl Network {
    pub(super) fn new(world: World) -> Self {
        Self {
            world,
            state: Arc::default(),
            changed: watch::Sender::new(()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.send_replace(());
    }

    /// Nothing arrives from one node at another until [`Self::heal`].
    pub(super) fn cut(&self, from: usize, to: usize) {
        self.change(|state| state.cuts.extend([(from, to)]));
    }

    pub(super) fn slow_down(&self, node: usize, millis: u64) {
        self.change(|state| state.slow.extend([(node, millis)]));
    }

    /// Heals every cut and slow line.
    pub(super) fn heal(&self) {
        self.change(|state| {
            state.cuts.clear();
            state.slow.clear();
        });
    }

    /// A node loses power: nobody hears of it.
    pub(super) fn darken(&self, node: usize) {
        self.change(|state| {
            state.dark.insert(node);
            state.listeners.remove(&node);
        });
    }

    /// Breaks the connections of a node.
    pub(super) fn reset(&self, node: usize) {
        self.change(|state| {
            state.connections.retain(|(a, b, broken)| {
                let is_its = *a == node || *b == node;
                if is_its {
                    broken.cancel();
                }
                !is_its && !broken.is_cancelled()
            });
        });
    }

    /// A node's process has ended: its connections break, new ones are refused.
    pub(super) fn close(&self, node: usize) {
        self.change(|state| drop(state.listeners.remove(&node)));
        self.reset(node);
    }

    /// Lets go of those who listened.
    pub(super) fn forget(&self) {
        let state = std::mem::take(&mut *self.state());
        drop(state);
    }

    /// A node's process begins to listen.
    pub(super) fn listen(&self, node: usize, listener: Listener) {
        self.reset(node);
        let listener = Arc::new(listener);
        self.change(|state| {
            state.dark.remove(&node);
            state.kept.push(Arc::clone(&listener));
            state.listeners.insert(node, listener);
        });
    }

    /// How a process of a node opens connections, until its life ends.
    pub(super) fn dial(&self, from: usize, life: CancellationToken) -> Dial {
        let network = self.clone();
        Arc::new(move |address| {
            let (network, life) = (network.clone(), life.clone());
            async move {
                let line = network.connect(from, &life, &address).await;
                let line = line.ok_or_else(|| "connection refused".to_owned())?;
                Ok(Channel::new(line))
            }
            .boxed()
        })
    }

    async fn connect(&self, from: usize, life: &CancellationToken, address: &str) -> Option<Line> {
        let number = address.strip_prefix("node")?.split(':').next()?;
        let to: usize = number.parse().ok()?;
        self.pass(from, to).await;
        self.pass(to, from).await;
        if life.is_cancelled() {
            return None;
        }
        let far = self.state().listeners.get(&to).map(Arc::downgrade)?;
        let broken = CancellationToken::new();
        self.state().connections.push((from, to, broken.clone()));
        Some(Line {
            network: self.clone(),
            from,
            to,
            far,
            broken,
        })
    }

    /// A message has arrived.
    pub(super) fn arrived(&self, from: usize, to: usize, what: &str) {
        self.world.record().counts.messages += 1;
        self.world.trace(format_args!("{from} > {to}: {what}"));
    }

    /// The time that a message takes, and longer while nothing arrives.
    pub(super) async fn pass(&self, from: usize, to: usize) {
        let mut changed = self.changed.subscribe();
        let mut delay = outside::rng().random_range(DELAY_MS);
        let slow = |node| self.state().slow.get(&node).copied().unwrap_or(0);
        let most = slow(from).max(slow(to));
        if most > 0 {
            delay += outside::rng().random_range(0..most);
        }
        if delay > 0 {
            sleep(Duration::from_millis(delay)).await;
        }
        while self.is_cut(from, to) {
            // The sender is this network's.
            let _ = changed.changed().await;
        }
    }

    fn is_cut(&self, from: usize, to: usize) -> bool {
        let state = self.state();
        let dark = |node| state.dark.contains(&node);
        state.cuts.contains(&(from, to)) || dark(from) || dark(to)
    }
}
