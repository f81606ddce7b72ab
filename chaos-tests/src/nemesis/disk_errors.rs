//! Disks that fail while the file system above them lives.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{Fault, Target, rot::BLOBS};
use crate::{
    fleet::{Fleet, Node},
    invariants::{self, durable},
    load::content::Name,
    rig::{
        Volume,
        faultdisk::{Access, BLOCK_BYTES, Failure},
    },
    seeded::Words,
    wait::until,
};

/// Files that cannot be read.
const FILES: usize = 3;

/// What a node says when it takes its volume out of use.
const FENCED: &str = "volume fenced";

/// From an order until a node has met what was ordered: it reads all its
/// copies meanwhile, or writes because it has work.
const MET_LIMIT: Duration = Duration::from_secs(120);

/// How long "not now" is asked again.
const PATIENCE: Duration = Duration::from_secs(30);

/// A disk gives EIO.
///
/// - Reads fail in a few places, where blobs are: the node reads all its
///   copies, and has others made of those that it cannot read. Healed by
///   lifting it, without a restart.
/// - Writes or syncs fail, and what they were to make durable is lost: the
///   volume is out of use until the node starts on one that is mended, also
///   when the disk is a good one again before.
pub struct DiskErrors {
    words: Words,
    access: Access,
    hit: Option<Hit>,
}

struct Hit {
    victim: usize,
    /// Files that cannot be read.
    files: Vec<PathBuf>,
    /// Accesses that the disk had refused before.
    before: u64,
    /// How often the log of the node had said that its volume is fenced.
    fenced: usize,
    /// The disk is a good one again in the middle of it.
    passes: bool,
}

impl DiskErrors {
    /// One whose victim and places follow from the seed.
    pub fn new(seed: u64, access: Access) -> DiskErrors {
        DiskErrors {
            words: Words::new(seed),
            access,
            hit: None,
        }
    }

    /// A few files with blobs, and where they are on the disk.
    fn places(&mut self, volume: &Volume) -> Result<(Vec<PathBuf>, Vec<Failure>)> {
        let mut files = Vec::new();
        for dir in BLOBS {
            files.extend(volume.files(Path::new(dir))?);
        }
        files.retain(|(_, length)| *length > 0);
        let mut chosen = Vec::new();
        let mut failures = Vec::new();
        while chosen.len() < FILES && !files.is_empty() {
            let (path, _) = files.swap_remove(self.words.below(files.len()));
            let mut places = volume.extents(&path, false)?;
            // The block behind which a segment grows is read to be written.
            if let Some(last) = places.last_mut() {
                last.end -= BLOCK_BYTES as u64;
            }
            places.retain(|place| !place.is_empty());
            if places.is_empty() {
                continue;
            }
            failures.extend(places.into_iter().map(|range| Failure {
                access: Access::Read,
                range,
                times: None,
            }));
            chosen.push(path);
        }
        ensure!(!chosen.is_empty(), "no blob is on the disk yet");
        Ok((chosen, failures))
    }
}

impl Fault for DiskErrors {
    fn inject(&mut self, fleet: &mut Fleet) -> Result<()> {
        let victim = Target::Any.pick_one(fleet, &mut self.words)?;
        let (files, failures) = match self.access {
            Access::Read => self.places(fleet.node(victim).volume()?)?,
            access => (Vec::new(), vec![Failure::everywhere(access, None)]),
        };
        let promised = promised(fleet, victim, &files)?;
        let passes = self.access != Access::Read && self.words.below(2) == 1;
        let before = fleet.node(victim).volume()?.told()?.refused;
        self.hit = Some(Hit {
            victim,
            files,
            before,
            fenced: fenced(fleet.node(victim))?,
            passes,
        });
        fleet.fail_disk(victim, &failures)?;
        if self.access == Access::Read {
            self.uncache(fleet)?;
            fleet.scrub(victim)?;
            read_elsewhere(fleet, victim, &promised)?;
        }
        Ok(())
    }

