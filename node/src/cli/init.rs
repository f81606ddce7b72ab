//! `weir init`

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use weir_cluster::{ClusterId, NodeId, state::Settings};

use super::{ConfigArgs, say};
use crate::{
    config::Config,
    data_dir::{DataDir, Origin},
};

/// Begin a new cluster with this machine as its first node
///
/// Once per cluster; all other nodes use `weir join`. Only prepares the data
/// directory: start the node with `weir serve`.
///
/// Example:
///   weir init --config /etc/weir/weir.toml
///   weir serve --config /etc/weir/weir.toml
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Init {
    #[command(flatten)]
    config: ConfigArgs,

    /// A setting of the cluster, e.g. replicas=3, write_quorum=2, lease=3h,
    /// refs.reads=linearizable, refs.patience=5s (may be repeated)
    #[arg(long = "setting", value_name = "NAME=VALUE")]
    settings: Vec<String>,
}

impl Init {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let config = self.config.load()?;
        let mut settings = Settings::default();
        for text in &self.settings {
            apply_setting(&mut settings, text)?;
        }
        let cluster = init(&config, settings)?;
        say(format_args!(
            "{} is the first node of cluster {cluster}.\nStart it: weir serve --config {}",
            config.node.data.display(),
            self.config.config.display()
        ));
        Ok(ExitCode::SUCCESS)
    }
}

/// Makes the first node of a new cluster in the configured data directory.
pub(super) fn init(config: &Config, settings: Settings) -> anyhow::Result<ClusterId> {
    // Later the cluster could only refuse them, when nobody looks any more.
    settings
        .check()
        .map_err(|why| anyhow::anyhow!("settings: {why}"))?;
    let mut rng = rand::rng();
    let cluster = ClusterId::mint(&mut rng);
    let node = NodeId::mint(&mut rng);
    let (data, name) = (&config.node.data, &config.node.name);
    DataDir::create(data, cluster, node, name, Origin::Founder { settings })?;
    Ok(cluster)
}

/// Applies `name=value` to cluster settings.
pub(super) fn apply_setting(settings: &mut Settings, text: &str) -> anyhow::Result<()> {
    let (name, value) = text
        .split_once('=')
        .with_context(|| format!("--setting {text}: expected name=value"))?;
    settings
        .set(name, value)
        .map_err(|error| anyhow::anyhow!("--setting {text}: {error}"))
}
