//! The commands of the `weir` binary, one a file.
//!
//! Commands write what was asked for to standard output and everything else to
//! standard error. The exit status is 0 when the command did what it says, 1
//! when it could not, 2 when it was called wrongly.

mod admin_client;
mod check_config;
mod dev;
mod fsck;
mod init;
mod join;
mod node;
mod plan;
mod scrub;
mod serve;
mod settings;
mod show;
mod status;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, ConfigError};

/// A replicated cache cluster for BuildStream, Bazel, Buck2, recc and Pants.
///
/// Try it: `weir dev` runs a cluster of three nodes on this machine.
///
/// For real: write a weir.toml for each machine, then `weir init` and
/// `weir serve` on the first, `weir join` and `weir serve` on the others.
#[derive(Parser)]
#[command(name = "weir", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Dev(dev::Dev),
    Serve(serve::Serve),
    Init(init::Init),
    Join(join::Join),
    Status(status::Status),
    Node(node::Node),
    Plan(plan::Plan),
    Settings(settings::Settings),
    Scrub(scrub::Scrub),
    CheckConfig(check_config::CheckConfig),
    Fsck(fsck::Fsck),
}

/// Which configuration to use.
#[derive(Args, Clone)]
struct ConfigArgs {
    /// The node's configuration file
    #[arg(
        long,
        short,
        value_name = "FILE",
        env = "WEIR_CONFIG",
        default_value = "weir.toml"
    )]
    config: PathBuf,

    /// Override a key of the file (may be repeated)
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    overrides: Vec<String>,
}

/// Which cluster to talk to.
#[derive(Args, Clone)]
struct NodeArgs {
    /// Admin address of any node of the cluster
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "WEIR_NODE",
        default_value = "http://127.0.0.1:8982"
    )]
    node: String,
}

impl ConfigArgs {
    fn load(&self) -> Result<Config, ConfigError> {
        Config::load(&self.config, &self.overrides)
    }
}

/// Parses the arguments and runs the command.
#[must_use]
pub fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Dev(command) => command.run(),
        Command::Serve(command) => command.run(),
        Command::Init(command) => command.run(),
        Command::Join(command) => command.run(),
        Command::Status(command) => command.run(),
        Command::Node(command) => command.run(),
        Command::Plan(command) => command.run(),
        Command::Settings(command) => command.run(),
        Command::Scrub(command) => command.run(),
        Command::CheckConfig(command) => command.run(),
        Command::Fsck(command) => command.run(),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// An error and its causes, for people.
#[allow(clippy::print_stderr, reason = "the command line's own output")]
fn complain(error: &anyhow::Error) {
    eprintln!("weir: {error:#}");
}

/// Prints a line to standard output.
#[allow(clippy::print_stdout, reason = "the command line's own output")]
fn say(text: impl std::fmt::Display) {
    use std::io::Write;
    // A reader that went away (`weir status | head`) is no reason to fail.
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// A duration from its text: a number with `s`, `m`, `h` or `d`.
fn duration(text: &str) -> Result<Duration, String> {
    let refuse = || format!("{text:?}: expected a number with s, m, h or d, e.g. 30m");
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .ok_or_else(refuse)?;
    let (number, unit) = text.split_at(digits);
    let unit_seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(refuse()),
    };
    let number: u64 = number.parse().map_err(|_| refuse())?;
    let seconds = number.checked_mul(unit_seconds).ok_or_else(refuse)?;
    Ok(Duration::from_secs(seconds))
}

/// A runtime for commands that make a few calls and end.
fn block_on<F: Future>(future: F) -> anyhow::Result<F::Output> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(future))
}
