//! The disk itself: a file that holds what is durable, a cache over it, rules.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::{
    cache::{Cache, Keep, Write},
    rules::{Access, Failure, Rules, Slow},
};
use crate::seeded::Words;

/// What a disk holds back at most. Like any disk it may write earlier than it
/// is told to: then it makes everything durable.
const CACHE_BYTES_MAX: usize = 64 << 20;

/// What is done to a disk from outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Its power is cut: it is dead until it is attached again.
    Cut { keep: Keep, seed: u64 },
    /// It begins anew with what is durable, and with the size of its file.
    Attach,
    /// It makes everything durable, as before power is switched off in order.
    Settle,
    /// It refuses what this says, until lifted.
    Fail(Failure),
    /// It is this slow, until lifted.
    Slow(Slow),
    /// All failures and delays end.
    Lift,
    /// One durable byte is inverted.
    Flip { offset: u64 },
    /// Nothing, for the answer.
    Ask,
}

/// What a disk says after each order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Accesses so far.
    pub reads: u64,
    pub writes: u64,
    pub syncs: u64,
    /// Accesses that a failure refused; those of a dead disk are not counted.
    pub refused: u64,
    /// Bytes that a power cut now could take.
    pub unsynced_bytes: u64,
    /// Bytes that the last cut found, and what it left of them.
    pub cut_bytes: u64,
    pub kept_bytes: u64,
}

/// A disk. After a cut every access gives EIO, so that a file system that
/// still runs cannot write into what the cut left.
#[derive(Debug)]
pub struct Disk {
    /// What is durable; sparse.
    file: File,
    // A std mutex: held for one access. Delays are waited for outside of it.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    size: u64,
    cache: Cache,
    rules: Rules,
    is_dead: bool,
    told: Told,
}

impl Disk {
    /// A disk on this file, which is as large as the disk.
    pub fn open(image: &Path) -> io::Result<Disk> {
        let disk = Disk {
            file: File::options().read(true).write(true).open(image)?,
            state: Mutex::default(),
        };
        disk.obey(&Order::Attach)?;
        Ok(disk)
    }

    /// Bytes of it.
    pub fn size(&self) -> u64 {
        self.lock().size
    }

