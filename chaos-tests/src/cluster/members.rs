//! Members that come and go: the commands an operator uses, on real nodes.

use std::{
    fs,
    path::PathBuf,
    process::{Command, ExitStatus},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use super::{Cluster, Node, READY_LIMIT};
use crate::{
    ports,
    process::{Process, is_running, running_with},
    program,
};

/// Any command but those that wait for blobs to move.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// A command that waits for blobs to move; its own limit is shorter.
const MOVE_LIMIT: Duration = Duration::from_secs(330);

/// What a run of `weir` said and how it ended.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Everything that it printed.
    pub text: String,
}

impl Output {
    /// Insists that the command did what it says.
    pub fn insist(self) -> Result<String> {
        ensure!(self.status.success(), "{}: {}", self.status, self.text);
        Ok(self.text)
    }

    /// Insists that the command was refused and said this, in any case of letters.
    pub fn refused(self, why: &str) -> Result<String> {
        ensure!(!self.status.success(), "it was not refused: {}", self.text);
        ensure!(
            self.text.to_lowercase().contains(&why.to_lowercase()),
            "it does not say {why:?}: {}",
            self.text
        );
        Ok(self.text)
    }
}

impl Cluster {
    /// Runs a command of `weir` to its end.
    pub fn weir(&self, words: &[&str]) -> Result<Output> {
        self.weir_within(words, COMMAND_LIMIT)
    }

    fn weir_within(&self, words: &[&str], limit: Duration) -> Result<Output> {
        self.trial.step(format!("weir {}", words.join(" ")));
        let mut command = Command::new(program::weir(&self.trial)?);
        command.args(words);
        command.env_remove("WEIR_CONFIG").env_remove("WEIR_NODE");
        let number = self.commands.get() + 1;
        self.commands.set(number);
        let log = self.dir.join(format!("weir-{number}.log"));
        let mut process = Process::spawn(&self.trial, "weir", command, &log)?;
        let status = process.wait(limit)?;
        let text = process.output();
        Ok(Output { status, text })
    }

    /// Runs a command that any node can answer, through one that runs.
    pub fn ask(&self, words: &[&str]) -> Result<Output> {
        let admin = &self.node(self.any_live()?).admin;
        self.weir_within(&[words, &["--node", admin]].concat(), MOVE_LIMIT)
    }

    /// Nodes that run, as far as this handle knows.
    pub fn live(&self) -> Vec<usize> {
        let all = 0..self.nodes.len();
        all.filter(|index| !self.down.contains(index)).collect()
    }

    /// The process of a node that runs.
    pub fn pid(&self, index: usize) -> u32 {
        let revived = self.revived.get(&index).map(Process::pid);
        revived.unwrap_or(self.node(index).pid)
    }

    fn any_live(&self) -> Result<usize> {
        self.live().first().copied().context("no node runs")
    }

    /// Starts a node as [`Self::start_again`] does, insists that it ends by
    /// itself, not well, and returns what it said.
    pub fn start_in_vain(&mut self, index: usize) -> Result<String> {
        let mut process = self.serve(index)?;
        let status = process.wait(READY_LIMIT)?;
        ensure!(!status.success(), "{status}\n{}", process.tail());
        Ok(process.output())
    }

    pub(super) fn serve(&mut self, index: usize) -> Result<Process> {
        let node = &self.nodes[index];
        self.trial.step(format!("starting {}", node.name));
        let revived = match self.revived.get_mut(&index) {
            Some(process) => process.status()?.is_none(),
            None => false,
        };
        if revived || is_running(node.pid) && running_with(&self.dir).contains(&node.pid) {
            bail!("{} still runs", node.name);
        }
        let mut command = Command::new(program::weir(&self.trial)?);
        command.args(["serve", "--config", &node.config()]);
        let number = self.commands.get() + 1;
        self.commands.set(number);
        let log = format!("{}-start-{number}.log", node.name);
        Process::spawn(&self.trial, &node.name, command, &self.dir.join(log))
    }

