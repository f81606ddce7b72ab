//! The full scan: what was promised is read back through every node.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::{ground::Ground, play::note, report::Report};
use crate::{
    history::{ABSENT, Clock, Operation},
    invariants::{complete, durable},
    load::ledger::{self, Entry},
};

/// How long "not now" is asked again.
const PATIENCE: Duration = Duration::from_secs(30);

/// Leases that end sooner may do so while it goes on.
const LONGEST: Duration = Duration::from_secs(30);

/// Parts are read of about so many blobs, each read on its own; the others are
/// read whole, many in a message.
const IN_PARTS: usize = 64;

/// Takes out of `entries` what is not promised any more because its lease has
/// ended, or may end during the scan. Without a lease a promise holds for good.
pub(super) fn ended(entries: &mut Vec<Entry>, lease: Option<Duration>, clock: Clock) -> Vec<Entry> {
    let Some(lease) = lease else {
        return Vec::new();
    };
    let until = clock.now() + LONGEST.as_micros() as u64;
    let has_ended = |entry: &mut Entry| entry.at + lease.as_micros() as u64 <= until;
    entries.extract_if(.., has_ended).collect()
}

/// Reads everything back that is promised; gives the reads of refs.
pub(super) fn all(
    ground: &dyn Ground,
    seed: u64,
    promised: &[Entry],
    clock: Clock,
    report: &mut Report,
) -> Result<Vec<Operation>> {
    let _inside = ground.enter()?;
    let urls = ground.urls();
    let names = ledger::blobs(promised);
    let depth = durable::Depth {
        seed,
        parts_every: names.len().div_ceil(IN_PARTS),
        patience: PATIENCE,
    };
    match durable::check(&urls, &names, depth) {
        Ok(reads) => report.reads += reads as u64,
        Err(error) => note(report, "durable", Err(error)),
    }
    walk(&urls, promised, clock, report)
}

/// Insists that no ref whose lease has [`ended`] is there by half: its blobs may
/// be evicted, and then it is gone, too. Gives the reads of those that are there.
pub(super) fn whole_or_gone(
    ground: &dyn Ground,
    ended: &[Entry],
    clock: Clock,
    report: &mut Report,
) -> Result<Vec<Operation>> {
    if ended.is_empty() {
        return Ok(Vec::new());
    }
    let _inside = ground.enter()?;
    let mut read = walk(&ground.urls(), ended, clock, report)?;
    let asked = read.len();
    read.retain(|read| read.value != ABSENT);
    let counts = json!({"reads": asked, "whole": read.len()});
    ground.note("read after the leases", counts);
    Ok(read)
}

/// Reads each ref and all that it names; none may be there by half.
fn walk(
    urls: &[String],
    entries: &[Entry],
    clock: Clock,
    report: &mut Report,
) -> Result<Vec<Operation>> {
    let read = complete::check(urls, entries, clock, PATIENCE)?;
    report.reads += read.len() as u64;
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{content::Name, ledger::Acknowledged};

    #[test]
    fn a_promise_ends_with_its_lease_or_never() {
        let entry = |at| Entry {
            at,
            node: 0,
            what: Acknowledged::Blob(Name::of(b"anything")),
        };
        let clock = Clock::start();
        let second = Duration::from_secs(1);
        let mut entries = vec![entry(0), entry(LONGEST.as_micros() as u64 + 60_000_000)];
        assert_eq!(ended(&mut entries, None, clock), []);
        assert_eq!(ended(&mut entries, Some(second), clock), [entry(0)]);
        assert_eq!(entries.len(), 1);
    }
}
