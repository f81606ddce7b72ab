//! The record of what was done to a run, as JSON lines.

use std::{
    fs::File,
    io::Write,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::trial::Trial;

/// Every step of a run with its time, in a file and as progress lines. Clones
/// write to the same file.
#[derive(Clone)]
pub struct Events {
    trial: Trial,
    start: Instant,
    // Held for one line at a time.
    file: Arc<Mutex<File>>,
}

impl Events {
    /// Writes to `file`, which is made anew.
    pub fn new(trial: &Trial, file: &Path) -> Result<Events> {
        let made = File::create(file).with_context(|| format!("cannot make {}", file.display()))?;
        Ok(Events {
            trial: trial.clone(),
            start: Instant::now(),
            file: Arc::new(Mutex::new(made)),
        })
    }

    /// Enters one step: `what` in a word or two, the rest as an object.
    pub fn enter(&self, what: &str, detail: Value) {
        self.trial.step(format!("{what} {detail}"));
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        let line = json!({
            "at_ms": self.start.elapsed().as_millis() as u64,
            "unix_ms": wall.map_or(0, |wall| wall.as_millis() as u64),
            "what": what,
            "detail": detail,
        });
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // A record that cannot be written is no reason to stop the run; what
        // was printed remains.
        let _ = writeln!(file, "{line}");
    }
}
