//! What went wrong in a device-mapper call: which command, on which device, and the kernel's errno.

use nix::errno::Errno;
use std::fmt;

/// The result of a device-mapper call.
pub type Result<T> = std::result::Result<T, Error>;

/// A failed device-mapper call.
///
/// Callers branch on [`Error::kind`]; people read the text, which names command, device and errno.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused an ioctl.
    #[error("device-mapper {command} on {device} failed: {errno}{}", hint(command, *errno))]
    Ioctl {
        /// The command's name in the kernel's header, such as `DM_DEV_CREATE` (with a message's text where there is one).
        command: String,
        /// The device it was for, or `-` where the command takes none.
        device: String,
        /// What the kernel said.
        #[source]
        errno: Errno,
    },
    /// `/dev/mapper/control` cannot be opened: no device-mapper in this kernel, or no privilege.
    #[error("cannot open {path}: {errno}; {advice}")]
    Control {
        /// The control node.
        path: &'static str,
        /// What the kernel said.
        #[source]
        errno: Errno,
        /// What to do about it.
        advice: &'static str,
    },
    /// The kernel's interface is not one that this crate speaks.
    #[error("device-mapper interface {found} is too old; {needed} or newer is needed")]
    Version {
        /// The kernel's.
        found: crate::Version,
        /// The oldest that serves.
        needed: crate::Version,
    },
    /// A name or UUID that device-mapper does not accept.
    #[error("{what} {text:?} is not valid: {why}")]
    Name {
        /// "device name" or "device uuid".
        what: &'static str,
        /// The text as given.
        text: String,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// A table, status or version answer that cannot be read.
    #[error("cannot understand the kernel's answer to {command} on {device}: {why}")]
    Malformed {
        /// The command whose answer it is.
        command: String,
        /// The device it was for.
        device: String,
        /// What is wrong with it.
        why: String,
    },
    /// A wait that reached its deadline.
    #[error("{what} on {device} did not finish within {waited:?}")]
    Deadline {
        /// What was waited for.
        what: &'static str,
        /// The device it was for.
        device: String,
        /// How long.
        waited: std::time::Duration,
    },
    /// A device node could not be made, opened or removed.
    #[error("device node {path}: {errno}")]
    Node {
        /// The node's path.
        path: std::path::PathBuf,
        /// What the kernel said.
        #[source]
        errno: Errno,
    },
    /// A udev cookie's semaphore could not be made, counted or removed.
    #[error("udev cookie {cookie:#010x}: {call} failed: {errno}{advice}")]
    Cookie {
        /// The call that failed.
        call: &'static str,
        /// The cookie, as `dmsetup udevcookies` shows it.
        cookie: u32,
        /// What the kernel said.
        #[source]
        errno: Errno,
        /// What to do about it, if there is anything.
        advice: &'static str,
    },
    /// An error of the simulation, or of another implementation of [`crate::DeviceMapper`].
    #[error("device-mapper {command} on {device}: {why}")]
    Other {
        /// The command.
        command: String,
        /// The device.
        device: String,
        /// The reason in words.
        why: String,
    },
}

/// What a caller may want to tell apart without reading text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// EBUSY: open, suspended by someone else, or a table still refers to it.
    Busy,
    /// ENXIO, ENODEV: no such device. ENODATA: no such thin id.
    NotFound,
    /// EEXIST, or EBUSY from creating a name that is taken.
    Exists,
    /// ENOSPC.
    NoSpace,
    /// EPERM, EACCES.
    Permission,
    /// EINVAL: an argument, a table or a transaction id that the target refuses.
    Invalid,
    /// EOPNOTSUPP, ENOTTY: the pool is read-only or failed, or the kernel is too old.
    Unsupported,
    /// No device-mapper in this kernel.
    Absent,
    /// A deadline passed.
    Deadline,
    /// Anything else.
    Other,
}

impl Error {
    /// An ioctl's failure.
    pub fn ioctl(command: impl Into<String>, device: impl fmt::Display, errno: Errno) -> Self {
        Self::Ioctl { command: command.into(), device: device.to_string(), errno }
    }

