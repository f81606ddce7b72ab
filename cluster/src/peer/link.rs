//! Connections to one peer.
//!
//! Opened when first needed, and again after one broke. A peer that could not
//! be reached fails fast for a short, growing time, so that a node that is
//! down costs its callers nothing.

use std::{
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rand::Rng;
use tokio::time::{Instant, timeout};

use super::dial::{Channel, Dial};
use crate::{Error, NodeId, outside};

/// Connections to each peer: one stream of blobs does not fill a long link, and
/// two keep a large stream from delaying small answers behind it.
const CONNECTIONS: usize = 2;

/// How long opening a connection may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(1);
/// How long a peer that could not be reached fails fast: at first, and at most.
/// The most bounds how long a peer that is back goes unnoticed.
const BACKOFF_LEAST: Duration = Duration::from_millis(100);
const BACKOFF_MOST: Duration = Duration::from_secs(2);

pub(crate) struct Link {
    node: NodeId,
    address: String,
    connections: [tokio::sync::Mutex<Option<Connection>>; CONNECTIONS],
    turn: AtomicUsize,
    opened: AtomicUsize,
    // A std mutex: held for short synchronous sections.
    refusal: Mutex<Refusal>,
}

#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) channel: Channel,
    place: usize,
    /// Of those that this link has opened.
    number: usize,
    /// Whether the call that got it is not to get another: it was opened for that
    /// call, or took the place of one that broke under it.
    is_last: bool,
}

#[derive(Default)]
struct Refusal {
    times: u32,
    until: Option<Instant>,
    cause: String,
}

impl Link {
    pub(crate) fn new(node: NodeId, address: String) -> Self {
        Self {
            node,
            address,
            connections: Default::default(),
            turn: AtomicUsize::new(0),
            opened: AtomicUsize::new(0),
            refusal: Mutex::default(),
        }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// A connection, by turns.
    pub(crate) async fn connection(&self, dial: &Dial) -> Result<Connection, Error> {
        let place = self.turn.fetch_add(1, Ordering::Relaxed) % CONNECTIONS;
        self.connection_at(place, dial).await
    }

    /// A connection in the place of one that broke under a call, which may have
    /// been dead for long. None if it was opened for that call, or was given so
    /// itself: then the peer is at fault.
    pub(crate) async fn another(
        &self,
        dial: &Dial,
        broken: &Connection,
    ) -> Option<Result<Connection, Error>> {
        self.forget(broken).await;
        if broken.is_last {
            return None;
        }
        let another = self.connection_at(broken.place, dial).await;
        Some(another.map(|connection| Connection {
            is_last: true,
            ..connection
        }))
    }

    async fn connection_at(&self, place: usize, dial: &Dial) -> Result<Connection, Error> {
        self.fail_fast()?;
        // Whoever else needs this connection waits for the same attempt.
        let mut connection = self.connections[place].lock().await;
        if let Some(connection) = &*connection {
            return Ok(connection.clone());
        }
        self.fail_fast()?;
        let dialled = timeout(CONNECT_DEADLINE, dial(self.address.clone())).await;
        let cause = match dialled {
            Ok(Ok(channel)) => {
                *self.lock() = Refusal::default();
                let opened = Connection {
                    channel,
                    place,
                    number: self.opened.fetch_add(1, Ordering::Relaxed),
                    is_last: false,
                };
                *connection = Some(opened.clone());
                return Ok(Connection {
                    is_last: true,
                    ..opened
                });
            }
            Ok(Err(cause)) => cause,
            Err(_) => format!("no connection within {CONNECT_DEADLINE:?}"),
        };
        let cause = format!("{}: {cause}", self.address);
        self.refused(&cause);
        Err(self.unreachable(cause))
    }

    /// Forgets a connection that broke, if nobody has yet.
    pub(crate) async fn forget(&self, broken: &Connection) {
        let mut connection = self.connections[broken.place].lock().await;
        if connection
            .as_ref()
            .is_some_and(|known| known.number == broken.number)
        {
            *connection = None;
        }
    }

    /// Forgets a connection that leads to another node than was meant: the next
    /// call looks the name up again, after the pause that a dead peer gets.
    pub(crate) async fn misled(&self, connection: &Connection, cause: &str) {
        self.forget(connection).await;
        self.refused(&format!("{}: {cause}", self.address));
    }

    fn fail_fast(&self) -> Result<(), Error> {
        let refusal = self.lock();
        match refusal.until {
            Some(until) if Instant::now() < until => Err(self.unreachable(refusal.cause.clone())),
            _ => Ok(()),
        }
    }

    fn refused(&self, cause: &str) {
        let mut refusal = self.lock();
        let growth = 1 << refusal.times.min(8);
        let most = (BACKOFF_LEAST * growth).min(BACKOFF_MOST);
        // Jitter, so that the nodes of a cluster do not all return at once.
        let backoff = most.mul_f64(outside::rng().random_range(0.5..1.0));
        refusal.times = refusal.times.saturating_add(1);
        refusal.until = Some(Instant::now() + backoff);
        cause.clone_into(&mut refusal.cause);
    }

    fn unreachable(&self, cause: String) -> Error {
        Error::Unreachable {
            node: self.node,
            cause,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Refusal> {
        self.refusal
            .lock()
            .expect("no panic while a refusal is locked")
    }
}
