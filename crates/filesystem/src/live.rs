//! What is done to a mounted file system: growing, freezing, and xfs's patience with a full device.

use crate::error::{Error, ErrorKind, Result};
use crate::filesystems::Kind;
use crate::sys::{self, XfsGrow};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, fstat};
use nix::sys::statfs::{EXT4_SUPER_MAGIC, FsType, fstatfs};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// `XFS_SUPER_MAGIC`
const XFS_SUPER_MAGIC: FsType = FsType(0x5846_5342);

fn open_mount(action: &str, mount_point: &Path) -> Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    open(mount_point, flags, Mode::empty()).map_err(|errno| Error::new(action, mount_point, errno))
}

/// Grows a mounted file system to the size of its device. One that has that size already is left as it is.
pub(crate) fn grow(kind: Kind, mount_point: &Path, device: &Path) -> Result<()> {
    let action = format!("grow the {kind} file system at");
    let mount = open_mount(&action, mount_point)?;
    let failed = |errno: Errno| Error::new(&action, mount_point, errno);

    let node = File::open(device).map_err(|error| {
        Error::io(&action, mount_point, &error)
            .detail(format!("its device {} cannot be opened", device.display()))
    })?;
    let mounted_here = fstatfs(&mount).map_err(failed)?.filesystem_type()
        == match kind {
            Kind::Ext4 => EXT4_SUPER_MAGIC,
            Kind::Xfs => XFS_SUPER_MAGIC,
        }
        && fstat(&mount).map_err(failed)?.st_dev == fstat(&node).map_err(failed)?.st_rdev;
    if !mounted_here {
        return Err(failed(Errno::EINVAL)
            .detail(format!("{} is not mounted there as {kind}", device.display()))
            .of_kind(ErrorKind::NotFound));
    }
    let bytes = sys::device_size(node.as_fd())
        .map_err(|errno| failed(errno).detail(format!("the size of {} is unknown", device.display())))?;
    let answer = match kind {
        Kind::Ext4 => grow_ext4(mount.as_fd(), bytes),
        Kind::Xfs => grow_xfs(mount.as_fd(), bytes),
    };
    answer.map_err(|errno| {
        let to = format!("to the {bytes} bytes of {}", device.display());
        let why = match errno {
            Errno::EFBIG => ", which is smaller than the file system",
            Errno::EINVAL => ", which may be smaller than the file system",
            Errno::EBUSY | Errno::EAGAIN => ", as another growth of it is under way",
            Errno::EPERM => ": it needs CAP_SYS_RESOURCE (ext4) or CAP_SYS_ADMIN (xfs), and an ext4 without recorded errors",
            Errno::EROFS => ": it is mounted read-only",
            _ => "",
        };
        let error = failed(errno).detail(format!("{to}{why}"));
        match errno {
            Errno::EAGAIN => error.of_kind(ErrorKind::Busy),
            Errno::EFBIG | Errno::EINVAL => error.of_kind(ErrorKind::Other),
            _ => error,
        }
    })
}

/// The kernel takes the size it has already as done, and answers EINVAL to a smaller one.
fn grow_ext4(mount: BorrowedFd<'_>, bytes: u64) -> nix::Result<()> {
    let block_size = u64::try_from(fstatfs(mount)?.block_size()).map_err(|_| Errno::EOVERFLOW)?;
    sys::ext4_resize(mount, bytes.checked_div(block_size).ok_or(Errno::EUCLEAN)?)
}

fn grow_xfs(mount: BorrowedFd<'_>, bytes: u64) -> nix::Result<()> {
    let geometry = sys::xfs_geometry(mount)?;
    let newblocks = bytes.checked_div(u64::from(geometry.blocksize)).ok_or(Errno::EUCLEAN)?;
    match newblocks.cmp(&geometry.datablocks) {
        std::cmp::Ordering::Equal => Ok(()),
        // Newer kernels would try to shrink it.
        std::cmp::Ordering::Less => Err(Errno::EFBIG),
        std::cmp::Ordering::Greater => {
            sys::xfs_grow(mount, &XfsGrow { newblocks, imaxpct: geometry.imaxpct, padding: 0 })
        }
    }
}

