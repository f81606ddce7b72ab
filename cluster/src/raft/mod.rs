//! Agreement: the seam between the services and Raft, and behind it the one
//! place where openraft is named.

mod applied;
mod arrival;
mod batches;
mod builder;
mod config;
mod consensus;
mod forms;
mod gate;
mod heard;
mod leader;
mod log_store;
mod mark;
pub mod memory;
mod network;
mod recent;
mod ref_key;
mod rounds;
mod rows;
mod server;
#[cfg(test)]
mod simulated;
mod snapshot;
mod state_machine;
pub mod types;
pub mod wire;

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;

pub use arrival::Barred;
pub use config::RaftConfig;
pub use consensus::{RaftConsensus, Setup, StartError};
pub use log_store::{LogConfig, LogStore};
#[cfg(all(test, tokio_unstable))]
pub(crate) use rows::memory::{Applied, MemoryRows};
pub use server::Service;

use crate::{
    Error,
    state::{ClusterState, Command, Ref, RefKey, Response},
};

/// openraft as it is run here.
type Raft = openraft::Raft<types::TypeConfig, state_machine::StateMachine>;

/// What the nodes agree on.
///
/// Calls wait through an election, up to `settings.ref_patience_ms`, and then
/// answer [`Error::NoQuorum`].
#[async_trait]
pub trait Consensus: Send + Sync + 'static {
    /// Proposes a change. When it returns, the change is durable at a majority
    /// and applied on this node. After an error it may still happen. A proposal
    /// that is tried again inside is applied once.
    async fn propose(&self, command: Command) -> Result<Response, Error>;

    /// When it returns, everything acknowledged anywhere before the call is
    /// applied on this node.
    async fn barrier(&self) -> Result<(), Error>;

    /// A ref from this node's applied state, whatever its age.
    fn applied_ref(&self, key: &RefKey) -> Result<Option<Ref>, Error>;

    /// The agreed state but the refs, as applied on this node, and its changes.
    fn state(&self) -> watch::Receiver<Arc<ClusterState>>;

    /// Who leads, and how each member takes part, as this node sees it.
    fn roles(&self) -> Roles;
}

/// A look at Raft from one node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Roles {
    /// None while no leader is heard of that a majority follows: nothing can be
    /// agreed through this node.
    pub leader: Option<crate::NodeId>,
    pub voters: Vec<crate::NodeId>,
    pub learners: Vec<crate::NodeId>,
    pub term: u64,
    pub last_applied: u64,
}
