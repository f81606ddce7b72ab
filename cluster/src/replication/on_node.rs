//! The verbs on one node, be it this one or a peer. What is slower than its
//! deadline is [`Error::Unreachable`].

use std::{
    future::Future,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::{sync::Semaphore, time::timeout};

use super::{
    COMMIT_DEADLINE, FIND_DEADLINE, Lacking, READ_DEADLINE, START_DEADLINE, Shared, VIEW_PATIENCE,
    put_batch,
};
use crate::{
    Digest, Epoch, Error, NodeId,
    blob::{BlobStream, ByteRange, Lease, Put, Upload, Verified},
    placement::{
        NODE_LIMIT,
        view::{self, View},
    },
    planted::{self, Bug},
};

impl Shared {
    pub(super) fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    /// A view newer than this epoch, if one comes soon.
    pub(super) async fn newer_than(&self, epoch: Epoch) -> Option<Arc<View>> {
        let mut views = self.view.clone();
        let next = Epoch(epoch.0.saturating_add(1));
        view::at_least(&mut views, next, VIEW_PATIENCE)
            .await
            .then(|| views.borrow().clone())
    }

    pub(super) async fn find_missing_on(
        &self,
        node: NodeId,
        epoch: Epoch,
        digests: &[Digest],
        lease: Lease,
    ) -> Result<Vec<u32>, Error> {
        if node == self.me {
            return self.local.find_missing(digests, lease).await;
        }
        let call = self.peers.find_missing(node, epoch, digests, lease);
        let missing = within(FIND_DEADLINE, node, call).await?;
        match missing.last() {
            Some(last) if *last as usize >= digests.len() => Err(Error::Internal(format!(
                "node {node} answered for digest {last} of {}",
                digests.len()
            ))),
            _ => Ok(missing),
        }
    }

    pub(super) async fn get_on(
        &self,
        node: NodeId,
        digest: Digest,
        range: ByteRange,
    ) -> Result<BlobStream, Error> {
        if node == self.me {
            return self.local.get(digest, range).await;
        }
        within(READ_DEADLINE, node, self.peers.get(node, digest, range)).await
    }

    pub(super) async fn get_batch_on(
        &self,
        node: NodeId,
        digests: &[Digest],
    ) -> Result<Vec<Result<Bytes, Error>>, Error> {
        let answers = if node == self.me {
            self.local.get_batch(digests).await
        } else {
            within(READ_DEADLINE, node, self.peers.get_batch(node, digests)).await?
        };
        expect_count(node, answers, digests.len())
    }

    pub(super) async fn put_on(
        self: &Arc<Self>,
        node: NodeId,
        epoch: Epoch,
        digest: Digest,
    ) -> Result<Put, Error> {
        if node == self.me {
            let put = within(START_DEADLINE, node, self.local.put(digest)).await?;
            return Ok(match put {
                Put::Present => Put::Present,
                Put::Upload(inner) => Put::Upload(Box::new(OwnUpload {
                    shared: Arc::clone(self),
                    epoch,
                    digest,
                    inner,
                })),
            });
        }
        within(START_DEADLINE, node, self.peers.put(node, epoch, digest)).await
    }

    pub(super) async fn put_batch_on(
        &self,
        node: NodeId,
        epoch: Epoch,
        blobs: Vec<Verified>,
    ) -> Result<Vec<Result<(), Error>>, Error> {
        let count = blobs.len();
        let answers = if node == self.me {
            let digests: Vec<_> = blobs.iter().map(Verified::digest).collect();
            let answers = self.local.put_batch(blobs).await;
            for digest in digests {
                self.admit_own(epoch, digest)?;
            }
            answers
        } else {
            let call = self.peers.put_batch(node, epoch, &blobs);
            within(COMMIT_DEADLINE, node, call).await?
        };
        expect_count(node, answers, count)
    }

    /// Whether a copy that is in the own store now counts, though its write
    /// began under this epoch. Asked when it is there: the tempting look
    /// beforehand would miss an epoch that begins while the disk is written,
    /// and then the account that this node gives at that epoch lacks a blob
    /// which was acknowledged.
    fn admit_own(&self, theirs: Epoch, digest: Digest) -> Result<(), Error> {
        let view = self.view.borrow();
        let ours = view.epoch();
        if theirs < ours && !view.owns(self.me, digest) && !planted::is(Bug::StaleEpochTaken) {
            return Err(Error::StaleEpoch { theirs, ours });
        }
        Ok(())
    }

    /// See [`put_batch::WAITING_BYTES`].
    pub(super) fn waiting_room(&self, node: NodeId) -> Arc<Semaphore> {
        let mut waiting = self
            .waiting
            .lock()
            .expect("no panic while the map is locked");
        if waiting.len() >= NODE_LIMIT {
            // Nodes that left: rooms in use live on with their messages.
            waiting.clear();
        }
        let room = || Arc::new(Semaphore::new(put_batch::WAITING_BYTES));
        Arc::clone(waiting.entry(node).or_insert_with(room))
    }

    /// Notes for repair that a node lacks a blob, if it is one that owns it.
    pub(super) fn note_lacking(&self, node: NodeId, digest: Digest) {
        if !self.view.borrow().owns(node, digest) {
            return;
        }
        self.lacking_count.fetch_add(1, Ordering::Relaxed);
        let note = Lacking {
            owner: node,
            digest,
        };
        let noted = self.lacking.try_send(note).is_ok();
        tracing::debug!(owner = %node, %digest, noted, "owner lacks a blob");
    }
}

/// An upload to the own store, with the fence that peers have.
struct OwnUpload {
    shared: Arc<Shared>,
    epoch: Epoch,
    digest: Digest,
    inner: Box<dyn Upload>,
}

#[async_trait]
impl Upload for OwnUpload {
    async fn write(&mut self, chunk: Bytes) -> Result<(), Error> {
        self.inner.write(chunk).await
    }

    async fn commit(self: Box<Self>) -> Result<(), Error> {
        self.inner.commit().await?;
        self.shared.admit_own(self.epoch, self.digest)
    }
}

/// Turns silence into an error.
pub(super) async fn within<T>(
    deadline: Duration,
    node: NodeId,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    timeout(deadline, call).await.unwrap_or_else(|_| {
        let cause = format!("silent for {deadline:?}");
        Err(Error::Unreachable { node, cause })
    })
}

fn expect_count<T>(node: NodeId, answers: Vec<T>, asked: usize) -> Result<Vec<T>, Error> {
    if answers.len() == asked {
        return Ok(answers);
    }
    let got = answers.len();
    let what = format!("node {node} gave {got} answers to {asked} questions");
    Err(Error::Internal(what))
}
