//! Which judge a history has.

use serde::{Deserialize, Serialize};

use super::work::Kind;
use crate::{
    history::{self, ABSENT, Operation},
    invariants::complete,
    oracle::{Verdict, available, blobs, linear},
    scenario::Reads,
};

/// What a judge has to know of a run besides its history.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Terms {
    /// Refs were read as of one machine.
    pub(super) linearizable: bool,
    /// Nothing was done to the cluster.
    pub(super) undisturbed: bool,
}

impl Terms {
    pub(super) fn new(reads: Reads, undisturbed: bool) -> Terms {
        Terms {
            linearizable: reads == Reads::Linearizable,
            undisturbed,
        }
    }
}

/// Judges the history of one workload.
///
/// A node that cannot confirm one blob of an artifact hides the artifact
/// (promise P7), so that while nodes are hurt a miss of one says nothing: it is
/// left out. Those of the full scan, when all is whole again, are not.
pub(super) fn judge(kind: Kind, terms: Terms, history: &[Operation]) -> Verdict {
    let is_doubt = |op: &Operation| {
        kind == Kind::Artifacts
            && !terms.undisturbed
            && (op.kind, op.value) == (history::Kind::Read, ABSENT)
            && op.process != complete::NOBODY
    };
    let mut telling = history.to_vec();
    telling.retain(|op| !is_doubt(op));
    let history = &telling[..];
    match kind {
        Kind::Refs | Kind::Artifacts if terms.linearizable => linear::check(history),
        Kind::Refs | Kind::Artifacts => available::check(history),
        Kind::Blobs | Kind::Presence => blobs::check(history, terms.undisturbed),
    }
}
