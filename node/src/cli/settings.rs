//! `weir settings`

use std::process::ExitCode;

use clap::{Args, Subcommand};
use weir_proto::cluster::SettleRequest;

use super::{NodeArgs, admin_client, block_on, say};
use crate::status::table;

/// Show the settings of the cluster, or change them
///
/// They hold for all nodes at once and need no restart. What is particular to a
/// node is in its weir.toml.
///
/// Examples:
///   weir settings
///   weir settings --json
///   weir settings set repair.rate=100MiB
///   weir settings set replicas=2 write_quorum=1
#[derive(Args)]
#[command(verbatim_doc_comment, args_conflicts_with_subcommands = true)]
pub(super) struct Settings {
    #[command(subcommand)]
    command: Option<SettingsCommand>,
    #[command(flatten)]
    node: NodeArgs,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum SettingsCommand {
    Set(Set),
}

/// Change settings of the cluster
///
/// Several in one call change in one step. Blobs move when `replicas` changes:
/// look at it first with `weir plan settings replicas=...`.
///
/// Examples:
///   weir settings set repair.rate=100MiB
///   weir settings set auto_remove_after=24h scrub.every=7d
#[derive(Args)]
#[command(verbatim_doc_comment)]
struct Set {
    #[command(flatten)]
    node: NodeArgs,
    /// What to change
    #[arg(value_name = "NAME=VALUE", required = true)]
    settings: Vec<String>,
}

impl Settings {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        if let Some(SettingsCommand::Set(set)) = self.command {
            return set.run();
        }
        let (_, status) = block_on(admin_client::status(&self.node.node))??;
        if self.json {
            let pairs = status.settings.into_iter();
            let pairs = pairs.map(|setting| (setting.name, setting.value.into()));
            let document: serde_json::Map<String, serde_json::Value> = pairs.collect();
            say(serde_json::to_string_pretty(&document)?);
        } else {
            let rows = status.settings.into_iter();
            let rows = rows.map(|setting| [setting.name, setting.value]).collect();
            say(table(["SETTING", "VALUE"].map(str::to_owned), rows).trim_end());
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Set {
    fn run(self) -> anyhow::Result<ExitCode> {
        let request = SettleRequest {
            settings: self.settings,
        };
        block_on(async {
            let mut admin = admin_client::connect(&self.node.node).await?;
            let answer = admin.settle(request).await;
            say(answer.map_err(admin_client::explain)?.into_inner().message);
            Ok(ExitCode::SUCCESS)
        })?
    }
}
