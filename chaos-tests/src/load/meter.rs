//! How calls went: counts, latency, and the longest time without success, for
//! each RPC and node, and for each RPC over all nodes.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    sync::{Arc, Mutex, PoisonError},
};

use tonic::Code;

/// Over all nodes together.
pub const ANY_NODE: u16 = u16::MAX;

/// Steps of latency in each doubling: a percentile is at most a quarter high.
const STEPS: u64 = 4;

/// The calls that workloads make.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Rpc {
    FindMissing,
    BatchUpdate,
    BatchRead,
    Write,
    QueryWrite,
    Read,
    FetchBlob,
    PushBlob,
}

/// Calls of one RPC to one node.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// Answered; NOT_FOUND and the refusal of bad input are answers.
    pub answered: u64,
    /// RESOURCE_EXHAUSTED.
    pub shed: u64,
    /// All other calls, by code.
    pub failed: BTreeMap<i32, u64>,
    /// Longest time in microseconds in which calls failed and none succeeded:
    /// from the start of the first, or the success before its end, to the
    /// next success or the last call.
    pub longest_gap: u64,
    /// Answered calls by latency.
    buckets: Vec<u64>,
    /// Since when no call has succeeded, if one has failed.
    out_since: Option<u64>,
    /// The end of the last call.
    last: u64,
    /// The end of the last answered call.
    last_answer: u64,
}

impl Row {
    /// All calls.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.answered + self.shed + self.failed.values().sum::<u64>()
    }

    /// Answered calls among all that were not shed; 1 if there were none.
    #[must_use]
    pub fn success(&self) -> f64 {
        match self.calls() - self.shed {
            0 => 1.0,
            calls => self.answered as f64 / calls as f64,
        }
    }

    /// Microseconds within which this share of the answers came.
    #[must_use]
    pub fn latency(&self, share: f64) -> u64 {
        let wanted = (self.answered as f64 * share).ceil() as u64;
        let mut counted = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            counted += count;
            if counted >= wanted && counted > 0 {
                return upper_bound(bucket as u64);
            }
        }
        0
    }

    fn add(&mut self, start: u64, end: u64, code: Code) {
        self.last = self.last.max(end);
        match code {
            Code::Ok | Code::NotFound | Code::InvalidArgument | Code::OutOfRange => {
                self.answered += 1;
                self.last_answer = self.last_answer.max(end);
                if let Some(since) = self.out_since.take() {
                    self.longest_gap = self.longest_gap.max(end.saturating_sub(since));
                }
                let bucket = bucket(end.saturating_sub(start)) as usize;
                if self.buckets.len() <= bucket {
                    self.buckets.resize(bucket + 1, 0);
                }
                self.buckets[bucket] += 1;
            }
            Code::ResourceExhausted => self.shed += 1,
            code => {
                *self.failed.entry(code as i32).or_default() += 1;
                // Others may have been answered while this one hung.
                self.out_since.get_or_insert(start.max(self.last_answer));
            }
        }
    }

    /// With the time that has gone by without success until now.
    fn closed(&self) -> Row {
        let mut row = self.clone();
        if let Some(since) = row.out_since {
            row.longest_gap = row.longest_gap.max(row.last.saturating_sub(since));
        }
        row
    }
}

fn bucket(micros: u64) -> u64 {
    let micros = micros.max(1);
    let doubling = u64::from(micros.ilog2());
    let step = ((micros - (1 << doubling)) * STEPS) >> doubling;
    doubling * STEPS + step
}

fn upper_bound(bucket: u64) -> u64 {
    let base = 1_u64 << (bucket / STEPS);
    base + (base * (bucket % STEPS + 1)).div_ceil(STEPS)
}

/// Rows by RPC and node. Clones are handles of the same meter.
///
/// A std mutex round one short synchronous section.
#[derive(Clone, Debug, Default)]
pub struct Meter(Arc<Mutex<BTreeMap<(Rpc, u16), Row>>>);

/// What a meter has counted so far.
#[derive(Clone, Debug, Default)]
pub struct Report(pub BTreeMap<(Rpc, u16), Row>);

impl Meter {
    /// Notes one call.
    pub fn add(&self, rpc: Rpc, node: u16, start: u64, end: u64, code: Code) {
        let mut rows = self.lock();
        for node in [node, ANY_NODE] {
            rows.entry((rpc, node)).or_default().add(start, end, code);
        }
    }

