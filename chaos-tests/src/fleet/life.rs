//! How nodes begin, end and are hurt.

use std::{
    fs,
    path::Path,
    process::Command,
    sync::PoisonError,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::process::Signal;
use serde_json::json;

use super::{Cut, Fleet, clock};
use crate::{process::Process, rig::faultdisk::Keep};

/// From SIGTERM until a node has ended by itself.
const STOP_LIMIT: Duration = Duration::from_secs(45);

impl Fleet {
    /// Starts a node on what is in its data directory. Does not wait until it
    /// serves: it may have reasons not to.
    pub fn start_node(&mut self, number: usize) -> Result<()> {
        let clocks = self.options.clocks;
        let mut serve = self.serve_command(number);
        let node = &mut self.nodes[number];
        ensure!(node.process.is_none(), "{} was started already", node.name);
        if clocks {
            clock::under(&mut serve, node)?;
        }
        let process = node
            .room
            .spawn(&self.trial, &node.name, &serve, &node.log())?;
        self.events
            .enter("start", json!({"node": node.name, "pid": process.pid()}));
        let pid = process.pid();
        node.process = Some(process);
        node.is_paused = false;
        let pids = &self.pids;
        pids.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(pid);
        Ok(())
    }

    fn serve_command(&self, number: usize) -> Command {
        let mut serve = Command::new(&self.weir);
        serve.args(self.with_config("serve", number));
        serve.env_remove("WEIR_CONFIG").env_remove("WEIR_NODE");
        serve
    }

    /// Starts a node, unless it runs already.
    pub fn revive(&mut self, number: usize) -> Result<()> {
        if !self.has_ended(number)? {
            return Ok(());
        }
        self.kill(number);
        self.start_node(number)
    }

    /// `kill -9`, whatever the node does; fine for one that has ended.
    pub fn kill(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        if let Some(mut process) = node.process.take() {
            self.events.enter("kill", json!({"node": node.name}));
            process.kill();
        }
        node.is_paused = false;
    }

    /// SIGTERM, and waits until the node has ended by itself.
    pub fn stop(&mut self, number: usize) -> Result<()> {
        self.stop_all(&[number])
    }

    /// The same of several at once.
    pub fn stop_all(&mut self, numbers: &[usize]) -> Result<()> {
        let mut ending = Vec::new();
        for number in numbers {
            let node = &mut self.nodes[*number];
            self.events.enter("stop", json!({"node": node.name}));
            let mut process = running(&mut node.process, &node.name)?;
            process.signal(Signal::TERM)?;
            ending.push((node.name.clone(), process));
        }
        for (name, mut process) in ending {
            let status = process.wait(STOP_LIMIT)?;
            let tail = process.tail();
            ensure!(status.success(), "{name} ended with {status}\n{tail}");
        }
        Ok(())
    }

    /// SIGSTOP: the node does nothing, and its connections stay.
    pub fn pause(&mut self, number: usize) -> Result<()> {
        self.signal(number, Signal::STOP)?;
        self.nodes[number].is_paused = true;
        Ok(())
    }

    /// SIGCONT; fine for one that does not run.
    pub fn resume(&mut self, number: usize) -> Result<()> {
        if self.nodes[number].process.is_none() {
            return Ok(());
        }
        self.signal(number, Signal::CONT)?;
        self.nodes[number].is_paused = false;
        Ok(())
    }

    fn signal(&mut self, number: usize, signal: Signal) -> Result<()> {
        let node = &mut self.nodes[number];
        let what = if signal == Signal::STOP {
            "pause"
        } else {
            "resume"
        };
        self.events.enter(what, json!({"node": node.name}));
        let process = node.process.as_mut();
        process
            .with_context(|| format!("{} does not run", node.name))?
            .signal(signal)
    }

    /// Cuts the power of these nodes in one instant: what they had not synced
    /// is gone, but for what `keep` and its seed leave of it on disks that can
    /// do that. They are not started again; their volumes are, and are whole,
    /// the file system as well as the blobs on it.
    pub fn power_cut(&mut self, numbers: &[usize], keep: Option<(Keep, u64)>) -> Result<()> {
        let nodes: Vec<_> = numbers.iter().map(|one| &self.nodes[*one]).collect();
        let names: Vec<_> = nodes.iter().map(|node| &node.name).collect();
        let volumes = nodes.iter().map(|node| node.volume());
        let volumes = volumes.collect::<Result<Vec<_>>>()?;
        self.events.enter("power cut", json!({"nodes": names}));
        let mut told = Vec::new();
        let ordered = Instant::now();
        for (node, volume) in numbers.iter().zip(volumes) {
            match keep {
                None => volume.cut()?,
                // Each disk by its own odds.
                Some((keep, seed)) => {
                    let seed = seed.wrapping_add(*node as u64);
                    told.push(volume.cut_keeping(keep, seed)?);
                }
            }
        }
        for number in numbers {
            self.kill(*number);
            self.cuts.push(Cut {
                node: *number,
                ordered,
                done: Instant::now(),
            });
        }
        if !told.is_empty() {
            let detail = json!({"keep": keep, "disks": told});
            self.events.enter("torn", detail);
        }
        for number in numbers {
            let volume = self.nodes[*number].volume_mut()?;
            volume.unmount()?;
            // Replays the journal, without which a check says nothing.
            volume.mount()?;
            volume.unmount()?;
            volume.check()?;
            volume.mount()?;
        }
        self.fsck(numbers)
    }

    /// Removes everything that a node keeps; it must not run.
    pub fn erase(&mut self, number: usize) -> Result<()> {
        let node = &mut self.nodes[number];
        ensure!(node.process.is_none(), "{} runs", node.name);
        self.events.enter("erase", json!({"node": node.name}));
        node.is_rotten = false;
        let data = node.data();
        match &mut node.volume {
            Some(volume) => {
                volume.unmount()?;
                volume.format()?;
                volume.mount()
            }
            None if data.exists() => Ok(fs::remove_dir_all(data)?),
            None => Ok(()),
        }
    }

    /// Ends a node and brings its volume back into use: mounted, mended, with
    /// space. For the end of any fault of a disk.
    pub fn recover_volume(&mut self, number: usize) -> Result<()> {
        self.kill(number);
        let volume = self.nodes[number].volume_mut()?;
        volume.unmount()?;
        volume.mend()?;
        volume.mount()?;
        volume.relieve()
    }

    /// Ends a node in good order and copies its volume to a file.
    pub fn copy_volume(&mut self, number: usize, file: &Path) -> Result<()> {
        self.with_volume_unmounted(number, |volume| volume.copy_to(file))
    }

    /// Ends a node and puts a copy in the place of its volume.
    pub fn restore_volume(&mut self, number: usize, file: &Path) -> Result<()> {
        self.kill(number);
        let name = &self.nodes[number].name;
        self.events.enter("volume restored", json!({"node": name}));
        self.with_volume_unmounted(number, |volume| volume.restore_from(file))
    }

    fn with_volume_unmounted(
        &mut self,
        number: usize,
        job: impl FnOnce(&crate::rig::Volume) -> Result<()>,
    ) -> Result<()> {
        if self.nodes[number].process.is_some() {
            self.stop(number)?;
        }
        let volume = self.nodes[number].volume_mut()?;
        volume.unmount()?;
        job(volume)?;
        volume.mount()
    }

    /// Takes the volume away under a running node.
    pub fn vanish(&mut self, number: usize) -> Result<()> {
        let name = self.nodes[number].name.clone();
        self.events.enter("volume gone", json!({"node": name}));
        self.nodes[number].volume_mut()?.vanish()
    }

    /// Turns the volume of a running node read-only.
    pub fn read_only(&mut self, number: usize) -> Result<()> {
        let node = &self.nodes[number];
        self.events.enter("read-only", json!({"node": node.name}));
        node.volume()?.read_only()
    }

    /// Inverts bytes of a file on a node's volume, whatever the node does.
    pub fn rot(&mut self, number: usize, path: &Path, offset: u64, count: usize) -> Result<()> {
        let node = &mut self.nodes[number];
        let detail = json!({"node": node.name, "file": path, "offset": offset, "bytes": count});
        self.events.enter("rot", detail);
        node.is_rotten = true;
        node.volume()?.flip(path, offset, count)
    }

    /// Takes the space of a node's volume but for `spare` bytes, or else all
    /// its inodes.
    pub fn fill(&mut self, number: usize, spare: Option<u64>) -> Result<()> {
        let node = &self.nodes[number];
        let detail = json!({"node": node.name, "spare_bytes": spare});
        self.events.enter("full", detail);
        match spare {
            Some(spare) => node.volume()?.fill(spare),
            None => node.volume()?.fill_inodes(),
        }
    }

    /// Gives back what [`fill`](Self::fill) took.
    pub fn relieve(&mut self, number: usize) -> Result<()> {
        let node = &self.nodes[number];
        self.events.enter("relieved", json!({"node": node.name}));
        node.volume()?.relieve()
    }

    /// An error when the process of a node has ended by itself, with the end
    /// of its log.
    pub fn insist_running(&mut self, number: usize) -> Result<()> {
        let node = &mut self.nodes[number];
        match &mut node.process {
            Some(process) => process.still_runs(),
            None => bail!("{} was not started", node.name),
        }
    }

    /// Whether the process of a node has ended by itself.
    pub fn has_ended(&mut self, number: usize) -> Result<bool> {
        match &mut self.nodes[number].process {
            Some(process) => Ok(process.status()?.is_some()),
            None => Ok(true),
        }
    }
}

fn running(process: &mut Option<Process>, name: &str) -> Result<Process> {
    process.take().ok_or_else(|| anyhow!("{name} does not run"))
}
