//! What a client does in one round: one function for each thing.

use tonic::Code;

use super::{BATCH, BlobsClient, Made, THERE};
use crate::{
    history::{ABSENT, Kind, Outcome},
    load::{
        cas::{Node, upload_name},
        content::{Content, HEADER_BYTES, Name},
        verify::{self, SMALL_BYTES},
    },
};

impl BlobsClient {
    pub(super) async fn upload_new(&mut self, node: &Node) {
        let length = self.some_length();
        let first = self.make(length);
        if length > SMALL_BYTES {
            return self.stream(node, first).await;
        }
        let mut batch = vec![first];
        for _ in 0..self.words.below(BATCH) {
            let length = self.some_length().min(SMALL_BYTES);
            batch.push(self.make(length));
        }
        self.batch(node, batch).await;
    }

    /// Blobs that are there, or are being uploaded just now.
    pub(super) async fn upload_again(&mut self, node: &Node) {
        let Some((key, content, name)) = self.workload.some(&mut self.words) else {
            return;
        };
        let made = Made {
            start: self.tools.clock.now(),
            key,
            name,
            data: content.bytes().into(),
        };
        if name.size > SMALL_BYTES || self.words.below(2) == 0 {
            self.stream(node, made).await;
        } else {
            self.batch(node, vec![made]).await;
        }
    }

    /// Vanishes half way. Two of three such uploads are resumed where the
    /// node says that it has got to; the others are never finished.
    pub(super) async fn upload_in_two(&mut self, node: &Node) {
        let length = 1 + self.words.below(self.workload.max_bytes as usize) as u64;
        let made = self.make(length);
        let upload = upload_name(made.name, self.words.next().unwrap_or_default());
        let half = self.words.below(made.data.len());
        node.begin_write(&upload, made.data.clone(), half).await;
        if self.words.below(3) == 0 {
            self.tools.count("cut");
            return;
        }
        let from = match node.query_write(&upload).await {
            Ok((committed, _)) if committed > length => {
                let name = made.name;
                self.tools
                    .breach(format!("{committed} bytes of {name} are said to be here"));
                0
            }
            Ok((committed, _)) => committed,
            Err(_) => 0,
        };
        let answer = node.write(&upload, made.data.clone(), from).await;
        if from > 0 && answer.is_ok() {
            self.tools.count("resumed");
        }
        self.note(node, &made, &answer);
    }

    /// Digests that are not those of the bytes, in hash or in size.
    pub(super) async fn forge(&mut self, node: &Node) {
        let length = HEADER_BYTES as u64 + self.words.below(2 * SMALL_BYTES as usize) as u64;
        let (content, name, data) = self.content(length);
        // Of bytes that nobody ever sends.
        let other = Content {
            key: !content.key,
            ..content
        };
        let forged = match self.words.below(3) {
            0 => other.name(),
            1 => Name {
                size: name.size + 1,
                ..name
            },
            _ => Name {
                size: name.size - 1,
                ..name
            },
        };
        let answer = if self.words.below(2) == 0 {
            let batch = node.batch_update(&[(forged, data)]).await;
            batch.and_then(|mut answers| answers.pop().unwrap_or(Ok(())))
        } else {
            let upload = upload_name(forged, self.words.next().unwrap_or_default());
            node.write(&upload, data, 0).await
        };
        match &answer {
            Ok(()) => self.tools.breach(format!(
                "node {} took {length} bytes for {forged}",
                node.number
            )),
            Err(refusal) if refusal.code == Code::DataLoss => {
                self.tools
                    .breach(format!("node {} took {forged}: {refusal}", node.number));
            }
            Err(refusal) if refusal.outcome == Outcome::Failed => self.tools.count("forged"),
            Err(_) => {}
        }
        let Some(other) = self.tools.any_node(&mut self.words) else {
            return;
        };
        if let Ok(missing) = other.find_missing(&[forged]).await
            && missing.is_empty()
        {
            let number = other.number;
            self.tools
                .breach(format!("node {number} calls the forged {forged} present"));
        }
    }

    pub(super) async fn read(&mut self, node: &Node) {
        let Some((key, content, name)) = self.workload.some(&mut self.words) else {
            return;
        };
        let start = self.tools.clock.now();
        let answer = if self.words.below(2) == 0 || name.size == 0 {
            verify::whole(node, name).await.map(drop)
        } else {
            let from = self.words.below(name.size as usize) as u64;
            let count = 1 + self.words.below((name.size - from) as usize) as u64;
            let range = from..from + count;
            let expected = content.part(range.clone());
            verify::part(node, name, range, &expected).await
        };
        let (outcome, value) = match &answer {
            Ok(()) => (Outcome::Ok, THERE),
            Err(refusal) if refusal.is_absence() => (Outcome::Ok, ABSENT),
            Err(refusal) => {
                if verify::is_wrong_bytes(refusal) {
                    self.tools.breach(refusal.message.clone());
                }
                (refusal.outcome, ABSENT)
            }
        };
        self.record(node, key, Kind::Read, outcome, (start, value));
    }
}
