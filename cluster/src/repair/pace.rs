//! Rests between pieces of work, as [`super::budget`] has them.

use std::{sync::Mutex, time::Duration};

use tokio::time::{Instant, sleep};

use super::budget::{Budget, Foreground};

pub(super) struct Pace {
    begun: Instant,
    foreground: Foreground,
    // A std mutex: held for some arithmetic, never across an await.
    budget: Mutex<Budget>,
}

impl Pace {
    pub(super) fn new(foreground: Foreground) -> Self {
        Self {
            begun: Instant::now(),
            foreground,
            budget: Mutex::default(),
        }
    }

    /// Rests after work on so many bytes, at this rate at most.
    pub(super) async fn rest(&self, rate: u64, bytes: u64, took: Duration) {
        let pause = {
            let mut budget = self
                .budget
                .lock()
                .expect("no panic while the budget is locked");
            let now = self.begun.elapsed();
            let busy = budget.is_busy(now, self.foreground.requests());
            budget.pause(now, rate, bytes, took, busy)
        };
        if !pause.is_zero() {
            sleep(pause).await;
        }
    }
}
