//! Unmounting, so that an ext4 keeps its journal if its last writes fail.

use crate::error::{Error, Result};
use crate::filesystems::{Unmount, Unmounted};
use crate::mountinfo;
use crate::sys;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::Mode;
use nix::sys::statfs::{EXT4_SUPER_MAGIC, statfs};
use nix::sys::statvfs::FsFlags;
use nix::unistd::syncfs;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

pub(crate) fn unmount(target: &Path, when: Unmount) -> Result<Unmounted> {
    let flags = match when {
        Unmount::Now => MntFlags::UMOUNT_NOFOLLOW,
        Unmount::Lazy => MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH,
    };
    let ext4 = LastExt4::at(target);
    match umount2(target, flags) {
        Ok(()) => {
            if let Some(ext4) = ext4 {
                ext4.write_back(target);
            }
            Ok(Unmounted::Done)
        }
        Err(Errno::ENOENT) => Ok(Unmounted::NotMounted),
        // Also the answer for a mount that this process may not undo (of another mount namespace's owner).
        Err(Errno::EINVAL) if !is_mount_point(target)? => Ok(Unmounted::NotMounted),
        Err(errno) => {
            let error = Error::new("unmount", target, errno);
            Err(match errno {
                Errno::EBUSY => error.detail("something in it is open, is a working folder or is mounted on"),
                _ => error,
            })
        }
    }
}

fn is_mount_point(target: &Path) -> Result<bool> {
    let real = match (target.parent(), target.file_name()) {
        (Some(parent), Some(name)) => parent.canonicalize().map(|parent| parent.join(name)),
        _ => target.canonicalize(),
    };
    let real = real.map_err(|error| Error::io("unmount", target, &error))?;
    Ok(mountinfo::mounts()?.iter().any(|mount| mount.target == real))
}

/// A writable ext4, held by a copy of its mount that is nowhere in the tree: nobody else comes to it by that, and it does not keep the mount
/// itself from being undone.
///
/// An ext4 whose last writes to its own structures fail must keep its journal, in which everything that was synced still stands. If the kernel
/// finds out while it takes the file system down, it marks the journal as not needed all the same (`ext4_put_super` looks whether the journal
/// is aborted before it empties it; seen on Linux 6.1 and 6.12), and the next mount throws it away. If it finds out before, it
/// leaves the mark, and the next mount replays the journal. So the journal is emptied before.
struct LastExt4 {
    root: OwnedFd,
}

impl LastExt4 {
    /// `None`: it is something else, or read-only, or the kernel (before 5.2) cannot copy a mount.
    fn at(target: &Path) -> Option<Self> {
        let found = statfs(target).ok()?;
        if found.filesystem_type() != EXT4_SUPER_MAGIC || found.flags().contains(FsFlags::ST_RDONLY) {
            return None;
        }
        let path = CString::new(target.as_os_str().as_bytes()).ok()?;
        Some(Self { root: sys::copy_mount(&path).ok()? })
    }

    /// Writes out everything, the journal's content to its place too. That this fails is the kernel's to say and the journal's to mend: the
    /// mount is gone already.
    fn write_back(self, target: &Path) {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let done = openat(&self.root, ".", flags, Mode::empty()).and_then(|root| {
            let synced = syncfs(&root);
            // Also after a failure: what the journal has is what counts.
            sys::ext4_checkpoint(root.as_fd()).and(synced)
        });
        match done {
            // Before Linux 5.14 there is no such call; without a journal there is nothing to do.
            Ok(()) | Err(Errno::ENOTTY | Errno::ENODEV) => {}
            Err(errno) => {
                tracing::warn!(mount_point = %target.display(), %errno, "the file system could not write everything back; its journal stays for the next mount");
            }
        }
    }
}
