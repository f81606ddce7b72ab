//! Requests that were applied lately, to know one that is sent again.
//!
//! Part of the agreed state: every node decides alike, by distance in the log.

use std::collections::{HashMap, VecDeque};

use super::rows::RecentBatch;
use crate::{
    planted::{self, Bug},
    state::RequestId,
};

/// A proposal that comes again within this many log entries is known and not
/// applied again. At 30,000 entries a second it covers four seconds of retries;
/// part of the agreed state, so never to be changed alone.
const REMEMBERED_ENTRIES: u64 = 131_072;

/// Requests that were applied lately.
#[derive(Default)]
pub(super) struct Recent {
    by_request: HashMap<RequestId, u64>,
    /// Batches in log order, each by its last index.
    batches: VecDeque<RecentBatch>,
}

impl Recent {
    pub(super) fn restore(batches: Vec<RecentBatch>) -> Self {
        let mut recent = Self::default();
        for (_, requests) in batches {
            recent.advance(requests, &[]);
        }
        recent
    }

    /// All that are remembered, for a snapshot.
    pub(super) fn batches(&self) -> Vec<RecentBatch> {
        self.batches.iter().cloned().collect()
    }

    /// The revision that a request got when it was applied, in the batch under
    /// way or before. The distance decides, and not what happens to be in
    /// memory, so that all nodes decide alike.
    pub(super) fn find(
        &self,
        request: RequestId,
        now: u64,
        batch: &[(u64, RequestId)],
    ) -> Option<u64> {
        if planted::is(Bug::ResentAppliedTwice) {
            return None;
        }
        let in_batch = batch.iter().find(|(_, known)| *known == request);
        in_batch
            .map(|(index, _)| *index)
            .or_else(|| self.by_request.get(&request).copied())
            .filter(|index| index + REMEMBERED_ENTRIES >= now)
    }

    /// Batches that are too old to matter when the log has come to `now`.
    pub(super) fn outdated(&self, now: u64) -> Vec<u64> {
        self.batches
            .iter()
            .map(|(last, _)| *last)
            .take_while(|last| last + REMEMBERED_ENTRIES < now)
            .collect()
    }

    pub(super) fn advance(&mut self, requests: Vec<(u64, RequestId)>, forget: &[u64]) {
        for _ in forget {
            for (index, request) in self.batches.pop_front().map_or(Vec::new(), |batch| batch.1) {
                if self.by_request.get(&request) == Some(&index) {
                    self.by_request.remove(&request);
                }
            }
        }
        if let Some((last, _)) = requests.last() {
            self.by_request
                .extend(requests.iter().map(|(index, request)| (*request, *index)));
            self.batches.push_back((*last, requests));
        }
    }
}
