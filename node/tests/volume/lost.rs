//! A volume that takes no writes any more, and one that is gone.

use weir_cluster::{Digest, blob::conformance::sample};

use crate::{
    node::{Node, row, stage, three, until},
    volume::Volume,
};

const INODES: u32 = 8192;

/// Blobs that are acknowledged by the node, one small and one large.
fn store(node: &Node, seed: u64) -> [Digest; 2] {
    let client = node.client();
    [50_000, 2 << 20].map(|len| {
        until("an upload to be acknowledged", || {
            let upload = client.upload(sample(seed, len));
            upload.map_err(|error| error.to_string())
        })
    })
}

/// Whether a status document says that the volume of n1 is out of use.
fn is_fenced(status: &serde_json::Value) -> bool {
    let row = row(status, "n1");
    row["volume"].as_str().is_some_and(|volume| volume != "ok")
}

/// Keeps writing through another node, since whoever never writes need not
/// notice, until that one sees that n1 does not use its volume.
fn write_until_fenced(nodes: &[Node; 3], stored: &mut Vec<Digest>) {
    let client = nodes[1].client();
    let mut seed = 1_000;
    until("the volume of n1 to be out of use", || {
        seed += 1;
        let upload = client.upload(sample(seed, 20_000));
        stored.push(upload.map_err(|error| error.to_string())?);
        let status = nodes[1].status_now();
        is_fenced(&status)
            .then_some(())
            .ok_or_else(|| format!("{status}\n{}", nodes[0].log()))
    });
}

#[test]
fn a_volume_that_turns_read_only_is_fenced_and_its_node_is_a_gateway() {
    let _stage = stage();
    let root = tempfile::tempdir().unwrap();
    let Some(volume) = Volume::new(root.path(), INODES) else {
        return;
    };
    let mut nodes = three(root.path(), Some(&volume.mount));
    let mut stored = store(&nodes[0], 1).to_vec();
    nodes[0]
        .client()
        .push("urn:test:before", stored[0])
        .unwrap();

    volume.turn_read_only();
    // Two of three owners are enough, also for those who come through n1.
    stored.extend(store(&nodes[0], 2));
    write_until_fenced(&nodes, &mut stored);
    for node in &nodes {
        let status = node.status("the volume of n1 to be out of use", is_fenced);
        let weaker = status["weaker"].to_string();
        assert!(weaker.contains("n1"), "{weaker}");
    }
    // A gateway: blobs come and go through it.
    stored.extend(store(&nodes[0], 3));
    // Its part in Raft was on the same volume. What it cannot agree on it says
    // at once, and the others go on.
    let client = nodes[0].client();
    until("a push to be refused in clear words", || {
        match client.push("urn:test:refused", stored[2]) {
            Err(status) if status.message().contains("raft on this node has stopped") => Ok(()),
            other => Err(format!("{other:?}\n{}", nodes[0].log())),
        }
    });
    for node in &nodes[1..] {
        until("a push through another node", || {
            let push = node.client().push("urn:test:after", stored[2]);
            push.map_err(|error| error.to_string())
        });
        for uri in ["urn:test:before", "urn:test:after"] {
            until("a fetch", || {
                node.client().fetch(uri).map_err(|error| error.to_string())
            });
        }
    }
    for node in &nodes {
        for digest in &stored {
            node.client().read(*digest).unwrap();
        }
    }
    assert!(nodes[0].ended().is_none(), "{}", nodes[0].log());
}

#[test]
fn a_volume_that_vanishes_is_noticed_and_nothing_is_written_in_its_place() {
    let _stage = stage();
    let root = tempfile::tempdir().unwrap();
    let Some(mut volume) = Volume::new(root.path(), INODES) else {
        return;
    };
    let mut nodes = three(root.path(), Some(&volume.mount));
    let mut stored = store(&nodes[0], 1).to_vec();

    volume.vanish();
    let empty = |when: &str| {
        let left: Vec<_> = std::fs::read_dir(&volume.mount).unwrap().collect();
        assert!(left.is_empty(), "{when}: {left:?}");
    };
    stored.extend(store(&nodes[1], 2));
    write_until_fenced(&nodes, &mut stored);
    empty("once it was noticed");
    match nodes[0].ended() {
        Some(status) => {
            assert!(!status.success(), "{status}");
            let mount = volume.mount.display().to_string();
            assert!(nodes[0].log().contains(&mount), "{}", nodes[0].log());
        }
        None => {
            let status = nodes[0].status("n1 to tell of itself", is_fenced);
            let why = row(&status, "n1")["volume"].as_str().unwrap_or_default();
            assert!(why.len() > 10, "{why:?} says nothing");
        }
    }
    for node in &nodes[1..] {
        for digest in &stored {
            node.client().read(*digest).unwrap();
        }
    }
    nodes[0].kill9();
    empty("once it was stopped");

    // It does not begin anew where its volume should be.
    let said = nodes[0].serve_in_vain();
    assert!(said.contains("holds no node"), "{said}");
    empty("once it was started again");
}
