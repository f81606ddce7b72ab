//! ByteStream.Write.

use std::{future::poll_fn, pin::pin, sync::Arc};

use bytes::Bytes;
use futures::Stream;
use http::Request;
use tonic::{Status, Streaming, body::Body, server::Grpc};
use tonic_prost::ProstCodec;
use tracing::Instrument;
use weir_cluster::{
    Digest, Error,
    blob::{CHUNK_BYTES, Put, Upload},
};
use weir_proto::bytestream::{WriteRequest, WriteResponse};

use super::{ByteStream, MESSAGE_BYTES, cursor::Cursor, parked::Parked};
use crate::api::{method::Answer, resource_name, status};

/// Serves the method.
pub(super) fn serve(service: Arc<ByteStream>, request: Request<Body>) -> Answer {
    Box::pin(async move {
        let service = tower::service_fn(move |request: tonic::Request<Streaming<WriteRequest>>| {
            let service = service.clone();
            async move { service.write(request.into_inner()).await }
        });
        let codec = ProstCodec::<WriteResponse, WriteRequest>::default();
        let mut grpc = Grpc::new(codec).max_decoding_message_size(MESSAGE_BYTES);
        Ok(grpc.client_streaming(service, request).await)
    })
}

impl ByteStream {
    async fn write(
        self: Arc<Self>,
        mut messages: Streaming<WriteRequest>,
    ) -> Result<tonic::Response<WriteResponse>, Status> {
        let Some(first) = messages.message().await? else {
            return Err(Status::invalid_argument(
                "upload ended before its first message",
            ));
        };
        let name = resource_name::upload(&first.resource_name)?;
        let digest = name.digest;
        let span = tracing::debug_span!("write", instance = name.instance, size = digest.size);
        if digest.size > self.max_blob_bytes {
            return Err(Status::invalid_argument(format!(
                "blob is over the limit of {} bytes (api.max_blob_bytes)",
                self.max_blob_bytes
            )));
        }
        self.receive(digest, first, messages)
            .instrument(span)
            .await?;
        Ok(tonic::Response::new(WriteResponse {
            committed_size: i64::try_from(digest.size).unwrap_or(i64::MAX),
        }))
    }

    async fn receive(
        &self,
        digest: Digest,
        first: WriteRequest,
        mut messages: Streaming<WriteRequest>,
    ) -> Result<(), Status> {
        let mut cursor = Cursor::begin(digest, &first)?;
        let start = cursor.offset();
        cursor.accept(&first)?;
        let Some(upload) = self.open(digest, &first.resource_name, start).await? else {
            self.drain(&mut messages).await;
            return Ok(());
        };
        let mut live = Live {
            parked: self.parked.clone(),
            name: first.resource_name.clone(),
            offset: start,
            upload: Some(upload),
        };
        let mut message = first;
        loop {
            live.write(message.data)
                .await
                .map_err(|error| status::of(&error))?;
            if message.finish_write {
                return live.commit().await.map_err(|error| status::of(&error));
            }
            message = match messages.message().await? {
                Some(message) => message,
                None => {
                    return Err(Status::invalid_argument(format!(
                        "upload ended after {} of {} bytes without finish_write; nothing was stored",
                        live.offset, digest.size
                    )));
                }
            };
            if let Err(refused) = cursor.accept(&message) {
                live.give_up();
                return Err(refused);
            }
        }
    }

    /// Begins an upload or goes on with a parked one; `None` if the blob is present.
    async fn open(
        &self,
        digest: Digest,
        name: &str,
        start: u64,
    ) -> Result<Option<Box<dyn Upload>>, Status> {
        if start > 0
            && let Some(upload) = self.parked.take(name, start)
        {
            return Ok(Some(upload));
        }
        self.parked.forget(name);
        match self.store.put(digest).await {
            Ok(Put::Present) => Ok(None),
            Ok(Put::Upload(upload)) if start == 0 => Ok(Some(upload)),
            Ok(Put::Upload(_)) => Err(Status::invalid_argument(format!(
                "write_offset is {start}, but nothing of this upload is kept here; begin at 0"
            ))),
            Err(error) => Err(status::of(&error)),
        }
    }

    /// Reads on for a while, for the sake of proxies that take an answer before
    /// the end of the request for an error.
    async fn drain(&self, messages: &mut Streaming<WriteRequest>) {
        let mut drained = 0;
        let mut messages = pin!(messages);
        while drained < self.drain_bytes {
            match poll_fn(|context| messages.as_mut().poll_next(context)).await {
                Some(Ok(message)) => drained += message.data.len() as u64,
                Some(Err(_)) | None => return,
            }
        }
    }
}

/// An upload that is being received. Dropped between two writes, as it is when
/// the client vanishes, it parks what it has; dropped within a write it gives
/// up, since nobody can tell how much of the chunk was accepted.
struct Live {
    parked: Arc<Parked>,
    name: String,
    offset: u64,
    upload: Option<Box<dyn Upload>>,
}

impl Live {
    async fn write(&mut self, mut data: Bytes) -> Result<(), Error> {
        while !data.is_empty() {
            let chunk = data.split_to(data.len().min(CHUNK_BYTES));
            let length = chunk.len() as u64;
            // Out of `self` while it is between two states.
            let mut upload = self.take()?;
            upload.write(chunk).await?;
            self.offset += length;
            self.upload = Some(upload);
        }
        Ok(())
    }

    async fn commit(&mut self) -> Result<(), Error> {
        self.take()?.commit().await
    }

    fn give_up(&mut self) {
        self.upload = None;
    }

    fn take(&mut self) -> Result<Box<dyn Upload>, Error> {
        let over = || Error::Internal("an upload went on after its end".into());
        self.upload.take().ok_or_else(over)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Some(upload) = self.upload.take()
            && self.offset > 0
        {
            let name = std::mem::take(&mut self.name);
            self.parked.park(name, upload, self.offset);
        }
    }
}
