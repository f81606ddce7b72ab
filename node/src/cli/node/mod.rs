//! `weir node`

mod drain;
mod progress;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use weir_proto::cluster::{RelabelRequest, RemoveRequest};

use super::{NodeArgs, admin_client, block_on, say};

/// List the nodes of a cluster, change them, and take them out without loss
///
/// Nodes are named by name (node.name) or by id, as `weir node list` shows them.
///
/// Examples:
///   weir node list
///   weir node drain cache-2 --wait && weir node remove cache-2
///   weir node remove --dead cache-3
///   weir node set cache-1 --zone building-b
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Node {
    #[command(subcommand)]
    command: NodeCommand,
}

#[derive(Subcommand)]
enum NodeCommand {
    List(List),
    Set(Set),
    Drain(drain::Drain),
    Remove(Remove),
}

impl Node {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            NodeCommand::List(command) => command.run(),
            NodeCommand::Set(command) => command.run(),
            NodeCommand::Drain(command) => command.run(),
            NodeCommand::Remove(command) => command.run(),
        }
    }
}

/// List the nodes: zone, state, what they hold, what repair does
///
/// REPAIR says `settled` when all is where it belongs, `lacks N` while the node
/// fetches what it owns, `gives N` while it holds blobs for others.
///
/// Examples:
///   weir node list
///   weir node list --json
#[derive(Args)]
#[command(verbatim_doc_comment)]
struct List {
    #[command(flatten)]
    node: NodeArgs,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

impl List {
    fn run(self) -> anyhow::Result<ExitCode> {
        let (_, status) = block_on(admin_client::status(&self.node.node))??;
        if self.json {
            say(serde_json::to_string_pretty(&status.nodes)?);
        } else {
            say(status.nodes_text().trim_end());
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Change zone, host or weight of a node
///
/// Blobs move to where they belong then; look at it first with `weir plan set`.
/// Write the same into the node's weir.toml.
///
/// Examples:
///   weir node set cache-2 --zone building-b
///   weir node set cache-4 --weight 2
#[derive(Args)]
#[command(verbatim_doc_comment)]
struct Set {
    #[command(flatten)]
    node: NodeArgs,
    #[command(flatten)]
    labels: Labels,
}

/// A node and what to change about it.
#[derive(Args)]
pub(super) struct Labels {
    /// The node, by name or id
    #[arg(value_name = "NODE")]
    member: String,
    /// Failure domain: copies are spread over zones
    #[arg(long)]
    zone: Option<String>,
    /// The machine: copies are spread over hosts where zones do not suffice
    #[arg(long)]
    host: Option<String>,
    /// Share of the blobs relative to other nodes
    #[arg(long, value_name = "N")]
    weight: Option<u32>,
}

impl Labels {
    pub(super) fn into_request(self) -> RelabelRequest {
        RelabelRequest {
            node: self.member,
            zone: self.zone,
            host: self.host,
            weight: self.weight,
        }
    }
}

impl Set {
    fn run(self) -> anyhow::Result<ExitCode> {
        let request = self.labels.into_request();
        block_on(async {
            let mut admin = admin_client::connect(&self.node.node).await?;
            let answer = admin.relabel(request).await;
            say(answer.map_err(admin_client::explain)?.into_inner().message);
            Ok(ExitCode::SUCCESS)
        })?
    }
}

/// Take a node out of the cluster for ever
///
/// Its id never comes back; a machine that returns joins as a new node. A node
/// that answers has to be drained first. One that is dead is removed with
/// --dead: the others make its copies again from theirs.
///
/// Refused where the last copy of a blob might go with it; --force-lose says
/// that it may.
///
/// Examples:
///   weir node drain cache-2 --wait && weir node remove cache-2
///   weir node remove --dead cache-3
#[derive(Args)]
#[command(verbatim_doc_comment)]
struct Remove {
    #[command(flatten)]
    node: NodeArgs,
    /// The node, by name or id
    #[arg(value_name = "NODE")]
    member: String,
    /// It does not answer and will not come back
    #[arg(long)]
    dead: bool,
    /// Remove it though blobs may be lost with it
    #[arg(long)]
    force_lose: bool,
}

impl Remove {
    fn run(self) -> anyhow::Result<ExitCode> {
        let request = RemoveRequest {
            node: self.member,
            dead: self.dead,
            force_lose: self.force_lose,
        };
        block_on(async {
            let mut admin = admin_client::connect(&self.node.node).await?;
            let answer = admin.remove(request).await;
            say(answer.map_err(admin_client::explain)?.into_inner().message);
            Ok(ExitCode::SUCCESS)
        })?
    }
}
