//! What one slow node costs all of them together.
//!
//! Source: P1 and P3 (a quorum is enough for an answer, so that the slowest is
//! not waited for). The figure is that of the scenario.

use std::ops::Range;

use anyhow::{Result, ensure};

/// Without so many answers on either side nothing is shown.
const LEAST_ANSWERS: usize = 30;

/// Insists that while the faults lasted at least a share of the answers came
/// in a second that came before and after. All times are of the histories, in
/// microseconds; `ends` are those of the calls that succeeded.
pub fn check(ends: &[u64], work: &Range<u64>, faults: &Range<u64>, least: f64) -> Result<()> {
    let is_during = |end: &&u64| faults.contains(end);
    let during = ends.iter().filter(is_during).count();
    let is_calm = |end: &&u64| work.contains(end) && !faults.contains(end);
    let calm = ends.iter().filter(is_calm).count();
    ensure!(
        during.max(calm) >= LEAST_ANSWERS,
        "{calm} answers without the faults and {during} with them show nothing"
    );
    let long = |range: &Range<u64>| range.end.saturating_sub(range.start) as f64 / 1e6;
    let per_second = |count: usize, seconds: f64| count as f64 / seconds.max(1e-6);
    let calm = per_second(calm, long(work) - long(faults));
    let during = per_second(during, long(faults));
    ensure!(
        during >= calm * least,
        "{during:.1} answers a second while the faults lasted and {calm:.1} without them: \
         {least:.2} of that are promised"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_answers_than_the_share_are_noticed() {
        let work = 0..10_000_000;
        let faults = 4_000_000..8_000_000;
        // Ten in a second, and so many while the faults last.
        let ends = |during: u64| -> Vec<u64> {
            let calm = (0..100_u64).map(|at| at * 100_000 + 1);
            let mut ends: Vec<u64> = calm.filter(|end| !faults.contains(end)).collect();
            ends.extend((0..during).map(|at| 4_000_000 + at * 4_000_000 / during));
            ends
        };
        check(&ends(40), &work, &faults, 0.8).unwrap();
        check(&ends(33), &work, &faults, 0.8).unwrap();
        assert!(check(&ends(30), &work, &faults, 0.8).is_err());
        assert!(check(&ends(1), &work, &faults, 0.8).is_err());
        check(&ends(10), &work, &faults, 0.2).unwrap();
        assert!(check(&[], &work, &faults, 0.0).is_err());
    }
}
