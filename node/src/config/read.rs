//! Turns text into a configuration, or into every fault of it.

use std::{fmt, io, path::Path};

use super::Config;

/// Every fault of a configuration.
#[derive(Debug)]
pub struct ConfigError {
    pub faults: Vec<Fault>,
}

/// One fault: where, and what was expected there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// `file:line`, or where else the value came from.
    pub place: String,
    /// `section.key`, as far as it is known.
    pub key: String,
    pub message: String,
}

/// Reads as much as can be read, and says what cannot, in order of lines: each
/// faulty line is blanked out and the rest is tried again.
pub(super) fn parse(place: &str, text: &str) -> (Config, Vec<Fault>) {
    let mut text = text.to_owned();
    let mut faults = Vec::new();
    let config = loop {
        let error = match toml::from_str::<Config>(&text) {
            Ok(config) => break config,
            Err(error) => error,
        };
        let span = error.span().unwrap_or(0..0);
        let start = text[..span.start].rfind('\n').map_or(0, |at| at + 1);
        let stop = span.end.max(span.start + 1).min(text.len());
        let end = text[stop..].find('\n').map_or(text.len(), |at| stop + at);
        let line = text[..span.start].matches('\n').count() + 1;
        let faulty = text[start..end].to_owned();
        let key = match (section_above(&text[..start]), faulty.split_once('=')) {
            (Some(section), Some((key, _))) => format!("{section}.{}", key.trim()),
            _ => faulty.trim().trim_matches(['[', ']']).to_owned(),
        };
        let fault = Fault {
            place: format!("{place}:{line}"),
            key,
            message: one_line(&error),
        };
        faults.push((line, fault));
        if faulty.trim().is_empty() {
            // Nothing left to blank out; the rest cannot be read.
            break Config::default();
        }
        let blank: String = faulty
            .bytes()
            .map(|byte| if byte == b'\n' { '\n' } else { ' ' })
            .collect();
        text.replace_range(start..end, &blank);
    };
    faults.sort_by_key(|(line, _)| *line);
    (config, faults.into_iter().map(|(_, fault)| fault).collect())
}

/// Applies `section.key=value` texts; those that do not fit are left out and
/// come back as faults.
pub(super) fn apply_overrides(mut config: Config, overrides: &[String]) -> (Config, Vec<Fault>) {
    let mut faults = Vec::new();
    for text in overrides {
        match override_key(&config, text) {
            Ok(next) => config = next,
            Err(message) => faults.push(Fault {
                place: format!("--set {text}"),
                key: text.split('=').next().unwrap_or_default().into(),
                message,
            }),
        }
    }
    (config, faults)
}

/// The value is TOML, or else taken as a plain text.
fn override_key(config: &Config, text: &str) -> Result<Config, String> {
    let form = "expected section.key=value";
    let (path, value) = text.split_once('=').ok_or(form)?;
    let (section, key) = path.split_once('.').ok_or(form)?;
    let value = format!("value = {value}")
        .parse::<toml::Table>()
        .ok()
        .and_then(|mut parsed| parsed.remove("value"))
        .unwrap_or_else(|| toml::Value::String(value.into()));
    let mut table = toml::Table::try_from(config).map_err(|error| error.to_string())?;
    table
        .entry(section)
        .or_insert_with(|| toml::Table::new().into())
        .as_table_mut()
        .ok_or(form)?
        .insert(key.into(), value);
    table.try_into().map_err(|error| one_line(&error))
}

fn section_above(text: &str) -> Option<&str> {
    text.lines().rev().map(str::trim).find_map(|line| {
        line.strip_prefix('[')
            .and_then(|line| line.strip_suffix(']'))
    })
}

fn one_line(error: &toml::de::Error) -> String {
    error.message().lines().collect::<Vec<_>>().join("; ")
}

impl ConfigError {
    pub(super) fn unreadable(path: &Path, error: &io::Error) -> Self {
        let fault = Fault {
            place: path.display().to_string(),
            key: String::new(),
            message: format!("cannot be read: {error}; name the file with --config"),
        };
        Self {
            faults: vec![fault],
        }
    }
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.faults.len();
        let s = if count == 1 { "" } else { "s" };
        write!(f, "{count} fault{s} in the configuration")?;
        for fault in &self.faults {
            write!(f, "\n  {fault}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}
