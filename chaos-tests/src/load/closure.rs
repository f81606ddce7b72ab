//! Artifacts in the shape that BuildStream gives them, and the walk over one.
//!
//! ```text
//!  artifact   a header, then the digests of root and log as text
//!    ├── log
//!    └── root   Directory ──► Directories ──► files
//! ```
//!
//! The artifact names what it is and what it needs, so a reader needs nothing
//! else to walk it to the leaves.

use std::collections::HashSet;

use bytes::Bytes;
use prost::Message;
use tonic::Status;
use weir_proto::reapi::{Directory, DirectoryNode, FileNode};

use super::{
    answer::Refusal,
    cas::{Answer, BATCH_BYTES, Node},
    content::{Content, HEADER_BYTES, Name},
    verify::{self, SMALL_BYTES},
};
use crate::seeded::Words;

const MARK: &str = "artifact\n";

/// Largest file of an artifact.
const FILE_BYTES: usize = 40_000;

/// One artifact in so many has a file that takes a stream.
const LARGE_EVERY: usize = 8;

/// Files in each of its directories.
const FILES: u32 = 4;

/// Values of files that all artifacts of a seed share.
const SHARED: u64 = 1;

/// An artifact with all of its blobs.
pub struct Artifact {
    pub artifact: (Name, Bytes),
    pub root: Name,
    pub log: Name,
    /// Everything but the artifact: log, directories, files.
    pub blobs: Vec<(Name, Bytes)>,
}

impl Artifact {
    /// The artifact of this key and value.
    #[must_use]
    pub fn build(seed: u64, key: u32, value: u64, words: &mut Words) -> Artifact {
        let mut blobs = Vec::new();
        let mut add = |bytes: Vec<u8>| {
            let name = Name::of(&bytes);
            blobs.push((name, Bytes::from(bytes)));
            name
        };
        let mut directories = Vec::new();
        for (place, directory) in ["bin", "lib", "share"].into_iter().enumerate() {
            let files = (0..FILES).map(|index| {
                // Most files are the same in all artifacts.
                let value = if index == 0 { value } else { SHARED };
                let length = match words.below(LARGE_EVERY) {
                    0 if value != SHARED => SMALL_BYTES + words.below(1 << 20) as u64,
                    _ if value == SHARED => 100 + u64::from(index) * 1_000,
                    _ => words.below(FILE_BYTES) as u64,
                };
                let content = Content {
                    seed: !seed,
                    key: index,
                    value: value ^ (place as u64) << 60,
                    length,
                };
                FileNode {
                    name: format!("file{index}"),
                    digest: Some(add(content.bytes()).to_wire()),
                    is_executable: directory == "bin",
                    node_properties: None,
                }
            });
            let message = Directory {
                files: files.collect(),
                ..Default::default()
            };
            directories.push(DirectoryNode {
                name: directory.into(),
                digest: Some(add(message.encode_to_vec()).to_wire()),
            });
        }
        let usr = Directory {
            directories,
            ..Default::default()
        };
        let usr = add(usr.encode_to_vec());
        let root = Directory {
            directories: vec![DirectoryNode {
                name: "usr".into(),
                digest: Some(usr.to_wire()),
            }],
            ..Default::default()
        };
        let root = add(root.encode_to_vec());
        let log = add(format!("built {key} as {value:#x} of seed {seed:#x}\n").into());
        let tail = format!("{MARK}root {root}\nlog {log}\n");
        let content = Content {
            seed,
            key,
            value,
            length: (HEADER_BYTES + tail.len()) as u64,
        };
        let mut bytes = content.header().to_vec();
        bytes.extend_from_slice(tail.as_bytes());
        Artifact {
            artifact: (Name::of(&bytes), bytes.into()),
            root,
            log,
            blobs,
        }
    }
}

/// What a walk came by.
#[derive(Debug)]
pub struct Walked {
    /// What the ref's own blob says it is.
    pub content: Content,
    /// All that was read, the ref's own blob first.
    pub blobs: Vec<Name>,
}

