//! What went wrong with a file system, a mount or a folder.

use nix::errno::Errno;
use std::path::PathBuf;

/// The result of a file-system operation.
pub type Result<T> = std::result::Result<T, Error>;

/// A failed operation: what, on which path, why, and what the kernel or the program said about it.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {errno}{}", path.display(), said(detail))]
pub struct Error {
    /// What was tried, such as `mount` or `make ext4 on`.
    pub action: String,
    /// On which path.
    pub path: PathBuf,
    /// What the kernel answered.
    #[source]
    pub errno: Errno,
    /// What else is known: the mount context's messages, the kernel log's lines about this device, mkfs's output, what to do.
    pub detail: String,
}

fn said(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(" ({detail})") }
}

/// What a caller may want to tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// EBUSY, ENOTEMPTY.
    Busy,
    /// ENOENT, ENXIO, ENODEV of a device node.
    NotFound,
    /// ENOSPC, EDQUOT.
    NoSpace,
    /// EROFS.
    ReadOnly,
    /// EPERM, EACCES.
    Permission,
    /// EOPNOTSUPP, ENOSYS: the kernel or this machine lacks it.
    Unsupported,
    /// EUCLEAN, EFSCORRUPTED, EINVAL from a mount: not a good file system.
    Damaged,
    /// ETIMEDOUT.
    Deadline,
    /// Anything else.
    Other,
}

impl Error {
    /// An error without further detail.
    pub fn new(action: impl Into<String>, path: impl Into<PathBuf>, errno: Errno) -> Self {
        Self { action: action.into(), path: path.into(), errno, detail: String::new() }
    }

    /// The same with more to say.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    /// The class of the failure.
    pub fn kind(&self) -> ErrorKind {
        match self.errno {
            Errno::EBUSY | Errno::ENOTEMPTY | Errno::EEXIST => ErrorKind::Busy,
            Errno::ENOENT | Errno::ENXIO | Errno::ENODEV => ErrorKind::NotFound,
            Errno::ENOSPC | Errno::EDQUOT => ErrorKind::NoSpace,
            Errno::EROFS => ErrorKind::ReadOnly,
            Errno::EPERM | Errno::EACCES => ErrorKind::Permission,
            Errno::EOPNOTSUPP | Errno::ENOSYS => ErrorKind::Unsupported,
            Errno::EUCLEAN | Errno::EINVAL => ErrorKind::Damaged,
            Errno::ETIMEDOUT => ErrorKind::Deadline,
            _ => ErrorKind::Other,
        }
    }
}
