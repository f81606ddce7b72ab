//! One developer's machine: a home directory with BuildStream's caches and
//! configuration in it, apart from every other machine's.

use std::{cell::Cell, env, fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result, bail};

use super::{
    install::{BuildStream, Release},
    project::Project,
    remotes::Remotes,
};
use crate::{
    process::run,
    tree::{self, Tree},
    trial::{Trial, tail},
};

/// One run of `bst`. A healthy one takes seconds; a remote that is down costs
/// it up to 20 s by its own timeouts.
const BST_LIMIT: Duration = Duration::from_secs(120);

/// Which elements a command is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deps {
    /// The element itself.
    None,
    /// The element and all it needs: three elements for `app.bst`.
    All,
}

impl Deps {
    fn word(self) -> &'static str {
        match self {
            Deps::None => "none",
            Deps::All => "all",
        }
    }
}

/// A machine with BuildStream on it.
pub struct Machine {
    trial: Trial,
    bst: BuildStream,
    name: String,
    home: PathBuf,
    runs: Cell<u32>,
}

impl Machine {
    /// A fresh machine with empty caches. `name` is unique within the trial.
    pub fn new(trial: &Trial, bst: &BuildStream, name: &str, remotes: &Remotes) -> Result<Machine> {
        let home = trial.dir().join("machines").join(name);
        fs::create_dir_all(home.parent().context("a machine has a parent folder")?)?;
        fs::create_dir(&home).with_context(|| format!("a second machine named {name}"))?;
        let machine = Machine {
            trial: trial.clone(),
            bst: bst.clone(),
            name: name.to_owned(),
            home,
            runs: Cell::new(0),
        };
        machine.point_at(remotes)?;
        Ok(machine)
    }

    /// Configures other servers; the caches stay.
    pub fn point_at(&self, remotes: &Remotes) -> Result<()> {
        Ok(fs::write(
            self.config(),
            remotes.config(self.bst.release, &self.home),
        )?)
    }

    /// Empties all caches of this machine.
    pub fn forget(&self) -> Result<()> {
        Ok(fs::remove_dir_all(self.home.join("cache"))?)
    }

    /// Builds an element and all it needs, and pushes what was built when a
    /// server is configured.
    pub fn build(&self, project: &Project, element: &str) -> Result<Queues> {
        self.bst(project, &["build", element])
    }

    /// Pushes artifacts and insists that each was pushed, none skipped.
    pub fn push(&self, project: &Project, element: &str, deps: Deps) -> Result<()> {
        self.artifact(project, "push", element, deps)
    }

    /// Pulls artifacts and insists that each was pulled: BuildStream itself
    /// counts an artifact that the server lacks as skipped, not as an error.
    pub fn pull(&self, project: &Project, element: &str, deps: Deps) -> Result<()> {
        self.artifact(project, "pull", element, deps)
    }

    /// As [`Self::pull`], but what the server does not show counts as no
    /// fault; says whether all was pulled.
    pub fn try_pull(&self, project: &Project, element: &str, deps: Deps) -> Result<bool> {
        let words = ["artifact", "pull", "--deps", deps.word(), element];
        let queues = self.bst(project, &words)?;
        queues.insist_none_failed("Pull")?;
        Ok(queues.insist("Pull", expected(deps), 0).is_ok())
    }

    fn artifact(&self, project: &Project, verb: &str, element: &str, deps: Deps) -> Result<()> {
        let words = [verb, "--deps", deps.word(), element];
        let queues = match self.bst.release {
            Release::One => self.bst(project, &words)?,
            Release::Two => self.bst(project, &[&["artifact"], &words[..]].concat())?,
        };
        let name = if verb == "push" { "Push" } else { "Pull" };
        queues.insist(name, expected(deps), 0)
    }

    /// The contents of an artifact. Pull first where that is the question:
    /// BuildStream 2 pulls for a checkout what its cache lacks.
    pub fn checkout(&self, project: &Project, element: &str) -> Result<Tree> {
        let dir = self.scratch("checkout")?;
        let to = dir.to_str().context("a path that is no text")?;
        match self.bst.release {
            Release::One => self.bst(project, &["checkout", "--deps", "none", element, to])?,
            Release::Two => {
                let words = [
                    "artifact",
                    "checkout",
                    "--deps",
                    "none",
                    "--directory",
                    to,
                    element,
                ];
                self.bst(project, &words)?
            }
        };
        tree::read(&dir)
    }

