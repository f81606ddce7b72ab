//! What a run stands on.

use anyhow::Result;
use serde_json::Value;

use crate::{history::Clock, load::Nodes, oracle::doubt::Cut, rig::room::Inside};

/// A cluster that is there already, and what happens to it.
pub trait Ground {
    /// Whom clients ask; follows what becomes of the cluster.
    fn clients(&self) -> Nodes;

    /// Where the members serve clients now.
    fn urls(&self) -> Vec<String>;

    /// Where the members can be asked how they are; none where that is not
    /// known.
    fn admins(&self) -> Vec<String>;

    /// Moves the calling thread to where clients are, until it is dropped.
    fn enter(&self) -> Result<Option<Inside>>;

    /// Whether stored bytes were changed on purpose: some may have been read by
    /// nobody yet.
    fn is_rotten(&self) -> bool {
        false
    }

    /// Which machines lost power so far, by the clock of the run.
    fn cuts(&self, clock: Clock) -> Vec<Cut>;

    /// Enters a step of the run into its record.
    fn note(&self, what: &str, detail: Value);

    /// Lets all faults happen and end. What it finds out meanwhile that must
    /// not be is an error, and so is a cluster that does not come back.
    fn trouble(&mut self) -> Result<()>;
}
