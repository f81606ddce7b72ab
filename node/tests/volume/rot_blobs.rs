//! Blobs whose bytes change at rest.

use std::{
    fs,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use weir_cluster::blob::conformance::sample;

use crate::{
    commands::succeeds,
    node::{Node, row, stage, three, until},
};

/// Below `dir`, the files of every folder.
fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => found.extend(files_below(&path)),
            false => found.push(path),
        }
    }
    found
}

/// The file of a node that has the bytes of a blob, and where.
fn place(node: &Node, blob: &Bytes) -> Option<(PathBuf, usize)> {
    let head = &blob[..1_000];
    let blobs = node.data.join("blobs");
    files_below(&blobs).into_iter().find_map(|file| {
        let bytes = fs::read(&file).ok()?;
        let at = bytes.windows(head.len()).position(|part| part == head)?;
        (bytes.get(at..at + blob.len()) == Some(blob)).then_some((file, at))
    })
}

/// Changes one bit in the middle of a node's copy.
fn rot(node: &Node, blob: &Bytes) {
    let (file, at) = place(node, blob).expect("the node has the blob");
    let mut bytes = fs::read(&file).unwrap();
    bytes[at + blob.len() / 2] ^= 0x10;
    fs::write(&file, bytes).unwrap();
}

/// Copies that are read heal at once, the others when they are scrubbed.
#[test]
fn rotten_copies_are_never_sent_and_come_back_from_other_replicas() {
    let _stage = stage();
    let root = tempfile::tempdir().unwrap();
    let mut nodes = three(root.path(), None);
    let client = nodes[0].client();
    // One small and one large that will be read, one of each that will not.
    let blobs =
        [(1, 50_000), (2, 2 << 20), (3, 50_000), (4, 2 << 20)].map(|(seed, len)| sample(seed, len));
    let digests = blobs
        .each_ref()
        .map(|blob| client.upload(blob.clone()).unwrap());
    for blob in &blobs {
        until("all copies", || {
            match nodes.iter().all(|node| place(node, blob).is_some()) {
                true => Ok(()),
                false => Err("a node has none".into()),
            }
        });
    }

    nodes[0].stop();
    for blob in &blobs {
        rot(&nodes[0], blob);
    }
    nodes[0].serve();
    let rejoined = |status: &serde_json::Value| {
        row(status, "n1")["state"] == "active" && !status["leader"].is_null()
    };
    nodes[0].status("n1 to be back", rejoined);
    let client = nodes[0].client();
    for (digest, blob) in digests.iter().zip(&blobs).take(2) {
        assert_eq!(client.read(*digest).unwrap(), blob);
    }
    succeeds(&["scrub", "--now", "--wait", "--node", nodes[0].admin()]);
    nodes[0].status("what rotted to be found and fetched again", |status| {
        let row = row(status, "n1");
        row["scrub"]["damaged"].as_u64().unwrap_or(0) >= 2
            && row["repair"]["settled"] == true
            && row["repair"]["lacking_blobs"] == 0
    });
    for blob in &blobs {
        until("a whole copy on n1", || {
            place(&nodes[0], blob)
                .map(drop)
                .ok_or_else(|| nodes[0].log())
        });
    }

    // All by itself it has every one of them.
    nodes[1].kill9();
    nodes[2].kill9();
    for (digest, blob) in digests.iter().zip(&blobs) {
        assert_eq!(client.read(*digest).unwrap(), blob);
    }
    assert!(nodes[0].ended().is_none(), "{}", nodes[0].log());
}
