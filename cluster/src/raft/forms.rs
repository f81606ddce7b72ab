//! [`Wire`] forms of what Weir itself keeps and sends: rows, snapshot heads and
//! the messages between nodes. [`super::wire`] has those of the log.

use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use serde::{Deserialize, Serialize};

use super::{
    network::SnapshotHead,
    rows::{Position, RecentBatch},
    snapshot::Head,
    types::{Entry, LogId, Proposal, SnapshotMeta, StoredMembership, TypeConfig, Vote},
    wire::{LogIdForm, VoteForm, Wire},
};
use crate::{
    Error,
    state::{ClusterState, Ref, RefKey, RequestId, Response, command::Command},
};

/// Types of our own, whose serde form is the form that is written.
macro_rules! plain {
    ($($type:ty),+ $(,)?) => {$(
        impl Wire for $type {
            type Form<'a> = &'a Self;
            type Read = Self;

            fn form(&self) -> &Self {
                self
            }

            fn from_read(read: Self) -> Result<Self, Error> {
                Ok(read)
            }
        }
    )+};
}

plain!(
    ClusterState,
    Ref,
    Response,
    Command,
    Proposal,
    (u64, RequestId),
    (RefKey, Ref),
    ForwardAnswer,
    ReadIndexAnswer,
    TransferForm,
);

/// What a node that was asked to be the leader answers to forwarded proposals.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum ForwardAnswer {
    /// One answer for each proposal, with the log index where it was applied.
    Done(Vec<Forwarded>),
    /// Not the leader; this one may be.
    NotLeader(Option<u64>),
    /// It broke off; proposals may have happened.
    Failed(String),
}

/// The fate of one forwarded proposal.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Forwarded {
    Applied {
        index: u64,
        response: Response,
    },
    /// Not taken, because leadership was lost; try again.
    Lost,
}

impl Forwarded {
    pub(super) fn index(&self) -> Option<u64> {
        match self {
            Self::Applied { index, .. } => Some(*index),
            Self::Lost => None,
        }
    }
}

/// The leader's answer to a read barrier.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum ReadIndexAnswer {
    /// Apply up to here, and what you read is current.
    Index(u64),
    NotLeader(Option<u64>),
    Failed(String),
}

/// A leader hands over.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct TransferForm {
    pub(super) from: VoteForm,
    pub(super) to: u64,
    pub(super) last: Option<LogIdForm>,
}

type StoredForm = <StoredMembership as Wire>::Read;

impl Wire for Position {
    type Form<'a> = (Option<LogIdForm>, StoredForm);
    type Read = (Option<LogIdForm>, StoredForm);

    fn form(&self) -> Self::Form<'_> {
        (self.last.form(), self.membership.form())
    }

    fn from_read((last, membership): Self::Read) -> Result<Self, Error> {
        Ok(Self {
            last: Option::from_read(last)?,
            membership: StoredMembership::from_read(membership)?,
        })
    }
}

type Recent = Vec<RecentBatch>;

impl Wire for Head {
    type Form<'a> = (<Position as Wire>::Form<'a>, &'a ClusterState, &'a Recent);
    type Read = (<Position as Wire>::Read, ClusterState, Recent);

    fn form(&self) -> Self::Form<'_> {
        (self.position.form(), &self.state, &self.recent)
    }

    fn from_read((position, state, recent): Self::Read) -> Result<Self, Error> {
        Ok(Self {
            position: Position::from_read(position)?,
            state,
            recent,
        })
    }
}

impl Wire for VoteRequest<TypeConfig> {
    type Form<'a> = (VoteForm, Option<LogIdForm>, bool);
    type Read = (VoteForm, Option<LogIdForm>, bool);

    fn form(&self) -> Self::Form<'_> {
        let last = self.last_log_id.form();
        (self.vote.form(), last, self.leadership_transfer)
    }

    fn from_read((vote, last, transfer): Self::Read) -> Result<Self, Error> {
        let mut request = Self::new(Vote::from_read(vote)?, Option::from_read(last)?);
        request.leadership_transfer = transfer;
        Ok(request)
    }
}

