//! The settings that services look at, as agreed at this moment.

use std::sync::Arc;

use tokio::sync::watch;
use weir_cluster::{
    blob::Lease,
    raft::Consensus,
    state::{ClusterState, ReadMode},
};

/// A look at the agreed settings. Cheap to clone and to ask.
#[derive(Clone)]
pub(crate) struct Agreed(watch::Receiver<Arc<ClusterState>>);

impl Agreed {
    pub(crate) fn new(consensus: &dyn Consensus) -> Self {
        Self(consensus.state())
    }

    /// The lease that reads, uploads, pushes and FindMissing grant.
    pub(crate) fn lease(&self) -> Lease {
        Lease {
            seconds: self.0.borrow().settings.lease_seconds,
        }
    }

    /// How refs are read.
    pub(crate) fn ref_reads(&self) -> ReadMode {
        self.0.borrow().settings.ref_reads
    }
}
