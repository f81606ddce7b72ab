//! Raft's values as bytes: in the journal, in snapshots and between nodes.
//!
//! Each value is a version byte, then a form of our own in postcard:
//!
//! ```text
//! ┌─────────┬──────────────────────────┐
//! │ version │ postcard of `Wire::Form` │
//! └─────────┴──────────────────────────┘
//! ```
//!
//! The tempting alternative is openraft's own `serde` derives. They would let
//! a bump of the crate change what is on disk; the forms here change only when
//! we change them, and then [`VERSION`] says so.

use std::collections::{BTreeMap, BTreeSet};

use openraft::EntryPayload;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::types::{
    CommittedLeaderId, Entry, LeaderId, LogId, Membership, Proposal, RaftNode, SnapshotMeta,
    StoredMembership, Vote,
};
use crate::Error;

/// First byte of everything that [`encode`] writes.
pub const VERSION: u8 = 2;

/// A value that has bytes of its own, independent of openraft's.
pub trait Wire: Sized {
    /// What is written; may borrow from the value, so that encoding copies nothing.
    type Form<'a>: Serialize
    where
        Self: 'a;
    /// What is read back; encodes to the same bytes as [`Wire::Form`].
    type Read: DeserializeOwned;

    fn form(&self) -> Self::Form<'_>;

    /// Fails if the bytes were well formed but make no such value.
    fn from_read(read: Self::Read) -> Result<Self, Error>;
}

/// The bytes of a value.
#[must_use]
pub fn encode<T: Wire>(value: &T) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    encode_into(value, &mut out);
    out
}

/// Appends the bytes of a value to `out`.
pub fn encode_into<T: Wire>(value: &T, out: &mut Vec<u8>) {
    out.push(VERSION);
    // Writing to memory cannot fail, and every form is data that postcard knows.
    postcard::to_io(&value.form(), &mut *out).expect("forms are plain data");
}

/// Reads a value back. The bytes must hold it and nothing more.
pub fn decode<T: Wire>(bytes: &[u8]) -> Result<T, Error> {
    let (version, body) = bytes
        .split_first()
        .ok_or_else(|| Error::Invalid("a Raft value is empty".into()))?;
    if *version != VERSION {
        return Err(Error::Invalid(format!(
            "a Raft value has version {version}, this node reads {VERSION}"
        )));
    }
    let (read, rest) = postcard::take_from_bytes(body)
        .map_err(|error| Error::Invalid(format!("a Raft value does not decode: {error}")))?;
    if !rest.is_empty() {
        return Err(Error::Invalid(format!(
            "a Raft value is followed by {} bytes too many",
            rest.len()
        )));
    }
    T::from_read(read)
}

/// A log id as it is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LogIdForm {
    term: u64,
    index: u64,
}

/// A vote as it is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VoteForm {
    term: u64,
    node: u64,
    committed: bool,
}

/// What an entry carries, as it is written.
#[derive(Serialize)]
pub enum PayloadForm<'a> {
    Blank,
    Normal(&'a Proposal),
    Membership(MembershipForm),
}

/// [`PayloadForm`] as it is read.
#[derive(Deserialize)]
pub enum PayloadRead {
    Blank,
    Normal(Proposal),
    Membership(MembershipForm),
}

/// A membership as it is written.
#[derive(Clone, Serialize, Deserialize)]
pub struct MembershipForm {
    configs: Vec<BTreeSet<u64>>,
    nodes: BTreeMap<u64, RaftNode>,
}

impl Wire for LogId {
    type Form<'a> = LogIdForm;
    type Read = LogIdForm;

    fn form(&self) -> LogIdForm {
        LogIdForm {
            term: self.leader_id.term,
            index: self.index,
        }
    }

    fn from_read(read: LogIdForm) -> Result<Self, Error> {
        Ok(LogId::new(CommittedLeaderId::new(read.term), read.index))
    }
}

impl<T: Wire> Wire for Option<T> {
    type Form<'a>
        = Option<T::Form<'a>>
    where
        T: 'a;
    type Read = Option<T::Read>;

    fn form(&self) -> Self::Form<'_> {
        self.as_ref().map(T::form)
    }

    fn from_read(read: Self::Read) -> Result<Self, Error> {
        read.map(T::from_read).transpose()
    }
}

impl<T: Wire> Wire for Vec<T> {
    type Form<'a>
        = Vec<T::Form<'a>>
    where
        T: 'a;
    type Read = Vec<T::Read>;

    fn form(&self) -> Self::Form<'_> {
        self.iter().map(T::form).collect()
    }

    fn from_read(read: Self::Read) -> Result<Self, Error> {
        read.into_iter().map(T::from_read).collect()
    }
}

impl Wire for Vote {
    type Form<'a> = VoteForm;
    type Read = VoteForm;

    fn form(&self) -> VoteForm {
        VoteForm {
            term: self.leader_id.term,
            node: self.leader_id.voted_for,
            committed: self.committed,
        }
    }

    fn from_read(read: VoteForm) -> Result<Self, Error> {
        Ok(Vote {
            leader_id: LeaderId {
                term: read.term,
                voted_for: read.node,
            },
            committed: read.committed,
        })
    }
}

