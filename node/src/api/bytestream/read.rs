//! ByteStream.Read.
//!
//! Messages are framed by hand: a short head, then the bytes as the store gave
//! them, then the trailers. The generated codec would copy every byte once
//! more into its own buffer. On the wire it is the ordinary stream.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{BufMut, Bytes, BytesMut};
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Request, Response, header::CONTENT_TYPE};
use http_body::Frame;
use prost::encoding::encode_varint;
use tonic::{Status, Streaming, body::Body, codec::Codec, metadata::GRPC_CONTENT_TYPE};
use tonic_prost::ProstCodec;
use tracing::Instrument;
use weir_cluster::blob::{BlobStore, BlobStream, ByteRange, CHUNK_BYTES};
use weir_proto::bytestream::{ReadRequest, ReadResponse};

use super::MESSAGE_BYTES;
use crate::api::{
    guard::{Limits, answer::charge, budget::Room},
    method::Answer,
    resource_name, status,
};

/// Serves the method.
pub(super) fn serve(
    store: Arc<dyn BlobStore>,
    limits: Arc<Limits>,
    request: Request<Body>,
) -> Answer {
    Box::pin(async move {
        Ok(match open(&*store, request.into_body()).await {
            Ok((stream, bytes)) => answer(stream, bytes, limits),
            Err(status) => status.into_http(),
        })
    })
}

/// The bytes that a request asks for, and their number.
async fn open(store: &dyn BlobStore, body: Body) -> Result<(BlobStream, u64), Status> {
    let decoder = ProstCodec::<ReadResponse, ReadRequest>::default().decoder();
    let mut messages = Streaming::new_request(decoder, body, None, Some(MESSAGE_BYTES));
    let Some(request) = messages.message().await? else {
        return Err(Status::invalid_argument("read has no request message"));
    };
    let name = resource_name::read(&request.resource_name)?;
    let digest = name.digest;
    let span = tracing::debug_span!("read", instance = name.instance, size = digest.size);
    let range = range(digest.size, &request)?;
    let bytes = (digest.size - range.offset).min(range.length);
    let stream = store.get(digest, range).instrument(span).await;
    Ok((stream.map_err(|error| status::of(&error))?, bytes))
}

/// The range that a request asks for, of a blob of `size` bytes.
fn range(size: u64, request: &ReadRequest) -> Result<ByteRange, Status> {
    let offset = u64::try_from(request.read_offset)
        .ok()
        .filter(|offset| *offset <= size)
        .ok_or_else(|| {
            Status::out_of_range(format!(
                "read_offset {} is not within the {size} bytes of the blob",
                request.read_offset
            ))
        })?;
    let length = match u64::try_from(request.read_limit) {
        Ok(0) => u64::MAX,
        Ok(limit) => limit,
        Err(_) => {
            return Err(Status::invalid_argument(format!(
                "read_limit {} is negative",
                request.read_limit
            )));
        }
    };
    Ok(ByteRange { offset, length })
}

fn answer(stream: BlobStream, bytes: u64, limits: Arc<Limits>) -> Response<Body> {
    let mut response = Response::new(Body::new(Messages {
        limits,
        chunk_bytes: bytes.min(CHUNK_BYTES as u64),
        stream,
        state: State::Next,
    }));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, GRPC_CONTENT_TYPE);
    response
}

/// A stream of `ReadResponse` messages as they go over the wire.
struct Messages {
    limits: Arc<Limits>,
    /// The most that a message takes.
    chunk_bytes: u64,
    stream: BlobStream,
    state: State,
}

enum State {
    /// A message is to come, and needs memory first.
    Next,
    Waiting(BoxFuture<'static, Result<Room, Status>>),
    /// There is memory; the store is to give the bytes.
    Head(Room),
    /// The head is sent.
    Data(Bytes),
    Over,
}

impl http_body::Body for Messages {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            let (state, frame) = match std::mem::replace(&mut self.state, State::Over) {
                State::Next => match self.limits.answers.take(self.chunk_bytes) {
                    Ok(room) => (State::Head(room), None),
                    Err(wait) => (State::Waiting(wait), None),
                },
                State::Waiting(mut wait) => match wait.as_mut().poll(context) {
                    Poll::Ready(Ok(room)) => (State::Head(room), None),
                    Poll::Ready(Err(status)) => (State::Over, Some(trailers(&status))),
                    Poll::Pending => {
                        self.state = State::Waiting(wait);
                        return Poll::Pending;
                    }
                },
                State::Head(room) => match self.stream.as_mut().poll_next(context) {
                    Poll::Ready(Some(Ok(data))) => {
                        let head = Frame::data(head(data.len()));
                        let data = charge(data, Arc::new(room));
                        (State::Data(data), Some(head))
                    }
                    Poll::Ready(Some(Err(error))) => {
                        (State::Over, Some(trailers(&status::of(&error))))
                    }
                    Poll::Ready(None) => (State::Over, Some(trailers(&Status::ok("")))),
                    Poll::Pending => {
                        self.state = State::Head(room);
                        return Poll::Pending;
                    }
                },
                State::Data(data) => (State::Next, Some(Frame::data(data))),
                State::Over => return Poll::Ready(None),
            };
            self.state = state;
            if let Some(frame) = frame {
                return Poll::Ready(Some(Ok(frame)));
            }
        }
    }
}

/// What comes before the data in a message: gRPC's prefix, then key and length
/// of the field `data`.
fn head(length: usize) -> Bytes {
    const DATA_KEY: u8 = 10 << 3 | 2;
    let mut field = BytesMut::with_capacity(11);
    field.put_u8(DATA_KEY);
    encode_varint(length as u64, &mut field);
    let mut head = BytesMut::with_capacity(16);
    head.put_u8(0);
    head.put_u32((field.len() + length) as u32);
    head.put_slice(&field);
    head.freeze()
}

fn trailers(status: &Status) -> Frame<Bytes> {
    let mut trailers = HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        // A message that is no header value; the code alone must do.
        trailers.insert(Status::GRPC_STATUS, HeaderValue::from(status.code() as i32));
    }
    Frame::trailers(trailers)
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn a_message_by_hand_is_the_message_of_the_codec() {
        for length in [1, 127, 128, 65_536, 1 << 20] {
            let data = Bytes::from(vec![7; length]);
            let mut by_hand = head(length).to_vec();
            by_hand.extend_from_slice(&data);
            let encoded = ReadResponse { data }.encode_to_vec();
            assert_eq!(
                by_hand[..5],
                [&[0][..], &(encoded.len() as u32).to_be_bytes()].concat()
            );
            assert_eq!(by_hand[5..], encoded);
        }
    }

    #[test]
    fn ranges_are_checked() {
        for (offset, limit, expected) in [
            (0, 0, Some((0, u64::MAX))),
            (10, 0, Some((10, u64::MAX))),
            (3, 4, Some((3, 4))),
            (11, 0, None),
            (-1, 0, None),
            (i64::MIN, 0, None),
            (i64::MAX, 1, None),
            (0, -1, None),
        ] {
            let request = ReadRequest {
                resource_name: String::new(),
                read_offset: offset,
                read_limit: limit,
            };
            let range = range(10, &request).ok();
            let range = range.map(|range| (range.offset, range.length));
            assert_eq!(range, expected, "{offset} {limit}");
        }
    }
}
