//! The door of this crate: the trait [`Filesystems`], which [`crate::System`] implements by system calls, and its values.

use crate::error::Result;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A kind of file system that this crate can make, mount and grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// ext4.
    Ext4,
    /// XFS.
    Xfs,
}

impl Kind {
    /// Its name to the kernel, in `dm.fs` and in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the first blocks of a device say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detected {
    /// Nothing that is known: all zero, or no signature.
    Nothing,
    /// A file system that this crate handles.
    Known {
        /// Its kind.
        kind: Kind,
        /// Its UUID as blkid prints it: lower-case, 8-4-4-4-12; empty where it is all zero, for which blkid prints none.
        uuid: String,
    },
    /// A file system that this crate does not handle, such as btrfs.
    Foreign(&'static str),
}

/// How to make a file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MakeOptions {
    /// Which.
    pub kind: Kind,
    /// Further arguments for mkfs, one each, not split at spaces (`dm.mkfsarg`).
    pub args: Vec<String>,
    /// How long mkfs may take. The reads and writes of the device before and after it can be ended by nobody.
    pub deadline: Duration,
}

/// What to mount where, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountRequest {
    /// The block device's node.
    pub device: PathBuf,
    /// The mount point, which exists.
    pub target: PathBuf,
    /// The file system on the device.
    pub kind: Kind,
    /// Mount read-only. xfs also skips log recovery then, and ext4 journal replay where `no_recovery` asks for it.
    pub read_only: bool,
    /// Never write to the device, not even to replay its journal.
    pub no_recovery: bool,
    /// fstab-style words, in order (`dm.mountopt`): `noatime`, `nodev`, `discard`, ...
    pub options: Vec<String>,
    /// The SELinux label of everything in it (`context=`).
    pub label: Option<String>,
}

/// When a mount that is in use may go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unmount {
    /// Now, or not at all.
    #[default]
    Now,
    /// Out of sight now, gone at its last user's end (`MNT_DETACH`).
    Lazy,
}

/// What unmounting did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmounted {
    /// A mount is gone from here.
    Done,
    /// There was none.
    NotMounted,
}

/// One line of the mount table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where.
    pub target: PathBuf,
    /// Major and minor number of the file system's device.
    pub device: (u32, u32),
    /// What was mounted, as the mounter named it.
    pub source: String,
    /// The file system's name.
    pub kind: String,
    /// The mount or the file system is read-only.
    pub read_only: bool,
}

/// Who owns a folder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// Is somebody told that a long step is still alive? Called now and then with the time spent so far.
pub type Alive<'a> = &'a (dyn Fn(Duration) + Sync);

/// All that the driver asks of file systems, mounts and folders, on the real kernel or on a simulated one.
///
/// An implementation may be shared by threads. Except [`Filesystems::make`], no method starts a process.
///
/// # Privileges
/// `CAP_SYS_ADMIN` for mounts, and read access to the devices.
pub trait Filesystems: fmt::Debug + Send + Sync {
    /// What is on a device, by one read of its first 68 KiB.
    ///
    /// # Errors
    /// If the device cannot be read.
    fn detect(&self, device: &Path) -> Result<Detected>;

    /// How many bytes of a device its file system takes, by its superblock; `None` if there is none that is known.
    ///
    /// # Errors
    /// If the device cannot be read.
    fn extent(&self, device: &Path) -> Result<Option<u64>>;

    /// Can this kind be made and mounted here? The error says what is missing (the mkfs program, the kernel's support).
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unsupported`].
    fn usable(&self, kind: Kind) -> Result<()>;

    /// Makes a file system, with the options of section 2.7 of the specification. Starts `mkfs`.
    ///
    /// # Errors
    /// With what mkfs printed.
    fn make(&self, device: &Path, options: &MakeOptions, alive: Alive<'_>) -> Result<()>;

    /// Mounts. `nouuid` is added for xfs.
    ///
    /// # Errors
    /// With the device, the target, errno, and what the kernel said about it (mount context and kernel log).
    fn mount(&self, request: &MountRequest) -> Result<()>;

    /// Unmounts what is mounted at `target`. Nothing mounted there is no error: the answer says so.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Busy`] if it is in use and `when` is [`Unmount::Now`].
    fn unmount(&self, target: &Path, when: Unmount) -> Result<Unmounted>;

    /// Grows a mounted file system to the size of its device, by ioctl.
    ///
    /// # Errors
    /// If it is not mounted there, or the file system refuses.
    fn grow(&self, kind: Kind, mount_point: &Path, device: &Path) -> Result<()>;

    /// Makes a mounted file system consistent on its device and holds back its writers (`FIFREEZE`).
    ///
    /// # Errors
    /// [`crate::ErrorKind::Busy`] if it is frozen already.
    fn freeze(&self, mount_point: &Path) -> Result<()>;

    /// Ends a freeze (`FITHAW`).
    ///
    /// # Errors
    /// If it is not frozen.
    fn thaw(&self, mount_point: &Path) -> Result<()>;

    /// Limits how often xfs tries a write again on a full device (`/sys/fs/xfs/dm-N/error/metadata/ENOSPC/max_retries`).
    ///
    /// # Errors
    /// If the kernel has no such knob.
    fn set_xfs_retries(&self, device: (u32, u32), retries: u64) -> Result<()>;

    /// The mount table of this process's mount namespace, in the order in which they were mounted.
    ///
    /// # Errors
    /// If it cannot be read.
    fn mounts(&self) -> Result<Vec<Mount>>;

    /// Makes a folder and those above it. Mode and owner are applied to the last one, also where it was there.
    ///
    /// # Errors
    /// With the path.
    fn make_dir(&self, path: &Path, mode: u32, owner: Owner) -> Result<()>;

    /// Removes an empty folder; `false` if there was none.
    ///
    /// # Errors
    /// With the path; [`crate::ErrorKind::Busy`] if something is mounted there or it is not empty.
    fn remove_dir(&self, path: &Path) -> Result<bool>;

    /// The names of the folders in a folder, sorted; none if it does not exist.
    ///
    /// # Errors
    /// With the path.
    fn dirs(&self, path: &Path) -> Result<Vec<String>>;

    /// Writes a small file if there is none of this name (mode 0600). `true`: it was written.
    ///
    /// # Errors
    /// With the path.
    fn write_if_absent(&self, path: &Path, contents: &[u8]) -> Result<bool>;

    /// Free bytes on the file system that holds `path`, as statfs counts them for root.
    ///
    /// # Errors
    /// With the path.
    fn free_bytes(&self, path: &Path) -> Result<u64>;
}
