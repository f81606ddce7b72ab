//! Threads that live in namespaces of their own.

use std::{
    fs::File,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, mpsc},
    thread,
};

use anyhow::{Context, Result, anyhow, bail};
use nix::sched::{CloneFlags, unshare};
use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    thread::{LinkNameSpaceType, gettid, move_into_link_name_space},
};

use crate::{process::Process, trial::Trial};

type Job = Box<dyn FnOnce() + Send>;

/// A thread in namespaces of its own. What is started there inherits them, and
/// is killed when the thread ends: the kernel counts the thread as parent.
///
/// The namespaces have no names. They go with the last process or open file
/// in them.
pub struct Room {
    jobs: mpsc::Sender<Job>,
    /// As `/proc` has it.
    task: PathBuf,
}

impl Room {
    /// A thread that shares all namespaces with the rest of the process.
    pub fn plain() -> Result<Arc<Room>> {
        open(|| Ok(()))
    }

    /// A thread with mounts of its own: what it mounts nobody else sees. Its
    /// `/dev/shm` is empty.
    pub fn with_mounts() -> Result<Arc<Room>> {
        open(|| {
            // Gives the thread a working directory of its own as well, without
            // which the kernel would refuse.
            unshare(CloneFlags::CLONE_NEWNS)?;
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            mount_change("/", private)?;
            let flags = MountFlags::NOSUID | MountFlags::NODEV;
            mount("tmpfs", "/dev/shm", "tmpfs", flags, None)?;
            Ok(())
        })
    }

    /// A thread with the mounts of this one and a network of its own, in which
    /// there is only the loopback interface.
    pub fn with_network(self: &Arc<Room>) -> Result<Arc<Room>> {
        // Threads inherit the namespaces of the thread that starts them.
        let room = self.run(|| open(|| Ok(unshare(CloneFlags::CLONE_NEWNET)?)))??;
        room.command("ip", &["link", "set", "lo", "up"])?;
        Ok(room)
    }

    /// Runs `job` there and waits for what it returns.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let (tell, told) = mpsc::channel();
        let job = Box::new(move || {
            // Nobody listens only when this process ends.
            let _ = tell.send(job());
        });
        let gone = || anyhow!("a room was closed");
        self.jobs.send(job).map_err(|_| gone())?;
        told.recv().map_err(|_| gone())
    }

    /// Runs a command there to its end and returns what it printed.
    pub fn command(&self, program: &str, words: &[&str]) -> Result<String> {
        let mut command = Command::new(program);
        command.args(words);
        self.run(move || finish(command))?
    }

    /// Starts a process there that dies with the room, also when this process
    /// is killed.
    pub fn spawn(
        &self,
        trial: &Trial,
        name: &str,
        command: &Command,
        log: &Path,
    ) -> Result<Process> {
        let mut bound = Command::new("setpriv");
        bound.args(["--pdeathsig", "KILL", "--"]);
        bound.arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => bound.env(key, value),
                None => bound.env_remove(key),
            };
        }
        let (trial, name, log) = (trial.clone(), name.to_owned(), log.to_owned());
        self.run(move || Process::spawn(&trial, &name, bound, &log))?
    }

    /// Where the rest of this process finds a file that is seen there.
    pub fn outside(&self, path: &Path) -> PathBuf {
        let inside = path.strip_prefix("/").unwrap_or(path);
        self.task.join("root").join(inside)
    }

    /// Moves the calling thread into the room's network, until the guard is
    /// dropped. Sockets and processes that it makes meanwhile are there.
    pub fn enter(&self) -> Result<Inside> {
        let before = File::open("/proc/thread-self/ns/net")?;
        let there = File::open(self.task.join("ns/net")).context("a room was closed")?;
        move_into_link_name_space(there.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(Inside { before })
    }
}

/// While it lives, its thread is in another network; see [`Room::enter`].
pub struct Inside {
    before: File,
}

impl Drop for Inside {
    fn drop(&mut self) {
        // The namespace is held open, so there is no way in which it can fail.
        let _ = move_into_link_name_space(self.before.as_fd(), Some(LinkNameSpaceType::Network));
    }
}

fn open(prepare: impl FnOnce() -> Result<()> + Send + 'static) -> Result<Arc<Room>> {
    let (jobs, queue) = mpsc::channel::<Job>();
    let (tell, told) = mpsc::channel();
    thread::Builder::new().name("room".into()).spawn(move || {
        let prepared = prepare();
        let is_fit = prepared.is_ok();
        let _ = tell.send(prepared.map(|()| gettid().as_raw_nonzero().get()));
        // Ends when the room is dropped.
        while is_fit && let Ok(job) = queue.recv() {
            job();
        }
    })?;
    let task = told.recv()??;
    let task = format!("/proc/{}/task/{task}", std::process::id()).into();
    Ok(Arc::new(Room { jobs, task }))
}

/// Runs a command to its end; what it printed, or an error that shows it.
pub(super) fn finish(mut command: Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("cannot start {:?}", command.get_program()))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{:?} {:?}: {}: {}{}",
            command.get_program(),
            command.get_args().collect::<Vec<_>>(),
            output.status,
            complaint.trim_end(),
            said.trim_end()
        );
    }
    Ok(said)
}
