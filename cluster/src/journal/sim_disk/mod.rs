//! A disk in memory that can lose power after any operation.
//!
//! Tests run code against a [`SimDisk`] and then ask it, for each number of
//! operations, for the disk that a power cut at that moment could leave
//! ([`SimDisk::after_power_cut`]). It is as unkind as the contract of
//! [`Disk`] allows:
//!
//! - a write, a new length or an allocation is safe after a sync of the file; before,
//!   none of it, all of it, or any of its sectors may be there;
//! - a created, renamed or removed name (of a file or of a folder) is safe
//!   after a sync of the folder it is in; syncing the file does not help;
//! - after a failed sync of a file what was not synced is readable still, but
//!   no later sync makes it safe, as on ext4; a failed write has written some;
//! - after a failed sync of a folder no later change of names becomes safe.
//!
//! It does not reorder changes of names among each other: file systems in use
//! keep these in a journal.

mod image;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

pub use image::Keep;
use image::{Image, Inode, Operation, parent};

use rustix::io::Errno;

use super::disk::{DirEntry, Disk, DiskFile};

/// Room on a disk whose test does not say; more than any test writes.
const DEFAULT_CAPACITY: u64 = 1 << 40;

/// A disk in memory. Clones are the same disk.
#[derive(Clone)]
pub struct SimDisk {
    // A std mutex: no operation waits for anything while it is held.
    state: Arc<Mutex<State>>,
}

struct State {
    /// What was there at first, all of it safe.
    base: Image,
    /// What reads see.
    now: Image,
    operations: Vec<Operation>,
    next_file: Inode,
    capacity: u64,
    /// Writes and syncs until one fails; 1 means the next.
    write_fails_in: Option<u64>,
    sync_fails_in: Option<u64>,
    /// Files that cannot be read, and from where on.
    unreadable: BTreeMap<Inode, u64>,
    /// Most files that there may be.
    files_max: usize,
    read_only: bool,
    /// Folders that can still be opened, to be synced.
    handles: u64,
}

