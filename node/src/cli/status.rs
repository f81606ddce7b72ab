//! `weir status`

use std::process::ExitCode;

use clap::Args;

use super::{NodeArgs, admin_client, block_on, say};

/// Show the cluster: nodes, leader, what is weaker than configured
///
/// Examples:
///   weir status
///   weir status --node http://cache-2:8982 --json
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Status {
    #[command(flatten)]
    node: NodeArgs,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

impl Status {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let (json, status) = block_on(admin_client::status(&self.node.node))??;
        if self.json {
            say(json);
        } else {
            say(status.to_text().trim_end());
        }
        Ok(ExitCode::SUCCESS)
    }
}
