//! What repair fetches next, and when a handoff is done.
//!
//! Pure: the same view, accounts and lists give the same plan. Promised, and
//! pinned by tests over a model of some nodes:
//!
//! - a blob is fetched once by each owner that lacks it and by nobody else;
//! - the slots with the fewest live owners come first, within them the blobs
//!   with the fewest known copies;
//! - what is worked on at once is bounded in slots, blobs and bytes.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::account::{Account, Accounts, Memo};
use crate::{
    Digest, NodeId, Slot,
    blob::{Held, SMALL_BLOB_BYTES},
    placement::view::View,
    planted::{self, Bug},
    words::ids::SLOTS,
};

/// Slots listed at once; a peer lists twice as many.
const CHUNK_SLOTS: usize = 512;
/// Entries of all lists that are compared at once: 6 MiB. A single slot is
/// never cut, so that a slot with more is compared by itself.
const CHUNK_ENTRIES: u64 = 128 << 10;
/// Bytes and blobs in one message of copies.
pub const BATCH_BYTES: u64 = 4 << 20;
pub const BATCH_BLOBS: usize = 4 << 10;

/// A slot to compare, and the members to compare it with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Comparison {
    pub slot: Slot,
    pub members: Vec<NodeId>,
    /// Blobs that this node lacks, as far as numbers tell.
    pub lacking: u64,
    /// Owners that answer and hold anything of it.
    live_owners: usize,
    /// Entries of the lists that have to be looked at.
    entries: u64,
}

/// The slots this node owns in which a member may hold what it lacks, the most
/// endangered first.
#[must_use]
pub fn comparisons(
    view: &View,
    own: &Account,
    accounts: &Accounts,
    memo: &Memo,
) -> Vec<Comparison> {
    let Some(current) = view.current() else {
        return Vec::new();
    };
    let mut filled = vec![false; SLOTS];
    for (slot, _) in accounts.values().flat_map(|account| account.slots()) {
        filled[slot.index()] = true;
    }
    let mut found = Vec::new();
    for slot in Slot::all().filter(|slot| filled[slot.index()]) {
        if !current.owners(slot).any(|owner| owner == view.me()) {
            continue;
        }
        let ours = own.summary(slot);
        let mut comparison = Comparison {
            slot,
            members: Vec::new(),
            lacking: 0,
            live_owners: 0,
            entries: u64::from(ours.blobs),
        };
        for (member, account) in accounts {
            let theirs = account.summary(slot);
            if theirs.blobs > 0 && theirs != ours && !memo.knows(*member, slot, theirs, ours) {
                comparison.members.push(*member);
                comparison.entries += u64::from(theirs.blobs);
                let more = theirs.blobs.saturating_sub(ours.blobs);
                comparison.lacking = comparison.lacking.max(u64::from(more));
            }
        }
        if comparison.members.is_empty() {
            continue;
        }
        let holds = |owner: NodeId| match accounts.get(&owner) {
            Some(account) => account.summary(slot).blobs > 0,
            None => owner == view.me() && ours.blobs > 0,
        };
        comparison.live_owners = current.owners(slot).filter(|owner| holds(*owner)).count();
        found.push(comparison);
    }
    found.sort_by_key(|comparison| (comparison.live_owners, comparison.slot));
    found
}

/// Puts off the slots that have only just begun to differ, in quiet times.
///
/// While clients write, some slots differ at any moment, by copies that are on
/// their way: fetching those would send them twice. What still differs at the
/// next look is truly lacking. Returns the slots put off. Nothing is put off
/// while this node has a handoff before it, or when a slot is `urgent`.
pub fn put_off(
    view: &View,
    plan: &mut Vec<Comparison>,
    differed: &BTreeSet<Slot>,
    urgent: &BTreeSet<Slot>,
) -> BTreeSet<Slot> {
    let mut later = BTreeSet::new();
    if is_unmarked(view) || view.placements().len() > 1 {
        return later;
    }
    plan.retain(|Comparison { slot, .. }| {
        let ripe = differed.contains(slot) || urgent.contains(slot);
        if !ripe {
            later.insert(*slot);
        }
        ripe
    });
    later
}

/// Cuts a plan into pieces of bounded size.
#[must_use]
pub fn chunks<T>(plan: Vec<T>, entries: impl Fn(&T) -> u64) -> Vec<Vec<T>> {
    let mut chunks = Vec::new();
    let mut chunk = Vec::new();
    let mut sum = 0;
    for item in plan {
        let size = entries(&item);
        let full = chunk.len() >= CHUNK_SLOTS || sum + size > CHUNK_ENTRIES;
        if full && !chunk.is_empty() {
            chunks.push(std::mem::take(&mut chunk));
            sum = 0;
        }
        sum += size;
        chunk.push(item);
    }
    if !chunk.is_empty() {
        chunks.push(chunk);
    }
    chunks
}

impl Comparison {
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.entries
    }
}

/// A blob to fetch, and who is known to have it, best first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    pub blob: Held,
    pub sources: Vec<NodeId>,
}

