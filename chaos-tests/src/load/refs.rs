//! W1: names that are pushed over and over, each under several URIs, and
//! fetched by any of them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use weir_proto::asset::PushBlobRequest;

use super::{
    Client, Tools, Workload,
    cas::Node,
    content::{Content, HEADER_BYTES, Name},
    ledger::Acknowledged,
    tools::{Told, lock, unique, words},
    verify,
};
use crate::{
    history::{ABSENT, Kind, Outcome},
    seeded::Words,
};

/// Hits of which one has its blob read, although it is known already.
const VERIFIED_EVERY: usize = 8;

/// Largest blob of a ref.
const BLOB_BYTES: usize = 2_000;

/// The workload.
#[derive(Clone, Debug)]
pub struct Refs {
    /// Names that are pushed and fetched.
    pub keys: u32,
    /// Share of fetches.
    pub fetches: f64,
    /// What each blob is, as far as this load pushed it.
    known: Arc<Mutex<HashMap<Name, u64>>>,
}

impl Refs {
    #[must_use]
    pub fn new(keys: u32, fetches: f64) -> Refs {
        Refs {
            keys: keys.max(1),
            fetches,
            known: Arc::default(),
        }
    }

    /// The URIs of a name, two or three.
    #[must_use]
    pub fn uris(seed: u64, key: u32) -> Vec<String> {
        (0..2 + key % 2)
            .map(|uri| format!("urn:fdc:buildstream.build:2020:artifact:refs/{seed:x}/{key}-{uri}"))
            .collect()
    }
}

impl Workload for Refs {
    const NAME: &'static str = "refs";
    type Client = RefsClient;

    fn client(&self, process: u32, tools: Arc<Tools>) -> RefsClient {
        RefsClient {
            words: words(tools.seed, process),
            workload: self.clone(),
            tools,
            process,
            pushes: 0,
        }
    }
}

/// One client of it.
pub struct RefsClient {
    workload: Refs,
    tools: Arc<Tools>,
    process: u32,
    pushes: u32,
    words: Words,
}

impl Client for RefsClient {
    async fn round(&mut self) {
        let Some(node) = self.tools.any_node(&mut self.words) else {
            return;
        };
        let key = self.words.below(self.workload.keys as usize) as u32;
        if self.words.share() < self.workload.fetches {
            self.fetch(&node, key).await;
        } else {
            self.push(&node, key).await;
        }
    }
}

impl RefsClient {
    async fn push(&mut self, node: &Node, key: u32) {
        self.pushes += 1;
        let value = unique(self.process, self.pushes);
        let content = Content {
            seed: self.tools.seed,
            key,
            value,
            length: (HEADER_BYTES + self.words.below(BLOB_BYTES)) as u64,
        };
        let bytes = content.bytes();
        let name = Name::of(&bytes);
        let stored = node.batch_update(&[(name, bytes.into())]).await;
        if !stored.is_ok_and(|blobs| blobs.iter().all(Result::is_ok)) {
            return;
        }
        self.tools
            .ledger
            .blob(self.tools.clock.now(), node.number, name);
        lock(&self.workload.known).insert(name, value);
        let uris = Refs::uris(self.tools.seed, key);
        let request = PushBlobRequest {
            uris: uris.clone(),
            blob_digest: Some(name.to_wire()),
            ..Default::default()
        };
        let start = self.tools.clock.now();
        let answer = node.push_blob(request).await;
        let outcome = answer.as_ref().err().map_or(Outcome::Ok, |e| e.outcome);
        self.tools.record(Told {
            process: self.process,
            node: node.number,
            key,
            uri: 0,
            kind: Kind::Write,
            outcome,
            start,
            value,
        });
        match answer {
            Ok(()) => self.tools.acknowledge(
                node.number,
                Acknowledged::Ref {
                    key,
                    value,
                    uris,
                    blob: name,
                },
            ),
            Err(refusal) if refusal.is_absence() => self.tools.breach(format!(
                "node {} says that a blob is absent that it acknowledged: {refusal}",
                node.number
            )),
            Err(_) => {}
        }
    }

    async fn fetch(&mut self, node: &Node, key: u32) {
        let uris = Refs::uris(self.tools.seed, key);
        // Mostly one, as a pull does; or all, as before a push.
        let first = self.words.below(uris.len() + 1);
        let asked = match uris.get(first) {
            Some(uri) => vec![uri.clone()],
            None => uris.clone(),
        };
        let mut told = Told {
            process: self.process,
            node: node.number,
            key,
            uri: first.min(uris.len() - 1) as u8,
            kind: Kind::Read,
            outcome: Outcome::Ok,
            start: self.tools.clock.now(),
            value: ABSENT,
        };
        match node.fetch_blob(&asked).await {
            Ok((uri, name)) => {
                let end = self.tools.clock.now();
                let Some(index) = uris.iter().position(|known| *known == uri) else {
                    self.tools
                        .breach(format!("{uri} was found, which was not asked for"));
                    return;
                };
                if let Some(value) = self.value_of(node, key, name).await {
                    told.uri = index as u8;
                    told.value = value;
                    self.tools.record_at(told, end);
                }
            }
            Err(refusal) => {
                if !refusal.is_absence() {
                    told.outcome = refusal.outcome;
                }
                self.tools.record(told);
            }
        }
    }

    /// Which write a fetch saw; `None` if that cannot be told now.
    async fn value_of(&mut self, node: &Node, key: u32, name: Name) -> Option<u64> {
        let known = lock(&self.workload.known).get(&name).copied();
        if known.is_some() && self.words.below(VERIFIED_EVERY) > 0 {
            return known;
        }
        let bytes = match verify::whole(node, name).await {
            Ok(bytes) => bytes,
            Err(refusal) if refusal.is_absence() || verify::is_wrong_bytes(&refusal) => {
                self.tools
                    .breach(format!("key {key} was found, but not its blob: {refusal}"));
                return known;
            }
            Err(_) => return known,
        };
        match Content::read_header(&bytes) {
            Some(content) if (content.seed, content.key) == (self.tools.seed, key) => {
                Some(content.value)
            }
            other => {
                self.tools
                    .breach(format!("key {key} names the blob {name}: {other:?}"));
                None
            }
        }
    }
}
