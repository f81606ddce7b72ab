//! An upload to a peer, and reading what it answers.

use std::{future::Future, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::{sync::mpsc, time::timeout};
use tonic::Streaming;
use weir_proto::cluster::{PutRequest, PutResponse};

use super::wire::error_of;
use crate::{
    Error, NodeId,
    blob::{CHUNK_BYTES, Upload},
};

/// How long a peer may take to accept a chunk.
const WRITE_DEADLINE: Duration = Duration::from_secs(10);
/// How long a commit may take: an fsync behind others on a slow disk.
pub(super) const COMMIT_DEADLINE: Duration = Duration::from_secs(30);

/// Dropping it ends the stream without `commit`, and the peer forgets it.
pub(super) struct GrpcUpload {
    pub(super) node: NodeId,
    pub(super) messages: mpsc::Sender<PutRequest>,
    pub(super) answers: Streaming<PutResponse>,
}

impl GrpcUpload {
    /// Hands a message to the socket, unless the peer has ended the upload.
    async fn send(&mut self, message: PutRequest) -> Result<(), Error> {
        let sent = async {
            tokio::select! {
                biased;
                answer = next_of(self.node, &mut self.answers) => match answer? {
                    Some(_) => Err(Error::Internal(format!(
                        "node {} answered before the end of an upload", self.node
                    ))),
                    None => Err(cut_short(self.node)),
                },
                sent = self.messages.send(message) => Ok(sent.is_ok()),
            }
        };
        if within(self.node, WRITE_DEADLINE, sent).await? {
            return Ok(());
        }
        // The stream is closed: the peer says why.
        within(
            self.node,
            WRITE_DEADLINE,
            next_of(self.node, &mut self.answers),
        )
        .await?;
        Err(cut_short(self.node))
    }
}

#[async_trait]
impl Upload for GrpcUpload {
    async fn write(&mut self, mut chunk: Bytes) -> Result<(), Error> {
        while !chunk.is_empty() {
            let data = chunk.split_to(chunk.len().min(CHUNK_BYTES));
            let message = PutRequest {
                data,
                ..PutRequest::default()
            };
            self.send(message).await?;
        }
        Ok(())
    }

    async fn commit(mut self: Box<Self>) -> Result<(), Error> {
        let message = PutRequest {
            commit: true,
            ..PutRequest::default()
        };
        self.send(message).await?;
        let answer = next_of(self.node, &mut self.answers);
        match within(self.node, COMMIT_DEADLINE, answer).await? {
            Some(PutResponse { stored: true, .. }) => Ok(()),
            _ => Err(cut_short(self.node)),
        }
    }
}

pub(super) async fn next_of<T>(
    node: NodeId,
    answers: &mut Streaming<T>,
) -> Result<Option<T>, Error> {
    answers
        .message()
        .await
        .map_err(|status| error_of(node, &status))
}

/// Turns silence into an error.
pub(super) async fn within<T>(
    node: NodeId,
    deadline: Duration,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    timeout(deadline, call).await.unwrap_or_else(|_| {
        let cause = format!("silent for {deadline:?}");
        Err(Error::Unreachable { node, cause })
    })
}

pub(super) fn cut_short(node: NodeId) -> Error {
    let cause = "its answer ended early".to_owned();
    Error::Unreachable { node, cause }
}
