//! How fast what is left becomes less.

use std::{collections::VecDeque, time::Duration};

use crate::status::{bytes_text, duration_text};

/// Looks back over this much: long enough to be calm, short enough to notice
/// that the pace has changed.
const WINDOW: Duration = Duration::from_secs(20);

/// Bytes left, as seen from time to time.
#[derive(Default)]
pub(super) struct Progress {
    seen: VecDeque<(Duration, u64)>,
}

impl Progress {
    /// Takes a look; `at` counts from any fixed moment.
    pub(super) fn look(&mut self, at: Duration, bytes_left: u64) {
        // More is left than before: what was known of it has grown, and a pace
        // over that would be nonsense.
        if self.seen.back().is_some_and(|(_, last)| *last < bytes_left) {
            self.seen.clear();
        }
        self.seen.push_back((at, bytes_left));
        while self
            .seen
            .get(1)
            .is_some_and(|(second, _)| at.saturating_sub(*second) >= WINDOW)
        {
            self.seen.pop_front();
        }
    }

    /// Bytes a second over the window; none before there is a pace.
    pub(super) fn bytes_per_second(&self) -> Option<u64> {
        let (first, last) = (self.seen.front()?, self.seen.back()?);
        let elapsed = last.0.saturating_sub(first.0).as_secs_f64();
        let moved = first.1.saturating_sub(last.1);
        (elapsed > 0.0 && moved > 0).then(|| (moved as f64 / elapsed) as u64)
    }

    /// `1.2 GiB left, 80.0 MiB/s, about 15s`.
    pub(super) fn text(&self) -> String {
        let left = self.seen.back().map_or(0, |(_, left)| *left);
        let text = format!("{} left", bytes_text(left));
        match self.bytes_per_second() {
            Some(rate @ 1..) if left > 0 => format!(
                "{text}, {}/s, about {}",
                bytes_text(rate),
                duration_text(left.div_ceil(rate))
            ),
            _ => text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(looks: &[(u64, u64)]) -> Progress {
        let mut progress = Progress::default();
        for (second, left) in looks {
            progress.look(Duration::from_secs(*second), *left);
        }
        progress
    }

    #[test]
    fn the_pace_is_that_of_the_last_while() {
        const MIB: u64 = 1 << 20;
        for (looks, text) in [
            (vec![], "0 B left"),
            (vec![(0, 10 * MIB)], "10.0 MiB left"),
            (vec![(0, 10 * MIB), (5, 10 * MIB)], "10.0 MiB left"),
            (
                vec![(0, 20 * MIB), (5, 10 * MIB)],
                "10.0 MiB left, 2.0 MiB/s, about 5s",
            ),
            // Fast at first, slow of late.
            (
                vec![(0, 1000 * MIB), (5, 40 * MIB), (26, 19 * MIB)],
                "19.0 MiB left, 1.0 MiB/s, about 19s",
            ),
            // More was found to move.
            (
                vec![(0, 20 * MIB), (5, 10 * MIB), (6, 90 * MIB)],
                "90.0 MiB left",
            ),
        ] {
            assert_eq!(seen(&looks).text(), text, "{looks:?}");
        }
    }
}
