//! Calls to a node's admin listener.

use std::time::Duration;

use anyhow::Context;
use tonic::transport::{Channel, Endpoint};
use weir_proto::cluster::{StatusRequest, admin_client::AdminClient};

use crate::status::ClusterStatus;

/// Longer than a node waits for the others.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// Connects to an admin URL.
pub(super) async fn connect(url: &str) -> anyhow::Result<AdminClient<Channel>> {
    let endpoint = Endpoint::from_shared(url.to_owned())
        .with_context(|| format!("{url:?} is no URL; expected e.g. http://127.0.0.1:8982"))?
        .connect_timeout(Duration::from_secs(5))
        .timeout(CALL_TIMEOUT);
    let channel = endpoint.connect().await.with_context(|| {
        format!(
            "no node answers at {url}; is it running, and is this its admin address? \
             Name another with --node or WEIR_NODE"
        )
    })?;
    Ok(AdminClient::new(channel))
}

/// The cluster as the node behind `url` sees it.
pub(super) async fn status(url: &str) -> anyhow::Result<(String, ClusterStatus)> {
    let mut admin = connect(url).await?;
    let answer = admin.status(StatusRequest {}).await.map_err(explain)?;
    let json = answer.into_inner().json;
    let status = serde_json::from_str(&json)
        .with_context(|| format!("{url} answered in a form this weir does not know"))?;
    Ok((json, status))
}

/// A status as an error for people: its message alone.
pub(super) fn explain(status: tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("{}", status.message())
}