/// What came of comparing lists.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Lacking {
    /// Fewest known copies first.
    pub wanted: Vec<Wanted>,
    /// Slots in which something was declined.
    pub declined: BTreeSet<Slot>,
}

/// What this node lacks of the blobs that members listed. What they list beside
/// the slots asked for is not looked at.
#[must_use]
pub fn lacking(
    view: &View,
    asked: &[Comparison],
    own: &[Held],
    lists: &BTreeMap<NodeId, Vec<Held>>,
    declines: impl Fn(&Held) -> bool,
) -> Lacking {
    let slots: HashSet<Slot> = asked.iter().map(|comparison| comparison.slot).collect();
    let held: HashSet<Digest> = own.iter().map(|blob| blob.digest).collect();
    let mut known: BTreeMap<Digest, Wanted> = BTreeMap::new();
    for (member, list) in lists {
        for blob in list {
            let digest = blob.digest;
            let ours = view.owns(view.me(), digest) && slots.contains(&digest.slot());
            if !ours || held.contains(&digest) || digest.is_empty_blob() {
                continue;
            }
            let wanted = known.entry(digest).or_insert_with(|| Wanted {
                blob: *blob,
                sources: Vec::new(),
            });
            // The copy lives on as the best kept of those known.
            wanted.blob.idle_seconds = wanted.blob.idle_seconds.min(blob.idle_seconds);
            wanted.blob.lease_seconds = wanted.blob.lease_seconds.max(blob.lease_seconds);
            if !wanted.sources.contains(member) {
                wanted.sources.push(*member);
            }
        }
    }
    let mut found = Lacking::default();
    for mut wanted in known.into_values() {
        if declines(&wanted.blob) {
            found.declined.insert(wanted.blob.digest.slot());
            continue;
        }
        // Slots take turns among equally near sources, so that all give.
        let turn = wanted.blob.digest.slot().index() % wanted.sources.len();
        wanted.sources.rotate_left(turn);
        let here = view.zone(view.me());
        wanted.sources.sort_by_key(|node| view.zone(*node) != here);
        found.wanted.push(wanted);
    }
    found
        .wanted
        .sort_by_key(|wanted| (wanted.sources.len(), wanted.blob.digest));
    found
}

/// Blobs to get from one node in one go: many small ones, or one by itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Errand {
    pub from: NodeId,
    pub blobs: Vec<Wanted>,
}

impl Errand {
    /// Whether its one blob is too large for a message.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        matches!(&*self.blobs, [only] if only.blob.digest.size > SMALL_BLOB_BYTES)
    }
}

/// Sorts blobs by their best source, in messages of bounded size and in the
/// order in which each message begins. Blobs without a source are left out.
#[must_use]
pub fn errands(wanted: Vec<Wanted>) -> Vec<Errand> {
    let mut errands: Vec<Errand> = Vec::new();
    // The errand of each source that has room, and its bytes.
    let mut open: HashMap<NodeId, (usize, u64)> = HashMap::new();
    for wanted in wanted {
        let Some(from) = wanted.sources.first().copied() else {
            continue;
        };
        let size = wanted.blob.digest.size;
        let next = errands.len();
        if size > SMALL_BLOB_BYTES {
            let blobs = vec![wanted];
            errands.push(Errand { from, blobs });
            continue;
        }
        let (place, bytes) = open.entry(from).or_insert((next, 0));
        let full = |errand: &Errand| errand.blobs.len() >= BATCH_BLOBS;
        if *bytes + size > BATCH_BYTES || errands.get(*place).is_some_and(full) {
            (*place, *bytes) = (next, 0);
        }
        *bytes += size;
        match errands.get_mut(*place) {
            Some(errand) => errand.blobs.push(wanted),
            None => errands.push(Errand {
                from,
                blobs: vec![wanted],
            }),
        }
    }
    errands
}

/// Whether every other member gave its account, and so nobody can hold what
/// this node does not know of.
#[must_use]
pub fn all_reached(view: &View, accounts: &Accounts) -> bool {
    let mut members = view.state().members.keys();
    members.all(|member| *member == view.me() || accounts.contains_key(member))
        || planted::is(Bug::MarkWithMemberAway)
}

/// Whether the handoff mark may be set, after a round that left so many of the
/// slots this node owns unsettled.
///
/// A member that is down may be the only one that holds a blob written under an
/// older epoch. The tempting rule, to ask the owners of live epochs alone, would
/// pass over stand-ins; so everyone is asked, and the operator removes who is
/// gone for good.
#[must_use]
pub fn may_mark(view: &View, accounts: &Accounts, unsettled: usize) -> bool {
    let owns = view
        .current()
        .is_some_and(|current| current.contains(view.me()));
    let settled = unsettled == 0 || planted::is(Bug::MarkWithSlotsOpen);
    owns && settled && all_reached(view, accounts)
}

/// Whether the mark is lacking.
#[must_use]
pub fn is_unmarked(view: &View) -> bool {
    let plan = view.state().epochs.last();
    plan.is_some_and(|plan| !plan.handed_off.contains(&view.me()))
}
