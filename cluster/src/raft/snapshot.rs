//! Snapshots: the applied state as one checksummed file.
//!
//! ```text
//!   "WEIRSNAP" version:u32
//!   frame(Head)                 position, cluster state, recent requests
//!   frame(Vec<(RefKey, Ref)>)   refs, some thousand a frame, in any order
//!   …
//!   frame([])                   the end: a file without it is torn
//!
//!   frame(x) = len:u32 crc32c:u32 x       integers are little-endian
//! ```
//!
//! Invariants: a snapshot is written under a temporary name, synced, renamed
//! and its folder synced, before anybody is told of it; there is one current
//! snapshot, and the older ones go only after it is durable.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    rows::{Position, RecentBatch},
    types::{LogId, SnapshotFile},
    wire::{self, Wire},
};
use crate::{
    journal::disk::{Disk, DiskFile, read_exact_at},
    outside,
    planted::{self, Bug},
    state::{ClusterState, Ref, RefKey},
};

const MAGIC: &[u8; 8] = b"WEIRSNAP";
const VERSION: u32 = 1;
const PREFIX_BYTES: u64 = 12;

/// Refs in one frame: a few hundred KiB.
const REFS_PER_FRAME: usize = 2_048;

/// Largest frame that is read: the head of a cluster of a thousand nodes with
/// all its recent requests is a tenth of it.
const FRAME_LIMIT_BYTES: u32 = 64 << 20;

/// What a snapshot holds beside refs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Head {
    pub(super) position: Position,
    pub(super) state: ClusterState,
    pub(super) recent: Vec<RecentBatch>,
}

/// The folder of snapshots.
#[derive(Clone)]
pub(super) struct Snapshots {
    disk: Arc<dyn Disk>,
}

/// Writes one snapshot file.
pub(super) struct Writer {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    offset: u64,
    refs: Vec<(RefKey, Ref)>,
}

/// Reads one snapshot file, checking as it goes.
pub(super) struct Reader {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    offset: u64,
    frame: std::vec::IntoIter<(RefKey, Ref)>,
    ended: bool,
}

impl Snapshots {
    const DIR: &str = "snapshots";

    /// The disk that holds them, which is that of all of Raft.
    pub(super) fn disk(&self) -> &dyn Disk {
        &*self.disk
    }

    /// Opens the folder; removes what unfinished writes left.
    pub(super) fn open(disk: Arc<dyn Disk>) -> io::Result<Self> {
        let dir = Path::new(Self::DIR);
        disk.create_dir(dir)?;
        for entry in disk.list(dir)? {
            if !entry.name.ends_with(".snapshot") {
                disk.remove(&dir.join(entry.name))?;
            }
        }
        disk.sync_dir(Path::new(""))?;
        Ok(Self { disk })
    }

    /// The newest snapshot that can be read.
    pub(super) fn newest(&self) -> io::Result<Option<(SnapshotFile, Head)>> {
        let mut names: Vec<_> = self.names()?;
        while let Some(entry) = names.pop() {
            let path = Path::new(Self::DIR).join(&entry.name);
            match Reader::open(&*self.disk, &path) {
                Ok((head, _)) => {
                    let len = entry.len;
                    return Ok(Some((SnapshotFile { path, len }, head)));
                }
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "snapshot cannot be read");
                }
            }
        }
        Ok(None)
    }

    /// Whether there is a file, readable or not.
    pub(super) fn is_there_any(&self) -> io::Result<bool> {
        Ok(!self.names()?.is_empty())
    }

    /// In order of age.
    fn names(&self) -> io::Result<Vec<crate::journal::disk::DirEntry>> {
        let mut names = self.disk.list(Path::new(Self::DIR))?;
        names.retain(|entry| entry.name.ends_with(".snapshot"));
        names.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(names)
    }

    pub(super) fn read(&self, file: &SnapshotFile) -> io::Result<(Head, Reader)> {
        Reader::open(&*self.disk, &file.path)
    }

    /// Reads a snapshot from end to end: it is whole, and as of `last`.
    pub(super) fn verify(&self, file: &SnapshotFile, last: Option<LogId>) -> io::Result<Head> {
        let (head, mut refs) = self.read(file)?;
        if head.position.last != last {
            return Err(damaged("it is not the one that was announced"));
        }
        if !planted::is(Bug::TornSnapshotTaken) {
            refs.try_for_each(|row| row.map(drop))?;
        }
        Ok(head)
    }

    /// Begins a snapshot of this node's own.
    pub(super) fn write(&self, head: &Head) -> io::Result<Writer> {
        let mut writer = Writer {
            offset: PREFIX_BYTES,
            refs: Vec::new(),
            ..self.temporary()?
        };
        writer.file.write_at(MAGIC, 0)?;
        writer.file.write_at(&VERSION.to_le_bytes(), 8)?;
        writer.frame(&wire::encode(head))?;
        Ok(writer)
    }

    /// Begins a file for a snapshot that comes from another node.
    pub(super) fn temporary(&self) -> io::Result<Writer> {
        let name = format!("{:016x}.temporary", outside::random::<u64>());
        let path = Path::new(Self::DIR).join(name);
        Ok(Writer {
            file: self.disk.create(&path)?,
            path,
            offset: 0,
            refs: Vec::new(),
        })
    }

    /// Makes a finished file the current snapshot and removes the others.
    pub(super) fn publish(
        &self,
        position: &Position,
        file: SnapshotFile,
    ) -> io::Result<SnapshotFile> {
        let (term, index) = position
            .last
            .map_or((0, 0), |last| (last.leader_id.term, last.index));
        let dir = Path::new(Self::DIR);
        let name = format!("{index:016x}-{term:016x}.snapshot");
        let path = dir.join(&name);
        self.disk.rename(&file.path, &path)?;
        self.disk.sync_dir(dir)?;
        for entry in self.names()? {
            if entry.name < name {
                self.disk.remove(&dir.join(entry.name))?;
            }
        }
        Ok(SnapshotFile { path, ..file })
    }

    /// Removes a file that will not become a snapshot.
    pub(super) fn discard(&self, path: &Path) {
        if let Err(error) = self.disk.remove(path) {
            tracing::debug!(path = %path.display(), %error, "temporary snapshot stays until the next start");
        }
    }

    /// The bytes of a snapshot file, to send them.
    pub(super) fn open_file(&self, file: &SnapshotFile) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open(&file.path)
    }
}