    /// Everything by now.
    #[must_use]
    pub fn report(&self) -> Report {
        let rows = self.lock();
        Report(rows.iter().map(|(at, row)| (*at, row.closed())).collect())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<(Rpc, u16), Row>> {
        // Rows are only counters: none is left half changed by a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Report {
    /// All calls of an RPC, over all nodes.
    #[must_use]
    pub fn over_all(&self, rpc: Rpc) -> Option<&Row> {
        self.0.get(&(rpc, ANY_NODE))
    }

    /// The rows that count all nodes together.
    #[must_use]
    pub fn summary(&self) -> Report {
        let rows = self.0.iter().filter(|((_, node), _)| *node == ANY_NODE);
        Report(rows.map(|(at, row)| (*at, row.clone())).collect())
    }

    /// The rows of another report beside those of this one, counts added.
    pub fn merge(&mut self, other: &Report) {
        for (at, row) in &other.0 {
            let Some(mine) = self.0.get_mut(at) else {
                self.0.insert(*at, row.clone());
                continue;
            };
            mine.answered += row.answered;
            mine.shed += row.shed;
            mine.longest_gap = mine.longest_gap.max(row.longest_gap);
            for (code, count) in &row.failed {
                *mine.failed.entry(*code).or_default() += count;
            }
            let buckets = mine.buckets.len().max(row.buckets.len());
            mine.buckets.resize(buckets, 0);
            for (mine, theirs) in mine.buckets.iter_mut().zip(&row.buckets) {
                *mine += theirs;
            }
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((rpc, node), row) in &self.0 {
            let mut codes = String::new();
            for (code, count) in &row.failed {
                write!(codes, " {:?} {count}", Code::from_i32(*code))?;
            }
            let node = match *node {
                ANY_NODE => "all".to_owned(),
                node => node.to_string(),
            };
            writeln!(
                f,
                "{rpc:?} at {node}: {} answered, {} shed,{codes} p50 {} us, p99 {} us, gap {} ms",
                row.answered,
                row.shed,
                row.latency(0.5),
                row.latency(0.99),
                row.longest_gap / 1000,
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_at_most_a_quarter_high() {
        for micros in [1, 2, 3, 5, 100, 1023, 1024, 1025, 999_999] {
            let bound = upper_bound(bucket(micros));
            assert!(bound >= micros, "{micros} in {bound}");
            assert!(bound <= micros + micros / 4 + 2, "{micros} in {bound}");
        }
        let meter = Meter::default();
        for call in 1..=100 {
            meter.add(Rpc::Read, 0, 0, call * 1000, Code::Ok);
        }
        let report = meter.report();
        let row = report.over_all(Rpc::Read).unwrap();
        assert!((50_000..=63_000).contains(&row.latency(0.5)));
        assert!(row.latency(1.0) >= 100_000);
    }

    #[test]
    fn a_gap_lasts_from_the_first_failure_to_the_next_success() {
        let meter = Meter::default();
        let call = |node, start, end, code| meter.add(Rpc::PushBlob, node, start, end, code);
        call(0, 0, 10, Code::Ok);
        // Nothing was asked for a long time: no gap.
        call(0, 1_000, 1_010, Code::Ok);
        call(0, 2_000, 2_010, Code::Unavailable);
        call(1, 2_100, 2_110, Code::Ok);
        call(0, 2_500, 2_510, Code::Unavailable);
        call(0, 3_000, 3_010, Code::NotFound);
        call(0, 4_000, 4_010, Code::ResourceExhausted);
        let gap = |node| meter.report().0[&(Rpc::PushBlob, node)].longest_gap;
        assert_eq!((gap(0), gap(1)), (1_010, 0));
        assert_eq!(gap(ANY_NODE), 510);
        // Not over yet: it lasts to the last call.
        call(1, 5_000, 9_000, Code::Unavailable);
        assert_eq!(gap(1), 4_000);
        // One that hung while others were answered is no gap of them.
        call(2, 5_000, 9_500, Code::Ok);
        call(1, 5_100, 9_700, Code::Unavailable);
        call(2, 9_600, 9_800, Code::Ok);
        assert_eq!(gap(ANY_NODE), 4_500);
        let report = meter.report();
        let row = &report.0[&(Rpc::PushBlob, 0)];
        assert_eq!((row.answered, row.shed, row.calls()), (3, 1, 6));
        assert!((row.success() - 0.6).abs() < 1e-9);
    }
}
