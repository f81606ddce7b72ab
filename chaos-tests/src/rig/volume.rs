//! A node's disk: an ext4 file system in a file, with what can happen to one.

mod disk;
mod files;

use std::{
    cell::Cell,
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};

use super::{
    faultdisk::{FaultDisk, Order},
    ioctl,
    room::Room,
};
use crate::wait::until;

/// From the end of a process until the kernel lets go of its files.
const RELEASE_LIMIT: Duration = Duration::from_secs(20);

/// What lies between a file system and its file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backing {
    /// Nothing.
    #[default]
    File,
    /// A disk that fails as ordered, which costs speed: see
    /// [`faultdisk`](super::faultdisk).
    FaultDisk,
}

/// What a volume is made with.
#[derive(Clone, Copy, Debug)]
pub struct VolumeSpec {
    /// Size of the file system.
    pub bytes: u64,
    /// How many files it can have.
    pub inodes: u64,
    /// What it lies on.
    pub backing: Backing,
}

impl Default for VolumeSpec {
    fn default() -> VolumeSpec {
        VolumeSpec {
            bytes: 512 << 20,
            inodes: 16_384,
            backing: Backing::File,
        }
    }
}

/// An ext4 file system in a file, mounted where only the rooms of its world
/// see it. Unmounted when dropped, whoever uses it.
pub struct Volume {
    room: Arc<Room>,
    image: PathBuf,
    mount: PathBuf,
    spec: VolumeSpec,
    disk: Option<FaultDisk>,
    is_mounted: bool,
    /// Takes no writes since an error; see [`Volume::read_only`].
    is_aborted: Cell<bool>,
}

impl Volume {
    /// Makes and mounts a new volume: `NAME.image` in `dir`, at `NAME`.
    pub fn create(room: Arc<Room>, dir: &Path, name: &str, spec: VolumeSpec) -> Result<Volume> {
        let mount = dir.join(name);
        fs::create_dir(&mount)?;
        let mut volume = Volume {
            room,
            image: dir.join(format!("{name}.image")),
            mount,
            spec,
            disk: None,
            is_mounted: false,
            is_aborted: false.into(),
        };
        volume.format()?;
        if spec.backing == Backing::FaultDisk {
            let room = volume.room.clone();
            volume.disk = Some(FaultDisk::start(room, dir, name)?);
        }
        volume.mount()?;
        Ok(volume)
    }

    /// Where the rooms of the world see it.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Where this process sees it, while it is mounted.
    pub fn outside(&self) -> PathBuf {
        self.room.outside(&self.mount)
    }

    /// Whether it is mounted and takes writes, as far as this handle knows.
    pub fn is_well(&self) -> bool {
        self.is_mounted && !self.is_aborted.get()
    }

    /// Mounts it; recovery replays its journal.
    pub fn mount(&mut self) -> Result<()> {
        ensure!(!self.is_mounted, "{} is mounted", self.mount.display());
        if let Some(disk) = &self.disk {
            disk.order(&Order::Attach)?;
        }
        let device = self.device();
        let words = ["-o", "loop,noatime", text(&device)?, text(&self.mount)?];
        self.room.command("mount", &words)?;
        self.is_mounted = true;
        Ok(())
    }

    /// Unmounts it, and waits until nothing uses the image any more: to mount
    /// it a second time would be to have two disks that share one surface.
    pub fn unmount(&mut self) -> Result<()> {
        let mut last = None;
        if self.is_mounted {
            let target = text(&self.mount)?.to_owned();
            until(format!("{target} to be let go of"), RELEASE_LIMIT, || {
                last = self.room.command("umount", &[&target]).err();
                Ok(last.is_none().then_some(()))
            })
            .map_err(|error| anyhow!("{error}: {last:?}"))?;
            self.is_mounted = false;
        }
        self.wait_released()?;
        if let Some(disk) = &self.disk {
            // Its image is what the tools below look at.
            disk.order(&Order::Settle)?;
        }
        Ok(())
    }

    /// Stops the file system where it is: what was not synced is gone when it
    /// is mounted again, and until then every access fails.
    pub fn cut(&self) -> Result<()> {
        self.insist_mounted()?;
        ioctl::going_down(&self.outside())
    }

