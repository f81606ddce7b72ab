//! Storms of FindMissingBlobs: thousands of digests at once, of blobs that
//! are there, of some that never were, and of what other loads uploaded. What
//! is left out is read at once, through another node (promise P6).

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use bytes::Bytes;

use super::{
    Client, Ledger, Tools, Workload,
    cas::Node,
    content::{Content, HEADER_BYTES, Name},
    tools::{Told, words},
    verify,
};
use crate::{
    history::{ABSENT, Kind, Outcome},
    seeded::Words,
};

/// Blobs of one upload.
const BATCH: u32 = 16;

/// Blobs of a storm that are read at once.
const READ: usize = 4;

/// Value of the blobs that are uploaded, and of those that never are.
const THERE: u64 = 1;
const NEVER: u64 = 2;

/// The workload.
#[derive(Clone)]
pub struct Presence {
    /// Digests of one question.
    pub digests: usize,
    /// Whose blobs are asked for as well.
    pub also: Option<Ledger>,
    /// Blobs whose upload has begun.
    begun: Arc<AtomicU32>,
}

impl Presence {
    #[must_use]
    pub fn new(digests: usize, also: Option<Ledger>) -> Presence {
        Presence {
            digests,
            also,
            begun: Arc::default(),
        }
    }
}

impl Workload for Presence {
    const NAME: &'static str = "presence";
    type Client = PresenceClient;

    fn client(&self, process: u32, tools: Arc<Tools>) -> PresenceClient {
        PresenceClient {
            words: words(tools.seed, process),
            workload: self.clone(),
            tools,
            process,
        }
    }
}

/// One client of it.
pub struct PresenceClient {
    workload: Presence,
    tools: Arc<Tools>,
    process: u32,
    words: Words,
}

impl Client for PresenceClient {
    async fn round(&mut self) {
        let Some(node) = self.tools.any_node(&mut self.words) else {
            return;
        };
        if self.words.below(8) == 0 {
            self.upload(&node).await;
        } else {
            self.ask(&node).await;
        }
    }
}

impl PresenceClient {
    async fn upload(&mut self, node: &Node) {
        let start = self.tools.clock.now();
        let first = self.workload.begun.fetch_add(BATCH, Ordering::Relaxed);
        let blobs: Vec<(Name, Bytes)> = (first..first + BATCH)
            .map(|key| {
                let bytes = self.content(key, THERE).bytes();
                (Name::of(&bytes), bytes.into())
            })
            .collect();
        let answers = node.batch_update(&blobs).await;
        for (index, (name, _)) in blobs.iter().enumerate() {
            let outcome = match &answers {
                Ok(answers) => answers[index].as_ref().err().map(|refusal| refusal.outcome),
                Err(refusal) => Some(refusal.outcome),
            };
            let outcome = outcome.unwrap_or(Outcome::Ok);
            let key = first + index as u32;
            self.tools
                .record(self.told(node, key, Kind::Write, outcome, (start, THERE)));
            if outcome == Outcome::Ok {
                self.tools
                    .ledger
                    .blob(self.tools.clock.now(), node.number, *name);
            }
        }
    }

    async fn ask(&mut self, node: &Node) {
        let begun = self.workload.begun.load(Ordering::Relaxed) as usize;
        // With its key, if it is one of this load's own.
        let mut asked: Vec<(Option<u32>, Name)> = Vec::with_capacity(self.workload.digests);
        for _ in 0..self.workload.digests {
            let also = self.workload.also.as_ref().filter(|_| asked.len() % 4 == 3);
            let other = also.and_then(|also| also.some_blob(self.words.next()?));
            if let Some(name) = other {
                asked.push((None, name));
            } else if begun == 0 || self.words.below(10) == 0 {
                let key = self.words.next().unwrap_or_default() as u32;
                asked.push((None, self.content(key, NEVER).name()));
            } else {
                let key = self.words.below(begun) as u32;
                asked.push((Some(key), self.content(key, THERE).name()));
            }
        }
        let names: Vec<Name> = asked.iter().map(|(_, name)| *name).collect();
        let start = self.tools.clock.now();
        let Ok(mut missing) = node.find_missing(&names).await else {
            return;
        };
        let end = self.tools.clock.now();
        missing.sort_unstable();
        let is_missing = |name: &Name| missing.binary_search(name).is_ok();
        for (key, name) in &asked {
            let value = if is_missing(name) { ABSENT } else { THERE };
            if let Some(key) = key {
                if value == THERE {
                    // Promised as if it were acknowledged: nobody uploads it again.
                    self.tools.ledger.blob(end, node.number, *name);
                }
                let told = self.told(node, *key, Kind::Ask, Outcome::Ok, (start, value));
                self.tools.record_at(told, end);
            }
        }
        let present: Vec<Name> = names.into_iter().filter(|name| !is_missing(name)).collect();
        for _ in 0..READ.min(present.len()) {
            let name = present[self.words.below(present.len())];
            self.read(name, node).await;
        }
    }

    /// Reads what was called present, through any node. That none of the
    /// nodes can be asked is no answer.
    async fn read(&mut self, name: Name, asked: &Node) {
        let Some(node) = self.tools.any_node(&mut self.words) else {
            return;
        };
        if let Err(refusal) = verify::whole(&node, name).await
            && (refusal.is_absence() || verify::is_wrong_bytes(&refusal))
        {
            self.tools.breach(format!(
                "node {} called {name} present, node {} answers: {refusal}",
                asked.number, node.number
            ));
        }
    }

    fn told(
        &self,
        node: &Node,
        key: u32,
        kind: Kind,
        outcome: Outcome,
        (start, value): (u64, u64),
    ) -> Told {
        Told {
            process: self.process,
            node: node.number,
            key,
            uri: 0,
            kind,
            outcome,
            start,
            value,
        }
    }

    fn content(&self, key: u32, value: u64) -> Content {
        Content {
            seed: self.tools.seed,
            key,
            value,
            length: HEADER_BYTES as u64 + u64::from(key % 256),
        }
    }
}
