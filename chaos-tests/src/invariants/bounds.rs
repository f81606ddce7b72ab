//! What nodes take of their machine stays within limits, and does not grow.
//!
//! Source: P11 (bounded). Memory is the resident set: what the kernel would
//! count against a limit, less what it can drop.

use std::{
    collections::BTreeMap,
    fs,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// What one process takes at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sample {
    pub rss_bytes: u64,
    /// The most that it was since the process began.
    pub rss_peak_bytes: u64,
    pub files: u64,
    pub threads: u64,
}

/// What a process may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub rss_bytes: u64,
    pub files: u64,
    pub threads: u64,
    /// Growth of memory in an hour, as a share; of runs that are long enough
    /// to say.
    pub growth_per_hour: f64,
}

/// Runs shorter than this say nothing about growth.
const GROWTH_AFTER: Duration = Duration::from_secs(600);

/// Samples of each process, by number.
pub type Series = BTreeMap<u32, Vec<(Duration, Sample)>>;

/// What a process takes now; `None` if there is none of this number.
#[must_use]
pub fn sample(pid: u32) -> Option<Sample> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let number = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    Some(Sample {
        // A process that has ended and is not reaped has no memory.
        rss_bytes: number("VmRSS:")? * 1024,
        rss_peak_bytes: number("VmHWM:")? * 1024,
        files: fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as u64,
        threads: number("Threads:")?,
    })
}

/// Takes samples until it is finished or dropped.
pub struct Watch {
    stop: Arc<AtomicBool>,
    series: Arc<Mutex<Series>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Watches the processes that `pids` names, which may be others each time.
    pub fn start(period: Duration, pids: impl Fn() -> Vec<u32> + Send + 'static) -> Result<Watch> {
        let stop = Arc::new(AtomicBool::new(false));
        let series = Arc::new(Mutex::new(Series::new()));
        let (stopped, shared) = (stop.clone(), series.clone());
        let start = Instant::now();
        let thread = thread::Builder::new()
            .name("bounds".into())
            .spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    for pid in pids() {
                        if let Some(sample) = sample(pid) {
                            let mut series = lock(&shared);
                            let samples = series.entry(pid).or_default();
                            samples.push((start.elapsed(), sample));
                        }
                    }
                    thread::park_timeout(period);
                }
            })?;
        Ok(Watch {
            stop,
            series,
            thread: Some(thread),
        })
    }

    /// All samples.
    #[must_use]
    pub fn finish(mut self) -> Series {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic leaves the samples before it.
            let _ = thread.join();
        }
        lock(&self.series).clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A panic elsewhere leaves the series whole: samples are only added.
fn lock(series: &Mutex<Series>) -> std::sync::MutexGuard<'_, Series> {
    series.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The most memory that any of the processes had, in bytes.
#[must_use]
pub fn rss_peak(series: &Series) -> u64 {
    let samples = series.values().flatten();
    let peaks = samples.map(|(_, sample)| sample.rss_peak_bytes);
    peaks.max().unwrap_or(0)
}

/// Insists on the limits for each process.
pub fn check(series: &Series, limits: Limits) -> Result<()> {
    let mut faults = Vec::new();
    for (pid, samples) in series {
        let peak = |of: fn(&Sample) -> u64| samples.iter().map(|(_, s)| of(s)).max();
        for (what, peak, limit) in [
            (
                "bytes of memory",
                peak(|s| s.rss_peak_bytes),
                limits.rss_bytes,
            ),
            ("open files", peak(|s| s.files), limits.files),
            ("threads", peak(|s| s.threads), limits.threads),
        ] {
            let peak = peak.unwrap_or(0);
            if peak > limit {
                faults.push(format!("process {pid} had {peak} {what}, limit {limit}"));
            }
        }
        let growth = growth_per_hour(samples).unwrap_or(0.0);
        if growth > limits.growth_per_hour {
            faults.push(format!(
                "process {pid} grew by {growth:.3} of its memory an hour"
            ));
        }
    }
    if !faults.is_empty() {
        bail!("{}", faults.join("\n"));
    }
    Ok(())
}

/// By how much memory grew in an hour: from the middle of the second quarter
/// (the first is for warming up) to the middle of the last, by medians.
fn growth_per_hour(samples: &[(Duration, Sample)]) -> Option<f64> {
    let length = samples.last()?.0.checked_sub(samples.first()?.0)?;
    if length < GROWTH_AFTER {
        return None;
    }
    let quarter = samples.len() / 4;
    let early = median(&samples[quarter..2 * quarter])?;
    let late = median(&samples[3 * quarter..])?;
    let hours = length.as_secs_f64() / 2.0 / 3600.0;
    Some((late - early) / early / hours)
}

fn median(samples: &[(Duration, Sample)]) -> Option<f64> {
    let mut bytes: Vec<u64> = samples.iter().map(|(_, s)| s.rss_bytes).collect();
    bytes.sort_unstable();
    bytes.get(bytes.len() / 2).map(|bytes| *bytes as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        rss_bytes: 1 << 30,
        files: 10_000,
        threads: 1_000,
        growth_per_hour: 0.02,
    };

    fn grown(share: f64) -> Series {
        let samples = (0..400_u64).map(|at| {
            let grown = 1.0 + share * at as f64 / 400.0;
            let sample = Sample {
                rss_bytes: (1e8 * grown) as u64,
                ..Sample::default()
            };
            (Duration::from_secs(at * 9), sample)
        });
        Series::from([(1, samples.collect())])
    }

    #[test]
    fn this_process_is_seen() {
        let me = std::process::id();
        let watch = Watch::start(Duration::from_millis(1), move || vec![me]).unwrap();
        let series = loop {
            if !lock(&watch.series).is_empty() {
                break watch.finish();
            }
            thread::yield_now();
        };
        let (_, seen) = series[&me][0];
        assert!(
            seen.rss_bytes > 1 << 20 && seen.files > 2 && seen.threads > 1,
            "{seen:?}"
        );
        check(&series, LIMITS).unwrap();
        assert!(rss_peak(&series) >= seen.rss_bytes && rss_peak(&Series::new()) == 0);
        let tight = Limits { files: 1, ..LIMITS };
        assert!(check(&series, tight).is_err());
    }

    #[test]
    fn growth_is_noticed_in_long_runs() {
        check(&grown(0.01), LIMITS).unwrap();
        assert!(check(&grown(0.2), LIMITS).is_err());
        let short: Series = Series::from([(1, grown(9.0)[&1][..50].to_vec())]);
        check(&short, LIMITS).unwrap();
    }

    #[test]
    fn there_is_no_sample_of_nobody() {
        assert_eq!(sample(u32::MAX), None);
    }
}
