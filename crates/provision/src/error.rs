//! What went wrong with a backing file, a loop device or a given device.

use nix::errno::Errno;
use std::path::PathBuf;

/// The result of an operation on backing.
pub type Result<T> = std::result::Result<T, Error>;

/// A failed operation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused something.
    #[error("cannot {action} {}: {errno}{}", path.display(), said(advice))]
    System {
        /// What was tried, such as `attach` or `allocate`.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the kernel answered.
        #[source]
        errno: Errno,
        /// What to do about it, if anything is known.
        advice: String,
    },
    /// Not enough room on the host for a backing file.
    #[error("no room for {}: {needed} bytes are needed and {free} are free; make room, or choose a smaller size ({option})", path.display())]
    NoRoom {
        /// The file.
        path: PathBuf,
        /// What it needs in addition.
        needed: u64,
        /// What is there.
        free: u64,
        /// The option that sets its size.
        option: &'static str,
    },
    /// The same file or device is in use elsewhere.
    #[error("{} is in use by {user}; {advice}", path.display())]
    InUse {
        /// The file or device.
        path: PathBuf,
        /// By whom.
        user: String,
        /// What to do.
        advice: String,
    },
    /// Something given by an operator that cannot serve.
    #[error("{}: {why}", path.display())]
    Unfit {
        /// The file or device.
        path: PathBuf,
        /// Why not, and what to do.
        why: String,
    },
}

fn said(advice: &str) -> String {
    if advice.is_empty() { String::new() } else { format!("; {advice}") }
}

/// What a caller may want to tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// In use.
    Busy,
    /// Not there.
    NotFound,
    /// No room.
    NoSpace,
    /// A read-only file system.
    ReadOnly,
    /// No privilege.
    Permission,
    /// Not what it should be.
    Invalid,
    /// This kernel or file system cannot.
    Unsupported,
    /// Anything else.
    Other,
}

impl Error {
    /// The class of the failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoRoom { .. } => ErrorKind::NoSpace,
            Self::InUse { .. } => ErrorKind::Busy,
            Self::Unfit { .. } => ErrorKind::Invalid,
            Self::System { errno, .. } => match errno {
                Errno::EBUSY => ErrorKind::Busy,
                Errno::ENOENT | Errno::ENXIO | Errno::ENODEV => ErrorKind::NotFound,
                Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG => ErrorKind::NoSpace,
                Errno::EROFS => ErrorKind::ReadOnly,
                Errno::EPERM | Errno::EACCES => ErrorKind::Permission,
                Errno::EINVAL | Errno::ENOTBLK | Errno::EISDIR => ErrorKind::Invalid,
                Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::ENOTTY => ErrorKind::Unsupported,
                _ => ErrorKind::Other,
            },
        }
    }
}
