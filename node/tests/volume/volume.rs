//! A small ext4 volume in a file, to be filled, broken and taken away.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};

use rustix::fs::{FallocateFlags, fallocate};

/// Enough for a node with small segments and what Raft sets aside; sparse.
const VOLUME_BYTES: u64 = 512 << 20;

/// A mounted volume; unmounted when dropped, lazily if it is still in use.
pub(crate) struct Volume {
    pub(crate) mount: PathBuf,
    image: PathBuf,
    /// How often the image had to be copied.
    copies: u32,
    mounted: bool,
}

impl Volume {
    /// Makes and mounts a volume with room for so many files. `None`, and a
    /// line that says why, where that cannot be done.
    pub(crate) fn new(root: &Path, inodes: u32) -> Option<Self> {
        match Self::make(root, inodes) {
            Ok(volume) => Some(volume),
            Err(why) => {
                let _ = writeln!(io::stderr(), "no volume to try this with: {why}");
                None
            }
        }
    }

    fn make(root: &Path, inodes: u32) -> Result<Self, String> {
        let text = |error: io::Error| error.to_string();
        let image = root.join("image");
        let file = fs::File::create(&image).map_err(text)?;
        file.set_len(VOLUME_BYTES).map_err(text)?;
        let mount = root.join("mount");
        fs::create_dir(&mount).map_err(text)?;
        let mut mkfs = Command::new("mkfs.ext4");
        // No blocks set aside for root, which would be us.
        mkfs.args(["-q", "-m", "0", "-N", &inodes.to_string()]);
        run(mkfs.arg(&image))?;
        let mut volume = Self {
            mount,
            image,
            copies: 0,
            mounted: false,
        };
        volume.attach()?;
        Ok(volume)
    }

    fn attach(&mut self) -> Result<(), String> {
        run(Command::new("mount")
            .args(["-o", "loop"])
            .arg(&self.image)
            .arg(&self.mount))?;
        self.mounted = true;
        Ok(())
    }

    /// Stops the file system where it is, without writing its journal out: what
    /// was not synced is gone when it is mounted again.
    pub(crate) fn cut_power(&self) {
        // EXT4_IOC_SHUTDOWN without a flush of the log.
        let script = "open my $dir, '<', $ARGV[0] or die $!;
            my $how = pack 'I', 2;
            ioctl($dir, 0x8004587d, $how) or die $!;";
        run(Command::new("perl").args(["-e", script]).arg(&self.mount)).unwrap();
    }

    /// Unmounts it, and mounts it as a machine does that starts: the journal
    /// is replayed. Nobody may use it.
    pub(crate) fn mount_again(&mut self) {
        run(Command::new("umount").arg(&self.mount)).unwrap();
        self.mounted = false;
        let users = run(Command::new("losetup")
            .args(["-n", "-O", "NAME", "-j"])
            .arg(&self.image))
        .unwrap();
        if !users.trim().is_empty() {
            // A mount namespace that somebody made meanwhile has the old mount
            // still; to mount the image again would give that one, cut off as it
            // is. So the machine starts with a copy of its disk.
            self.copies += 1;
            let copy = self.mount.with_file_name(format!("image-{}", self.copies));
            run(Command::new("cp")
                .arg("--sparse=always")
                .args([&self.image, &copy]))
            .unwrap();
            fs::remove_file(&self.image).unwrap();
            self.image = copy;
        }
        self.attach().unwrap();
    }

    /// Takes all the room that is left; returns the file that has it.
    pub(crate) fn fill(&self) -> PathBuf {
        let path = self.mount.join("filler");
        let file = fs::File::create(&path).unwrap();
        let mut len = 0;
        let mut step = 64 << 20;
        while step >= 4096 {
            match fallocate(&file, FallocateFlags::empty(), len, step) {
                Ok(()) => len += step,
                Err(rustix::io::Errno::NOSPC) => step /= 2,
                Err(error) => panic!("cannot fill the volume: {error}"),
            }
        }
        path
    }

    /// Takes all the files that are left; returns the folder that has them.
    pub(crate) fn fill_inodes(&self) -> PathBuf {
        let dir = self.mount.join("files-of-others");
        fs::create_dir(&dir).unwrap();
        for number in 0.. {
            match fs::File::create(dir.join(number.to_string())) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => return dir,
                Err(error) => panic!("cannot fill the volume: {error}"),
            }
        }
        unreachable!("a volume without end")
    }

    /// What the kernel does on an I/O error in the file system's own journal:
    /// files that are open for writing take no write any more.
    pub(crate) fn turn_read_only(&self) {
        run(Command::new("mount")
            .args(["-o", "remount,abort"])
            .arg(&self.mount))
        .unwrap();
    }

    /// Takes the mount away from under whoever uses it.
    pub(crate) fn vanish(&mut self) {
        run(Command::new("umount").arg("-l").arg(&self.mount)).unwrap();
        self.mounted = false;
        let (here, above) = (
            fs::metadata(&self.mount).unwrap(),
            fs::metadata(self.mount.parent().unwrap()).unwrap(),
        );
        assert_eq!(here.dev(), above.dev(), "it is still mounted");
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if self.mounted {
            let _ = run(Command::new("umount").arg("-l").arg(&self.mount));
        }
    }
}

/// Runs a command, and gives what it printed.
fn run(command: &mut Command) -> Result<String, String> {
    let output = command
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!(
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        )),
    }
}
