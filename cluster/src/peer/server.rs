//! This node's blobs for its peers.
//!
//! Invariants:
//!
//! - a request that names another cluster or node, or comes from a node that
//!   was removed, is refused before anything else is looked at;
//! - a write under an epoch older than this node's is refused, and an upload
//!   that began before a new epoch commits only where this node still owns the
//!   blob: no write slips behind a finished handoff;
//! - bytes are verified here, whoever sent them;
//! - messages, batches and uploads under way are bounded.

use std::{ops::Deref, pin::Pin, sync::Arc, time::Duration};

use futures::{Stream, StreamExt, future::ready, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tonic::{Request, Response, Status, Streaming, transport::Server};
use weir_proto::cluster::{
    CheckInRequest, CheckInResponse, ListRequest, ListResponse, OfferRequest, OfferResponse,
    ScrubRequest, ScrubResponse, SummariesRequest, SummariesResponse,
};
use weir_proto::cluster::{
    FindMissingRequest, FindMissingResponse, GetBatchRequest, GetBatchResponse, GetRequest,
    GetResponse, PutBatchRequest, PutBatchResponse, PutRequest, PutResponse, ReportRequest,
    ReportResponse, peer_server, put_batch_response,
};

use super::{
    CheckIn, Report, Start,
    attend::{Offered, PAGE_BLOBS, list_message},
    batch::{messages_of, verify},
    identity,
    repair_wire::report_message,
    wire::{self, MAX_MESSAGE_BYTES, item_code, status_of},
};
use crate::{
    ClusterId, Digest, Epoch, Error, NodeId,
    blob::{ByteRange, Inventory, Lease, Put, Upload, Verified},
    placement::view::{self, View},
    repair::Foreground,
};

/// HTTP/2 frames: large ones cost least; both sides are ours.
pub const FRAME_BYTES: u32 = 1 << 20;

/// Calls on one connection at once.
const STREAMS_LIMIT: u32 = 1_024;
/// Uploads from peers at once; each holds a file open and some chunks.
const UPLOADS_LIMIT: usize = 512;
/// Bytes of blobs in the answer to one batch; senders ask for a quarter of it.
const BATCH_BYTES: u64 = 16 << 20;
/// Digests in one batch read.
const BATCH_DIGESTS: usize = 64 << 10;
/// How long a request under a newer epoch than ours waits for our view. Then it
/// is served all the same: the sender knows better.
pub(super) const VIEW_PATIENCE: Duration = Duration::from_secs(1);
const KEEPALIVE: Duration = Duration::from_secs(20);
const KEEPALIVE_PATIENCE: Duration = Duration::from_secs(10);

/// What a node says of itself when asked.
pub type ReportSource = Arc<dyn Fn() -> Report + Send + Sync>;

/// What a node knows of one that has just started.
pub type CheckInSource = Arc<dyn Fn(NodeId, &Start) -> CheckIn + Send + Sync>;

/// Begins to verify all copies.
pub type ScrubTrigger = Arc<dyn Fn() + Send + Sync>;

/// What the service serves from.
#[derive(Clone)]
pub struct PeerParts {
    pub cluster: ClusterId,
    pub me: NodeId,
    /// This node's own store and not the replicated one: a peer's request never
    /// goes on to a third node.
    pub local: Arc<dyn Inventory>,
    pub view: watch::Receiver<Arc<View>>,
    pub report: ReportSource,
    /// Where blobs that other nodes hold for this one are told to repair.
    pub offered: mpsc::Sender<Offered>,
    pub check_in: CheckInSource,
    pub scrub: ScrubTrigger,
    /// Counts what is done here for clients of other nodes.
    pub foreground: Foreground,
}

/// The service; clones share everything.
#[derive(Clone)]
pub struct PeerService {
    parts: PeerParts,
    uploads: Arc<Semaphore>,
}

impl Deref for PeerService {
    type Target = PeerParts;

    fn deref(&self) -> &PeerParts {
        &self.parts
    }
}

/// A server with the transport settings of connections between nodes. Set
/// `TCP_NODELAY` on sockets that are accepted elsewhere.
#[must_use]
pub fn transport() -> Server {
    Server::builder()
        .tcp_nodelay(true)
        .http2_adaptive_window(Some(true))
        .max_frame_size(FRAME_BYTES)
        .max_concurrent_streams(STREAMS_LIMIT)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_PATIENCE))
}

impl PeerService {
    #[must_use]
    pub fn new(parts: PeerParts) -> Self {
        Self {
            parts,
            uploads: Arc::new(Semaphore::new(UPLOADS_LIMIT)),
        }
    }

