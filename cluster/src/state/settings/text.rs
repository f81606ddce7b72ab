//! Settings as people write and read them.

use super::{
    MAX_INITIAL_NODES, MAX_REF_PATIENCE_MS, MAX_REPLICAS, MIN_AUTO_REMOVE_SECONDS, MIN_REPAIR_RATE,
    MIN_SCRUB_SECONDS, ReadMode, Settings,
};

const YEAR_SECONDS: u32 = 365 * 86_400;

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
    pub const NAMES: [&str; 9] = [
        "replicas",
        "write_quorum",
        "lease",
        "refs.reads",
        "refs.patience",
        "initial_nodes",
        "auto_remove_after",
        "repair.rate",
        "scrub.every",
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
            "auto_remove_after" => {
                let expected = "off, or a duration from 10m to 365d, e.g. 24h";
                self.auto_remove_seconds = match (value, seconds(value)) {
                    ("off", _) => 0,
                    (_, Some(seconds @ MIN_AUTO_REMOVE_SECONDS..=YEAR_SECONDS)) => seconds,
                    _ => return Err(refuse(expected)),
                }
            }
            "repair.rate" => {
                let expected = "off, or bytes a second from 1MiB, e.g. 100MiB";
                self.repair_bytes_per_second = match (value, bytes(value)) {
                    ("off", _) => 0,
                    (_, Some(rate)) if rate >= MIN_REPAIR_RATE => rate,
                    _ => return Err(refuse(expected)),
                }
            }
            "scrub.every" => match seconds(value) {
                Some(seconds @ MIN_SCRUB_SECONDS..=YEAR_SECONDS) => self.scrub_seconds = seconds,
                _ => return Err(refuse("a duration from 1h to 365d, e.g. 14d")),
            },
            _ => return Err(SettingError::Unknown),
        }
        Ok(())
    }

    /// Every setting with its value as [`Self::set`] takes it.
    #[must_use]
    pub fn list(&self) -> Vec<(&'static str, String)> {
        let off = |text: String, is_off: bool| if is_off { "off".into() } else { text };
        vec![
            ("replicas", self.replicas.to_string()),
            ("write_quorum", self.write_quorum.to_string()),
            ("lease", duration_text(self.lease_seconds)),
            ("refs.reads", self.ref_reads.name().into()),
            ("refs.patience", format!("{}ms", self.ref_patience_ms)),
            ("initial_nodes", self.initial_nodes.to_string()),
            (
                "auto_remove_after",
                off(
                    duration_text(self.auto_remove_seconds),
                    self.auto_remove_seconds == 0,
                ),
            ),
            (
                "repair.rate",
                off(
                    bytes_text(self.repair_bytes_per_second),
                    self.repair_bytes_per_second == 0,
                ),
            ),
            ("scrub.every", duration_text(self.scrub_seconds)),
        ]
    }
}

fn seconds(text: &str) -> Option<u32> {
    u32::try_from(duration_ms(text)? / 1_000).ok()
}

/// Seconds in the largest unit that divides them.
fn duration_text(seconds: u32) -> String {
    for (unit, name) in [(86_400, "d"), (3_600, "h"), (60, "m")] {
        if seconds > 0 && seconds.is_multiple_of(unit) {
            return format!("{}{name}", seconds / unit);
        }
    }
    format!("{seconds}s")
}

const BYTE_UNITS: [(&str, u64); 4] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

fn bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let (_, unit_bytes) = BYTE_UNITS.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*unit_bytes)
}

fn bytes_text(bytes: u64) -> String {
    let fits = |(_, unit): &&(&str, u64)| bytes.is_multiple_of(*unit);
    match BYTE_UNITS.iter().find(fits) {
        Some((name, unit)) => format!("{}{name}", bytes / unit),
        None => format!("{bytes}B"),
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
            ("auto_remove_after", "36h"),
            ("repair.rate", "100MiB"),
            ("scrub.every", "7d"),
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
            auto_remove_seconds: 129_600,
            repair_bytes_per_second: 100 << 20,
            scrub_seconds: 604_800,
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
            ("auto_remove_after", "5s"),
            ("repair.rate", "12"),
            ("repair.rate", "1KiB"),
            ("scrub.every", "5m"),
            ("zonk", "1"),
        ] {
            let error = settings.set(name, value).unwrap_err().to_string();
            assert!(error.contains("expected"), "{error}");
        }
        assert_eq!(settings, expected);
    }

    #[test]
    fn what_is_listed_can_be_set() {
        let mut settings = Settings::default();
        settings.set("repair.rate", "3MiB").unwrap();
        settings.set("auto_remove_after", "90m").unwrap();
        let mut copy = Settings::default();
        for (name, value) in settings.list() {
            copy.set(name, &value).unwrap();
        }
        assert_eq!(copy, settings);
        let names: Vec<_> = settings.list().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, Settings::NAMES);
    }
}
