//! Raft's files, when their bytes change at rest.
//!
//! The journal holds promises that nobody else can repeat for this node: it
//! stops. The applied state is a copy: it is built anew.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tonic::Code;
use weir_cluster::{Digest, blob::conformance::sample};

use crate::{
    commands::succeeds,
    node::{Node, row, stage, three, until},
};

/// Where records of the journal begin, and their kinds (`weir_cluster::journal`).
const FIRST_RECORD: usize = 40;
const RECORD_HEADER: usize = 16;
const ENTRY: u8 = 1;
const VOTE: u8 = 0x80;

/// Pushes so many refs, each to a blob of its own.
fn push_refs(node: &Node, from: u64, count: u64) -> Vec<(String, Digest)> {
    let client = node.client();
    let refs = (from..from + count).map(|number| {
        let digest = client.upload(sample(number, 2_000)).unwrap();
        let uri = format!("urn:test:{number}");
        client.push(&uri, digest).unwrap();
        (uri, digest)
    });
    refs.collect()
}

/// Insists that a node finds every ref. "Not now" is asked again; "there is
/// none" is a lie.
fn finds(node: &Node, refs: &[(String, Digest)]) {
    let client = node.client();
    for (uri, digest) in refs {
        let hash = until("a ref to be found", || match client.fetch(uri) {
            Ok(hash) => Ok(hash),
            Err(status) if status.code() == Code::NotFound => {
                panic!("{uri} is gone: {status}\n{}", node.log())
            }
            Err(status) => Err(format!("{uri}: {status}\n{}", node.log())),
        });
        assert_eq!(hash, digest.hash_hex());
    }
}

fn is_back(node: &Node) {
    node.status("the node to be back", |status| {
        row(status, &node.name)["state"] == "active" && !status["leader"].is_null()
    });
}

/// The files in a folder of a node with this ending.
fn files(node: &Node, folder: &str, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(node.data.join(folder)).into_iter().flatten();
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|file| file.to_string_lossy().ends_with(ending));
    files.sort();
    files
}

fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[at] ^= 0x04;
    fs::write(file, bytes).unwrap();
}

/// Where the payloads of records of a kind begin in a segment of the journal.
fn payloads(segment: &Path, kind: u8) -> Vec<usize> {
    let bytes = fs::read(segment).unwrap();
    let mut found = Vec::new();
    let mut at = FIRST_RECORD;
    while let Some(header) = bytes.get(at..at + RECORD_HEADER) {
        let len = u32::from_le_bytes([0, 1, 2, 3].map(|byte| header[byte])) as usize;
        match header[12] {
            0 => break,
            other if other == kind && len > 0 => found.push(at + RECORD_HEADER),
            _ => {}
        }
        at += RECORD_HEADER + len.next_multiple_of(8);
    }
    found
}

#[test]
fn a_damaged_journal_or_vote_stops_the_node_and_says_how_to_go_on() {
    let _stage = stage();
    let root = tempfile::tempdir().unwrap();
    let mut nodes = three(root.path(), None);
    let mut refs = push_refs(&nodes[0], 1, 6);
    nodes[0].stop();
    for kind in [ENTRY, VOTE] {
        let segment = files(&nodes[0], "raft/log", ".segment").remove(0);
        let at = payloads(&segment, kind)[0];
        flip(&segment, at);
        let said = nodes[0].serve_in_vain();
        let name = segment.file_name().unwrap().to_string_lossy().into_owned();
        for part in [name.as_str(), "is damaged at offset", "join"] {
            assert!(said.contains(part), "{part:?} is not in: {said}");
        }
        // Nothing was changed by the attempt: undone, all is well again.
        flip(&segment, at);
    }
    nodes[0].serve();
    is_back(&nodes[0]);
    finds(&nodes[0], &refs);
    nodes[0].stop();

    // What the message says to do.
    let segment = files(&nodes[0], "raft/log", ".segment").remove(0);
    let at = payloads(&segment, ENTRY)[0];
    flip(&segment, at);
    nodes[0].serve_in_vain();
    fs::rename(&nodes[0].data, root.path().join("moved-away")).unwrap();
    let (config, admin) = (nodes[0].config(), nodes[1].admin().to_owned());
    succeeds(&["join", "--config", &config, "--node", &admin]);
    nodes[0].serve();
    is_back(&nodes[0]);
    refs.extend(push_refs(&nodes[0], 100, 2));
    for node in &nodes {
        finds(node, &refs);
    }
}