/// Reads the blob of a ref and everything that it needs, down to the files,
/// through one node. The first that cannot be read ends it, with its name.
pub async fn walk(node: &Node, blob: Name) -> Answer<Walked> {
    let bytes = read(node, blob).await?;
    let content = Content::read_header(&bytes)
        .ok_or_else(|| Refusal::from(&Status::data_loss(format!("{blob} has no header"))))?;
    let mut blobs = vec![blob];
    let Some((root, log)) = needs(&bytes) else {
        return Ok(Walked { content, blobs });
    };
    let mut level = vec![root];
    let mut files = vec![log];
    let mut seen = HashSet::from([root, log]);
    while !level.is_empty() {
        let mut next = Vec::new();
        for (name, bytes) in read_all(node, &level).await? {
            let directory = Directory::decode(bytes).map_err(|error| {
                Refusal::from(&Status::data_loss(format!(
                    "{name} is no Directory: {error}"
                )))
            })?;
            let below = directory.directories.iter().map(|node| &node.digest);
            next.extend(names(below, &mut seen));
            let here = directory.files.iter().map(|node| &node.digest);
            files.extend(names(here, &mut seen));
        }
        blobs.append(&mut level);
        level = next;
    }
    read_all(node, &files).await?;
    blobs.append(&mut files);
    Ok(Walked { content, blobs })
}

fn names<'a>(
    digests: impl Iterator<Item = &'a Option<weir_proto::reapi::Digest>>,
    seen: &mut HashSet<Name>,
) -> Vec<Name> {
    digests
        .filter_map(|digest| Name::from_wire(digest.as_ref()?))
        .filter(|name| seen.insert(*name))
        .collect()
}

/// Root and log of an artifact; `None` for a blob that needs no others.
fn needs(bytes: &[u8]) -> Option<(Name, Name)> {
    let tail = std::str::from_utf8(bytes.get(HEADER_BYTES..)?).ok()?;
    let mut lines = tail.strip_prefix(MARK)?.lines();
    let mut name = |word: &str| {
        let (hex, size) = lines.next()?.strip_prefix(word)?.split_once('/')?;
        Name::parse(hex, size.parse().ok()?)
    };
    Some((name("root ")?, name("log ")?))
}

/// Reads blobs, the small ones in as few messages as hold them.
async fn read_all(node: &Node, wanted: &[Name]) -> Answer<Vec<(Name, Bytes)>> {
    let mut all = Vec::with_capacity(wanted.len());
    let mut batch: Vec<Name> = Vec::new();
    let mut bytes = 0;
    for name in wanted {
        if name.size > SMALL_BYTES {
            all.push((*name, read(node, *name).await?));
            continue;
        }
        if bytes + name.size > BATCH_BYTES {
            all.extend(read_batch(node, &std::mem::take(&mut batch)).await?);
            bytes = 0;
        }
        batch.push(*name);
        bytes += name.size;
    }
    all.extend(read_batch(node, &batch).await?);
    Ok(all)
}

async fn read_batch(node: &Node, batch: &[Name]) -> Answer<Vec<(Name, Bytes)>> {
    if batch.is_empty() {
        return Ok(Vec::new());
    }
    let answers = node.batch_read(batch).await?;
    let mut all = Vec::with_capacity(batch.len());
    for (name, answer) in batch.iter().zip(answers) {
        let bytes = answer.map_err(|refusal| named(refusal, *name))?;
        verify::check(node, *name, &bytes)?;
        all.push((*name, bytes));
    }
    Ok(all)
}

async fn read(node: &Node, name: Name) -> Answer<Bytes> {
    let read = verify::whole(node, name).await;
    read.map_err(|refusal| named(refusal, name))
}

fn named(refusal: Refusal, name: Name) -> Refusal {
    let message = format!("{name}: {}", refusal.message);
    Refusal { message, ..refusal }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_artifact_names_what_it_needs() {
        let built = Artifact::build(5, 7, 9, &mut Words::new(1));
        let (name, bytes) = &built.artifact;
        assert_eq!(Name::of(bytes), *name);
        let content = Content::read_header(bytes).unwrap();
        assert_eq!((content.seed, content.key, content.value), (5, 7, 9));
        assert_eq!(content.length, name.size);
        assert_eq!(needs(bytes), Some((built.root, built.log)));
        let all: HashSet<Name> = built.blobs.iter().map(|(name, _)| *name).collect();
        assert!(all.contains(&built.root) && all.contains(&built.log));
    }

    #[test]
    fn artifacts_share_most_of_their_files() {
        let mut words = Words::new(1);
        let one = Artifact::build(5, 7, 9, &mut words);
        let two = Artifact::build(5, 8, 10, &mut words);
        let all: HashSet<Name> = one.blobs.iter().map(|(name, _)| *name).collect();
        let shared = two.blobs.iter().filter(|(name, _)| all.contains(name));
        assert_eq!(shared.count() as u32, 3 * (FILES - 1));
        assert!(one.artifact.0 != two.artifact.0);
    }
}
