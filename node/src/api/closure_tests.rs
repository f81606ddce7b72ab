use std::collections::BTreeMap;

use weir_proto::reapi::{Directory, DirectoryNode, FileNode, SymlinkNode, Tree};

use super::*;

const WIDE: Limits = Limits {
    digests: 10_000,
    directory_bytes: 1 << 20,
    depth: 100,
};

fn blob(seed: u64) -> Digest {
    Digest::of(&seed.to_be_bytes())
}

fn directory(files: &[Digest], directories: &[Digest]) -> Directory {
    Directory {
        files: (0..)
            .zip(files)
            .map(|(index, digest)| FileNode {
                name: format!("file{index}"),
                digest: Some(arguments::to_wire(*digest)),
                ..FileNode::default()
            })
            .collect(),
        directories: (0..)
            .zip(directories)
            .map(|(index, digest)| DirectoryNode {
                name: format!("dir{index}"),
                digest: Some(arguments::to_wire(*digest)),
            })
            .collect(),
        symlinks: vec![SymlinkNode {
            name: "link".into(),
            target: "/somewhere".into(),
            ..SymlinkNode::default()
        }],
        ..Directory::default()
    }
}

/// Walks over given contents. What it visits, and in how many levels.
fn walk(
    limits: Limits,
    roots: &[Digest],
    contents: &BTreeMap<Digest, Vec<u8>>,
) -> Result<(Vec<Digest>, usize), Error> {
    let mut walk = Walk::new(limits);
    for root in roots {
        walk.add_directory(*root)?;
    }
    let mut levels = 0;
    loop {
        let level = walk.level()?;
        if level.is_empty() {
            break;
        }
        levels += 1;
        for digest in level {
            if let Some(bytes) = contents.get(&digest) {
                walk.take(bytes)?;
            }
        }
    }
    let mut closure = walk.finish();
    closure.sort_unstable();
    Ok((closure, levels))
}

fn sorted(mut digests: Vec<Digest>) -> Vec<Digest> {
    digests.sort_unstable();
    digests
}

#[test]
fn a_tree_is_walked_to_its_leaves() {
    let mut contents = BTreeMap::new();
    let mut add = |directory: Directory| {
        let bytes = directory.encode_to_vec();
        let digest = Digest::of(&bytes);
        contents.insert(digest, bytes);
        digest
    };
    let leaf = add(directory(&[blob(1), blob(2), Digest::EMPTY], &[]));
    let middle = add(directory(&[blob(2), blob(3)], &[leaf]));
    let absent = blob(99);
    let root = add(directory(&[blob(4)], &[middle, leaf, absent]));
    let (closure, levels) = walk(WIDE, &[root, root], &contents).unwrap();
    let expected = [
        blob(1),
        blob(2),
        blob(3),
        blob(4),
        leaf,
        middle,
        root,
        absent,
    ];
    assert_eq!(closure, sorted(expected.to_vec()));
    assert_eq!(levels, 2);
}

#[test]
fn circles_and_trees_that_repeat_themselves_end() {
    // No real bytes form a circle; a store that lies might.
    let (a, b) = (blob(1), blob(2));
    let circle = BTreeMap::from([
        (a, directory(&[], &[b, a]).encode_to_vec()),
        (b, directory(&[], &[a]).encode_to_vec()),
    ]);
    assert_eq!(walk(WIDE, &[a], &circle).unwrap(), (sorted(vec![a, b]), 2));

    // 2^60 paths, 61 directories.
    let mut contents = BTreeMap::new();
    let mut last = blob(7);
    for _ in 0..60 {
        let bytes = directory(&[], &[last; 2]).encode_to_vec();
        last = Digest::of(&bytes);
        contents.insert(last, bytes);
    }
    assert_eq!(walk(WIDE, &[last], &contents).unwrap().0.len(), 61);
}

#[test]
fn each_limit_ends_a_walk() {
    let mut contents = BTreeMap::new();
    let mut root = blob(7);
    for seed in 0..50 {
        let bytes = directory(&[blob(100 + seed)], &[root]).encode_to_vec();
        root = Digest::of(&bytes);
        contents.insert(root, bytes);
    }
    assert!(walk(WIDE, &[root], &contents).is_ok());
    for (limits, name) in [
        (
            Limits {
                digests: 99,
                ..WIDE
            },
            "closure_digests",
        ),
        (
            Limits {
                directory_bytes: 999,
                ..WIDE
            },
            "closure_directory_bytes",
        ),
        (Limits { depth: 49, ..WIDE }, "closure_depth"),
    ] {
        let error = walk(limits, &[root], &contents).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn a_tree_message_is_told_from_a_directory() {
    let child = directory(&[blob(3)], &[]);
    let child_digest = Digest::of(&child.encode_to_vec());
    for (root, expected) in [
        (
            directory(&[blob(1), blob(2)], &[child_digest]),
            vec![blob(1), blob(2), blob(3)],
        ),
        (directory(&[blob(1)], &[]), vec![blob(1), blob(3)]),
        (directory(&[], &[child_digest]), vec![blob(3)]),
        (Directory::default(), vec![blob(3)]),
    ] {
        let named = parse(&root.encode_to_vec()).unwrap();
        assert_eq!(named.directories.len(), root.directories.len());
        let tree = Tree {
            root: Some(root),
            children: vec![child.clone()],
        };
        let named = parse(&tree.encode_to_vec()).unwrap();
        assert_eq!((named.blobs, named.directories), (expected, vec![]));
    }
    assert_eq!(parse(&[]), Some(Named::default()));
    assert!(
        parse(
            &Tree {
                root: Some(Directory::default()),
                children: vec![]
            }
            .encode_to_vec()
        )
        .is_some()
    );
}

#[test]
fn other_bytes_are_neither() {
    let mut bad = directory(&[blob(1)], &[]);
    bad.files[0].digest = None;
    let mut worse = directory(&[], &[blob(1)]);
    if let Some(digest) = &mut worse.directories[0].digest {
        digest.hash = "../../etc/passwd".into();
    }
    for bytes in [
        bad.encode_to_vec(),
        worse.encode_to_vec(),
        b"#!/bin/sh\n".to_vec(),
        vec![0xff; 40],
    ] {
        assert_eq!(parse(&bytes), None);
        assert_eq!(Walk::new(WIDE).take(&bytes).unwrap(), Taken::Opaque);
    }
}

proptest::proptest! {
    #[test]
    fn no_bytes_break_the_parser(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let _ = parse(&bytes);
    }
}