    /// The kernel's errno, where there is one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Ioctl { errno, .. } | Self::Control { errno, .. } | Self::Node { errno, .. } => {
                Some(*errno)
            }
            _ => None,
        }
    }

    /// The class of the failure.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Control { errno: Errno::EACCES | Errno::EPERM, .. } => Kind::Permission,
            Self::Control { .. } => Kind::Absent,
            Self::Version { .. } => Kind::Unsupported,
            Self::Name { .. } => Kind::Invalid,
            Self::Deadline { .. } => Kind::Deadline,
            Self::Malformed { .. } | Self::Other { .. } => Kind::Other,
            // Creating or renaming to a name that is taken is answered with EBUSY.
            Self::Ioctl { command, errno: Errno::EBUSY, .. }
                if command == "DM_DEV_CREATE" || command == "DM_DEV_RENAME" =>
            {
                Kind::Exists
            }
            Self::Ioctl { errno, .. } | Self::Node { errno, .. } | Self::Cookie { errno, .. } => {
                match errno {
                    Errno::EBUSY => Kind::Busy,
                    Errno::ENXIO | Errno::ENODEV | Errno::ENODATA | Errno::ENOENT => Kind::NotFound,
                    Errno::EEXIST => Kind::Exists,
                    Errno::ENOSPC => Kind::NoSpace,
                    Errno::EPERM | Errno::EACCES => Kind::Permission,
                    Errno::EINVAL => Kind::Invalid,
                    Errno::EOPNOTSUPP | Errno::ENOTTY => Kind::Unsupported,
                    _ => Kind::Other,
                }
            }
        }
    }
}

/// What to do about the refusals that people meet; empty where the errno says all there is.
fn hint(command: &str, errno: Errno) -> &'static str {
    match (command, errno) {
        (_, Errno::EPERM | Errno::EACCES) => "; run it as root (CAP_SYS_ADMIN is needed)",
        ("DM_DEV_CREATE" | "DM_DEV_RENAME", Errno::EBUSY) => "; the name or the UUID is taken",
        ("DM_DEV_REMOVE", Errno::EBUSY) => {
            "; it is open: look for mounts, for tables on top of it, and for programs"
        }
        ("DM_TABLE_LOAD" | "DM_DEV_SUSPEND", Errno::EINVAL) => "; the kernel's log says why",
        ("DM_TABLE_LOAD", Errno::EBUSY) => "; a device that the table names is in use",
        (_, Errno::ENXIO) => "; there is no such device",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::{Error, Kind};
    use nix::errno::Errno;
    use std::error::Error as _;

    #[test]
    fn kinds_of_the_errnos_that_callers_branch_on() {
        for (command, errno, kind) in [
            ("DM_DEV_REMOVE", Errno::EBUSY, Kind::Busy),
            ("DM_DEV_CREATE", Errno::EBUSY, Kind::Exists),
            ("DM_DEV_RENAME", Errno::EBUSY, Kind::Exists),
            ("DM_DEV_STATUS", Errno::ENXIO, Kind::NotFound),
            ("DM_TARGET_MSG \"delete 1\"", Errno::ENODATA, Kind::NotFound),
            ("DM_TARGET_MSG \"create_thin 1\"", Errno::EEXIST, Kind::Exists),
            ("DM_TARGET_MSG \"create_thin 1\"", Errno::EOPNOTSUPP, Kind::Unsupported),
            ("DM_TABLE_LOAD", Errno::EINVAL, Kind::Invalid),
            ("DM_TABLE_LOAD", Errno::ENOSPC, Kind::NoSpace),
            ("DM_TABLE_LOAD", Errno::EPERM, Kind::Permission),
            ("DM_TABLE_LOAD", Errno::EIO, Kind::Other),
        ] {
            let error = Error::ioctl(command, "a", errno);
            assert_eq!(error.kind(), kind, "{command} {errno}");
            assert_eq!(error.errno(), Some(errno));
            assert!(error.source().is_some());
        }
    }

    #[test]
    fn a_line_says_what_on_which_device_why_and_what_to_do() {
        let error = Error::ioctl("DM_DEV_CREATE", "pool", Errno::EBUSY);
        assert_eq!(
            error.to_string(),
            "device-mapper DM_DEV_CREATE on pool failed: EBUSY: Device or resource busy; the name or the UUID is taken"
        );
        assert!(!Error::ioctl("DM_DEV_REMOVE", "pool", Errno::EBUSY).to_string().contains('\n'));
    }
}
