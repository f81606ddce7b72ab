//! Figures of healing and growing: how long, how many bytes against the least
//! that had to move, and what clients notice meanwhile.
//!
//! ```text
//! cargo run --release -p weir-chaos-tests --example heal -- loss 3 1024 10000
//! cargo run --release -p weir-chaos-tests --example heal -- join 3 1024 10000
//!                                                  what, nodes, MiB, blobs
//! ```
//!
//! `loss` kills a node without warning and erases its volume; of three nodes an
//! empty one takes its place, of more the others go on without it. `join` adds
//! a node. All processes share one machine: its disk and cores are the limit.

use std::{
    env, fs,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::{runtime::Runtime, task::JoinSet};
use weir_chaos_tests::{
    Cluster, Options, Trial,
    cluster::row,
    gate::Gate,
    probe::{BATCH_BYTES, Probe},
    seeded::Words,
};

const LIMIT: Duration = Duration::from_secs(3600);

/// How long the load alone is measured, for comparison.
const BEFORE: Duration = Duration::from_secs(15);

/// Rest of the foreground between two calls: a light load.
const REST: Duration = Duration::from_millis(20);

/// Uploads at once while the cluster is filled.
const FILLERS: usize = 4;

fn main() {
    Trial::run("heal", LIMIT, |trial| {
        let mut words = env::args().skip(1);
        let what = words.next().unwrap_or_else(|| "loss".into());
        let mut number = |default: usize| -> Result<usize> {
            words.next().map_or(Ok(default), |word| Ok(word.parse()?))
        };
        let (nodes, mib, blobs) = (number(3)?, number(1024)?, number(10_000)?);
        let options = Options {
            nodes,
            ..Options::default()
        };
        let cluster = Cluster::start(trial, options)?;
        let scene = Scene::fill(trial, cluster, mib, blobs)?;
        match what.as_str() {
            "join" => scene.join(),
            _ => scene.lose(),
        }
    });
}

struct Scene {
    trial: Trial,
    cluster: Cluster,
    gate: Arc<Gate>,
    runtime: Runtime,
    members: Vec<usize>,
    bytes: u64,
    foreground: Arc<Foreground>,
}

/// The light load: one reader and one writer, and how long their calls took.
struct Foreground {
    blobs: u64,
    blob_bytes: usize,
    stop: AtomicBool,
    failed: AtomicU64,
    // A std mutex: held to push and to take.
    calls: Mutex<[Vec<Duration>; 2]>,
}

impl Scene {
    fn fill(trial: &Trial, cluster: Cluster, mib: usize, blobs: usize) -> Result<Scene> {
        let blob_bytes = (mib << 20) / blobs;
        let members: Vec<usize> = (0..cluster.nodes().len()).collect();
        let gate = Gate::new(cluster.nodes().iter().map(|node| node.client.clone()));
        let runtime = Runtime::new()?;
        trial.step(format!("filling: {blobs} blobs of {blob_bytes} bytes"));
        let began = Instant::now();
        let per_batch = (BATCH_BYTES / blob_bytes).max(1);
        let urls = gate.urls();
        runtime.block_on(async {
            let mut uploads = JoinSet::new();
            for (turn, first) in (0..blobs).step_by(per_batch).enumerate() {
                if uploads.len() >= FILLERS {
                    uploads.join_next().await.context("an upload runs")???;
                }
                let probe = Probe::new(&urls[turn % urls.len()])?;
                let numbers = (first..blobs.min(first + per_batch)).map(|number| number as u64);
                let seeds: Vec<u64> = numbers.collect();
                uploads.spawn(async move { probe.upload(&seeds, blob_bytes).await });
            }
            while let Some(done) = uploads.join_next().await {
                done??;
            }
            anyhow::Ok(())
        })?;
        let rate = (mib as f64) / began.elapsed().as_secs_f64();
        trial.step(format!(
            "filled at {rate:.0} MiB/s, durable twice before an answer"
        ));
        cluster.wait_settled(&members)?;
        let foreground = Arc::new(Foreground {
            blobs: blobs as u64,
            blob_bytes,
            stop: AtomicBool::new(false),
            failed: AtomicU64::new(0),
            calls: Mutex::default(),
        });
        for kind in [READ, WRITE] {
            let (load, gate) = (foreground.clone(), gate.clone());
            runtime.spawn(async move { load.run(kind, gate).await });
        }
        std::thread::sleep(BEFORE);
        let scene = Scene {
            trial: trial.clone(),
            cluster,
            gate,
            runtime,
            members,
            bytes: (blobs * blob_bytes) as u64,
            foreground,
        };
        scene.report("before")?;
        Ok(scene)
    }

    fn lose(mut self) -> Result<()> {
        let lost = self.members.len() - 1;
        let name = self.cluster.node(lost).name.clone();
        let status = self.cluster.status(0)?;
        let ideal = row(&status, &name)["bytes"].as_u64().unwrap_or_default();
        let fetched = self.fetched(&status, &name);
        self.gate
            .close(&self.cluster.node(lost).client.clone(), LIMIT)?;
        let began = Instant::now();
        self.cluster.kill9(lost)?;
        self.cluster.erase(lost)?;
        if self.members.len() > 3 {
            self.cluster.remove_dead(lost)?;
            self.members.pop();
        } else {
            self.cluster.join(lost)?;
        }
        self.cluster.wait_settled(&self.members)?;
        self.tell("all copies restored", began, fetched, ideal, &name)
    }

    fn join(mut self) -> Result<()> {
        let fetched = self.fetched(&self.cluster.status(0)?, "");
        let began = Instant::now();
        let index = self.cluster.add("fresh", "d")?;
        self.members.push(index);
        self.cluster.wait_settled(&self.members)?;
        // Its share of all copies; three of each blob, or as many as nodes were.
        let copies = 3.min(self.members.len() - 1) as u64;
        let ideal = self.bytes * copies / self.members.len() as u64;
        self.tell("the new node has its share", began, fetched, ideal, "")
    }

    /// Bytes that all nodes but one have fetched since their start.
    fn fetched(&self, status: &Value, without: &str) -> u64 {
        let rows = status["nodes"].as_array().map_or(&[][..], Vec::as_slice);
        rows.iter()
            .filter(|row| row["name"] != without)
            .filter_map(|row| row["repair"]["fetched_bytes"].as_u64())
            .sum()
    }

    fn tell(self, what: &str, began: Instant, before: u64, ideal: u64, lost: &str) -> Result<()> {
        let seconds = began.elapsed().as_secs_f64();
        let status = self.cluster.status(0)?;
        // A node that took the place of another began to count anew.
        let moved = self.fetched(&status, "").saturating_sub(before);
        ensure!(moved > 0, "{lost} nothing was moved: {status}");
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        self.trial.step(format!(
            "{what} after {seconds:.1} s: {:.0} MiB moved, {:.0} MiB is the least ({:.2} times), {:.0} MiB/s",
            mib(moved),
            mib(ideal),
            moved as f64 / ideal as f64,
            mib(moved) / seconds
        ));
        self.report("meanwhile")?;
        std::thread::sleep(BEFORE);
        self.report("after")?;
        self.foreground.stop.store(true, Ordering::Relaxed);
        self.runtime.shutdown_background();
        Ok(())
    }

    /// What the foreground saw since the last report, and memory of each node.
    fn report(&self, when: &str) -> Result<()> {
        let mut line = format!("foreground {when}:");
        let taken = std::mem::take(&mut *self.foreground.calls());
        for (name, mut calls) in ["read", "write"].into_iter().zip(taken) {
            calls.sort_unstable();
            let at = |share: f64| {
                let index = (calls.len() as f64 * share) as usize;
                calls
                    .get(index)
                    .map_or(0.0, |call| call.as_secs_f64() * 1e3)
            };
            let (half, p99, most) = (at(0.5), at(0.99), at(1.0 - f64::EPSILON));
            let count = calls.len();
            line += &format!(" {name} p50 {half:.1} p99 {p99:.1} max {most:.1} ms of {count};");
        }
        let failed = self.foreground.failed.swap(0, Ordering::Relaxed);
        self.trial.step(format!("{line} {failed} failed"));
        for index in self.cluster.live() {
            let pid = self.cluster.pid(index);
            let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
            let of = |key: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(key));
                line.unwrap_or_default().trim().to_owned()
            };
            let name = &self.cluster.node(index).name;
            let (now, most) = (of("VmRSS:"), of("VmHWM:"));
            self.trial
                .step(format!("{name}: memory {now}, at most {most}"));
        }
        Ok(())
    }
}

const READ: usize = 0;
const WRITE: usize = 1;

impl Foreground {
    async fn run(&self, kind: usize, gate: Arc<Gate>) {
        let mut words = Words::new(kind as u64 + 77);
        for turn in 0u64.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            tokio::time::sleep(REST).await;
            let urls = gate.urls();
            let Ok(probe) = Probe::new(&urls[words.below(urls.len())]) else {
                return;
            };
            let began = Instant::now();
            let outcome = match kind {
                READ => {
                    let seed = words.below(self.blobs as usize) as u64;
                    probe.read(seed, self.blob_bytes).await
                }
                _ => probe.upload(&[1 << 40 | turn], 20_000).await,
            };
            match outcome {
                Ok(()) => self.calls()[kind].push(began.elapsed()),
                Err(_) => drop(self.failed.fetch_add(1, Ordering::Relaxed)),
            }
        }
    }

    fn calls(&self) -> std::sync::MutexGuard<'_, [Vec<Duration>; 2]> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
