//! A connection: calls of one node at the services of another.

use std::{
    sync::Weak,
    task::{Context, Poll},
};

use futures::{FutureExt, future::BoxFuture};
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, body::Body};
use tower::{Service, ServiceExt};

use super::network::{Listener, Network};

/// Messages of a stream between its two ends.
const AHEAD: usize = 4;

/// A connection. Clones are the same.
#[derive(Clone)]
pub(super) struct Line {
    pub(super) network: Network,
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) far: Weak<Listener>,
    pub(super) broken: CancellationToken,
}

type Answer = oneshot::Sender<Response<Body>>;

fn broke() -> Status {
    Status::unavailable("the connection broke")
}

impl Service<Request<Body>> for Line {
    type Response = Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Response<Body>, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (answer, answered) = oneshot::channel();
        if !self.broken.is_cancelled() {
            // At the other side, which goes on for a while when the caller gives up.
            tokio::spawn(self.clone().serve(request, answer));
        }
        async move { answered.await.map_err(|_| broke()) }.boxed()
    }
}

impl Line {
    /// Has the other side answer, unless the connection breaks or the caller
    /// gives up, which is heard as late as everything else.
    async fn serve(self, request: Request<Body>, mut answer: Answer) {
        // All is over.
        let Some(far) = self.far.upgrade() else {
            return;
        };
        let (from, to) = (self.from, self.to);
        let path = request.uri().path();
        let what = path.rsplit('/').next().unwrap_or_default().to_owned();
        let serving = async {
            self.network.pass(from, to).await;
            self.network.arrived(from, to, &what);
            let request = request.map(|body| self.carry((from, to), what.clone(), body));
            let serving = far.services.clone().oneshot(request);
            let response = tokio::select! {
                biased;
                // Without power, nobody hears of it.
                () = far.life.cancelled() => std::future::pending().await,
                response = serving => response,
            };
            self.network.pass(to, from).await;
            self.network
                .arrived(to, from, &format!("{what} is answered"));
            response
        };
        let given_up = async {
            answer.closed().await;
            self.network.pass(from, to).await;
        };
        let response = tokio::select! {
            biased;
            () = self.broken.cancelled() => return,
            () = given_up => return,
            response = serving => response,
        };
        let Ok(response) = response;
        // Who has given up meanwhile does not hear it.
        let _ = answer.send(response.map(|body| self.carry((to, from), what, body)));
    }

    /// Carries what follows the first message of a call to the other side.
    fn carry(&self, (from, to): (usize, usize), what: String, mut body: Body) -> Body {
        let (sender, receiver) = mpsc::channel(AHEAD);
        let (network, broken) = (self.network.clone(), self.broken.clone());
        tokio::spawn(async move {
            let carrying = async {
                let mut is_first = true;
                while let Some(frame) = body.frame().await {
                    if !is_first && frame.as_ref().is_ok_and(|frame| frame.is_data()) {
                        network.pass(from, to).await;
                        network.arrived(from, to, &what);
                    }
                    is_first = false;
                    if sender.send(frame).await.is_err() {
                        return;
                    }
                }
            };
            let is_broken = tokio::select! {
                biased;
                () = broken.cancelled() => true,
                () = sender.closed() => false,
                () = carrying => false,
            };
            if is_broken {
                // Full or closed is as good: the end is seen either way.
                let _ = sender.try_send(Err(broke()));
            }
        });
        Body::new(StreamBody::new(ReceiverStream::new(receiver)))
    }
}
