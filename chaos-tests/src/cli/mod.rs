//! `chaos`: runs scenarios, and judges them.

mod failover;
mod planted;
mod smoke;
mod soak;
mod workers;

use std::{
    fmt::Display,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Result, ensure};
use clap::{Args, Parser, Subcommand};

use crate::{
    nemesis::Needs,
    program, rig,
    run::{self, Orders, Report, Tally, Target, target},
    scenario::{self, SCENARIOS, Scenario},
};

/// Problems that a run lists; its folder has all of them.
const LISTED: usize = 5;

/// Runs clusters of real `weir` processes under real faults and real clients,
/// and insists that nothing that clients were told becomes untrue.
///
/// A run makes a cluster, puts work on it, lets faults happen and heals them,
/// waits until the cluster says that it is whole, reads everything back that
/// was promised, and judges every answer. A run that found something keeps its
/// folder, and says how to run the same again.
///
/// With root, /dev/net/tun and loop devices each node has a network and a
/// volume of its own, and everything that can happen to either does. Without,
/// nodes are plain processes that are killed and paused.
///
/// It uses the program `weir` beside it, and has cargo build it when it is
/// missing or older than its sources.
///
/// Examples:
///   chaos list
///   chaos run --scenario kill-leader
///   chaos run --scenario mixed-two --seed 7
///   chaos smoke
///   chaos soak --minutes 60
///   chaos failover --kills 200
///   chaos run --scenario calm --target nodes.toml
#[derive(Parser)]
#[command(name = "chaos", version, verbatim_doc_comment)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show the scenarios: name, rows of the fault matrix, what it is about.
    List,
    /// Run one scenario.
    Run(RunArgs),
    /// Run a fixed selection of scenarios with fixed seeds, and one with a
    /// fresh seed, each in a process of its own. For every change of the code.
    Smoke(SmokeArgs),
    /// Run drawn scenarios with fresh seeds until the time is up.
    Soak(SoakArgs),
    /// Kill leaders, one after the other, and say how long the next push took
    /// each time. Use a program that is optimised, and an idle machine.
    Failover(FailoverArgs),
    /// Plant bugs in `weir`, one a run, and insist that each is caught by the
    /// scenario and the judge that are named for it. Needs programs that were
    /// built without optimisation.
    Planted(PlantedArgs),
    /// Judge the histories of a run again, from the folder that it kept.
    Replay {
        /// The folder.
        dir: PathBuf,
    },
    /// Show what all runs of a ledger did together.
    Ledger {
        /// The file.
        file: Option<PathBuf>,
    },
    /// Be the disk of a volume; see `rig::faultdisk`.
    #[command(hide = true)]
    Disk { image: PathBuf, mount: PathBuf },
}

#[derive(Args)]
struct RunArgs {
    /// Its name, as `chaos list` shows it.
    #[arg(long)]
    scenario: String,
    /// What all choices follow from: of the work, of the faults, of their
    /// victims. A fresh one if none is given.
    #[arg(long)]
    seed: Option<u64>,
    /// Run on the cluster that this file describes, with the faults that are
    /// commands in it; see docs/operations/chaos.md.
    #[arg(long, value_name = "FILE")]
    target: Option<PathBuf>,
    /// Where a run on a target keeps its histories.
    #[arg(long, value_name = "DIR", requires = "target")]
    keep: Option<PathBuf>,
    /// Keep the folder of the run also when nothing was found.
    #[arg(long, conflicts_with = "target")]
    keep_always: bool,
    /// Plain processes on loopback, whatever this machine has.
    #[arg(long)]
    loopback: bool,
    /// Write what came of it to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    #[command(flatten)]
    fetches: FetchesArgs,
    #[command(flatten)]
    ledger: LedgerArgs,
}

#[derive(Args, Clone, Copy)]
struct FetchesArgs {
    /// So many times the fetches of refs that a scenario has by itself, which
    /// suit a program that is not optimised.
    #[arg(long, value_name = "TIMES", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    fetches_times: u32,
}

#[derive(Args, Clone)]
struct LedgerArgs {
    /// Where runs add up; by default `chaos-ledger.json` beside the programs.
    #[arg(long, value_name = "FILE", global = true)]
    ledger: Option<PathBuf>,
}

#[derive(Args)]
struct SmokeArgs {
    /// Runs at the same time.
    #[arg(long, default_value_t = 2)]
    at_once: usize,
    /// Another seed for the selection.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only these scenarios, with commas between them.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    only: Vec<String>,
    /// Start no more runs after so many minutes; those that are left out are
    /// named.
    #[arg(long, default_value_t = 5.5)]
    minutes: f64,
    #[command(flatten)]
    fetches: FetchesArgs,
    #[command(flatten)]
    ledger: LedgerArgs,
}

#[derive(Args)]
struct SoakArgs {
    /// Start no more runs after so many minutes.
    #[arg(long)]
    minutes: f64,
    /// Runs at the same time.
    #[arg(long, default_value_t = 2)]
    at_once: usize,
    /// What scenarios and seeds are drawn from. A fresh one if none is given.
    #[arg(long)]
    seed: Option<u64>,
    #[command(flatten)]
    fetches: FetchesArgs,
    #[command(flatten)]
    ledger: LedgerArgs,
}