    /// The service with its limits, to be added to a router.
    #[must_use]
    pub fn into_server(self) -> peer_server::PeerServer<Self> {
        peer_server::PeerServer::new(self)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// The message of a request that is for this node, from one that may ask.
    fn open<T>(&self, request: Request<T>) -> Result<T, Status> {
        identity::check(request.metadata(), self.cluster, self.me)?;
        identity::check_sender(request.metadata(), &self.view.borrow().state().removed)?;
        Ok(request.into_inner())
    }

    /// Refuses an epoch older than ours; waits a little for a newer one.
    async fn admit(&self, theirs: Epoch) -> Result<(), Error> {
        self.foreground.bump();
        let ours = self.view.borrow().epoch();
        if theirs < ours {
            return Err(Error::StaleEpoch { theirs, ours });
        }
        if theirs > ours {
            let mut views = self.view.clone();
            if !view::at_least(&mut views, theirs, VIEW_PATIENCE).await {
                tracing::debug!(%theirs, %ours, "served under an epoch not seen here yet");
            }
        }
        Ok(())
    }

    /// Whether an upload that began under this epoch may still be stored.
    fn admit_commit(&self, theirs: Epoch, digest: Digest) -> Result<(), Error> {
        let view = self.view.borrow();
        let ours = view.epoch();
        if theirs < ours && !view.owns(self.me, digest) {
            return Err(Error::StaleEpoch { theirs, ours });
        }
        Ok(())
    }

    async fn find(&self, request: FindMissingRequest) -> Result<Vec<u32>, Error> {
        wire::check_space(request.space.as_ref())?;
        let digests = wire::digests(&request.digests)?;
        self.admit(Epoch(request.epoch)).await?;
        let lease = Lease {
            seconds: request.lease_seconds,
        };
        self.local.find_missing(&digests, lease).await
    }

    async fn begin(&self, start: Option<PutRequest>) -> Result<(Epoch, Digest, Put), Error> {
        let start = start.and_then(|message| message.start);
        let start = start.ok_or_else(|| Error::Invalid("an upload begins with start".into()))?;
        wire::check_space(start.space.as_ref())?;
        let digest = wire::digest(&start.digest)?;
        let epoch = Epoch(start.epoch);
        self.admit(epoch).await?;
        Ok((epoch, digest, self.local.put(digest).await?))
    }

    async fn receive(
        &self,
        epoch: Epoch,
        digest: Digest,
        mut upload: Box<dyn Upload>,
        mut messages: Streaming<PutRequest>,
    ) -> Result<PutResponse, Status> {
        while let Some(message) = messages.message().await? {
            if !message.data.is_empty() {
                let written = upload.write(message.data).await;
                written.map_err(|error| status_of(&error))?;
            }
            if message.commit {
                let admitted = self.admit_commit(epoch, digest);
                admitted.map_err(|error| status_of(&error))?;
                let committed = upload.commit().await;
                committed.map_err(|error| status_of(&error))?;
                // Again: an epoch may have begun while the disk was written.
                let admitted = self.admit_commit(epoch, digest);
                admitted.map_err(|error| status_of(&error))?;
                return Ok(PutResponse {
                    present: false,
                    stored: true,
                });
            }
        }
        Err(Status::cancelled("the upload ended without commit"))
    }

    async fn store_batch(&self, request: PutBatchRequest) -> Result<Vec<Result<(), Error>>, Error> {
        wire::check_space(request.space.as_ref())?;
        let digests = wire::digests(&request.digests)?;
        if digests.len() != request.data.len() {
            let (digests, blobs) = (digests.len(), request.data.len());
            return Err(Error::Invalid(format!(
                "{digests} digests for {blobs} blobs"
            )));
        }
        self.admit(Epoch(request.epoch)).await?;
        let mut answers: Vec<Result<(), Error>> = Vec::with_capacity(digests.len());
        let mut good = Vec::with_capacity(digests.len());
        let mut places = Vec::with_capacity(digests.len());
        for (place, checked) in verify(digests, request.data).await?.into_iter().enumerate() {
            match checked {
                Ok(blob) => {
                    good.push(blob);
                    places.push(place);
                    answers.push(Ok(()));
                }
                Err(error) => answers.push(Err(error)),
            }
        }
        let stored: Vec<_> = good.iter().map(Verified::digest).collect();
        for (place, answer) in places.into_iter().zip(self.local.put_batch(good).await) {
            answers[place] = answer;
        }
        for digest in stored {
            self.admit_commit(Epoch(request.epoch), digest)?;
        }
        Ok(answers)
    }

    async fn read_batch(&self, request: GetBatchRequest) -> Result<Vec<GetBatchResponse>, Error> {
        wire::check_space(request.space.as_ref())?;
        let digests = wire::digests(&request.digests)?;
        let bytes = digests
            .iter()
            .fold(0, |sum: u64, d| sum.saturating_add(d.size));
        if digests.len() > BATCH_DIGESTS || bytes > BATCH_BYTES {
            return Err(Error::Invalid(format!(
                "a batch is {BATCH_DIGESTS} blobs of {BATCH_BYTES} bytes at most, asked {} of {bytes}",
                digests.len()
            )));
        }
        let blobs = match request.repair {
            true => self.local.read_batch(&digests).await,
            false => {
                self.foreground.bump();
                self.local.get_batch(&digests).await
            }
        };
        Ok(messages_of(blobs))
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl peer_server::Peer for PeerService {
    type GetStream = Answers<GetResponse>;
    type GetBatchStream = Answers<GetBatchResponse>;
    type PutStream = Answers<PutResponse>;
    type ListStream = Answers<ListResponse>;

    async fn find_missing(
        &self,
        request: Request<FindMissingRequest>,
    ) -> Result<Response<FindMissingResponse>, Status> {
        let found = self.find(self.open(request)?).await;
        let missing = found.map_err(|error| status_of(&error))?;
        Ok(Response::new(FindMissingResponse { missing }))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<Self::GetStream>, Status> {
        let request = self.open(request)?;
        let opened = async {
            wire::check_space(request.space.as_ref())?;
            let digest = wire::digest(&request.digest)?;
            let range = ByteRange {
                offset: request.offset,
                length: request.length,
            };
            match request.repair {
                true => self.local.read(digest).await,
                false => {
                    self.foreground.bump();
                    self.local.get(digest, range).await
                }
            }
        };
        let chunks = opened.await.map_err(|error| status_of(&error))?;
        let answers = chunks.map(|chunk| match chunk {
            Ok(data) => Ok(GetResponse { data }),
            Err(error) => Err(status_of(&error)),
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn get_batch(
        &self,
        request: Request<GetBatchRequest>,
    ) -> Result<Response<Self::GetBatchStream>, Status> {
        let read = self.read_batch(self.open(request)?).await;
        let messages = read.map_err(|error| status_of(&error))?;
        Ok(Response::new(stream::iter(messages).map(Ok).boxed()))
    }

    async fn put(
        &self,
        request: Request<Streaming<PutRequest>>,
    ) -> Result<Response<Self::PutStream>, Status> {
        let mut messages = self.open(request)?;
        let permit = Arc::clone(&self.uploads).try_acquire_owned();
        let permit: OwnedSemaphorePermit = permit.map_err(|_| {
            let what = format!("{UPLOADS_LIMIT} uploads from peers are under way");
            status_of(&Error::Exhausted(what))
        })?;
        let start = messages.message().await?;
        let begun = self.begin(start).await;
        let (epoch, digest, put) = begun.map_err(|error| status_of(&error))?;
        let first = PutResponse {
            present: matches!(put, Put::Present),
            stored: false,
        };
        let first = stream::once(ready(Ok(first)));
        let Put::Upload(upload) = put else {
            return Ok(Response::new(first.boxed()));
        };
        // Driven by whoever drains the answers: when the peer goes away they
        // are dropped, and the upload with them.
        let service = self.clone();
        let last = stream::once(async move {
            let _permit = permit;
            service.receive(epoch, digest, upload, messages).await
        });
        Ok(Response::new(first.chain(last).boxed()))
    }

    async fn put_batch(
        &self,
        request: Request<PutBatchRequest>,
    ) -> Result<Response<PutBatchResponse>, Status> {
        let stored = self.store_batch(self.open(request)?).await;
        let answers = stored.map_err(|error| status_of(&error))?;
        let items = answers
            .into_iter()
            .map(|answer| put_batch_response::Item {
                code: item_code(&answer),
                message: answer
                    .err()
                    .map_or_else(String::new, |error| error.to_string()),
            })
            .collect();
        Ok(Response::new(PutBatchResponse { items }))
    }

    async fn report(
        &self,
        request: Request<ReportRequest>,
    ) -> Result<Response<ReportResponse>, Status> {
        self.open(request)?;
        Ok(Response::new(report_message((self.report)())))
    }

    async fn summaries(
        &self,
        request: Request<SummariesRequest>,
    ) -> Result<Response<SummariesResponse>, Status> {
        let answer = self.summarise(self.open(request)?).await;
        Ok(Response::new(answer.map_err(|error| status_of(&error))?))
    }

    async fn list(
        &self,
        request: Request<ListRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let listed = self.list_slots(self.open(request)?).await;
        let held = listed.map_err(|error| status_of(&error))?;
        let mut pages: Vec<_> = held.chunks(PAGE_BLOBS).map(list_message).collect();
        if pages.is_empty() {
            pages.push(ListResponse::default());
        }
        Ok(Response::new(stream::iter(pages).map(Ok).boxed()))
    }

    async fn offer(
        &self,
        request: Request<OfferRequest>,
    ) -> Result<Response<OfferResponse>, Status> {
        let answer = self.take_offer(self.open(request)?).await;
        Ok(Response::new(answer.map_err(|error| status_of(&error))?))
    }

    async fn check_in(
        &self,
        request: Request<CheckInRequest>,
    ) -> Result<Response<CheckInResponse>, Status> {
        // One that was removed may ask: the answer is that it was.
        identity::check(request.metadata(), self.cluster, self.me)?;
        Ok(Response::new(self.answer_check_in(request.into_inner())))
    }

    async fn scrub(
        &self,
        request: Request<ScrubRequest>,
    ) -> Result<Response<ScrubResponse>, Status> {
        self.open(request)?;
        (self.scrub)();
        Ok(Response::new(ScrubResponse {}))
    }
}
