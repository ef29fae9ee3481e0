//! `apply(A, diff(A, B))` is B, in every attribute, for random trees and random changes.

#![allow(clippy::unwrap_used, reason = "a test that cannot do its work has to end")]

mod common;

use common::{
    File, Tree as Files, acl, assert_same, capability, is_root, read, remove_xattr, scratch, set_mtime,
    set_xattr,
};
use proptest::prelude::*;
use proptest::sample::Index;
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use thinlayer_archive::{ApplyOptions, CompareOptions, DiffOptions, Tree, apply, changes, diff};

/// Something done to a tree. Places are chosen among what is there.
#[derive(Clone, Debug)]
enum Op {
    File {
        folder: Index,
        name: usize,
        size: usize,
        seed: u8,
    },
    Sparse {
        folder: Index,
        name: usize,
        runs: Vec<(u32, u16)>,
        size: u32,
    },
    Directory {
        folder: Index,
        name: usize,
    },
    Deep {
        folder: Index,
        name: usize,
    },
    Symlink {
        folder: Index,
        name: usize,
        target: usize,
    },
    Special {
        folder: Index,
        name: usize,
        kind: u8,
    },
    Link {
        folder: Index,
        name: usize,
        of: Index,
    },
    Unlink {
        of: Index,
    },
    Rename {
        of: Index,
        folder: Index,
        name: usize,
    },
    Mode {
        of: Index,
        mode: u32,
    },
    Owner {
        of: Index,
        uid: u32,
        gid: u32,
    },
    Time {
        of: Index,
        seconds: i64,
        nanoseconds: i64,
    },
    Xattr {
        of: Index,
        name: usize,
        value: Vec<u8>,
    },
    DropXattrs {
        of: Index,
    },
    Acl {
        of: Index,
        user: u32,
        bits: u16,
        is_default: bool,
    },
    Write {
        of: Index,
        seed: u8,
    },
    /// Contents without a trace in size or time.
    WriteSecretly {
        of: Index,
        seed: u8,
    },
}

const LONG: [u8; 255] = [b'n'; 255];
const NAMES: [&[u8]; 18] = [
    b"a",
    b"b",
    b"c",
    b"a-b",
    b"a.b",
    b"ab",
    b"A",
    b"new\nline",
    b" ",
    b"x=y",
    b"%3D",
    b"\xff\xfe\x01",
    "größe".as_bytes(),
    b".wh",
    b"-rf",
    b"back\\slash",
    &LONG,
    &[0xe9; 120],
];
const XATTRS: [&str; 8] = [
    "user.a",
    "user.with=equals",
    "user.%25",
    "user.b\u{7}",
    "trusted.t",
    "security.capability",
    "security.selinux",
    "trusted.overlay.x",
];

fn op() -> impl Strategy<Value = Op> {
    let index = any::<Index>;
    let name = || 0..NAMES.len();
    prop_oneof![
        4 => (index(), name(), prop_oneof![Just(0), Just(1), Just(512), 0_usize..70_000], any::<u8>())
            .prop_map(|(folder, name, size, seed)| Op::File { folder, name, size, seed }),
        1 => (index(), name(), prop::collection::vec((0_u32..1 << 22, 1_u16..9000), 0..5), 0_u32..1 << 23)
            .prop_map(|(folder, name, runs, size)| Op::Sparse { folder, name, runs, size }),
        4 => (index(), name()).prop_map(|(folder, name)| Op::Directory { folder, name }),
        1 => (index(), name()).prop_map(|(folder, name)| Op::Deep { folder, name }),
        2 => (index(), name(), name()).prop_map(|(folder, name, target)| Op::Symlink { folder, name, target }),
        1 => (index(), name(), any::<u8>()).prop_map(|(folder, name, kind)| Op::Special { folder, name, kind }),
        4 => (index(), name(), index()).prop_map(|(folder, name, of)| Op::Link { folder, name, of }),
        3 => index().prop_map(|of| Op::Unlink { of }),
        2 => (index(), index(), name()).prop_map(|(of, folder, name)| Op::Rename { of, folder, name }),
        2 => (index(), 0_u32..0o10000).prop_map(|(of, mode)| Op::Mode { of, mode }),
        2 => (index(), 0_u32..4_000_000, 0_u32..4_000_000).prop_map(|(of, uid, gid)| Op::Owner { of, uid, gid }),
        2 => (index(), -100_i64..4_000_000_000, 0_i64..1_000_000_000)
            .prop_map(|(of, seconds, nanoseconds)| Op::Time { of, seconds, nanoseconds }),
        3 => (index(), 0..XATTRS.len(), prop::collection::vec(any::<u8>(), 0..300))
            .prop_map(|(of, name, value)| Op::Xattr { of, name, value }),
        1 => index().prop_map(|of| Op::DropXattrs { of }),
        2 => (index(), 0_u32..5000, any::<u16>(), any::<bool>())
            .prop_map(|(of, user, bits, is_default)| Op::Acl { of, user, bits, is_default }),
        2 => (index(), any::<u8>()).prop_map(|(of, seed)| Op::Write { of, seed }),
        1 => (index(), any::<u8>()).prop_map(|(of, seed)| Op::WriteSecretly { of, seed }),
    ]
}

