//! The workloads of a run, side by side.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::play::busy;
use crate::{
    balancer::Balancer,
    builds::{self, Builders, Builds},
    buildstream::{Project, Release, SourceKind},
    gate::Gate,
    history::{Clock, Operation},
    load::{Artifacts, Blobs, Done, Ledger, Load, Nodes, Options, Presence, Reading, Refs},
    scenario::Work,
    seeded::Words,
};

/// Artifacts that are pushed and fetched: few enough that clients meet.
const ARTIFACTS: u32 = 20;

/// Percentage of pulls.
const PULLS: usize = 60;

/// Digests of one question.
const DIGESTS: usize = 200;

/// Reads in a second for the figure of how long a fault keeps readers waiting.
/// One follows the other, so that none is missed.
const READS_PER_SECOND: f64 = 30.0;

/// Clients of each workload, at least.
const CLIENTS: u32 = 8;

/// Rounds a second that one client does, about.
const ROUNDS: f64 = 100.0;

/// The longest call: longer than refs wait for an election.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// Until a workload has done a few operations more, on a machine with time.
const REACH_LIMIT: Duration = Duration::from_secs(60);

/// A build, on a machine that has other things to do.
const BUILD_LIMIT: Duration = Duration::from_secs(240);

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
    /// Dropped in this order: the builds need the balancer.
    builds: Option<(Builds, Balancer)>,
    reading: Option<Load>,
    pub(super) clock: Clock,
}

/// What was built, or why a build failed.
pub(super) type Built = Result<(Project, builds::Done)>;

/// What they left behind.
pub(super) struct Worked {
    pub(super) parts: Vec<Part>,
    /// Reads that were tried until they were answered.
    pub(super) reads: Vec<Operation>,
    /// What these were told that must not be.
    pub(super) reading: Result<()>,
    /// Where there were real builds.
    pub(super) built: Option<Built>,
}

/// What one of them left behind.
pub(super) struct Part {
    pub(super) kind: Kind,
    pub(super) done: Done,
}

impl Working {
    /// Starts them, on threads that are where this one is. What they are told
    /// for good is also written to files in `dir`.
    ///
    /// `builders` are needed for work that has builds.
    pub(super) fn start(
        work: Work,
        nodes: Nodes,
        seed: u64,
        dir: &Path,
        builders: Option<&Builders>,
    ) -> Result<Working> {
        let mut words = Words::new(seed);
        let clock = Clock::start();
        let mut options = |kind: Kind, per_second| -> Result<Options> {
            Ok(Options {
                nodes: nodes.clone(),
                seed: words.next().unwrap_or_default(),
                clients: CLIENTS.max((per_second / ROUNDS) as u32),
                per_second,
                call_limit: CALL_LIMIT,
                clock,
                ledger: Ledger::in_file(&dir.join(format!("acknowledged-{}", kind.name())))?,
            })
        };
        let mut loads = Vec::new();
        let mut uploads = None;
        let mut promised = None;
        if work.refs > 0.0 {
            let options = options(Kind::Refs, work.refs)?;
            loads.push((
                Kind::Refs,
                Load::start(Refs::new(work.names, work.fetches), options)?,
            ));
        }
        if work.blobs > 0.0 {
            let options = options(Kind::Blobs, work.blobs)?;
            uploads = Some(options.ledger.clone());
            promised = Some(options.ledger.clone());
            let blobs = Blobs::new(work.blob_bytes);
            loads.push((Kind::Blobs, Load::start(blobs, options)?));
        }
        if work.artifacts > 0.0 {
            let options = options(Kind::Artifacts, work.artifacts)?;
            let artifacts = Artifacts {
                keys: ARTIFACTS,
                pulls: PULLS,
            };
            loads.push((Kind::Artifacts, Load::start(artifacts, options)?));
        }
        if work.presence > 0.0 {
            let options = options(Kind::Presence, work.presence)?;
            let presence = Presence::new(DIGESTS, uploads);
            loads.push((Kind::Presence, Load::start(presence, options)?));
        }
        ensure!(!loads.is_empty(), "no work");
        let builds = work
            .builds
            .then(|| start_builds(builders, nodes.clone(), seed))
            .transpose()?;
        let start_reading = |promised: Ledger| {
            let options = Options {
                nodes,
                seed,
                clients: 1,
                per_second: READS_PER_SECOND,
                call_limit: CALL_LIMIT,
                clock,
                ledger: Ledger::default(),
            };
            Load::start(Reading { promised }, options)
        };
        let reading = promised.map(start_reading).transpose()?;
        Ok(Working {
            loads,
            builds,
            reading,
            clock,
        })
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
            let limit = REACH_LIMIT.mul_f64(busy());
            load.reach(load.tools().history.len() + more, limit)?;
        }
        if let Some((builds, _)) = &self.builds {
            builds.more(1, BUILD_LIMIT)?;
        }
        Ok(())
    }

    /// Ends them after the rounds that are under way.
    pub(super) fn finish(self) -> Result<Worked> {
        let built = self.builds.map(|(builds, balancer)| {
            let built = builds.finish();
            drop(balancer);
            built
        });
        let reading = self.reading.map(Load::finish).transpose()?;
        let parts = self.loads.into_iter().map(|(kind, load)| {
            let done = load.finish()?;
            Ok(Part { kind, done })
        });
        let parts = parts.collect::<Result<_>>()?;
        let insist = reading.as_ref().map_or(Ok(()), Done::insist);
        Ok(Worked {
            parts,
            reads: reading.map_or_else(Vec::new, |done| done.history),
            reading: insist,
            built,
        })
    }
}

fn start_builds(
    builders: Option<&Builders>,
    nodes: Nodes,
    seed: u64,
) -> Result<(Builds, Balancer)> {
    let Builders { trial, bst } = builders.context("real builds need a fleet of their own")?;
    let balancer = Balancer::start(nodes)?;
    let dir = trial.dir().join("project");
    let project = Project::write(trial, &dir, Release::Two, SourceKind::Local, seed)?;
    let gate = Gate::new([balancer.url.clone()]);
    Ok((Builds::start(trial, bst, project, gate)?, balancer))
}
