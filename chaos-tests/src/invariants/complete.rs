//! What a visible ref needs is there: its blob, and for an artifact its log,
//! its directories and their files, through every node.
//!
//! Source: P7 (complete or absent). Whether a ref may be absent, or old, is not
//! judged here: each read is handed back as an operation, for the oracle that
//! knows the whole history.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, bail};
use futures::{StreamExt, stream};

use super::{node, patiently, runtime};
use crate::{
    history::{ABSENT, Clock, Kind, Operation, Outcome, UNTOLD},
    load::{
        cas::Node,
        closure,
        ledger::{Acknowledged, Entry},
    },
};

/// The process of reads that no client made.
pub const NOBODY: u32 = u32::MAX;

/// Refs that are read at the same time through one node.
const READERS: usize = 8;

/// Broken refs that an error lists.
const LISTED: usize = 8;

/// Reads each acknowledged ref by each of its URIs through each node, and
/// walks what it names.
pub fn check(
    urls: &[String],
    entries: &[Entry],
    clock: Clock,
    patience: Duration,
) -> Result<Vec<Operation>> {
    let mut refs: BTreeMap<u32, &[String]> = BTreeMap::new();
    for entry in entries {
        if let Acknowledged::Ref { key, uris, .. } = &entry.what {
            refs.insert(*key, uris);
        }
    }
    let runtime = runtime()?;
    let mut reads = Vec::new();
    let mut broken = Vec::new();
    for (number, url) in urls.iter().enumerate() {
        runtime.block_on(async {
            let node = &node(number, url, clock)?;
            let questions = refs.iter().flat_map(|(key, uris)| {
                let uris = uris.iter().enumerate();
                uris.map(move |(uri, text)| (*key, uri as u8, text))
            });
            let mut answers = stream::iter(questions)
                .map(|(key, uri, text)| async move {
                    let read = read(node, key, text, patience).await;
                    let read = read.map(|read| Operation { uri, ..read });
                    read.map_err(|why| format!("{text} at {url}: {why}"))
                })
                .buffer_unordered(READERS);
            while let Some(answer) = answers.next().await {
                match answer {
                    Ok(read) => reads.push(read),
                    Err(why) => broken.push(why),
                }
            }
            anyhow::Ok(())
        })?;
    }
    if !broken.is_empty() {
        let listed: Vec<_> = broken.iter().take(LISTED).cloned().collect();
        bail!("{} refs are not whole\n{}", broken.len(), listed.join("\n"));
    }
    Ok(reads)
}

async fn read(
    node: &Node,
    key: u32,
    uri: &str,
    patience: Duration,
) -> std::result::Result<Operation, String> {
    let asked = [uri.to_owned()];
    let found = patiently(patience, || async {
        let start = node.clock.now();
        let found = node.fetch_blob(&asked).await?;
        Ok((start, node.clock.now(), found.1))
    });
    // A miss may have waited: it is timed from before the first attempt, which
    // only allows more.
    let before = node.clock.now();
    let (start, end, value) = match found.await {
        Ok((start, end, blob)) => {
            let walk = patiently(patience, || closure::walk(node, blob)).await;
            let walked = walk.map_err(|refusal| refusal.to_string())?;
            if walked.content.key != key {
                return Err(format!("it names a blob of key {}", walked.content.key));
            }
            (start, end, walked.content.value)
        }
        Err(refusal) if refusal.is_absence() => (before, node.clock.now(), ABSENT),
        Err(refusal) => return Err(refusal.to_string()),
    };
    Ok(Operation {
        process: NOBODY,
        key,
        kind: Kind::Read,
        outcome: Outcome::Ok,
        node: node.number,
        uri: 0,
        start,
        end,
        value,
        revision: UNTOLD,
    })
}
