//! What is on the volumes of nodes that do not run: the blobs, as `weir fsck`
//! says, and files that uploads left behind.

use std::{fs, io, path::PathBuf, time::Duration};

use anyhow::{Context, Result, anyhow};
use serde::Deserialize;

use super::Fleet;
use crate::load::content::Name;

/// To read a volume to its end, with an unoptimised program.
const READ_LIMIT: Duration = Duration::from_secs(120);

/// Where uploads of large blobs lie until they have their names, below a data
/// directory.
const UNFINISHED: &str = "blobs/tmp";

/// A row of `weir fsck --list --json`.
#[derive(Deserialize)]
struct Row {
    hash: String,
    size: u64,
}

#[derive(Deserialize)]
struct Listing {
    blobs: Vec<Row>,
}

impl Fleet {
    /// Insists that nothing is damaged on the volumes of these nodes, which do
    /// not run, but where bytes were changed on purpose.
    pub fn fsck(&self, numbers: &[usize]) -> Result<()> {
        self.read_volumes(numbers, &[]).map(drop)
    }

    /// The same, and gives the blobs that each of them holds.
    pub fn blobs(&self, numbers: &[usize]) -> Result<Vec<Vec<Name>>> {
        let listings = self.read_volumes(numbers, &["--list", "--json"])?;
        listings.iter().map(|text| listed(text)).collect()
    }

    /// Files of uploads that were given up, on the volumes of these nodes. Those
    /// who run, or were killed, may have some.
    pub fn unfinished(&self, numbers: &[usize]) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for number in numbers {
            let folder = self.node(*number).data_outside().join(UNFINISHED);
            let read = || -> io::Result<Vec<PathBuf>> {
                let entries = fs::read_dir(&folder)?;
                entries.map(|entry| Ok(entry?.path())).collect()
            };
            files.extend(read().with_context(|| format!("cannot list {}", folder.display()))?);
        }
        Ok(files)
    }

    /// What `weir fsck` prints about each.
    fn read_volumes(&self, numbers: &[usize], options: &[&str]) -> Result<Vec<String>> {
        let begun = numbers.iter().map(|number| {
            let data = self.node(*number).data().display().to_string();
            let words = [&["fsck", &data], options].concat();
            Ok((*number, self.begin_weir(*number, &words)?))
        });
        // All are begun before the first is waited for.
        let begun: Vec<_> = begun.collect::<Result<_>>()?;
        let texts = begun.into_iter().map(|(number, begun)| {
            let node = self.node(number);
            let (status, text) = begun.end(READ_LIMIT)?;
            match status.success() || node.is_rotten {
                true => Ok(text),
                false => Err(anyhow!("the volume of {}: {status}: {text}", node.name)),
            }
        });
        texts.collect()
    }
}

fn listed(text: &str) -> Result<Vec<Name>> {
    let listing: Listing = serde_json::from_str(text).context("no listing of blobs")?;
    let name = |row: &Row| {
        let name = Name::parse(&row.hash, row.size);
        name.with_context(|| format!("no digest: {}", row.hash))
    };
    listing.blobs.iter().map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_read_to_the_last_blob_or_not_at_all() {
        let name = Name::of(b"x");
        let row = format!("{{\"hash\":\"{}\",\"size\":1,\"where\":\"w\"}}", name.hex());
        let text = format!("{{\"damaged\":0,\"blobs\":[{row}]}}");
        assert_eq!(listed(&text).unwrap(), [name]);
        for bad in [
            &text[..text.len() - 1],
            "{}",
            "{\"blobs\":[{\"hash\":\"7\",\"size\":1}]}",
        ] {
            assert!(listed(bad).is_err(), "{bad}");
        }
    }
}
