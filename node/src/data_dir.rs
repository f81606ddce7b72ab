//! The data directory: a node *is* its volume.
//!
//! ```text
//! DATA/
//!   LOCK        held while a process uses the directory
//!   node.json   who this node is (see Identity)
//!   boot.json   the starts of the node (see Boots)
//!   raft/       journal of votes and entries, snapshots
//!   state/      applied state; can be rebuilt from raft/
//!   blobs/      segments, files, index
//! ```
//!
//! Invariants: a directory belongs to one node of one cluster for ever; an
//! identity is never written over; a directory of another format version is
//! not touched.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use weir_cluster::{
    ClusterId, NodeId,
    journal::disk::{RealDisk, replace_file},
    peer::Start,
    state::Settings,
};

/// The layout described above.
const FORMAT: u32 = 1;

const IDENTITY_FILE: &str = "node.json";
const BOOTS_FILE: &str = "boot.json";

/// Starts that are remembered. Nodes that were away may know an old one, and
/// the one announced last must not be forgotten over starts that found nobody.
const KEPT_BOOTS: usize = 256;

/// Who a node is. Written once, by `weir init` or `weir join`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub format: u32,
    pub cluster: ClusterId,
    #[serde(with = "hex_id")]
    pub node: NodeId,
    /// The name under which it was made; only a label.
    pub name: String,
    pub origin: Origin,
}

/// How a node came into its cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// It is the first node and founds the cluster with these settings.
    Founder { settings: Settings },
    /// It joined a cluster that existed.
    Joined,
}

/// A data directory in use by this process.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    identity: Identity,
    // Dropping it releases the lock.
    _lock: fs::File,
}

/// The starts of a node, by random numbers. Each is written down before it is
/// told to anybody: so a copy of the directory that was made before a start can
/// be told from the directory that started.
#[derive(Debug)]
pub struct Boots {
    path: PathBuf,
    kept: KeptBoots,
    start: Start,
}

/// What the file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct KeptBoots {
    format: u32,
    /// The start that the cluster is known to know; 0 before the first.
    announced: u64,
    /// All starts, oldest first.
    boots: Vec<u64>,
}

