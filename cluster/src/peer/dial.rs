//! How connections to peers are opened.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use tonic::transport::Endpoint;

use super::server::FRAME_BYTES;

/// How often an idle connection is proven alive, and how long that may take:
/// a peer that vanished without a word is noticed within ten seconds.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// A connection.
#[cfg(not(all(test, tokio_unstable)))]
pub type Channel = tonic::transport::Channel;

/// A connection, or what stands in for one in a simulation.
#[cfg(all(test, tokio_unstable))]
pub type Channel = tower::util::BoxCloneSyncService<
    http::Request<tonic::body::Body>,
    http::Response<tonic::body::Body>,
    tonic::Status,
>;

#[cfg(not(all(test, tokio_unstable)))]
fn channel(opened: tonic::transport::Channel) -> Channel {
    opened
}

#[cfg(all(test, tokio_unstable))]
fn channel(opened: tonic::transport::Channel) -> Channel {
    Channel::new(tower::ServiceExt::map_err(opened, |error| {
        tonic::Status::from_error(Box::new(error))
    }))
}

/// Opens a connection to an address (`host:port`), or says why not. The one
/// place to add TLS: build on [`endpoint`] and connect with a connector.
pub type Dial = Arc<dyn Fn(String) -> BoxFuture<'static, Result<Channel, String>> + Send + Sync>;

/// Connections without TLS.
#[must_use]
pub fn plain() -> Dial {
    Arc::new(|address| {
        async move {
            let endpoint = endpoint(&format!("http://{address}"))?;
            let opened = endpoint.connect().await;
            opened.map(channel).map_err(|error| chain(&error))
        }
        .boxed()
    })
}

/// The transport settings of connections between nodes. The adaptive window is
/// what fills a link with some milliseconds of delay.
pub fn endpoint(url: &str) -> Result<Endpoint, String> {
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|error| chain(&error))?;
    Ok(endpoint
        .tcp_nodelay(true)
        .http2_adaptive_window(true)
        .max_frame_size(FRAME_BYTES)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true))
}

/// A transport error with its sources, the useful part of which is the last.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
