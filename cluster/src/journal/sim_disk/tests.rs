use std::{collections::BTreeSet, io, path::Path};

use super::{Keep, SimDisk};
use crate::journal::disk::{Disk, read_exact_at, replace_file};

fn content(disk: &SimDisk, path: &str) -> Option<Vec<u8>> {
    let file = disk.open(Path::new(path)).ok()?;
    let len = file.len().unwrap() as usize;
    Some(read_exact_at(&*file, len, 0).unwrap())
}

/// A disk with one synced file `f` of these bytes.
fn disk_with(bytes: &[u8]) -> SimDisk {
    let disk = SimDisk::new();
    let file = disk.create(Path::new("f")).unwrap();
    file.write_at(bytes, 0).unwrap();
    file.sync().unwrap();
    disk.sync_dir(Path::new("")).unwrap();
    disk
}

#[test]
fn only_synced_bytes_are_sure() {
    let disk = disk_with(b"old");
    let file = disk.open(Path::new("f")).unwrap();
    file.write_at(b"new", 0).unwrap();
    file.allocate(5).unwrap();
    let now = disk.operations();
    assert_eq!(content(&disk, "f").unwrap(), b"new\0\0");
    let cut = |at, keep| content(&disk.after_power_cut(at, keep), "f").unwrap();
    assert_eq!(cut(now, Keep::Nothing), b"old");
    assert_eq!(cut(now, Keep::Everything), b"new\0\0");
    assert_eq!(cut(now - 1, Keep::Everything), b"new");
    file.sync().unwrap();
    assert_eq!(cut(now, Keep::Nothing), b"old");
    assert_eq!(cut(now + 1, Keep::Nothing), b"new\0\0");
}

#[test]
fn names_are_sure_after_a_sync_of_their_folder() {
    let disk = SimDisk::new();
    let dir = Path::new("a/b");
    disk.create_dir(dir).unwrap();
    let file = disk.create(&dir.join("f")).unwrap();
    file.write_at(b"x", 0).unwrap();
    file.sync().unwrap();
    disk.sync_dir(dir).unwrap();
    let survives = || {
        let cut = disk.after_power_cut(disk.operations(), Keep::Nothing);
        content(&cut, "a/b/f").is_some()
    };
    assert!(!survives(), "the folders are not synced");
    disk.sync_dir(Path::new("a")).unwrap();
    assert!(!survives(), "the upper folder is not synced");
    disk.sync_dir(Path::new("")).unwrap();
    assert!(survives());

    disk.rename(&dir.join("f"), Path::new("g")).unwrap();
    disk.sync_dir(dir).unwrap();
    assert!(survives(), "the folder it moved to is not synced");
    disk.sync_dir(Path::new("")).unwrap();
    assert!(!survives());
    let cut = disk.after_power_cut(disk.operations(), Keep::Nothing);
    assert_eq!(content(&cut, "g").unwrap(), b"x");
}

#[test]
fn sampled_cuts_tear_writes_at_sectors_and_differ_by_seed() {
    let disk = disk_with(&[0; 2048]);
    let file = disk.open(Path::new("f")).unwrap();
    // Touches four sectors, the first and the last in part.
    file.write_at(&[7; 1800], 100).unwrap();
    let mut seen = BTreeSet::new();
    for seed in 0..200 {
        let cut = disk.after_power_cut(disk.operations(), Keep::Sampled(seed));
        let again = disk.after_power_cut(disk.operations(), Keep::Sampled(seed));
        let bytes = content(&cut, "f").unwrap();
        assert_eq!(content(&again, "f").unwrap(), bytes, "seed {seed}");
        let sectors = [100..512, 512..1024, 1024..1536, 1536..1900].map(|range| {
            let sector = &bytes[range];
            assert!(sector.iter().all(|byte| *byte == sector[0]), "seed {seed}");
            sector[0] == 7
        });
        seen.insert(sectors);
    }
    assert_eq!(seen.len(), 16, "every subset of four sectors is drawn");
}

#[test]
fn what_a_failed_sync_lost_stays_lost() {
    let disk = disk_with(b"old");
    let file = disk.open(Path::new("f")).unwrap();
    file.write_at(b"new", 0).unwrap();
    disk.fail_sync(1);
    assert!(file.sync().is_err());
    file.sync().unwrap();
    assert_eq!(
        content(&disk, "f").unwrap(),
        b"new",
        "reads are from memory"
    );
    for keep in [Keep::Nothing, Keep::Everything] {
        let cut = disk.after_power_cut(disk.operations(), keep);
        assert_eq!(content(&cut, "f").unwrap(), b"old");
    }
    file.write_at(b"n", 0).unwrap();
    file.sync().unwrap();
    let cut = disk.after_power_cut(disk.operations(), Keep::Nothing);
    assert_eq!(content(&cut, "f").unwrap(), b"nld");
}

