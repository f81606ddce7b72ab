//! What the clients of a load share.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tonic::transport::Channel;

use super::{
    Options,
    cas::{self, Node},
    ledger::{Acknowledged, Entry, Ledger},
    meter::Meter,
};
use crate::{
    history::{Clock, Kind, Operation, Outcome, Recorder, UNTOLD},
    seeded::Words,
};

/// Breaches that are kept; more would only hide the first.
const KEPT: usize = 1_000;

/// The nodes that clients ask, by number. Clones are handles of the same list,
/// so that nodes can come, move and go while loads run.
#[derive(Clone, Default)]
pub struct Nodes(Arc<Mutex<Vec<Option<String>>>>);

impl Nodes {
    /// Nodes 0, 1, … at these URLs.
    pub fn new(urls: impl IntoIterator<Item = String>) -> Nodes {
        Nodes(Arc::new(Mutex::new(urls.into_iter().map(Some).collect())))
    }

    /// One more; its number.
    pub fn add(&self, url: String) -> u16 {
        let mut urls = lock(&self.0);
        urls.push(Some(url));
        (urls.len() - 1) as u16
    }

    /// The node is asked at another URL from now on; or no more.
    pub fn set(&self, number: u16, url: Option<String>) {
        if let Some(place) = lock(&self.0).get_mut(usize::from(number)) {
            *place = url;
        }
    }

    /// Numbers and URLs of those that are asked now.
    #[must_use]
    pub fn present(&self) -> Vec<(u16, String)> {
        let urls = lock(&self.0);
        let present = urls.iter().enumerate();
        present
            .filter_map(|(number, url)| Some((number as u16, url.clone()?)))
            .collect()
    }
}

/// An operation but for its end.
#[derive(Clone, Copy)]
pub(super) struct Told {
    pub(super) process: u32,
    pub(super) node: u16,
    pub(super) key: u32,
    pub(super) uri: u8,
    pub(super) kind: Kind,
    pub(super) outcome: Outcome,
    pub(super) start: u64,
    pub(super) value: u64,
}

/// What a client needs.
pub struct Tools {
    pub seed: u64,
    pub clock: Clock,
    pub history: Recorder,
    pub ledger: Ledger,
    pub meter: Meter,
    nodes: Nodes,
    call_limit: Duration,
    /// Connections of this load, made on its own thread, with their URLs.
    channels: Mutex<HashMap<u16, (String, Channel)>>,
    breaches: Mutex<Vec<String>>,
    counts: Mutex<BTreeMap<&'static str, u64>>,
}

impl Tools {
    /// With connections and a history of its own.
    #[must_use]
    pub fn new(options: Options) -> Tools {
        Tools {
            seed: options.seed,
            clock: options.clock,
            history: Recorder::default(),
            ledger: options.ledger,
            meter: Meter::default(),
            nodes: options.nodes,
            call_limit: options.call_limit,
            channels: Mutex::default(),
            breaches: Mutex::default(),
            counts: Mutex::default(),
        }
    }

    /// Any of the nodes; `None` while there are none. On the load's thread.
    pub fn any_node(&self, words: &mut Words) -> Option<Node> {
        let present = self.nodes.present();
        if present.is_empty() {
            return None;
        }
        let (number, url) = &present[words.below(present.len())];
        self.node(*number, url)
    }

    /// Any of the nodes but one, unless there is only that.
    pub fn other_node(&self, but: Option<u16>, words: &mut Words) -> Option<Node> {
        let mut present = self.nodes.present();
        if present.len() > 1 {
            present.retain(|(number, _)| Some(*number) != but);
        }
        let (number, url) = present.get(words.below(present.len().max(1)))?;
        self.node(*number, url)
    }

    fn node(&self, number: u16, url: &str) -> Option<Node> {
        let mut channels = lock(&self.channels);
        let known = channels.get(&number).filter(|(known, _)| known == url);
        let channel = match known {
            Some((_, channel)) => channel.clone(),
            None => match cas::channel(url, self.call_limit) {
                Ok(channel) => {
                    channels.insert(number, (url.to_owned(), channel.clone()));
                    channel
                }
                Err(error) => {
                    drop(channels);
                    self.breach(format!("node {number} has no usable URL {url}: {error}"));
                    return None;
                }
            },
        };
        Some(Node {
            number,
            channel,
            clock: self.clock,
            meter: self.meter.clone(),
        })
    }

    /// Notes an answer that contradicts a promise by itself.
    pub fn breach(&self, what: String) {
        let mut breaches = lock(&self.breaches);
        if breaches.len() < KEPT {
            breaches.push(what);
        }
    }

    /// All breaches so far.
    #[must_use]
    pub fn breaches(&self) -> Vec<String> {
        lock(&self.breaches).clone()
    }

    /// Counts something that a run has to have done to show anything.
    pub fn count(&self, what: &'static str) {
        *lock(&self.counts).entry(what).or_default() += 1;
    }

    /// What was counted so far.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.counts).clone()
    }

    /// Records an operation that ends now.
    pub(super) fn record(&self, told: Told) {
        let end = self.clock.now();
        self.record_at(told, end);
    }

    /// Records an operation that ended a moment ago.
    pub(super) fn record_at(&self, told: Told, end: u64) {
        self.history.record(Operation {
            process: told.process,
            key: told.key,
            kind: told.kind,
            outcome: told.outcome,
            node: told.node,
            uri: told.uri,
            start: told.start,
            end,
            value: told.value,
            // Answers to clients tell none.
            revision: UNTOLD,
        });
    }

    /// Enters an acknowledged push into the ledger.
    pub fn acknowledge(&self, node: u16, what: Acknowledged) {
        let at = self.clock.now();
        self.ledger.push(Entry { at, node, what });
    }
}

/// A panic elsewhere leaves these values whole: each change is one call.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A value that no other write has: the client, and its how-manyth write.
pub(super) fn unique(process: u32, number: u32) -> u64 {
    (u64::from(process) + 1) << 32 | u64::from(number)
}

/// Choices of one client that no other makes.
pub(super) fn words(seed: u64, process: u32) -> Words {
    let mut start = Words::new(seed ^ u64::from(process).rotate_left(32));
    Words::new(start.next().unwrap_or_default())
}
