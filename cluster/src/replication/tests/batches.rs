use super::network::{Network, epoch_of, node};
use crate::{
    Digest, Epoch, Error,
    blob::{BlobStore, Verified, conformance::sample},
    peer::faulty_peers::{Faults, Verb},
};

fn blobs(seed: u64, count: u64, len: usize) -> Vec<Verified> {
    (seed..seed + count)
        .map(|seed| Verified::of(sample(seed, len)))
        .collect()
}

fn digests(blobs: &[Verified]) -> Vec<Digest> {
    blobs.iter().map(Verified::digest).collect()
}

#[tokio::test(start_paused = true)]
async fn each_owner_gets_one_message() {
    let network = Network::new(&["a", "b", "c", "d", "e"]);
    let batch = blobs(0, 200, 1_000);
    let answers = network.gateway(1).put_batch(batch.clone()).await;
    assert!(answers.iter().all(Result::is_ok));
    for digest in digests(&batch) {
        network.held_by(digest, 3).await;
    }
    for id in 2..=5 {
        assert_eq!(
            network.peers.calls(node(id), Verb::PutBatch),
            1,
            "node {id}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn messages_are_bounded() {
    let network = Network::new(&["a", "b", "c"]);
    let batch = blobs(0, 12, 1 << 20);
    let answers = network.gateway(1).put_batch(batch).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(network.peers.calls(node(2), Verb::PutBatch), 4);
}

#[tokio::test(start_paused = true)]
async fn what_owners_cannot_take_goes_to_stand_ins_in_one_message_each() {
    let network = Network::new(&["a", "b", "c", "d", "e"]);
    for id in [2, 3] {
        network.down(node(id));
    }
    let batch = blobs(0, 100, 500);
    let answers = network.gateway(1).put_batch(batch.clone()).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    for digest in digests(&batch) {
        network.held_by(digest, 3).await;
    }
    for id in [4, 5] {
        // Its own, and once for each owner that was down.
        assert!(network.peers.calls(node(id), Verb::PutBatch) <= 5);
    }
    let read = network.gateway(4).get_batch(&digests(&batch)).await;
    assert!(read.iter().all(Result::is_ok));
}

#[tokio::test(start_paused = true)]
async fn below_a_quorum_each_blob_says_so() {
    let network = Network::new(&["a", "b", "c"]);
    network.down(node(2));
    network.fault(
        node(3),
        Faults {
            silent: true,
            ..Faults::default()
        },
    );
    let mut batch = blobs(0, 3, 500);
    batch.push(Verified::of(bytes::Bytes::new()));
    let answers = network.gateway(1).put_batch(batch).await;
    for answer in &answers[..3] {
        let error = answer.as_ref().unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, Error::NoQuorum(_)), "{text}");
        assert!(
            text.contains("refused") && text.contains("silent"),
            "{text}"
        );
    }
    assert!(answers[3].is_ok(), "the empty blob needs nobody");
}

#[tokio::test(start_paused = true)]
async fn an_old_epoch_is_retried_under_the_new_one() {
    let network = Network::new(&["a", "b", "c", "d"]);
    for id in 2..=4 {
        network.peers.set_epoch(node(id), Epoch(2));
    }
    let batch = blobs(0, 50, 500);
    let newer = epoch_of(&network.state, &[1, 2, 3]);
    let (answers, ()) = tokio::join!(network.gateway(1).put_batch(batch.clone()), async {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        network.show(1, &newer);
    });
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
}

#[tokio::test(start_paused = true)]
async fn reads_are_grouped_and_go_on_where_a_node_lacks_or_fails() {
    let network = Network::new(&["a", "b", "c", "d", "e"]);
    let batch = blobs(0, 60, 700);
    network.gateway(1).put_batch(batch.clone()).await;
    for digest in digests(&batch) {
        network.held_by(digest, 3).await;
    }
    let mut wanted = digests(&batch);
    wanted.push(Digest::of(b"never stored"));
    network.stores[&node(1)].remove(wanted[0]);
    network.stores[&node(2)].remove(wanted[1]);
    network.peers.reset_calls();
    let read = network.gateway(1).get_batch(&wanted).await;
    assert!(read[..60].iter().all(Result::is_ok));
    assert!(matches!(read[60], Err(Error::NotFound(_))));
    for id in 2..=5 {
        assert!(network.peers.calls(node(id), Verb::GetBatch) <= 4);
    }
    network.down(node(2));
    network.fault(
        node(3),
        Faults {
            silent: true,
            ..Faults::default()
        },
    );
    let read = network.gateway(1).get_batch(&wanted).await;
    for (answer, digest) in read[..60].iter().zip(&wanted) {
        assert_eq!(Digest::of(answer.as_ref().unwrap()), *digest);
    }
    // Not every owner could be asked: absence is not proven.
    assert!(
        matches!(read[60], Err(Error::NoQuorum(_))),
        "{:?}",
        read[60]
    );
}
