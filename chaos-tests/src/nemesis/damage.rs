//! Files of the node itself that are damaged while it does not run.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use serde_json::json;

use super::{Fault, Target};
use crate::{fleet::Fleet, rig::Volume, seeded::Words};

/// A node that can start has done so after this long.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A node logs this when the others have looked at what it still has, and have
/// taken it in.
const TAKEN_IN: &str = "the cluster knows of this start";

/// What it lacks it may be told later all the same, and end then: one that has
/// served for so long knows all of it.
const CALM: Duration = Duration::from_secs(3);

/// Until a node has made a snapshot, where it is about to make one at all.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(20);

/// One byte of so many is inverted in applied state.
const STATE_STEP: usize = 61;

/// Between two looks.
const REST: Duration = Duration::from_millis(100);

/// What is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Votes and entries of Raft: bytes inverted in the middle of what was
    /// written.
    Journal,
    /// The end of the same: rubbish behind the last record or over its last
    /// bytes, as of a torn write. The latter loses what was promised, and must
    /// be noticed.
    Tail,
    /// The newest snapshot; none is damaged where there is none after a while.
    Snapshot,
    /// Applied state, which can be made anew.
    State,
}

impl Part {
    fn dir(self) -> &'static Path {
        Path::new(match self {
            Part::Journal | Part::Tail => "data/raft/log",
            Part::Snapshot => "data/raft/snapshots",
            Part::State => "data/state",
        })
    }
}

/// A killed node starts with a damaged file. It may serve, where nothing is
/// lost by it, or refuse to and say why; healed by a new node in its place if
/// it refuses.
pub struct Damage {
    words: Words,
    part: Part,
    victim: Option<usize>,
    /// Starts of the victim that were taken in before.
    starts: usize,
}

impl Damage {
    /// One whose victim and place follow from the seed.
    pub fn new(seed: u64, part: Part) -> Damage {
        Damage {
            words: Words::new(seed),
            part,
            victim: None,
            starts: 0,
        }
    }

    /// Waits until there is something to damage.
    fn wait_found(&self, volume: &Volume) -> Result<()> {
        if self.part != Part::Snapshot {
            return Ok(());
        }
        let dir = volume.outside().join(self.part.dir());
        let end = Instant::now() + SNAPSHOT_LIMIT;
        while Instant::now() < end {
            let entries = fs::read_dir(&dir)?.flatten();
            let mut paths = entries.map(|entry| entry.path());
            if paths.any(|path| path.extension().is_some_and(|end| end == "snapshot")) {
                break;
            }
            thread::sleep(REST);
        }
        Ok(())
    }

    fn strike(&mut self, volume: &Volume) -> Result<Option<(PathBuf, u64)>> {
        let mut files = volume.files(self.part.dir())?;
        files.retain(|(path, length)| {
            let fits = match self.part {
                Part::Journal | Part::Tail => true,
                // What a kill left half done is of no use to anybody.
                Part::Snapshot => path.extension().is_some_and(|end| end == "snapshot"),
                Part::State => path.file_name().is_some_and(|name| name == "db"),
            };
            *length > 0 && fits
        });
        let Some((path, _)) = files.last() else {
            return Ok(None);
        };
        // Files may be longer than what was written to them.
        let bytes = fs::read(volume.outside().join(path))?;
        let used = bytes.iter().rposition(|byte| *byte != 0);
        let used = used.map_or(0, |last| last as u64 + 1);
        if self.part == Part::Tail {
            let rubbish = crate::seeded::bytes(self.words.next().unwrap_or_default(), 100);
            volume.overwrite(path, used, &rubbish)?;
            return Ok(Some((path.clone(), used)));
        }
        if used < 2 {
            return Ok(None);
        }
        if self.part == Part::State {
            // Most of its bytes are of the past, and nobody reads them again.
            let from = used / 4;
            let mut changed = bytes[from as usize..used as usize].to_vec();
            for byte in changed.iter_mut().step_by(STATE_STEP) {
                *byte = !*byte;
            }
            volume.overwrite(path, from, &changed)?;
            return Ok(Some((path.clone(), from)));
        }
        let half = used / 2;
        let offset = half / 2 + self.words.below(half as usize) as u64;
        volume.flip(path, offset, 1)?;
        Ok(Some((path.clone(), offset)))
    }
}

impl Fault for Damage {
    fn inject(&mut self, fleet: &mut Fleet) -> Result<()> {
        let victim = Target::Any.pick_one(fleet, &mut self.words)?;
        self.victim = Some(victim);
        self.wait_found(fleet.node(victim).volume()?)?;
        fleet.kill(victim);
        let struck = self.strike(fleet.node(victim).volume()?)?;
        let node = &fleet.node(victim).name;
        let detail = json!({"node": node, "part": format!("{:?}", self.part), "at": struck});
        fleet.events().enter("damage", detail);
        self.starts = taken_in(fleet, victim)?;
        fleet.start_node(victim)
    }

    fn heal(&mut self, fleet: &mut Fleet) -> Result<()> {
        let Some(victim) = self.victim.take() else {
            return Ok(());
        };
        let end = Instant::now() + START_LIMIT;
        let mut calm_since = None;
        let serves = loop {
            if fleet.has_ended(victim)? || Instant::now() > end {
                break false;
            }
            let is_in = taken_in(fleet, victim)? > self.starts && fleet.serves(victim)?;
            if !is_in {
                calm_since = None;
            } else if calm_since.get_or_insert_with(Instant::now).elapsed() > CALM {
                break true;
            }
            thread::sleep(REST);
        };
        let node = &fleet.node(victim).name;
        let detail = json!({"node": node, "serves": serves});
        fleet.events().enter("damage taken", detail);
        if serves {
            return Ok(());
        }
        fleet.replace(victim)
    }
}

/// How often a node was taken in by the others.
fn taken_in(fleet: &Fleet, number: usize) -> Result<usize> {
    let log = fs::read(fleet.node(number).log())?;
    Ok(String::from_utf8_lossy(&log).matches(TAKEN_IN).count())
}
