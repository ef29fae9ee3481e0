//! Is a file of two trees the same?

use crate::error::{Error, Result};
use crate::sys::Node;
use crate::tree::{Metadata, open_file, target, xattrs};
use nix::errno::Errno;
use nix::sys::stat::SFlag;
use std::ffi::CStr;
use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;

/// What counts as a change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Rules {
    /// Everything that a layer can hold: type, mode, owner, size, times to the nanosecond (of directories, too), device numbers, link
    /// targets, all extended attributes, which names are one file, and the root's own metadata.
    #[default]
    Full,
    /// What Docker's own comparison sees: no directory times, no attributes but `security.capability`, no hard links; times are
    /// equal where one side has no nanoseconds.
    Docker,
}

/// How two trees are compared.
#[derive(Clone, Debug)]
pub struct CompareOptions {
    /// What counts as a change.
    pub rules: Rules,
    /// Under [`Rules::Full`]: are the contents of two files compared that agree in everything else, if they are not one inode of a
    /// snapshot and its origin (same number, same time of change)? Between snapshots that reads nothing, or next to nothing; between
    /// two copies it reads everything. Default: true.
    pub contents: bool,
    /// Threads that read directories; without a number as many as the machine has processors, up to 8.
    pub threads: Option<NonZeroUsize>,
}

impl Default for CompareOptions {
    fn default() -> Self {
        Self { rules: Rules::Full, contents: true, threads: None }
    }
}

impl CompareOptions {
    /// Docker's own comparison.
    pub fn docker() -> Self {
        Self { rules: Rules::Docker, ..Self::default() }
    }
}

/// What metadata alone says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Same,
    Different,
    /// Only attributes, link target and contents can tell.
    Look,
}

/// One name in two folders.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair<'a> {
    pub(crate) old_folder: BorrowedFd<'a>,
    pub(crate) new_folder: BorrowedFd<'a>,
    pub(crate) name: &'a CStr,
    pub(crate) old: &'a Metadata,
    pub(crate) new: &'a Metadata,
}

/// Compares what `stat` says. A snapshot's inode that has its origin's number and time of change is its origin's: every write, and every
/// change of an attribute, sets that time, and no program can set it back.
pub(crate) fn by_metadata(old: &Metadata, new: &Metadata, rules: Rules) -> Verdict {
    let common = old.raw_mode == new.raw_mode
        && (old.uid, old.gid) == (new.uid, new.gid)
        && old.device == new.device
        && match rules {
            Rules::Full => old.mtime == new.mtime && (new.kind == SFlag::S_IFDIR || old.size == new.size),
            Rules::Docker => looks_like_directory(old) || (docker_times(old, new) && old.size == new.size),
        };
    match common {
        false => Verdict::Different,
        // A layer cannot hold a socket.
        true if rules == Rules::Full && new.kind == SFlag::S_IFSOCK => Verdict::Same,
        true if old.id.inode == new.id.inode && old.ctime == new.ctime => Verdict::Same,
        true => Verdict::Look,
    }
}

/// Docker tests one bit of the type, which sockets and block devices have, too.
fn looks_like_directory(file: &Metadata) -> bool {
    file.raw_mode & SFlag::S_IFDIR.bits() == SFlag::S_IFDIR.bits()
}

fn docker_times(old: &Metadata, new: &Metadata) -> bool {
    let (old, new) = (old.mtime, new.mtime);
    old.seconds == new.seconds
        && (old.nanoseconds == new.nanoseconds || old.nanoseconds == 0 || new.nanoseconds == 0)
}

/// Compares what [`by_metadata`] left open.
pub(crate) fn by_look(pair: Pair<'_>, options: &CompareOptions, path: &[u8]) -> Result<bool> {
    let same = match options.rules {
        Rules::Docker => capability(pair.old_folder, pair.name)
            .and_then(|old| Ok(old == capability(pair.new_folder, pair.name)?)),
        Rules::Full => full(pair, options.contents),
    };
    same.map_err(|errno| Error::system("compare", path, "it cannot be read", errno))
}

fn capability(folder: BorrowedFd<'_>, name: &CStr) -> nix::Result<Option<Vec<u8>>> {
    match Node::Named(folder, name.to_bytes()).get(c"security.capability") {
        Ok(value) => Ok(Some(value)),
        Err(Errno::ENODATA | Errno::EOPNOTSUPP) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn full(pair: Pair<'_>, contents: bool) -> nix::Result<bool> {
    let Pair { old_folder, new_folder, name, new, .. } = pair;
    let attributes = |folder| xattrs(Node::Named(folder, name.to_bytes()));
    if attributes(old_folder)? != attributes(new_folder)? {
        return Ok(false);
    }
    match new.kind {
        SFlag::S_IFLNK => Ok(target(old_folder, name)? == target(new_folder, name)?),
        SFlag::S_IFREG if contents && new.size > 0 => {
            let old = File::from(open_file(old_folder, name)?);
            let new = File::from(open_file(new_folder, name)?);
            same_contents(&old, &new)
                .map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
        }
        _ => Ok(true),
    }
}

fn same_contents(old: &File, new: &File) -> std::io::Result<bool> {
    const PIECE: usize = 64 << 10;
    let mut buffers = (vec![0; PIECE], vec![0; PIECE]);
    let mut offset = 0;
    loop {
        let length = fill(old, &mut buffers.0, offset)?;
        if fill(new, &mut buffers.1, offset)? != length || buffers.0[..length] != buffers.1[..length] {
            return Ok(false);
        }
        if length < PIECE {
            return Ok(true);
        }
        offset += length as u64;
    }
}

/// As much as there is.
pub(crate) fn fill(file: &File, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(bytes) => filled += bytes,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
