use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use tokio::time::Instant;

use super::network::{Network, epoch_of, node};

use crate::{
    Digest, Error,
    blob::{BlobStore, ByteRange, collect, conformance::sample, put_bytes},
    peer::faulty_peers::{Faults, Verb},
    replication::Replicated,
};

async fn read(gateway: &Replicated, digest: Digest) -> Result<Bytes, Error> {
    collect(gateway.get(digest, ByteRange::ALL).await?).await
}

/// Three nodes, a blob on 2 and 3, read through 1.
async fn away(len: usize) -> (Network, Digest, Bytes) {
    let network = Network::new(&["a", "a", "b"]);
    let bytes = sample(1, len);
    let digest = Digest::of(&bytes);
    for id in [2, 3] {
        put_bytes(&network.stores[&node(id)], bytes.clone())
            .await
            .unwrap();
    }
    (network, digest, bytes)
}

#[tokio::test(start_paused = true)]
async fn self_then_the_same_zone_then_the_others() {
    let (network, digest, bytes) = away(3 << 20).await;
    assert!(read(network.gateway(1), digest).await.unwrap() == bytes);
    assert_eq!(network.peers.calls(node(2), Verb::Get), 1);
    assert_eq!(network.peers.calls(node(3), Verb::Get), 0);
    let mut notes = network.gateway(1).take_lacking().unwrap();
    let note = notes.recv().await.unwrap();
    assert_eq!((note.owner, note.digest), (node(1), digest));
    put_bytes(&network.stores[&node(1)], bytes.clone())
        .await
        .unwrap();
    network.peers.reset_calls();
    assert!(read(network.gateway(1), digest).await.unwrap() == bytes);
    assert_eq!(network.peers.calls(node(2), Verb::Get), 0);
}

