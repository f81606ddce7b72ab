//! What a node does for its peers' repair and starts.
//!
//! The first fence of repair is kept here: an account of what this node holds
//! is given only from the epoch on that the asker is at. From then on no write
//! under an older epoch is admitted, so nothing slips in behind the account.

use weir_proto::cluster::{
    CheckInRequest, CheckInResponse, ListRequest, ListResponse, OfferRequest, OfferResponse,
    SummariesRequest, SummariesResponse,
};

use super::{
    CheckIn, Start,
    repair_wire::{
        pack_held, pack_summaries, pack_verdicts, slot_of, unpack_held, version_message, version_of,
    },
    server::{PeerService, VIEW_PATIENCE},
    wire,
};
use crate::{
    Epoch, Error, NodeId,
    blob::{Held, Verdict},
    placement::view,
};

/// Blobs in one message of a list: 3 MiB.
pub(super) const PAGE_BLOBS: usize = 64 << 10;
/// Slots that may be listed at once.
const LIST_SLOTS: usize = 1_024;

/// A blob that another node holds for this one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offered {
    pub from: NodeId,
    pub blob: Held,
}

impl PeerService {
    /// Waits until this node is at the asker's epoch.
    async fn reach(&self, theirs: Epoch) -> Result<(), Error> {
        let mut views = self.view.clone();
        if view::at_least(&mut views, theirs, VIEW_PATIENCE).await {
            return Ok(());
        }
        let ours = self.view.borrow().epoch();
        Err(Error::Internal(format!(
            "node {} is still at epoch {ours}",
            self.me
        )))
    }

    pub(super) async fn summarise(
        &self,
        request: SummariesRequest,
    ) -> Result<SummariesResponse, Error> {
        wire::check_space(request.space.as_ref())?;
        self.reach(Epoch(request.epoch)).await?;
        let known = request.known.as_ref().map(version_of);
        if known == Some(self.local.version()) {
            return Ok(SummariesResponse {
                version: request.known,
                unchanged: true,
                ..SummariesResponse::default()
            });
        }
        let summaries = self.local.summaries();
        Ok(SummariesResponse {
            version: Some(version_message(summaries.version)),
            unchanged: false,
            slots: pack_summaries(&summaries),
        })
    }

    pub(super) async fn list_slots(&self, request: ListRequest) -> Result<Vec<Held>, Error> {
        wire::check_space(request.space.as_ref())?;
        if request.slots.len() > LIST_SLOTS {
            let asked = request.slots.len();
            return Err(Error::Invalid(format!(
                "{asked} slots asked at once, at most {LIST_SLOTS} are listed"
            )));
        }
        let slots: Result<Vec<_>, _> = request.slots.into_iter().map(slot_of).collect();
        self.reach(Epoch(request.epoch)).await?;
        self.local.list(&slots?).await
    }

    /// Judges blobs that another node holds, and tells repair of those that are
    /// wanted here. What repair has no room for now is offered again.
    pub(super) async fn take_offer(&self, request: OfferRequest) -> Result<OfferResponse, Error> {
        wire::check_space(request.space.as_ref())?;
        let blobs = unpack_held(&request.held)?;
        let from = NodeId(request.from);
        self.reach(Epoch(request.epoch)).await?;
        let ours = self.view.borrow().epoch();
        let theirs = Epoch(request.epoch);
        if theirs < ours {
            return Err(Error::StaleEpoch { theirs, ours });
        }
        let here = self.local.hold(&blobs);
        let verdicts: Vec<_> = blobs
            .into_iter()
            .zip(here)
            .map(|(blob, here)| match here {
                true => Verdict::Holds,
                false if self.local.declines(&blob) => Verdict::Declines,
                false => {
                    let _ = self.offered.try_send(Offered { from, blob });
                    Verdict::Wants
                }
            })
            .collect();
        Ok(OfferResponse {
            verdicts: pack_verdicts(&verdicts),
        })
    }

    pub(super) fn answer_check_in(&self, request: CheckInRequest) -> CheckInResponse {
        let start = Start {
            boot: request.boot,
            known_boots: request.known_boots,
            last_log_index: request.last_log_index,
        };
        match (self.check_in)(NodeId(request.node_id), &start) {
            CheckIn::Welcome { by_leader } => CheckInResponse {
                by_leader,
                ..CheckInResponse::default()
            },
            CheckIn::Removed => CheckInResponse {
                removed: true,
                ..CheckInResponse::default()
            },
            CheckIn::Outdated { why } => CheckInResponse {
                outdated: why,
                ..CheckInResponse::default()
            },
        }
    }
}

pub(crate) fn check_in_message(me: NodeId, start: &Start) -> CheckInRequest {
    CheckInRequest {
        node_id: me.0,
        boot: start.boot,
        known_boots: start.known_boots.clone(),
        last_log_index: start.last_log_index,
    }
}

pub(crate) fn check_in_answer(answer: CheckInResponse) -> CheckIn {
    if answer.removed {
        CheckIn::Removed
    } else if !answer.outdated.is_empty() {
        CheckIn::Outdated {
            why: answer.outdated,
        }
    } else {
        CheckIn::Welcome {
            by_leader: answer.by_leader,
        }
    }
}

pub(super) fn list_message(blobs: &[Held]) -> ListResponse {
    ListResponse {
        held: pack_held(blobs),
    }
}
