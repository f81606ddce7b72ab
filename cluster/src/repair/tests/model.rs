//! The plan alone, over a model of some nodes with any content.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};

use crate::{
    Digest, NodeId,
    blob::{Held, Summaries, Verdict, Version},
    placement::view::View,
    repair::{
        account::{Account, Accounts, Memo},
        ballot::{self, Ballot},
        plan::{self, BATCH_BLOBS, BATCH_BYTES, Comparison},
    },
    replication::tests::network::{epoch_of, state_of},
    state::ClusterState,
};

type Content = BTreeMap<NodeId, BTreeSet<Digest>>;

struct Model {
    state: Arc<ClusterState>,
    views: BTreeMap<NodeId, View>,
    content: Content,
    memos: BTreeMap<NodeId, Memo>,
    declined: BTreeSet<(NodeId, Digest)>,
    fetched: BTreeSet<(NodeId, Digest)>,
}

fn held(digest: Digest) -> Held {
    Held {
        digest,
        idle_seconds: 0,
        lease_seconds: 0,
    }
}

fn account(blobs: &BTreeSet<Digest>) -> Account {
    let mut summaries = Summaries::empty(Version::default());
    for digest in blobs {
        summaries.slots[digest.slot().index()].add(digest);
    }
    Account::of(&summaries)
}

impl Model {
    fn accounts(&self, me: NodeId) -> Accounts {
        let others = self.content.iter().filter(|(node, _)| **node != me);
        others
            .map(|(node, blobs)| (*node, Arc::new(account(blobs))))
            .collect()
    }

    /// One round of a node; whether anything changed.
    fn round(&mut self, me: NodeId) -> bool {
        let pulled = self.pull(me);
        let dropped = self.drop_surplus(me);
        pulled || dropped
    }

    fn pull(&mut self, me: NodeId) -> bool {
        let view = &self.views[&me];
        let accounts = self.accounts(me);
        let own = account(&self.content[&me]);
        let plan = plan::comparisons(view, &own, &accounts, &self.memos[&me]);
        let mut changed = false;
        for chunk in plan::chunks(plan, Comparison::entries) {
            let list = |node: NodeId| -> Vec<Held> {
                let asked = chunk
                    .iter()
                    .filter(|c| node == me || c.members.contains(&node));
                let slots: BTreeSet<_> = asked.map(|c| c.slot).collect();
                let blobs = self.content[&node]
                    .iter()
                    .filter(|d| slots.contains(&d.slot()));
                blobs.copied().map(held).collect()
            };
            let lists: BTreeMap<_, _> = accounts.keys().map(|node| (*node, list(*node))).collect();
            let declines = |blob: &Held| self.declined.contains(&(me, blob.digest));
            let found = plan::lacking(view, &chunk, &list(me), &lists, declines);
            for errand in plan::errands(found.wanted) {
                let bytes: u64 = errand
                    .blobs
                    .iter()
                    .map(|wanted| wanted.blob.digest.size)
                    .sum();
                assert!(errand.is_stream() || bytes <= BATCH_BYTES);
                assert!(errand.blobs.len() <= BATCH_BLOBS);
                for wanted in errand.blobs {
                    let digest = wanted.blob.digest;
                    assert!(self.content[&errand.from].contains(&digest), "not there");
                    assert!(view.owns(me, digest), "not owned");
                    assert!(self.fetched.insert((me, digest)), "fetched twice");
                    self.content.get_mut(&me).unwrap().insert(digest);
                    changed = true;
                }
            }
            let after = account(&self.content[&me]);
            for Comparison { slot, members, .. } in &chunk {
                for member in members {
                    let pair = [accounts[member].summary(*slot), after.summary(*slot)];
                    let declined = found.declined.contains(slot);
                    self.memos
                        .get_mut(&me)
                        .unwrap()
                        .note(*member, *slot, pair, declined);
                }
            }
        }
        // Looking again finds nothing more.
        let own = account(&self.content[&me]);
        let left = plan::comparisons(view, &own, &accounts, &self.memos[&me]);
        assert_eq!(left, []);
        changed
    }

    fn drop_surplus(&mut self, me: NodeId) -> bool {
        let view = &self.views[&me];
        let own = account(&self.content[&me]);
        let offers = ballot::offers(view, &own, &self.accounts(me), |_| false);
        let slots: BTreeSet<_> = offers.iter().map(|offer| offer.slot).collect();
        let blobs = self.content[&me]
            .iter()
            .filter(|d| slots.contains(&d.slot()));
        let mut ballot = Ballot::new(view, blobs.copied().map(held).collect());
        let verdict = |owner: NodeId, digest: Digest| match self.content[&owner].contains(&digest) {
            true => Verdict::Holds,
            false if self.declined.contains(&(owner, digest)) => Verdict::Declines,
            false => Verdict::Wants,
        };
        for (owner, places) in ballot.offers(view) {
            let digests = places.iter().map(|place| ballot.blobs()[*place].digest);
            let verdicts: Vec<_> = digests.map(|digest| verdict(owner, digest)).collect();
            ballot.count(view, owner, &places, &verdicts);
        }
        let needless = ballot.droppable(view);
        for blob in &needless {
            let digest = blob.digest;
            assert!(!view.owns(me, digest), "dropped by an owner");
            for owner in view.owners(digest) {
                assert_ne!(
                    verdict(owner, digest),
                    Verdict::Wants,
                    "dropped while wanted"
                );
            }
        }
        for blob in &needless {
            self.content.get_mut(&me).unwrap().remove(&blob.digest);
        }
        !needless.is_empty()
    }
}

