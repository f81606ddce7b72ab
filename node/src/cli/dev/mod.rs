//! `weir dev`: a cluster of real processes on this machine.
//!
//! The parent only starts, watches and stops its children; each child is an
//! ordinary `weir serve` on a directory and a configuration of its own, so that
//! what works here works on machines as well.

mod banner;
mod children;
mod layout;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use clap::Args;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use weir_cluster::{
    journal::disk::{RealDisk, replace_file},
    state::Settings,
};

use self::{
    children::Children,
    layout::{DevNode, Layout},
};
use super::{admin_client, init, join, say};
use crate::status::ClusterStatus;

/// How long the cluster may take until every node serves.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// Between two looks at the cluster.
const LOOK_INTERVAL: Duration = Duration::from_millis(1_000);

/// Run a cluster of real nodes on this machine, to try Weir or to test with it
///
/// Starts each node as a process of its own, prints the BuildStream
/// configuration to paste, and stays in the foreground until Ctrl-C or SIGTERM
/// stops all of them. A node that dies is reported, not restarted; start it
/// again with `weir serve --config DIR/NAME/weir.toml`.
///
/// Examples:
///   weir dev
///   weir dev --nodes 5 --zones a,b,c --dir /srv/weir --capacity 100000000000
///   weir dev --nodes 1 --base-port 0 --set log.filter=debug
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Dev {
    /// Number of nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=50))]
    nodes: u16,

    /// Zones, given out to the nodes in turn
    #[arg(long, value_delimiter = ',', default_value = "a,b,c")]
    zones: Vec<String>,

    /// Where everything is kept. Starting again on the same folder brings the
    /// same cluster and its data back
    #[arg(long, value_name = "DIR", default_value = "weir-dev")]
    dir: PathBuf,

    /// First of three ports for each node (client, peer, admin); 0 picks free
    /// ones. A cluster that exists keeps its ports
    #[arg(long, value_name = "PORT", default_value_t = 8980)]
    base_port: u16,

    /// Copies of each blob; only when the cluster is new
    #[arg(long, value_name = "R")]
    replicas: Option<u32>,

    /// Bytes that each node may use for blobs
    #[arg(long, value_name = "BYTES")]
    capacity: Option<u64>,

    /// Override a key of every node's weir.toml, or set a cluster setting when
    /// the cluster is new: replicas, write_quorum, lease, refs.reads,
    /// refs.patience (may be repeated)
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    overrides: Vec<String>,
}

/// `DIR/dev.json`: where everything is, written when every node serves.
#[derive(Serialize)]
struct DevFile {
    nodes: Vec<DevFileNode>,
}

#[derive(Serialize)]
struct DevFileNode {
    name: String,
    zone: String,
    pid: u32,
    client: String,
    admin: String,
    dir: PathBuf,
}

impl Dev {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        // One thread: children are tied to the life of the thread that starts them.
        super::block_on(self.run_cluster())?
    }

    async fn run_cluster(self) -> anyhow::Result<ExitCode> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut children = Children::default();
        let outcome = tokio::select! {
            outcome = self.start_and_watch(&mut children) => outcome,
            _ = interrupt.recv() => Ok(()),
            _ = terminate.recv() => Ok(()),
        };
        say("stopping");
        let stopped = children.stop().await;
        outcome?;
        stopped?;
        Ok(ExitCode::SUCCESS)
    }

    async fn start_and_watch(&self, children: &mut Children) -> anyhow::Result<()> {
        let (settings, overrides) = self.split_overrides()?;
        std::fs::create_dir_all(&self.dir)
            .with_context(|| format!("cannot create {}", self.dir.display()))?;
        let dir = self.dir.canonicalize()?;
        let dev_file = dir.join("dev.json");
        let _ = std::fs::remove_file(&dev_file);
        let layout = Layout::plan(&dir, self, &overrides)?;
        self.start(&layout, settings, children).await?;
        let status = wait_until_ready(&layout, children).await?;
        write_dev_file(&dir, &layout, children)?;
        say(banner::text(&dir, &layout, &status));
        watch(&layout, children).await
    }

    /// Tells cluster settings from keys of weir.toml.
    fn split_overrides(&self) -> anyhow::Result<(Settings, Vec<String>)> {
        let mut settings = Settings::default();
        let mut overrides = Vec::new();
        if let Some(replicas) = self.replicas {
            init::apply_setting(&mut settings, &format!("replicas={replicas}"))?;
            settings.write_quorum = settings.write_quorum.min(replicas);
        }
        settings.initial_nodes = self.nodes.into();
        for text in &self.overrides {
            let name = text.split('=').next().unwrap_or_default();
            if Settings::NAMES.contains(&name) {
                init::apply_setting(&mut settings, text)?;
            } else {
                overrides.push(text.clone());
            }
        }
        Ok((settings, overrides))
    }

    /// Starts every node; those that are new join first.
    async fn start(
        &self,
        layout: &Layout,
        settings: Settings,
        children: &mut Children,
    ) -> anyhow::Result<()> {
        let first = &layout.nodes[0];
        if !first.exists() {
            init::init(&first.config, settings)?;
        }
        for node in layout.nodes.iter().filter(|node| node.exists()) {
            children.start(node)?;
        }
        let mut led = false;
        for node in &layout.nodes {
            if !node.exists() {
                if !led {
                    wait_for_leader(first, children).await?;
                    led = true;
                }
                join::join(&node.config, &first.admin_url())
                    .await
                    .with_context(|| format!("{} cannot join", node.name()))?;
                children.start(node)?;
            }
        }
        Ok(())
    }
}

