//! `weir fsck`

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::Args;
use weir_cluster::journal::disk::RealDisk;

use super::say;
use crate::{data_dir::DataDir, store::fsck};

/// Check the blobs of a node that is stopped
///
/// Reads every record and file in the data directory, checks it, and reports
/// what is damaged. With --repair damaged copies are set aside and the index is
/// rebuilt from the segments; the node fetches or asks for them again.
///
/// Exits with 0 if all is well (or was repaired), else with 1.
///
/// Examples:
///   weir fsck /var/lib/weir
///   weir fsck /var/lib/weir --repair
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Fsck {
    /// The data directory (node.data)
    dir: PathBuf,
    /// Set damaged copies aside and rebuild the index
    #[arg(long)]
    repair: bool,
}

impl Fsck {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let data = DataDir::open(&self.dir)?;
        let disk = RealDisk::new(data.subfolder("blobs")?);
        let report = if self.repair {
            fsck::repair(&disk)
        } else {
            fsck::check(&disk)
        }
        .with_context(|| format!("cannot read {}", self.dir.display()))?;
        say(&report);
        Ok(if self.repair || report.is_clean() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}