/// Why a directory cannot be used, with what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error(
        "{path} holds no node yet; run `weir init` to begin a cluster with it, \
         or `weir join` to make it a node of one that exists"
    )]
    Empty { path: PathBuf },
    #[error(
        "{path} already holds node {node} of cluster {cluster}; start it with `weir serve`, \
         or choose an empty folder as node.data"
    )]
    Taken {
        path: PathBuf,
        node: NodeId,
        cluster: ClusterId,
    },
    #[error(
        "{path} is not empty but holds no node; choose an empty folder as node.data, \
         so that no file of yours is touched"
    )]
    Foreign { path: PathBuf },
    #[error(
        "{path} is in use by another process; stop that one first, \
         or choose another folder as node.data"
    )]
    InUse { path: PathBuf },
    #[error(
        "{path} has format version {found}, this weir reads version {FORMAT}; \
         start it with the weir that wrote it"
    )]
    OtherFormat { path: PathBuf, found: u32 },
    #[error(
        "{path} does not say who this node is: {cause}; restore the file, or join anew with an empty folder"
    )]
    Unreadable { path: PathBuf, cause: String },
    #[error(
        "{path} does not say when this node started last: {cause}; restore the file, or join anew \
         with an empty folder"
    )]
    UnreadableBoots { path: PathBuf, cause: String },
    #[error("cannot use {path}")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl DataDir {
    /// Opens the directory of an existing node and locks it.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        let identity = read_identity(path)?.ok_or_else(|| DataDirError::Empty {
            path: path.to_owned(),
        })?;
        Ok(Self {
            path: path.to_owned(),
            identity,
            _lock: lock(path)?,
        })
    }

    /// Makes sure that a node may be made here: the folder is missing or empty.
    /// Creates it.
    pub fn prepare(path: &Path) -> Result<(), DataDirError> {
        fs::create_dir_all(path).map_err(|source| failed(path, source))?;
        if let Some(Identity { node, cluster, .. }) = read_identity(path)? {
            let path = path.to_owned();
            return Err(DataDirError::Taken {
                path,
                node,
                cluster,
            });
        }
        let mut entries = fs::read_dir(path).map_err(|source| failed(path, source))?;
        // A file system of its own has this folder from the beginning.
        let foreign = entries.any(|entry| {
            entry
                .is_ok_and(|entry| entry.file_name() != "lost+found" && entry.file_name() != "LOCK")
        });
        if foreign {
            let path = path.to_owned();
            return Err(DataDirError::Foreign { path });
        }
        Ok(())
    }

    /// Makes a node here. Only in a directory that [`Self::prepare`] accepts.
    pub fn create(
        path: &Path,
        cluster: ClusterId,
        node: NodeId,
        name: &str,
        origin: Origin,
    ) -> Result<(), DataDirError> {
        Self::prepare(path)?;
        let _lock = lock(path)?;
        let identity = Identity {
            format: FORMAT,
            cluster,
            node,
            name: name.into(),
            origin,
        };
        let mut text = serde_json::to_vec_pretty(&identity).map_err(|error| DataDirError::Io {
            path: path.to_owned(),
            source: error.into(),
        })?;
        text.push(b'\n');
        let disk = RealDisk::new(path);
        replace_file(&disk, Path::new(IDENTITY_FILE), &text).map_err(|source| failed(path, source))
    }

    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Begins a start of the node: its number is on disk when this returns.
    pub fn begin_boot(&self) -> Result<Boots, DataDirError> {
        let file = self.path.join(BOOTS_FILE);
        let mut kept = match fs::read(&file) {
            Ok(text) => read_boots(&file, &text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => KeptBoots::default(),
            Err(source) => return Err(failed(&file, source)),
        };
        kept.format = FORMAT;
        let known_boots = kept.known();
        // Zero means that there was no start yet.
        let boot = rand::random::<u64>().max(1);
        kept.boots.push(boot);
        let surplus = kept.boots.len().saturating_sub(KEPT_BOOTS);
        kept.boots.drain(..surplus);
        let boots = Boots {
            path: self.path.clone(),
            kept,
            start: Start {
                boot,
                known_boots,
                last_log_index: 0,
            },
        };
        boots.write()?;
        Ok(boots)
    }

    /// A folder inside, created if it is missing.
    pub fn subfolder(&self, name: &str) -> Result<PathBuf, DataDirError> {
        let path = self.path.join(name);
        fs::create_dir_all(&path).map_err(|source| failed(&path, source))?;
        Ok(path)
    }
}

impl Boots {
    /// This start, as it is told to the cluster.
    #[must_use]
    pub fn start(&self) -> &Start {
        &self.start
    }

    /// Takes down that the cluster knows of this start. Blocks.
    pub fn announced(&mut self) -> Result<(), DataDirError> {
        self.kept.announced = self.start.boot;
        self.write()
    }

    fn write(&self) -> Result<(), DataDirError> {
        let fail = |source| failed(&self.path.join(BOOTS_FILE), source);
        let mut text = serde_json::to_vec(&self.kept).map_err(|error| fail(error.into()))?;
        text.push(b'\n');
        replace_file(&RealDisk::new(&self.path), Path::new(BOOTS_FILE), &text).map_err(fail)
    }
}

impl KeptBoots {
    fn known(&self) -> Vec<u64> {
        let mut known = self.boots.clone();
        if self.announced != 0 && !known.contains(&self.announced) {
            known.push(self.announced);
        }
        known
    }
}

fn read_boots(file: &Path, text: &[u8]) -> Result<KeptBoots, DataDirError> {
    let unreadable = |cause: String| DataDirError::UnreadableBoots {
        path: file.to_owned(),
        cause,
    };
    let kept: KeptBoots =
        serde_json::from_slice(text).map_err(|error| unreadable(error.to_string()))?;
    if kept.format != FORMAT {
        return Err(DataDirError::OtherFormat {
            path: file.to_owned(),
            found: kept.format,
        });
    }
    Ok(kept)
}

