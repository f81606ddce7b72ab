//! The mover's process ends at each of its calls to others, and begins anew.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Notify;

use super::cluster::{Cluster, id};
use crate::{
    Digest, Epoch, Error, NodeId, Slot,
    blob::{BlobStream, ByteRange, Held, Lease, Put, Summaries, Verdict, Verified, Version},
    peer::{Peers, Report, faulty_peers::FaultyPeers},
};

/// Goes no further than a number of calls.
struct CutPeers {
    inner: FaultyPeers,
    left: AtomicU64,
    cut: Arc<Notify>,
}

impl CutPeers {
    async fn step(&self) {
        let less = |left: u64| left.checked_sub(1);
        if self
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less)
            .is_err()
        {
            self.cut.notify_one();
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait]
impl Peers for CutPeers {
    async fn find_missing(
        &self,
        to: NodeId,
        epoch: Epoch,
        digests: &[Digest],
        lease: Lease,
    ) -> Result<Vec<u32>, Error> {
        self.inner.find_missing(to, epoch, digests, lease).await
    }

    async fn get(&self, to: NodeId, digest: Digest, range: ByteRange) -> Result<BlobStream, Error> {
        self.inner.get(to, digest, range).await
    }

    async fn get_batch(
        &self,
        to: NodeId,
        digests: &[Digest],
    ) -> Result<Vec<Result<Bytes, Error>>, Error> {
        self.inner.get_batch(to, digests).await
    }

    async fn put(&self, to: NodeId, epoch: Epoch, digest: Digest) -> Result<Put, Error> {
        self.inner.put(to, epoch, digest).await
    }

    async fn put_batch(
        &self,
        to: NodeId,
        epoch: Epoch,
        blobs: &[Verified],
    ) -> Result<Vec<Result<(), Error>>, Error> {
        self.inner.put_batch(to, epoch, blobs).await
    }

    async fn report(&self, to: NodeId) -> Result<Report, Error> {
        self.inner.report(to).await
    }

    async fn summaries(
        &self,
        to: NodeId,
        epoch: Epoch,
        known: Option<Version>,
    ) -> Result<Option<Summaries>, Error> {
        self.step().await;
        self.inner.summaries(to, epoch, known).await
    }

    async fn list(&self, to: NodeId, epoch: Epoch, slots: &[Slot]) -> Result<Vec<Held>, Error> {
        self.step().await;
        self.inner.list(to, epoch, slots).await
    }

    async fn offer(
        &self,
        to: NodeId,
        epoch: Epoch,
        from: NodeId,
        blobs: &[Held],
    ) -> Result<Vec<Verdict>, Error> {
        self.step().await;
        self.inner.offer(to, epoch, from, blobs).await
    }

    async fn read(&self, to: NodeId, digest: Digest) -> Result<BlobStream, Error> {
        self.step().await;
        self.inner.read(to, digest).await
    }

    async fn read_batch(
        &self,
        to: NodeId,
        digests: &[Digest],
    ) -> Result<Vec<Result<Bytes, Error>>, Error> {
        self.step().await;
        self.inner.read_batch(to, digests).await
    }

    async fn scrub(&self, to: NodeId) -> Result<(), Error> {
        self.inner.scrub(to).await
    }
}

/// Whether the mover was cut off before all was done.
async fn crash_after(calls: u64, mover: u64) -> bool {
    let mut cluster = Cluster::new(&["a", "b", "c", "d"], 4, 3, 2);
    cluster.write(1, 45).await;
    cluster.settle().await;
    let cut = Arc::<Notify>::default();
    let peers = CutPeers {
        inner: cluster.peers.clone(),
        left: AtomicU64::new(calls),
        cut: Arc::clone(&cut),
    };
    cluster.start_with(mover, Arc::new(peers));
    cluster.drain(2).await;
    cluster.write(4, 5).await;
    let crashed = tokio::select! {
        () = cut.notified() => true,
        () = cluster.settle() => false,
    };
    if crashed {
        cluster.kill(mover);
        cluster.check_readable().await;
        cluster.revive(mover);
        cluster.settle().await;
    }
    assert_eq!(cluster.stores[&id(2)].digests(), []);
    crashed
}

/// An owner that gains blobs, and the node that drains.
#[tokio::test(start_paused = true)]
async fn a_mover_may_end_at_any_step() {
    for mover in [3, 2] {
        let mut calls = 0;
        while crash_after(calls, mover).await {
            calls += 1;
        }
        assert!(calls > 5, "node {mover} was done after {calls} calls");
    }
}
