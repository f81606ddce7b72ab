//! `weir scrub`

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Args;
use weir_proto::cluster::ScrubNodesRequest;

use super::{
    NodeArgs, admin_client, block_on, duration, say,
    show::{Line, note},
};
use crate::status::{ClusterStatus, NodeStatus, bytes_text, table};

/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Show how far nodes have verified their copies at rest, or begin now
///
/// Every node verifies all its copies in the background, once in `scrub.every`
/// (see `weir settings`). Damaged copies are set aside and fetched again from
/// other nodes. With --now a node also compares at once what it holds with what
/// the others hold, and fetches what it lacks.
///
/// Examples:
///   weir scrub
///   weir scrub cache-2 --now
///   weir scrub --now --wait
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Scrub {
    #[command(flatten)]
    node: NodeArgs,
    /// The node, by name or id; all if none is named
    #[arg(value_name = "NODE")]
    member: Option<String>,
    /// Begin to verify now
    #[arg(long)]
    now: bool,
    /// Wait until the pass has ended
    #[arg(long, requires = "now")]
    wait: bool,
    /// Give up waiting after this long and end with 1, e.g. 30m
    #[arg(long, value_name = "DURATION", value_parser = duration, requires = "wait")]
    timeout: Option<Duration>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

impl Scrub {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        block_on(self.scrub())?
    }

    async fn scrub(self) -> anyhow::Result<ExitCode> {
        let url = &self.node.node;
        let before = admin_client::status(url).await?.1;
        self.chosen(&before)?;
        let mut after = before.clone();
        if self.now {
            let request = ScrubNodesRequest {
                node: self.member.clone().unwrap_or_default(),
            };
            let mut admin = admin_client::connect(url).await?;
            let answer = admin.scrub(request).await.map_err(admin_client::explain)?;
            note(&answer.into_inner().message);
            if !self.wait {
                return Ok(ExitCode::SUCCESS);
            }
            match self.wait(&before).await? {
                Some(status) => after = status,
                None => return Ok(ExitCode::FAILURE),
            }
        }
        let nodes = self.chosen(&after)?;
        say(if self.json {
            json(&nodes)?
        } else {
            text(&nodes)
        });
        Ok(ExitCode::SUCCESS)
    }

    /// The nodes that are meant.
    fn chosen<'a>(&self, status: &'a ClusterStatus) -> anyhow::Result<Vec<&'a NodeStatus>> {
        let Some(member) = &self.member else {
            return Ok(status.nodes.iter().collect());
        };
        match status.node(member) {
            Some(node) => Ok(vec![node]),
            None => anyhow::bail!("no member is named {member:?}; see `weir node list`"),
        }
    }

    /// The cluster when each node that answered has finished a pass; none if
    /// the time is up before.
    async fn wait(&self, before: &ClusterStatus) -> anyhow::Result<Option<ClusterStatus>> {
        let began = Instant::now();
        let mut line = Line::default();
        loop {
            let text = match admin_client::status(&self.node.node).await {
                Err(error) => format!("{error:#}; trying again"),
                Ok((_, status)) => {
                    let nodes = self.chosen(&status)?;
                    let busy: Vec<_> = nodes
                        .iter()
                        .filter(|node| !has_passed(before, node))
                        .map(|node| {
                            let bytes = bytes_text(node.scrub.verified_bytes);
                            format!("{} {bytes} of {}", node.name, bytes_text(node.bytes))
                        })
                        .collect();
                    if busy.is_empty() {
                        line.end();
                        return Ok(Some(status));
                    }
                    format!("verified: {}", busy.join(", "))
                }
            };
            line.show(&text);
            if self.timeout.is_some_and(|limit| began.elapsed() >= limit) {
                line.end();
                note("the time is up; the nodes go on verifying");
                return Ok(None);
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
}

/// Whether a node has finished a pass since; one that was down then is not
/// waited for.
fn has_passed(before: &ClusterStatus, now: &NodeStatus) -> bool {
    match before.node(&now.id) {
        Some(then) if then.is_up() => now.scrub.passes > then.scrub.passes,
        _ => true,
    }
}

fn text(nodes: &[&NodeStatus]) -> String {
    let rows = nodes.iter().map(|node| {
        let scrub = &node.scrub;
        let state = match (node.is_up(), scrub.running) {
            (false, _) => "down",
            (true, true) => "running",
            (true, false) => "idle",
        };
        [
            node.name.clone(),
            state.into(),
            scrub.verified_blobs.to_string(),
            bytes_text(scrub.verified_bytes),
            bytes_text(node.bytes),
            scrub.damaged.to_string(),
            scrub.passes.to_string(),
        ]
    });
    let head = [
        "NODE", "SCRUB", "VERIFIED", "BYTES", "OF", "DAMAGED", "PASSES",
    ];
    let table = table(head.map(str::to_owned), rows.collect());
    table.trim_end().to_owned()
}

fn json(nodes: &[&NodeStatus]) -> anyhow::Result<String> {
    let rows: Vec<_> = nodes
        .iter()
        .map(|node| {
            serde_json::json!({
                "name": node.name, "id": node.id, "up": node.is_up(), "bytes": node.bytes,
                "scrub": node.scrub,
            })
        })
        .collect();
    Ok(serde_json::to_string_pretty(&rows)?)
}
