//! `weir join`

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::Args;
use tonic::Code;
use weir_proto::cluster::{JoinRequest, JoinResponse};

use super::{ConfigArgs, NodeArgs, admin_client, block_on, say};
use crate::{
    config::{AdvertiseConfig, Config},
    data_dir::{DataDir, Origin},
};

/// How long a cluster that is just being founded, or elects a leader, is waited
/// for.
const PATIENCE: Duration = Duration::from_secs(30);
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Make this machine a node of a cluster that exists
///
/// Registers the node with the cluster and prepares the data directory; start
/// it with `weir serve`. It then catches up, takes over its share of the blobs
/// and, where the cluster needs one, becomes a voter.
///
/// Under the name of a node that is dead it takes that node's place: the old id
/// is removed for ever, and the blobs are copied from the others. A name that a
/// living node has is refused.
///
/// Example:
///   weir join --config /etc/weir/weir.toml --node http://cache-1:8982
///   weir serve --config /etc/weir/weir.toml
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Join {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    node: NodeArgs,
}

impl Join {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let config = self.config.load()?;
        let node = block_on(join(&config, &self.node.node))??;
        say(format_args!(
            "{} is node {node} of the cluster.\nStart it: weir serve --config {}",
            config.node.data.display(),
            self.config.config.display()
        ));
        Ok(ExitCode::SUCCESS)
    }
}

/// Registers a node with the cluster behind `url` and makes its data directory.
pub(super) async fn join(config: &Config, url: &str) -> anyhow::Result<weir_cluster::NodeId> {
    // Before the cluster is told: a refusal must change nothing.
    DataDir::prepare(&config.node.data)?;
    let host = &config.node.host;
    let (told, listen) = (&config.advertise, &config.listen);
    let request = JoinRequest {
        name: config.node.name.clone(),
        zone: config.node.zone.clone(),
        host: host.clone(),
        peer_address: AdvertiseConfig::address(told.peer.as_ref(), listen.peer, host),
        client_address: AdvertiseConfig::address(told.client.as_ref(), listen.client, host),
        admin_address: AdvertiseConfig::address(told.admin.as_ref(), listen.admin, host),
        weight: config.node.weight,
    };
    let answer = register(url, request).await?;
    let cluster = answer.cluster_id.parse()?;
    let node = weir_cluster::NodeId(answer.node_id);
    let (data, name) = (&config.node.data, &config.node.name);
    DataDir::create(data, cluster, node, name, Origin::Joined)?;
    Ok(node)
}

/// Asks to be taken in, again while the cluster cannot decide. An attempt whose
/// answer was lost is made up for by the next: it takes the place of the node
/// that it entered and that never started.
async fn register(url: &str, request: JoinRequest) -> anyhow::Result<JoinResponse> {
    let began = Instant::now();
    let mut admin = admin_client::connect(url).await?;
    loop {
        match admin.join(request.clone()).await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) if status.code() == Code::Unavailable && began.elapsed() < PATIENCE => {
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            Err(status) => {
                return Err(admin_client::explain(status))
                    .with_context(|| format!("{url} did not take this node in"));
            }
        }
    }
}