impl Writer {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Adds a ref.
    pub(super) fn push(&mut self, key: RefKey, row: Ref) -> io::Result<()> {
        self.refs.push((key, row));
        if self.refs.len() >= REFS_PER_FRAME {
            self.flush_refs()?;
        }
        Ok(())
    }

    /// Adds bytes that are a part of a file already.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(bytes, self.offset)?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    /// Ends a snapshot of this node's own.
    pub(super) fn finish(mut self) -> io::Result<SnapshotFile> {
        if !self.refs.is_empty() {
            self.flush_refs()?;
        }
        self.frame(&[])?;
        self.close()
    }

    /// Makes the file durable as it is.
    pub(super) fn close(self) -> io::Result<SnapshotFile> {
        self.file.sync()?;
        Ok(SnapshotFile {
            path: self.path,
            len: self.offset,
        })
    }

    fn flush_refs(&mut self) -> io::Result<()> {
        let content = wire::encode(&std::mem::take(&mut self.refs));
        self.frame(&content)
    }

    fn frame(&mut self, content: &[u8]) -> io::Result<()> {
        let len = u32::try_from(content.len()).ok();
        let len = len.filter(|len| *len <= FRAME_LIMIT_BYTES);
        let len = len.ok_or_else(|| damaged("frame is too long"))?;
        let mut frame = Vec::with_capacity(content.len() + 8);
        frame.extend_from_slice(&len.to_le_bytes());
        frame.extend_from_slice(&crc32c::crc32c(content).to_le_bytes());
        frame.extend_from_slice(content);
        self.append(&frame)
    }
}

impl Reader {
    fn open(disk: &dyn Disk, path: &Path) -> io::Result<(Head, Self)> {
        let file = disk.open(path)?;
        let prefix = read_exact_at(&*file, PREFIX_BYTES as usize, 0)?;
        if prefix[..8] != *MAGIC {
            return Err(damaged("not a snapshot"));
        }
        if prefix[8..] != VERSION.to_le_bytes() {
            return Err(damaged("snapshot of another version"));
        }
        let mut reader = Self {
            file,
            path: path.to_owned(),
            offset: PREFIX_BYTES,
            frame: Vec::new().into_iter(),
            ended: false,
        };
        let head = reader.frame()?.ok_or_else(|| damaged("no head"))?;
        Ok((decode(&head)?, reader))
    }

    /// The next frame's content; none at the end. An error says where it is.
    fn frame(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.read_frame().map_err(|error| {
            let (path, offset) = (self.path.display(), self.offset);
            io::Error::new(error.kind(), format!("{path} at offset {offset}: {error}"))
        })
    }

    fn read_frame(&mut self) -> io::Result<Option<Vec<u8>>> {
        let head = read_exact_at(&*self.file, 8, self.offset)?;
        let (len, crc) = head.split_at(4);
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |n, b| n << 8 | u32::from(*b));
        let (len, crc) = (number(len), number(crc));
        if len > FRAME_LIMIT_BYTES {
            return Err(damaged("frame is too long"));
        }
        let content = read_exact_at(&*self.file, len as usize, self.offset + 8)?;
        if crc32c::crc32c(&content) != crc {
            return Err(damaged("checksum does not match"));
        }
        self.offset += 8 + u64::from(len);
        Ok((len > 0).then_some(content))
    }
}

impl Iterator for Reader {
    type Item = io::Result<(RefKey, Ref)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(row) = self.frame.next() {
                return Some(Ok(row));
            }
            if self.ended {
                return None;
            }
            let frame = self.frame().and_then(|frame| match frame {
                Some(content) => Ok(Some(decode::<Vec<(RefKey, Ref)>>(&content)?)),
                None => Ok(None),
            });
            match frame {
                Ok(Some(refs)) => self.frame = refs.into_iter(),
                Ok(None) => self.ended = true,
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error));
                }
            }
        }
    }
}

fn decode<T: Wire>(bytes: &[u8]) -> io::Result<T> {
    wire::decode(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
