//! The network in memory: connections as TCP has them.
//!
//! What is written arrives in order and late. Over a cut nothing arrives until
//! it is healed, in one direction or both; nobody is told. A connection that
//! breaks ends at both sides with what was under way. Bytes are never changed
//! or lost within a connection, as TCP sees to that.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::FutureExt;
use hyper_util::rt::TokioIo;
use rand::Rng;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf},
    sync::{mpsc, watch},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::world::World;
use crate::{
    outside,
    peer::dial::{Dial, endpoint},
};

/// Bytes between two ends: more than the largest message of a simulation.
const BUFFER_BYTES: usize = 4 << 20;
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
    listeners: BTreeMap<usize, mpsc::UnboundedSender<io::Result<DuplexStream>>>,
    connections: Vec<(usize, usize, CancellationToken)>,
    /// Directions in which nothing arrives.
    cuts: BTreeSet<(usize, usize)>,
    /// Nodes without power: silent until they are started again.
    dark: BTreeSet<usize>,
    /// What messages from and to a node take more, in milliseconds.
    slow: BTreeMap<usize, u64>,
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

    /// A node's process begins to listen.
    pub(super) fn listen(&self, node: usize) -> mpsc::UnboundedReceiver<io::Result<DuplexStream>> {
        self.reset(node);
        let (sender, receiver) = mpsc::unbounded_channel();
        self.change(|state| {
            state.dark.remove(&node);
            state.listeners.insert(node, sender);
        });
        receiver
    }

    /// How a process of a node opens connections, until its life ends.
    pub(super) fn dial(&self, from: usize, life: CancellationToken) -> Dial {
        let network = self.clone();
        Arc::new(move |address| {
            let (network, life) = (network.clone(), life.clone());
            async move {
                let endpoint = endpoint(&format!("http://{address}"))?;
                let connector = tower::service_fn(move |_| {
                    let (network, life) = (network.clone(), life.clone());
                    let address = address.clone();
                    async move { network.connect(from, life, &address).await }
                });
                let connected = endpoint.connect_with_connector(connector).await;
                connected.map_err(|error| error.to_string())
            }
            .boxed()
        })
    }

    async fn connect(
        &self,
        from: usize,
        life: CancellationToken,
        address: &str,
    ) -> io::Result<TokioIo<DuplexStream>> {
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let number = address
            .strip_prefix("node")
            .and_then(|rest| rest.split(':').next());
        let to: usize = number
            .and_then(|number| number.parse().ok())
            .ok_or_else(refused)?;
        self.pass(from, to).await;
        self.pass(to, from).await;
        if life.is_cancelled() {
            return Err(refused());
        }
        let listener = self.state().listeners.get(&to).cloned();
        let listener = listener.ok_or_else(refused)?;
        let (client, near) = tokio::io::duplex(BUFFER_BYTES);
        let (server, far) = tokio::io::duplex(BUFFER_BYTES);
        listener.send(Ok(server)).map_err(|_| refused())?;
        let broken = CancellationToken::new();
        self.state().connections.push((from, to, broken.clone()));
        let ((near_read, near_write), (far_read, far_write)) =
            (tokio::io::split(near), tokio::io::split(far));
        tokio::spawn(
            self.clone()
                .carry(from, to, near_read, far_write, broken.clone()),
        );
        tokio::spawn(self.clone().carry(to, from, far_read, near_write, broken));
        Ok(TokioIo::new(client))
    }

    /// Carries what is written at one end to the other.
    async fn carry(
        self,
        from: usize,
        to: usize,
        mut read: ReadHalf<DuplexStream>,
        mut write: WriteHalf<DuplexStream>,
        broken: CancellationToken,
    ) {
        let carrying = async {
            let mut bytes = vec![0; 64 << 10];
            loop {
                let count = read.read(&mut bytes).await.unwrap_or(0);
                if count == 0 {
                    return;
                }
                self.pass(from, to).await;
                self.world.record().counts.messages += 1;
                self.world.trace(format_args!("{from} > {to}"));
                if write.write_all(&bytes[..count]).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            biased;
            () = broken.cancelled() => {}
            () = carrying => broken.cancel(),
        }
    }

    /// The time that a message takes, and longer while nothing arrives.
    async fn pass(&self, from: usize, to: usize) {
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
