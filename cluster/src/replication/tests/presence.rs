use std::time::Duration;

use tokio::time::Instant;

use super::network::{Network, epoch_of, node};
use crate::{
    Digest, Epoch, Error,
    blob::{BlobStore, Lease, conformance::sample, put_bytes},
    peer::faulty_peers::{Faults, Verb},
};

/// Blob number `i` is on the owners whose bit is set in `i % 8`.
async fn scatter(network: &Network, count: u64) -> Vec<Digest> {
    let mut digests = Vec::new();
    for seed in 0..count {
        let bytes = sample(seed, 64);
        let digest = Digest::of(&bytes);
        for (bit, owner) in (0..).zip(network.view().owners(digest)) {
            if seed >> bit & 1 == 1 {
                put_bytes(&network.stores[&owner], bytes.clone())
                    .await
                    .unwrap();
            }
        }
        digests.push(digest);
    }
    digests
}

fn expected(count: u64) -> Vec<u32> {
    (0..count)
        .filter(|seed| (seed % 8).count_ones() < 2)
        .map(|seed| seed as u32)
        .collect()
}

#[tokio::test(start_paused = true)]
async fn present_is_what_a_quorum_of_owners_has_at_one_message_each() {
    for zones in [&["a", "b", "c"][..], &["a", "b", "c", "d", "e"]] {
        let network = Network::new(zones);
        let digests = scatter(&network, 400).await;
        for (id, _) in (1..).zip(zones) {
            network.peers.reset_calls();
            let gateway = network.gateway(id);
            let missing = gateway.find_missing(&digests, Lease::SHORT).await.unwrap();
            assert_eq!(missing, expected(400));
            for (peer, _) in (1..).zip(zones) {
                let calls = network.peers.calls(node(peer), Verb::FindMissing);
                assert_eq!(calls, u64::from(peer != id), "gateway {id}, node {peer}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_is_away_does_not_stall_the_answer() {
    for silent in [false, true] {
        let network = Network::new(&["a", "b", "c"]);
        let digests = scatter(&network, 64).await;
        let down = !silent;
        network.fault(
            node(2),
            Faults {
                silent,
                down,
                ..Faults::default()
            },
        );
        let since = Instant::now();
        let missing = network
            .gateway(1)
            .find_missing(&digests, Lease::SHORT)
            .await
            .unwrap();
        assert!(
            since.elapsed() <= Duration::from_secs(2),
            "{:?}",
            since.elapsed()
        );
        // Only what both others have is confirmed by two.
        for (index, digest) in (0..).zip(&digests) {
            let held = network.holders(*digest);
            let confirmed = held.contains(&node(1)) && held.contains(&node(3));
            assert_eq!(missing.contains(&index), !confirmed, "{digest}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn stand_ins_answer_for_owners_that_are_away() {
    let network = Network::new(&["a", "b", "c", "d", "e"]);
    for id in [2, 3] {
        network.down(node(id));
    }
    let mut digests = Vec::new();
    for seed in 0..40 {
        digests.push(
            put_bytes(network.gateway(1), sample(seed, 80))
                .await
                .unwrap(),
        );
    }
    for digest in &digests {
        network.held_by(*digest, 3).await;
    }
    let missing = network
        .gateway(1)
        .find_missing(&digests, Lease::SHORT)
        .await
        .unwrap();
    assert!(missing.is_empty(), "{missing:?}");
    network.fault(
        node(2),
        Faults {
            silent: true,
            ..Faults::default()
        },
    );
    let since = Instant::now();
    let missing = network
        .gateway(1)
        .find_missing(&digests, Lease::SHORT)
        .await
        .unwrap();
    assert!(missing.is_empty(), "{missing:?}");
    assert!(
        since.elapsed() < Duration::from_secs(2),
        "hedged, not timed out"
    );
}

#[tokio::test(start_paused = true)]
async fn nobody_to_ask_is_no_answer() {
    let network = Network::with(&["a", "b", "c", "d"], 3, 3, 2);
    for id in 1..=3 {
        network.down(node(id));
    }
    let digest = Digest::of(b"blob");
    let error = network
        .gateway(4)
        .find_missing(&[digest], Lease::SHORT)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::NoQuorum(_)), "{error}");
    let missing = network
        .gateway(4)
        .find_missing(&[Digest::EMPTY], Lease::SHORT)
        .await;
    assert!(missing.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_old_epoch_is_asked_again_under_the_new_one() {
    let network = Network::new(&["a", "b", "c"]);
    let digests = scatter(&network, 16).await;
    for id in [2, 3] {
        network.peers.set_epoch(node(id), Epoch(2));
    }
    let error = network
        .gateway(1)
        .find_missing(&digests, Lease::SHORT)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::StaleEpoch { .. }), "{error}");
    let newer = epoch_of(&network.state, &[1, 2, 3]);
    let gateway = network.gateway(1);
    let (missing, ()) = tokio::join!(gateway.find_missing(&digests, Lease::SHORT), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        network.show(1, &newer);
    });
    assert_eq!(missing.unwrap(), expected(16));
}
