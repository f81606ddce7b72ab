//! The loop of repair: look, pull, mark, offer, wait.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, stream};
use rand::Rng;
use tokio::{sync::Notify, time::Instant};

use super::{
    RepairParts,
    account::{Account, Accounts, Memo},
    fetch::within,
    inbox::{Inbox, News},
    offer::Told,
    pace::Pace,
    plan::{self, Comparison},
    progress::Progress,
};
use crate::{
    Error, NodeId, Slot, blob::Inventory, outside, peer::Peers, placement::view::View,
    raft::Consensus, state::Command,
};

/// Members asked at once.
const ASKED_AT_ONCE: usize = 16;
/// The first wait after a round that did not end well; it doubles from there to
/// the interval.
const RETRY: Duration = Duration::from_secs(1);
/// Between looks while something moves.
const SECOND_LOOK: Duration = Duration::from_secs(5);
/// What was declined is looked at again after this, and what is still wanted
/// elsewhere at the latest, even if no summary has changed: ages and leases do
/// not show in them.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(3_600);

/// What came of a round.
#[derive(Default)]
pub(super) struct Round {
    /// Copies that came or went.
    pub(super) moved: u64,
    /// The view changed under it.
    pub(super) superseded: bool,
    /// Slots that are compared in the next round if they still differ.
    pub(super) put_off: usize,
    /// Slots owned here that could not be settled.
    pub(super) unsettled: usize,
    /// Why it did not end well; the first reason.
    pub(super) trouble: Option<String>,
}

impl Round {
    pub(super) fn trouble(&mut self, why: impl FnOnce() -> String) {
        self.trouble.get_or_insert_with(why);
    }
}

pub(super) struct Worker {
    pub(super) me: NodeId,
    pub(super) local: Arc<dyn Inventory>,
    pub(super) peers: Arc<dyn Peers>,
    consensus: Arc<dyn Consensus>,
    inbox: Inbox,
    pub(super) interval: Duration,
    pub(super) pace: Pace,
    pub(super) progress: Arc<Progress>,
    /// The last account of each member, whether or not it answers now.
    known: Accounts,
    own: Option<Arc<Account>>,
    pub(super) memo: Memo,
    /// Slots whose blobs were offered, and some owner wants them.
    pub(super) told: BTreeMap<Slot, Told>,
    /// Slots that were put off, or could not be settled.
    pub(super) differed: BTreeSet<Slot>,
    look_again_at: Instant,
}

impl Worker {
    pub(super) fn new(parts: RepairParts, progress: Arc<Progress>, woken: Arc<Notify>) -> Self {
        Self {
            me: parts.me,
            local: parts.local,
            peers: parts.peers,
            consensus: parts.consensus,
            inbox: Inbox::new(parts.me, parts.view, parts.offers, parts.lacking, woken),
            interval: parts.interval,
            pace: Pace::new(parts.foreground),
            progress,
            known: Accounts::new(),
            own: None,
            memo: Memo::default(),
            told: BTreeMap::new(),
            differed: BTreeSet::new(),
            look_again_at: Instant::now() + LOOK_AGAIN,
        }
    }

    /// Runs until the node stops.
    pub(super) async fn run(mut self) {
        let mut failures = 0;
        // The first look takes nothing for granted.
        let mut news = News {
            woken: true,
            ..News::default()
        };
        loop {
            let round = self.round(&news).await;
            if round.superseded {
                continue;
            }
            failures = match round.trouble {
                Some(_) => failures + 1,
                None => 0,
            };
            let heard = self.inbox.wait(self.patience(&round, failures)).await;
            let Some(heard) = heard else { return };
            self.nudge(&heard.notes).await;
            news = heard;
        }
    }

    /// Nodes that began together do not look together for ever.
    fn patience(&self, round: &Round, failures: u32) -> Duration {
        let wait = match failures {
            0 if round.moved > 0 || round.put_off > 0 => SECOND_LOOK,
            0 => self.interval,
            _ => RETRY * 2_u32.saturating_pow(failures - 1).min(1 << 16),
        };
        let spread = outside::rng().random_range(0.8..1.2);
        wait.min(self.interval).mul_f64(spread)
    }

    async fn round(&mut self, news: &News) -> Round {
        let began = Instant::now();
        let view = self.inbox.look();
        let mut round = Round::default();
        if view.current().is_none() || view.member(self.me).is_none() {
            return round;
        }
        self.look_again(&view);
        let accounts = self.ask(&view, &mut round).await;
        let own = self.own();
        // There may be room for what was declined.
        self.memo.forget_declined_of(&news.urgent);
        let mut plan = plan::comparisons(&view, &own, &accounts, &self.memo);
        self.measure(&view, &own, &plan);
        if !news.woken {
            self.differed = plan::put_off(&view, &mut plan, &self.differed, &news.urgent);
            round.put_off = self.differed.len();
        }
        self.pull(&view, plan, &mut round).await;
        if !round.superseded {
            self.mark(&view, &accounts, &mut round).await;
            self.offer(&view, &accounts, &mut round).await;
        }
        self.conclude(began, &view, &accounts, &round);
        round
    }

