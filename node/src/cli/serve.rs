//! `weir serve`

use std::process::ExitCode;

use clap::Args;

use super::ConfigArgs;
use crate::{serve, telemetry};

/// Run a node until it is told to stop (Ctrl-C or SIGTERM)
///
/// Its data directory must have been made by `weir init` or `weir join`.
///
/// Example: weir serve --config /etc/weir/weir.toml
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Serve {
    #[command(flatten)]
    config: ConfigArgs,

    /// Stop when the process that started this one ends
    #[arg(long, hide = true)]
    stop_with_parent: bool,
}

impl Serve {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let config = self.config.load()?;
        if self.stop_with_parent {
            let signal = Some(rustix::process::Signal::TERM);
            rustix::process::set_parent_process_death_signal(signal)?;
        }
        telemetry::start(&config.log);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .thread_name("weir")
            .build()?;
        runtime.block_on(serve::run(config))?;
        Ok(ExitCode::SUCCESS)
    }
}
