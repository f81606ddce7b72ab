//! Which blobs a write quorum of their owners does not have.
//!
//! Every owner is asked at once, in one message however many digests there are,
//! so that all copies have their lease renewed; the answer goes out as soon as
//! each digest is decided, which takes the fastest quorum, not the slowest
//! owner. Present is said only on the word of a write quorum (promise P6); a
//! blob that is said to be missing may exist on fewer nodes, and uploading it
//! again makes it whole.
//!
//! The tempting saving, to ask W owners only, would let the leases of the other
//! copies run out, and need a second round for every blob one of the W lacks.
//!
//! - stragglers: finish behind the answer, for the leases.
//! - on failure, or after [`HEDGE`] of silence: the next node in ring order is
//!   asked for what is undecided, in one further round.
//! - on cancel: messages under way finish.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tracing::Instrument;

use super::{
    Shared,
    candidates::next_writer,
    quorum::{Quorum, Verdict},
    shortfall,
};
use crate::{
    Digest, Error, NodeId,
    blob::Lease,
    placement::view::View,
    planted::{self, Bug},
};

/// Digests in one message: 5 MiB of what a peer accepts. A longer list is asked
/// slice by slice.
const MESSAGE_DIGESTS: usize = 128 << 10;

/// Silence after which the next node is asked as well.
const HEDGE: Duration = Duration::from_millis(500);

pub(super) async fn find_missing(
    shared: &Arc<Shared>,
    digests: &[Digest],
    lease: Lease,
) -> Result<Vec<u32>, Error> {
    if shared.view().is_alone() {
        return shared.local.find_missing(digests, lease).await;
    }
    let mut missing = Vec::new();
    for (slice, first) in digests
        .chunks(MESSAGE_DIGESTS)
        .zip((0_u32..).step_by(MESSAGE_DIGESTS))
    {
        let found = find_slice(shared, slice, lease).await?;
        missing.extend(found.into_iter().map(|index| first + index));
    }
    Ok(missing)
}

async fn find_slice(
    shared: &Arc<Shared>,
    digests: &[Digest],
    lease: Lease,
) -> Result<Vec<u32>, Error> {
    let view = shared.view();
    match Search::new(shared, &view, digests, lease).run().await {
        Err(stale @ Error::StaleEpoch { .. }) => {
            let newer = shared.newer_than(view.epoch()).await.ok_or(stale)?;
            Search::new(shared, &newer, digests, lease).run().await
        }
        outcome => outcome,
    }
}

/// A message sent to a node.
struct Message {
    node: NodeId,
    digests: Vec<u32>,
    /// Whether the next nodes were asked in its place.
    replaced: bool,
    open: bool,
}

/// What is known of one digest.
struct Tally {
    quorum: Quorum,
    /// Nodes whose answer is awaited.
    open: u16,
    answers: u16,
    decided: Option<bool>,
}

type Answer = (usize, Result<Vec<u32>, Error>);

struct Search<'a> {
    shared: &'a Arc<Shared>,
    view: &'a View,
    digests: &'a [Digest],
    lease: Lease,
    tallies: Vec<Tally>,
    undecided: usize,
    messages: Vec<Message>,
    /// Nodes asked for a digest beside its owners.
    further: HashMap<u32, Vec<NodeId>>,
    causes: Vec<(NodeId, Error)>,
    /// Unbounded, but given one answer for each message that was sent.
    answered: mpsc::UnboundedSender<Answer>,
    answers: mpsc::UnboundedReceiver<Answer>,
}

impl<'a> Search<'a> {
    fn new(shared: &'a Arc<Shared>, view: &'a View, digests: &'a [Digest], lease: Lease) -> Self {
        let (answered, answers) = mpsc::unbounded_channel();
        let tally = |digest: &Digest| Tally {
            quorum: Quorum::new(view.need(*digest)),
            open: 0,
            answers: 0,
            decided: digest.is_empty_blob().then_some(true),
        };
        let tallies: Vec<_> = digests.iter().map(tally).collect();
        Self {
            shared,
            view,
            digests,
            lease,
            undecided: tallies.iter().filter(|t| t.decided.is_none()).count(),
            tallies,
            messages: Vec::new(),
            further: HashMap::new(),
            causes: Vec::new(),
            answered,
            answers,
        }
    }

    async fn run(mut self) -> Result<Vec<u32>, Error> {
        let mut plan: BTreeMap<NodeId, Vec<u32>> = BTreeMap::new();
        for (index, digest) in (0..).zip(self.digests) {
            if self.tallies[index as usize].decided.is_none() {
                for owner in self.view.owners(*digest) {
                    plan.entry(owner).or_default().push(index);
                }
            }
        }
        self.send(plan).await?;
        let hedge_at = Instant::now() + HEDGE;
        let mut hedged = false;
        while self.undecided > 0 && self.messages.iter().any(|message| message.open) {
            tokio::select! {
                Some(answer) = self.answers.recv() => self.take(answer).await?,
                () = sleep_until(hedge_at), if !hedged => {
                    hedged = true;
                    let silent = |index: &usize| self.messages[*index].open;
                    for message in (0..self.messages.len()).filter(silent).collect::<Vec<_>>() {
                        self.ask_others(message).await?;
                    }
                }
            }
        }
        self.conclude()
    }

