//! The body of a request, admitted message by message.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep};
use tonic::{Status, body::Body};

use super::{Limits, budget::Room};

/// A call's share of the memory; freed when both the body and the call are gone.
#[derive(Default)]
pub(super) struct Share(Mutex<Option<Room>>);

impl Share {
    fn set(&self, room: Option<Room>) {
        // A std mutex, held for a swap.
        let mut share = self.0.lock().expect("no panic while room is swapped");
        *share = room;
    }
}

/// See [the module](super).
pub(super) struct GuardedBody {
    inner: Body,
    limits: Arc<Limits>,
    message_bytes: usize,
    share: Arc<Share>,
    framing: Framing,
    waiting: Option<Waiting>,
    /// Runs while the client owes us a frame.
    silence: Option<Pin<Box<Sleep>>>,
    over: bool,
}

/// A frame that is held back until there is memory for the messages it begins.
struct Waiting {
    room: BoxFuture<'static, Result<Room, Status>>,
    frame: Frame<Bytes>,
}

impl GuardedBody {
    pub(super) fn new(
        inner: Body,
        limits: Arc<Limits>,
        message_bytes: usize,
        share: Arc<Share>,
    ) -> Self {
        Self {
            inner,
            limits,
            message_bytes,
            share,
            framing: Framing::default(),
            waiting: None,
            silence: None,
            over: false,
        }
    }

    /// Whether the client has been silent for too long.
    fn poll_silence(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let stall = self.limits.stall;
        self.silence
            .get_or_insert_with(|| Box::pin(sleep(stall)))
            .as_mut()
            .poll(context)
    }
}

impl http_body::Body for GuardedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if this.over {
            return Poll::Ready(None);
        }
        let outcome = ready!(this.poll_guarded(context));
        this.over = !matches!(outcome, Some(Ok(_)));
        Poll::Ready(outcome)
    }

    fn is_end_stream(&self) -> bool {
        self.over || (self.waiting.is_none() && self.inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl GuardedBody {
    fn poll_guarded(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.waiting.is_none() {
            let frame = match Pin::new(&mut self.inner).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => frame,
                Poll::Ready(other) => return Poll::Ready(other),
                Poll::Pending => {
                    ready!(self.poll_silence(context));
                    return Poll::Ready(Some(Err(Status::aborted(format!(
                        "the client sent nothing for {} s (api.stall_seconds); nothing was stored",
                        self.limits.stall.as_secs()
                    )))));
                }
            };
            if let Some(silence) = &mut self.silence {
                silence.as_mut().reset(Instant::now() + self.limits.stall);
            }
            let begun = match frame.data_ref() {
                Some(data) => self.framing.scan(data, self.message_bytes),
                None => Ok(0),
            };
            match begun {
                Err(length) => {
                    return Poll::Ready(Some(Err(Status::invalid_argument(format!(
                        "message of {length} bytes is over the limit of {} bytes; \
                         send less in one message, or use ByteStream",
                        self.message_bytes
                    )))));
                }
                Ok(0) => return Poll::Ready(Some(Ok(frame))),
                Ok(bytes) => {
                    self.share.set(None);
                    match self.limits.requests.take(bytes) {
                        Ok(room) => {
                            self.share.set(Some(room));
                            return Poll::Ready(Some(Ok(frame)));
                        }
                        Err(room) => self.waiting = Some(Waiting { room, frame }),
                    }
                }
            }
        }
        let Some(waiting) = &mut self.waiting else {
            return Poll::Ready(None);
        };
        let room = ready!(waiting.room.as_mut().poll(context));
        let frame = self.waiting.take().map(|waiting| waiting.frame);
        Poll::Ready(match room {
            Ok(room) => {
                self.share.set(Some(room));
                frame.map(Ok)
            }
            Err(status) => Some(Err(status)),
        })
    }
}

/// Where a request body stands between message prefixes.
#[derive(Default)]
struct Framing {
    prefix: [u8; 5],
    prefix_bytes: usize,
    /// Bytes of the current message that are still to come.
    rest: usize,
}

impl Framing {
    /// Follows the framing through `data`. Bytes of the messages that begin in
    /// it, or the length of the first that is over `limit`.
    fn scan(&mut self, mut data: &[u8], limit: usize) -> Result<u64, u32> {
        let mut begun = 0;
        loop {
            let skip = self.rest.min(data.len());
            data = &data[skip..];
            self.rest -= skip;
            if data.is_empty() {
                return Ok(begun);
            }
            let take = (5 - self.prefix_bytes).min(data.len());
            self.prefix[self.prefix_bytes..self.prefix_bytes + take].copy_from_slice(&data[..take]);
            self.prefix_bytes += take;
            data = &data[take..];
            if self.prefix_bytes < 5 {
                return Ok(begun);
            }
            self.prefix_bytes = 0;
            let [_, length @ ..] = self.prefix;
            let length = u32::from_be_bytes(length);
            if length as usize > limit {
                return Err(length);
            }
            self.rest = length as usize;
            begun += u64::from(length);
        }
    }
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
