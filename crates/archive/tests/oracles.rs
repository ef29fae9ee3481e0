//! Other programs as judges: GNU tar, bsdtar and Python's tarfile read what this crate writes, and it reads what they write.
//!
//! A program that is missing fails its test, with the package to install.

#![allow(clippy::unwrap_used, reason = "a test that cannot do its work has to end")]

mod common;

use common::{
    File, Tree as Files, acl, assert_same, capability, is_root, read, run, scratch, set_mtime, set_xattr,
};
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use thinlayer_archive::{ApplyOptions, DiffOptions, Timestamp, Tree, apply, diff};

/// What every form of tar can hold: short names, small numbers, whole seconds.
fn plain(root: &Path) {
    for name in ["d/below", "sticky", "empty-folder"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    fs::write(root.join("empty"), b"").unwrap();
    fs::write(root.join("block"), [7; 512]).unwrap();
    fs::write(root.join("d/below/large"), (0..70_001_u32).map(|at| at.to_le_bytes()[0]).collect::<Vec<_>>())
        .unwrap();
    fs::write(root.join("program"), b"#!/bin/sh\n").unwrap();
    fs::hard_link(root.join("program"), root.join("d/again")).unwrap();
    symlink("../block", root.join("d/link")).unwrap();
    if is_root() {
        std::os::unix::fs::lchown(root.join("block"), Some(1000), Some(1001)).unwrap();
    }
    let mode =
        |name: &str, mode| fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).unwrap();
    mode("program", 0o4755);
    mode("sticky", 0o1777);
    mode("empty", 0o600);
    for (index, name) in read(root).keys().rev().enumerate() {
        set_mtime(&root.join(common::path_of(name)), 1_600_000_000 + i64::try_from(index).unwrap(), 0);
    }
}

fn special(root: &Path) {
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    let make = |name: &str, kind, device| {
        mknod(&root.join(name), kind, Mode::from_bits_truncate(0o640), device).unwrap()
    };
    make("fifo", SFlag::S_IFIFO, 0);
    if is_root() {
        make("character", SFlag::S_IFCHR, makedev(1, 3));
        make("whiteout-of-overlayfs", SFlag::S_IFCHR, makedev(0, 0));
        make("block-device", SFlag::S_IFBLK, makedev(259, 70_000));
    }
    for name in ["fifo", "character", "whiteout-of-overlayfs", "block-device"] {
        if root.join(name).symlink_metadata().is_ok() {
            set_mtime(&root.join(name), 1_500_000_000, 0);
        }
    }
}

fn sparse(root: &Path) {
    let file = fs::File::create(root.join("sparse")).unwrap();
    for number in 0..30_u64 {
        file.write_all_at(&[0xaa; 5000], number * 65536 + 4096).unwrap();
    }
    file.set_len(3 << 20).unwrap();
    fs::File::create(root.join("hole")).unwrap().set_len(1 << 20).unwrap();
    for name in ["sparse", "hole"] {
        set_mtime(&root.join(name), 1_400_000_000, 0);
    }
}

fn long_names(root: &Path) {
    for name in ["n".repeat(100), "n".repeat(101), "n".repeat(255), "größe-".repeat(20)] {
        fs::write(root.join(&name), name.as_bytes()).unwrap();
    }
    let deep = root.join("folder-".repeat(10)).join("below-".repeat(20)).join("end-".repeat(25));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("file"), b"deep").unwrap();
    symlink("t".repeat(300), root.join("far")).unwrap();
    fs::hard_link(root.join("n".repeat(255)), deep.join("linked")).unwrap();
    for name in read(root).keys() {
        set_mtime(&root.join(common::path_of(name)), 1_700_000_000, 0);
    }
}

