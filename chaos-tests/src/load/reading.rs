//! Reads of blobs that were promised, one after the other, as a client makes
//! them that tries again: what a fault costs those who only read.
//!
//! A read that fails is tried again at once through another node, and from then
//! on after a moment, until it is answered or given up. The history has how long
//! each took; its value is the number of calls. Whether a blob may be missing is
//! for other loads to say.

use std::{sync::Arc, time::Duration};

use super::{
    Client, Ledger, Tools, Workload,
    content::Name,
    tools::{Told, words},
    verify,
};
use crate::{
    history::{Kind, Outcome},
    seeded::Words,
};

/// Between the calls of a read after the second.
const REST: Duration = Duration::from_millis(20);

/// A read is given up then, in microseconds, so that a run ends.
const PATIENCE: u64 = 60_000_000;

/// Blobs that are looked at until one is small enough for a short call.
const LOOKS: usize = 8;

/// The workload.
#[derive(Clone)]
pub struct Reading {
    /// Whose blobs are read.
    pub promised: Ledger,
}

impl Workload for Reading {
    const NAME: &'static str = "reading";
    type Client = ReadingClient;

    fn client(&self, process: u32, tools: Arc<Tools>) -> ReadingClient {
        ReadingClient {
            words: words(tools.seed, process),
            promised: self.promised.clone(),
            tools,
            process,
        }
    }
}

/// One client of it.
pub struct ReadingClient {
    promised: Ledger,
    tools: Arc<Tools>,
    process: u32,
    words: Words,
}

impl Client for ReadingClient {
    async fn round(&mut self) {
        let Some(name) = self.some_small() else {
            return;
        };
        let start = self.tools.clock.now();
        let mut asked = None;
        for calls in 1_u64.. {
            let Some(node) = self.tools.other_node(asked, &mut self.words) else {
                return;
            };
            asked = Some(node.number);
            let outcome = match verify::whole(&node, name).await {
                Ok(_) => Outcome::Ok,
                Err(refusal) if refusal.is_absence() => return,
                Err(refusal) if verify::is_wrong_bytes(&refusal) => {
                    return self.tools.breach(refusal.message);
                }
                Err(refusal) if self.tools.clock.now() > start + PATIENCE => refusal.outcome,
                Err(_) if calls == 1 => continue,
                Err(_) => {
                    tokio::time::sleep(REST).await;
                    continue;
                }
            };
            return self.tools.record(Told {
                process: self.process,
                node: node.number,
                key: 0,
                uri: 0,
                kind: Kind::Read,
                outcome,
                start,
                value: calls,
            });
        }
    }
}

impl ReadingClient {
    fn some_small(&mut self) -> Option<Name> {
        let mut drawn = (0..LOOKS).map_while(|_| {
            let number = self.words.next()?;
            self.promised.some_blob(number)
        });
        drawn.find(|name| (1..=verify::SMALL_BYTES).contains(&name.size))
    }
}
