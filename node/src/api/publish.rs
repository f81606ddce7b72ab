//! Making refs: the closure first, then the ref, never the other way round.

use std::{sync::Arc, time::SystemTime};

use tonic::Status;
use weir_cluster::{
    raft::Consensus,
    state::{Command, RefKey, Response, refs::RefValue},
};

use super::{
    gather::{GatherError, Gatherer, Roots, Target},
    refs::unix_seconds,
    status,
};

/// Publishes refs.
#[derive(Clone)]
pub(crate) struct Publisher {
    gatherer: Gatherer,
    consensus: Arc<dyn Consensus>,
}

impl Publisher {
    pub(crate) fn new(gatherer: Gatherer, consensus: Arc<dyn Consensus>) -> Self {
        Self {
            gatherer,
            consensus,
        }
    }

    /// Points all keys at the target in one step. When it returns OK, the refs
    /// are durable at a majority and applied here, and so is their closure.
    pub(crate) async fn publish(
        &self,
        keys: Vec<RefKey>,
        target: Target,
        roots: &Roots,
        expire_at: Option<u64>,
    ) -> Result<(), Status> {
        let manifest = self.gatherer.gather(target, roots).await.map_err(refuse)?;
        let value = RefValue {
            digest: target.digest(),
            manifest,
            expire_at,
            pushed_at: unix_seconds(SystemTime::now()),
        };
        match self
            .consensus
            .propose(Command::SetRefs { keys, value })
            .await
        {
            Ok(Response::Done { .. }) => Ok(()),
            Ok(Response::Refused { reason }) => Err(Status::invalid_argument(reason)),
            Err(error) => Err(status::of(&error)),
        }
    }
}

/// A push whose own blob is absent is NOT_FOUND: it is the code that clients
/// know for an absent blob, none of them retries it without uploading, and it
/// says that nothing happened. FAILED_PRECONDITION would fit the word, but in
/// this protocol it belongs to Execute, and INVALID_ARGUMENT is how clients
/// learn that a service is present at all.
fn refuse(error: GatherError) -> Status {
    match error {
        GatherError::TargetAbsent(digest) => Status::not_found(format!(
            "blob {digest} is not here; upload it before the push that refers to it"
        )),
        GatherError::NotADirectory(digest) => Status::invalid_argument(format!(
            "blob {digest} is neither a Directory nor a Tree message"
        )),
        GatherError::Store(error) => status::of(&error),
    }
}
