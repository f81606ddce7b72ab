//! What stands before every service: memory is admitted, silence is cut off.
//!
//! [`Guarded`] looks at the five bytes that begin each gRPC message of a
//! request. A message over the service's limit is refused before a byte of it
//! is buffered. Any other takes its length from one budget that all calls
//! share, and waits while the budget is used up: that is backpressure, the
//! client's HTTP/2 window stays shut meanwhile. The share is given back when
//! the call's next message begins, or with its answer.
//!
//! A call never waits for memory while it holds some of the same budget: the
//! share of the last message goes back first, and [`answer`]s have a budget of
//! their own. Otherwise calls could wait for each other for ever.
//!
//! The tempting alternative, tonic's own limits, bounds one message but not
//! their number, and reserves what the five bytes claim.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use tonic::{body::Body, server::NamedService};
use tower::Service;

use self::{
    budget::Budget,
    request::{GuardedBody, Share},
};
use super::ApiConfig;

pub(crate) mod answer;
pub(crate) mod budget;
mod request;

/// What all services of the node share.
pub(crate) struct Limits {
    requests: Budget,
    pub(crate) answers: Budget,
    stall: Duration,
}

impl Limits {
    pub(crate) fn new(config: &ApiConfig) -> Arc<Self> {
        let budget = || Budget::new(config.memory_bytes, config.overload_patience());
        Arc::new(Self {
            requests: budget(),
            answers: budget(),
            stall: config.stall(),
        })
    }
}

/// A service behind [`Limits`].
#[derive(Clone)]
pub(crate) struct Guarded<S> {
    inner: S,
    limits: Arc<Limits>,
    message_bytes: usize,
}

impl<S> Guarded<S> {
    /// Messages of more than `message_bytes` are refused.
    pub(crate) fn new(inner: S, limits: &Arc<Limits>, message_bytes: usize) -> Self {
        Self {
            inner,
            limits: limits.clone(),
            message_bytes,
        }
    }
}

impl<S: NamedService> NamedService for Guarded<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let share = Arc::new(Share::default());
        let request = request.map(|body| {
            let limits = self.limits.clone();
            let body = GuardedBody::new(body, limits, self.message_bytes, share.clone());
            Body::new(body)
        });
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            drop(share);
            answer.map(answer::settle)
        })
    }
}