    pub(super) fn inbox_view(&self) -> Arc<View> {
        self.inbox.view.borrow().clone()
    }

    /// Whether this node is at another epoch than this view by now.
    pub(super) fn is_superseded(&self, view: &View) -> bool {
        self.inbox.view.borrow().epoch() != view.epoch()
    }

    fn look_again(&mut self, view: &View) {
        self.memo.keep(view);
        self.known
            .retain(|member, _| view.member(*member).is_some());
        if Instant::now() >= self.look_again_at {
            self.look_again_at = Instant::now() + LOOK_AGAIN;
            self.memo.forget_declined();
        }
    }

    /// Asks every other member what it holds.
    async fn ask(&mut self, view: &View, round: &mut Round) -> Accounts {
        let (peers, epoch) = (&*self.peers, view.epoch());
        let others = view.state().members.keys().filter(|id| **id != self.me);
        let questions: Vec<_> = others
            .map(|member| {
                let known = self.known.get(member).map(|account| account.version);
                let call = peers.summaries(*member, epoch, known);
                async move { (*member, within(*member, call).await) }
            })
            .collect();
        let answers: Vec<_> = stream::iter(questions)
            .buffer_unordered(ASKED_AT_ONCE)
            .collect()
            .await;
        let mut accounts = Accounts::new();
        for (member, answer) in answers {
            match answer {
                Ok(Some(summaries)) => {
                    let account = Arc::new(Account::of(&summaries));
                    self.known.insert(member, Arc::clone(&account));
                    accounts.insert(member, account);
                }
                Ok(None) => {
                    if let Some(account) = self.known.get(&member) {
                        accounts.insert(member, Arc::clone(account));
                    }
                }
                Err(error) => {
                    tracing::debug!(%member, %error, "no account");
                    let name = view.member(member).map_or("", |member| &member.name);
                    round.trouble(|| format!("node {name} gives no account of what it holds"));
                }
            }
        }
        accounts
    }

    pub(super) fn own(&mut self) -> Arc<Account> {
        let version = self.local.version();
        match &self.own {
            Some(own) if own.version == version => Arc::clone(own),
            _ => {
                let own = Arc::new(Account::of(&self.local.summaries()));
                self.own = Some(Arc::clone(&own));
                own
            }
        }
    }

    fn measure(&self, view: &View, own: &Account, plan: &[Comparison]) {
        let lacking = plan.iter().map(|comparison| comparison.lacking).sum();
        let surplus = super::ballot::surplus(view, own);
        let surplus = surplus.map(|(_, summary)| u64::from(summary.blobs)).sum();
        self.progress.found(lacking, surplus);
    }

    /// Sets the handoff mark if nothing speaks against it.
    async fn mark(&mut self, view: &View, accounts: &Accounts, round: &mut Round) {
        if !plan::may_mark(view, accounts, round.unsettled) {
            return;
        }
        // A store that cannot say what it holds vouches for nothing.
        if let Err(error) = self.local.list(&[]).await {
            return round.trouble(|| error.to_string());
        }
        if self.is_superseded(view) {
            round.superseded = true;
            return;
        }
        let epoch = view.epoch();
        self.progress
            .change(|report| report.settled_epoch = epoch.0);
        if !plan::is_unmarked(view) {
            return;
        }
        let id = self.me;
        match self
            .consensus
            .propose(Command::HandedOff { id, epoch })
            .await
        {
            Ok(response) => tracing::info!(%epoch, ?response, "all that is owned here is here"),
            // Asked again in the next round.
            Err(error) => round.trouble(|| mark_failed(&error)),
        }
    }

    fn conclude(&self, began: Instant, view: &View, accounts: &Accounts, round: &Round) {
        let all = plan::all_reached(view, accounts);
        let trouble = round.trouble.clone().unwrap_or_default();
        self.progress.looked(began, |report| {
            report.settled = all
                && round.moved == 0
                && round.put_off == 0
                && round.unsettled == 0
                && !round.superseded
                && trouble.is_empty()
                && report.surplus_blobs == 0;
            match trouble.as_str() {
                same if report.trouble == same => {}
                "" => tracing::info!("repair has no trouble any more"),
                new => tracing::warn!(trouble = new, "repair cannot finish"),
            }
            report.trouble = trouble;
        });
    }
}

fn mark_failed(error: &Error) -> String {
    format!("the handoff mark could not be set: {error}")
}
