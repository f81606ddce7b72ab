//! A consensus of one node in memory: the same rules, no disk, no network.
//!
//! For tests of what is built on [`Consensus`]. The quorum can be taken away
//! and given back, which is how a minority looks from a service.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use tokio::sync::watch;

use super::{Consensus, Roles};
use crate::{
    ClusterId, Error, NodeId,
    state::{ClusterState, Command, Member, Ref, RefKey, Response, Settings, apply::apply},
    words::error::Shortfall,
};

/// One node, one mutex, no history.
pub struct MemoryConsensus {
    node: NodeId,
    // A std mutex: applying is short and synchronous, never held across an await.
    applied: Mutex<Applied>,
    state: watch::Sender<Arc<ClusterState>>,
    quorum: AtomicBool,
    barriers: AtomicU64,
}

#[derive(Default)]
struct Applied {
    state: ClusterState,
    rows: BTreeMap<RefKey, Ref>,
    revision: u64,
}

impl MemoryConsensus {
    /// A cluster that nobody has founded yet.
    #[must_use]
    pub fn empty(node: NodeId) -> Self {
        Self {
            node,
            applied: Mutex::default(),
            state: watch::Sender::new(Arc::default()),
            quorum: AtomicBool::new(true),
            barriers: AtomicU64::new(0),
        }
    }

    /// A cluster whose members are all active, in one epoch. The first is this node.
    pub fn founded(settings: Settings, members: Vec<(NodeId, Member)>) -> Result<Self, Error> {
        let Some((node, _)) = members.first() else {
            return Err(Error::Invalid("a cluster has at least one member".into()));
        };
        let this = Self::empty(*node);
        let cluster = ClusterId(1);
        this.apply(Command::Found { cluster, settings })?;
        let nodes = members.iter().map(|(id, _)| *id).collect();
        for (id, member) in members {
            this.apply(Command::AddMember { id, member })?;
        }
        this.apply(Command::Activate { nodes })?;
        Ok(this)
    }

    /// Takes the quorum away or gives it back. Without one, proposals and
    /// barriers answer [`Error::NoQuorum`] at once; applied state stays readable.
    pub fn set_quorum(&self, there: bool) {
        self.quorum.store(there, Ordering::SeqCst);
    }

    /// How many barriers were passed, to see who asks for them.
    #[must_use]
    pub fn barriers(&self) -> u64 {
        self.barriers.load(Ordering::SeqCst)
    }

    fn apply(&self, command: Command) -> Result<Response, Error> {
        let mut applied = self.lock();
        let Applied {
            state,
            rows,
            revision,
        } = &mut *applied;
        *revision += 1;
        let effects = apply(state, rows, *revision, command)?;
        for (key, row) in effects.rows {
            match row {
                Some(row) => rows.insert(key, row),
                None => rows.remove(&key),
            };
        }
        if effects.changed {
            self.state.send_replace(Arc::new(state.clone()));
        }
        Ok(effects.response)
    }

    fn need_quorum(&self, doing: &'static str) -> Result<(), Error> {
        if self.quorum.load(Ordering::SeqCst) {
            return Ok(());
        }
        Err(Error::NoQuorum(Shortfall {
            doing,
            needed: 1,
            got: 0,
            causes: vec![(self.node, "its quorum was taken away".into())],
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Applied> {
        // `apply` leaves the state whole at every point where it could panic.
        self.applied.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Consensus for MemoryConsensus {
    async fn propose(&self, command: Command) -> Result<Response, Error> {
        self.need_quorum("agree on a change")?;
        self.apply(command)
    }

    async fn barrier(&self) -> Result<(), Error> {
        self.need_quorum("confirm a read")?;
        self.barriers.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn applied_ref(&self, key: &RefKey) -> Result<Option<Ref>, Error> {
        Ok(self.lock().rows.get(key).cloned())
    }

    fn state(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.state.subscribe()
    }

    fn roles(&self) -> Roles {
        let quorum = self.quorum.load(Ordering::SeqCst);
        let applied = self.lock();
        Roles {
            leader: quorum.then_some(self.node),
            voters: vec![self.node],
            learners: applied
                .state
                .members
                .keys()
                .copied()
                .filter(|id| *id != self.node)
                .collect(),
            term: 1,
            last_applied: applied.revision,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Digest,
        state::{RefKind, RefValue, tests::member},
    };

    #[tokio::test]
    async fn a_lost_quorum_stops_proposals_and_barriers_but_not_reads() {
        let members = vec![(NodeId(1), member("one", "a"))];
        let consensus = MemoryConsensus::founded(Settings::default(), members).unwrap();
        let key = RefKey::new(RefKind::Blob, "", "urn:x", vec![]);
        let set = Command::SetRefs {
            keys: vec![key.clone()],
            value: RefValue {
                digest: Digest::of(b"x"),
                manifest: None,
                expire_at: None,
                pushed_at: 0,
            },
        };
        let Response::Done { revision } = consensus.propose(set.clone()).await.unwrap() else {
            panic!("a push was refused");
        };
        consensus.set_quorum(false);
        let error = consensus.propose(set).await.unwrap_err();
        assert!(matches!(error, Error::NoQuorum(_)), "{error}");
        let error = consensus.barrier().await.unwrap_err();
        assert!(matches!(error, Error::NoQuorum(_)), "{error}");
        assert_eq!(consensus.roles().leader, None);
        let row = consensus.applied_ref(&key).unwrap().unwrap();
        assert_eq!(row.revision, revision);
        consensus.set_quorum(true);
        consensus.barrier().await.unwrap();
        assert_eq!(consensus.barriers(), 1);
    }

    #[tokio::test]
    async fn watchers_see_each_change_of_state_once_it_is_acknowledged() {
        let consensus = MemoryConsensus::empty(NodeId(1));
        let mut state = consensus.state();
        consensus
            .propose(Command::Found {
                cluster: ClusterId(7),
                settings: Settings::default(),
            })
            .await
            .unwrap();
        assert!(state.has_changed().unwrap());
        assert_eq!(state.borrow_and_update().cluster, Some(ClusterId(7)));
    }
}
