//! W3: what BuildStream does for an artifact.
//!
//! Push: FindMissingBlobs of everything, uploads of what is missing, a fetch
//! of both URIs, then the push of both with their references, one of which was
//! often never uploaded (a build tree). Pull: a fetch of one URI, then the
//! walk from the artifact to the files.

use std::sync::Arc;

use bytes::Bytes;
use weir_proto::asset::PushBlobRequest;

use super::{
    Client, Tools, Workload,
    answer::Refusal,
    cas::{BATCH_BYTES, Node, upload_name},
    closure::{self, Artifact},
    content::{Content, Name},
    ledger::Acknowledged,
    tools::{Told, unique, words},
    verify::{self, SMALL_BYTES},
};
use crate::{
    history::{ABSENT, Kind, Outcome},
    seeded::Words,
};

/// Pushes of which one ends after its uploads, as when a build is stopped.
const VANISH_EVERY: usize = 20;

/// The workload.
#[derive(Clone, Copy, Debug)]
pub struct Artifacts {
    /// Artifacts; each is built again now and then.
    pub keys: u32,
    /// Percentage of pulls.
    pub pulls: usize,
}

impl Artifacts {
    /// Strong and weak key of an artifact.
    #[must_use]
    pub fn uris(seed: u64, key: u32) -> Vec<String> {
        ["strong", "weak"]
            .map(|uri| {
                format!("urn:fdc:buildstream.build:2020:artifact:artifacts/{seed:x}/{uri}-{key}")
            })
            .to_vec()
    }
}

impl Workload for Artifacts {
    const NAME: &'static str = "artifacts";
    type Client = ArtifactsClient;

    fn client(&self, process: u32, tools: Arc<Tools>) -> ArtifactsClient {
        ArtifactsClient {
            words: words(tools.seed, process),
            workload: *self,
            tools,
            process,
            builds: 0,
        }
    }
}

/// One client of it.
pub struct ArtifactsClient {
    workload: Artifacts,
    tools: Arc<Tools>,
    process: u32,
    builds: u32,
    words: Words,
}

impl Client for ArtifactsClient {
    async fn round(&mut self) {
        let Some(node) = self.tools.any_node(&mut self.words) else {
            return;
        };
        let key = self.words.below(self.workload.keys.max(1) as usize) as u32;
        if self.words.below(100) < self.workload.pulls {
            self.pull(&node, key).await;
        } else {
            // One that fails has told nothing: it ends before its push.
            let _ = self.push(&node, key).await;
        }
    }
}

impl ArtifactsClient {
    async fn push(&mut self, node: &Node, key: u32) -> Result<(), Refusal> {
        self.builds += 1;
        let (seed, value) = (self.tools.seed, unique(self.process, self.builds));
        let built = Artifact::build(seed, key, value, &mut self.words);
        let mut blobs = built.blobs;
        blobs.push(built.artifact.clone());
        let names: Vec<Name> = blobs.iter().map(|(name, _)| *name).collect();
        let missing = node.find_missing(&names).await?;
        blobs.retain(|(name, _)| missing.contains(name));
        self.upload(node, &blobs).await?;

        if self.words.below(VANISH_EVERY) == 0 {
            self.tools.count("vanished");
            return Ok(());
        }
        let uris = Artifacts::uris(seed, key);
        self.fetch(node, key, &uris).await;
        let mut directories = vec![built.root.to_wire()];
        if self.words.below(2) == 0 {
            directories.push(Name::of(format!("never uploaded {value}").as_bytes()).to_wire());
        }
        let request = PushBlobRequest {
            uris: uris.clone(),
            blob_digest: Some(built.artifact.0.to_wire()),
            references_blobs: vec![built.log.to_wire()],
            references_directories: directories,
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
        if let Err(refusal) = &answer
            && refusal.is_absence()
        {
            let number = node.number;
            self.tools.breach(format!(
                "node {number} says that what it called present or took is absent: {refusal}"
            ));
        }
        if answer.is_ok() {
            let at = self.tools.clock.now();
            for name in names {
                self.tools.ledger.blob(at, node.number, name);
            }
            let blob = built.artifact.0;
            let what = Acknowledged::Ref {
                key,
                value,
                uris,
                blob,
            };
            self.tools.acknowledge(node.number, what);
        }
        answer
    }

    async fn upload(&mut self, node: &Node, blobs: &[(Name, Bytes)]) -> Result<(), Refusal> {
        let mut batch: Vec<(Name, Bytes)> = Vec::new();
        let mut bytes = 0;
        for (name, data) in blobs {
            if name.size > SMALL_BYTES {
                let number = self.words.next().unwrap_or_default();
                node.write(&upload_name(*name, number), data.clone(), 0)
                    .await?;
                continue;
            }
            if bytes + name.size > BATCH_BYTES {
                self.update(node, &std::mem::take(&mut batch)).await?;
                bytes = 0;
            }
            batch.push((*name, data.clone()));
            bytes += name.size;
        }
        self.update(node, &batch).await
    }

    async fn update(&self, node: &Node, batch: &[(Name, Bytes)]) -> Result<(), Refusal> {
        if batch.is_empty() {
            return Ok(());
        }
        node.batch_update(batch).await?.into_iter().collect()
    }

    async fn pull(&mut self, node: &Node, key: u32) {
        let mut uris = Artifacts::uris(self.tools.seed, key);
        let wanted = self.words.below(uris.len());
        uris.swap(0, wanted);
        uris.truncate(1);
        self.fetch(node, key, &uris).await;
    }

    /// Fetches, walks what was found, and records what it was.
    async fn fetch(&self, node: &Node, key: u32, uris: &[String]) {
        let mut told = Told {
            process: self.process,
            node: node.number,
            key,
            uri: 0,
            kind: Kind::Read,
            outcome: Outcome::Ok,
            start: self.tools.clock.now(),
            value: ABSENT,
        };
        let found = node.fetch_blob(uris).await;
        let end = self.tools.clock.now();
        let (uri, blob) = match found {
            Ok(found) => found,
            Err(refusal) => {
                if !refusal.is_absence() {
                    told.outcome = refusal.outcome;
                }
                self.tools.record(told);
                return;
            }
        };
        match closure::walk(node, blob).await {
            Ok(walked) => {
                let Content {
                    seed, key: named, ..
                } = walked.content;
                if (seed, named) != (self.tools.seed, key) {
                    self.tools
                        .breach(format!("{uri} names a blob of another key: {blob}"));
                    return;
                }
                told.value = walked.content.value;
                told.uri = u8::from(uri.contains("/weak-"));
                self.tools.record_at(told, end);
            }
            Err(refusal) if refusal.is_absence() || verify::is_wrong_bytes(&refusal) => {
                self.tools
                    .breach(format!("{uri} was found, but is not whole: {refusal}"));
            }
            Err(_) => {}
        }
    }
}
