//! The commands of an operator: who belongs to the cluster.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};

use super::Fleet;

/// Commands that do not wait for blobs to move.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// Commands that do; what they are told themselves is shorter.
const MOVE_LIMIT: Duration = Duration::from_secs(330);

/// How long a command is tried again; elections and restarts are shorter.
const PATIENCE: Duration = Duration::from_secs(40);

/// Between two rounds of trying.
const REST: Duration = Duration::from_secs(1);

impl Fleet {
    /// `weir init`: this node begins the cluster.
    pub(super) fn init(&mut self, number: usize) -> Result<()> {
        let mut words = self.with_config("init", number);
        for setting in &self.options.cluster {
            words.extend(["--setting".into(), setting.clone()]);
        }
        self.weir(number, &words, COMMAND_LIMIT)?;
        self.set_member(number, true);
        Ok(())
    }

    /// `weir join` through a member that serves; the node's data directory
    /// must be empty. Takes the place of a member of the same name.
    pub fn join(&mut self, number: usize) -> Result<()> {
        self.through_any(number, |fleet, through| {
            let mut words = fleet.with_config("join", number);
            words.extend(["--node".into(), fleet.node(through).admin.clone()]);
            fleet.weir(number, &words, COMMAND_LIMIT)
        })?;
        self.set_member(number, true);
        Ok(())
    }

    /// `weir scrub --now`: a node begins to read all its copies.
    pub fn scrub(&self, number: usize) -> Result<()> {
        let node = self.node(number);
        let words = ["scrub", &node.name, "--now", "--node", &node.own_admin];
        self.weir(number, &words, COMMAND_LIMIT).map(drop)
    }

    /// `weir node drain`, and waits until the node holds nothing that others
    /// lack.
    pub fn drain(&mut self, number: usize) -> Result<()> {
        let name = self.node(number).name.clone();
        let words = ["node", "drain", &name, "--wait", "--timeout", "300s"];
        self.ask(number, &words, MOVE_LIMIT)
    }

    /// Calls a node back that drains.
    pub fn undrain(&mut self, number: usize) -> Result<()> {
        let name = self.node(number).name.clone();
        let words = ["node", "drain", &name, "--cancel"];
        self.ask(number, &words, COMMAND_LIMIT)
    }

    /// `weir node remove` of a node that has drained; its process is left
    /// alone.
    pub fn remove(&mut self, number: usize) -> Result<()> {
        let name = self.node(number).name.clone();
        self.ask_to_remove(number, &["node", "remove", &name])?;
        self.set_member(number, false);
        Ok(())
    }

    /// `weir node remove --dead`: it does not run, and what only it held is
    /// given up.
    pub fn remove_dead(&mut self, number: usize) -> Result<()> {
        let name = self.node(number).name.clone();
        self.ask_to_remove(number, &["node", "remove", &name, "--dead"])?;
        self.set_member(number, false);
        Ok(())
    }

    /// A new machine under the same name: nothing is on its disk. Waits until
    /// it serves.
    pub fn replace(&mut self, number: usize) -> Result<()> {
        self.kill(number);
        self.erase(number)?;
        self.join(number)?;
        self.start_node(number)?;
        self.wait_serving(number)
    }

    /// As [`ask`](Self::ask): an attempt that seemed to fail may have removed
    /// the member all the same, and the next is told that there is none.
    fn ask_to_remove(&self, about: usize, words: &[&str]) -> Result<()> {
        self.through_any(about, |fleet, asked| {
            let admin = fleet.node(asked).own_admin.clone();
            let words = [words, &["--node", &admin]].concat();
            match fleet.weir(asked, &words, COMMAND_LIMIT) {
                Err(error) if error.to_string().contains("no member is named") => Ok(String::new()),
                other => other,
            }
        })
    }

    /// Gives a command to another member, in its own room.
    fn ask(&self, about: usize, words: &[&str], limit: Duration) -> Result<()> {
        self.through_any(about, |fleet, asked| {
            let admin = fleet.node(asked).own_admin.clone();
            fleet.weir(asked, &[words, &["--node", &admin]].concat(), limit)
        })
    }

    /// Tries other members in turn until one does what it is told: one may be
    /// cut off, or there may be no leader for a moment.
    fn through_any(
        &self,
        number: usize,
        order: impl Fn(&Fleet, usize) -> Result<String>,
    ) -> Result<()> {
        let start = Instant::now();
        let mut last = anyhow!("no other member runs");
        loop {
            let others = self.healthy().into_iter().filter(|other| *other != number);
            for other in others {
                match order(self, other) {
                    Ok(_) => return Ok(()),
                    // It does not know the command.
                    Err(error) if error.to_string().contains("exit status: 2") => {
                        return Err(error);
                    }
                    Err(error) => last = error,
                }
            }
            if start.elapsed() > PATIENCE {
                return Err(last);
            }
            thread::sleep(REST);
        }
    }

    /// A command with the configuration of a node.
    pub(super) fn with_config(&self, command: &str, number: usize) -> Vec<String> {
        let config = self.node(number).config().display().to_string();
        let mut words = vec![command.to_owned(), "--config".into(), config];
        for setting in &self.options.settings {
            words.extend(["--set".into(), setting.clone()]);
        }
        words
    }
}
