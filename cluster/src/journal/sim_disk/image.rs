//! What is on a disk, the operations that change it, and what a power cut
//! leaves of them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rand::{Rng, SeedableRng, rngs::StdRng};

/// The unit that a disk writes whole or not at all.
const SECTOR: u64 = 512;

/// What a power cut leaves of that which was not synced.
///
/// What was synced is always left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    Nothing,
    /// All but what was lost to a failed sync.
    Everything,
    /// Of each unsynced write nothing, all, or some of its sectors, and of the
    /// unsynced changes of names the first few; drawn from this seed.
    Sampled(u64),
}

/// Names a file whatever its path is.
pub(super) type Inode = u64;

/// A change of the disk, or a sync.
#[derive(Clone)]
pub(super) enum Operation {
    Write {
        file: Inode,
        offset: u64,
        data: Arc<[u8]>,
    },
    SetLen {
        file: Inode,
        len: u64,
    },
    Sync {
        file: Inode,
        failed: bool,
    },
    Create {
        path: PathBuf,
        file: Inode,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Remove {
        path: PathBuf,
    },
    CreateDir {
        path: PathBuf,
    },
    SyncDir {
        dir: PathBuf,
        failed: bool,
    },
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failed = |failed: &bool| if *failed { " (failed)" } else { "" };
        match self {
            Self::Write { file, offset, data } => {
                write!(f, "write file {file} at {offset}, {} bytes", data.len())
            }
            Self::SetLen { file, len } => write!(f, "set length of file {file} to {len}"),
            Self::Sync { file, failed: bad } => write!(f, "sync file {file}{}", failed(bad)),
            Self::Create { path, file } => write!(f, "create {} as file {file}", path.display()),
            Self::Rename { from, to } => {
                write!(f, "rename {} to {}", from.display(), to.display())
            }
            Self::Remove { path } => write!(f, "remove {}", path.display()),
            Self::CreateDir { path } => write!(f, "create folder {}", path.display()),
            Self::SyncDir { dir, failed: bad } => {
                write!(
                    f,
                    "sync folder {:?}{}",
                    dir.display().to_string(),
                    failed(bad)
                )
            }
        }
    }
}

/// The folder that holds a path; the root for a plain name.
pub(super) fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

/// Everything on a disk at one moment.
#[derive(Clone, Default)]
pub(super) struct Image {
    pub(super) names: BTreeMap<PathBuf, Inode>,
    /// All folders but the root, which is always there.
    pub(super) dirs: BTreeSet<PathBuf>,
    /// Content of files, also of those that lost their name while open.
    pub(super) files: BTreeMap<Inode, Vec<u8>>,
}

impl Image {
    /// Bytes taken by files that have a name.
    pub(super) fn used(&self) -> u64 {
        let lens = self.names.values().filter_map(|file| self.files.get(file));
        lens.map(|content| content.len() as u64).sum()
    }

    pub(super) fn has_dir(&self, dir: &Path) -> bool {
        dir == Path::new("") || self.dirs.contains(dir)
    }

    pub(super) fn lookup(&self, path: &Path) -> io::Result<Inode> {
        let found = self.names.get(path).copied();
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Write { file, offset, data } => self.write(*file, *offset, data),
            Operation::SetLen { file, len } => {
                let content = self.files.entry(*file).or_default();
                content.resize(*len as usize, 0);
            }
            Operation::Create { path, file } => {
                self.names.insert(path.clone(), *file);
                self.files.entry(*file).or_default();
            }
            Operation::Rename { from, to } => {
                if let Some(file) = self.names.remove(from) {
                    self.names.insert(to.clone(), file);
                }
            }
            Operation::Remove { path } => {
                self.names.remove(path);
            }
            Operation::CreateDir { path } => {
                self.dirs.insert(path.clone());
            }
            Operation::Sync { .. } | Operation::SyncDir { .. } => {}
        }
    }

    fn write(&mut self, file: Inode, offset: u64, data: &[u8]) {
        let content = self.files.entry(file).or_default();
        let (start, end) = (offset as usize, offset as usize + data.len());
        if content.len() < end {
            content.resize(end, 0);
        }
        content[start..end].copy_from_slice(data);
    }

    /// Writes some of the sectors that a write touches.
    fn write_torn(&mut self, file: Inode, offset: u64, data: &[u8], rng: &mut StdRng) {
        let mut at = offset;
        let end = offset + data.len() as u64;
        while at < end {
            let next = ((at / SECTOR + 1) * SECTOR).min(end);
            if rng.random() {
                let sector = &data[(at - offset) as usize..(next - offset) as usize];
                self.write(file, at, sector);
            }
            at = next;
        }
    }
}

