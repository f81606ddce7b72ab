//! Verifying the copies at rest, before anybody misses them.
//!
//! A pass reads each record that the index leads to, and each file, from the
//! disk and not from the kernel's memory, and hashes it. What does not match
//! is set aside as on any other read; whoever waits on
//! [`LocalStore::damage_notify`] has it brought again.
//!
//! Promised:
//!
//! - a pass begins once per interval and is spread over it, unless the store is
//!   too large for that at the rest it keeps to (see [`pace`]);
//! - a pass goes on after a restart at the segment or file that it had come to,
//!   give or take what was verified since that was last written down;
//! - blobs that come during a pass are left to the next: they were verified
//!   when they were written.
//!
//! Without an interval, and unless asked to, it does nothing.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use tokio::sync::{Notify, watch};
use weir_cluster::peer::ScrubReport;

use self::pass::Pass;
use super::{LocalStore, core::Core};

mod pace;
mod pass;
mod records;
mod state;

/// Between two looks at whether a pass is due.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// What the thread is told, and what it tells.
pub(super) struct Scrub {
    // A std mutex: held to leave and take orders, never across an await.
    orders: Mutex<Orders>,
    told: Condvar,
    progress: watch::Sender<ScrubReport>,
}

#[derive(Default)]
struct Orders {
    interval: Option<Duration>,
    /// Whether a pass is to begin at once.
    begin: bool,
    /// Whether they were changed since they were taken.
    changed: bool,
    /// At the end: whether the state is to be written down.
    stopped: Option<bool>,
}

/// What to do next.
enum Told {
    Work {
        interval: Option<Duration>,
        begin: bool,
    },
    Stop {
        save: bool,
    },
}

impl LocalStore {
    /// Has all copies verified once in so much time; zero for never.
    pub fn set_scrub_interval(&self, interval: Duration) {
        let interval = (!interval.is_zero()).then_some(interval);
        let scrub = &self.core.scrub;
        let mut orders = scrub.lock();
        orders.changed |= orders.interval != interval;
        orders.interval = interval;
        scrub.told.notify_one();
    }

    /// Begins to verify all copies now, as fast as its rests allow.
    pub fn scrub_now(&self) {
        let scrub = &self.core.scrub;
        let mut orders = scrub.lock();
        orders.begin = true;
        orders.changed = true;
        scrub.told.notify_one();
    }

    /// How far verifying has come. Damage counts however it was found.
    #[must_use]
    pub fn scrub_report(&self) -> ScrubReport {
        let damaged = self.core.quarantine.total();
        let report = self.core.scrub.progress.borrow().clone();
        ScrubReport { damaged, ..report }
    }

    /// Each step of verifying.
    #[must_use]
    pub fn scrub_progress(&self) -> watch::Receiver<ScrubReport> {
        self.core.scrub.progress.subscribe()
    }

    /// Told when a copy was found damaged and set aside; for one listener. What
    /// happens while nobody listens is told to the next who does.
    #[must_use]
    pub fn damage_notify(&self) -> Arc<Notify> {
        self.core.quarantine.notify()
    }
}

impl Scrub {
    pub(super) fn new() -> Self {
        Self {
            orders: Mutex::default(),
            told: Condvar::new(),
            progress: watch::Sender::new(ScrubReport::default()),
        }
    }

    /// Ends the thread; with `save` it writes down how far it has come.
    pub(super) fn stop(&self, save: bool) {
        self.lock().stopped = Some(save);
        self.told.notify_one();
    }

    /// Waits for so long, or until told otherwise.
    fn take(&self, rest: Duration) -> Told {
        let until = Instant::now() + rest;
        let mut orders = self.lock();
        loop {
            if let Some(save) = orders.stopped {
                return Told::Stop { save };
            }
            let left = until.saturating_duration_since(Instant::now());
            if orders.changed || left.is_zero() {
                orders.changed = false;
                return Told::Work {
                    interval: orders.interval,
                    begin: std::mem::take(&mut orders.begin),
                };
            }
            orders = self
                .told
                .wait_timeout(orders, left)
                .expect("no panic while orders are locked")
                .0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Orders> {
        self.orders
            .lock()
            .expect("no panic while orders are locked")
    }
}

/// Works until it is stopped.
pub(super) fn run(core: &Arc<Core>) {
    let mut pass = Pass::resume(core);
    let mut rest = Duration::ZERO;
    loop {
        core.scrub.progress.send_if_modified(|report| {
            let now = pass.report();
            let modified = *report != now;
            *report = now;
            modified
        });
        match core.scrub.take(rest) {
            Told::Stop { save } => {
                if save {
                    pass.save();
                }
                return;
            }
            Told::Work { interval, begin } => rest = work(core, &mut pass, interval, begin),
        }
    }
}

/// One step, if there is one to do; for how long to rest after it.
fn work(core: &Core, pass: &mut Pass<'_>, interval: Option<Duration>, begin: bool) -> Duration {
    // Nothing can be set aside there, and repair has all of it brought anew
    // elsewhere.
    if core.volume.fenced().is_some() {
        return LOOK_EVERY;
    }
    let now = core.clock.now();
    if begin {
        pass.begin(now, true);
    } else if !pass.is_running() {
        let Some(interval) = interval else {
            return LOOK_EVERY;
        };
        let due = pass.due(interval);
        if now < due {
            return LOOK_EVERY.min(Duration::from_secs(u64::from(due - now)));
        }
        pass.begin(now, false);
    } else if interval.is_none() && !pass.is_hurried() {
        return LOOK_EVERY;
    }
    let began = Instant::now();
    let bytes = pass.step();
    let step = pace::Step {
        took: began.elapsed(),
        bytes,
        of_bytes: core.volume.used(),
    };
    pace::rest(step, interval.filter(|_| !pass.is_hurried()))
}

#[cfg(test)]
mod tests {
    use weir_cluster::{
        blob::{conformance::sample, put_bytes},
        journal::disk::RealDisk,
    };

    use super::*;
    use crate::store::StoreConfig;

    /// Also prints how fast one core verifies what it reads; `--nocapture`.
    #[tokio::test]
    #[expect(clippy::print_stdout, reason = "a figure for whoever asks for it")]
    async fn a_pass_reads_every_copy_once() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(RealDisk::new(dir.path()));
        let config = StoreConfig {
            segment_bytes: 4 << 20,
            ..StoreConfig::default()
        };
        let store = LocalStore::open(config, disk).unwrap();
        for seed in 0..800 {
            put_bytes(&*store, sample(seed, 40_000)).await.unwrap();
        }
        for seed in 800..804 {
            put_bytes(&*store, sample(seed, 8 << 20)).await.unwrap();
        }
        let mut pass = Pass::resume(&store.core);
        pass.begin(store.core.clock.now(), true);
        let (began, mut read) = (cpu_seconds(), 0);
        while pass.is_running() {
            read += pass.step();
        }
        let report = pass.report();
        assert_eq!((report.verified_blobs, report.passes), (804, 1));
        assert_eq!(report.verified_bytes, store.report().bytes);
        let mib = read as f64 / f64::from(1 << 20);
        let per_second = mib / (cpu_seconds() - began);
        println!("verified {mib:.0} MiB at {per_second:.0} MiB/s of one core");
    }

    /// Time that this thread has run, whatever else the machine does.
    fn cpu_seconds() -> f64 {
        let times = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        let nanoseconds: f64 = times.split(' ').next().unwrap().parse().unwrap();
        nanoseconds / 1e9
    }
}
