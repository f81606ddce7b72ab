//! An operator who changes the cluster while faults happen.

use std::time::Duration;

use rand::{Rng, seq::IteratorRandom};
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use super::cluster::{Cluster, pause, within};
use crate::{
    NodeId, outside,
    state::{Command, MemberStatus, Settings},
};

/// Most members at once.
const MOST: usize = 7;
/// Fewer survive no loss.
const LEAST: usize = 3;
/// How long the operator watches a node drain before looking at something else.
const DRAIN_PATIENCE: Duration = Duration::from_secs(60);

/// How long a change may take without faults.
const FINISH_PATIENCE: Duration = Duration::from_secs(120);

/// An operator at work.
pub(super) struct Operator {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

pub(super) fn start(cluster: &Cluster) -> Operator {
    let stop = CancellationToken::new();
    let (cluster, stopped) = (cluster.clone(), stop.clone());
    let task = tokio::spawn(async move {
        let mut may_lose_a_volume = true;
        loop {
            pause(1_000..8_000).await;
            if stopped.is_cancelled() {
                return;
            }
            change(&cluster, &stopped, &mut may_lose_a_volume).await;
        }
    });
    Operator { stop, task }
}

impl Operator {
    /// Lets it finish what it has begun, now that there are no faults; a drain
    /// is called off.
    pub(super) async fn finish(self, cluster: &Cluster) {
        self.stop.cancel();
        match timeout(FINISH_PATIENCE, self.task).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => std::panic::resume_unwind(error.into_panic()),
            Err(_) => cluster.world().violation(format!(
                "a change of members has not ended in {FINISH_PATIENCE:?}"
            )),
        }
    }
}

async fn change(cluster: &Cluster, stop: &CancellationToken, may_lose_a_volume: &mut bool) {
    let members = cluster.state().members.len();
    cluster.world().record().counts.changes += 1;
    match outside::rng().random_range(0..100) {
        0..35 if members < MOST => join(cluster).await,
        35..65 if members > LEAST => leave(cluster, stop).await,
        65..85 if *may_lose_a_volume => {
            // One at most: with two copies of each blob for sure, one volume
            // may be lost and no more.
            *may_lose_a_volume = false;
            replace(cluster).await;
        }
        _ => settle(cluster).await,
    }
}

async fn join(cluster: &Cluster) {
    let number = cluster.add(None);
    cluster.world().trace(format_args!("node {number} joins"));
    if let Err(why) = cluster.try_agree(cluster.joining(number)).await {
        cluster
            .world()
            .trace(format_args!("node {number} may not join: {why}"));
        return cluster.retire(number);
    }
    cluster.start(number).await;
}

async fn leave(cluster: &Cluster, stop: &CancellationToken) {
    let state = cluster.state();
    let active = state.members.iter();
    let active = active.filter(|(_, member)| member.status == MemberStatus::Active);
    let Some(id) = active.map(|(id, _)| *id).choose(&mut outside::rng()) else {
        return;
    };
    let Some(number) = number_of(cluster, id) else {
        return;
    };
    cluster.world().trace(format_args!("node {number} drains"));
    if let Err(why) = cluster.try_agree(Command::Drain { id, on: true }).await {
        return cluster
            .world()
            .trace(format_args!("node {number} stays: {why}"));
    }
    let drained = || {
        let state = cluster.state();
        // After a power cut of all, nobody has applied anything yet.
        let is_known = state.members.contains_key(&id);
        let owns = state.epochs.iter().any(|plan| plan.nodes.contains_key(&id));
        let store = &cluster.nodes()[&number].identity.store;
        stop.is_cancelled() || (is_known && !owns && store.digests().is_empty())
    };
    let done = within(DRAIN_PATIENCE, drained).await && !stop.is_cancelled();
    let command = match done {
        true => {
            cluster.expect_to_go(number);
            Command::Remove { id, force: false }
        }
        false => Command::Drain { id, on: false },
    };
    let answer = cluster.try_agree(command).await;
    cluster
        .world()
        .trace(format_args!("node {number} drained: {done}, {answer:?}"));
    // What it does then is seen when it is barred.
}

/// A volume is lost, and an empty node comes in its place.
async fn replace(cluster: &Cluster) {
    let state = cluster.state();
    let Some(old) = state.members.keys().copied().choose(&mut outside::rng()) else {
        return;
    };
    let Some(lost) = number_of(cluster, old) else {
        return;
    };
    cluster
        .world()
        .trace(format_args!("the volume of node {lost} is lost"));
    cluster.retire(lost);
    let number = cluster.add(None);
    let Command::AddMember { id, mut member } = cluster.joining(number) else {
        return;
    };
    member.name.clone_from(&state.members[&old].name);
    let answer = cluster
        .try_agree(Command::Replace { old, id, member })
        .await;
    cluster
        .world()
        .trace(format_args!("node {number} replaces {lost}: {answer:?}"));
    // Refused as well if it was done by a proposal that got no answer.
    match cluster.state().members.contains_key(&id) {
        true => cluster.start(number).await,
        false => cluster.retire(number),
    }
}

async fn settle(cluster: &Cluster) {
    let settings = Settings {
        replicas: outside::rng().random_range(2..=4),
        ..cluster.state().settings.clone()
    };
    let replicas = settings.replicas;
    let answer = cluster.try_agree(Command::Settle { settings }).await;
    cluster
        .world()
        .trace(format_args!("{replicas} replicas: {answer:?}"));
}

fn number_of(cluster: &Cluster, id: NodeId) -> Option<usize> {
    let nodes = cluster.nodes();
    let found = nodes
        .iter()
        .find(|(_, node)| node.identity.id == id && !node.gone);
    found.map(|(number, _)| *number)
}