    /// Reads up to `length` bytes, fewer at the end.
    pub fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut state = self.enter(Access::Read, offset, length as u64)?;
        state.told.reads += 1;
        let length = (length as u64).min(state.size.saturating_sub(offset));
        let mut bytes = vec![0; length as usize];
        self.file.read_exact_at(&mut bytes, offset)?;
        state.cache.show(offset, &mut bytes);
        Ok(bytes)
    }

    /// Takes a write, as far as a disk is told when it is told to write.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.enter(Access::Write, offset, bytes.len() as u64)?;
        state.told.writes += 1;
        let end = offset.checked_add(bytes.len() as u64);
        if end.is_none_or(|end| end > state.size) {
            return Err(Errno::NOSPC.into());
        }
        state.cache.write(offset, bytes);
        if state.cache.bytes() > CACHE_BYTES_MAX {
            let durable = state.cache.sync();
            self.store(&durable)?;
        }
        Ok(())
    }

    /// Makes durable what was written before. One that fails loses all of it.
    pub fn sync(&self) -> io::Result<()> {
        let entered = self.enter(Access::Sync, 0, 0);
        let mut state = match entered {
            Err(error) => {
                self.lock().cache.lose();
                return Err(error);
            }
            Ok(state) => state,
        };
        state.told.syncs += 1;
        let durable = state.cache.sync();
        self.store(&durable)
    }

    /// Does what is ordered, and tells what became of it.
    pub fn obey(&self, order: &Order) -> io::Result<Told> {
        let mut state = self.lock();
        match order {
            Order::Cut { keep, seed } => {
                state.is_dead = true;
                state.told.cut_bytes = state.cache.bytes() as u64;
                let kept = state.cache.cut(*keep, &mut Words::new(*seed));
                state.told.kept_bytes = kept.iter().map(|one| one.bytes.len() as u64).sum();
                self.store(&kept)?;
            }
            Order::Attach => {
                state.cache = Cache::default();
                state.is_dead = false;
                state.size = self.file.metadata()?.len();
            }
            Order::Settle => {
                let durable = state.cache.sync();
                self.store(&durable)?;
            }
            Order::Fail(failure) => state.rules.fail(failure.clone()),
            Order::Slow(slow) => state.rules.slow(slow.clone()),
            Order::Lift => state.rules.lift(),
            Order::Flip { offset } => {
                let mut byte = [0];
                self.file.read_exact_at(&mut byte, *offset)?;
                self.file.write_all_at(&[!byte[0]], *offset)?;
            }
            Order::Ask => {}
        }
        state.told.refused = state.rules.refused();
        state.told.unsynced_bytes = state.cache.bytes() as u64;
        Ok(state.told)
    }

    /// Waits as long as the rules say, then refuses or lets pass.
    fn enter(&self, access: Access, offset: u64, length: u64) -> io::Result<MutexGuard<'_, State>> {
        let delay = self.lock().rules.delay(access);
        if !delay.is_zero() {
            thread::sleep(delay);
        }
        let mut state = self.lock();
        if state.is_dead || state.rules.refuse(access, offset, length) {
            return Err(Errno::IO.into());
        }
        Ok(state)
    }

    fn store(&self, writes: &[Write]) -> io::Result<()> {
        let mut all = writes.iter();
        all.try_for_each(|one| self.file.write_all_at(&one.bytes, one.offset))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> (tempfile::NamedTempFile, Disk) {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let disk = Disk::open(file.path()).unwrap();
        (file, disk)
    }

    #[test]
    fn a_cut_disk_is_dead_until_it_is_attached() {
        let (_file, disk) = disk();
        disk.write(10, b"safe").unwrap();
        disk.sync().unwrap();
        disk.write(10, b"gone").unwrap();
        assert_eq!(disk.read(10, 4).unwrap(), b"gone");
        let keep = Keep::Nothing;
        let told = disk.obey(&Order::Cut { keep, seed: 1 }).unwrap();
        assert_eq!(
            (told.unsynced_bytes, told.cut_bytes, told.kept_bytes),
            (0, 4, 0)
        );
        assert!(disk.read(10, 4).is_err() && disk.write(0, b"x").is_err());
        assert!(disk.sync().is_err());
        disk.obey(&Order::Attach).unwrap();
        assert_eq!(disk.read(10, 4).unwrap(), b"safe");
    }

    #[test]
    fn a_sync_that_fails_once_has_lost_what_came_before_it() {
        let (_file, disk) = disk();
        let failure = Failure::everywhere(Access::Sync, Some(1));
        disk.obey(&Order::Fail(failure)).unwrap();
        disk.write(0, b"lost").unwrap();
        assert_eq!(disk.sync().unwrap_err().raw_os_error(), Some(5));
        disk.sync().unwrap();
        assert_eq!(disk.read(0, 4).unwrap(), b"lost", "it is still shown");
        assert_eq!(disk.obey(&Order::Settle).unwrap().refused, 1);
        disk.obey(&Order::Attach).unwrap();
        assert_eq!(disk.read(0, 4).unwrap(), [0; 4]);
    }

    #[test]
    fn bytes_flip_and_reads_fail_where_it_was_ordered() {
        let (_file, disk) = disk();
        disk.write(0, &[7; 8192]).unwrap();
        disk.sync().unwrap();
        disk.obey(&Order::Flip { offset: 5000 }).unwrap();
        assert_eq!(disk.read(4999, 3).unwrap(), [7, !7, 7]);
        let failure = Failure {
            access: Access::Read,
            range: 4096..8192,
            times: None,
        };
        disk.obey(&Order::Fail(failure)).unwrap();
        assert!(disk.read(0, 4097).is_err());
        assert_eq!(disk.read(0, 4096).unwrap().len(), 4096);
        disk.obey(&Order::Lift).unwrap();
        assert_eq!(disk.read(0, 8192).unwrap().len(), 8192);
        assert_eq!(disk.read((1 << 20) - 10, 100).unwrap().len(), 10);
        assert!(disk.write((1 << 20) - 1, b"xx").is_err());
    }

    /// However much is written without a sync.
    #[test]
    fn what_is_held_back_is_bounded() {
        let (file, disk) = disk();
        file.as_file().set_len(2 * CACHE_BYTES_MAX as u64).unwrap();
        disk.obey(&Order::Attach).unwrap();
        let megabyte = vec![1; 1 << 20];
        for number in 0..=(CACHE_BYTES_MAX as u64 >> 20) {
            disk.write(number << 20, &megabyte).unwrap();
        }
        assert_eq!(disk.obey(&Order::Ask).unwrap().unsynced_bytes, 0);
    }
}