/// What only PAX holds.
fn pax(root: &Path) {
    for name in [&b"\xff\xfe"[..], &[0xe9; 130], b"new\nline", b"tab\tand space", b"back\\slash"] {
        fs::write(root.join(common::path_of(name)), name).unwrap();
    }
    let attributes = root.join("attributes");
    fs::write(&attributes, b"x").unwrap();
    assert!(set_xattr(&attributes, "user.binary", b"1\n\0\xff=\n"));
    assert!(set_xattr(&attributes, "user.empty", b""));
    if is_root() {
        assert!(set_xattr(&attributes, "security.capability", &capability(0x2000)));
        assert!(set_xattr(&attributes, "trusted.t", b"t"));
        std::os::unix::fs::lchown(root.join("empty"), Some(3_000_000), Some(4_000_000_000)).unwrap();
    }
    set_mtime(&attributes, 1_234_567_890, 123_456_789);
    set_mtime(&root.join("block"), -5, 0);
    set_mtime(&root.join("program"), -7, 250_000_000);
    set_mtime(&root.join("d"), 9_000_000_000, 1);
    set_mtime(root, 1_600_000_000, 5);
}

fn with_acls(root: &Path) {
    assert!(set_xattr(&root.join("attributes"), "system.posix_acl_access", &acl(54_321, 5)));
    assert!(set_xattr(&root.join("sticky"), "system.posix_acl_default", &acl(54_322, 7)));
}

struct Case {
    folder: tempfile::TempDir,
}

impl Case {
    fn new(parts: &[fn(&Path)]) -> Self {
        let folder = scratch();
        let case = Self { folder };
        fs::create_dir(case.tree()).unwrap();
        for part in parts {
            part(&case.tree());
        }
        set_mtime(&case.tree(), 1_600_000_000, 0);
        case
    }

    fn tree(&self) -> std::path::PathBuf {
        self.folder.path().join("tree")
    }

    fn unpacked(&self) -> std::path::PathBuf {
        let path = self.folder.path().join("unpacked");
        fs::create_dir(&path).unwrap();
        path
    }

    fn stream(&self) -> std::path::PathBuf {
        self.folder.path().join("stream.tar")
    }

    fn write(&self, options: &DiffOptions) {
        let file = fs::File::create(self.stream()).unwrap();
        diff(None, &Tree::open(self.tree()).unwrap(), file, options).unwrap();
    }

    /// Applies the stream that another program wrote of the tree, and compares what that form holds.
    fn applies(&self, what: &str, holds: impl Fn(&mut File)) {
        let into = self.unpacked();
        let stream = fs::File::open(self.stream()).unwrap();
        let done = apply(&Tree::open(&into).unwrap(), stream, &ApplyOptions::default());
        let done = done.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(done.skipped_xattrs, 0, "{what}: {:?}", done.skipped_xattr_names);
        assert_same(&masked(read(&self.tree()), &holds), &masked(read(&into), &holds), what);
        fs::remove_dir_all(into).unwrap();
    }
}

fn masked(mut files: Files, mask: &impl Fn(&mut File)) -> Files {
    files.values_mut().for_each(mask);
    files
}

fn everything(_: &mut File) {}

fn no_xattrs(file: &mut File) {
    file.xattrs.clear();
}

/// libarchive takes the fraction of a time before 1970 for one to be added (-1.25 for -0.75), when it writes as when it reads.
fn bsdtar_times(file: &mut File) {
    if file.mtime.0 < 0 && file.mtime.1 != 0 {
        file.mtime = (-1, 0);
    }
}

fn allocated(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).unwrap().blocks() * 512
}

const EVERYTHING: [fn(&Path); 5] = [plain, special, sparse, long_names, pax];

