//! How much clients may notice of a fault: the share of calls that are
//! answered, and the longest time in which nobody was.
//!
//! Source: P4 (ref calls wait through an election rather than fail), P8 (reads
//! go on), P11 (overload is said, and does not count as unanswered). The
//! figures are those of the scenario.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::load::meter::{Report, Rpc};

/// What is asked of one RPC, over all nodes.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    pub rpc: Rpc,
    /// Answered calls, of those that were not shed.
    pub least_success: f64,
    /// From the start of a call that failed until one was answered.
    pub longest_gap: Duration,
    /// Calls without which nothing was shown.
    pub least_calls: u64,
}

/// Insists on all limits.
pub fn check(report: &Report, limits: &[Limit]) -> Result<()> {
    let mut faults = Vec::new();
    for limit in limits {
        let rpc = limit.rpc;
        let Some(row) = report.over_all(rpc) else {
            faults.push(format!("{rpc:?} was never called"));
            continue;
        };
        if row.calls() < limit.least_calls {
            faults.push(format!("{rpc:?} was called only {} times", row.calls()));
        }
        if row.success() < limit.least_success {
            faults.push(format!(
                "{rpc:?}: {:.4} of the calls were answered, {:.4} are promised",
                row.success(),
                limit.least_success
            ));
        }
        let gap = Duration::from_micros(row.longest_gap);
        if gap > limit.longest_gap {
            faults.push(format!(
                "{rpc:?}: nobody was answered for {gap:?}, {:?} is the limit",
                limit.longest_gap
            ));
        }
    }
    if !faults.is_empty() {
        bail!("{}\n{report}", faults.join("\n"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;
    use crate::load::meter::Meter;

    #[test]
    fn each_limit_is_insisted_on() {
        let meter = Meter::default();
        for call in 0..99 {
            meter.add(Rpc::Read, 0, call * 10, call * 10 + 5, Code::Ok);
        }
        meter.add(Rpc::Read, 1, 1_000, 1_010, Code::Unavailable);
        meter.add(Rpc::Read, 0, 2_000_000, 2_000_500, Code::Ok);
        let report = meter.report();
        let good = Limit {
            rpc: Rpc::Read,
            least_success: 0.99,
            longest_gap: Duration::from_secs(2),
            least_calls: 100,
        };
        check(&report, &[good]).unwrap();
        let gap = Duration::from_secs(1);
        for bad in [
            Limit {
                rpc: Rpc::Write,
                ..good
            },
            Limit {
                least_success: 0.999,
                ..good
            },
            Limit {
                longest_gap: gap,
                ..good
            },
            Limit {
                least_calls: 200,
                ..good
            },
        ] {
            assert!(check(&report, &[bad]).is_err(), "{bad:?}");
        }
    }
}
