//! W2: blobs of all sizes, in batches and streams; the same again through
//! other nodes; uploads that are cut off and resumed, or never finished;
//! digests that are not those of the bytes; and reads, whole and in part.

mod rounds;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use tonic::Code;

use super::{
    Client, Tools, Workload,
    answer::Refusal,
    cas::{Answer, Node, upload_name},
    content::{Content, Name},
    tools::{Told, lock, unique, words},
};
use crate::{
    history::{Kind, Outcome},
    seeded::Words,
};

/// Most blobs in one batch.
const BATCH: usize = 8;

/// The value of every blob in its history: it is written once.
const THERE: u64 = 1;

/// The workload.
#[derive(Clone, Debug)]
pub struct Blobs {
    /// Largest blob.
    pub max_bytes: u64,
    known: Arc<Mutex<Known>>,
}

/// Blobs that somebody began to upload; a key is an index.
#[derive(Debug, Default)]
struct Known {
    contents: Vec<(Content, Name)>,
    /// Short blobs may come up twice.
    keys: HashMap<Name, u32>,
}

impl Blobs {
    #[must_use]
    pub fn new(max_bytes: u64) -> Blobs {
        Blobs {
            max_bytes: max_bytes.max(1),
            known: Arc::default(),
        }
    }

    fn enter(&self, content: Content, name: Name) -> u32 {
        let mut known = lock(&self.known);
        let next = known.contents.len() as u32;
        let key = *known.keys.entry(name).or_insert(next);
        if key == next {
            known.contents.push((content, name));
        }
        key
    }

    fn some(&self, words: &mut Words) -> Option<(u32, Content, Name)> {
        let known = lock(&self.known);
        if known.contents.is_empty() {
            return None;
        }
        let key = words.below(known.contents.len());
        let (content, name) = known.contents[key];
        Some((key as u32, content, name))
    }
}

impl Workload for Blobs {
    const NAME: &'static str = "blobs";
    type Client = BlobsClient;

    fn client(&self, process: u32, tools: Arc<Tools>) -> BlobsClient {
        BlobsClient {
            words: words(tools.seed, process),
            workload: self.clone(),
            tools,
            process,
            made: 0,
        }
    }
}

/// One client of it.
pub struct BlobsClient {
    workload: Blobs,
    tools: Arc<Tools>,
    process: u32,
    made: u32,
    words: Words,
}

/// A blob about to be uploaded.
struct Made {
    start: u64,
    key: u32,
    name: Name,
    data: Bytes,
}

impl Client for BlobsClient {
    async fn round(&mut self) {
        let Some(node) = self.tools.any_node(&mut self.words) else {
            return;
        };
        match self.words.below(100) {
            0..40 => self.upload_new(&node).await,
            40..50 => self.upload_again(&node).await,
            50..57 => self.upload_in_two(&node).await,
            57..63 => self.forge(&node).await,
            _ => self.read(&node).await,
        }
    }
}

impl BlobsClient {
    async fn batch(&mut self, node: &Node, batch: Vec<Made>) {
        let blobs: Vec<(Name, Bytes)> = batch
            .iter()
            .map(|made| (made.name, made.data.clone()))
            .collect();
        match node.batch_update(&blobs).await {
            Ok(answers) => {
                for (made, answer) in batch.iter().zip(&answers) {
                    self.note(node, made, answer);
                }
            }
            Err(refusal) => {
                for made in &batch {
                    self.note(node, made, &Err(refusal.clone()));
                }
            }
        }
    }

    async fn stream(&mut self, node: &Node, made: Made) {
        let upload = upload_name(made.name, self.words.next().unwrap_or_default());
        let answer = node.write(&upload, made.data.clone(), 0).await;
        self.note(node, &made, &answer);
    }

    /// Writes down how an upload went.
    fn note(&self, node: &Node, made: &Made, answer: &Answer<()>) {
        let outcome = answer.as_ref().err().map_or(Outcome::Ok, |e| e.outcome);
        self.record(node, made.key, Kind::Write, outcome, (made.start, THERE));
        match answer {
            Ok(()) => {
                let now = self.tools.clock.now();
                self.tools.ledger.blob(now, node.number, made.name);
            }
            Err(refusal) => self.refused(node, made, refusal),
        }
    }

    /// Right bytes are refused for two reasons: there is no room, or a resumed
    /// upload is not known any more.
    fn refused(&self, node: &Node, made: &Made, refusal: &Refusal) {
        let resumed = refusal.code == Code::InvalidArgument && refusal.message.contains("offset");
        let allowed = resumed || refusal.code == Code::ResourceExhausted;
        if refusal.outcome == Outcome::Failed && !allowed {
            let (number, name) = (node.number, made.name);
            self.tools
                .breach(format!("node {number} refused {name}: {refusal}"));
        }
    }

    fn make(&mut self, length: u64) -> Made {
        // Before anybody else can know of it.
        let start = self.tools.clock.now();
        let (content, name, data) = self.content(length);
        Made {
            start,
            key: self.workload.enter(content, name),
            name,
            data,
        }
    }

    fn content(&mut self, length: u64) -> (Content, Name, Bytes) {
        self.made += 1;
        let content = Content {
            seed: self.tools.seed,
            key: self.made,
            value: unique(self.process, self.made),
            length,
        };
        let bytes = content.bytes();
        (content, Name::of(&bytes), bytes.into())
    }

    /// From 0 to the largest, each doubling as often as any other.
    fn some_length(&mut self) -> u64 {
        let doublings = self.workload.max_bytes.ilog2() as usize + 1;
        match self.words.below(doublings + 1) {
            0 => 0,
            doubling => {
                let base = 1_u64 << (doubling - 1);
                let length = base + self.words.below(base as usize) as u64;
                length.min(self.workload.max_bytes)
            }
        }
    }

    fn record(
        &self,
        node: &Node,
        key: u32,
        kind: Kind,
        outcome: Outcome,
        (start, value): (u64, u64),
    ) {
        self.tools.record(Told {
            process: self.process,
            node: node.number,
            key,
            uri: 0,
            kind,
            outcome,
            start,
            value,
        });
    }
}
