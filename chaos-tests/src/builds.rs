//! Developers who build while the cluster changes under them: an endless loop
//! of real BuildStream builds, pushed through one node and pulled from another.
//!
//! No build may fail. A pull may find nothing while blobs are on their way to
//! new owners, which costs a developer time and no build; how often it did is
//! counted.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};

use crate::{
    buildstream::{BuildStream, Deps, Machine, Project, Remotes},
    gate::Gate,
    tree::{self, Tree},
    trial::Trial,
    wait::until,
};

/// Elements that one change builds anew, and those it takes as they are.
const BUILT: (u32, u32) = (2, 1);

/// The loop, until it is finished or dropped.
pub struct Builds {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<Project>>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    // A std mutex: held to push and to copy.
    done: Mutex<Done>,
}

/// What was built and pushed.
#[derive(Default)]
pub struct Done {
    /// Contents of `app.bst`; the index is the variant of the project.
    pub trees: Vec<Tree>,
    /// Pulls that found nothing.
    pub missed: usize,
}

impl Builds {
    /// Starts building `project`, which nobody else may touch meanwhile.
    pub fn start(
        trial: &Trial,
        bst: &BuildStream,
        project: Project,
        gate: Arc<Gate>,
    ) -> Result<Builds> {
        let shared = Arc::new(Shared::default());
        let (inner, trial, bst) = (shared.clone(), trial.clone(), bst.clone());
        let thread = thread::Builder::new()
            .name("builds".into())
            .spawn(move || {
                let builder = Machine::new(&trial, &bst, "builder", &Remotes::none())?;
                let mut turn = 0;
                while build(&trial, &bst, &builder, &project, &gate, &inner, turn)? {
                    turn += 1;
                }
                Ok(project)
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

/// One build, pushed and pulled; `false` at the end.
fn build(
    trial: &Trial,
    bst: &BuildStream,
    builder: &Machine,
    project: &Project,
    gate: &Arc<Gate>,
    shared: &Shared,
    turn: usize,
) -> Result<bool> {
    project.change_to(turn as u64)?;
    let Some(pass) = gate.enter(turn, || shared.is_stopped()) else {
        return Ok(false);
    };
    builder.point_at(&Remotes::artifacts(&pass.url))?;
    let queues = builder.build(project, "app.bst")?;
    if turn == 0 {
        queues.insist("Push", BUILT.0 + BUILT.1, 0)?;
    } else {
        // The base is there already; while it is being moved it may have to be
        // pushed again.
        queues.insist_none_failed("Push")?;
    }
    let built = builder.checkout(project, "app.bst")?;
    drop(pass);
    shared.done().trees.push(built.clone());
    let Some(pass) = gate.enter(turn + 1, || shared.is_stopped()) else {
        return Ok(false);
    };
    let reader = Machine::new(
        trial,
        bst,
        &format!("reader-{turn}"),
        &Remotes::artifacts(&pass.url),
    )?;
    if reader.try_pull(project, "app.bst", Deps::None)? {
        tree::same(&built, &reader.checkout(project, "app.bst")?)?;
    } else {
        shared.done().missed += 1;
    }
    Ok(true)
}
