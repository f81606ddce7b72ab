//! Looking up refs, in the mode that the cluster has agreed on (promise P4).

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tonic::Status;
use weir_cluster::{
    raft::Consensus,
    state::{ReadMode, Ref, RefKey, RefValue},
};

use super::{
    agreed::Agreed,
    completeness::{Complete, Completeness},
    status,
};
use crate::planted::{self, Bug};

/// Finds refs that may be shown: not expired, and complete.
#[derive(Clone)]
pub(crate) struct RefFinder {
    consensus: Arc<dyn Consensus>,
    agreed: Agreed,
    completeness: Arc<Completeness>,
}

/// A ref that may be shown.
#[derive(Debug)]
pub(crate) struct Hit {
    /// Which of the keys that were asked for.
    pub(crate) index: usize,
    pub(crate) value: RefValue,
    /// A second through which the content will be there.
    pub(crate) expires_at: u64,
}

impl RefFinder {
    pub(crate) fn new(
        consensus: Arc<dyn Consensus>,
        agreed: Agreed,
        completeness: Completeness,
    ) -> Self {
        Self {
            consensus,
            agreed,
            completeness: Arc::new(completeness),
        }
    }

    /// The first of the keys with a ref that may be shown. `None` is certain:
    /// it is said only after a read barrier.
    ///
    /// `oldest` leaves out refs that were pushed before that Unix second.
    pub(crate) async fn find(
        &self,
        keys: &[RefKey],
        oldest: Option<u64>,
    ) -> Result<Option<Hit>, Status> {
        let available = self.agreed.ref_reads() == ReadMode::Available;
        if (available || planted::is(Bug::NoBarrier))
            && let Some(hit) = self.find_applied(keys, oldest).await?
        {
            return Ok(Some(hit));
        }
        if planted::is(Bug::MissUnconfirmed) {
            return Ok(None);
        }
        self.consensus
            .barrier()
            .await
            .map_err(|error| status::of(&error))?;
        self.find_applied(keys, oldest).await
    }

    async fn find_applied(
        &self,
        keys: &[RefKey],
        oldest: Option<u64>,
    ) -> Result<Option<Hit>, Status> {
        for (index, key) in keys.iter().enumerate() {
            let found = self.consensus.applied_ref(key);
            let Some(found) = found.map_err(|error| status::of(&error))? else {
                continue;
            };
            if !may_be_shown(&found, unix_seconds(SystemTime::now()), oldest) {
                continue;
            }
            if let Some(Complete { leased_until }) = self.completeness.check(&found).await? {
                let leased_until = unix_seconds(leased_until);
                let expire_at = found.value.expire_at.unwrap_or(u64::MAX);
                return Ok(Some(Hit {
                    index,
                    expires_at: leased_until.min(expire_at),
                    value: found.value,
                }));
            }
        }
        Ok(None)
    }
}

/// Whether a ref is neither expired nor older than the client accepts.
fn may_be_shown(found: &Ref, now: u64, oldest: Option<u64>) -> bool {
    let expired = found.value.expire_at.is_some_and(|end| end <= now);
    let too_old = oldest.is_some_and(|oldest| found.value.pushed_at < oldest);
    !expired && !too_old
}

/// Seconds since 1970; 0 before.
pub(crate) fn unix_seconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH);
    since.unwrap_or(Duration::ZERO).as_secs()
}

#[cfg(test)]
mod tests {
    use weir_cluster::Digest;

    use super::*;

    #[test]
    fn refs_end_and_age() {
        let found = |expire_at, pushed_at| Ref {
            value: RefValue {
                digest: Digest::of(b"a"),
                manifest: None,
                expire_at,
                pushed_at,
            },
            revision: 1,
        };
        for (expire_at, pushed_at, oldest, expected) in [
            (None, 50, None, true),
            (Some(101), 50, None, true),
            (Some(100), 50, None, false),
            (Some(0), 50, None, false),
            (None, 50, Some(50), true),
            (None, 50, Some(51), false),
            (Some(99), 50, Some(10), false),
        ] {
            let found = found(expire_at, pushed_at);
            assert_eq!(
                may_be_shown(&found, 100, oldest),
                expected,
                "{found:?} {oldest:?}"
            );
        }
    }
}