/// How sure it is that an operation is on the platter.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Synced,
    Unsynced,
    /// A sync of it failed, so no later one makes it safe.
    Lost,
}

/// What a power cut after `operations` may leave on a disk that began as `base`.
pub(super) fn after_power_cut(base: &Image, operations: &[Operation], keep: Keep) -> Image {
    let mut rng = StdRng::seed_from_u64(match keep {
        Keep::Sampled(seed) => seed,
        Keep::Nothing | Keep::Everything => 0,
    });
    let fates = fates(operations);
    let unsynced_names = operations.iter().zip(&fates);
    let unsynced_names = unsynced_names
        .filter(|(operation, fate)| is_about_names(operation) && **fate == Fate::Unsynced)
        .count();
    let mut names_left = match keep {
        Keep::Nothing => 0,
        Keep::Everything => unsynced_names,
        Keep::Sampled(_) => rng.random_range(0..=unsynced_names),
    };
    let mut image = base.clone();
    for (operation, fate) in operations.iter().zip(fates) {
        if fate == Fate::Synced {
            image.apply(operation);
        } else if is_about_names(operation) {
            if names_left > 0 && fate == Fate::Unsynced {
                names_left -= 1;
                image.apply(operation);
            }
        } else {
            apply_unsynced(&mut image, operation, fate, keep, &mut rng);
        }
    }
    drop_unreachable(&mut image);
    image
}

fn apply_unsynced(
    image: &mut Image,
    operation: &Operation,
    fate: Fate,
    keep: Keep,
    rng: &mut StdRng,
) {
    match keep {
        Keep::Nothing => {}
        Keep::Everything if fate == Fate::Lost => {}
        Keep::Everything => image.apply(operation),
        Keep::Sampled(_) => match (rng.random_range(0..3), operation) {
            (0, _) => {}
            (1, Operation::Write { file, offset, data }) => {
                image.write_torn(*file, *offset, data, rng);
            }
            _ => image.apply(operation),
        },
    }
}

fn is_about_names(operation: &Operation) -> bool {
    match operation {
        Operation::Create { .. }
        | Operation::Rename { .. }
        | Operation::Remove { .. }
        | Operation::CreateDir { .. } => true,
        Operation::Write { .. }
        | Operation::SetLen { .. }
        | Operation::Sync { .. }
        | Operation::SyncDir { .. } => false,
    }
}

/// Which operations later syncs made safe.
fn fates(operations: &[Operation]) -> Vec<Fate> {
    let mut fates = vec![Fate::Unsynced; operations.len()];
    let mut of_file: HashMap<Inode, Vec<usize>> = HashMap::new();
    // Changes of names, each with the folders that must yet be synced.
    let mut of_names: Vec<(usize, Vec<&Path>)> = Vec::new();
    // A file system whose own journal failed makes no further name durable.
    let mut names_failed = false;
    for (index, operation) in operations.iter().enumerate() {
        match operation {
            Operation::Write { file, .. } | Operation::SetLen { file, .. } => {
                of_file.entry(*file).or_default().push(index);
            }
            Operation::Sync { file, failed } => {
                let fate = if *failed { Fate::Lost } else { Fate::Synced };
                for change in of_file.remove(file).unwrap_or_default() {
                    fates[change] = fate;
                }
            }
            Operation::Create { path, .. }
            | Operation::Remove { path }
            | Operation::CreateDir { path } => of_names.push((index, vec![parent(path)])),
            Operation::Rename { from, to } => {
                of_names.push((index, vec![parent(from), parent(to)]));
            }
            Operation::SyncDir { failed: true, .. } => names_failed = true,
            Operation::SyncDir { .. } if names_failed => {}
            Operation::SyncDir { dir, .. } => of_names.retain_mut(|(change, waiting)| {
                waiting.retain(|waiting| waiting != dir);
                if waiting.is_empty() {
                    fates[*change] = Fate::Synced;
                }
                !waiting.is_empty()
            }),
        }
    }
    fates
}

/// Forgets what is in folders that are not there, and files without a name.
fn drop_unreachable(image: &mut Image) {
    let all = std::mem::take(&mut image.dirs);
    for dir in all {
        // A folder sorts after those above it.
        if image.has_dir(parent(&dir)) {
            image.dirs.insert(dir);
        }
    }
    let mut names = std::mem::take(&mut image.names);
    names.retain(|path, _| image.has_dir(parent(path)));
    let named: BTreeSet<Inode> = names.values().copied().collect();
    image.files.retain(|file, _| named.contains(file));
    for file in named {
        image.files.entry(file).or_default();
    }
    image.names = names;
}
