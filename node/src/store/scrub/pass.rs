//! One pass over all copies, a step at a time.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use sha2::{Digest as _, Sha256};
use weir_cluster::{
    Digest, Error, blob::CHUNK_BYTES, journal::disk::read_exact_at, peer::ScrubReport,
};

use super::{
    records::{MISMATCH, is_record, take_group, verify_one},
    state::{Place, State},
};
use crate::{
    planted::{self, Bug},
    store::{
        core::Core,
        index::{Location, SHARDS, shard_of},
        quarantine::Defect,
        read::OpenFile,
        record::{ALIGN, record_len},
        segments::Segment,
    },
};

/// Records that are looked up at a time: looking means to go through the index.
const LOOKED_UP: u64 = 64 << 10;

/// Between two times that the state is written down.
const SAVE_EVERY: Duration = Duration::from_secs(60);

/// See the [module](self).
pub(super) struct Pass<'a> {
    core: &'a Arc<Core>,
    state: State,
    /// Records of the next segments, in order.
    segments: VecDeque<Records>,
    /// Files of one shard, in order.
    files: VecDeque<Digest>,
    /// The file that is being read.
    file: Option<OpenCopy>,
    saved: Instant,
    /// Whether the state differs from what was written down.
    dirty: bool,
}

struct Records {
    segment: u32,
    waiting: VecDeque<(Location, Digest)>,
}

struct OpenCopy {
    digest: Digest,
    open: OpenFile,
    hasher: Sha256,
    at: u64,
}