#[test]
fn after_a_failed_sync_of_a_folder_no_name_becomes_safe() {
    let disk = SimDisk::new();
    disk.create(Path::new("f")).unwrap();
    disk.fail_sync(1);
    assert!(disk.sync_dir(Path::new("")).is_err());
    disk.sync_dir(Path::new("")).unwrap();
    let cut = disk.after_power_cut(disk.operations(), Keep::Nothing);
    assert!(content(&cut, "f").is_none());
}

#[test]
fn the_nth_write_fails_and_leaves_a_part() {
    let disk = disk_with(b"");
    let file = disk.open(Path::new("f")).unwrap();
    disk.fail_write(2);
    file.write_at(b"1", 0).unwrap();
    let parts = [io::IoSlice::new(b"23"), io::IoSlice::new(b"45")];
    assert!(file.write_parts_at(&parts, 1).is_err());
    assert_eq!(content(&disk, "f").unwrap(), b"123");
    file.write_parts_at(&parts, 1).unwrap();
    assert_eq!(content(&disk, "f").unwrap(), b"12345");
}

#[test]
fn a_full_disk_says_so_and_room_comes_back() {
    let disk = disk_with(b"1234");
    disk.set_capacity(10);
    assert_eq!(disk.free_bytes().unwrap(), 6);
    let file = disk.create(Path::new("g")).unwrap();
    let full = |result: io::Result<()>| result.unwrap_err().kind() == io::ErrorKind::StorageFull;
    assert!(full(file.allocate(7)));
    assert!(full(file.write_at(b"1234567", 0)));
    file.allocate(6).unwrap();
    file.write_at(b"123456", 0).unwrap();
    assert_eq!(disk.free_bytes().unwrap(), 0);
    disk.remove(Path::new("f")).unwrap();
    assert_eq!(disk.free_bytes().unwrap(), 4);
}

#[test]
fn a_replaced_file_is_old_or_new_wherever_the_power_is_cut() {
    let disk = disk_with(b"old");
    let before = disk.operations();
    replace_file(&disk, Path::new("f"), b"new").unwrap();
    let mut seen = BTreeSet::new();
    for at in before..=disk.operations() {
        let sampled = (0..20).map(Keep::Sampled);
        for keep in sampled.chain([Keep::Nothing, Keep::Everything]) {
            seen.insert(content(&disk.after_power_cut(at, keep), "f").unwrap());
        }
    }
    assert_eq!(seen, BTreeSet::from([b"old".to_vec(), b"new".to_vec()]));
    let cut = disk.after_power_cut(disk.operations(), Keep::Nothing);
    assert_eq!(content(&cut, "f").unwrap(), b"new");
}

#[test]
fn errors_are_those_of_a_file_system() {
    let disk = disk_with(b"");
    let kind = |result: io::Result<()>| result.unwrap_err().kind();
    let path = Path::new("f");
    assert_eq!(
        kind(disk.create(path).map(drop)),
        io::ErrorKind::AlreadyExists
    );
    let missing = Path::new("d/f");
    assert_eq!(kind(disk.open(missing).map(drop)), io::ErrorKind::NotFound);
    assert_eq!(
        kind(disk.create(missing).map(drop)),
        io::ErrorKind::NotFound
    );
    assert_eq!(kind(disk.remove(missing)), io::ErrorKind::NotFound);
    assert_eq!(kind(disk.rename(missing, path)), io::ErrorKind::NotFound);
    assert_eq!(
        kind(disk.list(Path::new("d")).map(drop)),
        io::ErrorKind::NotFound
    );
    assert_eq!(kind(disk.sync_dir(Path::new("d"))), io::ErrorKind::NotFound);
}

#[test]
fn flipped_bits_survive_a_power_cut() {
    let disk = disk_with(b"abc").after_power_cut(usize::MAX, Keep::Nothing);
    disk.flip_bits(Path::new("f"), 1, 0x20).unwrap();
    assert_eq!(content(&disk, "f").unwrap(), b"aBc");
    let cut = disk.after_power_cut(0, Keep::Nothing);
    assert_eq!(content(&cut, "f").unwrap(), b"aBc");
}
