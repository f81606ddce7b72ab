//! The only wire between rooms: a switch in this process, with rules for each
//! direction between two of them.
//!
//! The kernels that tests run on have no `netem`. So each room has a TUN
//! interface whose other end is read here; a packet is decided on by
//! [`rules`], a pure function, and written to the room whose address it has.
//!
//! Promised: rules hold for every packet that is read after [`Switch::lay`]
//! returned; packets already under way arrive as they were decided on. Each
//! direction draws from its own seeded sequence. A packet is what the
//! interface sent: up to its MTU, never a bundle.

mod engine;
pub mod rules;
pub(super) mod tun;

use std::{
    collections::BTreeMap,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::Result;
use rustix::event::{EventfdFlags, eventfd};
use serde_json::json;

use self::rules::{Arrival, Rules, Wire};
pub use self::rules::{Counts, Link, Pair};
use super::Events;

/// Rules that hold until they are lifted.
#[derive(Debug)]
#[must_use = "rules are lifted by their layer"]
pub struct Layer(u64);

/// The handle of a running switch. Closed when dropped.
pub struct Switch {
    shared: Arc<Shared>,
    events: Events,
    engine: Option<JoinHandle<()>>,
}

struct Shared {
    /// Held for one packet or one change.
    state: Mutex<State>,
    /// Readable when the state has changed.
    wake: OwnedFd,
    seed: u64,
}

#[derive(Default)]
struct State {
    ports: Vec<Arc<OwnedFd>>,
    /// Which port has the address that ends in this number.
    routes: BTreeMap<u8, usize>,
    rules: Rules,
    wires: BTreeMap<Pair, Wire>,
    is_closed: bool,
}

impl Switch {
    /// A switch without ports.
    pub(super) fn new(seed: u64, events: Events) -> Result<Switch> {
        let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            wake: eventfd(0, flags)?,
            seed,
        });
        let inner = shared.clone();
        let start = Instant::now();
        let engine = thread::Builder::new()
            .name("switch".into())
            .spawn(move || engine::run(&inner, start))?;
        Ok(Switch {
            shared,
            events,
            engine: Some(engine),
        })
    }

    /// Plugs in a wire; its room has the address that ends in `octet`.
    pub(super) fn plug(&self, tun: OwnedFd, octet: u8) -> usize {
        let mut state = self.shared.lock();
        let port = state.ports.len();
        state.ports.push(Arc::new(tun));
        state.routes.insert(octet, port);
        drop(state);
        self.shared.wake();
        port
    }

    /// Sends packets for an address to another port.
    pub(super) fn route(&self, octet: u8, port: usize) {
        self.shared.lock().routes.insert(octet, port);
    }

    /// Puts rules on directions, on top of those that there are, and enters
    /// them as `what`.
    pub fn lay(&self, what: &str, links: impl IntoIterator<Item = (Pair, Link)>) -> Layer {
        let mut merged: BTreeMap<Pair, Link> = BTreeMap::new();
        for (pair, link) in links {
            let before = merged.entry(pair).or_default();
            *before = before.and(link);
        }
        let mut written: BTreeMap<String, Vec<Pair>> = BTreeMap::new();
        for (pair, link) in &merged {
            written.entry(describe(link)).or_default().push(*pair);
        }
        let id = self.shared.lock().rules.lay(merged);
        let detail = json!({"rule": what, "layer": id, "links": written});
        self.events.enter("network", detail);
        Layer(id)
    }

    /// Takes rules away.
    pub fn lift(&self, layer: Layer) {
        self.shared.lock().rules.lift(layer.0);
        self.events.enter("network", json!({"lifted": layer.0}));
    }

    /// What a direction has done with packets so far.
    pub fn counts(&self, pair: Pair) -> Counts {
        let state = self.shared.lock();
        state
            .wires
            .get(&pair)
            .map_or_else(Counts::default, |wire| wire.counts)
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.shared.lock().is_closed = true;
        self.shared.wake();
        if let Some(engine) = self.engine.take() {
            // Its panic was printed; here is nobody to tell.
            let _ = engine.join();
        }
    }
}

impl Shared {
    /// A panic elsewhere leaves the state whole: changes are single
    /// assignments.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // Fails only when a wake is pending already.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// All ports, or `None` once the switch is closed.
    fn open_ports(&self) -> Option<Vec<Arc<OwnedFd>>> {
        let state = self.lock();
        (!state.is_closed).then(|| state.ports.clone())
    }

    /// Where a packet goes and when it arrives; `None` if it is lost or for
    /// nobody here.
    fn decide(&self, from: usize, packet: &[u8], now: Duration) -> Option<(usize, Arrival)> {
        let octet = destination(packet)?;
        let mut state = self.lock();
        let state = &mut *state;
        let to = *state.routes.get(&octet)?;
        let link = state.rules.link((from, to));
        let wire = state
            .wires
            .entry((from, to))
            .or_insert_with(|| Wire::new(self.seed, (from, to)));
        let arrival = wire.send(&link, now, packet.len())?;
        Some((to, arrival))
    }
}

/// The last number of the address that an IPv4 packet within our network is
/// for.
fn destination(packet: &[u8]) -> Option<u8> {
    let header = packet.first_chunk::<20>()?;
    let is_ours = header[0] >> 4 == 4 && header[16..19] == super::world::NETWORK;
    is_ours.then_some(header[19])
}

/// What a link does, in words, for the record.
fn describe(link: &Link) -> String {
    let mut words = Vec::new();
    if link.cut {
        words.push("cut".to_owned());
    }
    for (name, time) in [("delay", link.delay), ("jitter", link.jitter)] {
        if !time.is_zero() {
            words.push(format!("{name} {} ms", time.as_secs_f64() * 1e3));
        }
    }
    for (name, share) in [
        ("loss", link.loss),
        ("duplicate", link.duplicate),
        ("reorder", link.reorder),
    ] {
        if share > 0.0 {
            words.push(format!("{name} {:.1} %", share * 100.0));
        }
    }
    if let Some(rate) = link.rate {
        words.push(format!("rate {rate} bit/s"));
    }
    words.join(", ")
}