#[tokio::test(start_paused = true)]
async fn a_stream_goes_on_from_another_replica_where_it_broke() {
    let (network, digest, bytes) = away(9 << 20).await;
    for faults in [
        Faults {
            breaks_after: Some(0),
            ..Faults::default()
        },
        Faults {
            breaks_after: Some(1),
            ..Faults::default()
        },
        Faults {
            breaks_after: Some(5_000_001),
            ..Faults::default()
        },
        Faults {
            ends_after: Some(5_000_001),
            ..Faults::default()
        },
        Faults {
            chunk_delay: Duration::from_secs(9),
            ..Faults::default()
        },
        Faults {
            silent: true,
            ..Faults::default()
        },
    ] {
        network.fault(node(2), faults);
        let got = read(network.gateway(1), digest).await;
        assert!(got.unwrap() == bytes, "{faults:?}");
        let range = ByteRange {
            offset: 1_000_003,
            length: 6 << 20,
        };
        let part = collect(network.gateway(1).get(digest, range).await.unwrap()).await;
        assert!(
            part.unwrap() == bytes.slice(1_000_003..1_000_003 + (6 << 20)),
            "{faults:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_dies_between_chunks_is_not_noticed() {
    let (network, digest, bytes) = away(6 << 20).await;
    let mut stream = network
        .gateway(1)
        .get(digest, ByteRange::ALL)
        .await
        .unwrap();
    let first = stream.next().await.unwrap().unwrap();
    network.down(node(2));
    let rest = collect(stream).await.unwrap();
    assert!([first, rest].concat() == bytes);
    // With the last replica gone too the stream says so, and ends.
    network.peers.heal();
    let mut stream = network
        .gateway(1)
        .get(digest, ByteRange::ALL)
        .await
        .unwrap();
    stream.next().await.unwrap().unwrap();
    network.down(node(2));
    network.down(node(3));
    let error = stream.next().await.unwrap().unwrap_err();
    assert!(matches!(error, Error::NoQuorum(_)), "{error}");
    assert!(stream.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn silence_starts_the_next_candidate_soon() {
    let (network, digest, bytes) = away(1000).await;
    network.fault(
        node(2),
        Faults {
            silent: true,
            ..Faults::default()
        },
    );
    let since = Instant::now();
    assert!(read(network.gateway(1), digest).await.unwrap() == bytes);
    assert!(
        since.elapsed() <= Duration::from_millis(250),
        "{:?}",
        since.elapsed()
    );
    // The slower of two that answer loses, and its stream is dropped.
    let delay = Duration::from_millis(400);
    network.fault(
        node(2),
        Faults {
            delay,
            ..Faults::default()
        },
    );
    assert!(read(network.gateway(1), digest).await.unwrap() == bytes);
}

#[tokio::test(start_paused = true)]
async fn not_found_is_said_only_when_it_is_true() {
    let network = Network::new(&["a", "b", "c", "d", "e"]);
    let digest = Digest::of(b"never stored");
    let gateway = network.gateway(1);
    let error = read(gateway, digest).await.unwrap_err();
    assert!(matches!(error, Error::NotFound(_)), "{error}");
    let owner = network.other_owners(digest)[0];
    network.down(owner);
    let error = read(gateway, digest).await.unwrap_err();
    assert!(matches!(error, Error::NoQuorum(_)), "{error}");
    assert!(error.to_string().contains(&owner.to_string()), "{error}");
    // One stand-in away proves nothing less; two might hold it between them.
    network.peers.heal();
    let stand_ins = network.view().stand_ins(digest);
    let away: Vec<_> = stand_ins.into_iter().filter(|id| *id != node(1)).collect();
    network.down(away[0]);
    let error = read(gateway, digest).await.unwrap_err();
    assert!(matches!(error, Error::NotFound(_)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_minority_still_reads_what_it_has() {
    let (network, digest, bytes) = away(3 << 20).await;
    network.down(node(1));
    network.down(node(3));
    assert!(read(network.gateway(2), digest).await.unwrap() == bytes);
    let absent = read(network.gateway(2), Digest::of(b"elsewhere"))
        .await
        .unwrap_err();
    assert!(matches!(absent, Error::NoQuorum(_)), "{absent}");
}

#[tokio::test(start_paused = true)]
async fn what_has_not_moved_yet_is_read_from_former_owners() {
    let network = Network::with(&["a", "b", "c", "d", "e", "f"], 3, 3, 2);
    let mut digests = Vec::new();
    for seed in 0..30 {
        digests.push(
            put_bytes(network.gateway(1), sample(seed, 900))
                .await
                .unwrap(),
        );
    }
    for digest in &digests {
        network.held_by(*digest, 3).await;
    }
    // All owners change at once.
    network.show(5, &epoch_of(&network.state, &[4, 5, 6]));
    let gateway = network.gateway(5);
    for digest in &digests {
        assert_eq!(Digest::of(&read(gateway, *digest).await.unwrap()), *digest);
    }
    let read = gateway.get_batch(&digests).await;
    assert!(read.iter().all(Result::is_ok));
    // Present is for current owners to say.
    let missing = gateway
        .find_missing(&digests, crate::blob::Lease::SHORT)
        .await
        .unwrap();
    assert_eq!(missing.len(), digests.len());
}

#[tokio::test(start_paused = true)]
async fn a_damaged_copy_is_passed_over_and_noted() {
    let (network, digest, bytes) = away(3 << 20).await;
    put_bytes(&network.stores[&node(1)], bytes.clone())
        .await
        .unwrap();
    network.stores[&node(1)].remove(digest);
    let faults = Faults {
        corrupt: true,
        ..Faults::default()
    };
    network.fault(node(2), faults);
    assert!(read(network.gateway(1), digest).await.unwrap() == bytes);
    let mut notes = network.gateway(1).take_lacking().unwrap();
    let noted = [notes.recv().await.unwrap(), notes.recv().await.unwrap()];
    assert_eq!(noted.map(|note| note.owner), [node(1), node(2)]);
    let batch = network.gateway(1).get_batch(&[digest]).await;
    assert!(*batch[0].as_ref().unwrap() == bytes);
    assert!(network.gateway(1).take_lacking().is_none(), "taken once");
    // A damaged copy is no proof of absence.
    network.stores[&node(3)].remove(digest);
    let error = read(network.gateway(1), digest).await.unwrap_err();
    assert!(matches!(error, Error::NoQuorum(_)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn what_a_newer_epoch_put_on_new_owners_is_found_by_an_old_view() {
    let network = Network::with(&["a", "b", "c", "d", "e", "f"], 3, 3, 2);
    let newer = epoch_of(&network.state, &[4, 5, 6]);
    network.show(5, &newer);
    let digest = put_bytes(network.gateway(5), sample(1, 500)).await.unwrap();
    network.held_by(digest, 3).await;
    let gateway = network.gateway(1);
    assert_eq!(Digest::of(&read(gateway, digest).await.unwrap()), digest);
    assert!(gateway.get_batch(&[digest]).await[0].is_ok());
}
