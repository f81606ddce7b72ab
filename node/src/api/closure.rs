//! What a ref needs: the walk from its digests to the leaves, without IO.
//!
//! The walk goes level by level. [`Walk::level`] says which Directory messages
//! to read next, [`Walk::take`] takes their bytes (or their absence), and
//! [`Walk::finish`] gives everything that was named. Each digest is looked at
//! once however often it is named, so trees that repeat themselves, and false
//! bytes that form a circle, end.
//!
//! A digest that came as a directory may be that of a Directory or of a Tree:
//! clients use both in the same field. See [`parse`] for how they are told apart.

use std::collections::HashSet;

use prost::Message;
use weir_cluster::{Digest, Error};
use weir_proto::reapi;

use super::arguments;

/// Bounds of one walk; see `ApiConfig`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) digests: usize,
    pub(crate) directory_bytes: u64,
    pub(crate) depth: usize,
}

/// A walk under way.
pub(crate) struct Walk {
    limits: Limits,
    closure: HashSet<Digest>,
    /// Those of the closure that were wanted as directories.
    directories: HashSet<Digest>,
    next: Vec<Digest>,
    directory_bytes: u64,
    depth: usize,
}

/// What the bytes of a directory turned out to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Taken {
    /// A Directory or Tree; what it names was added.
    Walked,
    /// Something else; it is kept as a leaf.
    Opaque,
}

/// What a Directory or Tree message names.
#[derive(Default, PartialEq, Eq, Debug)]
pub(crate) struct Named {
    pub(crate) blobs: Vec<Digest>,
    pub(crate) directories: Vec<Digest>,
}

impl Walk {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            closure: HashSet::new(),
            directories: HashSet::new(),
            next: Vec::new(),
            directory_bytes: 0,
            depth: 0,
        }
    }

    /// Adds a leaf.
    pub(crate) fn add_blob(&mut self, digest: Digest) -> Result<(), Error> {
        if digest.is_empty_blob() {
            return Ok(());
        }
        self.closure.insert(digest);
        if self.closure.len() > self.limits.digests {
            return Err(Error::Invalid(format!(
                "the closure has more than {} blobs (api.closure_digests)",
                self.limits.digests
            )));
        }
        Ok(())
    }

    /// Adds a digest to walk into.
    pub(crate) fn add_directory(&mut self, digest: Digest) -> Result<(), Error> {
        if digest.is_empty_blob() {
            return Ok(());
        }
        self.add_blob(digest)?;
        if !self.directories.insert(digest) {
            return Ok(());
        }
        self.directory_bytes = self.directory_bytes.saturating_add(digest.size);
        if self.directory_bytes > self.limits.directory_bytes {
            return Err(Error::Invalid(format!(
                "the closure has more than {} bytes of directories (api.closure_directory_bytes)",
                self.limits.directory_bytes
            )));
        }
        self.next.push(digest);
        Ok(())
    }

    /// The directories to read now; none when the walk is over. All of them
    /// are to be handed to [`Self::take`], or left out if absent.
    pub(crate) fn level(&mut self) -> Result<Vec<Digest>, Error> {
        let level = std::mem::take(&mut self.next);
        if !level.is_empty() {
            self.depth += 1;
        }
        if self.depth > self.limits.depth {
            return Err(Error::Invalid(format!(
                "directories are nested more than {} deep (api.closure_depth)",
                self.limits.depth
            )));
        }
        Ok(level)
    }

    /// Takes the bytes of a directory of the level.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<Taken, Error> {
        let Some(named) = parse(bytes) else {
            return Ok(Taken::Opaque);
        };
        for digest in named.blobs {
            self.add_blob(digest)?;
        }
        for digest in named.directories {
            self.add_directory(digest)?;
        }
        Ok(Taken::Walked)
    }

    /// Everything that was named, the roots and the absent included, in no
    /// order and without the empty blob.
    pub(crate) fn finish(self) -> Vec<Digest> {
        self.closure.into_iter().collect()
    }
}

/// What a message names, or `None` if it is neither Directory nor Tree.
///
/// A Tree's bytes may decode as a Directory by chance (field 1 is a message in
/// both). But then they hold a file without a digest, which no Directory does.
/// So the strict reading as a Directory goes first, then that as a Tree.
pub(crate) fn parse(bytes: &[u8]) -> Option<Named> {
    let mut named = Named::default();
    if let Ok(directory) = reapi::Directory::decode(bytes)
        && collect(&directory, Some(&mut named.directories), &mut named.blobs).is_some()
    {
        return Some(named);
    }
    let tree = reapi::Tree::decode(bytes).ok()?;
    let mut named = Named::default();
    // Child directories are inside the message; they need not be blobs.
    for directory in tree.root.iter().chain(&tree.children) {
        collect(directory, None, &mut named.blobs)?;
    }
    tree.root.map(|_| named)
}

/// Collects what one directory names; `None` if it is malformed.
fn collect(
    directory: &reapi::Directory,
    mut directories: Option<&mut Vec<Digest>>,
    blobs: &mut Vec<Digest>,
) -> Option<()> {
    for node in &directory.files {
        blobs.push(arguments::digest(node.digest.as_ref()?).ok()?);
    }
    for node in &directory.directories {
        let digest = arguments::digest(node.digest.as_ref()?).ok()?;
        if let Some(directories) = &mut directories {
            directories.push(digest);
        }
    }
    Some(())
}

#[cfg(test)]
#[path = "closure_tests.rs"]
mod tests;
