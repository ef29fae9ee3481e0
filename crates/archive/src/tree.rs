//! A directory tree that is read by descriptors: no path is resolved through a link, and none leaves the tree.

use crate::entry::{Timestamp, Xattr};
use crate::error::{Error, ErrorKind, Result};
use crate::sys::Node;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, major, minor};
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Bytes of the longest path that the kernel takes, without the NUL.
pub(crate) const LONGEST_PATH: usize = 4095;
/// What overlayfs notes for itself: it means nothing elsewhere, and in a layer it would be an order to the next overlayfs.
const PRIVATE: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];
const KEPT: [&[u8]; 4] = [b"user.", b"trusted.", b"security.", b"system.posix_acl_"];

/// An inode by file system and number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Id {
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

/// A directory that is the root of a tree. It has to stand still while it is read: mounted read-only, or a frozen snapshot.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
    path: PathBuf,
}

/// What `stat` says of a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Metadata {
    pub(crate) id: Id,
    pub(crate) kind: SFlag,
    /// Type and permissions as they are.
    pub(crate) raw_mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size: u64,
    /// Bytes on disk.
    pub(crate) allocated: u64,
    pub(crate) mtime: Timestamp,
    pub(crate) ctime: Timestamp,
    pub(crate) device: (u32, u32),
    pub(crate) links: u64,
}

impl Metadata {
    pub(crate) fn is_directory(&self) -> bool {
        self.kind == SFlag::S_IFDIR
    }

    /// Permissions, set-id bits, sticky bit.
    pub(crate) fn mode(&self) -> u32 {
        self.raw_mode & 0o7777
    }

    fn of(stat: &FileStat) -> Self {
        let time = |seconds, nanoseconds: i64| Timestamp {
            seconds,
            nanoseconds: u32::try_from(nanoseconds).unwrap_or_default(),
        };
        let number = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        Self {
            id: Id { device: stat.st_dev, inode: stat.st_ino },
            kind: SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()),
            raw_mode: stat.st_mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: stat.st_size.unsigned_abs(),
            allocated: stat.st_blocks.unsigned_abs() * 512,
            mtime: time(stat.st_mtime, stat.st_mtime_nsec),
            ctime: time(stat.st_ctime, stat.st_ctime_nsec),
            device: (number(major(stat.st_rdev)), number(minor(stat.st_rdev))),
            #[allow(clippy::useless_conversion, reason = "st_nlink is narrower on other machines")]
            links: stat.st_nlink.into(),
        }
    }
}

/// The metadata of a name in a folder; of a link itself.
pub(crate) fn metadata(folder: BorrowedFd<'_>, name: &CStr) -> nix::Result<Metadata> {
    fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW).map(|stat| Metadata::of(&stat))
}

/// The metadata of what is open.
pub(crate) fn metadata_of(file: impl AsFd) -> nix::Result<Metadata> {
    fstat(file).map(|stat| Metadata::of(&stat))
}

/// A link's target.
pub(crate) fn target(folder: BorrowedFd<'_>, name: &CStr) -> nix::Result<Vec<u8>> {
    readlinkat(folder, name).map(OsStringExt::into_vec)
}

/// The attributes that a layer keeps, sorted by name.
pub(crate) fn xattrs(node: Node<'_>) -> nix::Result<Vec<Xattr>> {
    let mut xattrs = Vec::new();
    for name in node.list()? {
        if !is_kept(name.to_bytes()) {
            continue;
        }
        match node.get(&name) {
            Ok(value) => xattrs.push(Xattr { name: name.into_bytes(), value }),
            // Listed, and gone since; or listed by a security module that does not give it.
            Err(Errno::ENODATA | Errno::EOPNOTSUPP) => {}
            Err(errno) => return Err(errno),
        }
    }
    xattrs.sort_unstable();
    Ok(xattrs)
}

/// Does a layer keep this attribute?
pub(crate) fn is_kept(name: &[u8]) -> bool {
    let starts = |prefixes: &[&[u8]]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    starts(&KEPT) && !starts(&PRIVATE)
}

/// Opens a file of a tree for reading: not through a link, without waiting for a FIFO's other end, and without a trace in its access
/// time where that is allowed.
pub(crate) fn open_file(folder: BorrowedFd<'_>, name: &CStr) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
    match nix::fcntl::openat(folder, name, flags | OFlag::O_NOATIME, Mode::empty()) {
        Err(Errno::EPERM) => nix::fcntl::openat(folder, name, flags, Mode::empty()),
        answer => answer,
    }
}

impl Tree {
    /// Opens a tree by its root.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::Permission`], [`ErrorKind::Io`]: it cannot be opened, or is no directory.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = nix::fcntl::open(path, flags, Mode::empty()).map_err(|errno| {
            Error::system("open the tree", path.as_os_str().as_bytes(), "it cannot be opened", errno)
        })?;
        Ok(Self { root, path: path.to_owned() })
    }

    /// The path by which it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// A folder of the tree by its path from the root, which is empty for the root. No link is followed, and no mount entered.
    pub(crate) fn folder(&self, path: &[u8]) -> Result<OwnedFd> {
        let action = "read the folder";
        if path.len() > LONGEST_PATH {
            let why =
                format!("its path has {} bytes, more than the kernel takes ({LONGEST_PATH})", path.len());
            return Err(Error::new(ErrorKind::Limit, action, why).of(path));
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let resolve =
            ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV;
        let name = if path.is_empty() { b"." } else { path };
        let open = |flags| resolved(self.root(), name, OpenHow::new().flags(flags).resolve(resolve));
        let folder = match open(flags | OFlag::O_NOATIME) {
            Err(Errno::EPERM) => open(flags),
            answer => answer,
        };
        folder.map_err(|errno| {
            let why = match errno {
                Errno::EXDEV => "another file system is mounted there",
                _ => "it cannot be opened",
            };
            Error::system(action, path, why, errno)
        })
    }
}

/// `openat2`. While something is renamed anywhere, the kernel may ask to try again.
pub(crate) fn resolved(root: BorrowedFd<'_>, path: &[u8], how: OpenHow) -> nix::Result<OwnedFd> {
    const TRIES: u32 = 100;
    for _ in 0..TRIES {
        match openat2(root, path, how) {
            Err(Errno::EAGAIN) => {}
            answer => return answer,
        }
    }
    Err(Errno::EAGAIN)
}