#[derive(Args)]
struct FailoverArgs {
    /// How often; rounded up to whole runs, each of which has a cluster of its
    /// own.
    #[arg(long, default_value_t = 200)]
    kills: usize,
    /// What the seeds of the runs are drawn from. A fresh one if none is given.
    #[arg(long)]
    seed: Option<u64>,
    #[command(flatten)]
    ledger: LedgerArgs,
}

#[derive(Args)]
struct PlantedArgs {
    /// Only these bugs, with commas between them.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    only: Vec<String>,
    /// Runs at the same time.
    #[arg(long, default_value_t = 1)]
    at_once: usize,
    #[command(flatten)]
    ledger: LedgerArgs,
}

impl LedgerArgs {
    fn file(&self) -> Result<PathBuf> {
        match &self.ledger {
            Some(file) => Ok(file.clone()),
            None => Ok(program::target_dir()?.join("chaos-ledger.json")),
        }
    }
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::List => list(),
        Command::Run(args) => run_one(&args),
        Command::Smoke(args) => smoke::run(&args),
        Command::Soak(args) => soak::run(&args),
        Command::Failover(args) => failover::run(&args),
        Command::Planted(args) => planted::run(&args),
        Command::Replay { dir } => replay(&dir),
        Command::Disk { image, mount } => rig::faultdisk::serve(&image, &mount).map(|()| true),
        Command::Ledger { file } => {
            let ledger = LedgerArgs { ledger: file };
            ledger
                .file()
                .and_then(|file| Tally::load(&file))
                .map(|tally| {
                    say(tally);
                    true
                })
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            let _ = writeln!(io::stderr(), "chaos: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Prints a line. A closed pipe is no reason to stop a run.
fn say(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Whether a run of it would be about what it says. Without the rig each would
/// be the same run of kills and pauses.
fn can_be_had(scenario: &Scenario) -> Result<bool> {
    Ok(match scenario.needs()? {
        Needs::Processes => true,
        Needs::World | Needs::Clocks => rig::available().is_ok(),
        Needs::Disks => rig::faultdisk::available().is_ok(),
    })
}

fn fresh_seed() -> Result<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    // Short enough to be typed.
    Ok(now.as_micros() as u64 % 1_000_000_000)
}

fn list() -> Result<bool> {
    let rig = rig::available();
    for scenario in SCENARIOS {
        let rows: Vec<_> = scenario.rows.iter().map(ToString::to_string).collect();
        let needs = match scenario.needs()? {
            Needs::Processes => "",
            Needs::World => " (networks and volumes)",
            Needs::Disks => " (disks that fail)",
            Needs::Clocks => " (clocks)",
        };
        let Scenario { name, about, .. } = scenario;
        say(format!("{name:22} {:>9}  {about}{needs}", rows.join(",")));
    }
    if let Err(why) = rig {
        say(format!("networks and volumes cannot be had here: {why}"));
    } else if let Err(why) = rig::faultdisk::available() {
        say(format!("disks that fail cannot be had here: {why}"));
    }
    Ok(true)
}

fn run_one(args: &RunArgs) -> Result<bool> {
    let scenario = scenario::find(&args.scenario)?;
    let seed = args.seed.map_or_else(fresh_seed, Ok)?;
    say(format!(
        "chaos run --scenario {} --seed {seed}",
        scenario.name
    ));
    let report = match &args.target {
        None => run::run(Orders {
            scenario,
            seed,
            fetches_times: args.fetches.fetches_times,
            loopback: args.loopback,
            keep: args.keep_always,
        })?,
        Some(file) => {
            let target = Target::load(file)?;
            let dir = args.keep.clone();
            let dir = dir.unwrap_or_else(|| target::default_dir(scenario, seed));
            target.run(scenario, seed, args.fetches.fetches_times, &dir)?
        }
    };
    if let Some(file) = &args.report {
        report.save(file)?;
    }
    // What is planted says nothing about the program.
    if report.planted.is_none() {
        Tally::enter(&args.ledger.file()?, &report)?;
    }
    tell(&report);
    Ok(report.has_passed())
}

/// What came of a run, for people.
fn tell(report: &Report) {
    say(report);
    let _ = write!(io::stdout(), "{}", report.first_problems(LISTED));
    if let Some(kept) = &report.kept {
        say(format!("  everything is kept in {}", kept.display()));
    }
    if !report.has_passed() {
        say(format!("  again: {}", report.reproduce()));
    }
}

fn replay(dir: &std::path::Path) -> Result<bool> {
    let (lines, problems) = run::replay(dir)?;
    for line in lines {
        say(line);
    }
    for problem in &problems {
        say(problem);
    }
    say(if problems.is_empty() {
        "everything that was answered is possible"
    } else {
        "FAILED"
    });
    Ok(problems.is_empty())
}

fn minutes(minutes: f64) -> Result<Duration> {
    ensure!(
        minutes.is_finite() && minutes > 0.0,
        "no such time: {minutes} minutes"
    );
    Ok(Duration::from_secs_f64(minutes * 60.0))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn minutes_are_a_time() {
        assert_eq!(minutes(1.5).unwrap(), Duration::from_secs(90));
        assert!(minutes(f64::NAN).is_err() && minutes(0.0).is_err());
    }
}
