//! Commands of `weir`, in the rooms of nodes.

use std::{
    process::{Command, ExitStatus},
    time::Duration,
};

use anyhow::{Result, ensure};
use serde_json::json;

use super::Fleet;
use crate::process::Process;

impl Fleet {
    /// Runs a command of `weir` in the room of a node, and returns what it
    /// printed.
    pub fn weir(
        &self,
        number: usize,
        words: &[impl AsRef<str>],
        limit: Duration,
    ) -> Result<String> {
        let begun = self.begin_weir(number, words)?;
        let words = begun.words.clone();
        let (status, text) = begun.end(limit)?;
        ensure!(status.success(), "weir {words}: {status}: {text}");
        Ok(text)
    }

    /// The same, without waiting: several commands run at the same time.
    pub(super) fn begin_weir(&self, number: usize, words: &[impl AsRef<str>]) -> Result<Begun> {
        let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
        let node = self.node(number);
        // What every command of this fleet has alike says nothing.
        let is_own = |word: &&&str| !(word.starts_with("--set") || self.has_setting(word));
        let said: Vec<_> = words.iter().filter(is_own).collect();
        self.events
            .enter("weir", json!({"at": node.name, "words": said}));
        let mut command = Command::new(&self.weir);
        command.args(&words);
        command.env_remove("WEIR_CONFIG").env_remove("WEIR_NODE");
        let count = self.commands.get() + 1;
        self.commands.set(count);
        let log = self.trial.dir().join(format!("weir-{count}.log"));
        Ok(Begun {
            process: node.room.spawn(&self.trial, "weir", &command, &log)?,
            words: words.join(" "),
        })
    }

    fn has_setting(&self, word: &str) -> bool {
        let options = &self.options;
        let mut all = options.settings.iter().chain(&options.cluster);
        all.any(|setting| setting == word)
    }
}

/// A command of `weir` under way.
pub(super) struct Begun {
    process: Process,
    words: String,
}

impl Begun {
    /// Waits for its end, and gives what it printed.
    pub(super) fn end(mut self, limit: Duration) -> Result<(ExitStatus, String)> {
        let status = self.process.wait(limit)?;
        Ok((status, self.process.output()))
    }
}