    /// Makes a new node on free ports and takes it into the cluster; returns
    /// its index when it serves.
    pub fn add(&mut self, name: &str, zone: &str) -> Result<usize> {
        let dir = self.dir.join(name);
        fs::create_dir(&dir).with_context(|| format!("a second node named {name}"))?;
        let node = write_config(&dir, name, zone)?;
        let index = self.nodes.len();
        self.nodes.push(node);
        self.down.insert(index);
        self.join(index)?;
        Ok(index)
    }

    /// `weir join` with a node's own configuration, which must have no data
    /// directory, and starts it.
    pub fn join(&mut self, index: usize) -> Result<()> {
        let config = self.node(index).config();
        self.ask(&["join", "--config", &config])?.insist()?;
        self.start_again(index)
    }

    /// Removes the data directory of a node that does not run: its volume is lost.
    pub fn erase(&self, index: usize) -> Result<()> {
        let node = self.node(index);
        if !self.down.contains(&index) {
            bail!("{} runs", node.name);
        }
        self.trial.step(format!("erasing {}", node.name));
        Ok(fs::remove_dir_all(node.data())?)
    }

    /// Drains a node and waits until it holds nothing that others lack.
    pub fn drain(&self, index: usize) -> Result<()> {
        let name = &self.node(index).name;
        let words = ["node", "drain", name, "--wait", "--timeout", "300s"];
        self.ask(&words)?.insist().map(drop)
    }

    /// Removes a node that has drained, and ends its process.
    pub fn remove(&mut self, index: usize) -> Result<()> {
        let name = self.node(index).name.clone();
        // Not through the node itself, which has no say any more.
        self.down.insert(index);
        let removed = self.ask(&["node", "remove", &name]);
        self.down.remove(&index);
        removed?.insist()?;
        self.end(index)
    }

    /// Removes a node that is gone for good.
    pub fn remove_dead(&self, index: usize) -> Result<()> {
        let name = &self.node(index).name;
        self.ask(&["node", "remove", name, "--dead"])?
            .insist()
            .map(drop)
    }

    /// Sees to it that a node's process is gone, which it may be already.
    fn end(&mut self, index: usize) -> Result<()> {
        if let Err(error) = self.kill9(index) {
            // Fine for one that ended by itself when it was removed.
            self.trial.step(format!("{error:#}"));
        }
        self.down.insert(index);
        Ok(())
    }
}

/// Gives two nodes that do not run each other's ports.
pub fn swap_addresses(one: (&mut Cluster, usize), two: (&mut Cluster, usize)) -> Result<()> {
    let (one, two) = (&mut one.0.nodes[one.1], &mut two.0.nodes[two.1]);
    let texts = [
        fs::read_to_string(one.config())?,
        fs::read_to_string(two.config())?,
    ];
    let [first, second] = [&texts[0], &texts[1]].map(|text| listen_section(text));
    let (first, second) = (first?, second?);
    fs::write(one.config(), texts[0].replace(first, second))?;
    fs::write(two.config(), texts[1].replace(second, first))?;
    std::mem::swap(&mut one.client, &mut two.client);
    std::mem::swap(&mut one.admin, &mut two.admin);
    Ok(())
}

/// The section of `weir.toml` with the ports.
fn listen_section(text: &str) -> Result<&str> {
    let from = text.find("[listen]\n").context("no section [listen]")?;
    let rest = &text[from..];
    let len = rest.find("\n[").unwrap_or(rest.len());
    Ok(&rest[..len])
}

impl Node {
    /// Its configuration file.
    pub fn config(&self) -> String {
        self.dir.join("weir.toml").display().to_string()
    }

    /// Its data directory: the node's volume.
    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }
}

/// Writes the configuration of a node that listens on ports that are free now.
pub fn write_config(dir: &std::path::Path, name: &str, zone: &str) -> Result<Node> {
    let [client, peer, admin] = ports::free()?;
    let text = format!(
        "[node]\nname = {name:?}\nzone = {zone:?}\nhost = {name:?}\ndata = {:?}\n\
         [listen]\nclient = \"{client}\"\npeer = \"{peer}\"\nadmin = \"{admin}\"\n",
        dir.join("data")
    );
    fs::write(dir.join("weir.toml"), text)?;
    Ok(Node {
        name: name.to_owned(),
        zone: zone.to_owned(),
        pid: 0,
        client: format!("http://{client}"),
        admin: format!("http://{admin}"),
        dir: dir.to_owned(),
    })
}