    /// Takes the volume away under those who use it; files that are open stay
    /// usable, paths lead to the empty folder below.
    pub fn vanish(&mut self) -> Result<()> {
        self.room
            .command("umount", &["-l", text(&self.mount)?])
            .map(drop)?;
        self.is_mounted = false;
        Ok(())
    }

    /// Turns it read-only, with files open, as after an error of the disk.
    /// Heal with [`unmount`](Self::unmount), [`mend`](Self::mend) and
    /// [`mount`](Self::mount).
    pub fn read_only(&self) -> Result<()> {
        self.is_aborted.set(true);
        self.room
            .command("mount", &["-o", "remount,abort", text(&self.mount)?])
            .map(drop)
    }

    /// Makes the volume larger; it must not be mounted: not every root may
    /// resize a file system in use.
    pub fn grow(&mut self, bytes: u64) -> Result<()> {
        ensure!(bytes >= self.spec.bytes, "a volume does not shrink");
        self.mend()?;
        File::options()
            .write(true)
            .open(&self.image)?
            .set_len(bytes)?;
        self.spec.bytes = bytes;
        self.room
            .command("resize2fs", &[text(&self.image)?])
            .map(drop)
    }

    /// Insists that the file system is whole. It must not be mounted, and must
    /// have been mounted since the last cut: a check does not replay a journal.
    pub fn check(&self) -> Result<()> {
        self.insist_unmounted()?;
        self.room
            .command("fsck.ext4", &["-f", "-n", text(&self.image)?])
            .map(drop)
    }

    /// Repairs the file system; it must not be mounted.
    pub fn mend(&self) -> Result<()> {
        self.insist_unmounted()?;
        // 1 says that something was repaired.
        let script = "fsck.ext4 -f -y \"$0\" >/dev/null || [ $? = 1 ]";
        self.room
            .command("sh", &["-c", script, text(&self.image)?])?;
        self.is_aborted.set(false);
        Ok(())
    }

    /// Makes the file system anew, empty; it must not be mounted.
    pub fn format(&mut self) -> Result<()> {
        self.insist_unmounted()?;
        File::create(&self.image)?.set_len(self.spec.bytes)?;
        self.is_aborted.set(false);
        let inodes = self.spec.inodes.to_string();
        // No blocks are kept for root: everybody is root here.
        let words = ["-q", "-F", "-m", "0", "-N", &inodes];
        let more = ["-E", "lazy_itable_init=1,nodiscard", text(&self.image)?];
        self.room
            .command("mkfs.ext4", &[&words[..], &more].concat())
            .map(drop)
    }

    /// Copies the image; it must not be mounted.
    pub fn copy_to(&self, file: &Path) -> Result<()> {
        self.insist_unmounted()?;
        copy(&self.room, &self.image, file)
    }

    /// Puts a copy back in the image's place; it must not be mounted.
    pub fn restore_from(&self, file: &Path) -> Result<()> {
        self.insist_unmounted()?;
        copy(&self.room, file, &self.image)
    }

    /// Nothing here may ever hit the file system below the mount: that is the
    /// machine's own.
    fn insist_mounted(&self) -> Result<()> {
        let seen = self.outside();
        let parent = seen.parent().context("a mount at the root")?;
        let is_apart = fs::metadata(&seen)?.dev() != fs::metadata(parent)?.dev();
        ensure!(
            self.is_mounted && is_apart,
            "{} is not mounted",
            self.mount.display()
        );
        Ok(())
    }

    fn insist_unmounted(&self) -> Result<()> {
        ensure!(!self.is_mounted, "{} is mounted", self.mount.display());
        Ok(())
    }

    /// What the loop device is put on.
    fn device(&self) -> PathBuf {
        let disk = self.disk.as_ref();
        disk.map_or_else(|| self.image.clone(), FaultDisk::file)
    }

    fn wait_released(&self) -> Result<()> {
        let device = self.device();
        let device = text(&device)?;
        until(format!("{device} to be let go of"), RELEASE_LIMIT, || {
            let users = self
                .room
                .command("losetup", &["-n", "-O", "NAME", "-j", device])?;
            Ok(users.trim().is_empty().then_some(()))
        })
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if self.is_mounted {
            // Lazily, whoever still uses it; else the kernel does it when the
            // last room is closed.
            let _ = self.vanish();
        }
    }
}

fn copy(room: &Room, from: &Path, to: &Path) -> Result<()> {
    room.command("cp", &["--sparse=always", text(from)?, text(to)?])
        .map(drop)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no text")
}