/// Waits until a node knows a leader.
async fn wait_for_leader(node: &DevNode, children: &mut Children) -> anyhow::Result<()> {
    let what = format!("{} has no leader yet", node.name());
    wait(children, &what, async || {
        let status = admin_client::status(&node.admin_url()).await.ok()?.1;
        status.leader.map(drop)
    })
    .await
}

/// Waits until every node serves and owns its share.
async fn wait_until_ready(
    layout: &Layout,
    children: &mut Children,
) -> anyhow::Result<ClusterStatus> {
    let what = "not every node serves yet";
    let mut last = None;
    for node in &layout.nodes {
        let status = wait(children, what, async || {
            let status = admin_client::status(&node.admin_url()).await.ok()?.1;
            let all_active = status.nodes.len() >= layout.nodes.len()
                && status.nodes.iter().all(|node| node.state == "active");
            (status.leader.is_some() && all_active && status.under_replicated == 0)
                .then_some(status)
        })
        .await?;
        last = Some(status);
    }
    last.context("a cluster has at least one node")
}

/// Asks again until there is an answer, a child ends or the limit is reached.
async fn wait<T>(
    children: &mut Children,
    what: &str,
    ask: impl AsyncFn() -> Option<T>,
) -> anyhow::Result<T> {
    let end = Instant::now() + READY_LIMIT;
    loop {
        if let Some(answer) = ask().await {
            return Ok(answer);
        }
        if let Some((name, how)) = children.any_ended()? {
            bail!(
                "{name} ended {how}; its log: {}",
                children.log(&name).display()
            );
        }
        if Instant::now() > end {
            let limit = READY_LIMIT.as_secs();
            bail!("{what} after {limit} s; the logs are in DIR/NAME/weir.log");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn write_dev_file(dir: &Path, layout: &Layout, children: &Children) -> anyhow::Result<()> {
    let nodes = layout
        .nodes
        .iter()
        .map(|node| {
            Ok(DevFileNode {
                name: node.name().to_owned(),
                zone: node.config.node.zone.clone(),
                pid: children
                    .pid(node.name())
                    .context("every node was started")?,
                client: node.client_url(),
                admin: node.admin_url(),
                dir: node.dir.clone(),
            })
        })
        .collect::<anyhow::Result<_>>()?;
    let text = serde_json::to_vec_pretty(&DevFile { nodes })?;
    replace_file(&RealDisk::new(dir), Path::new("dev.json"), &text)?;
    Ok(())
}

/// Reports what changes: children that end, nodes that come and go, the leader.
async fn watch(layout: &Layout, children: &mut Children) -> anyhow::Result<()> {
    let mut seen = String::new();
    loop {
        while let Some((name, how)) = children.take_ended()? {
            say(format_args!(
                "{name} ended {how}; start it again with: weir serve --config {}",
                layout.dir.join(&name).join("weir.toml").display()
            ));
            if children.is_empty() {
                bail!("no node is left");
            }
        }
        if let Some(status) = any_status(layout).await {
            let line = banner::line(&status);
            if line != seen {
                say(&line);
                seen = line;
            }
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// The cluster as the first node sees it that answers and knows a leader.
async fn any_status(layout: &Layout) -> Option<ClusterStatus> {
    let mut leaderless = None;
    for node in &layout.nodes {
        if let Ok((_, status)) = admin_client::status(&node.admin_url()).await {
            if status.leader.is_some() {
                return Some(status);
            }
            leaderless = Some(status);
        }
    }
    leaderless
}

/// Names of nodes and what is known of them.
type ByName<T> = BTreeMap<String, T>;