    /// Looks up the current version of an element's sources and writes it
    /// into the project. BuildStream 2 only, as all that is about sources.
    pub fn source_track(&self, project: &Project, element: &str) -> Result<()> {
        self.bst(project, &["source", "track", element]).map(drop)
    }

    /// Brings the sources of an element and all it needs into this machine's
    /// cache, from a source server or from upstream.
    pub fn source_fetch(&self, project: &Project, element: &str) -> Result<()> {
        let queues = self.bst(project, &["source", "fetch", "--deps", "all", element])?;
        queues.insist("Fetch", expected(Deps::All), 0)
    }

    /// Pushes the sources of an element and all it needs.
    pub fn source_push(&self, project: &Project, element: &str) -> Result<()> {
        let queues = self.bst(project, &["source", "push", "--deps", "all", element])?;
        queues.insist("Src-push", expected(Deps::All), 0)
    }

    /// The sources of an element as they are staged for a build.
    pub fn source_checkout(&self, project: &Project, element: &str) -> Result<Tree> {
        let dir = self.scratch("sources")?;
        let to = dir.to_str().context("a path that is no text")?;
        self.bst(project, &["source", "checkout", "--directory", to, element])?;
        tree::read(&dir)
    }

    fn config(&self) -> PathBuf {
        self.home.join("buildstream.conf")
    }

    /// A path for output that does not exist yet.
    fn scratch(&self, what: &str) -> Result<PathBuf> {
        Ok(self.home.join(format!("{what}-{}", self.runs.get())))
    }

    fn bst(&self, project: &Project, words: &[&str]) -> Result<Queues> {
        let number = self.runs.get() + 1;
        self.runs.set(number);
        let title = format!("{}: bst {}", self.name, words.join(" "));
        self.trial.step(&title);
        let mut command = Command::new(&self.bst.bst);
        command
            .args([
                "--no-interactive",
                "--no-colors",
                "--error-lines",
                "60",
                "--directory",
            ])
            .arg(&project.dir)
            .arg("--config")
            .arg(self.config())
            .args(words)
            .env("HOME", &self.home)
            .env("LC_ALL", "C.UTF-8");
        for (name, folder) in [
            ("XDG_CACHE_HOME", "xdg/cache"),
            ("XDG_CONFIG_HOME", "xdg/config"),
            ("XDG_DATA_HOME", "xdg/data"),
        ] {
            command.env(name, self.home.join(folder));
        }
        // bwrap and fusermount may lie where a plain user's PATH ends.
        let path = env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/sbin:/sbin:/usr/bin:/bin"));
        let log = self.home.join(format!("bst-{number}.log"));
        let text = run(&self.trial, &title, command, &log, BST_LIMIT)?;
        Ok(Queues { title, text, log })
    }
}

fn expected(deps: Deps) -> u32 {
    match deps {
        Deps::None => 1,
        Deps::All => 3,
    }
}

/// What a run of `bst` says that it did.
pub struct Queues {
    title: String,
    text: String,
    log: PathBuf,
}

impl Queues {
    /// Insists that the queue `name` processed so many elements, skipped so
    /// many (a push skips what the server has), and failed none.
    pub fn insist(&self, name: &str, processed: u32, skipped: u32) -> Result<()> {
        let line = self.line(name).unwrap_or("nothing");
        let wanted = format!("processed {processed}, skipped {skipped}, failed 0");
        if line != wanted {
            bail!(
                "{}: the {name} queue says \"{line}\", not \"{wanted}\"\n{}",
                self.title,
                tail(&self.log, 60)
            );
        }
        Ok(())
    }

    /// Insists that the queue `name` failed for no element.
    pub fn insist_none_failed(&self, name: &str) -> Result<()> {
        let line = self.line(name).unwrap_or("nothing");
        if !line.ends_with(", failed 0") {
            bail!(
                "{}: the {name} queue says \"{line}\"\n{}",
                self.title,
                tail(&self.log, 60)
            );
        }
        Ok(())
    }

    fn line(&self, name: &str) -> Option<&str> {
        let title = format!("{name} Queue:");
        self.text
            .lines()
            .rev()
            .find_map(|line| line.trim().strip_prefix(&title))
            .map(str::trim)
    }
}
