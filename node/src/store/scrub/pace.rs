//! For how long verifying rests after a step.

use std::time::Duration;

/// Rest after each step, in times of what it took: a fifth of one core and of
/// the disk's time at most.
const TRANQUILITY: u32 = 4;

/// Bytes a second that it keeps up though the interval would allow for less: a
/// pass that takes its time over little is forgotten half-way.
const LEAST_BYTES_PER_SECOND: u64 = 1 << 20;

/// Part of the interval that a pass plans for; the rest makes up for what the
/// node was down, and for blobs that come meanwhile.
const PLANNED: f64 = 0.8;

/// A piece of work that was done.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    pub(super) took: Duration,
    pub(super) bytes: u64,
    /// Bytes of a whole pass.
    pub(super) of_bytes: u64,
}

/// The rest after a step of a pass that is to be spread over `interval`;
/// without one, of a pass in a hurry.
pub(super) fn rest(step: Step, interval: Option<Duration>) -> Duration {
    let tranquil = step.took * TRANQUILITY;
    let Some(interval) = interval else {
        return tranquil;
    };
    let share = step.bytes as f64 / step.of_bytes.max(step.bytes).max(1) as f64;
    let spread = interval.mul_f64(PLANNED * share);
    let longest = Duration::from_secs_f64(step.bytes as f64 / LEAST_BYTES_PER_SECOND as f64);
    tranquil.max(spread.min(longest).saturating_sub(step.took))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);
    const MIB: u64 = 1 << 20;

    fn step(took_ms: u64, bytes: u64, of_bytes: u64) -> Step {
        Step {
            took: Duration::from_millis(took_ms),
            bytes,
            of_bytes,
        }
    }

    #[test]
    fn a_pass_is_spread_and_never_takes_all_of_a_disk() {
        let tib = 1 << 40;
        for (step, interval, expected_ms) in [
            // In a hurry: as tranquil as ever.
            (step(2, MIB, tib), None, 8),
            // 1 TiB in 14 days is 1.1 s of 1 MiB each; the least rate is faster.
            (step(2, MIB, tib), Some(14 * DAY), 921),
            // 16 TiB: 14 d * 0.8 / 16 Mi steps.
            (step(2, MIB, 16 * tib), Some(14 * DAY), 55),
            // Too much for the interval: it takes longer.
            (step(2, MIB, 10_000 * tib), Some(DAY), 8),
            (step(0, 0, 0), Some(DAY), 0),
        ] {
            let rest = rest(step, interval);
            let off = rest.as_millis().abs_diff(expected_ms);
            assert!(off <= 1, "{step:?} {interval:?}: {rest:?}");
        }
    }
}
