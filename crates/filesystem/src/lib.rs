//! ext4 and xfs on a block device, for programs that make, mount, grow, freeze and identify file systems without `mount`, `blkid`,
//! `resize2fs` or `xfs_growfs`.
//!
//! [`System`] does it by system calls; only making a file system starts a program (`mkfs.ext4`, `mkfs.xfs`). All of it is behind the
//! trait [`Filesystems`], so that a caller can be tested on a simulated machine. It does not matter where a device comes from:
//! a thin device, a loop device, a partition.
//!
//! | to | use |
//! | --- | --- |
//! | see what is on a device | [`Filesystems::detect`], or [`identify`] on bytes of your own |
//! | make a file system | [`Filesystems::usable`], [`Filesystems::make`] |
//! | mount and unmount | [`Filesystems::mount`], [`Filesystems::unmount`], the owner [`Mounted`] |
//! | work in a mount for a moment | [`with_temporary_mount`] |
//! | grow it to its device's size | [`Filesystems::grow`] |
//! | hold its writers back | [`Filesystems::freeze`], the owner [`Frozen`] |
//! | read mount options as in fstab | [`options`] |
//! | read a mount table | [`Filesystems::mounts`], or [`parse_mounts`] on text of your own; [`parse_swaps`] for `/proc/swaps` |
//!
//! ```no_run
//! use std::path::Path;
//! use thinlayer_filesystem::{Filesystems, Kind, MountRequest, Mounted, System};
//!
//! # fn main() -> Result<(), thinlayer_filesystem::Error> {
//! let system = System::new();
//! let request = MountRequest {
//!     device: "/dev/mapper/pool-layer".into(),
//!     target: "/mnt".into(),
//!     kind: Kind::Xfs,
//!     read_only: false,
//!     no_recovery: false,
//!     options: vec!["noatime,nodev".to_owned()],
//!     label: None,
//! };
//! let mounted = Mounted::mount(&system, &request)?;
//! system.grow(Kind::Xfs, mounted.target(), Path::new("/dev/mapper/pool-layer"))?;
//! # Ok(())
//! # }
//! ```
//!
//! # Privileges
//! Mounting, freezing and growing need `CAP_SYS_ADMIN` (ext4's growth `CAP_SYS_RESOURCE`), a look at a device read access to it.
//!
//! # Waiting
//! In [`Filesystems::make`] mkfs has a deadline. The system calls behind everything else, and those before and after mkfs, cannot be ended by
//! anybody while the device does not answer, the read of [`Filesystems::detect`] included: who needs a deadline on them runs them on a thread of their own.

mod detect;
mod error;
mod ext4;
mod filesystems;
mod folders;
mod guard;
mod kernel_log;
mod live;
mod make;
mod mount;
mod mountinfo;
pub mod options;
mod pointers;
mod program;
#[cfg(test)]
mod scripted;
#[expect(unsafe_code, reason = "the system calls and ioctls that nix lacks")]
mod sys;
mod system;
mod temporary;
mod unmount;

pub use detect::{NEEDED, extent_of, identify};
pub use error::{Error, ErrorKind, Result};
pub use filesystems::{
    Alive, Detected, Filesystems, Kind, MakeOptions, Mount, MountRequest, Owner, Unmount, Unmounted,
};
pub use guard::{Frozen, Mounted, unmount_within};
pub use mountinfo::{parse as parse_mounts, parse_swaps};
/// What the kernel answers, as the errors of this crate hold it.
pub use nix::errno::Errno;
pub use system::System;
pub use temporary::with_temporary_mount;
