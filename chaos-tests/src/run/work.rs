//! The workloads of a run, side by side.

use std::{path::Path, time::Duration};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::{
    history::Clock,
    load::{Artifacts, Blobs, Done, Ledger, Load, Nodes, Options, Presence, Refs},
    scenario::Work,
    seeded::Words,
};

/// Artifacts that are pushed and fetched: few enough that clients meet.
const ARTIFACTS: u32 = 20;

/// Percentage of fetches.
const FETCHES: usize = 60;

/// Digests of one question.
const DIGESTS: usize = 200;

/// Clients of each workload.
const CLIENTS: u32 = 6;

/// The longest call: longer than refs wait for an election.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// Until a workload has done a few operations more.
const REACH_LIMIT: Duration = Duration::from_secs(60);

/// What a workload is about, and so what judges it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Refs,
    Blobs,
    Artifacts,
    Presence,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Refs => "refs",
            Kind::Blobs => "blobs",
            Kind::Artifacts => "artifacts",
            Kind::Presence => "presence",
        }
    }
}

/// The workloads while they run.
pub(super) struct Working {
    loads: Vec<(Kind, Load)>,
    pub(super) clock: Clock,
}

/// What one of them left behind.
pub(super) struct Part {
    pub(super) kind: Kind,
    pub(super) done: Done,
}

impl Working {
    /// Starts them, on threads that are where this one is. What they are told
    /// for good is also written to files in `dir`.
    pub(super) fn start(work: Work, nodes: Nodes, seed: u64, dir: &Path) -> Result<Working> {
        let mut words = Words::new(seed);
        let clock = Clock::start();
        let mut options = |kind: Kind, per_second| -> Result<Options> {
            Ok(Options {
                nodes: nodes.clone(),
                seed: words.next().unwrap_or_default(),
                clients: CLIENTS,
                per_second,
                call_limit: CALL_LIMIT,
                clock,
                ledger: Ledger::in_file(&dir.join(format!("acknowledged-{}", kind.name())))?,
            })
        };
        let mut loads = Vec::new();
        let mut uploads = None;
        if work.refs > 0.0 {
            let options = options(Kind::Refs, work.refs)?;
            loads.push((
                Kind::Refs,
                Load::start(Refs::new(work.names, FETCHES), options)?,
            ));
        }
        if work.blobs > 0.0 {
            let options = options(Kind::Blobs, work.blobs)?;
            uploads = Some(options.ledger.clone());
            let blobs = Blobs::new(work.blob_bytes);
            loads.push((Kind::Blobs, Load::start(blobs, options)?));
        }
        if work.artifacts > 0.0 {
            let options = options(Kind::Artifacts, work.artifacts)?;
            let artifacts = Artifacts {
                keys: ARTIFACTS,
                pulls: FETCHES,
            };
            loads.push((Kind::Artifacts, Load::start(artifacts, options)?));
        }
        if work.presence > 0.0 {
            let options = options(Kind::Presence, work.presence)?;
            let presence = Presence::new(DIGESTS, uploads);
            loads.push((Kind::Presence, Load::start(presence, options)?));
        }
        ensure!(!loads.is_empty(), "no work");
        Ok(Working { loads, clock })
    }

    /// Waits until each has done about as much more as it does in so many
    /// seconds when nothing is in its way.
    pub(super) fn go_on(&self, work: Work, seconds: f64) -> Result<()> {
        for (kind, load) in &self.loads {
            let rate = match kind {
                Kind::Refs => work.refs,
                Kind::Blobs => work.blobs,
                Kind::Artifacts => work.artifacts,
                Kind::Presence => work.presence,
            };
            // Rounds that end without a history are at most every third.
            let more = (rate * seconds / 3.0).ceil() as usize;
            load.reach(load.tools().history.len() + more, REACH_LIMIT)?;
        }
        Ok(())
    }

    /// Ends them after the rounds that are under way.
    pub(super) fn finish(self) -> Result<Vec<Part>> {
        let parts = self.loads.into_iter().map(|(kind, load)| {
            let done = load.finish()?;
            Ok(Part { kind, done })
        });
        parts.collect()
    }
}
