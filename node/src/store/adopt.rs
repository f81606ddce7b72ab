//! Copies that come from other nodes.
//!
//! An adopted copy keeps the age and the lease that it had there. One that is
//! leased is admitted like any upload. One that is not must not push out what
//! was used later than it: room is made for it only by blobs that were used
//! earlier, and only below the high-water mark, so that it is not evicted
//! again at once. Where that cannot be, it is refused with
//! [`Error::Exhausted`], and from then on declined (see [`super::horizon`]).

use std::sync::Arc;

use tokio::sync::oneshot;
use weir_cluster::{
    Digest, Error,
    blob::{Held, Put, SMALL_BLOB_BYTES, Verified},
};

use super::{
    appender::{Job, stopped},
    core::{ADMISSION_TRIES, Core},
    files,
    horizon::Fill,
    record::{Prepared, record_len},
    uses::Coming,
    volume::Room,
};

impl Core {
    /// Stores one small copy; returns when it is durable.
    pub(super) async fn adopt(&self, blob: Verified, coming: Coming) -> Result<(), Error> {
        let answers = self.adopt_all(vec![(blob, coming)]).await;
        answers.into_iter().next().unwrap_or(Ok(()))
    }

    /// Stores small copies; one answer for each, in order, when all are durable.
    pub(super) async fn adopt_all(&self, blobs: Vec<(Verified, Coming)>) -> Vec<Result<(), Error>> {
        let slot = match self.volume.check_writable() {
            Ok(()) => self.queue.slot().await,
            Err(error) => Err(error),
        };
        let slot = match slot {
            Ok(slot) => slot,
            Err(error) => return vec![Err(error); blobs.len()],
        };
        let now = self.clock.now();
        let mut answers = Vec::with_capacity(blobs.len());
        let mut records = Vec::new();
        let mut room: Option<Room> = None;
        for (blob, coming) in blobs {
            let digest = blob.digest();
            if digest.is_empty_blob() || self.index.renew(&digest, coming, now) {
                answers.push(Ok(()));
                continue;
            }
            let record = Prepared::adopted(blob, now, coming);
            match self.admit_adopted(record.len(), coming).await {
                Ok(more) => {
                    match &mut room {
                        Some(room) => room.merge(more),
                        None => room = Some(more),
                    }
                    records.push(record);
                    answers.push(Ok(()));
                }
                Err(error) => answers.push(Err(error)),
            }
        }
        let Some(room) = room else { return answers };
        let (answer, answered) = oneshot::channel();
        self.queue.push(Job::Put {
            records,
            room,
            answer,
            slot,
        });
        let outcome = answered.await.map_err(|_| stopped()).and_then(|done| done);
        if let Err(error) = outcome {
            for answer in &mut answers {
                if answer.is_ok() {
                    *answer = Err(error.clone());
                }
            }
        }
        answers
    }

    /// Promises room for a copy, once there is some that it may have.
    pub(super) async fn admit_adopted(&self, bytes: u64, coming: Coming) -> Result<Room, Error> {
        let access = match coming {
            Coming::Adopted { access, lease_end } if lease_end <= self.clock.now() => access,
            _ => return self.admit(bytes).await,
        };
        for _ in 0..ADMISSION_TRIES {
            self.volume.check_writable()?;
            let high_water = self.volume.high_water();
            if let Some(room) = self.volume.take_below(bytes, high_water) {
                return Ok(room);
            }
            self.keeper.make_room(bytes, Some(access)).await?;
        }
        Err(self.full(bytes))
    }

    /// See [`weir_cluster::blob::Inventory::declines`].
    pub(super) fn declines(&self, blob: &Held) -> bool {
        if blob.lease_seconds > 0 || blob.digest.is_empty_blob() {
            return false;
        }
        let fill = Fill {
            used: self.volume.used(),
            high_water: self.volume.high_water(),
        };
        let last_use = self.clock.now().saturating_sub(blob.idle_seconds);
        self.horizon
            .declines(last_use, bytes_on_disk(&blob.digest), fill)
    }
}

impl super::LocalStore {
    /// As [`super::LocalStore::begin`], for a copy.
    pub(super) async fn begin_adoption(&self, blob: &Held) -> Result<Put, Error> {
        let core: &Arc<Core> = &self.core;
        let now = core.clock.now();
        let coming = Coming::adopted(blob, now);
        if blob.digest.is_empty_blob() || core.index.renew(&blob.digest, coming, now) {
            return Ok(Put::Present);
        }
        self.begin(blob.digest, coming).await
    }
}

/// Bytes that a blob takes on disk.
fn bytes_on_disk(digest: &Digest) -> u64 {
    if digest.size <= SMALL_BLOB_BYTES {
        record_len(digest.size as u32)
    } else {
        files::file_len(digest.size).unwrap_or(u64::MAX)
    }
}
