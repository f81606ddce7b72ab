//! Finding what a push needs in the store: the IO around [`closure`].

use std::sync::Arc;

use tokio::sync::Semaphore;
use weir_cluster::{
    Digest, Error,
    blob::{BlobStore, put_bytes},
    state::refs::manifest,
};

use super::{
    ApiConfig,
    agreed::Agreed,
    closure::{Limits, Taken, Walk},
    directories, restore,
};

/// Digests that are asked for in one call: 4 MiB on the wire between nodes.
const ASKED_AT_ONCE: usize = 100_000;

/// Digests in the largest closure, whatever the configuration says: a manifest
/// of 60 MB, which each fetch that looks at it holds in memory.
const CLOSURE_DIGESTS: usize = 1_500_000;

/// What a push names.
#[derive(Default, Debug)]
pub(crate) struct Roots {
    pub(crate) blobs: Vec<Digest>,
    pub(crate) directories: Vec<Digest>,
}

/// The blob that a ref resolves to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Target {
    Blob(Digest),
    /// A Directory or Tree: what is below it belongs to the closure.
    Directory(Digest),
}

/// Why a closure was not stored.
#[derive(Debug)]
pub(crate) enum GatherError {
    /// The blob that the ref would resolve to is not in the store.
    TargetAbsent(Digest),
    /// The root of a directory ref is no directory.
    NotADirectory(Digest),
    Store(Error),
}

impl From<Error> for GatherError {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl Target {
    pub(crate) fn digest(self) -> Digest {
        match self {
            Self::Blob(digest) | Self::Directory(digest) => digest,
        }
    }
}

/// Gathers closures and stores their manifests.
#[derive(Clone)]
pub(crate) struct Gatherer {
    store: Arc<dyn BlobStore>,
    agreed: Agreed,
    limits: Limits,
    /// Walks at once. A walk waits here without a deadline of ours: an answer
    /// of RESOURCE_EXHAUSTED would make BuildStream skip the artifact.
    turns: Arc<Semaphore>,
}

impl Gatherer {
    pub(crate) fn new(store: Arc<dyn BlobStore>, agreed: Agreed, config: &ApiConfig) -> Self {
        Self {
            store,
            agreed,
            limits: Limits {
                digests: config.closure_digests.min(CLOSURE_DIGESTS),
                directory_bytes: config.closure_directory_bytes,
                depth: config.closure_depth,
            },
            turns: Arc::new(Semaphore::new(config.closures_at_once.max(1))),
        }
    }

    /// Walks what a push names, renews the lease of all that is present and
    /// stores the manifest of it. The manifest; none if the ref needs nothing
    /// but its target.
    ///
    /// References that are absent are left out of the manifest: clients list
    /// directories that they never upload, and a ref may be whole without them.
    pub(crate) async fn gather(
        &self,
        target: Target,
        roots: &Roots,
    ) -> Result<Option<Digest>, GatherError> {
        let plain = roots.blobs.is_empty() && roots.directories.is_empty();
        if let (Target::Blob(digest), true) = (target, plain) {
            return match &self.present(digest, vec![digest]).await?[..] {
                [] => Err(GatherError::TargetAbsent(digest)),
                _ => Ok(None),
            };
        }
        let turn = self.turns.acquire().await;
        let closure = self.walk(target, roots).await?;
        let present = self.present(target.digest(), closure).await?;
        drop(turn);
        let target = target.digest();
        if !target.is_empty_blob() && !present.contains(&target) {
            return Err(GatherError::TargetAbsent(target));
        }
        if present.iter().all(|digest| *digest == target) {
            return Ok(None);
        }
        let manifest = manifest::encode(present);
        Ok(Some(put_bytes(&*self.store, manifest.into()).await?))
    }

    async fn walk(&self, target: Target, roots: &Roots) -> Result<Vec<Digest>, GatherError> {
        let mut walk = Walk::new(self.limits);
        match target {
            Target::Blob(digest) => walk.add_blob(digest)?,
            Target::Directory(digest) => walk.add_directory(digest)?,
        }
        for digest in &roots.blobs {
            walk.add_blob(*digest)?;
        }
        for digest in &roots.directories {
            walk.add_directory(*digest)?;
        }
        loop {
            let level = walk.level()?;
            if level.is_empty() {
                return Ok(walk.finish());
            }
            let mut rest = &level[..];
            while !rest.is_empty() {
                let piece = directories::next_piece(rest);
                rest = &rest[piece.len()..];
                let found = directories::read_piece(&*self.store, piece).await;
                for (digest, read) in piece.iter().zip(found) {
                    let bytes = match read {
                        Ok(Some(bytes)) => bytes,
                        Ok(None) => continue,
                        // Nobody can tell now. Clients list directories that
                        // they never uploaded, and a node that is down must not
                        // stop their pushes.
                        Err(error) if is_doubt(&error) && *digest != target.digest() => continue,
                        Err(error) => return Err(error.into()),
                    };
                    if walk.take(&bytes)? == Taken::Opaque && target == Target::Directory(*digest) {
                        return Err(GatherError::NotADirectory(*digest));
                    }
                }
            }
        }
    }

    /// Those that are present, their leases renewed. An error if that cannot be
    /// told of the target.
    async fn present(&self, target: Digest, digests: Vec<Digest>) -> Result<Vec<Digest>, Error> {
        let missing = missing(&*self.store, &digests, &self.agreed).await?;
        let unconfirmed: Vec<_> = missing.into_iter().map(|index| digests[index]).collect();
        let absent = restore::absent(&*self.store, |digest| digest == target, unconfirmed).await?;
        let mut present = digests;
        present.retain(|digest| !absent.contains(digest));
        Ok(present)
    }
}

/// Whether a read failed only because too few nodes answered.
pub(super) fn is_doubt(error: &Error) -> bool {
    matches!(error, Error::NoQuorum(_) | Error::Unreachable { .. })
}

/// Asks for any number of digests in bounded calls: the indices of the missing.
pub(crate) async fn missing(
    store: &dyn BlobStore,
    digests: &[Digest],
    agreed: &Agreed,
) -> Result<Vec<usize>, Error> {
    let mut all = Vec::new();
    for (number, piece) in digests.chunks(ASKED_AT_ONCE).enumerate() {
        let missing = store.find_missing(piece, agreed.lease()).await?;
        let indices = missing.into_iter().map(|index| index as usize);
        all.extend(indices.map(|index| number * ASKED_AT_ONCE + index));
    }
    Ok(all)
}