/// Digests of few slots, so that slots have some.
fn digest(rng: &mut StdRng) -> Digest {
    let mut hash: [u8; 32] = rng.random();
    hash[0] = rng.random_range(0..8) * 32;
    hash[1] = 0;
    let size = match rng.random_range(0..10) {
        0 => rng.random_range(1 << 20..8 << 20),
        _ => rng.random_range(1..1 << 20),
    };
    Digest { hash, size }
}

fn run(seed: u64, state: &Arc<ClusterState>, view: &View) {
    let mut rng = StdRng::seed_from_u64(seed);
    let nodes: Vec<NodeId> = state.members.keys().copied().collect();
    let view_of = |node: &NodeId| (*node, View::from_state(*node, state, Some(view)));
    let mut model = Model {
        state: Arc::clone(state),
        views: nodes.iter().map(view_of).collect(),
        content: nodes.iter().map(|node| (*node, BTreeSet::new())).collect(),
        memos: nodes.iter().map(|node| (*node, Memo::default())).collect(),
        declined: BTreeSet::new(),
        fetched: BTreeSet::new(),
    };
    let mut all = BTreeSet::new();
    for _ in 0..200 {
        let digest = digest(&mut rng);
        all.insert(digest);
        for _ in 0..rng.random_range(1..4) {
            let node = nodes[rng.random_range(0..nodes.len())];
            model.content.get_mut(&node).unwrap().insert(digest);
        }
        if rng.random_bool(0.05) {
            let node = nodes[rng.random_range(0..nodes.len())];
            model.declined.insert((node, digest));
        }
    }
    let lacking_at_first: usize = all
        .iter()
        .map(|digest| {
            let lacks = |owner: &NodeId| {
                !model.content[owner].contains(digest)
                    && !model.declined.contains(&(*owner, *digest))
            };
            view.owners(*digest).filter(lacks).count()
        })
        .sum();
    let mut order = nodes;
    loop {
        order.shuffle(&mut rng);
        let mut changed = false;
        for node in &order {
            changed |= model.round(*node);
        }
        if !changed {
            break;
        }
    }
    assert!(
        model.fetched.len() <= lacking_at_first,
        "seed {seed}: moved what was not lacking"
    );
    for digest in &all {
        for (node, blobs) in &model.content {
            let owns = view.owns(*node, *digest);
            let may_lack = model.declined.contains(&(*node, *digest));
            match blobs.contains(digest) {
                true => assert!(owns, "seed {seed}: {digest} left on {node:?}"),
                false => assert!(
                    !owns || may_lack,
                    "seed {seed}: {digest} lacking on {node:?}"
                ),
            }
        }
    }
    assert!(model.state.members.len() > 2);
}

#[test]
fn any_content_ends_up_on_its_owners_and_each_copy_moves_once() {
    let three = state_of(&["a", "b", "c"], 3, 2);
    let six = state_of(&["a", "b", "c", "a", "b", "c"], 3, 2);
    let changed = epoch_of(&six, &[1, 2, 3, 5]);
    for state in [three, six, changed] {
        let view = View::from_state(NodeId(1), &state, None);
        for seed in 0..8 {
            run(seed, &state, &view);
        }
    }
}

/// An owner whose volume was fenced said that it wants what it has. Back on the
/// same content it is asked again, and else only when content has changed.
#[test]
fn an_owner_that_starts_again_is_offered_the_same_again() {
    let state = epoch_of(&state_of(&["a", "b", "c", "d"], 3, 2), &[1, 2, 3]);
    let me = NodeId(4);
    let view = View::from_state(me, &state, None);
    let own = account(&BTreeSet::from([Digest::of(b"blob")]));
    let opened = |opened| {
        let mut account = own.clone();
        account.version.opened = opened;
        Arc::new(account)
    };
    let mut accounts: Accounts = (1..=3).map(|id| (NodeId(id), opened(id))).collect();
    let told = ballot::offers(&view, &own, &accounts, |_| false);
    assert_eq!(told.len(), 1);
    let not_told =
        |accounts: &Accounts| ballot::offers(&view, &own, accounts, |offer| told.contains(offer));
    assert_eq!(not_told(&accounts), []);
    accounts.insert(NodeId(2), opened(20));
    let again = not_told(&accounts);
    assert_eq!(again.len(), 1, "{again:?}");
}

#[test]
fn the_mark_waits_for_every_member_and_every_slot() {
    let state = state_of(&["a", "b", "c"], 3, 2);
    let view = View::from_state(NodeId(1), &state, None);
    let reached = |ids: &[u64]| -> Accounts {
        let empty = Arc::new(account(&BTreeSet::new()));
        ids.iter()
            .map(|id| (NodeId(*id), Arc::clone(&empty)))
            .collect()
    };
    assert!(plan::may_mark(&view, &reached(&[2, 3]), 0));
    assert!(!plan::may_mark(&view, &reached(&[2, 3]), 1));
    assert!(!plan::may_mark(&view, &reached(&[2]), 0));
    let outside = View::from_state(NodeId(3), &epoch_of(&state, &[1, 2]), None);
    assert!(!plan::may_mark(&outside, &reached(&[1, 2]), 0));
}
