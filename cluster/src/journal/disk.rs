//! A folder of files, as little of it as Weir needs.
//!
//! Everything that must survive a crash is written through [`Disk`], so that
//! the same code runs on the real disk ([`RealDisk`]) and, in tests, on one
//! kept in memory that records every operation and can be cut off after any of
//! them. Calls block; callers keep them off the async threads.
//!
//! What a crash leaves is what POSIX promises and no more:
//!
//! - bytes written to a file are there only after [`DiskFile::sync`];
//! - a file that was created, renamed or removed is so only after
//!   [`Disk::sync_dir`] of the folder it is in (and of each folder it moved between);
//! - after a failed sync nothing may be assumed about the file, and the sync
//!   may not be tried again (the kernel forgets the lost pages).
//!
//! Paths are relative to the root of the disk.

use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::FileExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{Advice, AtFlags, Dir, FileType, Mode, OFlags},
    io::Errno,
};

/// A folder of files.
pub trait Disk: Send + Sync + 'static {
    /// Opens an existing file to read and write it.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Creates a file, which must not exist yet.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Gives a file a new name, replacing the file that had it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Creates a folder and those above it that are missing; fine if it exists.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// The files in a folder (no folders), in no order. A missing folder is
    /// [`io::ErrorKind::NotFound`].
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>>;

    /// Makes creations, renames and removals in a folder durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Bytes that may still be written to the underlying volume.
    fn free_bytes(&self) -> io::Result<u64>;

    /// Files that may still be created on the underlying volume, whatever room
    /// there is for their bytes; [`u64::MAX`] where it sets no limit.
    fn free_files(&self) -> io::Result<u64>;

    /// Gives up a part of room that was kept back for when the volume is full;
    /// whether there was any.
    fn give_up_reserve(&self) -> bool {
        false
    }

    /// Fails if the path of the root leads elsewhere than it did at first: its
    /// volume was unmounted, or the folder moved or removed.
    fn check_root(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether an operation failed for want of room on the volume, or of what a
/// process may have. Nothing is wrong with the volume then, and the same may
/// succeed later.
#[must_use]
pub fn is_shortage(error: &io::Error) -> bool {
    is_full(error) || is_about_the_process(error)
}

/// Whether the volume has no room, for bytes or for files.
#[must_use]
pub fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// Whether the process, or the machine, may open no more files or take no more
/// memory, which says nothing about the volume.
#[must_use]
pub fn is_about_the_process(error: &io::Error) -> bool {
    may_open_no_more(error) || error.kind() == io::ErrorKind::OutOfMemory
}

/// Whether the process, or the machine, may open no more files. No sync fails
/// so, only what opens a file, which is then as if nobody had tried.
#[must_use]
pub fn may_open_no_more(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// A name in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    pub name: String,
    pub len: u64,
}

/// An open file. Reads and writes say where; there is no cursor.
pub trait DiskFile: Send + Sync + 'static {
    /// Reads up to `buffer.len()` bytes; fewer only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `data`, growing the file if need be.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;

    /// Writes the parts one after another from `offset`, in as few calls as can be.
    fn write_parts_at(&self, parts: &[io::IoSlice<'_>], offset: u64) -> io::Result<()>;

    /// Makes everything written to this file durable (fdatasync).
    fn sync(&self) -> io::Result<()>;

    /// Reserves space for the first `len` bytes and makes the file that long,
    /// zeros where nothing was written.
    fn allocate(&self, len: u64) -> io::Result<()>;

    /// Cuts the file off, or extends it with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;

    fn len(&self) -> io::Result<u64>;

    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Has the next read of these bytes come from the disk, if it can be had,
    /// and not from what the kernel keeps in memory.
    fn uncache(&self, _offset: u64, _len: u64) {}
}

/// Reads exactly `len` bytes, or fails with [`io::ErrorKind::UnexpectedEof`].
pub fn read_exact_at(file: &dyn DiskFile, len: usize, offset: u64) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; len];
    if file.read_at(&mut buffer, offset)? < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(buffer)
}

/// Replaces a small file as a whole: after a crash it has the old or the new
/// content, never a mixture.
pub fn replace_file(disk: &dyn Disk, path: &Path, content: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new(""));
    let mut temp = path.as_os_str().to_owned();
    temp.push(".tmp");
    let temp = PathBuf::from(temp);
    match disk.remove(&temp) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.create(&temp)?;
    file.write_at(content, 0)?;
    file.sync()?;
    disk.rename(&temp, path)?;
    disk.sync_dir(dir)
}

