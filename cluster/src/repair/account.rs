//! What members said that they hold, and what of it was compared already. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use crate::{
    NodeId, Slot,
    blob::{Summaries, Summary, Version},
    placement::view::View,
};

/// What a member holds, as it said when it was asked last. Only slots that are
/// not empty: with many nodes, each holds few.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Account {
    pub version: Version,
    slots: Vec<(Slot, Summary)>,
}

/// Accounts of the members that answered.
pub type Accounts = BTreeMap<NodeId, Arc<Account>>;

impl Account {
    #[must_use]
    pub fn of(summaries: &Summaries) -> Self {
        let slots = Slot::all().zip(summaries.slots.iter().copied());
        Self {
            version: summaries.version,
            slots: slots.filter(|(_, summary)| summary.blobs > 0).collect(),
        }
    }

    #[must_use]
    pub fn summary(&self, slot: Slot) -> Summary {
        let place = self.slots.binary_search_by_key(&slot, |(slot, _)| *slot);
        place.map_or_else(|_| Summary::default(), |place| self.slots[place].1)
    }

    /// The opening of its store, and what it held of a slot.
    #[must_use]
    pub fn seen(&self, slot: Slot) -> (u64, Summary) {
        (self.version.opened, self.summary(slot))
    }

    /// Slots that are not empty, ascending.
    pub fn slots(&self) -> impl Iterator<Item = (Slot, Summary)> + '_ {
        self.slots.iter().copied()
    }
}

/// Which slots were compared with which member, and what both held then. The
/// same two summaries again give nothing new to fetch.
#[derive(Default)]
pub struct Memo {
    pairs: HashMap<(NodeId, Slot), Pair>,
}

struct Pair {
    theirs: Summary,
    ours: Summary,
    /// Whether something was left out because this node would evict it.
    declined: bool,
}

impl Memo {
    pub(super) fn knows(&self, member: NodeId, slot: Slot, theirs: Summary, ours: Summary) -> bool {
        let pair = self.pairs.get(&(member, slot));
        pair.is_some_and(|pair| pair.theirs == theirs && pair.ours == ours)
    }

    pub fn note(
        &mut self,
        member: NodeId,
        slot: Slot,
        [theirs, ours]: [Summary; 2],
        declined: bool,
    ) {
        let pair = Pair {
            theirs,
            ours,
            declined,
        };
        self.pairs.insert((member, slot), pair);
    }

    /// Forgets members that left and slots that moved away.
    pub fn keep(&mut self, view: &View) {
        let Some(current) = view.current() else {
            return self.pairs.clear();
        };
        self.pairs.retain(|(member, slot), _| {
            view.member(*member).is_some() && current.owners(*slot).any(|owner| owner == view.me())
        });
    }

    /// Has what was declined of these slots looked at again.
    pub fn forget_declined_of(&mut self, slots: &BTreeSet<Slot>) {
        if slots.is_empty() {
            return;
        }
        self.pairs
            .retain(|(_, slot), pair| !(pair.declined && slots.contains(slot)));
    }

    /// Has what was declined looked at again: leases do not show in summaries.
    pub fn forget_declined(&mut self) {
        self.pairs.retain(|_, pair| !pair.declined);
    }
}
