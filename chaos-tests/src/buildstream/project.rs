//! A project of three elements that builds offline in a second or two.
//!
//! ```text
//! base.bst   import   a static busybox and the names it goes by
//! src.bst    import   some hundred small files, one of more than 4 MiB
//! app.bst    manual   runs commands in a sandbox made of the other two
//! ```
//!
//! The contents follow from a seed: files of the same seed are the same, and
//! files of two seeds share no blob.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};

use super::install::{Release, find};
use crate::{process::run, seeded::bytes, trial::Trial};

/// Small files of `src.bst`: more than one batch of 1 MiB together.
const SMALL_FILES: u64 = 400;

/// Above the 4 MiB of a gRPC message, so that clients have to stream it; not
/// a whole number of any chunk.
const LARGE_BYTES: usize = 5 * 1024 * 1024 + 77;

/// Names by which the sandbox calls busybox.
const APPLETS: &[&str] = &[
    "sh",
    "ls",
    "cat",
    "cp",
    "mkdir",
    "find",
    "sort",
    "sha256sum",
    "wc",
    "chmod",
    "printf",
    "env",
];

/// Making one archive.
const TAR_LIMIT: Duration = Duration::from_secs(60);

/// Where the files of `src.bst` come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// A folder of the project: there as long as the project is.
    Local,
    /// An archive on "another server" (a `file:` URL), which
    /// [`Project::unpublish`] can take away. BuildStream 2 only.
    Archive,
}

/// A BuildStream project in a directory.
pub struct Project {
    release: Release,
    sources: SourceKind,
    seed: u64,
    /// The project's directory.
    pub dir: PathBuf,
}

impl Project {
    /// Writes the project for `release` into `dir`, which must not exist.
    pub fn write(
        trial: &Trial,
        dir: &Path,
        release: Release,
        sources: SourceKind,
        seed: u64,
    ) -> Result<Project> {
        let project = Project {
            release,
            sources,
            seed,
            dir: dir.to_owned(),
        };
        for folder in ["elements", "files/base/bin", "files/src", "upstream"] {
            fs::create_dir_all(dir.join(folder))?;
        }
        let base = dir.join("files/base/bin");
        let busybox =
            find("busybox").context("busybox is missing: apt-get install busybox-static")?;
        fs::copy(busybox, base.join("busybox"))?;
        for applet in APPLETS {
            symlink("busybox", base.join(applet))?;
        }
        project.write_sources()?;
        if sources == SourceKind::Archive {
            project.publish(trial)?;
        }
        project.write_elements()?;
        Ok(project)
    }

    /// Gives `src.bst` and `app.bst` new contents and with them new keys;
    /// most small files and the large one stay as they are.
    pub fn change(&self) -> Result<()> {
        self.change_to(0)
    }

    /// As [`Self::change`], to one of many contents. Going back to one that
    /// was there before brings its keys back.
    pub fn change_to(&self, variant: u64) -> Result<()> {
        let file = self.dir.join("files/src/changed");
        let seed = self.seed ^ 0x5eed ^ variant << 32;
        Ok(fs::write(file, bytes(seed, 70_000))?)
    }

    /// Takes the archive of `src.bst` off its server: from now on only a
    /// cache has it.
    pub fn unpublish(&self) -> Result<()> {
        Ok(fs::remove_file(self.archive())?)
    }

    fn archive(&self) -> PathBuf {
        self.dir.join("upstream/src.tar")
    }

    fn publish(&self, trial: &Trial) -> Result<()> {
        let mut tar = Command::new("tar");
        tar.arg("-C")
            .arg(self.dir.join("files"))
            .arg("-cf")
            .arg(self.archive())
            .arg("src");
        run(trial, "tar", tar, &trial.dir().join("tar.log"), TAR_LIMIT)?;
        Ok(())
    }

    fn write_sources(&self) -> Result<()> {
        let src = self.dir.join("files/src");
        for number in 0..SMALL_FILES {
            let folder = src.join(format!("small/{}", number % 16));
            fs::create_dir_all(&folder)?;
            // 0 (the empty blob) up to some 8 KB.
            let contents = bytes(self.seed.wrapping_add(number), number as usize * 20);
            fs::write(folder.join(format!("file-{number}")), contents)?;
        }
        fs::write(src.join("large"), bytes(!self.seed, LARGE_BYTES))?;
        Ok(())
    }

    fn write_elements(&self) -> Result<()> {
        let mut conf = match self.release {
            Release::One => "name: sample\nformat-version: 18\n",
            Release::Two => "name: sample\nmin-version: 2.0\n",
        }
        .to_owned();
        conf += "element-path: elements\n";
        conf += &format!(
            "aliases:\n  upstream: file://{}/upstream/\n",
            self.dir.display()
        );
        let src = match self.sources {
            SourceKind::Local => "- kind: local\n  path: files/src\n",
            SourceKind::Archive => "- kind: tar\n  url: upstream:src.tar\n",
        };
        let depends = match self.release {
            Release::One => {
                "depends:\n- {filename: base.bst, type: build}\n- {filename: src.bst, type: build}\n"
            }
            Release::Two => "build-depends:\n- base.bst\n- src.bst\n",
        };
        let base = "- kind: local\n  path: files/base\n";
        let elements = self.dir.join("elements");
        fs::write(self.dir.join("project.conf"), conf)?;
        fs::write(
            elements.join("base.bst"),
            format!("kind: import\nsources:\n{base}"),
        )?;
        let src = format!("kind: import\nsources:\n{src}config:\n  target: /src\n");
        fs::write(elements.join("src.bst"), src)?;
        fs::write(
            elements.join("app.bst"),
            format!("kind: manual\n{depends}{APP}"),
        )?;
        Ok(())
    }
}

/// The sandbox copies everything, and writes a list of checksums: a byte that
/// changed on the way to the sandbox shows in the artifact.
const APP: &str = r#"variables:
  strip-binaries: ""
config:
  install-commands:
  - mkdir -p "%{install-root}/out"
  - cp -r /src/. "%{install-root}/out/"
  - find /src -type f -exec sha256sum {} + | sort > "%{install-root}/out/sums"
"#;
