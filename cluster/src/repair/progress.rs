//! What repair says of itself.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use tokio::time::Instant;

use crate::peer::RepairReport;

/// "Of late": bytes a second are the mean over this.
const WINDOW: Duration = Duration::from_secs(10);
/// Bytes are counted in steps of this, so that the window has few entries.
const STEP: Duration = Duration::from_millis(500);

/// Shared by the worker, which writes, and whoever asks for the report.
#[derive(Default)]
pub(super) struct Progress {
    // A std mutex: held for a few assignments, never across an await.
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    report: RepairReport,
    /// When the last look began that has ended.
    looked: Option<Instant>,
    /// Bytes fetched by time, oldest first, at most `WINDOW / STEP` entries.
    recent: VecDeque<(Instant, u64)>,
    /// Blobs and bytes seen in lists, for a guess at the size of those that
    /// are known by number only.
    seen: (u64, u64),
}

impl Progress {
    pub(super) fn report(&self) -> RepairReport {
        let mut inner = self.lock();
        let now = Instant::now();
        inner.forget(now);
        let age = inner.looked.map_or(Duration::ZERO, |at| now - at);
        let bytes: u64 = inner.recent.iter().map(|(_, bytes)| bytes).sum();
        RepairReport {
            bytes_per_second: bytes / WINDOW.as_secs(),
            look_age_ms: age.as_millis() as u64,
            ..inner.report.clone()
        }
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut RepairReport)) {
        change(&mut self.lock().report);
    }

    /// A look has ended that began then; what it found goes into the report in
    /// the same moment.
    pub(super) fn looked(&self, began: Instant, change: impl FnOnce(&mut RepairReport)) {
        let mut inner = self.lock();
        inner.looked = Some(began);
        change(&mut inner.report);
    }

    /// So many blobs are lacking, so many held for others.
    pub(super) fn found(&self, lacking: u64, surplus: u64) {
        let mut inner = self.lock();
        let (blobs, bytes) = inner.seen;
        let mean = bytes / blobs.max(1);
        let report = &mut inner.report;
        (report.lacking_blobs, report.lacking_bytes) = (lacking, lacking.saturating_mul(mean));
        (report.surplus_blobs, report.surplus_bytes) = (surplus, surplus.saturating_mul(mean));
    }

    /// Blobs of these sizes were seen in lists.
    pub(super) fn seen(&self, sizes: impl Iterator<Item = u64>) {
        let mut inner = self.lock();
        for size in sizes {
            inner.seen.0 += 1;
            inner.seen.1 = inner.seen.1.saturating_add(size);
        }
    }

    pub(super) fn fetched(&self, blobs: u64, bytes: u64) {
        let now = Instant::now();
        let mut inner = self.lock();
        inner.forget(now);
        match inner.recent.back_mut() {
            Some((at, sum)) if now - *at < STEP => *sum += bytes,
            _ => inner.recent.push_back((now, bytes)),
        }
        let report = &mut inner.report;
        report.fetched_blobs += blobs;
        report.fetched_bytes += bytes;
        report.lacking_blobs = report.lacking_blobs.saturating_sub(blobs);
        report.lacking_bytes = report.lacking_bytes.saturating_sub(bytes);
    }

    pub(super) fn dropped(&self, blobs: u64, bytes: u64) {
        self.change(|report| {
            report.surplus_blobs = report.surplus_blobs.saturating_sub(blobs);
            report.surplus_bytes = report.surplus_bytes.saturating_sub(bytes);
        });
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner
            .lock()
            .expect("no panic while the report is locked")
    }
}

impl Inner {
    fn forget(&mut self, now: Instant) {
        while self
            .recent
            .front()
            .is_some_and(|(at, _)| now - *at > WINDOW)
        {
            self.recent.pop_front();
        }
    }
}