impl Wire for Entry {
    type Form<'a> = (LogIdForm, PayloadForm<'a>);
    type Read = (LogIdForm, PayloadRead);

    fn form(&self) -> Self::Form<'_> {
        let payload = match &self.payload {
            EntryPayload::Blank => PayloadForm::Blank,
            EntryPayload::Normal(proposal) => PayloadForm::Normal(proposal),
            EntryPayload::Membership(membership) => PayloadForm::Membership(membership.form()),
        };
        (self.log_id.form(), payload)
    }

    fn from_read((log_id, payload): Self::Read) -> Result<Self, Error> {
        let payload = match payload {
            PayloadRead::Blank => EntryPayload::Blank,
            PayloadRead::Normal(proposal) => EntryPayload::Normal(proposal),
            PayloadRead::Membership(form) => EntryPayload::Membership(Membership::from_read(form)?),
        };
        Ok(Entry {
            log_id: LogId::from_read(log_id)?,
            payload,
        })
    }
}

impl Wire for Membership {
    type Form<'a> = MembershipForm;
    type Read = MembershipForm;

    fn form(&self) -> MembershipForm {
        MembershipForm {
            configs: self.get_joint_config().clone(),
            nodes: self.nodes().map(|(id, node)| (*id, node.clone())).collect(),
        }
    }

    fn from_read(read: MembershipForm) -> Result<Self, Error> {
        // None has been agreed on yet.
        if read.configs.is_empty() && read.nodes.is_empty() {
            return Ok(Membership::default());
        }
        Membership::new(read.configs, read.nodes)
            .map_err(|error| Error::Invalid(format!("a Raft membership makes no sense: {error}")))
    }
}

impl Wire for StoredMembership {
    type Form<'a> = (Option<LogIdForm>, MembershipForm);
    type Read = (Option<LogIdForm>, MembershipForm);

    fn form(&self) -> Self::Form<'_> {
        (self.log_id().form(), self.membership().form())
    }

    fn from_read((log_id, membership): Self::Read) -> Result<Self, Error> {
        Ok(StoredMembership::new(
            Option::from_read(log_id)?,
            Membership::from_read(membership)?,
        ))
    }
}

impl Wire for SnapshotMeta {
    type Form<'a> = (Option<LogIdForm>, (Option<LogIdForm>, MembershipForm));
    type Read = (Option<LogIdForm>, (Option<LogIdForm>, MembershipForm));

    fn form(&self) -> Self::Form<'_> {
        (self.last_log_id.form(), self.last_membership.form())
    }

    fn from_read((last_log_id, last_membership): Self::Read) -> Result<Self, Error> {
        Ok(SnapshotMeta {
            last_log_id: Option::from_read(last_log_id)?,
            last_membership: StoredMembership::from_read(last_membership)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use super::*;
    use crate::{
        NodeId,
        state::{Command, command::RequestId},
    };

    fn check<T: Wire + PartialEq + Debug>(value: T) -> Vec<u8> {
        let bytes = encode(&value);
        assert_eq!(decode::<T>(&bytes).unwrap(), value);
        for len in 0..bytes.len() {
            assert!(decode::<T>(&bytes[..len]).is_err(), "cut at {len}");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(decode::<T>(&longer).is_err());
        let mut newer = bytes.clone();
        newer[0] = VERSION + 1;
        assert!(decode::<T>(&newer).is_err());
        bytes
    }

    fn membership() -> Membership {
        let node = |n: u64| RaftNode {
            peer_address: format!("peer-{n}:1"),
        };
        Membership::new(
            vec![[1, 2].into(), [2, 3].into()],
            BTreeMap::from([(1, node(1)), (2, node(2)), (3, node(3)), (4, node(4))]),
        )
        .unwrap()
    }

    fn log_id(term: u64, index: u64) -> LogId {
        LogId::new(CommittedLeaderId::new(term), index)
    }

    #[test]
    fn values_read_back_and_damage_is_an_error() {
        check(Vote::new(3, 9));
        check(Vote::new_committed(u64::MAX, u64::MAX));
        check(Some(log_id(1, 2)));
        for payload in [
            EntryPayload::Blank,
            EntryPayload::Normal(Proposal {
                request: RequestId(7),
                command: Command::Activate {
                    nodes: vec![NodeId(1), NodeId(2)],
                },
            }),
            EntryPayload::Membership(membership()),
        ] {
            check(Entry {
                log_id: log_id(4, 5),
                payload,
            });
        }
        check(StoredMembership::new(Some(log_id(1, 1)), membership()));
        check(SnapshotMeta {
            last_log_id: Some(log_id(4, 5)),
            last_membership: StoredMembership::default(),
        });
    }

    /// Data on disk depends on these bytes: change [`VERSION`] with them.
    #[test]
    fn bytes_stay_as_they_are() {
        assert_eq!(check(Vote::new_committed(3, 9)), [2, 3, 9, 1]);
        assert_eq!(check(log_id(300, 2)), [2, 172, 2, 2]);
        assert_eq!(check(None::<LogId>), [2, 0]);
        let entry = Entry {
            log_id: log_id(4, 5),
            payload: EntryPayload::Normal(Proposal {
                request: RequestId(7),
                command: Command::Activate {
                    nodes: vec![NodeId(1)],
                },
            }),
        };
        assert_eq!(check(entry), [2, 4, 5, 1, 7, 5, 1, 1]);
    }

    #[test]
    fn a_voter_without_a_node_is_refused() {
        let form = MembershipForm {
            configs: vec![[1].into()],
            nodes: BTreeMap::new(),
        };
        assert!(Membership::from_read(form).is_err());
    }
}