fn all(root: &Path) -> Vec<PathBuf> {
    read(root).keys().map(|name| root.join(common::path_of(name))).collect()
}

fn is_directory(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|stat| stat.is_dir())
}

fn is_file(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|stat| stat.is_file())
}

fn data(size: usize, seed: u8) -> Vec<u8> {
    (0..size).map(|at| seed.wrapping_add(u8::try_from(at * 7 % 251).unwrap())).collect()
}

/// A path for something new; what is there goes. The root stays.
fn place(root: &Path, folder: Index, name: usize) -> Option<PathBuf> {
    let folders: Vec<_> = all(root).into_iter().filter(|path| is_directory(path)).collect();
    let path = folder.get(&folders).join(common::name_of(NAMES[name]));
    // Paths of the tests' own folder come before it.
    if path.as_os_str().len() > 3500 {
        return None;
    }
    remove(&path);
    Some(path)
}

fn remove(path: &Path) {
    if is_directory(path) {
        fs::remove_dir_all(path).unwrap();
    } else {
        let _ = fs::remove_file(path);
    }
}

fn run(root: &Path, op: &Op) {
    let some = |of: &Index| of.get(&all(root)).clone();
    match op {
        Op::File { folder, name, size, seed } => {
            if let Some(path) = place(root, *folder, *name) {
                fs::write(path, data(*size, *seed)).unwrap();
            }
        }
        Op::Sparse { folder, name, runs, size } => {
            let Some(path) = place(root, *folder, *name) else { return };
            let file = fs::File::create(path).unwrap();
            for (offset, length) in runs {
                file.write_all_at(&data(usize::from(*length), 1), u64::from(*offset)).unwrap();
            }
            file.set_len(u64::from(*size)).unwrap();
        }
        Op::Directory { folder, name } => {
            if let Some(path) = place(root, *folder, *name) {
                fs::create_dir(path).unwrap();
            }
        }
        Op::Deep { folder, name } => {
            let Some(mut path) = place(root, *folder, *name) else { return };
            let part = "d".repeat(40);
            while path.as_os_str().len() < 3000 {
                path.push(&part);
            }
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("end"), b"deep").unwrap();
        }
        Op::Symlink { folder, name, target } => {
            if let Some(path) = place(root, *folder, *name) {
                std::os::unix::fs::symlink(common::name_of(NAMES[*target]), path).unwrap();
            }
        }
        Op::Special { folder, name, kind } => {
            if let Some(path) = place(root, *folder, *name) {
                special(&path, *kind);
            }
        }
        Op::Link { folder, name, of } => {
            let from = some(of);
            if is_directory(&from) {
                return;
            }
            if let Some(path) = place(root, *folder, *name) {
                // What was there may have been the file itself, or a folder around it.
                let _ = fs::hard_link(from, path);
            }
        }
        Op::Unlink { of } => {
            let path = some(of);
            if path != root {
                remove(&path);
            }
        }
        Op::Rename { of, folder, name } => {
            let from = some(of);
            let length = |path: &Path| path.as_os_str().len();
            let below = all(root)
                .iter()
                .filter(|path| path.starts_with(&from))
                .map(|path| length(path) - length(&from))
                .max();
            if from != root
                && let Some(path) = place(root, *folder, *name)
                // What the test itself could not read is no case.
                && length(&path) + below.unwrap_or_default() < 3900
            {
                let _ = fs::rename(from, path);
            }
        }
        _ => touch(&some(place_of(op)), op),
    }
}

fn place_of(op: &Op) -> &Index {
    match op {
        Op::Mode { of, .. }
        | Op::Owner { of, .. }
        | Op::Time { of, .. }
        | Op::Xattr { of, .. }
        | Op::DropXattrs { of }
        | Op::Acl { of, .. }
        | Op::Write { of, .. }
        | Op::WriteSecretly { of, .. } => of,
        op => panic!("{op:?} has no place"),
    }
}

fn special(path: &Path, kind: u8) {
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    let (kind, device) = match kind % 4 {
        0 if is_root() => (SFlag::S_IFCHR, makedev(0, 0)),
        1 if is_root() => (SFlag::S_IFBLK, makedev(4000, 1_000_000)),
        2 => (SFlag::S_IFSOCK, 0),
        _ => (SFlag::S_IFIFO, 0),
    };
    mknod(path, kind, Mode::from_bits_truncate(0o640), device).unwrap();
}

