//! The disk as the one file of a file system, and the program that serves it.
//!
//! A process of its own, not a thread: the kernel gives up the requests of a
//! file system only when the last user of its `/dev/fuse` is gone. A thread of
//! this process that waits for the disk, in a state in which it cannot be
//! killed, would keep that open, and be waited for by itself.

use std::{
    ffi::OsStr,
    io::{self, BufRead, Write},
    path::Path,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyWrite, Request, Session, WriteFlags,
};

use super::disk::{Disk, Order, Told};

/// The name of the file.
pub(super) const NAME: &str = "disk";

/// Nothing is remembered by the kernel: sizes change under it.
const TTL: Duration = Duration::ZERO;

const FILE: INodeNo = INodeNo(2);

/// Serves `image` as a disk at `mount`, obeys the orders that come as lines of
/// JSON, answers each with a line, and ends with its input.
pub fn serve(image: &Path, mount: &Path) -> Result<()> {
    let disk = Arc::new(Disk::open(image).with_context(|| format!("{}", image.display()))?);
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("weir-faultdisk".into())];
    let session = Session::new(OneFile(disk.clone()), mount, &config)?;
    let _serving = session.spawn()?;
    let mut output = io::stdout().lock();
    // The first line says that it is mounted.
    say(&mut output, &disk.obey(&Order::Ask))?;
    for line in io::stdin().lock().lines() {
        let order: Order = serde_json::from_str(&line?)?;
        say(&mut output, &disk.obey(&order))?;
    }
    Ok(())
}

fn say(output: &mut impl Write, told: &io::Result<Told>) -> Result<()> {
    let told = told.as_ref().map_err(ToString::to_string);
    writeln!(output, "{}", serde_json::to_string(&told)?)?;
    Ok(output.flush()?)
}

struct OneFile(Arc<Disk>);

impl OneFile {
    fn attributes(&self, inode: INodeNo) -> Option<FileAttr> {
        let (kind, perm, size) = match inode {
            INodeNo::ROOT => (FileType::Directory, 0o700, 0),
            FILE => (FileType::RegularFile, 0o600, self.0.size()),
            _ => return None,
        };
        Some(FileAttr {
            ino: inode,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

impl Filesystem for OneFile {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let is_there = parent == INodeNo::ROOT && name == NAME;
        match self.attributes(FILE).filter(|_| is_there) {
            Some(found) => reply.entry(&TTL, &found, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(inode) {
            Some(found) => reply.attr(&TTL, &found),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // Past the page cache, which would hide what the disk does.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.0.read(offset, size as usize) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error.into()),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.0.write(offset, data) {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(error.into()),
        }
    }

    // Of a handle that is closed, which has nothing to do with the disk.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        match self.0.sync() {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error.into()),
        }
    }
}
