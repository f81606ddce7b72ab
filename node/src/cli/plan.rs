//! `weir plan`

use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use weir_proto::cluster::PlanRequest;

use super::{NodeArgs, admin_client, block_on, node::Labels, say};
use crate::status;

/// Show what a change would move, without making it
///
/// Says how many slots (of 16,384) get a new owner, about how many bytes move,
/// what each node holds then, and what the loss of a zone would cost then.
/// Without a change it shows what is moving now.
///
/// Examples:
///   weir plan
///   weir plan join --zone building-c
///   weir plan drain cache-2
///   weir plan settings replicas=2 write_quorum=1
///   weir plan --json remove cache-3
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Plan {
    #[command(flatten)]
    node: NodeArgs,
    /// Print one JSON document
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    change: Option<Change>,
}

#[derive(Subcommand)]
enum Change {
    /// A node joins
    Join {
        /// Its zone
        #[arg(long)]
        zone: String,
        /// Its share relative to other nodes
        #[arg(long, value_name = "N", default_value_t = 1)]
        weight: u32,
    },
    /// A node drains
    Drain {
        /// The node, by name or id
        #[arg(value_name = "NODE")]
        member: String,
    },
    /// A node is removed as dead
    Remove {
        /// The node, by name or id
        #[arg(value_name = "NODE")]
        member: String,
    },
    /// Zone, host or weight of a node change
    Set(Labels),
    /// Settings of the cluster change
    Settings {
        /// What would change
        #[arg(value_name = "NAME=VALUE", required = true)]
        settings: Vec<String>,
    },
}

impl Plan {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let url = self.node.node;
        let request = request(self.change);
        let json = block_on(async {
            let mut admin = admin_client::connect(&url).await?;
            let answer = admin.plan(request).await.map_err(admin_client::explain)?;
            anyhow::Ok(answer.into_inner().json)
        })??;
        if self.json {
            say(json);
        } else {
            let plan: status::Plan = serde_json::from_str(&json)
                .with_context(|| format!("{url} answered in a form this weir does not know"))?;
            say(plan.to_text().trim_end());
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn request(change: Option<Change>) -> PlanRequest {
    let mut request = PlanRequest::default();
    match change {
        None => {}
        Some(Change::Join { zone, weight }) => {
            request.add_zone = zone;
            request.add_weight = weight;
        }
        Some(Change::Drain { member }) => request.drain = member,
        Some(Change::Remove { member }) => request.remove = member,
        Some(Change::Set(labels)) => request.relabel = Some(labels.into_request()),
        Some(Change::Settings { settings }) => request.settings = settings,
    }
    request
}
