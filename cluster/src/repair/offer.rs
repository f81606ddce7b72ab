//! Who is no owner offers what it holds, and drops what nobody needs.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    account::Accounts,
    ballot::{self, Ballot, Offer, Seen},
    fetch::within,
    plan,
    worker::{LOOK_AGAIN, Round, Worker},
};
use crate::{
    Error, NodeId,
    blob::{Held, Verdict},
    placement::view::View,
    planted::{self, Bug},
    replication::Lacking,
};

/// Blobs in one offer: 768 KiB.
const OFFER_BLOBS: usize = 16 << 10;

/// What everybody held of a slot when some owner wanted its blobs, and when to
/// offer them again if that stays so: a full owner that wants a blob may decline
/// it later, when it has grown old, and no summary shows that.
pub(super) struct Told {
    seen: Seen,
    wait: Duration,
    again_at: Instant,
}

impl Told {
    /// Waits twice as long as the last time, if nothing has changed since.
    fn again(last: Option<Self>, seen: Seen, shortest: Duration) -> Self {
        let wait = match last {
            Some(last) if last.seen == seen => (2 * last.wait).min(LOOK_AGAIN),
            _ => shortest,
        };
        Self {
            seen,
            wait,
            again_at: Instant::now() + wait,
        }
    }
}

impl Worker {
    /// Offers the blobs held here to the owners of their slots, chunk by chunk,
    /// and drops those that all of them hold or decline.
    pub(super) async fn offer(&mut self, view: &Arc<View>, accounts: &Accounts, round: &mut Round) {
        if planted::is(Bug::HandOverSkipped) {
            return;
        }
        let own = self.own();
        let surplus: std::collections::BTreeSet<_> =
            ballot::surplus(view, &own).map(|(slot, _)| slot).collect();
        self.told.retain(|slot, _| surplus.contains(slot));
        let now = Instant::now();
        let told = |offer: &Offer| {
            let told = self.told.get(&offer.slot);
            told.is_some_and(|told| told.seen == offer.seen && now < told.again_at)
        };
        let offers = ballot::offers(view, &own, accounts, told);
        for chunk in plan::chunks(offers, |offer| u64::from(offer.blobs)) {
            if self.is_superseded(view) {
                round.superseded = true;
                return;
            }
            if let Err(error) = self.offer_chunk(view, chunk, round).await {
                return round.trouble(|| error.to_string());
            }
        }
    }

    /// Fails if the own store does.
    async fn offer_chunk(
        &mut self,
        view: &Arc<View>,
        chunk: Vec<Offer>,
        round: &mut Round,
    ) -> Result<(), Error> {
        let since = Instant::now();
        let slots: Vec<_> = chunk.iter().map(|offer| offer.slot).collect();
        let listed = self.local.list(&slots).await?;
        self.progress
            .seen(listed.iter().map(|blob| blob.digest.size));
        let mut ballot = Ballot::new(view, listed);
        let mut answered = true;
        for (owner, places) in ballot.offers(view) {
            for places in places.chunks(OFFER_BLOBS) {
                let blobs: Vec<Held> = places.iter().map(|place| ballot.blobs()[*place]).collect();
                match self.offer_to(view, owner, &blobs).await {
                    Ok(verdicts) => ballot.count(view, owner, places, &verdicts),
                    Err(error) => {
                        tracing::debug!(%owner, %error, "no verdict");
                        let name = view.member(owner).map_or("", |member| &member.name);
                        round.trouble(|| format!("node {name} does not judge what it is offered"));
                        answered = false;
                        break;
                    }
                }
            }
        }
        let needless = ballot.droppable(view);
        // An owner's word holds for the epoch it was asked under.
        if self.is_superseded(view) && !planted::is(Bug::StaleVerdictTaken) {
            round.superseded = true;
            return Ok(());
        }
        let needless = aged(needless, since.elapsed());
        let dropped = self.local.drop_copies(&needless).await?;
        // An epoch that began meanwhile may have made this node an owner of what
        // just went: it looks again at once.
        round.superseded = self.is_superseded(view);
        if dropped > 0 {
            round.moved += dropped;
            let bytes = needless.iter().map(|blob| blob.digest.size).sum();
            self.progress.dropped(dropped, bytes);
            tracing::debug!(dropped, "owners hold what was held for them");
        }
        // What some owner still wants is offered again when a summary changes,
        // or after a while; what was used meanwhile, at the next round, and so
        // is all of this after a drop: the same copy may come again before that,
        // and then everybody holds what they held now.
        if answered && needless.is_empty() {
            for Offer { slot, seen, .. } in chunk {
                let last = self.told.remove(&slot);
                self.told
                    .insert(slot, Told::again(last, seen, self.interval));
            }
        }
        let rate = view.state().settings.repair_bytes_per_second;
        self.pace.rest(rate, 0, since.elapsed()).await;
        Ok(())
    }

    async fn offer_to(
        &self,
        view: &View,
        owner: NodeId,
        blobs: &[Held],
    ) -> Result<Vec<Verdict>, Error> {
        let call = self.peers.offer(owner, view.epoch(), self.me, blobs);
        let verdicts = within(owner, call).await?;
        if verdicts.len() == blobs.len() {
            return Ok(verdicts);
        }
        let (got, asked) = (verdicts.len(), blobs.len());
        let what = format!("node {owner} gave {got} verdicts on {asked} blobs");
        Err(Error::Internal(what))
    }

    /// Tells owners what they were seen to lack, if it is here.
    pub(super) async fn nudge(&self, notes: &[Lacking]) {
        let view = self.inbox_view();
        let mut offers: BTreeMap<NodeId, Vec<Held>> = BTreeMap::new();
        for Lacking { owner, digest } in notes.iter().copied() {
            if view.member(owner).is_some() && view.owns(owner, digest) {
                offers.entry(owner).or_default().push(Held {
                    digest,
                    idle_seconds: 0,
                    lease_seconds: 0,
                });
            }
        }
        for (owner, mut blobs) in offers {
            let here = self.local.hold(&blobs);
            let mut here = here.into_iter();
            blobs.retain(|_| here.next().unwrap_or(false));
            blobs.sort_unstable();
            blobs.dedup();
            if blobs.is_empty() {
                continue;
            }
            if let Err(error) = self.offer_to(&view, owner, &blobs).await {
                tracing::debug!(%owner, %error, "owner not told what it lacks");
            }
        }
    }
}

/// Copies as they were listed, with leases as they would be now: one that is
/// longer was renewed meanwhile.
fn aged(mut blobs: Vec<Held>, since_listed: Duration) -> Vec<Held> {
    let seconds = u32::try_from(since_listed.as_secs()).unwrap_or(u32::MAX);
    for blob in &mut blobs {
        blob.lease_seconds = blob.lease_seconds.saturating_sub(seconds);
    }
    blobs
}