fn touch(path: &Path, op: &Op) {
    let is_link = fs::symlink_metadata(path).unwrap().is_symlink();
    match op {
        // Without root, what cannot be read or entered could not be compared.
        Op::Mode { mode, .. } if !is_link => {
            let mode = if is_root() { *mode } else { mode | 0o700 };
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        Op::Owner { uid, gid, .. } if is_root() => {
            std::os::unix::fs::lchown(path, Some(*uid), Some(*gid)).unwrap();
        }
        Op::Time { seconds, nanoseconds, .. } => set_mtime(path, *seconds, *nanoseconds),
        Op::Xattr { name, value, .. } => {
            let name = XATTRS[*name];
            let value = if name == "security.capability" {
                capability(u32::from(value.first().copied().unwrap_or_default()))
            } else {
                value.clone()
            };
            // Links and devices take no attributes of users; without root, other names are refused.
            set_xattr(path, name, &value);
        }
        Op::DropXattrs { .. } => {
            for name in common::xattrs(path).keys() {
                remove_xattr(path, name);
            }
        }
        Op::Acl { user, bits, is_default, .. } => {
            let name = if *is_default { "system.posix_acl_default" } else { "system.posix_acl_access" };
            set_xattr(path, name, &acl(*user, *bits));
        }
        Op::Write { seed, .. } if is_file(path) => {
            fs::write(path, data(usize::from(*seed) * 40, *seed)).unwrap()
        }
        Op::WriteSecretly { seed, .. } if is_file(path) => {
            use std::os::unix::fs::MetadataExt;
            let stat = fs::metadata(path).unwrap();
            if stat.len() > 0 && stat.len() < 100_000 {
                let file = fs::OpenOptions::new().write(true).open(path).unwrap();
                file.write_all_at(&data(usize::try_from(stat.len()).unwrap(), *seed), 0).unwrap();
            }
            set_mtime(path, stat.mtime(), stat.mtime_nsec());
        }
        _ => {}
    }
}

/// overlayfs's own attributes stay where they are.
fn kept(mut files: Files) -> Files {
    for File { xattrs, .. } in files.values_mut() {
        xattrs.retain(|name, _| !name.starts_with(b"trusted.overlay."));
    }
    files
}

fn stream_of(old: Option<&Path>, new: &Path) -> Vec<u8> {
    let old = old.map(|old| Tree::open(old).unwrap());
    let mut stream = Vec::new();
    let done = diff(old.as_ref(), &Tree::open(new).unwrap(), &mut stream, &DiffOptions::default()).unwrap();
    assert_eq!(done.bytes, stream.len() as u64);
    stream
}

fn unpack(stream: &[u8], into: &Path) {
    let options = ApplyOptions { all_xattrs: is_root(), ..ApplyOptions::default() };
    apply(&Tree::open(into).unwrap(), stream, &options).unwrap();
}

fn check(before: &[Op], change: &[Op]) {
    let folder = scratch();
    let [old, new, copied, whole] = ["old", "new", "copied", "whole"].map(|name| folder.path().join(name));
    fs::create_dir(&old).unwrap();
    for op in before {
        run(&old, op);
    }
    common::copy(&old, &new);
    common::copy(&old, &copied);
    for op in change {
        run(&new, op);
    }
    let expected = kept(read(&new));

    let stream = stream_of(Some(&old), &new);
    assert_eq!(stream, stream_of(Some(&old), &new), "the same trees give the same bytes");
    unpack(&stream, &copied);
    assert_same(&expected, &kept(read(&copied)), "apply(A, diff(A, B)) is not B");
    let mut left = Vec::new();
    let (new_tree, copied_tree) = (Tree::open(&new).unwrap(), Tree::open(&copied).unwrap());
    changes(Some(&new_tree), &copied_tree, &CompareOptions::default(), |change| {
        left.push(change);
        Ok(())
    })
    .unwrap();
    // Sockets are in one tree only.
    left.retain(|change| {
        let path = new.join(change.path.strip_prefix("/").unwrap());
        fs::symlink_metadata(&path)
            .is_ok_and(|stat| !std::os::unix::fs::FileTypeExt::is_socket(&stat.file_type()))
            && !holds_socket(&path)
    });
    assert!(left.is_empty(), "changes() sees what is not there: {left:?}");

    fs::create_dir(&whole).unwrap();
    unpack(&stream_of(None, &new), &whole);
    assert_same(&expected, &kept(read(&whole)), "apply(nothing, diff(nothing, B)) is not B");
}

fn holds_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    is_directory(path)
        && fs::read_dir(path).unwrap().any(|entry| {
            let entry = entry.unwrap();
            entry.file_type().unwrap().is_socket() || holds_socket(&entry.path())
        })
}

fn cases() -> u32 {
    std::env::var("ARCHIVE_CASES").map_or(48, |cases| cases.parse().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn apply_of_a_diff_is_the_new_tree(
        before in prop::collection::vec(op(), 0..40),
        change in prop::collection::vec(op(), 0..15),
    ) {
        check(&before, &change);
    }
}
