//! Developers who build while the cluster changes under them: an endless loop
//! of real BuildStream builds, pushed through one node, and pulls of earlier
//! ones from another.
//!
//! No build may fail. A pull may find nothing while blobs are on their way to
//! new owners, which costs a developer time and no build; how often it did is
//! counted.

use std::{
    fs,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};

use crate::{
    buildstream::{BuildStream, Deps, Machine, Project, Release, Remotes},
    gate::Gate,
    tree::{self, Tree},
    trial::Trial,
    wait::until,
};

/// Elements of a project.
const ELEMENTS: u32 = 3;

/// Builds without being asked for [more](Builds::more). After so many the loop
/// only pulls: each build is pulled from each node in the end, which takes its
/// time.
const FREE_BUILDS: usize = 5;

/// What pip may take.
const INSTALL_LIMIT: Duration = Duration::from_secs(900);

/// Installs BuildStream, or says what this machine lacks.
pub fn available() -> Result<()> {
    let install = |trial: &Trial| BuildStream::install(trial, Release::Two).map(drop);
    Trial::attempt("buildstream", INSTALL_LIMIT, install).map_err(|(error, kept)| {
        // There is nothing in it but what pip said.
        let _ = fs::remove_dir_all(kept);
        error
    })
}

/// The loop, until it is finished or dropped.
pub struct Builds {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<Project>>>,
}

struct Shared {
    stop: AtomicBool,
    /// Builds that the loop may make.
    budget: AtomicUsize,
    // A std mutex: held to push and to copy.
    done: Mutex<Done>,
}

/// What builds are made with.
#[derive(Clone)]
pub struct Builders {
    pub trial: Trial,
    pub bst: BuildStream,
}

/// What was built and pushed.
#[derive(Default)]
pub struct Done {
    /// Contents of `app.bst`; the index is the variant of the project.
    pub trees: Vec<Tree>,
    /// Pulls that found nothing.
    pub missed: usize,
}

impl Done {
    /// Pulls each build from one of the nodes, in turn, on a machine that has
    /// nothing, and compares it byte for byte.
    pub fn pull_in_turn(
        &self,
        builders: &Builders,
        project: &Project,
        urls: &[String],
    ) -> Result<()> {
        for (variant, expected) in self.trees.iter().enumerate() {
            let url = &urls[variant % urls.len()];
            let name = format!("last-{variant}");
            let remotes = Remotes::artifacts(url);
            let machine = Machine::new(&builders.trial, &builders.bst, &name, &remotes)?;
            project.change_to(variant as u64)?;
            machine.pull(project, "app.bst", Deps::None)?;
            tree::same(expected, &machine.checkout(project, "app.bst")?)?;
        }
        Ok(())
    }
}

impl Builds {
    /// Starts building `project`, which nobody else may touch meanwhile.
    pub fn start(
        trial: &Trial,
        bst: &BuildStream,
        project: Project,
        gate: Arc<Gate>,
    ) -> Result<Builds> {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            budget: AtomicUsize::new(FREE_BUILDS),
            done: Mutex::default(),
        });
        let (inner, trial, bst) = (shared.clone(), trial.clone(), bst.clone());
        let thread = thread::Builder::new()
            .name("builds".into())
            .spawn(move || {
                let developers = Developers {
                    builder: Machine::new(&trial, &bst, "builder", &Remotes::none())?,
                    trial,
                    bst,
                    project,
                    gate,
                    shared: inner,
                };
                let mut turn = 0;
                while developers.take_turn(turn)? {
                    turn += 1;
                }
                Ok(developers.project)
            })?;
        Ok(Builds {
            shared,
            thread: Some(thread),
        })
    }

    /// How many builds were pushed so far.
    pub fn done(&self) -> usize {
        self.shared.done().trees.len()
    }

    /// Waits until so many more builds were pushed. An error when one failed.
    pub fn more(&self, count: usize, limit: Duration) -> Result<()> {
        let wanted = self.done() + count;
        self.shared.budget.fetch_max(wanted, Ordering::Relaxed);
        until(format!("{count} more builds"), limit, || {
            if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
                bail!("a build failed");
            }
            Ok((self.done() >= wanted).then_some(()))
        })
    }

    /// Stops after the build under way; hands over the project and what was built.
    pub fn finish(mut self) -> Result<(Project, Done)> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("the builds are over already")?;
        let project = thread
            .join()
            .map_err(|_| anyhow!("the builds panicked"))?
            .context("a build failed while the cluster changed")?;
        let done = std::mem::take(&mut *self.shared.done());
        Ok((project, done))
    }
}

impl Drop for Builds {
    /// Ends the thread after the command that it is in; nobody waits for it.
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn done(&self) -> MutexGuard<'_, Done> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Developers {
    builder: Machine,
    trial: Trial,
    bst: BuildStream,
    project: Project,
    gate: Arc<Gate>,
    shared: Arc<Shared>,
}

impl Developers {
    /// One build and one pull; `false` at the end.
    fn take_turn(&self, turn: usize) -> Result<bool> {
        let built = self.shared.done().trees.len();
        if built < self.shared.budget.load(Ordering::Relaxed) && !self.build(turn, built)? {
            return Ok(false);
        }
        let Some(pass) = self.gate.enter(turn + 1, || self.shared.is_stopped()) else {
            return Ok(false);
        };
        let variant = self.shared.done().trees.len() - 1 - turn % 2 * (built / 2);
        self.project.change_to(variant as u64)?;
        let name = format!("reader-{turn}");
        let remotes = Remotes::artifacts(&pass.url);
        let reader = Machine::new(&self.trial, &self.bst, &name, &remotes)?;
        if reader.try_pull(&self.project, "app.bst", Deps::None)? {
            let pulled = reader.checkout(&self.project, "app.bst")?;
            tree::same(&self.shared.done().trees[variant], &pulled)?;
        } else {
            self.shared.done().missed += 1;
        }
        Ok(true)
    }

    fn build(&self, turn: usize, variant: usize) -> Result<bool> {
        let Some(pass) = self.gate.enter(turn, || self.shared.is_stopped()) else {
            return Ok(false);
        };
        self.project.change_to(variant as u64)?;
        self.builder.point_at(&Remotes::artifacts(&pass.url))?;
        let queues = self.builder.build(&self.project, "app.bst")?;
        if variant == 0 {
            queues.insist("Push", ELEMENTS, 0)?;
        } else {
            // What did not change is there already; while it is being moved it
            // may have to be pushed again.
            queues.insist_none_failed("Push")?;
        }
        let built = self.builder.checkout(&self.project, "app.bst")?;
        self.shared.done().trees.push(built);
        Ok(true)
    }
}