fn lock(path: &Path) -> Result<fs::File, DataDirError> {
    let file = fs::File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path.join("LOCK"))
        .map_err(|source| failed(path, source))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(DataDirError::InUse {
            path: path.to_owned(),
        }),
        Err(error) => Err(failed(path, error.into())),
    }
}

fn read_identity(path: &Path) -> Result<Option<Identity>, DataDirError> {
    /// What every format has had.
    #[derive(Deserialize)]
    struct AnyFormat {
        format: u32,
    }
    let file = path.join(IDENTITY_FILE);
    let text = match fs::read(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(failed(&file, source)),
    };
    let unreadable = |error: serde_json::Error| DataDirError::Unreadable {
        path: file.clone(),
        cause: error.to_string(),
    };
    let AnyFormat { format } = serde_json::from_slice(&text).map_err(unreadable)?;
    if format != FORMAT {
        return Err(DataDirError::OtherFormat {
            path: path.to_owned(),
            found: format,
        });
    }
    serde_json::from_slice(&text).map(Some).map_err(unreadable)
}

fn failed(path: &Path, source: io::Error) -> DataDirError {
    DataDirError::Io {
        path: path.to_owned(),
        source,
    }
}

/// Node ids as people see them everywhere else.
mod hex_id {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use weir_cluster::NodeId;

    pub(super) fn serialize<S: Serializer>(id: &NodeId, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(id)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<NodeId, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: ClusterId = ClusterId(1);
    const NODE: NodeId = NodeId(2);

    fn create(path: &Path) -> Result<(), DataDirError> {
        let origin = Origin::Founder {
            settings: Settings::default(),
        };
        DataDir::create(path, CLUSTER, NODE, "n1", origin)
    }

    #[test]
    fn a_node_is_found_again_in_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        create(dir.path()).unwrap();
        let opened = DataDir::open(dir.path()).unwrap();
        assert_eq!(opened.identity().node, NODE);
        assert_eq!(opened.identity().cluster, CLUSTER);
    }

    #[test]
    fn each_wrong_directory_is_refused_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |outcome: Result<(), DataDirError>, advice: &str| {
            let error = outcome.unwrap_err().to_string();
            assert!(error.contains(advice), "{error}");
        };
        let open = || DataDir::open(dir.path()).map(drop);
        refused(open(), "run `weir init`");
        create(dir.path()).unwrap();
        refused(create(dir.path()), "start it with `weir serve`");
        let held = DataDir::open(dir.path()).unwrap();
        refused(open(), "in use by another process");
        drop(held);
        let file = dir.path().join(IDENTITY_FILE);
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replace("\"format\": 1", "\"format\": 9")).unwrap();
        refused(open(), "start it with the weir that wrote it");
        fs::write(&file, "{").unwrap();
        refused(open(), "restore the file");
        fs::remove_file(&file).unwrap();
        fs::write(dir.path().join("thesis.txt"), "mine").unwrap();
        refused(create(dir.path()), "not empty");
    }

    #[test]
    fn each_start_is_known_to_the_next_and_to_no_copy_made_before_it() {
        let dir = tempfile::tempdir().unwrap();
        create(dir.path()).unwrap();
        let begin = || DataDir::open(dir.path()).unwrap().begin_boot().unwrap();
        let file = dir.path().join(BOOTS_FILE);
        let first = begin();
        assert_eq!(first.start().known_boots, Vec::<u64>::new());
        let copy = fs::read(&file).unwrap();
        let mut second = begin();
        assert_eq!(second.start().known_boots, [first.start().boot]);
        second.announced().unwrap();
        // However many starts find nobody, the one that was announced is known.
        for _ in 0..2 * KEPT_BOOTS {
            begin();
        }
        let last = begin();
        assert!(last.start().known_boots.len() <= KEPT_BOOTS + 1);
        assert!(last.start().known_boots.contains(&second.start().boot));
        // An older copy of the directory does not know it.
        fs::write(&file, copy).unwrap();
        let old = begin();
        assert!(!old.start().known_boots.contains(&second.start().boot));
        fs::write(&file, "{").unwrap();
        let error = DataDir::open(dir.path()).unwrap().begin_boot().unwrap_err();
        assert!(error.to_string().contains("restore the file"), "{error}");
    }
}