    fn victims(&self) -> &[usize] {
        let hit = self.hit.as_ref();
        hit.map_or(&[], |hit| std::slice::from_ref(&hit.victim))
    }

    fn tick(&mut self, fleet: &mut Fleet, passed: f64) -> Result<()> {
        self.uncache(fleet)?;
        if let Some(hit) = &mut self.hit
            && hit.passes
            && passed > 0.5
        {
            hit.passes = false;
            fleet.lift_disk(hit.victim)?;
        }
        Ok(())
    }

    fn heal(&mut self, fleet: &mut Fleet) -> Result<()> {
        let Some(hit) = self.hit.take() else {
            return Ok(());
        };
        let met = wait_met(fleet, &hit).and_then(|()| self.insist_fenced_once(fleet, &hit));
        let victim = hit.victim;
        fleet.lift_disk(victim)?;
        if self.access != Access::Read {
            fleet.recover_volume(victim)?;
            fleet.start_node(victim)?;
        }
        met
    }
}

impl DiskErrors {
    /// By the first error, and by no other; one that a read meets is none.
    fn insist_fenced_once(&self, fleet: &Fleet, hit: &Hit) -> Result<()> {
        let node = fleet.node(hit.victim);
        let times = fenced(node)? - hit.fenced;
        let wanted = usize::from(self.access != Access::Read);
        ensure!(
            times == wanted,
            "{} fenced its volume {times} times",
            node.name
        );
        Ok(())
    }

    /// What is in memory hides what the disk does.
    fn uncache(&self, fleet: &Fleet) -> Result<()> {
        let Some(Hit { victim, files, .. }) = &self.hit else {
            return Ok(());
        };
        let volume = fleet.node(*victim).volume()?;
        for file in files {
            // It may be evicted or set aside by now.
            let _ = volume.uncache(file);
        }
        Ok(())
    }
}

/// Blobs with files of their own that the cluster calls present, whatever
/// becomes of one node.
fn promised(fleet: &Fleet, victim: usize, files: &[PathBuf]) -> Result<Vec<Name>> {
    let names = files.iter().filter_map(|file| {
        let (hash, size) = file.file_name()?.to_str()?.split_once('-')?;
        Name::parse(hash, size.parse().ok()?)
    });
    let names: Vec<Name> = names.collect();
    let other = fleet.healthy().into_iter().find(|number| *number != victim);
    let (Some(other), false) = (other, names.is_empty()) else {
        return Ok(Vec::new());
    };
    let _inside = fleet.enter()?;
    invariants::present(&fleet.node(other).client, &names)
}

/// The node that cannot read them gives them all the same, and in whole.
fn read_elsewhere(fleet: &Fleet, victim: usize, names: &[Name]) -> Result<()> {
    let depth = durable::Depth {
        seed: 0,
        parts_every: 1,
        patience: PATIENCE,
    };
    let _inside = fleet.enter()?;
    let node = fleet.node(victim);
    let reads = durable::check(std::slice::from_ref(&node.client), names, depth)?;
    let detail = json!({"node": node.name, "blobs": names.len(), "reads": reads});
    fleet.events().enter("read elsewhere", detail);
    Ok(())
}

/// Lines of the log of a node by which it takes its volume out of use.
fn fenced(node: &Node) -> Result<usize> {
    let log = fs::read(node.log())?;
    Ok(String::from_utf8_lossy(&log).matches(FENCED).count())
}

/// A fault that nobody met shows nothing.
fn wait_met(fleet: &Fleet, hit: &Hit) -> Result<()> {
    let node = fleet.node(hit.victim);
    let volume = node.volume()?;
    let met = until("an error of the disk to be met", MET_LIMIT, || {
        let refused = volume.told()?.refused - hit.before;
        Ok((refused > 0).then_some(refused))
    });
    let refused = met.with_context(|| format!("files {:?}", hit.files))?;
    let detail = json!({"node": node.name, "refused": refused});
    fleet.events().enter("met", detail);
    let is_served = fleet.serves(hit.victim)?;
    ensure!(is_served, "{} does not serve beside a bad disk", node.name);
    Ok(())
}
