//! Compares two directory trees byte for byte.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

/// Differences that one error lists; more would only hide the first.
const SHOWN: usize = 8;

/// What stands at one path of a tree.
#[derive(Clone, PartialEq, Eq)]
pub enum Entry {
    /// A directory.
    Directory,
    /// A file with its bytes, and whether it may be executed.
    File { bytes: Vec<u8>, executable: bool },
    /// A symbolic link and where it points.
    Link(PathBuf),
}

/// Everything below a directory, by relative path.
pub type Tree = BTreeMap<PathBuf, Entry>;

/// Reads a whole tree. Links are not followed.
pub fn read(root: &Path) -> Result<Tree> {
    let mut tree = Tree::new();
    let mut left = vec![root.to_owned()];
    while let Some(dir) = left.pop() {
        let entries = fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))?;
        for entry in entries {
            let path = entry?.path();
            let data = fs::symlink_metadata(&path)?;
            let found = if data.is_dir() {
                left.push(path.clone());
                Entry::Directory
            } else if data.is_symlink() {
                Entry::Link(fs::read_link(&path)?)
            } else {
                let executable = data.permissions().mode() & 0o111 != 0;
                Entry::File {
                    bytes: fs::read(&path)?,
                    executable,
                }
            };
            tree.insert(path.strip_prefix(root)?.to_owned(), found);
        }
    }
    Ok(tree)
}

/// An error that lists the differences between two trees, if there are any.
/// Two empty trees are an error as well: nothing was compared.
pub fn same(left: &Tree, right: &Tree) -> Result<()> {
    if left.is_empty() && right.is_empty() {
        bail!("both trees are empty");
    }
    let differ: Vec<&PathBuf> = left
        .keys()
        .chain(right.keys().filter(|path| !left.contains_key(*path)))
        .filter(|path| left.get(*path) != right.get(*path))
        .collect();
    if !differ.is_empty() {
        bail!(
            "{} paths differ: {:?}",
            differ.len(),
            differ.iter().take(SHOWN).collect::<Vec<_>>()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn sample() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("a/b/file"), "text").unwrap();
        symlink("file", dir.path().join("a/b/link")).unwrap();
        dir
    }

    fn check(change: impl Fn(&Path), differs: bool) {
        let (one, two) = (sample(), sample());
        change(two.path());
        let got = same(&read(one.path()).unwrap(), &read(two.path()).unwrap());
        assert_eq!(got.is_err(), differs);
    }

    #[test]
    fn differences_are_found() {
        check(|_| (), false);
        check(|dir| fs::write(dir.join("a/b/file"), "tex7").unwrap(), true);
        check(|dir| fs::write(dir.join("more"), "").unwrap(), true);
        check(|dir| fs::create_dir(dir.join("more")).unwrap(), true);
        check(|dir| fs::remove_file(dir.join("a/b/link")).unwrap(), true);
        check(
            |dir| {
                let mode = fs::Permissions::from_mode(0o755);
                fs::set_permissions(dir.join("a/b/file"), mode).unwrap();
            },
            true,
        );
    }

    #[test]
    fn two_empty_trees_are_no_evidence() {
        assert!(same(&Tree::new(), &Tree::new()).is_err());
    }
}
