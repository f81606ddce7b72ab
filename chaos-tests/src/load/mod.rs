//! Seeded workloads against the ports for clients, through all nodes at once.
//!
//! ```text
//!  Refs       names that are pushed and fetched           ──► oracle::{linear, available}
//!  Blobs      uploads, duplicates, cuts, forgeries, reads ──► oracle::blobs
//!  Artifacts  what BuildStream pushes and pulls           ──► oracle::{linear, available}
//!  Presence   storms of FindMissingBlobs                  ──► oracle::blobs
//!  Reading    promised blobs, with retries                ──► figures only
//! ```
//!
//! Each runs some clients until it is stopped. They keep the pace they were
//! given whatever happens, try nothing twice (but for Reading), and write down what they were
//! told: every answer that an oracle may judge into the history, every promise
//! into the ledger, the time of every call into the meter. What no history is
//! needed for (wrong bytes, a forged digest that was taken, a ref that is
//! shown without its blobs) is a breach, told when the load is finished.
//!
//! What clients do follows from the seed; what comes of it depends on timing.

pub mod answer;
mod artifacts;
mod blobs;
pub mod cas;
pub mod closure;
pub mod content;
pub mod ledger;
#[cfg(test)]
mod liar;
#[cfg(test)]
mod lies_tests;
pub mod meter;
mod presence;
mod reading;
mod refs;
pub mod tools;
pub mod verify;

use std::{
    collections::BTreeMap,
    future::Future,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

pub use self::{
    artifacts::Artifacts, blobs::Blobs, ledger::Ledger, presence::Presence, reading::Reading,
    refs::Refs, tools::Nodes, tools::Tools,
};
use crate::{
    history::{Clock, Operation},
    wait::until,
};

/// Breaches that an error lists.
const LISTED: usize = 8;

/// How a load is run.
#[derive(Clone)]
pub struct Options {
    /// Whom to ask. Shared with whoever changes it.
    pub nodes: Nodes,
    pub seed: u64,
    /// Clients that run at the same time.
    pub clients: u32,
    /// Rounds in a second, of all clients together, at most.
    pub per_second: f64,
    /// Longest call. A ref call may wait some seconds for an election.
    pub call_limit: Duration,
    /// The clock of the run.
    pub clock: Clock,
    pub ledger: Ledger,
}

impl Options {
    /// Eight clients, 100 rounds a second, a clock and a ledger of its own.
    #[must_use]
    pub fn new(nodes: Nodes, seed: u64) -> Options {
        Options {
            nodes,
            seed,
            clients: 8,
            per_second: 100.0,
            call_limit: Duration::from_secs(20),
            clock: Clock::start(),
            ledger: Ledger::default(),
        }
    }
}

/// What is done by the clients of a load.
pub trait Workload: Send + 'static {
    /// For errors and threads.
    const NAME: &'static str;
    type Client: Client;

    /// The client of this number.
    fn client(&self, process: u32, tools: Arc<Tools>) -> Self::Client;
}

/// One client.
pub trait Client: Send + 'static {
    /// One thing that it does, with as many calls as that takes.
    fn round(&mut self) -> impl Future<Output = ()> + Send;
}

/// A workload that runs until it is finished or dropped.
pub struct Load {
    name: &'static str,
    tools: Arc<Tools>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

/// What a load leaves behind.
pub struct Done {
    pub history: Vec<Operation>,
    pub ledger: Ledger,
    pub report: meter::Report,
    pub breaches: Vec<String>,
    /// How often the rarer things were done, by name.
    pub counts: BTreeMap<&'static str, u64>,
}

impl Load {
    /// Starts the clients, on a thread of their own.
    pub fn start<W: Workload>(workload: W, options: Options) -> Result<Load> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stop, stopped) = watch::channel(false);
        let (clients, rate) = (options.clients.max(1), options.per_second.max(0.001));
        let period = Duration::from_secs_f64(f64::from(clients) / rate);
        let tools = Arc::new(Tools::new(options));
        let shared = tools.clone();
        let thread = thread::Builder::new().name(W::NAME.into()).spawn(move || {
            runtime.block_on(async move {
                let mut running = JoinSet::new();
                for process in 0..clients {
                    let client = workload.client(process, shared.clone());
                    running.spawn(run(client, period, stopped.clone()));
                }
                while let Some(ended) = running.join_next().await {
                    if let Err(error) = ended {
                        shared.breach(format!("a client of {} panicked: {error}", W::NAME));
                    }
                }
            });
        })?;
        Ok(Load {
            name: W::NAME,
            tools,
            stop,
            thread: Some(thread),
        })
    }

    /// What it has by now: history, ledger, meter.
    #[must_use]
    pub fn tools(&self) -> &Tools {
        &self.tools
    }

    /// Waits until the history has so many operations.
    pub fn reach(&self, operations: usize, limit: Duration) -> Result<()> {
        let what = format!("{operations} operations of {}", self.name);
        until(what, limit, || {
            if let Some(breach) = self.tools.breaches().first() {
                bail!("{}: {breach}", self.name);
            }
            Ok((self.tools.history.len() >= operations).then_some(()))
        })
    }

    /// Stops after the rounds that are under way.
    pub fn finish(mut self) -> Result<Done> {
        self.stop.send_replace(true);
        let thread = self.thread.take().context("it has finished already")?;
        thread
            .join()
            .map_err(|_| anyhow!("{} panicked", self.name))?;
        Ok(Done {
            history: self.tools.history.snapshot(),
            ledger: self.tools.ledger.clone(),
            report: self.tools.meter.report(),
            breaches: self.tools.breaches(),
            counts: self.tools.counts(),
        })
    }
}

impl Drop for Load {
    /// Ends the clients after their rounds; nobody waits for them.
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

impl Done {
    /// An error that lists the breaches, if there are any.
    pub fn insist(&self) -> Result<()> {
        if self.breaches.is_empty() {
            return Ok(());
        }
        let listed: Vec<_> = self.breaches.iter().take(LISTED).cloned().collect();
        bail!("{} breaches\n{}", self.breaches.len(), listed.join("\n"))
    }
}

async fn run(mut client: impl Client, period: Duration, mut stopped: watch::Receiver<bool>) {
    let mut pace = interval(period);
    // A round that took long is not made up for: that would be a storm at the
    // moment in which a cluster comes back.
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = pace.tick() => {}
            // Only a load that is gone closes the channel.
            _ = stopped.changed() => return,
        }
        if *stopped.borrow() {
            return;
        }
        client.round().await;
    }
}
