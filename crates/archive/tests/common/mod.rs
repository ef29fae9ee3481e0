//! Trees on disk: how to read one whole, without the crate's own code, and how to compare two.

#![allow(dead_code, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot look at its own files has to end")]

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::fmt::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A folder on a file system that keeps attributes and devices.
pub(crate) fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("archive-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Owners, devices, and attributes outside `user.` are root's to give.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// All that a layer keeps of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) device: u64,
    pub(crate) size: u64,
    pub(crate) mtime: (i64, i64),
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) target: Option<PathBuf>,
    pub(crate) content: Option<u64>,
    /// The first of the names that this file has in the tree.
    pub(crate) first_name: Vec<u8>,
}

pub(crate) type Tree = BTreeMap<Vec<u8>, File>;

fn hash(data: &[u8]) -> u64 {
    data.iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Reads a tree; sockets are left out, since no layer holds them.
pub(crate) fn read(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut first_names = BTreeMap::new();
    read_into(root, Path::new(""), &mut tree, &mut first_names);
    tree
}

fn read_into(root: &Path, path: &Path, tree: &mut Tree, first_names: &mut BTreeMap<u64, Vec<u8>>) {
    let full = if path.as_os_str().is_empty() { root.to_owned() } else { root.join(path) };
    let stat = std::fs::symlink_metadata(&full).unwrap();
    let kind = stat.file_type();
    if kind.is_socket() {
        return;
    }
    let name = path.as_os_str().as_bytes().to_vec();
    let first_name = match kind.is_dir() {
        true => name.clone(),
        false => first_names.entry(stat.ino()).or_insert_with(|| name.clone()).clone(),
    };
    tree.insert(
        name,
        File {
            mode: stat.mode(),
            owner: (stat.uid(), stat.gid()),
            device: stat.rdev(),
            size: if kind.is_file() { stat.size() } else { 0 },
            mtime: (stat.mtime(), stat.mtime_nsec()),
            xattrs: xattrs(&full),
            target: kind.is_symlink().then(|| std::fs::read_link(&full).unwrap()),
            content: kind.is_file().then(|| hash(&std::fs::read(&full).unwrap())),
            first_name,
        },
    );
    if kind.is_dir() {
        let mut names: Vec<_> =
            std::fs::read_dir(&full).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        for name in names {
            read_into(root, &path.join(name), tree, first_names);
        }
    }
}

/// Fails with the differences, if there are any.
pub(crate) fn assert_same(expected: &Tree, found: &Tree, what: &str) {
    let mut text = String::new();
    for (name, file) in expected {
        match found.get(name) {
            None => writeln!(text, "missing: {}", name.escape_ascii()).unwrap(),
            Some(other) if other != file => {
                writeln!(text, "{}:\n  expected {file:?}\n  found    {other:?}", name.escape_ascii())
                    .unwrap();
            }
            Some(_) => {}
        }
    }
    for name in found.keys().filter(|name| !expected.contains_key(*name)) {
        writeln!(text, "too much: {}", name.escape_ascii()).unwrap();
    }
    assert!(text.is_empty(), "{what}:\n{text}");
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

#[expect(unsafe_code, reason = "the standard library has no extended attributes")]
pub(crate) fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let path = c_path(path);
    let mut list = vec![0_u8; 65536];
    // SAFETY: the kernel writes at most the buffer's length.
    let length = unsafe { libc::llistxattr(path.as_ptr(), list.as_mut_ptr().cast(), list.len()) };
    list.truncate(usize::try_from(length).unwrap());
    let mut xattrs = BTreeMap::new();
    for name in list.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0_u8; 65536];
        let c_name = CString::new(name).unwrap();
        // SAFETY: as above.
        let length = unsafe {
            libc::lgetxattr(path.as_ptr(), c_name.as_ptr(), value.as_mut_ptr().cast(), value.len())
        };
        value.truncate(usize::try_from(length).unwrap());
        xattrs.insert(name.to_vec(), value);
    }
    xattrs
}

/// False if the file system, or the kind of file, does not take it.
#[expect(unsafe_code, reason = "the standard library has no extended attributes")]
pub(crate) fn set_xattr(path: &Path, name: &str, value: &[u8]) -> bool {
    let (path, name) = (c_path(path), CString::new(name).unwrap());
    // SAFETY: the kernel reads the value's bytes.
    0 == unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) }
}

#[expect(unsafe_code, reason = "the standard library has no extended attributes")]
pub(crate) fn remove_xattr(path: &Path, name: &[u8]) {
    let (path, name) = (c_path(path), CString::new(name).unwrap());
    // SAFETY: the kernel reads two strings.
    unsafe { libc::lremovexattr(path.as_ptr(), name.as_ptr()) };
}

pub(crate) fn set_mtime(path: &Path, seconds: i64, nanoseconds: i64) {
    use nix::sys::stat::{UtimensatFlags, utimensat};
    let time = nix::sys::time::TimeSpec::new(seconds, nanoseconds);
    utimensat(nix::fcntl::AT_FDCWD, path, &time, &time, UtimensatFlags::NoFollowSymlink).unwrap();
}

/// `linux/posix_acl_xattr.h`: the owner, one user, the group, a mask, others.
pub(crate) fn acl(user: u32, bits: u16) -> Vec<u8> {
    let mut value = 2_u32.to_le_bytes().to_vec();
    let none = u32::MAX;
    for (tag, bits, id) in
        [(1_u16, 7_u16, none), (2, bits & 7, user), (4, 5, none), (16, 7, none), (32, bits & 5, none)]
    {
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&bits.to_le_bytes());
        value.extend_from_slice(&id.to_le_bytes());
    }
    value
}

/// `linux/capability.h`, revision 2: `cap_net_raw` among others. The bytes hold a newline and NULs.
pub(crate) fn capability(permitted: u32) -> Vec<u8> {
    [0x0200_0001_u32, permitted, 0x0a, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A whole copy, in another place, as `cp` makes it.
pub(crate) fn copy(from: &Path, to: &Path) {
    run(Command::new("cp").args(["-a", "--preserve=all", "--sparse=auto", "-T"]).arg(from).arg(to));
}

/// Runs a program to its good end, and gives its output. A program that is missing is a failure that says what to install.
pub(crate) fn run(command: &mut Command) -> Vec<u8> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.env("LC_ALL", "C.UTF-8").stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| {
        let package = match program.as_str() {
            "bsdtar" => "libarchive-tools",
            "python3" => "python3",
            "tar" => "tar",
            "gzip" => "gzip",
            "zstd" => "zstd",
            _ => "coreutils",
        };
        panic!("{program} cannot be run ({error}): install the package {package}")
    });
    assert!(
        output.status.success(),
        "{command:?} ended with {}:\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

pub(crate) fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(bytes.to_vec()))
}

pub(crate) fn name_of(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}
