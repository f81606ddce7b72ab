//! A volume without room, for bytes or for files.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tonic::Code;
use weir_cluster::{Digest, blob::conformance::sample};

use crate::{
    calls::Client,
    node::{LOOK_INTERVAL, Node, one, row, stage, three, until},
    volume::Volume,
};

/// Files that the volume has room for; a node needs some hundred.
const INODES: u32 = 2048;

/// How often sled writes what it was given.
const SLED_FLUSHES: Duration = Duration::from_secs(1);

/// Uploads until one is refused, and returns those that were not. The segment
/// in use still has room when the volume has none.
fn upload_until_refused(client: &Client, seed: u64, len: usize) -> Vec<Digest> {
    let mut stored = Vec::new();
    loop {
        let bytes = sample(seed + stored.len() as u64, len);
        match client.upload(bytes) {
            Ok(digest) => stored.push(digest),
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
                return stored;
            }
        }
        assert!(stored.len() < 100, "a full volume takes everything");
    }
}

fn uploads_again(client: &Client, seed: u64, len: usize) -> Digest {
    until("uploads to work again by themselves", || {
        client
            .upload(sample(seed, len))
            .map_err(|error| error.to_string())
    })
}

/// A cluster of one node on a volume of its own, which outlives it; none where
/// volumes cannot be had.
fn on_a_volume(root: &Path) -> Option<(Volume, Node)> {
    let volume = Volume::new(root, INODES)?;
    let node = one(root, Some(&volume.mount));
    Some((volume, node))
}

fn all_there(client: &Client, stored: &[Digest]) {
    for digest in stored {
        client.read(*digest).unwrap();
    }
}

#[test]
fn a_full_volume_refuses_uploads_and_takes_them_again_when_there_is_room() {
    let _stage = stage();
    let root = tempfile::tempdir().unwrap();
    let Some((volume, mut node)) = on_a_volume(root.path()) else {
        return;
    };
    let client = node.client();
    let first = client.upload(sample(1, 5_000)).unwrap();
    client.push("urn:test:first", first).unwrap();

    let filler = volume.fill();
    let mut stored = upload_until_refused(&client, 100, 60_000);
    stored.push(first);
    // Refused again, small and large, and no harm done.
    assert_eq!(upload_until_refused(&client, 300, 2 << 20), []);
    all_there(&client, &stored);
    assert_eq!(client.fetch("urn:test:first").unwrap(), first.hash_hex());
    let unknown = client.fetch("urn:test:unknown").unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound, "{unknown}");
    assert!(node.ended().is_none(), "{}", node.log());

    std::fs::remove_file(filler).unwrap();
    stored.push(uploads_again(&client, 500, 60_000));
    stored.push(uploads_again(&client, 501, 2 << 20));
    client.push("urn:test:second", stored[0]).unwrap();
    all_there(&client, &stored);
    node.status("the volume to be in use", |status| {
        row(status, "n1")["volume"] == "ok"
    });

    node.stop();
    node.serve();
    node.status("n1 to lead again", |status| status["leader"] == "n1");
    all_there(&node.client(), &stored);
}

#[test]
fn a_volume_without_inodes_refuses_files_and_takes_them_again() {
    let _stage = stage();
    let root = tempfile::tempdir().unwrap();
    let Some((volume, mut node)) = on_a_volume(root.path()) else {
        return;
    };
    let client = node.client();
    let first = client.upload(sample(1, 2 << 20)).unwrap();

    let filler = volume.fill_inodes();
    assert_eq!(upload_until_refused(&client, 100, 2 << 20), []);
    let mut stored = upload_until_refused(&client, 200, 60_000);
    stored.push(first);
    all_there(&client, &stored);
    assert!(node.ended().is_none(), "{}", node.log());

    std::fs::remove_dir_all(filler).unwrap();
    stored.push(uploads_again(&client, 500, 2 << 20));
    stored.push(uploads_again(&client, 501, 60_000));
    all_there(&client, &stored);
}

/// A vote is a write of Raft's journal, which has to find room.
#[test]
fn a_node_with_a_full_volume_starts_votes_and_answers() {
    let _stage = stage();
    let root = tempfile::tempdir().unwrap();
    let Some(volume) = Volume::new(root.path(), INODES) else {
        return;
    };
    let mut nodes = three(root.path(), Some(&volume.mount));
    let first = nodes[0].client().upload(sample(1, 5_000)).unwrap();
    nodes[0].client().push("urn:test:first", first).unwrap();
    let _filler = volume.fill();

    // It starts again on the full volume, as a follower.
    nodes[0].kill9();
    let leader = |node: &Node, not: &str| {
        let status = node.status("a leader", |status| {
            !status["leader"].is_null() && status["leader"] != not
        });
        status["leader"].as_str().unwrap_or_default().to_owned()
    };
    leader(&nodes[1], "n1");
    nodes[0].serve();
    // The others take what it has no room for.
    let stored = until("an upload through the full node", || {
        let bytes: Bytes = sample(2, 60_000);
        let upload = nodes[0].client().upload(bytes);
        upload.map_err(|error| error.to_string())
    });
    // The leader goes; without the vote of the full node there is none.
    let dead = leader(&nodes[0], "n1");
    let index = nodes.iter().position(|node| node.name == dead).unwrap();
    nodes[index].kill9();
    leader(&nodes[0], &dead);
    let client = nodes[0].client();
    assert_eq!(client.fetch("urn:test:first").unwrap(), first.hash_hex());
    let unknown = client.fetch("urn:test:unknown").unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound, "{unknown}");
    all_there(&client, &[first, stored]);
    assert!(nodes[0].ended().is_none(), "{}", nodes[0].log());
}

/// sled writes what it was given last behind its callers' back, up to a second
/// later: when the volume is full by then, it has no room any more. It is lost to
/// sled, and the node goes on.
#[test]
fn rows_that_a_full_volume_ended_are_back_without_a_restart() {
    let _stage = stage();
    let root = tempfile::tempdir().unwrap();
    let Some((volume, mut node)) = on_a_volume(root.path()) else {
        return;
    };
    let client = node.client();
    let digest = client.upload(sample(1, 5_000)).unwrap();
    let mut pushed = Vec::new();
    // A row that hardly fits into what is left of sled's last block.
    let long = "x".repeat(4000);
    // Whether the write or the filler is first is the kernel's affair.
    for round in 0.. {
        assert!(round < 20, "sled's writes find room on a full volume");
        for what in ["short", &long] {
            let uri = format!("urn:test:{round}:{what}");
            client.push(&uri, digest).unwrap();
            pushed.push(uri);
        }
        let filler = volume.fill();
        let began = Instant::now();
        let failed = || node.log().contains("hit error while writing iobuf");
        while !failed() && began.elapsed() < 3 * SLED_FLUSHES {
            std::thread::sleep(LOOK_INTERVAL);
        }
        std::fs::remove_file(filler).unwrap();
        if failed() {
            break;
        }
    }
    until("pushes to work again by themselves", || {
        let again = client.push("urn:test:again", digest);
        again.map_err(|error| error.to_string())
    });
    pushed.push("urn:test:again".to_owned());
    for uri in &pushed {
        assert_eq!(client.fetch(uri).unwrap(), digest.hash_hex(), "{uri}");
    }
    let log = node.log();
    assert!(log.contains("applied state is rebuilt"), "{log}");
    assert!(node.ended().is_none(), "{log}");
    node.status("n1 to lead", |status| status["leader"] == "n1");
}
