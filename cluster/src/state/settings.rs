//! Settings that must be the same on all nodes; kept in Raft, not in node.toml.

use serde::{Deserialize, Serialize};

use super::apply::{MAX_INITIAL_NODES, MAX_REF_PATIENCE_MS, MAX_REPLICAS};

/// Cluster settings.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// Copies wanted of each blob (R).
    pub replicas: u32,
    /// Copies that are durable before an upload is answered (W).
    pub write_quorum: u32,
    /// Seconds for which FindMissing, uploads and reads keep a blob from eviction.
    pub lease_seconds: u32,
    pub ref_reads: ReadMode,
    /// Milliseconds a ref call waits for a leader before it answers UNAVAILABLE.
    pub ref_patience_ms: u32,
    /// Nodes that the first placement waits for, so that a cluster that begins
    /// with several nodes does not begin by moving blobs between them.
    pub initial_nodes: u32,
}

/// How ref reads are answered (promise P4).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReadMode {
    /// A hit from applied state, a miss only after a read barrier.
    #[default]
    Available,
    /// Every read after a read barrier.
    Linearizable,
}

/// A setting that is not taken, with what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    #[error("no such setting; expected one of {}", Settings::NAMES.join(", "))]
    Unknown,
    #[error("{value:?}: expected {expected}")]
    Value {
        value: String,
        expected: &'static str,
    },
}

impl Settings {
    /// What [`Self::set`] takes.
    pub const NAMES: [&str; 6] = [
        "replicas",
        "write_quorum",
        "lease",
        "refs.reads",
        "refs.patience",
        "initial_nodes",
    ];

    /// Sets one setting from its text. Durations are a number with `ms`, `s`,
    /// `m`, `h` or `d`.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), SettingError> {
        let refuse = |expected| SettingError::Value {
            value: value.into(),
            expected,
        };
        let copies = || match value.parse() {
            Ok(number @ 1..=MAX_REPLICAS) => Ok(number),
            _ => Err(refuse("a number from 1 to 9")),
        };
        match name {
            "replicas" => self.replicas = copies()?,
            "write_quorum" => self.write_quorum = copies()?,
            "lease" => {
                let expected = "a duration from 1m to 365d, e.g. 3h";
                let seconds = duration_ms(value).map(|ms| ms / 1_000);
                match seconds.map(u32::try_from) {
                    Some(Ok(seconds @ 60..=31_536_000)) => self.lease_seconds = seconds,
                    _ => return Err(refuse(expected)),
                }
            }
            "refs.reads" => {
                self.ref_reads = match value {
                    "available" => ReadMode::Available,
                    "linearizable" => ReadMode::Linearizable,
                    _ => return Err(refuse("available or linearizable")),
                }
            }
            "refs.patience" => match duration_ms(value).map(u32::try_from) {
                Some(Ok(ms @ 0..=MAX_REF_PATIENCE_MS)) => self.ref_patience_ms = ms,
                _ => return Err(refuse("a duration from 0s to 60s, e.g. 5s")),
            },
            "initial_nodes" => match value.parse() {
                Ok(number @ 1..=MAX_INITIAL_NODES) => self.initial_nodes = number,
                _ => return Err(refuse("a number from 1 to 50")),
            },
            _ => return Err(SettingError::Unknown),
        }
        Ok(())
    }
}

fn duration_ms(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit_ms)
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            replicas: 3,
            write_quorum: 2,
            lease_seconds: 3 * 60 * 60,
            ref_reads: ReadMode::Available,
            ref_patience_ms: 5_000,
            initial_nodes: 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_from_text_or_refused_with_what_was_expected() {
        let mut settings = Settings::default();
        for (name, value) in [
            ("replicas", "5"),
            ("write_quorum", "3"),
            ("lease", "90m"),
            ("refs.reads", "linearizable"),
            ("refs.patience", "750ms"),
            ("initial_nodes", "3"),
        ] {
            settings.set(name, value).unwrap();
        }
        let expected = Settings {
            replicas: 5,
            write_quorum: 3,
            lease_seconds: 5_400,
            ref_reads: ReadMode::Linearizable,
            ref_patience_ms: 750,
            initial_nodes: 3,
        };
        assert_eq!(settings, expected);
        for (name, value) in [
            ("replicas", "0"),
            ("replicas", "ten"),
            ("lease", "3"),
            ("lease", "5s"),
            ("lease", "99999999999999999999d"),
            ("refs.reads", "maybe"),
            ("refs.patience", "1y"),
            ("refs.patience", "61s"),
            ("initial_nodes", "0"),
            ("zonk", "1"),
        ] {
            let error = settings.set(name, value).unwrap_err().to_string();
            assert!(error.contains("expected"), "{error}");
        }
        assert_eq!(settings, expected);
    }
}
