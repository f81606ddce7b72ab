//! What makes repair look before its interval is over.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, sleep_until},
};

use crate::{Epoch, NodeId, Slot, peer::Offered, placement::view::View, replication::Lacking};

/// Notes of the same moment are answered with one look.
const GATHER: Duration = Duration::from_secs(1);
/// Notes about other owners that are passed on at once; the rest is found by
/// those owners themselves.
const NOTES_LIMIT: usize = 1_024;

pub(super) struct Inbox {
    pub(super) me: NodeId,
    pub(super) view: watch::Receiver<Arc<View>>,
    pub(super) offers: mpsc::Receiver<Offered>,
    pub(super) lacking: mpsc::Receiver<Lacking>,
    pub(super) woken: Arc<Notify>,
    /// What of the view the last look has seen.
    seen: Option<Seen>,
}

/// What was heard while waiting.
#[derive(Default)]
pub(super) struct News {
    /// What other owners lack.
    pub(super) notes: Vec<Lacking>,
    /// Slots in which this node is known to lack something.
    pub(super) urgent: BTreeSet<Slot>,
    /// Whether somebody asked for a look.
    pub(super) woken: bool,
}

/// What of a view repair depends on. Addresses and the marks of others are no
/// reason to look: after an epoch begins they come one after the other.
#[derive(PartialEq)]
struct Seen {
    epoch: Epoch,
    /// Epochs: when older ones retire, what was kept for them can go.
    alive: usize,
    members: BTreeSet<NodeId>,
}

impl Inbox {
    pub(super) fn new(
        me: NodeId,
        view: watch::Receiver<Arc<View>>,
        offers: mpsc::Receiver<Offered>,
        lacking: mpsc::Receiver<Lacking>,
        woken: Arc<Notify>,
    ) -> Self {
        Self {
            me,
            view,
            offers,
            lacking,
            woken,
            seen: None,
        }
    }

    /// The view to work with.
    pub(super) fn look(&mut self) -> Arc<View> {
        let view = self.view.borrow_and_update().clone();
        self.seen = Some(seen(&view));
        view
    }

    /// Waits for a reason to look again, at most so long. `None` when the view's
    /// sender is gone: the node stops.
    pub(super) async fn wait(&mut self, patience: Duration) -> Option<News> {
        let mut until = Instant::now() + patience;
        let mut news = News::default();
        let (mut offers_open, mut notes_open) = (true, true);
        loop {
            let soon = Instant::now() + GATHER;
            tokio::select! {
                () = sleep_until(until) => return Some(news),
                () = self.woken.notified() => {
                    news.woken = true;
                    return Some(news);
                }
                changed = self.view.changed() => {
                    changed.ok()?;
                    let now = seen(&self.view.borrow_and_update());
                    if self.seen.as_ref() != Some(&now) {
                        return Some(news);
                    }
                }
                offer = self.offers.recv(), if offers_open => match offer {
                    Some(offer) => {
                        until = until.min(soon);
                        news.urgent.insert(offer.blob.digest.slot());
                    }
                    None => offers_open = false,
                },
                note = self.lacking.recv(), if notes_open => match note {
                    Some(note) => {
                        until = until.min(soon);
                        if note.owner == self.me {
                            news.urgent.insert(note.digest.slot());
                        } else if news.notes.len() < NOTES_LIMIT {
                            news.notes.push(note);
                        }
                    }
                    None => notes_open = false,
                },
            }
        }
    }
}

fn seen(view: &View) -> Seen {
    Seen {
        epoch: view.epoch(),
        alive: view.placements().len(),
        members: view.state().members.keys().copied().collect(),
    }
}
