//! Whether all that a ref needs can be read right now.
//!
//! A ref is shown only if its closure is complete. The question goes out once
//! for all digests of the manifest, and renews their leases. A yes is
//! remembered for a part of that lease, so that popular refs cost one look; a no is
//! not, since the missing blob may be uploaded in the next second.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use tokio::time::Instant;
use tonic::Status;
use weir_cluster::{
    Digest, Error,
    blob::BlobStore,
    state::{Ref, refs::manifest},
};

use super::{ApiConfig, agreed::Agreed, directories, gather, guard::Limits, restore, status};
use crate::planted::{self, Bug};

/// Verdicts remembered, in each of two generations; each takes some 50 bytes.
const VERDICTS: usize = 65_536;

/// A yes is remembered for at most the lease divided by this: after a fetch at
/// least three quarters of a lease are left.
const REMEMBERED_PART: u32 = 4;

/// A closure is in memory as a manifest, as digests, and on its way to owners.
const CLOSURE_COPIES: u64 = 3;

/// Checks closures.
pub(crate) struct Completeness {
    store: Arc<dyn BlobStore>,
    agreed: Agreed,
    limits: Arc<Limits>,
    trust: Duration,
    // A std mutex: held for map operations only, never across an await.
    verdicts: Mutex<Verdicts>,
}

/// Until when a complete closure is leased.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Complete {
    pub(crate) leased_until: SystemTime,
}

impl Completeness {
    pub(crate) fn new(
        store: Arc<dyn BlobStore>,
        agreed: Agreed,
        limits: Arc<Limits>,
        config: &ApiConfig,
    ) -> Self {
        Self {
            store,
            agreed,
            limits,
            trust: config.closure_trust(),
            verdicts: Mutex::default(),
        }
    }

    /// Whether the closure of a ref is complete; `None` if it is not. An error if
    /// too few nodes answer to tell.
    pub(crate) async fn check(&self, found: &Ref) -> Result<Option<Complete>, Status> {
        let lease = Duration::from_secs(self.agreed.lease().seconds.into());
        let now = Instant::now();
        if let Some(leased) = self.remembered(found.revision)
            && now - leased < self.trust.min(lease / REMEMBERED_PART)
        {
            return Ok(Some(Complete {
                leased_until: SystemTime::now() + (lease - (now - leased)),
            }));
        }
        let manifest_bytes = found.value.manifest.map_or(0, |digest| digest.size);
        let room = self.limits.answers.room(manifest_bytes * CLOSURE_COPIES);
        let _room = room.await?;
        let closure = self.closure(found).await;
        let Some(closure) = closure.map_err(|error| status::of(&error))? else {
            return Ok(None);
        };
        let leased_until = SystemTime::now() + lease;
        let missing = gather::missing(&*self.store, &closure, &self.agreed).await;
        let missing = missing.map_err(|error| status::of(&error))?;
        if !missing.is_empty() && !planted::is(Bug::IncompleteShown) {
            let unconfirmed = missing.into_iter().map(|index| closure[index]).collect();
            // A doubt is no miss: what was pushed is there, and who asks again
            // is told so when the nodes that hold it answer.
            let absent = restore::absent(&*self.store, |_| true, unconfirmed).await;
            let absent = absent.map_err(|error| status::of(&error))?;
            if let Some(first) = absent.iter().next() {
                tracing::debug!(revision = found.revision, missing = absent.len(), %first,
                    "ref is incomplete, answered as a miss");
                return Ok(None);
            }
        }
        self.lock().remember(found.revision, now);
        Ok(Some(Complete { leased_until }))
    }

    /// The target, the manifest and all that is in it; `None` without the manifest.
    async fn closure(&self, found: &Ref) -> Result<Option<Vec<Digest>>, Error> {
        let Some(digest) = found.value.manifest else {
            return Ok(Some(vec![found.value.digest]));
        };
        let bytes = match directories::read_whole(&*self.store, digest).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) | Err(Error::Corrupt(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut closure = match manifest::decode(&bytes) {
            Ok(closure) => closure,
            Err(error) => {
                tracing::error!(%error, %digest, "the manifest of a ref cannot be read");
                return Ok(None);
            }
        };
        // Ascending as it is in the manifest.
        if closure.binary_search(&found.value.digest).is_err() {
            closure.push(found.value.digest);
        }
        closure.push(digest);
        Ok(Some(closure))
    }

    fn remembered(&self, revision: u64) -> Option<Instant> {
        self.lock().get(revision)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Verdicts> {
        self.verdicts
            .lock()
            .expect("no panic while verdicts are locked")
    }
}

/// When the closure of each revision was last found complete. Two generations:
/// when the young one is full, the old one is forgotten at once.
#[derive(Default)]
struct Verdicts {
    young: HashMap<u64, Instant>,
    old: HashMap<u64, Instant>,
}

impl Verdicts {
    fn get(&self, revision: u64) -> Option<Instant> {
        let young = self.young.get(&revision);
        young.or_else(|| self.old.get(&revision)).copied()
    }

    fn remember(&mut self, revision: u64, leased: Instant) {
        if self.young.len() >= VERDICTS {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(revision, leased);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn verdicts_are_bounded_and_the_newest_stay() {
        let mut verdicts = Verdicts::default();
        let count = 5 * VERDICTS as u64 / 2;
        for revision in 0..count {
            verdicts.remember(revision, Instant::now());
        }
        assert!(verdicts.young.len() + verdicts.old.len() <= 2 * VERDICTS);
        assert!(verdicts.get(count - 1).is_some());
        assert!(verdicts.get(count - VERDICTS as u64).is_some());
        assert!(verdicts.get(0).is_none());
    }
}
