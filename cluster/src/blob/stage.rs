//! Proof that bytes match the digest they came under.
//!
//! [`Staged`] and [`Verified`] can only be made here, by hashing. A store asks
//! for one before it commits, so verification can be neither forgotten nor
//! done at the wrong place.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::{
    Digest, Error,
    planted::{self, Bug},
    words::error::Mismatch,
};

/// Hashes bytes as they are written.
pub struct Stage {
    digest: Digest,
    hasher: Sha256,
    received: u64,
}

/// Proof that all bytes of a stage hashed to its digest.
#[derive(Debug)]
pub struct Staged {
    digest: Digest,
}

/// A whole blob in memory, proven to match its digest.
#[derive(Debug, Clone)]
pub struct Verified {
    digest: Digest,
    bytes: Bytes,
}

impl Stage {
    #[must_use]
    pub fn new(digest: Digest) -> Self {
        Self {
            digest,
            hasher: Sha256::new(),
            received: 0,
        }
    }

    /// Takes the next bytes; refuses those beyond the size of the digest
    /// before anything is done with them.
    pub fn update(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let received = self.received + bytes.len() as u64;
        if received > self.digest.size {
            return Err(self.mismatch(Mismatch::TooLong));
        }
        self.hasher.update(bytes);
        self.received = received;
        Ok(())
    }

    /// Bytes taken so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Ends the blob.
    pub fn finish(self) -> Result<Staged, Error> {
        let got = self.received;
        if got < self.digest.size {
            return Err(self.mismatch(Mismatch::TooShort { got }));
        }
        let digest = self.digest;
        let actual = Digest {
            hash: self.hasher.finalize().into(),
            size: got,
        };
        if actual != digest && !planted::is(Bug::DigestUnchecked) {
            let mismatch = Mismatch::Hash { actual };
            return Err(Error::Mismatch { digest, mismatch });
        }
        Ok(Staged { digest })
    }

    fn mismatch(&self, mismatch: Mismatch) -> Error {
        Error::Mismatch {
            digest: self.digest,
            mismatch,
        }
    }
}

impl Staged {
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

impl Verified {
    /// Checks bytes that came under a digest.
    pub fn check(digest: Digest, bytes: Bytes) -> Result<Self, Error> {
        let mut stage = Stage::new(digest);
        stage.update(&bytes)?;
        let Staged { digest } = stage.finish()?;
        Ok(Self { digest, bytes })
    }

    /// Names bytes by what they hash to.
    #[must_use]
    pub fn of(bytes: Bytes) -> Self {
        Self {
            digest: Digest::of(&bytes),
            bytes,
        }
    }

    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_matching_bytes_are_proven() {
        let digest = Digest::of(b"weir");
        assert!(Verified::check(digest, Bytes::from_static(b"weir")).is_ok());
        for (bytes, why) in [
            (&b"wei"[..], "only 3 bytes came"),
            (b"weirs", "more bytes came"),
            (b"wire", "they hash to"),
        ] {
            let error = Verified::check(digest, Bytes::from_static(bytes)).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
    }
}
