//! `weir fsck`

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::Args;
use serde::Serialize;
use weir_cluster::journal::disk::RealDisk;

use super::{say, show::note};
use crate::{
    data_dir::DataDir,
    store::fsck::{self, FsckReport, Holdings},
};

/// Check the blobs of a node that is stopped
///
/// Reads every record and file in the data directory, checks it, and reports
/// what is damaged. With --repair damaged copies are set aside and the index is
/// rebuilt from the segments; the node fetches or asks for them again.
///
/// With --list it prints every blob that the node holds, one a line: hash and
/// size, and in which segment or file it is. What is damaged is not held, and
/// neither is a copy that the node gave up, though its record may still be
/// there. The report goes to standard error then.
///
/// Exits with 0 if all is well (or was repaired), else with 1.
///
/// Examples:
///   weir fsck /var/lib/weir
///   weir fsck /var/lib/weir --repair
///   weir fsck /var/lib/weir --list
///   weir fsck /var/lib/weir --list --json
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Fsck {
    /// The data directory (node.data)
    dir: PathBuf,
    /// Set damaged copies aside and rebuild the index
    #[arg(long, conflicts_with = "list")]
    repair: bool,
    /// Print every blob that is held, and where it is
    #[arg(long)]
    list: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

impl Fsck {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let data = DataDir::open(&self.dir)?;
        let disk = RealDisk::new(data.subfolder("blobs")?);
        let (report, holdings) = if self.repair {
            fsck::repair(&disk).map(|report| (report, Holdings::default()))
        } else {
            fsck::list(&disk)
        }
        .with_context(|| format!("cannot read {}", self.dir.display()))?;
        let ends_well = self.repair || report.is_clean();
        if self.json {
            say(serde_json::to_string_pretty(&Document {
                report,
                blobs: self.list.then(|| rows(&holdings)),
            })?);
        } else if self.list {
            for Row { hash, size, place } in rows(&holdings) {
                say(format_args!("{hash}/{size}  {place}"));
            }
            note(report.to_string().trim_end());
        } else {
            say(report.to_string().trim_end());
        }
        Ok(if ends_well {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Document {
    #[serde(flatten)]
    report: FsckReport,
    #[serde(skip_serializing_if = "Option::is_none")]
    blobs: Option<Vec<Row>>,
}

/// A blob that is held.
#[derive(Serialize)]
struct Row {
    hash: String,
    size: u64,
    #[serde(rename = "where")]
    place: String,
}

fn rows(holdings: &Holdings) -> Vec<Row> {
    let row = holdings.iter().map(|(digest, place)| Row {
        hash: digest.hash_hex(),
        size: digest.size,
        place: place.to_string(),
    });
    row.collect()
}
