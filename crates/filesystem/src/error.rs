//! What went wrong with a file system, a mount or a folder.

use nix::errno::Errno;
use std::fmt;
use std::path::PathBuf;

/// The result of a file-system operation.
pub type Result<T> = std::result::Result<T, Error>;

/// A failed operation: what, on which path, why, and what the kernel or the program said about it. One line.
#[derive(Debug, thiserror::Error)]
pub struct Error {
    /// What was tried, such as `mount` or `make ext4 on`.
    pub action: String,
    /// On which path.
    pub path: PathBuf,
    /// What the kernel answered; [`Errno::UnknownErrno`] where no system call failed (mkfs ended with an exit code).
    #[source]
    pub errno: Errno,
    /// What else is known: the mount context's messages, the kernel log's lines about this device, mkfs's output, what to do.
    pub detail: String,
    class: Option<ErrorKind>,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} {}", self.action, self.path.display())?;
        match (self.errno, self.detail.as_str()) {
            (Errno::UnknownErrno, detail) => write!(f, ": {detail}"),
            (errno, "") => write!(f, ": {errno}"),
            (errno, detail) => write!(f, ": {errno} ({detail})"),
        }
    }
}

/// What a caller may want to tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// EBUSY, ENOTEMPTY.
    Busy,
    /// ENOENT, ENXIO, ENODEV of a device node; nothing is mounted where something should be.
    NotFound,
    /// ENOSPC, EDQUOT.
    NoSpace,
    /// EROFS.
    ReadOnly,
    /// EPERM, EACCES.
    Permission,
    /// EOPNOTSUPP, ENOSYS: the kernel or this machine lacks it.
    Unsupported,
    /// A mount option or an argument of mkfs is refused.
    Options,
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
        Self { action: action.into(), path: path.into(), errno, detail: String::new(), class: None }
    }

    /// The same with more to say. Line ends become `; `, since an error is one line.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        self.detail = if detail.contains('\n') {
            detail.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
        } else {
            detail
        };
        self
    }

    /// The same in a class that errno alone does not tell.
    #[must_use]
    pub fn of_kind(mut self, kind: ErrorKind) -> Self {
        self.class = Some(kind);
        self
    }

    /// An error from the standard library's file functions.
    pub(crate) fn io(action: impl Into<String>, path: impl Into<PathBuf>, error: &std::io::Error) -> Self {
        match error.raw_os_error() {
            Some(number) => Self::new(action, path, Errno::from_raw(number)),
            None => Self::new(action, path, Errno::UnknownErrno).detail(error.to_string()),
        }
    }

    /// The class of the failure.
    pub fn kind(&self) -> ErrorKind {
        if let Some(class) = self.class {
            return class;
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_with_what_where_why() {
        let error = Error::new("mount", "/dev/dm-3", Errno::EINVAL).detail("a\n\n b\n");
        assert_eq!(error.to_string(), "cannot mount /dev/dm-3: EINVAL: Invalid argument (a; b)");
        assert_eq!(
            Error::new("thaw", "/m", Errno::EBUSY).to_string(),
            "cannot thaw /m: EBUSY: Device or resource busy"
        );
    }

    #[test]
    fn without_errno_the_detail_is_the_reason() {
        let error =
            Error::new("make ext4 on", "/dev/dm-3", Errno::UnknownErrno).detail("mkfs.ext4 ended with 1");
        assert_eq!(error.to_string(), "cannot make ext4 on /dev/dm-3: mkfs.ext4 ended with 1");
        assert_eq!(error.kind(), ErrorKind::Other);
    }

    #[test]
    fn a_class_that_was_given_wins_over_errno() {
        assert_eq!(Error::new("mount", "/d", Errno::EINVAL).kind(), ErrorKind::Damaged);
        assert_eq!(
            Error::new("mount", "/d", Errno::EINVAL).of_kind(ErrorKind::Options).kind(),
            ErrorKind::Options
        );
    }
}
