//! A steady stream of small pushes through every node, and the ledger of what
//! was acknowledged.
//!
//! Each push is what BuildStream does, in small: a batch of blobs, then a ref
//! under two URIs that names the first of them and lists the others as
//! references. URIs and contents are never used twice, so that a push whose
//! outcome is unknown (its node was killed) cannot be mistaken for another.

mod calls;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use tokio::runtime::Runtime;
use weir_proto::reapi::Digest;

use crate::{gate::Gate, seeded::Words, wait::until};

/// From a start until everything is confirmed: nodes may still recover and
/// elect.
const CONFIRM_LIMIT: Duration = Duration::from_secs(60);

/// Rest of a light load between two pushes.
const REST: Duration = Duration::from_millis(100);

/// One acknowledged push.
#[derive(Clone, Debug)]
pub struct Pushed {
    uris: Vec<String>,
    blobs: Vec<Digest>,
}

/// Everything that was acknowledged.
pub struct Ledger {
    pushes: Vec<Pushed>,
}

/// A workload that runs until it is finished or dropped.
pub struct Workload {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    // Std mutexes: held to push and to copy, never across an await.
    acknowledged: Mutex<Vec<Pushed>>,
    /// The first read that contradicts what was acknowledged.
    broken: Mutex<Option<String>>,
}

impl Workload {
    /// Starts pushing, each push through the next of `urls`. A push that
    /// fails is not tried again and does not count.
    pub fn start(urls: Vec<String>, seed: u64) -> Result<Workload> {
        let mut turns = urls.into_iter().cycle();
        Workload::spawn(move |shared, runtime| {
            let mut words = Words::new(seed);
            for number in 0.. {
                let Some(url) = turns.next().filter(|_| !shared.is_stopped()) else {
                    return;
                };
                let push = calls::push(&url, &mut words, seed, number);
                if let Ok(done) = runtime.block_on(push) {
                    lock(&shared.acknowledged).push(done);
                }
            }
        })
    }

    /// Starts a light load: a push through one of the open nodes, then the
    /// blobs of an earlier push read through another, then a rest. A node that
    /// says of acknowledged blobs that they are not there, or sends other
    /// bytes, breaks the workload, which [`finish`](Self::finish) tells.
    pub fn light(gate: Arc<Gate>, seed: u64) -> Result<Workload> {
        Workload::spawn(move |shared, runtime| {
            let mut words = Words::new(seed);
            for number in 0.. {
                if shared.is_stopped() {
                    return;
                }
                runtime.block_on(async { tokio::time::sleep(REST).await });
                let urls = gate.urls();
                if urls.is_empty() {
                    continue;
                }
                let url = &urls[number % urls.len()];
                let push = calls::push(url, &mut words, seed, number);
                if let Ok(done) = runtime.block_on(push) {
                    lock(&shared.acknowledged).push(done);
                }
                let so_far = lock(&shared.acknowledged).len();
                if so_far > 0 {
                    let earlier = lock(&shared.acknowledged)[words.below(so_far)].clone();
                    let url = &urls[words.below(urls.len())];
                    shared.note(url, &earlier, runtime.block_on(calls::read(url, &earlier)));
                }
            }
        })
    }

    fn spawn(work: impl FnOnce(&Shared, &Runtime) + Send + 'static) -> Result<Workload> {
        let shared = Arc::new(Shared::default());
        let runtime = runtime()?;
        let inner = shared.clone();
        let thread = thread::Builder::new()
            .name("workload".into())
            .spawn(move || work(&inner, &runtime))?;
        Ok(Workload {
            shared,
            thread: Some(thread),
        })
    }

    /// How many pushes were acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        lock(&self.shared.acknowledged).len()
    }

    /// Waits until so many pushes were acknowledged.
    pub fn reach(&self, count: usize, limit: Duration) -> Result<()> {
        until(format!("{count} acknowledged pushes"), limit, || {
            self.shared.check()?;
            ensure!(
                self.thread.as_ref().is_some_and(|one| !one.is_finished()),
                "the workload has ended"
            );
            Ok((self.acknowledged() >= count).then_some(()))
        })
    }

    /// Stops and hands over what was acknowledged.
    pub fn finish(mut self) -> Result<Ledger> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let thread = self
            .thread
            .take()
            .context("the workload has finished already")?;
        thread
            .join()
            .map_err(|_| anyhow!("the workload panicked"))?;
        self.shared.check()?;
        let pushes = lock(&self.shared.acknowledged).clone();
        Ok(Ledger { pushes })
    }
}

impl Shared {
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn note(&self, url: &str, push: &Pushed, read: Result<()>) {
        if let Err(error) = read
            && !calls::is_not_now(&error)
        {
            let text = format!("{url}, reading {}: {error:#}", push.uris[0]);
            lock(&self.broken).get_or_insert(text);
        }
    }

    fn check(&self) -> Result<()> {
        match lock(&self.broken).as_ref() {
            Some(broken) => bail!("{broken}"),
            None => Ok(()),
        }
    }
}

/// What is in them is whole after a panic elsewhere: each change is one step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Workload {
    /// Ends the thread after the call that it is in; nobody waits for it.
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Ledger {
    /// How many pushes were acknowledged.
    pub fn len(&self) -> usize {
        self.pushes.len()
    }

    /// Whether nothing was acknowledged.
    pub fn is_empty(&self) -> bool {
        self.pushes.is_empty()
    }

    /// Insists that the node at `url` finds every URI, has every blob, and
    /// sends bytes that hash to their digests.
    ///
    /// UNAVAILABLE is asked again for a while: it says "not now", not "gone".
    pub fn confirm(&self, url: &str) -> Result<()> {
        let runtime = runtime()?;
        for push in &self.pushes {
            until(
                format!("{} to be confirmed by {url}", push.uris[0]),
                CONFIRM_LIMIT,
                || match runtime.block_on(calls::confirm(url, push)) {
                    Ok(()) => Ok(Some(())),
                    Err(error) if calls::is_not_now(&error) => Ok(None),
                    Err(error) => Err(error.context(format!("{} at {url}", push.uris[0]))),
                },
            )?;
        }
        Ok(())
    }

    /// Insists that the node at `url`, of another cluster, knows none of it.
    pub fn confirm_absent(&self, url: &str) -> Result<()> {
        let runtime = runtime()?;
        let mut pushes = self.pushes.iter();
        pushes.try_for_each(|push| runtime.block_on(calls::confirm_absent(url, push)))
    }
}

fn runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}