impl<'a> Pass<'a> {
    /// Goes on where the last process stopped.
    pub(super) fn resume(core: &'a Arc<Core>) -> Self {
        Self {
            core,
            state: State::load(&*core.volume.disk),
            segments: VecDeque::new(),
            files: VecDeque::new(),
            file: None,
            saved: Instant::now(),
            dirty: false,
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.state.running
    }

    pub(super) fn is_hurried(&self) -> bool {
        self.state.hurried
    }

    /// Store time at which the next pass is due.
    pub(super) fn due(&self, interval: Duration) -> u32 {
        let seconds = u32::try_from(interval.as_secs()).unwrap_or(u32::MAX);
        // Store time may have gone back a little in a crash.
        let now = self.core.clock.now();
        let began = self.state.began.map(|began| began.min(now));
        began.map_or(0, |began| began.saturating_add(seconds))
    }

    pub(super) fn begin(&mut self, now: u32, hurried: bool) {
        self.segments.clear();
        self.files.clear();
        self.file = None;
        self.state = State {
            passes: self.state.passes,
            began: Some(now),
            running: true,
            hurried,
            place: Place::default(),
            until: self.core.segments.next(),
            blobs: 0,
            bytes: 0,
        };
        self.dirty = true;
    }

    pub(super) fn report(&self) -> ScrubReport {
        ScrubReport {
            running: self.state.running,
            verified_blobs: self.state.blobs,
            verified_bytes: self.state.bytes,
            damaged: self.core.quarantine.total(),
            passes: self.state.passes,
        }
    }

    /// Verifies the next bytes; how many.
    pub(super) fn step(&mut self) -> u64 {
        let bytes = if self.file.is_some() {
            self.read_on()
        } else if let Some(digest) = self.files.pop_front() {
            self.open(digest);
            0
        } else if !self.segments.is_empty() {
            self.verify_records()
        } else {
            self.look_ahead();
            0
        };
        if self.dirty && self.saved.elapsed() >= SAVE_EVERY {
            self.save();
        }
        bytes
    }

    /// Writes down how far it has come.
    pub(super) fn save(&mut self) {
        let volume = &self.core.volume;
        if !self.dirty || volume.fenced().is_some() || volume.check_root().is_err() {
            return;
        }
        self.saved = Instant::now();
        match self.state.save(&*volume.disk) {
            Ok(()) => self.dirty = false,
            Err(error) => {
                let error = volume.failed("cannot write down how far verifying has come", &error);
                tracing::warn!(%error, "verifying would begin anew after a restart");
            }
        }
    }

    /// Finds out what is next; ends the pass if nothing is.
    fn look_ahead(&mut self) {
        match self.state.place {
            Place::Segments(done) => {
                self.look_up_records(done);
                if self.segments.is_empty() {
                    self.state.place = Place::Files([0; 32]);
                }
            }
            Place::Files(done) => {
                self.look_up_files(done);
                if self.files.is_empty() {
                    self.state.running = false;
                    self.state.hurried = false;
                    self.state.passes += 1;
                    self.dirty = true;
                    self.save();
                }
            }
        }
    }

    fn look_up_records(&mut self, done: u32) {
        let mut found: BTreeMap<u32, Vec<(Location, Digest)>> = BTreeMap::new();
        let mut records = 0;
        for (number, live) in self.core.index.counts().live() {
            if number <= done || number >= self.state.until {
                continue;
            }
            if records > 0 && records + live > LOOKED_UP {
                break;
            }
            records += live;
            found.insert(number, Vec::new());
        }
        self.core.index.each_shard(|shard| {
            for entry in shard.small.iter() {
                if let Some(records) = found.get_mut(&entry.location.segment) {
                    records.push((entry.location, entry.digest()));
                }
            }
        });
        self.segments = found
            .into_iter()
            .map(|(segment, mut records)| {
                records.sort_unstable();
                let waiting = records.into();
                Records { segment, waiting }
            })
            .collect();
    }

    fn look_up_files(&mut self, done: [u8; 32]) {
        for shard in shard_of(&done)..SHARDS {
            let mut found = Vec::new();
            self.core.index.visit_some(1 << shard, |shard| {
                let digests = shard.large.iter().map(|entry| entry.digest);
                found.extend(digests.filter(|digest| digest.hash > done));
            });
            if !found.is_empty() {
                found.sort_unstable();
                self.files = found.into();
                return;
            }
        }
    }

    /// Verifies records that lie next to each other.
    fn verify_records(&mut self) -> u64 {
        let Some(next) = self.segments.front_mut() else {
            return 0;
        };
        let segment = self.core.segments.get(next.segment);
        let group = match segment {
            Some(_) => take_group(&mut next.waiting),
            // The cleaner verified what it moved out.
            None => Vec::new(),
        };
        let is_done = next.waiting.is_empty() || segment.is_none();
        let number = next.segment;
        let mut read = 0;
        if let Some(segment) = segment {
            read = self.verify_group(&segment, &group);
        }
        if is_done {
            self.segments.pop_front();
            self.state.place = Place::Segments(number);
            self.dirty = true;
        }
        read
    }

    fn verify_group(&mut self, segment: &Segment, group: &[(Location, Digest)]) -> u64 {
        let (Some((first, _)), Some((last, digest))) = (group.first(), group.last()) else {
            return 0;
        };
        let start = u64::from(first.offset) * ALIGN;
        let end = u64::from(last.offset) * ALIGN + record_len(digest.size as u32);
        let file = &*segment.file;
        file.uncache(start, end - start);
        // A block that cannot be read costs only the records that it is in.
        let span = read_exact_at(file, (end - start) as usize, start).ok();
        for (location, digest) in group {
            let verified = match &span {
                Some(span) => {
                    let at = (u64::from(location.offset) * ALIGN - start) as usize;
                    is_record(&span[at..], digest).then_some(()).ok_or(MISMATCH)
                }
                None => verify_one(file, location, digest),
            };
            match verified {
                Ok(()) => self.count(digest),
                Err(_) if planted::is(Bug::ScrubSkipsDamage) => {}
                Err(defect) => {
                    self.core.set_aside_small(digest, *location, &defect);
                }
            }
        }
        file.uncache(start, end - start);
        end - start
    }

    fn open(&mut self, digest: Digest) {
        match OpenFile::open(self.core.clone(), &digest) {
            Ok(open) => {
                self.file = Some(OpenCopy {
                    digest,
                    open,
                    hasher: Sha256::new(),
                    at: 0,
                });
            }
            Err(error) => self.passed(&digest, Some(&error)),
        }
    }

    /// Verifies the next piece of the open file.
    fn read_on(&mut self) -> u64 {
        let Some(mut copy) = self.file.take() else {
            return 0;
        };
        let digest = copy.digest;
        let end = (copy.at + CHUNK_BYTES as u64).min(digest.size);
        copy.open.uncache(copy.at..end);
        let bytes = match copy.open.read(copy.at..end) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.passed(&digest, Some(&error));
                return end - copy.at;
            }
        };
        copy.hasher.update(&bytes);
        copy.open.uncache(copy.at..end);
        copy.at = end;
        if end < digest.size {
            self.file = Some(copy);
        } else if copy.hasher.finalize()[..] == digest.hash {
            self.count(&digest);
            self.passed(&digest, None);
        } else {
            let error = self
                .core
                .set_aside_large(&digest, &Defect::Bytes("hash does not match"));
            self.passed(&digest, Some(&error));
        }
        bytes.len() as u64
    }

    fn count(&mut self, digest: &Digest) {
        self.state.blobs += 1;
        self.state.bytes += digest.size;
    }

    /// A file is done with. One that has gone, or was set aside, was told of.
    fn passed(&mut self, digest: &Digest, error: Option<&Error>) {
        match error {
            None | Some(Error::NotFound(_) | Error::Corrupt(_) | Error::Fenced(_)) => {}
            Some(error) => tracing::warn!(%digest, %error, "cannot verify a file now"),
        }
        self.state.place = Place::Files(digest.hash);
        self.dirty = true;
    }
}
