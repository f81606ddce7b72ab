//! Runs the tests that catch planted bugs, with the bugs on.

use std::{
    collections::BTreeMap,
    io::Read,
    process::{Command, Stdio},
    sync::{Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use super::{BUGS, Planted, Suite, VARIABLE, reached};

/// A test that has not caught its bug by then is of no use in everyday runs.
const LIMIT: Duration = Duration::from_secs(60);

/// Tests that run at once: what a small machine can do beside other tests.
const AT_ONCE: usize = 2;

/// Plants each bug of a suite in a process of its own and runs its test there.
/// To be called from a test of that suite. Panics with what was not caught.
pub fn each_is_caught(suite: Suite) {
    let bugs = BUGS.iter().filter(|planted| planted.suite == suite);
    all_are_caught(bugs, |planted| is_caught_by(planted, planted.test, &[]));
}

/// The same for bugs that seeds of a simulation are to catch: `test` runs as
/// many as `variable` says.
pub fn each_is_caught_by_seeds(test: &str, variable: &str) {
    let bugs = BUGS.iter().filter(|planted| planted.seeds.is_some());
    all_are_caught(bugs, |planted| {
        let seeds = planted.seeds.unwrap_or_default().to_string();
        is_caught_by(planted, test, &[(variable, seeds)])
    });
}

#[expect(clippy::print_stderr, reason = "which test caught what, and how soon")]
fn all_are_caught(
    bugs: impl Iterator<Item = &'static Planted> + Send,
    is_caught: impl Fn(&Planted) -> Result<(), String> + Sync,
) {
    let waiting = Mutex::new(bugs);
    let outcomes = Mutex::new(BTreeMap::new());
    let work = || {
        loop {
            let next = waiting.lock().expect("no panic while locked").next();
            let Some(planted) = next else { return };
            let since = Instant::now();
            let outcome = is_caught(planted);
            let mut outcomes = outcomes.lock().expect("no panic while locked");
            outcomes.insert(planted.name, (outcome, since.elapsed()));
        }
    };
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(work);
        }
    });
    let mut missed = Vec::new();
    for (name, (outcome, took)) in outcomes.into_inner().expect("no panic while locked") {
        match outcome {
            Ok(()) => eprintln!("{name}: caught in {:.1} s", took.as_secs_f64()),
            Err(why) => missed.push(format!("{name}: {why}")),
        }
    }
    assert!(missed.is_empty(), "not caught:\n{}", missed.join("\n"));
}

/// Whether a test of this program catches a bug, run with it and with these
/// variables; if not, why.
fn is_caught_by(planted: &Planted, test: &str, variables: &[(&str, String)]) -> Result<(), String> {
    let output = output_of(planted, test, variables)?;
    if !output.contains("running 1 test") {
        return Err(format!("there is no test {test}\n{output}"));
    }
    if !output.contains(&reached(planted.bug)) {
        return Err(format!("{test} does not reach it"));
    }
    if !output.contains("0 passed; 1 failed") {
        return Err(format!("{test} does not fail\n{output}"));
    }
    Ok(())
}

/// All that the test says, run with the bug on.
fn output_of(
    planted: &Planted,
    test: &str,
    variables: &[(&str, String)],
) -> Result<String, String> {
    let failed = |error| format!("cannot run {test}: {error}");
    let program = std::env::current_exe().map_err(failed)?;
    let mut child = Command::new(program)
        // Also what a test says that passes.
        .args(["--exact", test, "--nocapture"])
        .env(VARIABLE, planted.name)
        .envs(variables.iter().map(|(name, value)| (*name, value)))
        // Failures are expected here: not to be kept as examples, nor made small.
        .env("PROPTEST_MAX_SHRINK_ITERS", "0")
        .env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let (sender, texts) = mpsc::channel();
    let pipes: [Option<Box<dyn Read + Send>>; 2] = [
        child.stdout.take().map(|pipe| Box::new(pipe) as _),
        child.stderr.take().map(|pipe| Box::new(pipe) as _),
    ];
    for mut pipe in pipes.into_iter().flatten() {
        let sender = sender.clone();
        thread::spawn(move || {
            let mut text = Vec::new();
            // What could not be read is then not found in it.
            let _ = pipe.read_to_end(&mut text);
            let _ = sender.send(text);
        });
    }
    drop(sender);
    let deadline = Instant::now() + LIMIT;
    let mut output = String::new();
    let outcome = loop {
        match texts.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(text) => output += &String::from_utf8_lossy(&text),
            Err(mpsc::RecvTimeoutError::Disconnected) => break Ok(output),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let _ = child.kill();
                break Err(format!("{test} has not ended in {LIMIT:?}"));
            }
        }
    };
    child.wait().map_err(failed)?;
    outcome
}
