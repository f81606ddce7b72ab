//! What can happen to the disk below a volume, where it has one that fails.

use std::{fs::File, ops::Range, path::Path};

use anyhow::{Context, Result};
use rustix::fs::{Advice, fadvise};

use super::{Volume, text};
use crate::rig::{
    faultdisk::{Access, Failure, FaultDisk, Keep, Order, Slow, Told},
    ioctl,
};

/// What places on a disk are counted in.
const SECTOR_BYTES: u64 = 512;

impl Volume {
    fn disk(&self) -> Result<&FaultDisk> {
        let name = self.mount.display();
        self.disk
            .as_ref()
            .with_context(|| format!("{name} is on no disk that fails"))
    }

    /// As [`cut`](Self::cut), but of what was not synced a part is left.
    pub fn cut_keeping(&self, keep: Keep, seed: u64) -> Result<Told> {
        self.insist_mounted()?;
        let told = self.disk()?.order(&Order::Cut { keep, seed })?;
        // Nothing is answered from memory either.
        ioctl::going_down(&self.outside())?;
        Ok(told)
    }

    /// The disk refuses what these say, until [`lift`](Self::lift).
    pub fn fail(&self, failures: &[Failure]) -> Result<()> {
        let disk = self.disk()?;
        for failure in failures {
            if failure.access != Access::Read {
                self.is_aborted.set(true);
            }
            disk.order(&Order::Fail(failure.clone()))?;
        }
        Ok(())
    }

    /// The disk is this slow, until [`lift`](Self::lift).
    pub fn slow(&self, slow: Slow) -> Result<()> {
        self.disk()?.order(&Order::Slow(slow)).map(drop)
    }

    /// Failures and delays of the disk end. A file system that met one of a
    /// write has to be mounted anew.
    pub fn lift(&self) -> Result<()> {
        self.disk()?.order(&Order::Lift).map(drop)
    }

    /// What the disk was asked so far.
    pub fn told(&self) -> Result<Told> {
        self.disk()?.order(&Order::Ask)
    }

    /// Where the bytes of a file are on the disk, in their order. Parts that
    /// were never written are left out unless `reserved`.
    pub fn extents(&self, path: &Path, reserved: bool) -> Result<Vec<Range<u64>>> {
        self.insist_mounted()?;
        let path = self.mount.join(path);
        let unit = format!("-b{SECTOR_BYTES}");
        let words = ["-s", "-v", &unit, text(&path)?];
        extents(&self.room.command("filefrag", &words)?, reserved)
    }

    /// Has the next read of a file come from the disk, as far as it is not
    /// being written.
    pub fn uncache(&self, path: &Path) -> Result<()> {
        self.insist_mounted()?;
        let file = File::open(self.outside().join(path))?;
        Ok(fadvise(&file, 0, None, Advice::DontNeed)?)
    }

    /// Inverts one byte of a file on the disk, which no file system notices.
    pub fn flip_on_disk(&self, path: &Path, offset: u64) -> Result<()> {
        let mut before = 0;
        for extent in self.extents(path, false)? {
            let length = extent.end - extent.start;
            if offset < before + length {
                let offset = extent.start + offset - before;
                self.disk()?.order(&Order::Flip { offset })?;
                return self.uncache(path);
            }
            before += length;
        }
        anyhow::bail!("{} has no byte {offset} on the disk", path.display())
    }
}

/// Reads what `filefrag -v` prints.
fn extents(printed: &str, reserved: bool) -> Result<Vec<Range<u64>>> {
    let mut found = Vec::new();
    for line in printed.lines() {
        let parts: Vec<&str> = line.split(':').map(str::trim).collect();
        // Number, place in the file, place on the disk, length, rest.
        let [number, _, place, length, rest @ ..] = parts.as_slice() else {
            continue;
        };
        if number.parse::<u32>().is_err() {
            continue;
        }
        let flags = rest.last().copied().unwrap_or_default();
        if flags.contains("unknown") || flags.contains("unwritten") && !reserved {
            continue;
        }
        let odd = || format!("filefrag printed {line:?}");
        let (start, _) = place.split_once("..").with_context(odd)?;
        let start: u64 = start.trim().parse().with_context(odd)?;
        let length: u64 = length.parse().with_context(odd)?;
        found.push(start * SECTOR_BYTES..(start + length) * SECTOR_BYTES);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_are_read_from_what_filefrag_prints() {
        let printed = "\
Filesystem type is: ef53
File size of v/x is 12288 (24 blocks of 512 bytes)
 ext:     logical_offset:        physical_offset: length:   expected: flags:
   0:        0..       7:       8192..      8199:      8:
   1:        8..      15:       9000..      9007:      8:       8200: unwritten
   2:       16..      23:          0..         7:      8:       9008: last,unknown_loc,delalloc,eof
v/x: 3 extents found
";
        let written = extents(printed, false).unwrap();
        assert_eq!((written.len(), &written[0]), (1, &(8192 * 512..8200 * 512)));
        assert_eq!(extents(printed, true).unwrap().len(), 2);
        assert!(extents("", true).unwrap().is_empty());
        assert!(extents("   0:  0..7:  here:  8:  last\n", true).is_err());
    }
}
