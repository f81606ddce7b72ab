//! What can happen to the files on a volume.

use std::{
    fs::{self, File},
    io::ErrorKind,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use rustix::fs::{FallocateFlags, fallocate, statvfs};

use super::Volume;

/// Empty files in one folder for [`Volume::fill_inodes`]; a limit for its
/// loop, far above what volumes are made with.
const INODES_MAX: u64 = 4_000_000;

impl Volume {
    /// Takes all space but `spare` bytes, by a file beside the data.
    pub fn fill(&self, spare: u64) -> Result<()> {
        self.insist_mounted()?;
        let file = File::create(self.outside().join(".ballast"))?;
        let mut offset = file.metadata()?.len();
        let mut step: u64 = 64 << 20;
        loop {
            let free = statvfs(self.outside())?;
            let free = free.f_bavail * free.f_frsize;
            if free <= spare {
                return Ok(());
            }
            let length = step.min(free - spare);
            match fallocate(&file, FallocateFlags::empty(), offset, length) {
                Ok(()) => offset += length,
                // The file system needs some blocks for itself.
                Err(rustix::io::Errno::NOSPC) if step > 4096 => step /= 2,
                Err(rustix::io::Errno::NOSPC) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes all inodes, by empty files beside the data.
    pub fn fill_inodes(&self) -> Result<()> {
        self.insist_mounted()?;
        let dir = self.outside().join(".inodes");
        fs::create_dir_all(&dir)?;
        for number in 0..INODES_MAX {
            match File::create(dir.join(number.to_string())) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        bail!("{} does not run out of inodes", self.mount.display())
    }

    /// Gives back what [`fill`](Self::fill) and
    /// [`fill_inodes`](Self::fill_inodes) took.
    pub fn relieve(&self) -> Result<()> {
        self.insist_mounted()?;
        for name in [".ballast", ".inodes"] {
            let path = self.outside().join(name);
            let removed = match path.is_dir() {
                true => fs::remove_dir_all(&path),
                false => fs::remove_file(&path),
            };
            match removed {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }

    /// Inverts `count` bytes of a file at `offset`. Paths are relative to the
    /// volume.
    pub fn flip(&self, path: &Path, offset: u64, count: usize) -> Result<()> {
        self.insist_mounted()?;
        let path = self.outside().join(path);
        let file = File::options().read(true).write(true).open(&path)?;
        let mut bytes = vec![0; count];
        file.read_exact_at(&mut bytes, offset)
            .with_context(|| format!("{count} bytes at {offset} of {}", path.display()))?;
        for byte in &mut bytes {
            *byte = !*byte;
        }
        file.write_all_at(&bytes, offset)?;
        Ok(file.sync_all()?)
    }

    /// Writes over bytes of a file at `offset`, or behind its end.
    pub fn overwrite(&self, path: &Path, offset: u64, bytes: &[u8]) -> Result<()> {
        self.insist_mounted()?;
        let path = self.outside().join(path);
        let file = File::options().write(true).open(path)?;
        file.write_all_at(bytes, offset)?;
        Ok(file.sync_all()?)
    }

    /// Cuts a file to `length`.
    pub fn truncate(&self, path: &Path, length: u64) -> Result<()> {
        self.insist_mounted()?;
        let file = File::options()
            .write(true)
            .open(self.outside().join(path))?;
        file.set_len(length)?;
        Ok(file.sync_all()?)
    }

    /// The files below a folder of the volume with their sizes, in the order
    /// of their names; paths are relative to the volume.
    pub fn files(&self, below: &Path) -> Result<Vec<(PathBuf, u64)>> {
        let root = self.outside();
        let mut found = Vec::new();
        let mut open = vec![root.join(below)];
        while let Some(dir) = open.pop() {
            for entry in fs::read_dir(&dir).with_context(|| format!("{}", dir.display()))? {
                let entry = entry?;
                let data = entry.metadata()?;
                if data.is_dir() {
                    open.push(entry.path());
                } else {
                    found.push((entry.path().strip_prefix(&root)?.to_owned(), data.len()));
                }
            }
        }
        found.sort();
        Ok(found)
    }
}
