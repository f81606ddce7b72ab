//! `weir check-config`

use std::process::ExitCode;

use clap::Args;

use super::{ConfigArgs, say};

/// Check a configuration file and print it with every default filled in
///
/// Reports every fault at once, with its line, key and what was expected.
///
/// Example: weir check-config --config /etc/weir/weir.toml
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(super) struct CheckConfig {
    #[command(flatten)]
    config: ConfigArgs,
}

impl CheckConfig {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let config = self.config.load()?;
        say(config.to_toml().trim_end());
        Ok(ExitCode::SUCCESS)
    }
}
