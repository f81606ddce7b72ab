//! Which judge a history has.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::work::Kind;
use crate::{
    history::Operation,
    oracle::{Verdict, available, blobs, doubt::Doubt, linear},
    scenario::Reads,
};

/// What a judge has to know of a run besides its history.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Terms {
    /// Refs were read as of one machine.
    pub(super) linearizable: bool,
    /// Nothing was done to the cluster.
    pub(super) undisturbed: bool,
    /// What is no evidence.
    pub(super) doubt: Doubt,
    /// Microseconds for which a promise of a blob holds; for good if there are
    /// none.
    #[serde(default)]
    pub(super) lease: Option<u64>,
}

impl Terms {
    pub(super) fn new(
        reads: Reads,
        undisturbed: bool,
        doubt: Doubt,
        lease: Option<Duration>,
    ) -> Terms {
        Terms {
            linearizable: reads == Reads::Linearizable,
            undisturbed,
            doubt,
            lease: lease.map(|lease| lease.as_micros() as u64),
        }
    }
}

/// Judges the history of one workload.
pub(super) fn judge(kind: Kind, terms: &Terms, history: &[Operation]) -> Verdict {
    let history = &terms.doubt.leave(history);
    match kind {
        Kind::Refs | Kind::Artifacts if terms.linearizable => linear::check(history),
        Kind::Refs | Kind::Artifacts => available::check(history),
        Kind::Blobs | Kind::Presence => blobs::check(history, terms.undisturbed, terms.lease),
    }
}
