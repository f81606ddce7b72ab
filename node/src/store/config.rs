//! The `[store]` section of node.toml.

use serde::{Deserialize, Serialize};

use super::OpenError;

/// How this node keeps blobs on its disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// Bytes the store may take on its volume, blobs and overhead together.
    /// Default: 100 GiB. At least 8 times `segment_bytes`. Past it the blobs
    /// used least recently are evicted; when all are leased, uploads are
    /// refused. If the volume has less room than this, the store keeps to what
    /// the volume has.
    pub capacity_bytes: u64,

    /// When an upload is answered. Default: `"fsync"`, when its bytes would
    /// survive a power cut. `"os"` answers once the operating system has them:
    /// faster on slow disks, but a power cut loses the last seconds of uploads
    /// that were acknowledged. For caches whose loss only costs time.
    pub durability: Durability,

    /// Bytes of one segment, the file that small blobs (up to 1 MiB) share.
    /// Default: 64 MiB; at least 4 KiB. Smaller ones free space in smaller
    /// steps but need more open files: one per segment, all the time.
    pub segment_bytes: u64,
}

/// See [`StoreConfig::durability`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    Fsync,
    Os,
}

/// A segment must hold a few records to be worth its file.
const SEGMENT_BYTES_MIN: u64 = 4 << 10;

/// Offsets are kept as 32-bit numbers of 8-byte units.
const SEGMENT_BYTES_MAX: u64 = 16 << 30;

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            capacity_bytes: 100 << 30,
            durability: Durability::Fsync,
            segment_bytes: 64 << 20,
        }
    }
}

impl StoreConfig {
    /// Refuses values the store cannot work with, naming the key.
    pub fn check(&self) -> Result<(), OpenError> {
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&self.segment_bytes) {
            return Err(OpenError::Config(format!(
                "store.segment_bytes is {}, expected {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX}",
                self.segment_bytes
            )));
        }
        // Two segments are kept free for the active one and for the cleaner's
        // copies; below eight the rest is too little to choose from.
        if self.capacity_bytes / 8 < self.segment_bytes {
            return Err(OpenError::Config(format!(
                "store.capacity_bytes is {}, expected at least 8 times store.segment_bytes ({})",
                self.capacity_bytes, self.segment_bytes
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_cannot_work_are_refused_by_name() {
        assert!(StoreConfig::default().check().is_ok());
        for (text, why) in [
            ("segment_bytes = 100", "store.segment_bytes is 100"),
            ("capacity_bytes = 1000", "store.capacity_bytes is 1000"),
            ("capacity_bytes = 0", "store.capacity_bytes is 0"),
        ] {
            let config: StoreConfig = toml::from_str(text).unwrap();
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        assert!(toml::from_str::<StoreConfig>("segment_size = 1").is_err());
        assert!(toml::from_str::<StoreConfig>("durability = \"no\"").is_err());
        let os: StoreConfig = toml::from_str("durability = \"os\"").unwrap();
        assert_eq!(os.durability, Durability::Os);
    }
}
