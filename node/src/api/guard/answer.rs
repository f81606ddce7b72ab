//! Answers that hold their share of the budget until they are on their way.
//!
//! A body that was produced may lie in the send queue for as long as the client
//! does not read. So the room is tied to the bytes themselves, not to the call
//! that made them.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::Response;
use http_body::{Frame, SizeHint};
use tonic::{Status, body::Body};

use super::budget::Room;

/// Bytes that give their room back when the last slice of them is dropped.
struct Charged {
    bytes: Bytes,
    _room: Arc<Room>,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Ties room to bytes; they are not copied.
pub(crate) fn charge(bytes: Bytes, room: Arc<Room>) -> Bytes {
    Bytes::from_owner(Charged { bytes, _room: room })
}

/// Puts the room into an answer, for [`settle`] to find.
pub(crate) fn with_room<T>(message: T, room: Room) -> tonic::Response<T> {
    let mut response = tonic::Response::new(message);
    response.extensions_mut().insert(Arc::new(room));
    response
}

/// Ties the room that an answer came with to its body.
pub(crate) fn settle(mut response: Response<Body>) -> Response<Body> {
    match response.extensions_mut().remove::<Arc<Room>>() {
        Some(room) => response.map(|inner| Body::new(Charging { inner, room })),
        None => response,
    }
}

struct Charging {
    inner: Body,
    room: Arc<Room>,
}

impl http_body::Body for Charging {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(context);
        frame.map_ok(|frame| frame.map_data(|data| charge(data, self.room.clone())))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::BodyExt;

    use super::*;
    use crate::api::guard::budget::Budget;

    #[tokio::test(start_paused = true)]
    async fn room_is_given_back_when_the_last_byte_is_gone() {
        let budget = Budget::new(100, Duration::from_secs(1));
        let bytes = Bytes::from_static(b"some bytes");
        let mut response = Response::new(Body::new(http_body_util::Full::new(bytes)));
        let room = Arc::new(budget.room(60).await.unwrap());
        response.extensions_mut().insert(room);
        let mut body = settle(response).into_body();
        let bytes = body.frame().await.unwrap().unwrap().into_data().unwrap();
        drop(body);
        let slice = bytes.slice(3..5);
        drop(bytes);
        assert_eq!(
            budget.room(60).await.err().unwrap().code(),
            tonic::Code::ResourceExhausted
        );
        assert_eq!(&slice[..], b"e ");
        drop(slice);
        assert!(budget.room(60).await.is_ok());
    }
}
