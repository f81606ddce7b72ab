//! Clients that push, fetch and read, and note what they were told.

use std::time::Duration;

use rand::{Rng, seq::IndexedRandom};
use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    cluster::{Cluster, pause, read_blob},
    node::Process,
    world::World,
};
use crate::{
    Digest, Error,
    blob::{BlobStore, Lease, conformance::sample, put_bytes},
    outside,
    raft::Consensus,
    state::{Command, RefKey, RefKind, RefValue, Response},
};

const CLIENTS: usize = 4;
const KEYS: u64 = 6;
/// A client that waits longer goes away.
const PATIENCE: Duration = Duration::from_secs(15);
/// Most of a blob; above 1 MiB it goes as a stream.
const LARGE_BYTES: usize = (1 << 20) + 1_000;

/// The key of a ref.
pub(super) fn ref_key(key: u64) -> RefKey {
    RefKey::new(RefKind::Blob, "", format!("urn:{key}"), vec![])
}

/// Clients at work.
pub(super) struct Clients {
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

pub(super) fn start(cluster: &Cluster) -> Clients {
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    for client in 0..CLIENTS {
        let (cluster, stop) = (cluster.clone(), stop.clone());
        tasks.spawn(async move {
            while !stop.is_cancelled() {
                pause(10..150).await;
                call(&cluster, client).await;
            }
        });
    }
    Clients { stop, tasks }
}

impl Clients {
    /// Lets the calls under way end.
    pub(super) async fn stop(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }
}

/// One call through one node. The client goes away with the node.
async fn call(cluster: &Cluster, client: usize) {
    let Some((number, process)) = cluster.any() else {
        return;
    };
    let world = cluster.world();
    let what = match outside::rng().random_range(0..100) {
        0..30 => "push",
        30..55 => "set",
        55..80 => "look",
        80..95 => "fetch",
        _ => "find",
    };
    let calling = async {
        match what {
            "push" => push(world, &process).await,
            "set" => set(world, &process).await,
            "look" => look(world, &process).await,
            "fetch" => fetch(world, &process).await,
            _ => find(world, &process).await,
        }
    };
    let answer = tokio::select! {
        biased;
        () = process.life.cancelled() => None,
        answer = timeout(PATIENCE, calling) => answer.ok(),
    };
    let told = match answer {
        Some(Ok(told)) => {
            world.record().counts.answers += 1;
            told
        }
        Some(Err(error)) => {
            world.record().counts.doubts += 1;
            no_lie(world, number, what, &error);
            // Its text names times of this machine nowhere.
            error.to_string()
        }
        None => {
            world.record().counts.doubts += 1;
            "no answer".into()
        }
    };
    world.trace(format_args!("client {client} at {number}: {what}: {told}"));
}

/// An answer that says that something is not so has to be true.
fn no_lie(world: &World, number: usize, what: &str, error: &Error) {
    if matches!(
        error,
        Error::NotFound(_) | Error::Corrupt(_) | Error::Invalid(_)
    ) {
        world.violation(format!("node {number} answered a {what}: {error}"));
    }
}

/// Uploads a blob, and points a ref at it.
async fn push(world: &World, process: &Process) -> Result<String, Error> {
    let len = match outside::rng().random_ratio(1, 40) {
        true => LARGE_BYTES,
        false => outside::rng().random_range(1..2_000),
    };
    let digest = put_bytes(&process.gateway, sample(outside::random(), len)).await?;
    world.record().blobs.push(digest);
    point(world, process, digest).await
}

/// Points a ref at a blob that is there.
async fn set(world: &World, process: &Process) -> Result<String, Error> {
    let digest = {
        let record = world.record();
        record.blobs.choose(&mut outside::rng()).copied()
    };
    point(world, process, digest.unwrap_or_else(|| Digest::of(b""))).await
}

async fn point(world: &World, process: &Process, digest: Digest) -> Result<String, Error> {
    let key = outside::rng().random_range(0..KEYS);
    // Unlike all others, which the history needs.
    let value = outside::random::<u64>();
    let begun = world.record().history.write_begins(key, value);
    let command = Command::SetRefs {
        keys: vec![ref_key(key)],
        value: RefValue {
            digest,
            manifest: None,
            expire_at: None,
            pushed_at: value,
        },
    };
    match process.consensus.propose(command).await? {
        Response::Done { revision } => {
            world.record().history.written(key, begun, value, revision);
            Ok(format!("ref {key} has revision {revision}"))
        }
        Response::Refused { reason } => Err(Error::Invalid(reason)),
    }
}

/// Reads a ref behind a barrier.
async fn look(world: &World, process: &Process) -> Result<String, Error> {
    let key = outside::rng().random_range(0..KEYS);
    let begun = world.record().history.read_begins();
    process.consensus.barrier().await?;
    let seen = process.consensus.applied_ref(&ref_key(key))?;
    let seen = seen.map(|seen| (seen.revision, seen.value.pushed_at));
    world.record().history.read(key, begun, seen);
    Ok(format!("ref {key} is {seen:?}"))
}

/// Reads a blob that was acknowledged.
async fn fetch(world: &World, process: &Process) -> Result<String, Error> {
    let digest = {
        let record = world.record();
        record.blobs.choose(&mut outside::rng()).copied()
    };
    let Some(digest) = digest else {
        return Ok("nothing yet".into());
    };
    read_blob(process, digest).await?;
    Ok(format!("{digest}"))
}

/// Asks which of some blobs are missing: in doubt they are.
async fn find(world: &World, process: &Process) -> Result<String, Error> {
    let asked: Vec<Digest> = {
        let record = world.record();
        record
            .blobs
            .choose_multiple(&mut outside::rng(), 20)
            .copied()
            .collect()
    };
    let missing = process.gateway.find_missing(&asked, Lease::SHORT).await?;
    Ok(format!("{} of {} missing", missing.len(), asked.len()))
}
