//! Nodes in one process over peers with faults.

mod batches;
pub(crate) mod network;
mod presence;
mod reads;
mod soak;
mod writes;

use super::*;
use crate::blob::conformance;
use network::Network;

/// Upholds the rules of every store, on one node and on several.
#[tokio::test]
async fn keeps_what_every_store_keeps() {
    for zones in [&["a"][..], &["a", "b", "c"], &["a", "a", "b", "b", "c"]] {
        conformance::check(Network::new(zones).gateway(1)).await;
    }
}

/// The same through a gateway that owns nothing.
#[tokio::test]
async fn a_gateway_need_not_be_an_owner() {
    let network = Network::with(&["a", "b", "c", "d"], 3, 3, 2);
    conformance::check(network.gateway(4)).await;
    assert!(network.stores[&NodeId(4)].digests().is_empty());
}

#[tokio::test]
async fn a_node_alone_sends_nothing() {
    let network = Network::new(&["a"]);
    conformance::check(network.gateway(1)).await;
    assert_eq!(
        network
            .peers
            .calls(NodeId(1), crate::peer::faulty_peers::Verb::Put),
        0
    );
}

#[tokio::test]
async fn before_the_cluster_has_begun_nothing_is_promised() {
    let network = Network::with(&["a"], 0, 3, 2);
    let gateway = network.gateway(1);
    let blob = conformance::sample(1, 100);
    let digest = Digest::of(&blob);
    let put = crate::blob::put_bytes(gateway, blob).await;
    assert!(matches!(put, Err(Error::NoQuorum(_))), "{put:?}");
    let get = gateway.get(digest, ByteRange::ALL).await.err();
    assert!(matches!(get, Some(Error::NoQuorum(_))), "{get:?}");
    let find = gateway.find_missing(&[digest], Lease::SHORT).await;
    assert!(matches!(find, Err(Error::NoQuorum(_))), "{find:?}");
}
