//! What went wrong with a backing file, a loop device or a given device.

use nix::errno::Errno;
use std::path::PathBuf;
use std::time::Duration;

/// The result of an operation on backing.
pub type Result<T> = std::result::Result<T, Error>;

/// A failed operation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused something.
    #[error("cannot {action} {}: {errno}{}", path.display(), with(advice))]
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
    /// There is no loop driver, or its control node is not here.
    #[error("cannot {action} {}: {errno}; load the loop driver (modprobe loop)", path.display())]
    NoLoopDriver {
        /// What was tried.
        action: &'static str,
        /// The control node.
        path: PathBuf,
        /// What the kernel answered.
        #[source]
        errno: Errno,
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
    /// Programs that are not installed.
    #[error("{tools} cannot be found; install {packages}")]
    MissingTools {
        /// Which.
        tools: String,
        /// The packages that hold them.
        packages: String,
    },
    /// A program that refused.
    #[error("`{command}` failed: {said}{}", with(advice))]
    Program {
        /// What was run.
        command: String,
        /// What it said.
        said: String,
        /// What to do about it, if anything is known.
        advice: String,
    },
    /// A program that passed its deadline.
    #[error("`{command}` did not end within {waited:?}{}", if *gone { " and was ended; try again" } else { " and cannot be ended: it waits for a device; see the kernel log" })]
    Late {
        /// What was run.
        command: String,
        /// How long it was waited for.
        waited: Duration,
        /// It has ended since.
        gone: bool,
    },
    /// Not enough room in a volume group.
    #[error(
        "volume group {group} has {free} bytes free, which is not enough for {wanted}; add a device to it: vgextend {group} DEVICE"
    )]
    GroupFull {
        /// The volume group.
        group: String,
        /// What it has left.
        free: u64,
        /// What was wanted.
        wanted: String,
    },
}

fn with(advice: &str) -> String {
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
            Self::NoRoom { .. } | Self::GroupFull { .. } => ErrorKind::NoSpace,
            Self::InUse { .. } | Self::Late { .. } => ErrorKind::Busy,
            Self::MissingTools { .. } | Self::NoLoopDriver { .. } => ErrorKind::Unsupported,
            Self::Program { .. } => ErrorKind::Other,
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
