//! What clients asked of a cluster, and what they were told.
//!
//! One [`Operation`] is 56 bytes and owns nothing, so that a run of millions
//! fits into memory. Histories are kept as JSON lines: one operation a line,
//! in the order in which operations ended, readable without this crate.
//!
//! All times are microseconds of one [`Clock`], which never steps back.
//! Operations of two clocks must not be mixed.

use std::{
    fmt,
    fs::File,
    io::{BufRead, BufReader, BufWriter, Write},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// The value of a key that is not there.
pub const ABSENT: u64 = 0;

/// The revision of an operation whose answer told none.
pub const UNTOLD: u64 = 0;

/// What was asked.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The key is set to the value: a ref is pushed, a blob uploaded.
    Write,
    /// The key is read; the value is what was found.
    Read,
    /// The key is removed. Its value is [`ABSENT`].
    Delete,
    /// Whether the key is there, without its value: 1 or [`ABSENT`].
    Ask,
}

/// What is known of the effect (promise P12).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It happened.
    Ok,
    /// It did not happen.
    Failed,
    /// It may have happened, may happen later, or never.
    Unknown,
}

/// One call of a client.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Operation {
    /// The client. Its operations follow each other.
    pub process: u32,
    /// What it was about: a number of the workload's own.
    pub key: u32,
    pub kind: Kind,
    pub outcome: Outcome,
    /// The node that was asked, counted from 0.
    pub node: u16,
    /// Which of the key's names was used. All of them are one register, since
    /// all URIs of one push change in one step.
    pub uri: u8,
    /// Just before the request was sent.
    pub start: u64,
    /// Just after the answer was there. Says nothing when the outcome is
    /// [`Unknown`](Outcome::Unknown).
    pub end: u64,
    /// What was written or found; unique among the writes of a key.
    pub value: u64,
    /// The revision that the answer told.
    pub revision: u64,
}

impl Operation {
    /// Whether this ended before the other began.
    #[must_use]
    pub fn before(&self, other: &Operation) -> bool {
        self.outcome != Outcome::Unknown && self.end < other.start
    }

    /// Whether this may have changed its key.
    #[must_use]
    pub fn may_change(&self) -> bool {
        matches!(self.kind, Kind::Write | Kind::Delete) && self.outcome != Outcome::Failed
    }
}

#[cfg(test)]
impl Operation {
    /// One of key 1 that was answered, for histories written by hand.
    pub(crate) fn done(kind: Kind, value: u64, start: u64, end: u64) -> Operation {
        Operation {
            process: 0,
            key: 1,
            kind,
            outcome: Outcome::Ok,
            node: 0,
            uri: 0,
            start,
            end,
            value,
            revision: UNTOLD,
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Operation {
            process, key, node, ..
        } = self;
        let what = match self.kind {
            Kind::Write => "writes",
            Kind::Read => "reads",
            Kind::Delete => "deletes",
            Kind::Ask => "asks for",
        };
        let value = match self.value {
            ABSENT => "nothing".to_owned(),
            value => format!("{value:#x}"),
        };
        let end = match self.outcome {
            Outcome::Unknown => "?".to_owned(),
            _ => self.end.to_string(),
        };
        let outcome = match self.outcome {
            Outcome::Ok => "",
            Outcome::Failed => ", refused",
            Outcome::Unknown => ", outcome unknown",
        };
        write!(
            f,
            "process {process} {what} key {key} = {value} at node {node}, {} to {end} us{outcome}",
            self.start
        )?;
        if self.revision != UNTOLD {
            write!(f, ", revision {}", self.revision)?;
        }
        Ok(())
    }
}

/// Microseconds since it was made. Clones agree.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    #[must_use]
    pub fn start() -> Clock {
        Clock(Instant::now())
    }

    /// Now. At least 1, so that 0 is before everything.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.at(Instant::now())
    }

    /// An instant, by this clock.
    #[must_use]
    pub fn at(&self, instant: Instant) -> u64 {
        let passed = instant.saturating_duration_since(self.0).as_micros();
        u64::try_from(passed).unwrap_or(u64::MAX - 1) + 1
    }
}

/// Where clients leave their operations. Clones are handles of the same list.
///
/// A std mutex round one push: it is never held across anything that waits.
#[derive(Clone, Debug, Default)]
pub struct Recorder(Arc<Mutex<Vec<Operation>>>);

impl Recorder {
    pub fn record(&self, operation: Operation) {
        self.lock().push(operation);
    }

    /// How many operations there are by now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All operations so far.
    #[must_use]
    pub fn snapshot(&self) -> Vec<Operation> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Operation>> {
        // The list is whole after a panic elsewhere: it only grows by `push`.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes a history, one operation a line.
pub fn save(path: &Path, history: &[Operation]) -> Result<()> {
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut out = BufWriter::new(file);
    for operation in history {
        serde_json::to_writer(&mut out, operation)?;
        out.write_all(b"\n")?;
    }
    out.flush()?;
    Ok(())
}

/// Reads what [`save`] wrote. Lines are read into one buffer, and a line that
/// is no operation is an error with its number.
pub fn load(path: &Path) -> Result<Vec<Operation>> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut lines = BufReader::new(file);
    let mut line = String::new();
    let mut history = Vec::new();
    while lines.read_line(&mut line)? > 0 {
        let operation = serde_json::from_str(&line)
            .with_context(|| format!("{} line {}", path.display(), history.len() + 1))?;
        history.push(operation);
        line.clear();
    }
    Ok(history)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(number: u64) -> Operation {
        Operation {
            process: 3,
            key: number as u32,
            kind: Kind::Write,
            outcome: Outcome::Unknown,
            node: 1,
            uri: 0,
            start: number * 10,
            end: number * 10 + 5,
            value: number + 1,
            revision: UNTOLD,
        }
    }

    #[test]
    fn a_history_comes_back_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history.jsonl");
        let history: Vec<_> = (0..1000).map(sample).collect();
        save(&path, &history).unwrap();
        assert_eq!(load(&path).unwrap(), history);
    }

    #[test]
    fn a_broken_line_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history.jsonl");
        save(&path, &[sample(1)]).unwrap();
        let mut text = std::fs::read_to_string(&path).unwrap();
        text.push_str("{\"process\":1\n");
        std::fs::write(&path, text).unwrap();
        let error = format!("{:#}", load(&path).unwrap_err());
        assert!(error.contains("line 2"), "{error}");
    }

    #[test]
    fn an_operation_is_small() {
        assert!(size_of::<Operation>() <= 56);
    }

    #[test]
    fn nothing_is_before_what_follows_an_unknown_outcome() {
        assert!(!sample(1).before(&sample(9)));
        let done = Operation {
            outcome: Outcome::Ok,
            ..sample(1)
        };
        assert!(done.before(&sample(9)));
        assert!(!done.before(&Operation {
            start: done.end,
            ..sample(9)
        }));
    }
}
