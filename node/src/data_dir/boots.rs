//! The starts of a node: what tells its directory from an older copy of it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use weir_cluster::{
    journal::disk::{RealDisk, replace_file},
    peer::Start,
};

use super::{DataDir, DataDirError, FORMAT, failed};
use crate::planted::{self, Bug};

const BOOTS_FILE: &str = "boot.json";

/// Starts that are remembered. Nodes that were away may know an old one, and
/// the one announced last must not be forgotten over starts that found nobody.
const KEPT_BOOTS: usize = 256;

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

impl DataDir {
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
        if !planted::is(Bug::BootForgotten) {
            boots.write()?;
        }
        Ok(boots)
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

#[cfg(test)]
mod tests {
    use weir_cluster::{ClusterId, NodeId};

    use super::*;
    use crate::data_dir::Origin;

    #[test]
    fn each_start_is_known_to_the_next_and_to_no_copy_made_before_it() {
        let dir = tempfile::tempdir().unwrap();
        DataDir::create(dir.path(), ClusterId(1), NodeId(2), "n1", Origin::Joined).unwrap();
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
