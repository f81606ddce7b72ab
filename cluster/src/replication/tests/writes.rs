use std::time::Duration;

use tokio::time::Instant;

use super::network::{Network, epoch_of, node};
use crate::{
    Digest, Epoch, Error, NodeId,
    blob::{BlobStore, ByteRange, CHUNK_BYTES, Put, collect, conformance::sample},
    peer::faulty_peers::Faults,
    replication::Replicated,
};

const LARGE: usize = 24 << 20;

/// Uploads as a stream, whatever the size.
async fn upload(gateway: &Replicated, bytes: &bytes::Bytes) -> Result<(), Error> {
    let Put::Upload(mut upload) = gateway.put(Digest::of(bytes)).await? else {
        return Ok(());
    };
    let mut rest = bytes.clone();
    while !rest.is_empty() {
        upload
            .write(rest.split_to(rest.len().min(CHUNK_BYTES)))
            .await?;
    }
    upload.commit().await
}

async fn read(gateway: &Replicated, digest: Digest) -> Result<bytes::Bytes, Error> {
    collect(gateway.get(digest, ByteRange::ALL).await?).await
}

fn owners(network: &Network, digest: Digest) -> Vec<NodeId> {
    network.view().owners(digest).collect()
}

#[tokio::test(start_paused = true)]
async fn every_owner_gets_its_copy_and_nobody_else() {
    let network = Network::new(&["a", "b", "c", "a", "b"]);
    for seed in 0..20 {
        let bytes = sample(seed, 3 << 20);
        let digest = Digest::of(&bytes);
        upload(network.gateway(1), &bytes).await.unwrap();
        network.held_by(digest, 3).await;
        let mut expected = owners(&network, digest);
        expected.sort_unstable();
        assert_eq!(network.holders(digest), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_quorum_is_enough_and_a_minority_is_not() {
    for zones in [["a", "b", "c"], ["a", "a", "a"]] {
        let network = Network::new(&zones);
        network.down(node(2));
        let bytes = sample(1, 2 << 20);
        upload(network.gateway(1), &bytes).await.unwrap();
        assert_eq!(network.holders(Digest::of(&bytes)), [node(1), node(3)]);
        network.down(node(3));
        let bytes = sample(2, 2 << 20);
        let error = upload(network.gateway(1), &bytes).await.unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, Error::NoQuorum(_)), "{text}");
        for down in [node(2), node(3)] {
            assert!(
                text.contains(&format!("{down}: connection refused")),
                "{text}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn two_copies_in_one_zone_are_no_quorum_of_two_zones() {
    let network = Network::new(&["a", "a", "b"]);
    network.down(node(3));
    let error = upload(network.gateway(1), &sample(1, 100))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::NoQuorum(_)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn stand_ins_take_what_owners_cannot_and_are_found() {
    let network = Network::new(&["a", "b", "c", "a", "b", "c"]);
    for seed in 0..20 {
        let bytes = sample(seed, 1 << 20);
        let digest = Digest::of(&bytes);
        let owners = owners(&network, digest);
        for owner in &owners {
            network.down(*owner);
        }
        let gateway = (1..).find(|id| !owners.contains(&node(*id))).unwrap();
        upload(network.gateway(gateway), &bytes).await.unwrap();
        network.held_by(digest, 3).await;
        assert!(
            network
                .holders(digest)
                .iter()
                .all(|node| !owners.contains(node))
        );
        // With the owners still away, and with them back and empty.
        assert!(read(network.gateway(gateway), digest).await.unwrap() == bytes);
        network.peers.heal();
        for id in 1..=6 {
            assert!(
                read(network.gateway(id), digest).await.unwrap() == bytes,
                "gateway {id}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_dies_in_a_small_upload_is_replaced() {
    let network = Network::new(&["a", "b", "c", "d"]);
    let bytes = sample(9, 3 << 20);
    let digest = Digest::of(&bytes);
    for owner in network.other_owners(digest) {
        let breaks_after = Some(1_500_000);
        network.fault(
            owner,
            Faults {
                breaks_after,
                ..Faults::default()
            },
        );
    }
    // All that was sent is at hand, but at most one other node is left.
    let outcome = upload(network.gateway(1), &bytes).await;
    let healthy = 4 - network.other_owners(digest).len();
    assert_eq!(
        outcome.is_ok(),
        healthy >= 2,
        "{outcome:?}, {healthy} healthy"
    );
    let victim = network.other_owners(digest)[0];
    network.peers.heal();
    let breaks_after = Some(1_500_000);
    network.fault(
        victim,
        Faults {
            breaks_after,
            ..Faults::default()
        },
    );
    upload(network.gateway(1), &bytes).await.unwrap();
    network.held_by(digest, 3).await;
    assert!(!network.holders(digest).contains(&victim));
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_dies_in_a_large_upload_is_done_without() {
    let network = Network::new(&["a", "b", "c"]);
    let bytes = sample(3, LARGE);
    let breaks_after = Some(20 << 20);
    network.fault(
        node(2),
        Faults {
            breaks_after,
            ..Faults::default()
        },
    );
    upload(network.gateway(1), &bytes).await.unwrap();
    network.held_by(Digest::of(&bytes), 2).await;
    network.fault(
        node(3),
        Faults {
            breaks_after,
            ..Faults::default()
        },
    );
    let error = upload(network.gateway(1), &sample(4, LARGE))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::NoQuorum(_)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_owner_does_not_slow_an_upload() {
    let network = Network::new(&["a", "b", "c"]);
    let chunk_delay = Duration::from_secs(5);
    network.fault(
        node(2),
        Faults {
            chunk_delay,
            ..Faults::default()
        },
    );
    let bytes = sample(5, LARGE);
    let since = Instant::now();
    upload(network.gateway(1), &bytes).await.unwrap();
    // Paused time: nothing but waits on purpose takes any.
    assert!(
        since.elapsed() < Duration::from_secs(1),
        "{:?}",
        since.elapsed()
    );
    assert_eq!(network.holders(Digest::of(&bytes)), [node(1), node(3)]);
    let mut notes = network.gateway(1).take_lacking().unwrap();
    assert_eq!(notes.recv().await.unwrap().owner, node(2));
}

#[tokio::test(start_paused = true)]
async fn a_straggler_within_bounds_finishes_behind_the_answer() {
    let network = Network::new(&["a", "b", "c"]);
    let chunk_delay = Duration::from_secs(3);
    network.fault(
        node(2),
        Faults {
            chunk_delay,
            ..Faults::default()
        },
    );
    let bytes = sample(6, 3 << 20);
    let since = Instant::now();
    upload(network.gateway(1), &bytes).await.unwrap();
    assert!(since.elapsed() < Duration::from_secs(1));
    network.held_by(Digest::of(&bytes), 3).await;
}

#[tokio::test(start_paused = true)]
async fn silence_at_the_start_delays_nobody() {
    let network = Network::new(&["a", "b", "c"]);
    network.fault(
        node(3),
        Faults {
            silent: true,
            ..Faults::default()
        },
    );
    let bytes = sample(7, 6 << 20);
    let since = Instant::now();
    upload(network.gateway(1), &bytes).await.unwrap();
    assert!(
        since.elapsed() < Duration::from_secs(1),
        "{:?}",
        since.elapsed()
    );
    network.fault(
        node(2),
        Faults {
            silent: true,
            ..Faults::default()
        },
    );
    let error = upload(network.gateway(1), &sample(8, 100))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("silent"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_quorum_of_owners_that_have_it_is_present() {
    let network = Network::new(&["a", "b", "c"]);
    let bytes = sample(10, 2 << 20);
    let digest = Digest::of(&bytes);
    for id in [2, 3] {
        crate::blob::put_bytes(&network.stores[&node(id)], bytes.clone())
            .await
            .unwrap();
    }
    assert!(matches!(
        network.gateway(1).put(digest).await.unwrap(),
        Put::Present
    ));
    network.stores[&node(3)].remove(digest);
    assert!(matches!(
        network.gateway(1).put(digest).await.unwrap(),
        Put::Upload(_)
    ));
    upload(network.gateway(1), &bytes).await.unwrap();
    network.held_by(digest, 3).await;
}

#[tokio::test(start_paused = true)]
async fn bytes_that_do_not_match_are_the_clients_error() {
    let network = Network::new(&["a", "b", "c"]);
    let digest = Digest::of(&sample(11, 1000));
    for down in [false, true] {
        if down {
            network.down(node(2));
        }
        let Put::Upload(mut upload) = network.gateway(1).put(digest).await.unwrap() else {
            panic!("present though never stored");
        };
        upload.write(sample(12, 1000)).await.unwrap();
        let error = upload.commit().await.unwrap_err();
        assert!(matches!(error, Error::Mismatch { .. }), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_a_doubt_not_a_success() {
    let network = Network::new(&["a", "b", "c"]);
    for id in [2, 3] {
        let loses_answers = true;
        network.fault(
            node(id),
            Faults {
                loses_answers,
                ..Faults::default()
            },
        );
    }
    let error = upload(network.gateway(1), &sample(13, 5000))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::NoQuorum(_)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_old_epoch_is_retried_under_the_new_one() {
    let network = Network::new(&["a", "b", "c", "d"]);
    let newer = epoch_of(&network.state, &[1, 2, 3]);
    for id in 2..=4 {
        network.peers.set_epoch(node(id), Epoch(2));
    }
    let bytes = sample(14, 3000);
    let digest = Digest::of(&bytes);
    let error = upload(network.gateway(1), &bytes).await.unwrap_err();
    assert!(
        error.to_string().contains("epoch 1 is out of date"),
        "{error}"
    );
    let (outcome, ()) = tokio::join!(upload(network.gateway(1), &bytes), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        network.show(1, &newer);
    });
    outcome.unwrap();
    network.held_by(digest, 3).await;
    for id in 1..=3 {
        assert!(network.holders(digest).contains(&node(id)));
    }
}

#[tokio::test(start_paused = true)]
async fn an_own_copy_that_comes_behind_a_new_epoch_does_not_count() {
    // One copy of each blob; node 1 owns it until node 2 alone owns everything.
    let network = Network::with(&["a", "b"], 2, 1, 1);
    let next = epoch_of(&network.state, &[2]);
    let view = network.view();
    let bytes = (1..)
        .map(|seed| sample(seed, 3 << 20))
        .find(|bytes| view.owns(node(1), Digest::of(bytes)))
        .unwrap();
    let digest = Digest::of(&bytes);
    let Put::Upload(mut upload) = network.gateway(1).put(digest).await.unwrap() else {
        panic!("nobody has it yet");
    };
    for chunk in bytes.chunks(CHUNK_BYTES) {
        upload.write(bytes.slice_ref(chunk)).await.unwrap();
    }
    network.show(1, &next);
    network.show(2, &next);
    upload.commit().await.unwrap();
    let holders = network.holders(digest);
    assert!(holders.contains(&node(2)), "acknowledged by {holders:?}");
}

#[tokio::test(start_paused = true)]
async fn dropping_an_upload_leaves_nothing() {
    let network = Network::new(&["a", "b", "c"]);
    let bytes = sample(15, 2 << 20);
    let digest = Digest::of(&bytes);
    let Put::Upload(mut upload) = network.gateway(1).put(digest).await.unwrap() else {
        panic!("present though never stored");
    };
    upload.write(bytes.clone()).await.unwrap();
    drop(upload);
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert!(network.holders(digest).is_empty());
}