    /// Sends one message to each node; asks this node's own store last, while
    /// the others are under way.
    async fn send(&mut self, plan: BTreeMap<NodeId, Vec<u32>>) -> Result<(), Error> {
        let mut own = None;
        for (node, digests) in plan {
            let number = self.messages.len();
            for index in &digests {
                self.tallies[*index as usize].open += 1;
            }
            let wanted: Vec<_> = digests.iter().map(|i| self.digests[*i as usize]).collect();
            self.messages.push(Message {
                node,
                digests,
                replaced: false,
                open: true,
            });
            if node == self.shared.me {
                own = Some((number, wanted));
                continue;
            }
            let (shared, answered) = (Arc::clone(self.shared), self.answered.clone());
            let (epoch, lease) = (self.view.epoch(), self.lease);
            let ask = async move {
                let answer = shared.find_missing_on(node, epoch, &wanted, lease).await;
                // The search may be decided and gone.
                let _ = answered.send((number, answer));
            };
            tokio::spawn(ask.in_current_span());
        }
        if let Some((number, wanted)) = own {
            let answer = self.shared.local.find_missing(&wanted, self.lease).await;
            // Through the channel, as an answer may ask for more messages.
            let _ = self.answered.send((number, answer));
        }
        Ok(())
    }

    async fn take(&mut self, (number, answer): Answer) -> Result<(), Error> {
        self.messages[number].open = false;
        let node = self.messages[number].node;
        let zone = self.view.zone_number(node);
        let digests = std::mem::take(&mut self.messages[number].digests);
        let failed = answer.is_err();
        match answer {
            Ok(missing) => {
                let mut missing = missing.into_iter().peekable();
                for (position, index) in (0..).zip(&digests) {
                    let tally = &mut self.tallies[*index as usize];
                    tally.open -= 1;
                    tally.answers += 1;
                    if missing.next_if_eq(&position).is_none() {
                        tally.quorum.ack(zone);
                    }
                }
            }
            Err(stale @ Error::StaleEpoch { .. }) => return Err(stale),
            Err(error) => {
                tracing::debug!(%node, %error, "presence unknown");
                self.shared.latencies.failed(node);
                self.causes.push((node, error));
                for index in &digests {
                    self.tallies[*index as usize].open -= 1;
                }
            }
        }
        self.messages[number].digests = digests;
        if failed {
            self.ask_others(number).await?;
        }
        self.settle(number);
        Ok(())
    }

    /// Asks the next node of each undecided digest of a message, once.
    async fn ask_others(&mut self, number: usize) -> Result<(), Error> {
        let message = &mut self.messages[number];
        // The nodes asked in place of owners have nobody in their own place:
        // one more round at most.
        if message.replaced || planted::is(Bug::StandInsNotAsked) {
            return Ok(());
        }
        message.replaced = true;
        let mut plan: BTreeMap<NodeId, Vec<u32>> = BTreeMap::new();
        for index in &message.digests {
            if self.tallies[*index as usize].decided.is_some() {
                continue;
            }
            let digest = self.digests[*index as usize];
            let further = self.further.entry(*index).or_default();
            let mut asked: Vec<_> = self.view.owners(digest).collect();
            asked.extend_from_slice(further);
            let others: Vec<_> = asked
                .iter()
                .copied()
                .filter(|n| *n != message.node)
                .collect();
            if let Some(next) = next_writer(self.view, digest, &asked, &others) {
                further.push(next);
                plan.entry(next).or_default().push(*index);
            }
        }
        let first = self.messages.len();
        self.send(plan).await?;
        for message in &mut self.messages[first..] {
            message.replaced = true;
        }
        Ok(())
    }

    /// Decides what an answer to this message has made clear.
    fn settle(&mut self, number: usize) {
        for index in &self.messages[number].digests {
            let tally = &mut self.tallies[*index as usize];
            if tally.decided.is_some() {
                continue;
            }
            let at_one = planted::is(Bug::PresentAtOneOwner) && tally.quorum.acks() > 0;
            let reached = tally.quorum.is_reached() || at_one;
            // Zones of those still open are not looked at: waiting for them
            // changes nothing but the time.
            let short = tally.quorum.acks() + usize::from(tally.open);
            if reached || tally.open == 0 || short < tally.quorum.need().acks() {
                tally.decided = Some(reached);
                self.undecided -= 1;
            }
        }
    }

    fn conclude(self) -> Result<Vec<u32>, Error> {
        let mut missing = Vec::new();
        for (index, tally) in (0..).zip(&self.tallies) {
            let present = tally
                .decided
                .unwrap_or_else(|| tally.quorum.verdict(std::iter::empty()) == Verdict::Reached);
            if present {
                continue;
            }
            if tally.answers == 0 {
                let needed = tally.quorum.need().acks();
                return Err(shortfall("find blobs", needed, 0, self.causes));
            }
            missing.push(index);
        }
        Ok(missing)
    }
}
