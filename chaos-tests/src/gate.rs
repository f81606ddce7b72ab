//! Which nodes clients may use now.
//!
//! A build that talks to the one node that is killed fails, and says nothing
//! about the cluster. So who takes a node away closes it here first, which
//! waits until no client is in the middle of using it; meanwhile clients go to
//! the other nodes.

use std::{
    collections::BTreeMap,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// Between two looks at whether a client that waits should give up.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// The nodes, by URL of their ports for clients.
#[derive(Default)]
pub struct Gate {
    // A std mutex with its condition variable: held for map operations only.
    nodes: Mutex<BTreeMap<String, Entry>>,
    changed: Condvar,
}

#[derive(Default)]
struct Entry {
    is_open: bool,
    users: usize,
}

/// Leave to use a node; ends when dropped.
pub struct Pass {
    gate: Arc<Gate>,
    /// The node's URL.
    pub url: String,
}

impl Gate {
    /// All of these are open.
    pub fn new(urls: impl IntoIterator<Item = String>) -> Arc<Gate> {
        let gate = Gate::default();
        for url in urls {
            gate.open(&url);
        }
        Arc::new(gate)
    }

    /// Lets clients use a node.
    pub fn open(&self, url: &str) {
        self.lock().entry(url.to_owned()).or_default().is_open = true;
        self.changed.notify_all();
    }

    /// Lets no more clients use a node, and waits until those that do are done.
    pub fn close(&self, url: &str, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        let mut nodes = self.lock();
        if let Some(entry) = nodes.get_mut(url) {
            entry.is_open = false;
        }
        while nodes.get(url).is_some_and(|entry| entry.users > 0) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("{url} was in use for {} s", limit.as_secs());
            }
            let waited = self.changed.wait_timeout(nodes, left);
            nodes = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    /// The nodes that are open.
    pub fn urls(&self) -> Vec<String> {
        let nodes = self.lock();
        let open = nodes.iter().filter(|(_, entry)| entry.is_open);
        open.map(|(url, _)| url.clone()).collect()
    }

    /// Leave to use one of the open nodes, in turn; waits while none is open.
    /// `None` once `ended` says so.
    pub fn enter(self: &Arc<Gate>, turn: usize, ended: impl Fn() -> bool) -> Option<Pass> {
        let mut nodes = self.lock();
        loop {
            if ended() {
                return None;
            }
            let mut open: Vec<_> = nodes.iter_mut().filter(|(_, one)| one.is_open).collect();
            if !open.is_empty() {
                let (url, entry) = open.swap_remove(turn % open.len());
                entry.users += 1;
                let url = url.clone();
                return Some(Pass {
                    gate: self.clone(),
                    url,
                });
            }
            let waited = self.changed.wait_timeout(nodes, LOOK_INTERVAL);
            nodes = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        // Whole after a panic elsewhere: each change is one assignment.
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if let Some(entry) = self.gate.lock().get_mut(&self.url) {
            entry.users = entry.users.saturating_sub(1);
        }
        self.gate.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_node_in_use_is_waited_for_and_one_that_is_closed_is_not_used() {
        let gate = Gate::new(["a".to_owned(), "b".to_owned()]);
        let pass = gate.enter(0, || false).unwrap();
        assert_eq!(pass.url, "a");
        let late = gate.close("a", Duration::ZERO).unwrap_err();
        assert!(late.to_string().contains("in use"), "{late}");
        for turn in 0..4 {
            assert_eq!(gate.enter(turn, || false).unwrap().url, "b");
        }
        let waiting = gate.clone();
        let closer = std::thread::spawn(move || waiting.close("a", LONG));
        drop(pass);
        closer.join().unwrap().unwrap();
        gate.close("b", LONG).unwrap();
        assert!(gate.enter(0, || true).is_none());
        gate.open("b");
        assert_eq!(gate.urls(), ["b"]);
    }
}