#[test]
fn gnu_tar_reads_what_we_write() {
    let case = Case::new(&EVERYTHING);
    with_acls(&case.tree());
    case.write(&DiffOptions::default());
    let into = case.unpacked();
    run(Command::new("tar")
        .args([
            "--extract",
            "--preserve-permissions",
            "--numeric-owner",
            "--xattrs",
            "--xattrs-include=*",
            "--file",
        ])
        .arg(case.stream())
        .arg("--directory")
        .arg(&into));
    assert_same(&read(&case.tree()), &read(&into), "GNU tar");
    assert!(allocated(&into.join("sparse")) <= allocated(&case.tree().join("sparse")));
    assert_eq!(allocated(&into.join("hole")), 0);
    let list = run(Command::new("tar").arg("--list").arg("--file").arg(case.stream()));
    assert!(list.starts_with(b"./\n"), "the root's entry comes first");
}

#[test]
fn bsdtar_reads_what_we_write() {
    let case = Case::new(&EVERYTHING);
    case.write(&DiffOptions::default());
    let into = case.unpacked();
    run(Command::new("bsdtar")
        .args(["-x", "-p", "--numeric-owner", "--xattrs", "-f"])
        .arg(case.stream())
        .arg("-C")
        .arg(&into));
    // It leaves the root's time.
    set_mtime(&into, 1_600_000_000, 0);
    assert_same(&masked(read(&case.tree()), &bsdtar_times), &masked(read(&into), &bsdtar_times), "bsdtar");
    assert!(allocated(&into.join("sparse")) <= allocated(&case.tree().join("sparse")));
}

#[test]
fn python_reads_what_we_write() {
    let case = Case::new(&EVERYTHING);
    case.write(&DiffOptions::default());
    let into = case.unpacked();
    let program = "import sys, tarfile\n\
        with tarfile.open(sys.argv[1], errors='surrogateescape') as stream:\n    stream.extractall(sys.argv[2], numeric_owner=True)\n";
    run(Command::new("python3").args(["-c", program]).arg(case.stream()).arg(&into));
    // It has times as floating-point numbers, sets none of links, and knows no attributes.
    let mask = |file: &mut File| {
        file.xattrs.clear();
        file.mtime = if file.target.is_some() { (0, 0) } else { (file.mtime.0, 0) };
    };
    assert_same(&masked(read(&case.tree()), &mask), &masked(read(&into), &mask), "Python");
}

/// Docker's own form: whole seconds, no attribute but capabilities, no holes told, nothing of the root.
#[test]
fn gnu_tar_reads_dockers_form() {
    let case = Case::new(&EVERYTHING);
    case.write(&DiffOptions::docker(Timestamp::at(1)));
    let into = case.unpacked();
    run(Command::new("tar")
        .args([
            "--extract",
            "--preserve-permissions",
            "--numeric-owner",
            "--xattrs",
            "--xattrs-include=*",
            "--file",
        ])
        .arg(case.stream())
        .arg("--directory")
        .arg(&into));
    let mask = |mut files: Files| {
        files.remove(&b""[..]);
        for file in files.values_mut() {
            file.xattrs.retain(|name, _| name == b"security.capability");
            file.mtime.1 = 0;
        }
        files
    };
    assert_same(&mask(read(&case.tree())), &mask(read(&into)), "Docker's form");
    let list = run(Command::new("tar").arg("--list").arg("--file").arg(case.stream()));
    assert!(!list.starts_with(b"./"), "the root has no entry");
}

#[test]
fn we_read_what_gnu_tar_writes() {
    let small: &[fn(&Path)] = &[plain, special];
    let medium: &[fn(&Path)] = &[plain, special, sparse, long_names];
    let full: &[fn(&Path)] = &EVERYTHING;
    let all = ["--format=posix", "--xattrs", "--xattrs-include=*"];
    for (parts, arguments) in [
        (&[plain as fn(&Path)][..], &["--format=v7"][..]),
        (small, &["--format=ustar"]),
        (medium, &["--format=oldgnu"]),
        (medium, &["--format=oldgnu", "--sparse"]),
        (medium, &["--format=gnu", "--sparse"]),
        (full, &all),
        (full, &[all[0], all[1], all[2], "--sparse", "--sparse-version=0.0"]),
        (full, &[all[0], all[1], all[2], "--sparse", "--sparse-version=0.1"]),
        (full, &[all[0], all[1], all[2], "--sparse", "--sparse-version=1.0"]),
        (full, &[all[0], all[1], all[2], "--sparse", "--gzip"]),
        (full, &[all[0], all[1], all[2], "--zstd"]),
    ] {
        let case = Case::new(parts);
        let what = format!("GNU tar {arguments:?}");
        run(Command::new("tar")
            .args(["--create", "--numeric-owner"])
            .args(arguments)
            .arg("--file")
            .arg(case.stream())
            .arg("--directory")
            .arg(case.tree())
            .arg("."));
        case.applies(&what, everything);
    }
}