/// A folder of the machine's file system.
///
/// It is opened once and all else is done relative to it. The tempting
/// alternative, to join paths to that of the root, writes to whatever lies
/// below the mount point once the volume is unmounted.
pub struct RealDisk {
    root: PathBuf,
    folder: Result<OwnedFd, Errno>,
}

impl RealDisk {
    /// Uses a folder that exists; if it does not, every call fails.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(&root, flags, Mode::empty());
        Self { root, folder }
    }

    fn folder(&self) -> io::Result<&OwnedFd> {
        self.folder.as_ref().map_err(|errno| (*errno).into())
    }

    fn open_at(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let path = match path == Path::new("") {
            true => Path::new("."),
            false => path,
        };
        let flags = flags | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o666);
        let opened = rustix::io::retry_on_intr(|| {
            rustix::fs::openat(
                self.folder.as_ref().map_err(|errno| *errno)?,
                path,
                flags,
                mode,
            )
        });
        Ok(opened?)
    }
}

impl Disk for RealDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.open_at(path, OFlags::RDWR)?;
        Ok(Arc::new(RealFile(file.into())))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.open_at(path, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)?;
        Ok(Arc::new(RealFile(file.into())))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let folder = self.folder()?;
        Ok(rustix::fs::renameat(folder, from, folder, to)?)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(
            self.folder()?,
            path,
            AtFlags::empty(),
        )?)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let folder = self.folder()?;
        let mut dirs: Vec<&Path> = path.ancestors().collect();
        // The last one is the root itself.
        dirs.pop();
        for dir in dirs.into_iter().rev() {
            match rustix::fs::mkdirat(folder, dir, Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let folder = self.open_at(dir, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut entries = Vec::new();
        for entry in Dir::read_from(&folder)? {
            let entry = entry?;
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            let stat = match rustix::fs::statat(&folder, entry.file_name(), flags) {
                // Removed since.
                Err(Errno::NOENT) => continue,
                other => other?,
            };
            let is_file = FileType::from_raw_mode(stat.st_mode).is_file();
            // A name that is not UTF-8 is none of ours.
            if let (true, Ok(name)) = (is_file, entry.file_name().to_str()) {
                entries.push(DirEntry {
                    name: name.to_owned(),
                    len: u64::try_from(stat.st_size).unwrap_or(0),
                });
            }
        }
        Ok(entries)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let folder = self.open_at(dir, OFlags::RDONLY | OFlags::DIRECTORY)?;
        Ok(rustix::fs::fsync(folder)?)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::fstatvfs(self.folder()?)?;
        Ok(stat.f_bavail * stat.f_frsize)
    }

    fn free_files(&self) -> io::Result<u64> {
        let stat = rustix::fs::fstatvfs(self.folder()?)?;
        // File systems that make inodes as they are needed know of none.
        Ok(match stat.f_files {
            0 => u64::MAX,
            _ => stat.f_favail,
        })
    }

    fn check_root(&self) -> io::Result<()> {
        let opened = rustix::fs::fstat(self.folder()?)?;
        let there = rustix::fs::stat(&self.root)?;
        match (opened.st_dev, opened.st_ino) == (there.st_dev, there.st_ino) {
            true => Ok(()),
            false => Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("{} is another folder now", self.root.display()),
            )),
        }
    }
}

struct RealFile(fs::File);

impl DiskFile for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.0.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }

    fn write_parts_at(&self, parts: &[io::IoSlice<'_>], mut offset: u64) -> io::Result<()> {
        // The kernel takes at most 1,024 parts a call (UIO_MAXIOV).
        for group in parts.chunks(1024) {
            let total: usize = group.iter().map(|part| part.len()).sum();
            let mut written =
                rustix::io::retry_on_intr(|| rustix::io::pwritev(&self.0, group, offset))?;
            if written < total {
                // A short write: finish part by part.
                let mut at = offset + written as u64;
                for part in group {
                    if written >= part.len() {
                        written -= part.len();
                        continue;
                    }
                    let rest = &part[written..];
                    self.0.write_all_at(rest, at)?;
                    at += rest.len() as u64;
                    written = 0;
                }
            }
            offset += total as u64;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        rustix::fs::fallocate(&self.0, rustix::fs::FallocateFlags::empty(), 0, len)?;
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn uncache(&self, offset: u64, len: u64) {
        // Only advice: where it cannot be followed the read is as good as any.
        let len = std::num::NonZeroU64::new(len);
        let _ = rustix::fs::fadvise(&self.0, offset, len, Advice::DontNeed);
    }
}
