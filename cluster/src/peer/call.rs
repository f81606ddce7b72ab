//! One call to a peer, and the ways in which answers come.
//!
//! Invariants: every call names the cluster and the node it means; every call
//! is bounded in time; a peer's own errors come back as they were, and whatever
//! else goes wrong is [`Error::Unreachable`].

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use tokio::sync::watch;
use tonic::{Request, Status};
use weir_proto::cluster::{GetBatchRequest, GetRequest, peer_client::PeerClient};

use super::{
    dial::{Channel, Dial},
    identity::{Removal, misled, stamp},
    link::{Connection, Link},
    upload::{next_of, within},
    wire::{MAX_MESSAGE_BYTES, error_of, item_error, space},
};
use crate::{Digest, Error, NodeId, blob::BlobStream, state::ClusterState, words::digest::pack};

/// How long an answer from memory may take.
pub(super) const QUICK_DEADLINE: Duration = Duration::from_secs(2);
/// How long reading may take to the first byte, and from chunk to chunk.
pub(super) const READ_DEADLINE: Duration = Duration::from_secs(5);

/// The other nodes, reached at the addresses that the node table gives.
#[derive(Clone)]
pub struct GrpcPeers {
    me: NodeId,
    state: watch::Receiver<Arc<ClusterState>>,
    dial: Dial,
    removal: Removal,
    // A std mutex: held for map operations only, never across an await.
    links: Arc<Mutex<HashMap<NodeId, Arc<Link>>>>,
}

impl GrpcPeers {
    /// Peers of node `me` in the cluster whose agreed state this is.
    #[must_use]
    pub fn new(me: NodeId, state: watch::Receiver<Arc<ClusterState>>, dial: Dial) -> Self {
        Self {
            me,
            state,
            dial,
            removal: Removal::default(),
            links: Arc::default(),
        }
    }

    /// Tells `removal` when a peer says that this node was removed.
    #[must_use]
    pub fn listening(self, removal: Removal) -> Self {
        Self { removal, ..self }
    }

    /// The link to a member at its present address. Links to nodes that left
    /// the table are dropped.
    fn link(&self, node: NodeId) -> Result<Arc<Link>, Error> {
        let state = self.state.borrow();
        let mut links = self.links.lock().expect("no panic while links are locked");
        let Some(member) = state.members.get(&node) else {
            links.remove(&node);
            let cause = "not a member".to_owned();
            return Err(Error::Unreachable { node, cause });
        };
        if let Some(link) = links.get(&node)
            && link.address() == member.peer_address
        {
            return Ok(Arc::clone(link));
        }
        links.retain(|known, _| state.members.contains_key(known));
        let link = Arc::new(Link::new(node, member.peer_address.clone()));
        links.insert(node, Arc::clone(&link));
        Ok(link)
    }

    /// One call, within a deadline. Every call may be made twice: over a
    /// connection that breaks under it and was there before, it is made again
    /// over another. A peer that lost power, or a network that forgot about us,
    /// is else found out at the cost of whoever calls next.
    pub(super) async fn call<M: Clone, T, F>(
        &self,
        to: NodeId,
        deadline: Duration,
        message: M,
        send: impl Fn(PeerClient<Channel>, Request<M>) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let link = self.link(to)?;
        let cluster = self.state.borrow().cluster;
        let cluster = cluster.ok_or_else(|| Error::Unreachable {
            node: to,
            cause: "the cluster has not begun".into(),
        })?;
        let called = async {
            let mut connection = link.connection(&self.dial).await?;
            loop {
                let mut request = Request::new(message.clone());
                stamp(&mut request, cluster, self.me, to);
                let status = match send(client(&connection), request).await {
                    Ok(answer) => return Ok(answer.into_inner()),
                    Err(status) => status,
                };
                self.removal.listen(&status);
                let error = error_of(to, &status);
                if misled(&status) {
                    link.misled(&connection, status.message()).await;
                } else if let Error::Unreachable { .. } = error
                    && let Some(another) = link.another(&self.dial, &connection).await
                {
                    connection = another?;
                    continue;
                }
                return Err(error);
            }
        };
        within(to, deadline, called).await
    }

    /// The bytes of one blob.
    pub(super) async fn stream(
        &self,
        to: NodeId,
        message: GetRequest,
    ) -> Result<BlobStream, Error> {
        let answers = self
            .call(
                to,
                READ_DEADLINE,
                message,
                |mut client, request| async move { client.get(request).await },
            )
            .await?;
        let chunks = stream::unfold(Some(answers), move |answers| async move {
            let mut answers = answers?;
            loop {
                match within(to, READ_DEADLINE, next_of(to, &mut answers)).await {
                    Ok(Some(answer)) if answer.data.is_empty() => {}
                    Ok(Some(answer)) => return Some((Ok(answer.data), Some(answers))),
                    Ok(None) => return None,
                    Err(error) => return Some((Err(error), None)),
                }
            }
        });
        Ok(chunks.boxed())
    }

    /// Whole blobs, one answer for each.
    pub(super) async fn batch(
        &self,
        to: NodeId,
        digests: &[Digest],
        repair: bool,
    ) -> Result<Vec<Result<Bytes, Error>>, Error> {
        let message = GetBatchRequest {
            space: space(),
            digests: pack(digests).into(),
            repair,
        };
        let mut answers = self
            .call(
                to,
                READ_DEADLINE,
                message,
                |mut client, request| async move { client.get_batch(request).await },
            )
            .await?;
        let mut blobs = Vec::with_capacity(digests.len());
        while let Some(answer) = within(to, READ_DEADLINE, next_of(to, &mut answers)).await? {
            for item in answer.items {
                let Some(digest) = digests.get(blobs.len()) else {
                    return Err(miscounted(to, blobs.len() + 1, digests.len()));
                };
                blobs.push(match item.code {
                    0 => Ok(item.data),
                    code => Err(item_error(to, *digest, code, item.message)),
                });
            }
        }
        if blobs.len() != digests.len() {
            return Err(miscounted(to, blobs.len(), digests.len()));
        }
        Ok(blobs)
    }
}

fn client(connection: &Connection) -> PeerClient<Channel> {
    PeerClient::new(connection.channel.clone())
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

pub(super) fn miscounted(node: NodeId, got: usize, asked: usize) -> Error {
    Error::Internal(format!(
        "node {node} gave {got} answers to {asked} questions"
    ))
}
