//! Machines that give too little.

use std::path::PathBuf;

use anyhow::{Context, Result};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::json;

use super::{Fault, Target};
use crate::{fleet::Fleet, seeded::Words};

/// The share of its open files up to which a node may open others: one divided
/// by this. It keeps what it has, and opens something only where one of the
/// first was closed.
const FILES_PART: u64 = 2;

/// Share of one processor.
const CPU_PERCENT: u32 = 10;

/// What there is too little of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scarce {
    /// Open files, sockets included.
    Files,
    /// Time of the processor.
    Cpu,
}

/// Limits a running node; healed by lifting the limit.
pub struct Starve {
    words: Words,
    scarce: Scarce,
    limited: Option<Limited>,
}

/// What is needed to lift a limit.
enum Limited {
    Files { pid: u32, before: Rlimit },
    Cpu { group: PathBuf },
}

impl Starve {
    /// One whose victim follows from the seed.
    pub fn new(seed: u64, scarce: Scarce) -> Starve {
        Starve {
            words: Words::new(seed),
            scarce,
            limited: None,
        }
    }
}

impl Fault for Starve {
    fn inject(&mut self, fleet: &mut Fleet) -> Result<()> {
        let victim = Target::Any.pick_one(fleet, &mut self.words)?;
        let node = fleet.node(victim);
        let pid = node.pid().context("it does not run")?;
        let what = format!("{:?}", self.scarce);
        let detail = json!({"node": node.name, "scarce": what});
        fleet.events().enter("starve", detail);
        self.limited = Some(match self.scarce {
            Scarce::Cpu => Limited::Cpu {
                group: fleet.world()?.limit_cpu(pid, CPU_PERCENT)?,
            },
            Scarce::Files => {
                let files = fleet.readings(victim)?.files / FILES_PART;
                let limit = Rlimit {
                    current: Some(files),
                    // Once lowered, not everybody may raise it again.
                    maximum: getrlimit(Resource::Nofile).maximum,
                };
                let before = prlimit(raw(pid), Resource::Nofile, limit)?;
                Limited::Files { pid, before }
            }
        });
        Ok(())
    }

    fn heal(&mut self, fleet: &mut Fleet) -> Result<()> {
        match self.limited.take() {
            Some(Limited::Cpu { group }) => fleet.world()?.unlimit(&group),
            Some(Limited::Files { pid, before }) => {
                // Its process may have ended, and its number be used again by
                // nobody but a node of ours within a step.
                let is_ours = fleet.nodes().iter().any(|node| node.pid() == Some(pid));
                if is_ours {
                    prlimit(raw(pid), Resource::Nofile, before)?;
                }
                Ok(())
            }
            None => Ok(()),
        }
    }
}

fn raw(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}