/// What is done to a file, in a word and in fact.
type Damage = (&'static str, fn(&mut Vec<u8>));

#[test]
fn damaged_applied_state_is_built_anew() {
    let _stage = stage();
    let root = tempfile::tempdir().unwrap();
    let mut nodes = three(root.path(), None);
    // More than a snapshot's worth, so that both that and the journal count.
    let mut refs = push_refs(&nodes[0], 1, 30);
    let damages: [Damage; 3] = [
        ("changed", |bytes| {
            bytes.iter_mut().step_by(97).for_each(|byte| *byte ^= 0x55)
        }),
        ("cut off", |bytes| bytes.truncate(bytes.len() / 3)),
        ("emptied", Vec::clear),
    ];
    for (round, (how, damage)) in damages.into_iter().enumerate() {
        nodes[0].stop();
        let file = nodes[0].data.join("state/rows/db");
        let mut bytes = fs::read(&file).unwrap();
        damage(&mut bytes);
        fs::write(&file, bytes).unwrap();
        nodes[0].serve();
        is_back(&nodes[0]);
        finds(&nodes[0], &refs);
        assert!(nodes[0].ended().is_none(), "{how}: {}", nodes[0].log());
        refs.extend(push_refs(&nodes[0], 100 * (round as u64 + 1), 2));
    }
    for node in &nodes {
        finds(node, &refs);
    }
}

/// While the applied state is there, its snapshot is not needed. Without both
/// the node gets them from the others, or says that it cannot go on.
#[test]
fn a_damaged_snapshot_costs_no_ref() {
    let _stage = stage();
    let root = tempfile::tempdir().unwrap();
    let mut nodes = three(root.path(), None);
    let refs = push_refs(&nodes[0], 1, 45);
    let snapshot = |node: &Node| {
        until("a snapshot", || {
            let mut files = files(node, "raft/snapshots", ".snapshot");
            files.pop().ok_or_else(|| node.log())
        })
    };
    snapshot(&nodes[0]);
    nodes[0].stop();
    let file = snapshot(&nodes[0]);
    let middle = fs::metadata(&file).unwrap().len() as usize / 2;
    flip(&file, middle);
    nodes[0].serve();
    is_back(&nodes[0]);
    finds(&nodes[0], &refs);
    nodes[0].stop();

    // Its head, and a place further on.
    for at in [24, middle] {
        let file = snapshot(&nodes[0]);
        flip(&file, at);
        fs::write(nodes[0].data.join("state/rows/db"), b"no rows").unwrap();
        nodes[0].serve();
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let ended = until("the node to be back, or to end", || {
            let is_up = row(&nodes[1].status_now(), "n1")["state"] == "active";
            match nodes[0].ended() {
                Some(status) => Ok(Some(status)),
                None if is_up && !nodes[0].status_now()["leader"].is_null() => Ok(None),
                None => Err(nodes[0].log()),
            }
        });
        let Some(status) = ended else {
            finds(&nodes[0], &refs);
            nodes[0].stop();
            continue;
        };
        assert!(!status.success(), "{status}");
        let log = nodes[0].log();
        for part in [name.as_str(), "join"] {
            assert!(log.contains(part), "{part:?} is not in: {log}");
        }
        break;
    }
    for node in &nodes[1..] {
        finds(node, &refs);
    }
}
