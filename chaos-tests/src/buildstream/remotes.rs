//! The cache servers that a machine is configured with.

use std::path::Path;

use super::install::Release;

/// How patient BuildStream 2 is with a server: a node that goes, and an election,
/// cost it a few seconds and no build. Times in seconds, the delay, which
/// doubles, in milliseconds.
const CONNECTION: &str = "    connection-config:\n      keepalive-time: 5\n      retry-limit: 8\n      \
                          retry-delay: 250\n      request-timeout: 30\n";

/// Which services of a remote BuildStream 2 uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Both.
    All,
    /// Remote Asset only.
    Index,
    /// CAS only.
    Storage,
}

/// A cache server in BuildStream's configuration.
#[derive(Clone, Debug)]
pub struct Remote {
    /// Its URL.
    pub url: String,
    /// What it is used for.
    pub part: Part,
}

impl Remote {
    /// A remote for everything.
    pub fn all(url: &str) -> Remote {
        Remote {
            url: url.to_owned(),
            part: Part::All,
        }
    }
}

/// The cache servers that a machine is configured with, all of them with
/// `push: true`.
#[derive(Clone, Debug, Default)]
pub struct Remotes {
    /// For artifacts.
    pub artifacts: Vec<Remote>,
    /// For sources; BuildStream 1 has none.
    pub sources: Vec<Remote>,
}

impl Remotes {
    /// No server at all.
    pub fn none() -> Remotes {
        Remotes::default()
    }

    /// One server for artifacts.
    pub fn artifacts(url: &str) -> Remotes {
        Remotes {
            artifacts: vec![Remote::all(url)],
            sources: Vec::new(),
        }
    }

    /// One server for artifacts and sources.
    pub fn everything(url: &str) -> Remotes {
        Remotes {
            artifacts: vec![Remote::all(url)],
            sources: vec![Remote::all(url)],
        }
    }

    /// BuildStream's user configuration with these servers, and with every
    /// cache below `home`.
    pub(super) fn config(&self, release: Release, home: &Path) -> String {
        let home = home.display();
        match release {
            Release::One => {
                let mut text = format!(
                    "sourcedir: {home}/cache/sources\nbuilddir: {home}/cache/build\n\
                     artifactdir: {home}/cache/artifacts\nlogdir: {home}/logs\n"
                );
                if !self.artifacts.is_empty() {
                    text += "artifacts:\n";
                }
                for remote in &self.artifacts {
                    text += &format!("- url: {}\n  push: true\n", remote.url);
                }
                text
            }
            Release::Two => {
                format!("cachedir: {home}/cache\nlogdir: {home}/logs\n")
                    + &section("artifacts", &self.artifacts)
                    + &section("source-caches", &self.sources)
            }
        }
    }
}

fn section(name: &str, remotes: &[Remote]) -> String {
    // Without servers the section still says that the project has no say.
    let mut text = format!("{name}:\n  override-project-caches: true\n");
    if !remotes.is_empty() {
        text += "  servers:\n";
    }
    for remote in remotes {
        let part = match remote.part {
            Part::All => "all",
            Part::Index => "index",
            Part::Storage => "storage",
        };
        text += &format!(
            "  - url: {}\n    type: {part}\n    push: true\n{CONNECTION}",
            remote.url
        );
    }
    text
}
