//! Logs tell of no panic, and of no error that the faults do not explain.
//!
//! Source: P10 and P12. ERROR means that a human must look (a rule of the
//! code): one that nothing explains is a bug in the code or in its logging.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail, ensure};

use crate::process::PANIC;

/// Lines that an error lists.
const LISTED: usize = 8;

/// How deep below a folder logs are looked for.
const DEPTH: usize = 5;

/// Lines of a log that nothing explains: panics always, errors unless they
/// have one of the `explained` texts.
#[must_use]
pub fn faults<'a>(log: &'a str, explained: &[&str]) -> Vec<&'a str> {
    let is_error = |line: &str| {
        // As text, the level is the second word; or as JSON.
        line.split_whitespace().nth(1) == Some("ERROR") || line.contains("\"level\":\"ERROR\"")
    };
    let is_panic = |line: &str| line.contains(PANIC);
    log.lines()
        .filter(|line| {
            let is_explained = explained.iter().any(|text| line.contains(text));
            is_panic(line) || is_error(line) && !is_explained
        })
        .collect()
}

/// Insists on it for each `*.log` below a folder. Gives their number.
pub fn check(dir: &Path, explained: &[&str]) -> Result<usize> {
    let logs = below(dir, DEPTH);
    let mut found = Vec::new();
    for log in &logs {
        let bytes = fs::read(log)?;
        let text = String::from_utf8_lossy(&bytes);
        let faults = faults(&text, explained);
        found.extend(
            faults
                .iter()
                .map(|line| format!("{}: {line}", log.display())),
        );
    }
    if !found.is_empty() {
        let listed: Vec<_> = found.iter().take(LISTED).cloned().collect();
        bail!(
            "{} lines of logs must not be there\n{}",
            found.len(),
            listed.join("\n")
        );
    }
    Ok(logs.len())
}

/// Insists that each of these texts is in one of the `*.log` below a folder:
/// what a run was about has happened.
pub fn shown(dir: &Path, texts: &[&str]) -> Result<()> {
    let mut left: Vec<&str> = texts.to_vec();
    for log in below(dir, DEPTH) {
        let bytes = fs::read(log)?;
        let text = String::from_utf8_lossy(&bytes);
        left.retain(|wanted| !text.contains(wanted));
    }
    ensure!(left.is_empty(), "no log says {left:?}: it did not happen");
    Ok(())
}

/// Whether some `*.log` below a folder says this. What cannot be read says
/// nothing.
#[must_use]
pub fn any_says(dir: &Path, text: &str) -> bool {
    below(dir, DEPTH).iter().any(|log| {
        let bytes = fs::read(log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).contains(text)
    })
}

fn below(dir: &Path, depth: usize) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if depth > 1 {
                found.extend(below(&path, depth - 1));
            }
        } else if path.extension().is_some_and(|end| end == "log") {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
2026-01-01T00:00:00Z  INFO weir: listening
2026-01-01T00:00:01Z ERROR weir_node::store: a file of this node failed error=no space
{\"timestamp\":\"2026\",\"level\":\"ERROR\",\"fields\":{\"message\":\"odd\"}}
thread 'main' panicked at node/src/main.rs:1:1:
2026-01-01T00:00:02Z  WARN weir: ERROR is only a word here
";

    #[test]
    fn panics_and_errors_are_found() {
        assert_eq!(faults(LOG, &[]).len(), 3);
        assert_eq!(faults(LOG, &["no space", "odd"]).len(), 1);
        // A panic is never explained.
        assert_eq!(faults(LOG, &["no space", "odd", "main.rs"]).len(), 1);
    }

    #[test]
    fn logs_are_found_in_folders() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("n1")).unwrap();
        fs::write(dir.path().join("n1/weir.log"), "fine\n").unwrap();
        fs::write(dir.path().join("n1/other"), LOG).unwrap();
        assert_eq!(check(dir.path(), &[]).unwrap(), 1);
        assert!(shown(dir.path(), &["fine"]).is_ok());
        assert!(shown(dir.path(), &["fine", "only a word"]).is_err());
        fs::write(dir.path().join("n1/weir.log"), LOG).unwrap();
        let error = check(dir.path(), &[]).unwrap_err().to_string();
        assert!(
            error.contains("3 lines") && error.contains("weir.log"),
            "{error}"
        );
    }
}
