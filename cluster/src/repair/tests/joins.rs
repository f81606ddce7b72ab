//! Nodes that come.

use super::cluster::Cluster;

#[tokio::test(start_paused = true)]
async fn a_node_that_joins_gets_its_share_and_nothing_more_moves() {
    let mut cluster = Cluster::new(&["a", "b", "c", "d"], 3, 3, 2);
    cluster.write(1, 200).await;
    cluster.settle().await;
    let (before, _) = cluster.fetched();
    cluster.join(4).await;
    cluster.settle().await;
    let share = cluster.store(4).digests().len() as u64;
    assert!(share > 100, "{share} of 200 blobs");
    let (after, _) = cluster.fetched();
    assert_eq!(
        after - before,
        share,
        "each blob of the share was fetched once"
    );
}
