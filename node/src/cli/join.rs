//! `weir join`

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use weir_proto::cluster::JoinRequest;

use super::{ConfigArgs, NodeArgs, admin_client, block_on, say};
use crate::{
    config::{AdvertiseConfig, Config},
    data_dir::{DataDir, Origin},
};

/// Make this machine a node of a cluster that exists
///
/// Registers the node with the cluster and prepares the data directory; start
/// it with `weir serve`. It then catches up, takes over its share of the blobs
/// and, where the cluster needs one, becomes a voter.
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
    let mut admin = admin_client::connect(url).await?;
    let answer = admin
        .join(request)
        .await
        .map_err(admin_client::explain)
        .with_context(|| format!("{url} did not take this node in"))?
        .into_inner();
    let cluster = answer.cluster_id.parse()?;
    let node = weir_cluster::NodeId(answer.node_id);
    let (data, name) = (&config.node.data, &config.node.name);
    DataDir::create(data, cluster, node, name, Origin::Joined)?;
    Ok(node)
}