/// GNU tar writes ACLs as text.
#[test]
fn we_read_acls_of_gnu_tar() {
    let case = Case::new(&[plain, pax]);
    with_acls(&case.tree());
    run(Command::new("tar")
        .args([
            "--create",
            "--numeric-owner",
            "--format=posix",
            "--acls",
            "--xattrs",
            "--xattrs-include=*",
            "--file",
        ])
        .arg(case.stream())
        .arg("--directory")
        .arg(case.tree())
        .arg("."));
    let text = fs::read(case.stream()).unwrap();
    assert!(text.windows(18).any(|part| part == b"SCHILY.acl.access="), "GNU tar writes ACLs as text");
    case.applies("GNU tar --acls", everything);
}

#[test]
fn we_read_what_bsdtar_writes() {
    let small: &[fn(&Path)] = &[plain, special];
    let full: &[fn(&Path)] = &EVERYTHING;
    for (parts, format) in [
        (&[plain as fn(&Path)][..], "v7"),
        (small, "ustar"),
        (&[plain, special, long_names], "gnutar"),
        (full, "pax"),
    ] {
        let case = Case::new(parts);
        // libarchive cannot archive names that are not of its locale.
        for name in [&b"\xff\xfe"[..], &[0xe9; 130]] {
            let _ = fs::remove_file(case.tree().join(common::path_of(name)));
        }
        set_mtime(&case.tree(), 1_600_000_000, 0);
        run(Command::new("bsdtar")
            .args(["-c", "--numeric-owner", "--xattrs", "--format", format, "-f"])
            .arg(case.stream())
            .arg("-C")
            .arg(case.tree())
            .arg("."));
        case.applies(&format!("bsdtar --format {format}"), bsdtar_times);
    }
}

#[test]
fn we_read_what_python_writes() {
    let small: &[fn(&Path)] = &[plain, special];
    let full: &[fn(&Path)] = &EVERYTHING;
    for (parts, format) in [(small, "USTAR"), (&[plain, special, sparse, long_names], "GNU"), (full, "PAX")] {
        let case = Case::new(parts);
        let program = format!(
            "import sys, tarfile\n\
             with tarfile.open(sys.argv[1], 'w', format=tarfile.{format}_FORMAT, errors='surrogateescape') as stream:\n    stream.add(sys.argv[2], '.')\n"
        );
        run(Command::new("python3").args(["-c", &program]).arg(case.stream()).arg(case.tree()));
        // Times as floating-point numbers.
        case.applies(&format!("Python {format}"), |file| {
            no_xattrs(file);
            file.mtime.1 = 0;
        });
    }
}

#[test]
fn we_read_what_gzip_and_zstd_write() {
    for (program, arguments) in
        [("gzip", &["-9", "-c"][..]), ("zstd", &["-q", "-19", "-c"]), ("zstd", &["-q", "--long=27", "-c"])]
    {
        let case = Case::new(&EVERYTHING);
        case.write(&DiffOptions::default());
        let packed = run(Command::new(program).args(arguments).arg(case.stream()));
        fs::write(case.stream(), packed).unwrap();
        case.applies(&format!("{program} {arguments:?}"), everything);
    }
}
