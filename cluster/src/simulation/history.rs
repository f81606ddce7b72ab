//! What clients were told of refs, and whether it can be true.
//!
//! A revision is a place in the one order of all writes. So a key is
//! linearizable if and only if revisions and values are one to one, nothing is
//! read before it was written, and no call that began after another had ended
//! got an older revision. A write without an answer may have happened at any
//! time from its beginning on.

use std::collections::BTreeMap;

/// Calls in the order of a counter that beginnings and ends share.
#[derive(Default)]
pub(super) struct History {
    now: u64,
    keys: BTreeMap<u64, Key>,
}

#[derive(Default)]
struct Key {
    /// When the write of a value began.
    begun: BTreeMap<u64, u64>,
    calls: Vec<Call>,
}

/// A call that was answered.
struct Call {
    begun: u64,
    ended: u64,
    is_write: bool,
    /// Revision and value; none if there was nothing to read.
    seen: Option<(u64, u64)>,
}

impl History {
    fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    /// A write of a value that nobody else writes begins.
    pub(super) fn write_begins(&mut self, key: u64, value: u64) -> u64 {
        let now = self.tick();
        self.keys.entry(key).or_default().begun.insert(value, now);
        now
    }

    pub(super) fn read_begins(&mut self) -> u64 {
        self.tick()
    }

    pub(super) fn written(&mut self, key: u64, begun: u64, value: u64, revision: u64) {
        self.ends(key, begun, true, Some((revision, value)));
    }

    pub(super) fn read(&mut self, key: u64, begun: u64, seen: Option<(u64, u64)>) {
        self.ends(key, begun, false, seen);
    }

    fn ends(&mut self, key: u64, begun: u64, is_write: bool, seen: Option<(u64, u64)>) {
        let ended = self.tick();
        self.keys.entry(key).or_default().calls.push(Call {
            begun,
            ended,
            is_write,
            seen,
        });
    }

    pub(super) fn keys(&self) -> Vec<u64> {
        self.keys.keys().copied().collect()
    }

    /// How many calls were answered.
    pub(super) fn calls(&self) -> u64 {
        self.keys.values().map(|key| key.calls.len() as u64).sum()
    }

    /// What cannot be true.
    pub(super) fn violations(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (number, key) in &self.keys {
            key.check(&mut |what| found.push(format!("ref {number}: {what}")));
        }
        found
    }
}

impl Key {
    fn check(&self, found: &mut dyn FnMut(String)) {
        let (mut values, mut revisions) = (BTreeMap::new(), BTreeMap::new());
        for call in &self.calls {
            let Some((revision, value)) = call.seen else {
                continue;
            };
            if *values.entry(revision).or_insert(value) != value
                || *revisions.entry(value).or_insert(revision) != revision
            {
                found(format!(
                    "revision {revision} and value {value} are not one to one"
                ));
            }
            match self.begun.get(&value) {
                Some(begun) if *begun < call.ended => {}
                _ => found(format!("value {value} was read before it was written")),
            }
        }
        // By end: the newest revision that was known when a call began.
        let mut ended: Vec<(u64, u64)> = self
            .calls
            .iter()
            .map(|call| (call.ended, call.seen.map_or(0, |(revision, _)| revision)))
            .collect();
        ended.sort_unstable();
        let mut newest = 0;
        for (_, revision) in &mut ended {
            newest = newest.max(*revision);
            *revision = newest;
        }
        for call in &self.calls {
            let before = ended.partition_point(|(end, _)| *end < call.begun);
            let known = before.checked_sub(1).map_or(0, |last| ended[last].1);
            let got = call.seen.map_or(0, |(revision, _)| revision);
            if got < known || (call.is_write && got == known) {
                let what = if call.is_write { "write" } else { "read" };
                found(format!(
                    "a {what} got revision {got} after revision {known} had been told"
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Step = fn(&mut History);

    #[test]
    fn what_cannot_be_true_is_found_and_nothing_else() {
        let cases: &[(&str, bool, Step)] = &[
            ("a read of what was written", true, |h| {
                let w = h.write_begins(1, 10);
                h.written(1, w, 10, 5);
                let r = h.read_begins();
                h.read(1, r, Some((5, 10)));
            }),
            ("a write without an answer is read", true, |h| {
                h.write_begins(1, 10);
                let r = h.read_begins();
                h.read(1, r, Some((5, 10)));
            }),
            ("a read that overlaps sees the old value", true, |h| {
                let r = h.read_begins();
                let w = h.write_begins(1, 10);
                h.written(1, w, 10, 5);
                h.read(1, r, None);
            }),
            ("a stale read", false, |h| {
                for value in [10, 11] {
                    let w = h.write_begins(1, value);
                    h.written(1, w, value, value);
                }
                let r = h.read_begins();
                h.read(1, r, Some((10, 10)));
            }),
            ("a write that was lost", false, |h| {
                let w = h.write_begins(1, 10);
                h.written(1, w, 10, 5);
                let r = h.read_begins();
                h.read(1, r, None);
            }),
            ("a read of the future", false, |h| {
                let r = h.read_begins();
                h.read(1, r, Some((5, 10)));
                h.write_begins(1, 10);
            }),
            ("two values under one revision", false, |h| {
                let (a, b) = (h.write_begins(1, 10), h.write_begins(1, 11));
                h.written(1, a, 10, 5);
                h.written(1, b, 11, 5);
            }),
            ("one value under two revisions", false, |h| {
                let (a, r) = (h.write_begins(1, 10), h.read_begins());
                h.written(1, a, 10, 5);
                h.read(1, r, Some((6, 10)));
            }),
            ("a later write with an older revision", false, |h| {
                for (value, revision) in [(10, 6), (11, 5)] {
                    let w = h.write_begins(1, value);
                    h.written(1, w, value, revision);
                }
            }),
            ("reads that go back", false, |h| {
                h.write_begins(1, 10);
                h.write_begins(1, 11);
                for seen in [(6, 11), (5, 10)] {
                    let r = h.read_begins();
                    h.read(1, r, Some(seen));
                }
            }),
        ];
        for (what, is_good, steps) in cases {
            let mut history = History::default();
            steps(&mut history);
            let found = history.violations();
            assert_eq!(found.is_empty(), *is_good, "{what}: {found:?}");
        }
    }
}
