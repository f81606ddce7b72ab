//! Finds the `weir` program that belongs to this test program, and builds it
//! when it is missing or older than its sources.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{process::run, trial::Trial};

/// A build from nothing on two slow cores.
const BUILD_LIMIT: Duration = Duration::from_secs(900);

/// The path of `weir`, built from the sources as they are now.
///
/// `cargo test` of the whole workspace builds the program by itself, with the
/// features that the tests use; a `cargo build` of it alone would compile half
/// of the dependencies again with other features. So cargo is called only when
/// the program's own list of sources (the `.d` file beside it) does not say that
/// it is fresh, once in a process. `cargo test` writes no such list: tests have
/// cargo build all that it builds, which is nothing then, and the list.
pub fn weir(trial: &Trial) -> Result<PathBuf> {
    static FOUND: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();
    FOUND
        .get_or_init(|| find_or_build(trial).map_err(|error| format!("{error:#}")))
        .clone()
        .map_err(anyhow::Error::msg)
}

/// The path of `chaos` beside this program, which may be it.
pub fn chaos() -> Result<PathBuf> {
    let chaos = profile_dir()?.join("chaos");
    ensure!(chaos.is_file(), "there is no program {}", chaos.display());
    Ok(chaos)
}

/// Where cargo puts what it builds: `target`, or `CARGO_TARGET_DIR`. The test
/// program lies in `<target>/<profile>/deps`, an example beside that.
pub fn target_dir() -> Result<PathBuf> {
    Ok(profile_dir()?
        .parent()
        .context("the test program is in no target directory")?
        .to_owned())
}

fn profile_dir() -> Result<PathBuf> {
    let me = env::current_exe()?;
    let deps = me.parent().context("the test program is in no directory")?;
    let profile = if deps.ends_with("deps") || deps.ends_with("examples") {
        deps.parent()
    } else {
        Some(deps)
    };
    Ok(profile
        .context("the test program is in no profile directory")?
        .to_owned())
}

/// Whether this is a test of cargo's, and not `chaos`.
fn is_test() -> Result<bool> {
    let me = env::current_exe()?;
    Ok(me.parent().is_some_and(|dir| dir.ends_with("deps")))
}

fn find_or_build(trial: &Trial) -> Result<PathBuf> {
    let profile_dir = profile_dir()?;
    let weir = profile_dir.join("weir");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("this crate is in no workspace")?;
    if is_fresh(&weir, root) {
        return Ok(weir);
    }
    trial.step("building weir");
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some(name) => name,
        None => bail!("{} names no profile", profile_dir.display()),
    };
    let what: &[&str] = match is_test()? {
        true => &["--workspace", "--bins", "--tests"],
        false => &["--package", "weir-node", "--bin", "weir"],
    };
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .arg("build")
        .args(what)
        .args(["--profile", profile])
        .arg("--manifest-path")
        .arg(root.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(target_dir()?);
    run(
        trial,
        "cargo build",
        cargo,
        &trial.dir().join("cargo.log"),
        BUILD_LIMIT,
    )?;
    if !weir.is_file() {
        bail!("cargo built no {}", weir.display());
    }
    Ok(weir)
}

/// Whether the program is newer than each of its sources, all of which are
/// in the workspace at `root`: two checkouts may share a target directory.
fn is_fresh(program: &Path, root: &Path) -> bool {
    let Some(built) = modified(program) else {
        return false;
    };
    let Ok(list) = fs::read_to_string(program.with_extension("d")) else {
        return false;
    };
    let is_older = |file: &Path| modified(file).is_some_and(|time| time <= built);
    let mut sources = list
        .lines()
        .filter_map(|line| line.split_once(": "))
        .peekable();
    sources.peek().is_some()
        && is_older(&root.join("Cargo.lock"))
        && sources.all(|(_, sources)| {
            split_sources(sources)
                .iter()
                .all(|source| Path::new(source).starts_with(root) && is_older(Path::new(source)))
        })
}

/// Words of a make rule: blanks separate, a backslash keeps a blank.
fn split_sources(rule: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut chars = rule.chars();
    while let Some(next) = chars.next() {
        match next {
            '\\' => words.last_mut().expect("never empty").extend(chars.next()),
            ' ' => words.push(String::new()),
            other => words.last_mut().expect("never empty").push(other),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

fn modified(file: &Path) -> Option<SystemTime> {
    fs::metadata(file).and_then(|data| data.modified()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_split_at_blanks_that_are_not_escaped() {
        assert_eq!(
            split_sources(r"/a/b.rs /c\ d/e.rs  /f.rs"),
            ["/a/b.rs", "/c d/e.rs", "/f.rs"]
        );
    }

    #[test]
    fn a_program_is_stale_when_a_source_is_newer_or_gone() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let (program, source) = (root.join("weir"), root.join("main.rs"));
        let lock = root.join("Cargo.lock");
        let check = |fresh, why: &str| assert_eq!(is_fresh(&program, root), fresh, "{why}");
        let age = |file: &Path, seconds| {
            let then = SystemTime::now() - Duration::from_secs(seconds);
            fs::File::options()
                .write(true)
                .open(file)
                .unwrap()
                .set_modified(then)
                .unwrap();
        };
        check(false, "there is no program");
        for file in [&program, &source, &lock] {
            fs::write(file, "").unwrap();
            age(file, if *file == program { 60 } else { 120 });
        }
        check(false, "there is no list of sources");
        let list = format!("{}: {}\n", program.display(), source.display());
        fs::write(program.with_extension("d"), list).unwrap();
        check(true, "everything is older");
        assert!(
            !is_fresh(&program, Path::new("/elsewhere")),
            "it is another checkout's"
        );
        age(&lock, 30);
        check(false, "dependencies have changed");
        age(&lock, 120);
        age(&source, 30);
        check(false, "the source is newer");
        fs::remove_file(&source).unwrap();
        check(false, "the source is gone");
    }
}