impl Wire for VoteResponse<TypeConfig> {
    type Form<'a> = (VoteForm, bool, Option<LogIdForm>);
    type Read = (VoteForm, bool, Option<LogIdForm>);

    fn form(&self) -> Self::Form<'_> {
        let last = self.last_log_id.form();
        (self.vote.form(), self.vote_granted, last)
    }

    fn from_read((vote, granted, last): Self::Read) -> Result<Self, Error> {
        let last = Option::from_read(last)?;
        Ok(Self::new(Vote::from_read(vote)?, last, granted))
    }
}

impl Wire for AppendEntriesRequest<TypeConfig> {
    type Form<'a> = (
        VoteForm,
        Option<LogIdForm>,
        <Vec<Entry> as Wire>::Form<'a>,
        Option<LogIdForm>,
    );
    type Read = (
        VoteForm,
        Option<LogIdForm>,
        <Vec<Entry> as Wire>::Read,
        Option<LogIdForm>,
    );

    fn form(&self) -> Self::Form<'_> {
        (
            self.vote.form(),
            self.prev_log_id.form(),
            self.entries.form(),
            self.leader_commit.form(),
        )
    }

    fn from_read((vote, prev, entries, commit): Self::Read) -> Result<Self, Error> {
        Ok(Self {
            vote: Vote::from_read(vote)?,
            prev_log_id: Option::from_read(prev)?,
            entries: Vec::from_read(entries)?,
            leader_commit: Option::from_read(commit)?,
        })
    }
}

/// An answer to entries as it is written.
#[derive(Serialize, Deserialize)]
pub enum AppendedForm {
    Success,
    PartialSuccess(Option<LogIdForm>),
    Conflict,
    HigherVote(VoteForm),
}

impl Wire for AppendEntriesResponse<TypeConfig> {
    type Form<'a> = AppendedForm;
    type Read = AppendedForm;

    fn form(&self) -> AppendedForm {
        match self {
            Self::Success => AppendedForm::Success,
            Self::PartialSuccess(last) => AppendedForm::PartialSuccess(last.form()),
            Self::Conflict => AppendedForm::Conflict,
            Self::HigherVote(vote) => AppendedForm::HigherVote(vote.form()),
        }
    }

    fn from_read(read: AppendedForm) -> Result<Self, Error> {
        Ok(match read {
            AppendedForm::Success => Self::Success,
            AppendedForm::PartialSuccess(last) => Self::PartialSuccess(Option::from_read(last)?),
            AppendedForm::Conflict => Self::Conflict,
            AppendedForm::HigherVote(vote) => Self::HigherVote(Vote::from_read(vote)?),
        })
    }
}

impl Wire for SnapshotHead {
    type Form<'a> = (VoteForm, <SnapshotMeta as Wire>::Form<'a>);
    type Read = (VoteForm, <SnapshotMeta as Wire>::Read);

    fn form(&self) -> Self::Form<'_> {
        (self.vote.form(), self.meta.form())
    }

    fn from_read((vote, meta): Self::Read) -> Result<Self, Error> {
        Ok(Self {
            vote: Vote::from_read(vote)?,
            meta: SnapshotMeta::from_read(meta)?,
        })
    }
}

impl Wire for SnapshotResponse<TypeConfig> {
    type Form<'a> = VoteForm;
    type Read = VoteForm;

    fn form(&self) -> VoteForm {
        self.vote.form()
    }

    fn from_read(read: VoteForm) -> Result<Self, Error> {
        Ok(Self::new(Vote::from_read(read)?))
    }
}

impl TransferForm {
    pub(super) fn new(from: &Vote, to: u64, last: Option<LogId>) -> Self {
        Self {
            from: from.form(),
            to,
            last: last.form(),
        }
    }
}
