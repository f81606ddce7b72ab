//! An owner fetches what it lacks.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use futures::{StreamExt, stream};

use super::{
    fetch::{Fetching, within},
    plan::{self, Comparison},
    worker::{Round, Worker},
};
use crate::{
    Digest, Error, NodeId, Slot,
    blob::{Held, Summary},
    placement::view::View,
};

/// Members listed at once.
const LISTED_AT_ONCE: usize = 8;

type Lists = BTreeMap<NodeId, Vec<Held>>;

impl Worker {
    /// Compares the slots owned here, chunk by chunk, and fetches what is
    /// lacking. Ends early when the own store takes no more or the epoch passes.
    pub(super) async fn pull(
        &mut self,
        view: &Arc<View>,
        plan: Vec<Comparison>,
        round: &mut Round,
    ) {
        round.unsettled = plan.len();
        for chunk in plan::chunks(plan, Comparison::entries) {
            if self.is_superseded(view) {
                round.superseded = true;
                return;
            }
            if let Err(error) = self.pull_chunk(view, &chunk, round).await {
                return round.trouble(|| error.to_string());
            }
        }
    }

    /// Fails if the own store does.
    async fn pull_chunk(
        &mut self,
        view: &Arc<View>,
        chunk: &[Comparison],
        round: &mut Round,
    ) -> Result<(), Error> {
        let slots: Vec<Slot> = chunk.iter().map(|comparison| comparison.slot).collect();
        let own = self.local.list(&slots).await?;
        let lists = self.lists(view, chunk).await;
        for list in lists.values() {
            self.progress.seen(list.iter().map(|blob| blob.digest.size));
        }
        let local = Arc::clone(&self.local);
        let found = plan::lacking(view, chunk, &own, &lists, |blob| local.declines(blob));
        let mut open: HashMap<Slot, usize> = HashMap::new();
        for wanted in &found.wanted {
            *open.entry(wanted.blob.digest.slot()).or_default() += 1;
        }
        let rate = view.state().settings.repair_bytes_per_second;
        let fetching = Fetching::new(&*self.local, &*self.peers, &self.pace, &self.progress, rate);
        let outcome = fetching.run(found.wanted).await;
        round.moved += outcome.adopted.len() as u64;
        for digest in &outcome.adopted {
            if let Some(left) = open.get_mut(&digest.slot()) {
                *left = left.saturating_sub(1);
            }
        }
        let own = own.iter().map(|blob| &blob.digest);
        let ours = summaries(own.chain(&outcome.adopted));
        let mut short = 0;
        for Comparison { slot, members, .. } in chunk {
            let is_open = open.get(slot).is_some_and(|left| *left > 0);
            if is_open || !members.iter().all(|member| lists.contains_key(member)) {
                short += 1;
                // It is not put off when it is tried again.
                self.differed.insert(*slot);
                continue;
            }
            round.unsettled -= 1;
            for (member, theirs) in members.iter().filter_map(|m| Some((m, lists.get(m)?))) {
                let theirs = theirs.iter().map(|blob| &blob.digest);
                let theirs = summary(theirs.filter(|digest| digest.slot() == *slot));
                let ours = ours.get(slot).copied().unwrap_or_default();
                let declined = found.declined.contains(slot);
                self.memo.note(*member, *slot, [theirs, ours], declined);
            }
        }
        if let Some(error) = outcome.trouble {
            return Err(error);
        }
        if short > 0 {
            round.trouble(|| format!("{short} slots could not be compared or copied in full"));
        }
        Ok(())
    }

    /// What members hold of the slots they are to be compared in; those that do
    /// not answer are left out.
    async fn lists(&self, view: &View, chunk: &[Comparison]) -> Lists {
        let mut questions: BTreeMap<NodeId, Vec<Slot>> = BTreeMap::new();
        for Comparison { slot, members, .. } in chunk {
            for member in members {
                questions.entry(*member).or_default().push(*slot);
            }
        }
        let (peers, epoch) = (&*self.peers, view.epoch());
        let calls: Vec<_> = questions
            .into_iter()
            .map(|(member, slots)| async move {
                let listed = within(member, peers.list(member, epoch, &slots)).await;
                let listed = listed.inspect_err(|error| {
                    tracing::debug!(%member, %error, "no list");
                });
                let asked: BTreeSet<Slot> = slots.into_iter().collect();
                let mut list = listed.ok()?;
                list.retain(|blob| asked.contains(&blob.digest.slot()));
                Some((member, list))
            })
            .collect();
        stream::iter(calls)
            .buffer_unordered(LISTED_AT_ONCE)
            .filter_map(|listed| async move { listed })
            .collect()
            .await
    }
}

fn summary<'a>(digests: impl Iterator<Item = &'a Digest>) -> Summary {
    let mut summary = Summary::default();
    digests.for_each(|digest| summary.add(digest));
    summary
}

fn summaries<'a>(digests: impl Iterator<Item = &'a Digest>) -> HashMap<Slot, Summary> {
    let mut summaries: HashMap<Slot, Summary> = HashMap::new();
    for digest in digests {
        summaries.entry(digest.slot()).or_default().add(digest);
    }
    summaries
}
