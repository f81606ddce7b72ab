//! [`Peers`] over gRPC: each call as a message.

use std::future::ready;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use weir_proto::cluster::{
    FindMissingRequest, GetRequest, ListRequest, OfferRequest, PutBatchRequest, PutRequest,
    PutResponse, ReportRequest, ScrubRequest, SummariesRequest, peer_client::PeerClient,
    put_request,
};

pub use super::{
    call::GrpcPeers,
    dial::{Dial, endpoint, plain},
};

use super::{
    Peers, Report,
    call::{QUICK_DEADLINE, READ_DEADLINE, miscounted},
    dial::Channel,
    repair_wire::{
        pack_held, report_of, unpack_held, unpack_summaries, unpack_verdicts, version_message,
        version_of,
    },
    upload::{COMMIT_DEADLINE, GrpcUpload, cut_short, next_of, within},
    wire::{item_error, space},
};
use crate::{
    Digest, Epoch, Error, NodeId, Slot,
    blob::{BlobStream, ByteRange, Held, Lease, Put, Summaries, Verdict, Verified, Version},
    words::digest::pack,
};

/// Chunks of an upload between us and the socket.
const CHUNKS_AHEAD: usize = 4;

#[async_trait]
impl Peers for GrpcPeers {
    async fn find_missing(
        &self,
        to: NodeId,
        epoch: Epoch,
        digests: &[Digest],
        lease: Lease,
    ) -> Result<Vec<u32>, Error> {
        let message = FindMissingRequest {
            space: space(),
            digests: pack(digests).into(),
            epoch: epoch.0,
            lease_seconds: lease.seconds,
        };
        let answer = self
            .call(
                to,
                QUICK_DEADLINE,
                message,
                |mut client, request| async move { client.find_missing(request).await },
            )
            .await?;
        Ok(answer.missing)
    }

    async fn get(&self, to: NodeId, digest: Digest, range: ByteRange) -> Result<BlobStream, Error> {
        let message = GetRequest {
            space: space(),
            digest: pack(&[digest]).into(),
            offset: range.offset,
            length: range.length,
            repair: false,
        };
        self.stream(to, message).await
    }

    async fn get_batch(
        &self,
        to: NodeId,
        digests: &[Digest],
    ) -> Result<Vec<Result<Bytes, Error>>, Error> {
        self.batch(to, digests, false).await
    }

    async fn put(&self, to: NodeId, epoch: Epoch, digest: Digest) -> Result<Put, Error> {
        let start = PutRequest {
            start: Some(put_request::Start {
                space: space(),
                digest: pack(&[digest]).into(),
                epoch: epoch.0,
            }),
            ..PutRequest::default()
        };
        let begin = |mut client: PeerClient<Channel>, request: Request<PutRequest>| async move {
            let (messages, queue) = mpsc::channel(CHUNKS_AHEAD);
            let queue = ReceiverStream::new(queue);
            let ahead = request.map(|start| stream::once(ready(start)).chain(queue));
            let answer = client.put(ahead).await?;
            Ok(answer.map(|answers| (messages, answers)))
        };
        let (messages, mut answers) = self.call(to, QUICK_DEADLINE, start, begin).await?;
        let first = within(to, QUICK_DEADLINE, next_of(to, &mut answers)).await?;
        match first {
            Some(PutResponse { present: true, .. }) => Ok(Put::Present),
            Some(_) => Ok(Put::Upload(Box::new(GrpcUpload {
                node: to,
                messages,
                answers,
            }))),
            None => Err(cut_short(to)),
        }
    }

    async fn put_batch(
        &self,
        to: NodeId,
        epoch: Epoch,
        blobs: &[Verified],
    ) -> Result<Vec<Result<(), Error>>, Error> {
        let digests: Vec<_> = blobs.iter().map(Verified::digest).collect();
        let message = PutBatchRequest {
            space: space(),
            epoch: epoch.0,
            digests: pack(&digests).into(),
            data: blobs.iter().map(|blob| blob.bytes().clone()).collect(),
        };
        let answer = self
            .call(
                to,
                COMMIT_DEADLINE,
                message,
                |mut client, request| async move { client.put_batch(request).await },
            )
            .await?;
        if answer.items.len() != blobs.len() {
            return Err(miscounted(to, answer.items.len(), blobs.len()));
        }
        let items = answer.items.into_iter().zip(digests);
        Ok(items
            .map(|(item, digest)| match item.code {
                0 => Ok(()),
                code => Err(item_error(to, digest, code, item.message)),
            })
            .collect())
    }

    async fn report(&self, to: NodeId) -> Result<Report, Error> {
        let answer = self
            .call(
                to,
                QUICK_DEADLINE,
                ReportRequest {},
                |mut client, request| async move { client.report(request).await },
            )
            .await?;
        Ok(report_of(answer))
    }

    async fn summaries(
        &self,
        to: NodeId,
        epoch: Epoch,
        known: Option<Version>,
    ) -> Result<Option<Summaries>, Error> {
        let message = SummariesRequest {
            space: space(),
            epoch: epoch.0,
            known: known.map(version_message),
        };
        let answer = self
            .call(
                to,
                QUICK_DEADLINE,
                message,
                |mut client, request| async move { client.summaries(request).await },
            )
            .await?;
        if answer.unchanged {
            return Ok(None);
        }
        let version = answer.version.as_ref().map(version_of).unwrap_or_default();
        unpack_summaries(version, &answer.slots).map(Some)
    }

    async fn list(&self, to: NodeId, epoch: Epoch, slots: &[Slot]) -> Result<Vec<Held>, Error> {
        let message = ListRequest {
            space: space(),
            epoch: epoch.0,
            slots: slots.iter().map(|slot| slot.index() as u32).collect(),
        };
        let mut pages = self
            .call(
                to,
                READ_DEADLINE,
                message,
                |mut client, request| async move { client.list(request).await },
            )
            .await?;
        let mut blobs = Vec::new();
        while let Some(page) = within(to, READ_DEADLINE, next_of(to, &mut pages)).await? {
            blobs.append(&mut unpack_held(&page.held)?);
        }
        Ok(blobs)
    }

    async fn offer(
        &self,
        to: NodeId,
        epoch: Epoch,
        from: NodeId,
        blobs: &[Held],
    ) -> Result<Vec<Verdict>, Error> {
        let message = OfferRequest {
            space: space(),
            epoch: epoch.0,
            from: from.0,
            held: pack_held(blobs),
        };
        let answer = self
            .call(
                to,
                QUICK_DEADLINE,
                message,
                |mut client, request| async move { client.offer(request).await },
            )
            .await?;
        let verdicts = unpack_verdicts(&answer.verdicts)?;
        if verdicts.len() != blobs.len() {
            return Err(miscounted(to, verdicts.len(), blobs.len()));
        }
        Ok(verdicts)
    }

    async fn read(&self, to: NodeId, digest: Digest) -> Result<BlobStream, Error> {
        let message = GetRequest {
            space: space(),
            digest: pack(&[digest]).into(),
            offset: 0,
            length: digest.size,
            repair: true,
        };
        self.stream(to, message).await
    }

    async fn read_batch(
        &self,
        to: NodeId,
        digests: &[Digest],
    ) -> Result<Vec<Result<Bytes, Error>>, Error> {
        self.batch(to, digests, true).await
    }

    async fn scrub(&self, to: NodeId) -> Result<(), Error> {
        self.call(
            to,
            QUICK_DEADLINE,
            ScrubRequest {},
            |mut client, request| async move { client.scrub(request).await },
        )
        .await
        .map(drop)
    }
}
