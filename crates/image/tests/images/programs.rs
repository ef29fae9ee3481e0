//! Tars as the programs of this machine write them, a reader of the record in another language, and the tree in a folder.

use crate::records::split_with;
use crate::support::*;
use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;
use std::process::Command;
use thinlayer_image::{Assembler, Digest, Error, ErrorKind, TreeFolder};

/// Another reader of the record, as Docker's: it refuses names that come twice, and checks each file.
const READER: &str = r#"
import base64, gzip, json, os, posixpath, sys
table = []
for byte in range(256):
    for _ in range(8):
        byte = byte >> 1 ^ (0xd800000000000000 if byte & 1 else 0)
    table.append(byte)
def crc(data):
    value = 2**64 - 1
    for byte in data:
        value = table[(value ^ byte) & 255] ^ value >> 8
    return value ^ 2**64 - 1
root, seen, position = os.fsencode(sys.argv[1]), set(), 0
for line in gzip.open(sys.argv[2]):
    entry = json.loads(line)
    payload = base64.b64decode(entry['payload'] or '')
    assert entry['position'] == position, entry
    position += 1
    if entry['type'] == 2:
        sys.stdout.buffer.write(payload)
        continue
    name = base64.b64decode(entry['name_raw']) if 'name_raw' in entry else entry['name'].encode()
    clean = posixpath.normpath(name)
    assert clean not in seen, clean
    seen.add(clean)
    if entry.get('size', 0):
        data = open(os.path.join(root, name), 'rb').read()
        assert len(data) == entry['size'] and crc(data) == int.from_bytes(payload, 'big'), name
        sys.stdout.buffer.write(data)
"#;

/// Runs a program of the host and gives what it says.
fn output(command: &mut Command, package: &str) -> Vec<u8> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{program} does not start ({error}): apt-get install {package}"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A tree with what makes headers differ: long names, odd bytes, links, a hole, many sizes.
fn tree(root: &Path) {
    use std::os::unix::ffi::OsStrExt;
    let path = |name: &[u8]| root.join(std::ffi::OsStr::from_bytes(name));
    let deep = root.join("deep/".repeat(30));
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::write(deep.join("file"), "deep").unwrap();
    for size in [0_usize, 1, 511, 512, 513, 10_239, 10_240, 200_000] {
        let content: Vec<u8> = (0..size).map(|at| at.to_le_bytes()[0] ^ at.to_le_bytes()[1]).collect();
        std::fs::write(path(format!("size-{size}").as_bytes()), content).unwrap();
    }
    std::fs::write(path(b"not-utf8-\xff\xfe"), "bytes").unwrap();
    std::fs::write(path(b"two\nlines"), "newline").unwrap();
    std::fs::write(path("long-é-".repeat(25).as_bytes()), "long").unwrap();
    std::fs::write(path(b"quote\"back\\slash"), "quoted").unwrap();
    std::fs::hard_link(path(b"size-513"), path(b"hard")).unwrap();
    std::os::unix::fs::symlink("size-513", path(b"soft")).unwrap();
    let sparse = std::fs::File::create(path(b"sparse")).unwrap();
    sparse.set_len(1 << 18).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"data", 100_000).unwrap();
}

fn check_host_tar(tar: &[u8], root: &Path, what: &str) {
    assert!(tar.len() > 200_000, "{what}");
    let (split, record) = split_with(tar, BTreeSet::new(), 10_000).unwrap();
    assert!(split.embed.is_empty(), "{what}");
    assert!(split.files >= 10, "{what}: {} files", split.files);
    assert!(record.len() < 10_000, "{what}: {} bytes", record.len());
    let mut all = Vec::new();
    let tree = TreeFolder::open(root).unwrap();
    Assembler::new(&record[..], tree, Some(Digest::of(tar))).unwrap().read_to_end(&mut all).unwrap();
    assert!(all == tar, "{what}");

    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &record).unwrap();
    let by_python =
        output(Command::new("python3").args(["-c", READER]).arg(root).arg(file.path()), "python3");
    assert!(by_python == tar, "{what}: another reader of the format gives the same");
}

#[test]
fn gnu_tars_archives_come_back_in_each_format() {
    let root = tempfile::tempdir().unwrap();
    tree(root.path());
    for arguments in [
        &["--format=gnu"][..],
        &["--format=oldgnu", "--sparse"],
        &["--format=gnu", "--blocking-factor=1"],
        &["--format=posix"],
        &["--format=posix", "--sparse", "--sparse-version=0.0"],
        &["--format=posix", "--sparse", "--sparse-version=0.1"],
        &["--format=posix", "--sparse", "--sparse-version=1.0", "--xattrs"],
    ] {
        let mut command = Command::new("tar");
        command.args(arguments).arg("--directory").arg(root.path()).args([
            "--create",
            "--file=-",
            "--sort=name",
            ".",
        ]);
        check_host_tar(&output(&mut command, "tar"), root.path(), &arguments.join(" "));
    }
}

#[test]
fn bsdtars_archives_come_back_in_each_format() {
    let root = tempfile::tempdir().unwrap();
    tree(root.path());
    for format in ["pax", "gnutar", "posix"] {
        let mut command = Command::new("bsdtar");
        command
            .args(["--format", format, "--no-read-sparse", "-c", "-f", "-", "-C"])
            .arg(root.path())
            .arg(".");
        check_host_tar(&output(&mut command, "libarchive-tools"), root.path(), format);
    }
}

#[test]
fn pythons_archives_come_back_in_each_format() {
    let script = "import sys, tarfile\nt = tarfile.open(fileobj=sys.stdout.buffer, mode='w|', format=int(sys.argv[2]))\nt.add(sys.argv[1], '.')\nt.close()";
    let root = tempfile::tempdir().unwrap();
    tree(root.path());
    for (format, what) in [("1", "GNU"), ("2", "PAX")] {
        let mut command = Command::new("python3");
        command.args(["-c", script]).arg(root.path()).arg(format);
        check_host_tar(&output(&mut command, "python3"), root.path(), what);
    }
}

#[test]
fn a_tree_is_never_left() {
    let outer = tempfile::tempdir().unwrap();
    let root = outer.path().join("root");
    std::fs::create_dir_all(root.join("etc")).unwrap();
    std::fs::write(outer.path().join("secret"), "content").unwrap();
    std::os::unix::fs::symlink("../secret", root.join("link")).unwrap();
    std::os::unix::fs::symlink("../..", root.join("up")).unwrap();
    nix::unistd::mkfifo(&root.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    // As in a chroot, `/..` is `/`.
    std::fs::write(root.join("secret2"), "content").unwrap();
    for (name, fine) in [
        ("link", false),
        ("up/secret", false),
        ("pipe", false),
        ("etc", false),
        ("none", false),
        ("up/secret2", true),
        ("./secret2", true),
        ("/secret2", true),
    ] {
        let tar = tar(&[(name, Kind::File(b"content"))]);
        let (_, record) = split_with(&tar, BTreeSet::new(), 512).unwrap();
        let mut all = Vec::new();
        let tree = TreeFolder::open(&root).unwrap();
        let read = Assembler::new(&record[..], tree, None)
            .unwrap()
            .read_to_end(&mut all)
            .map_err(Error::from_stream);
        match (fine, read) {
            (true, read) => assert!(read.is_ok() && all == tar, "{name}: {read:?}"),
            (false, Ok(_)) => panic!("{name} was read"),
            (false, Err(error)) => assert_eq!(error.kind(), ErrorKind::Changed, "{name}: {error}"),
        }
    }
}