impl Default for SimDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl SimDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::with_image(Image::default(), DEFAULT_CAPACITY)
    }

    fn with_image(image: Image, capacity: u64) -> Self {
        let next_file = image.files.keys().last().map_or(1, |last| last + 1);
        let state = State {
            base: image.clone(),
            now: image,
            operations: Vec::new(),
            next_file,
            capacity,
            write_fails_in: None,
            sync_fails_in: None,
            unreadable: BTreeMap::new(),
            files_max: usize::MAX,
            read_only: false,
            handles: u64::MAX,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// How many operations changed or synced something since the disk was made.
    #[must_use]
    pub fn operations(&self) -> usize {
        self.lock().operations.len()
    }

    /// The operations, one a line, to print when a test fails.
    #[must_use]
    pub fn describe_operations(&self) -> Vec<String> {
        let state = self.lock();
        state.operations.iter().map(ToString::to_string).collect()
    }

    /// The disk that a power cut may leave after the first so many operations.
    /// This disk is not touched. On the new one everything is safe, nothing
    /// has been counted, and no fault is planned.
    #[must_use]
    pub fn after_power_cut(&self, operations: usize, keep: Keep) -> Self {
        let state = self.lock();
        let done = &state.operations[..operations.min(state.operations.len())];
        Self::with_image(
            image::after_power_cut(&state.base, done, keep),
            state.capacity,
        )
    }

    /// Makes the `nth` write from now (1 is the next) fail with an I/O error
    /// after part of it; an allocation or a change of length counts as one.
    pub fn fail_write(&self, nth: u64) {
        self.lock().write_fails_in = Some(nth);
    }

    /// Makes the `nth` sync from now, of a file or a folder, fail with an I/O error.
    pub fn fail_sync(&self, nth: u64) {
        self.lock().sync_fails_in = Some(nth);
    }

    /// Makes reads of a file that go past `offset` fail with an I/O error, until
    /// it is called with [`u64::MAX`]. Not taken over by a power cut.
    pub fn fail_reads(&self, path: &Path, offset: u64) -> io::Result<()> {
        let mut state = self.lock();
        let file = state.now.lookup(path)?;
        state.unreadable.insert(file, offset);
        Ok(())
    }

    /// Gives the disk room for so many bytes of files; what needs more fails
    /// with [`io::ErrorKind::StorageFull`].
    pub fn set_capacity(&self, bytes: u64) {
        self.lock().capacity = bytes;
    }

    /// Lets there be so many files; more fail with [`io::ErrorKind::StorageFull`].
    pub fn set_files_max(&self, files: usize) {
        self.lock().files_max = files;
    }

    /// Lets so many folders be opened, to be synced, from now on; more fail as in
    /// a process that may open no more files.
    pub fn set_handles(&self, handles: u64) {
        self.lock().handles = handles;
    }

    /// Refuses every change from now on, as a file system that found an error
    /// in itself does.
    pub fn make_read_only(&self) {
        self.lock().read_only = true;
    }

    /// Flips bits of one byte of a file at rest, unseen by any sync. Bytes that
    /// were written since the disk was made are flipped for reads only; take the
    /// disk after a power cut to damage them for good.
    pub fn flip_bits(&self, path: &Path, offset: u64, bits: u8) -> io::Result<()> {
        let mut state = self.lock();
        let file = state.now.lookup(path)?;
        let State { base, now, .. } = &mut *state;
        for image in [now, base] {
            let content = image.files.get_mut(&file);
            if let Some(byte) = content.and_then(|content| content.get_mut(offset as usize)) {
                *byte ^= bits;
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each operation leaves the state whole, whoever panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn perform(&mut self, operation: Operation) {
        self.now.apply(&operation);
        self.operations.push(operation);
    }

    fn need_writable(&self) -> io::Result<()> {
        match self.read_only {
            true => Err(Errno::ROFS.into()),
            false => Ok(()),
        }
    }

    fn need_dir(&self, dir: &Path) -> io::Result<()> {
        match self.now.has_dir(dir) {
            true => Ok(()),
            false => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn free(&self) -> u64 {
        self.capacity.saturating_sub(self.now.used())
    }

    fn file_len(&self, file: Inode) -> u64 {
        let content = self.now.files.get(&file);
        content.map_or(0, |content| content.len() as u64)
    }

    fn need_room(&self, file: Inode, len: u64) -> io::Result<()> {
        let more = len.saturating_sub(self.file_len(file));
        match more <= self.free() {
            true => Ok(()),
            false => Err(io::ErrorKind::StorageFull.into()),
        }
    }

    fn write(&mut self, file: Inode, offset: u64, mut data: Vec<u8>) -> io::Result<()> {
        self.need_writable()?;
        self.need_room(file, offset + data.len() as u64)?;
        let fault = count_down(&mut self.write_fails_in);
        if fault.is_err() {
            data.truncate(data.len() / 2);
        }
        if !data.is_empty() {
            let data = data.into();
            self.perform(Operation::Write { file, offset, data });
        }
        fault
    }

    fn set_len(&mut self, file: Inode, len: u64) -> io::Result<()> {
        self.need_writable()?;
        self.need_room(file, len)?;
        count_down(&mut self.write_fails_in)?;
        self.perform(Operation::SetLen { file, len });
        Ok(())
    }
}

fn count_down(left: &mut Option<u64>) -> io::Result<()> {
    match left {
        Some(0 | 1) => {
            *left = None;
            Err(io::Error::other("injected I/O error"))
        }
        Some(left) => {
            *left -= 1;
            Ok(())
        }
        None => Ok(()),
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.lock().now.lookup(path)?;
        let disk = self.clone();
        Ok(Arc::new(SimFile { disk, file }))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.lock();
        state.need_writable()?;
        state.need_dir(parent(path))?;
        if state.now.names.contains_key(path) || state.now.has_dir(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if state.now.names.len() >= state.files_max {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let file = state.next_file;
        state.next_file += 1;
        let path = path.to_owned();
        state.perform(Operation::Create { path, file });
        let disk = self.clone();
        Ok(Arc::new(SimFile { disk, file }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.need_writable()?;
        state.now.lookup(from)?;
        state.need_dir(parent(to))?;
        let (from, to) = (from.to_owned(), to.to_owned());
        state.perform(Operation::Rename { from, to });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.need_writable()?;
        state.now.lookup(path)?;
        let path = path.to_owned();
        state.perform(Operation::Remove { path });
        Ok(())
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        let missing: Vec<PathBuf> = path
            .ancestors()
            .filter(|dir| !state.now.has_dir(dir))
            .map(Path::to_owned)
            .collect();
        if !missing.is_empty() {
            state.need_writable()?;
        }
        for path in missing.into_iter().rev() {
            state.perform(Operation::CreateDir { path });
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let state = self.lock();
        state.need_dir(dir)?;
        let within = state
            .now
            .names
            .iter()
            .filter(|(path, _)| parent(path) == dir);
        Ok(within
            .filter_map(|(path, file)| {
                let name = path.file_name()?.to_str()?.to_owned();
                let len = state.file_len(*file);
                Some(DirEntry { name, len })
            })
            .collect())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.need_dir(dir)?;
        if state.handles == 0 {
            return Err(rustix::io::Errno::MFILE.into());
        }
        state.handles -= 1;
        let fault = count_down(&mut state.sync_fails_in);
        let (dir, failed) = (dir.to_owned(), fault.is_err());
        state.perform(Operation::SyncDir { dir, failed });
        fault
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(self.lock().free())
    }

    fn free_files(&self) -> io::Result<u64> {
        let state = self.lock();
        Ok(state.files_max.saturating_sub(state.now.names.len()) as u64)
    }
}

struct SimFile {
    disk: SimDisk,
    file: Inode,
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.disk.lock();
        let content = state.now.files.get(&self.file);
        let readable = state.unreadable.get(&self.file);
        if readable.is_some_and(|end| offset + buffer.len() as u64 > *end) {
            return Err(Errno::IO.into());
        }
        let rest = content
            .and_then(|content| content.get(offset as usize..))
            .unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.disk.lock().write(self.file, offset, data.to_vec())
    }

    fn write_parts_at(&self, parts: &[io::IoSlice<'_>], offset: u64) -> io::Result<()> {
        let data = parts.iter().flat_map(|part| part.iter().copied()).collect();
        self.disk.lock().write(self.file, offset, data)
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.lock();
        let fault = count_down(&mut state.sync_fails_in);
        let (file, failed) = (self.file, fault.is_err());
        state.perform(Operation::Sync { file, failed });
        fault
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.lock();
        let len = len.max(state.file_len(self.file));
        state.set_len(self.file, len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.lock().set_len(self.file, len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.lock().file_len(self.file))
    }
}
