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

mod boots;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use weir_cluster::{
    ClusterId, NodeId,
    journal::disk::{RealDisk, replace_file},
    state::Settings,
};

pub use boots::Boots;

/// The layout described above.
const FORMAT: u32 = 1;

const IDENTITY_FILE: &str = "node.json";
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

    /// A folder inside, created if it is missing.
    pub fn subfolder(&self, name: &str) -> Result<PathBuf, DataDirError> {
        let path = self.path.join(name);
        fs::create_dir_all(&path).map_err(|source| failed(&path, source))?;
        Ok(path)
    }
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
}
