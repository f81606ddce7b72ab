//! Which copies may be dropped: those that every owner holds or declines.
//!
//! Pure. Promised, and pinned by a test over all answers: a blob is dropped
//! only on the word of every current owner, each counted once, and never by a
//! node that owns it.

use std::collections::BTreeMap;

use super::account::{Account, Accounts};
use crate::{
    NodeId, Slot,
    blob::{Held, Summary, Verdict},
    placement::{REPLICA_LIMIT, view::View},
    planted::{self, Bug},
};

/// One bit for each owner.
type Owners = u8;
const _: () = assert!(REPLICA_LIMIT <= Owners::BITS as usize);

/// Blobs that this node holds for others, and what their owners say of them.
pub struct Ballot {
    blobs: Vec<Held>,
    /// For each blob the owners, by place, that do not need this copy.
    content: Vec<Owners>,
}

impl Ballot {
    /// Over those of the blobs that this node does not own.
    #[must_use]
    pub fn new(view: &View, mut blobs: Vec<Held>) -> Self {
        blobs.retain(|blob| !view.owns(view.me(), blob.digest));
        Self {
            content: vec![0; blobs.len()],
            blobs,
        }
    }

    #[must_use]
    pub fn blobs(&self) -> &[Held] {
        &self.blobs
    }

    /// What to offer to whom: places in [`Self::blobs`].
    #[must_use]
    pub fn offers(&self, view: &View) -> BTreeMap<NodeId, Vec<usize>> {
        let mut offers: BTreeMap<NodeId, Vec<usize>> = BTreeMap::new();
        for (place, blob) in self.blobs.iter().enumerate() {
            for owner in view.owners(blob.digest) {
                offers.entry(owner).or_default().push(place);
            }
        }
        offers
    }

    /// Counts an owner's verdicts on the blobs at these places.
    pub fn count(&mut self, view: &View, owner: NodeId, places: &[usize], verdicts: &[Verdict]) {
        for (place, verdict) in places.iter().zip(verdicts) {
            let mut owners = view.owners(self.blobs[*place].digest);
            let bit = owners.position(|node| node == owner);
            if let (Some(bit), Verdict::Holds | Verdict::Declines) = (bit, verdict) {
                self.content[*place] |= 1 << bit;
            }
        }
    }

    /// The copies that nobody needs.
    #[must_use]
    pub fn droppable(&self, view: &View) -> Vec<Held> {
        let needless = |(blob, content): &(&Held, &Owners)| {
            let owners = view.owners(blob.digest).len() as u32;
            let one_holds = planted::is(Bug::DroppedOnOneWord) && **content != 0;
            owners > 0 && content.count_ones() == owners || one_holds
        };
        let pairs = self.blobs.iter().zip(&self.content);
        pairs.filter(needless).map(|(blob, _)| *blob).collect()
    }
}

/// What this node and the owners held of a slot, and under which opening of
/// their stores. An owner whose volume is fenced wants what it has; when it is
/// back it has the same, and is to be asked again.
pub type Seen = Vec<(u64, Summary)>;

/// A slot whose blobs are to be offered, and what everybody held of it then.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offer {
    pub slot: Slot,
    pub blobs: u32,
    pub seen: Seen,
}

/// The slots this node holds blobs of and does not own, where every owner
/// answers, and which are not `told`: offered not long ago, when everybody held
/// what they hold now.
///
/// Offering to the owners that answer would let nothing be dropped, and tell
/// them nothing: they compare with everybody by themselves.
#[must_use]
pub fn offers(
    view: &View,
    own: &Account,
    accounts: &Accounts,
    told: impl Fn(&Offer) -> bool,
) -> Vec<Offer> {
    let Some(current) = view.current() else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for (slot, ours) in surplus(view, own) {
        let theirs = current
            .owners(slot)
            .map(|owner| accounts.get(&owner).map(|account| account.seen(slot)));
        let Some(theirs) = theirs.collect::<Option<Vec<_>>>() else {
            continue;
        };
        let seen = [vec![(own.version.opened, ours)], theirs].concat();
        let offer = Offer {
            slot,
            blobs: ours.blobs,
            seen,
        };
        if !told(&offer) {
            found.push(offer);
        }
    }
    found
}

/// The slots this node holds blobs of and does not own.
pub fn surplus<'a>(view: &'a View, own: &'a Account) -> impl Iterator<Item = (Slot, Summary)> + 'a {
    let owned = |slot: Slot| {
        let current = view.current();
        current.is_none_or(|current| current.owners(slot).any(|owner| owner == view.me()))
    };
    own.slots().filter(move |(slot, _)| !owned(*slot))
}