pub(crate) fn freeze(mount_point: &Path) -> Result<()> {
    let action = "freeze the file system at";
    let mount = open_mount(action, mount_point)?;
    sys::freeze(mount.as_fd()).map_err(|errno| {
        let error = Error::new(action, mount_point, errno);
        match errno {
            Errno::EBUSY => error.detail("it is frozen already"),
            _ => error,
        }
    })
}

pub(crate) fn thaw(mount_point: &Path) -> Result<()> {
    let action = "thaw the file system at";
    let mount = open_mount(action, mount_point)?;
    sys::thaw(mount.as_fd()).map_err(|errno| {
        let error = Error::new(action, mount_point, errno);
        match errno {
            Errno::EINVAL => error.detail("it is not frozen").of_kind(ErrorKind::Other),
            _ => error,
        }
    })
}

/// Below `sys`, which is `/sys` but for tests.
pub(crate) fn set_xfs_retries(sys: &Path, device: (u32, u32), retries: u64) -> Result<()> {
    let action = "limit the retries of xfs on a full device by";
    let link = sys.join(format!("dev/block/{}:{}", device.0, device.1));
    let target = std::fs::read_link(&link)
        .map_err(|error| Error::io(action, &link, &error).detail("there is no such block device"))?;
    let name = target.file_name().ok_or_else(|| Error::new(action, &link, Errno::ENODEV))?;
    let knob = sys.join("fs/xfs").join(name).join("error/metadata/ENOSPC/max_retries");
    // Opened without O_CREAT: where the kernel has no such knob, nothing is made.
    let written = std::fs::OpenOptions::new()
        .write(true)
        .open(&knob)
        .and_then(|mut file| std::io::Write::write_all(&mut file, retries.to_string().as_bytes()));
    written.map_err(|error| {
        let failed = Error::io(action, &knob, &error);
        match failed.errno {
            Errno::ENOENT => failed
                .detail("no xfs is mounted from this device, or the kernel is older than 4.7")
                .of_kind(ErrorKind::Unsupported),
            Errno::EINVAL | Errno::ERANGE => failed
                .detail(format!("{retries} is more than the kernel takes ({})", i32::MAX))
                .of_kind(ErrorKind::Options),
            _ => failed,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn the_knob_is_found_by_number() {
        let sys = tempfile::tempdir().unwrap();
        let block = sys.path().join("dev/block");
        std::fs::create_dir_all(&block).unwrap();
        symlink("../../devices/virtual/block/dm-7", block.join("253:7")).unwrap();
        let error = set_xfs_retries(sys.path(), (253, 7), 0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let folder = sys.path().join("fs/xfs/dm-7/error/metadata/ENOSPC");
        assert!(!folder.exists());
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("max_retries"), "").unwrap();
        set_xfs_retries(sys.path(), (253, 7), 12).unwrap();
        assert_eq!(std::fs::read_to_string(folder.join("max_retries")).unwrap(), "12");
        let error = set_xfs_retries(sys.path(), (253, 8), 0).unwrap_err();
        assert!(error.to_string().contains("253:8"), "{error}");
    }

    #[test]
    fn growing_what_is_not_mounted_names_the_device() {
        let folder = tempfile::tempdir().unwrap();
        let error = grow(Kind::Xfs, folder.path(), Path::new("/dev/null")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("/dev/null is not mounted there as xfs"), "{error}");
        assert!(grow(Kind::Ext4, &folder.path().join("absent"), Path::new("/dev/null")).is_err());
    }

    #[test]
    fn freezing_nothing_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let absent = folder.path().join("absent");
        for error in [freeze(&absent).unwrap_err(), thaw(&absent).unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::NotFound);
            assert!(error.to_string().contains("absent"), "{error}");
        }
    }
}
