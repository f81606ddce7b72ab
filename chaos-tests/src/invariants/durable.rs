//! Every acknowledged blob is read back from every node, whole and in parts.
//!
//! Source: P1 (OK means durable), P2 (no loss of R-1 owners, a volume or a
//! zone loses any), P5 (only true bytes, ranges too).

use std::{sync::Arc, time::Duration};

use anyhow::{Result, anyhow, bail};
use bytes::Bytes;
use tokio::task::JoinSet;

use super::{node, patiently, runtime};
use crate::{
    history::Clock,
    load::{
        cas::{BATCH_BYTES, Node},
        content::Name,
        verify::{self, SMALL_BYTES},
    },
    seeded::Words,
};

/// Groups that are read at the same time from one node.
const GROUPS: usize = 4;

/// Most blobs of a group.
const GROUP_BLOBS: usize = 256;

/// Parts of each blob that are read besides the whole.
const PARTS: usize = 2;

/// Losses that an error lists.
const LISTED: usize = 8;

/// How thoroughly to read.
#[derive(Clone, Copy, Debug)]
pub struct Depth {
    /// For the choice of parts.
    pub seed: u64,
    /// Parts are read of one blob in so many; 1 for all.
    pub parts_every: usize,
    /// How long "not now" is asked again, for each call.
    pub patience: Duration,
}

/// Insists that each node has each blob. Gives the number of reads.
pub fn check(urls: &[String], blobs: &[Name], depth: Depth) -> Result<usize> {
    let runtime = runtime()?;
    let mut reads = 0;
    for (number, url) in urls.iter().enumerate() {
        let (done, lost) = runtime.block_on(check_node(number, url, blobs, depth))?;
        reads += done;
        if !lost.is_empty() {
            let listed: Vec<_> = lost.iter().take(LISTED).cloned().collect();
            bail!(
                "{} of {} acknowledged blobs are not read back from {url}\n{}",
                lost.len(),
                blobs.len(),
                listed.join("\n")
            );
        }
    }
    Ok(reads)
}

async fn check_node(
    number: usize,
    url: &str,
    blobs: &[Name],
    depth: Depth,
) -> Result<(usize, Vec<String>)> {
    let node = Arc::new(node(number, url, Clock::start())?);
    let mut left = groups(blobs).into_iter();
    let mut running = JoinSet::new();
    let (mut reads, mut lost) = (0, Vec::new());
    loop {
        while running.len() < GROUPS
            && let Some(group) = left.next()
        {
            let node = node.clone();
            running.spawn(async move { check_group(&node, &group, depth).await });
        }
        let Some(ended) = running.join_next().await else {
            return Ok((reads, lost));
        };
        let (done, group_lost) = ended.map_err(|error| anyhow!("a reader panicked: {error}"))?;
        reads += done;
        lost.extend(group_lost);
    }
}

/// Small blobs as many as fit into one message; large ones alone.
fn groups(blobs: &[Name]) -> Vec<Vec<Name>> {
    let mut groups = Vec::new();
    let mut group = Vec::new();
    let mut bytes = 0;
    for name in blobs {
        if name.size > SMALL_BYTES {
            groups.push(vec![*name]);
            continue;
        }
        if bytes + name.size > BATCH_BYTES || group.len() >= GROUP_BLOBS {
            groups.push(std::mem::take(&mut group));
            bytes = 0;
        }
        group.push(*name);
        bytes += name.size;
    }
    if !group.is_empty() {
        groups.push(group);
    }
    groups
}

async fn check_group(node: &Node, group: &[Name], depth: Depth) -> (usize, Vec<String>) {
    let (mut reads, mut lost) = (0, Vec::new());
    // One message for all; what it does not give is asked for alone.
    let batch = match group {
        [name] if name.size > SMALL_BYTES => Vec::new(),
        group => node.batch_read(group).await.unwrap_or_default(),
    };
    let mut batch = batch.into_iter();
    for name in group {
        reads += 1;
        let told = batch.next().and_then(Result::ok);
        let whole = match told.filter(|bytes| Name::of(bytes) == *name) {
            Some(bytes) => Ok(bytes),
            None => patiently(depth.patience, || verify::whole(node, *name)).await,
        };
        let outcome = match whole {
            Ok(whole) => check_parts(node, *name, &whole, depth, &mut reads).await,
            Err(refusal) => Err(refusal),
        };
        if let Err(refusal) = outcome {
            lost.push(format!("{name}: {refusal}"));
        }
    }
    (reads, lost)
}

async fn check_parts(
    node: &Node,
    name: Name,
    whole: &Bytes,
    depth: Depth,
    reads: &mut usize,
) -> crate::load::cas::Answer<()> {
    let first = name
        .hash
        .iter()
        .fold(0_u64, |first, byte| first.rotate_left(8) ^ u64::from(*byte));
    let mut words = Words::new(depth.seed ^ first);
    if whole.is_empty() || words.below(depth.parts_every.max(1)) > 0 {
        return Ok(());
    }
    for _ in 0..PARTS {
        let from = words.below(whole.len());
        let to = from + 1 + words.below(whole.len() - from);
        let range = from as u64..to as u64;
        let expected = &whole[from..to];
        *reads += 1;
        patiently(depth.patience, || {
            verify::part(node, name, range.clone(), expected)
        })
        .await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_hold_every_blob_once_and_fit_into_a_message() {
        let blob = |index: u64, size| Name {
            hash: crate::load::content::Name::of(&index.to_le_bytes()).hash,
            size,
        };
        let blobs: Vec<Name> = (0..2_000)
            .map(|index| blob(index, if index % 50 == 0 { 9 << 20 } else { index * 30 }))
            .collect();
        let groups = groups(&blobs);
        let mut all: Vec<Name> = groups.concat();
        all.sort_unstable();
        let mut expected = blobs;
        expected.sort_unstable();
        assert_eq!(all, expected);
        for group in groups {
            let bytes: u64 = group.iter().map(|name| name.size).sum();
            assert!(bytes <= BATCH_BYTES || group.len() == 1);
        }
    }
}
