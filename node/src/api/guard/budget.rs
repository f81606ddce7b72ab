//! Memory that calls share.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use crate::{
    api::status,
    planted::{self, Bug},
};

/// So many bytes, given out and given back.
pub(crate) struct Budget {
    free: Arc<Semaphore>,
    bytes: u64,
    patience: Duration,
}

/// A part of a [`Budget`]; given back when dropped.
pub(crate) struct Room {
    _permit: OwnedSemaphorePermit,
}

impl Budget {
    /// A budget of at most 4 GiB, since permits are counted in u32.
    pub(super) fn new(bytes: u64, patience: Duration) -> Self {
        let bytes = bytes.min(u64::from(u32::MAX));
        Self {
            free: Arc::new(Semaphore::new(bytes as usize)),
            bytes,
            patience,
        }
    }

    /// Room for `bytes`, or the wait for it. What is more than the whole
    /// budget takes the whole budget, so it goes on alone.
    pub(crate) fn take(
        &self,
        bytes: u64,
    ) -> Result<Room, BoxFuture<'static, Result<Room, Status>>> {
        let mut permits = bytes.min(self.bytes) as u32;
        if planted::is(Bug::MemoryUnbounded) {
            permits = 0;
        }
        if let Ok(permit) = self.free.clone().try_acquire_many_owned(permits) {
            return Ok(Room { _permit: permit });
        }
        let (free, limit, patience) = (self.free.clone(), self.bytes, self.patience);
        Err(Box::pin(async move {
            let wait = free.acquire_many_owned(permits);
            match tokio::time::timeout(patience, wait).await {
                Ok(Ok(permit)) => Ok(Room { _permit: permit }),
                Ok(Err(_)) | Err(_) => Err(status::overloaded(limit)),
            }
        }))
    }

    /// Room for `bytes`, or RESOURCE_EXHAUSTED after a while.
    pub(crate) async fn room(&self, bytes: u64) -> Result<Room, Status> {
        match self.take(bytes) {
            Ok(room) => Ok(room),
            Err(wait) => wait.await,
        }
    }
}
