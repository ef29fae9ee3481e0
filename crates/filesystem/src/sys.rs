//! The system calls that `nix` lacks: the mount API, and the ioctls of block devices, ext4 and xfs.

use nix::Result;
use nix::errno::Errno;
use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// `linux/mount.h`.
mod uapi {
    use libc::{c_int, c_uint};

    pub(super) const FSOPEN_CLOEXEC: c_uint = 1;
    pub(super) const FSMOUNT_CLOEXEC: c_uint = 1;
    pub(super) const FSCONFIG_SET_FLAG: c_uint = 0;
    pub(super) const FSCONFIG_SET_STRING: c_uint = 1;
    pub(super) const FSCONFIG_CMD_CREATE: c_uint = 6;
    pub(super) const MOVE_MOUNT_F_EMPTY_PATH: c_uint = 0x04;
    pub(super) const MOVE_MOUNT_T_EMPTY_PATH: c_uint = 0x40;
    pub(super) const OPEN_TREE_CLONE: c_uint = 1;
    /// "No file descriptor", for the parameters that do not need one.
    pub(super) const NO_AUX: c_int = 0;
}

/// `struct xfs_fsop_geom_v4` of `xfs_fs.h`: what every kernel since 2.4 answers to `XFS_IOC_FSGEOMETRY_V4`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct XfsGeometry {
    /// Bytes per block.
    pub(crate) blocksize: u32,
    pub(crate) rtextsize: u32,
    pub(crate) agblocks: u32,
    pub(crate) agcount: u32,
    pub(crate) logblocks: u32,
    pub(crate) sectsize: u32,
    pub(crate) inodesize: u32,
    /// Percentage of the space that inodes may take.
    pub(crate) imaxpct: u32,
    /// Blocks of the data section.
    pub(crate) datablocks: u64,
    pub(crate) rtblocks: u64,
    pub(crate) rtextents: u64,
    pub(crate) logstart: u64,
    pub(crate) uuid: [u8; 16],
    pub(crate) sunit: u32,
    pub(crate) swidth: u32,
    pub(crate) version: i32,
    pub(crate) flags: u32,
    pub(crate) logsectsize: u32,
    pub(crate) rtsectsize: u32,
    pub(crate) dirblocksize: u32,
    pub(crate) logsunit: u32,
}
const _: () = assert!(size_of::<XfsGeometry>() == 112);

/// `struct xfs_growfs_data` of `xfs_fs.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct XfsGrow {
    /// Blocks that the data section shall have.
    pub(crate) newblocks: u64,
    /// As in [`XfsGeometry`].
    pub(crate) imaxpct: u32,
    pub(crate) padding: u32,
}
const _: () = assert!(size_of::<XfsGrow>() == 16);

/// The raw calls, by number as the kernel's headers compose it.
mod ioctls {
    use super::{XfsGeometry, XfsGrow};
    use libc::c_int;

    // BLKGETSIZE64 is declared with size_t and writes 64 bits.
    nix::ioctl_read_bad!(blkgetsize64, nix::request_code_read!(0x12, 114, size_of::<usize>()), u64);
    nix::ioctl_write_ptr_bad!(blkroset, nix::request_code_none!(0x12, 93), c_int);
    nix::ioctl_read_bad!(blkroget, nix::request_code_none!(0x12, 94), c_int);
    nix::ioctl_readwrite!(fifreeze, b'X', 119, c_int);
    nix::ioctl_readwrite!(fithaw, b'X', 120, c_int);
    nix::ioctl_write_ptr!(ext4_resize, b'f', 16, u64);
    nix::ioctl_write_ptr!(ext4_checkpoint, b'f', 43, u32);
    nix::ioctl_read!(xfs_geometry_v4, b'X', 124, XfsGeometry);
    nix::ioctl_write_ptr!(xfs_growfs_data, b'X', 110, XfsGrow);
}

fn descriptor(answer: libc::c_long) -> Result<OwnedFd> {
    let number = Errno::result(answer)?;
    let number = i32::try_from(number).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just made this descriptor for this process, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// A new mount context for a file system by name; loads its module where need be. ENODEV: the kernel does not have it.
pub(crate) fn fsopen(kind: &CStr) -> Result<OwnedFd> {
    // SAFETY: the pointer is to a string that lives through the call.
    descriptor(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), uapi::FSOPEN_CLOEXEC) })
}

/// Gives a mount context a parameter; without a value it is a flag.
pub(crate) fn fsconfig(context: BorrowedFd<'_>, key: &CStr, value: Option<&CStr>) -> Result<()> {
    let (command, value) = match value {
        Some(value) => (uapi::FSCONFIG_SET_STRING, value.as_ptr()),
        None => (uapi::FSCONFIG_SET_FLAG, std::ptr::null()),
    };
    // SAFETY: the pointers are to strings that live through the call, or null where the command takes none.
    let answer = unsafe {
        libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, key.as_ptr(), value, uapi::NO_AUX)
    };
    Errno::result(answer).map(drop)
}

/// Makes the superblock that a mount context describes.
pub(crate) fn fsconfig_create(context: BorrowedFd<'_>) -> Result<()> {
    let none = std::ptr::null::<libc::c_char>();
    // SAFETY: this command takes neither key nor value.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            uapi::FSCONFIG_CMD_CREATE,
            none,
            none,
            uapi::NO_AUX,
        )
    };
    Errno::result(answer).map(drop)
}

/// A mount of a context's superblock that is nowhere yet; it goes with its descriptor.
pub(crate) fn fsmount(context: BorrowedFd<'_>, attributes: u32) -> Result<OwnedFd> {
    // SAFETY: no memory is passed.
    descriptor(unsafe {
        libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), uapi::FSMOUNT_CLOEXEC, attributes)
    })
}

/// Puts a mount on an open folder.
pub(crate) fn move_mount(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<()> {
    let flags = uapi::MOVE_MOUNT_F_EMPTY_PATH | uapi::MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: both paths are empty strings that live for ever.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            target.as_raw_fd(),
            c"".as_ptr(),
            flags,
        )
    };
    Errno::result(answer).map(drop)
}

/// A copy of the mount at a path that is nowhere yet; it goes with its descriptor. A link in the last place is not followed.
pub(crate) fn copy_mount(path: &CStr) -> Result<OwnedFd> {
    let here = libc::AT_FDCWD;
    let flags =
        uapi::OPEN_TREE_CLONE | libc::O_CLOEXEC.cast_unsigned() | libc::AT_SYMLINK_NOFOLLOW.cast_unsigned();
    // SAFETY: the pointer is to a string that lives through the call.
    descriptor(unsafe { libc::syscall(libc::SYS_open_tree, here, path.as_ptr(), flags) })
}

/// Bytes of a block device.
pub(crate) fn device_size(device: BorrowedFd<'_>) -> Result<u64> {
    let mut bytes = 0;
    // SAFETY: the kernel writes the 64 bits that the pointer has room for.
    unsafe { ioctls::blkgetsize64(device.as_raw_fd(), &mut bytes) }?;
    Ok(bytes)
}

/// Does the block device refuse writes?
pub(crate) fn is_read_only(device: BorrowedFd<'_>) -> Result<bool> {
    let mut answer = 0;
    // SAFETY: the kernel writes one int.
    unsafe { ioctls::blkroget(device.as_raw_fd(), &mut answer) }?;
    Ok(answer != 0)
}

/// Makes the block device refuse writes, or take them again.
pub(crate) fn set_read_only(device: BorrowedFd<'_>, read_only: bool) -> Result<()> {
    let value = libc::c_int::from(read_only);
    // SAFETY: the kernel reads one int.
    unsafe { ioctls::blkroset(device.as_raw_fd(), &value) }.map(drop)
}

/// `FIFREEZE`.
pub(crate) fn freeze(mount: BorrowedFd<'_>) -> Result<()> {
    let mut unused = 0;
    // SAFETY: the kernel does not use the argument.
    unsafe { ioctls::fifreeze(mount.as_raw_fd(), &mut unused) }.map(drop)
}

/// `FITHAW`.
pub(crate) fn thaw(mount: BorrowedFd<'_>) -> Result<()> {
    let mut unused = 0;
    // SAFETY: the kernel does not use the argument.
    unsafe { ioctls::fithaw(mount.as_raw_fd(), &mut unused) }.map(drop)
}

/// `EXT4_IOC_RESIZE_FS`: how many blocks the mounted file system shall have.
pub(crate) fn ext4_resize(mount: BorrowedFd<'_>, blocks: u64) -> Result<()> {
    // SAFETY: the kernel reads 64 bits.
    unsafe { ioctls::ext4_resize(mount.as_raw_fd(), &blocks) }.map(drop)
}

/// `EXT4_IOC_CHECKPOINT`, by the mounted file system's root: the journal's content is written to its place, and the journal is empty.
pub(crate) fn ext4_checkpoint(root: BorrowedFd<'_>) -> Result<()> {
    let no_flags = 0;
    // SAFETY: the kernel reads 32 bits.
    unsafe { ioctls::ext4_checkpoint(root.as_raw_fd(), &no_flags) }.map(drop)
}

/// `XFS_IOC_FSGEOMETRY_V4`.
pub(crate) fn xfs_geometry(mount: BorrowedFd<'_>) -> Result<XfsGeometry> {
    let mut geometry = XfsGeometry::default();
    // SAFETY: the kernel writes the 112 bytes of this version of the structure.
    unsafe { ioctls::xfs_geometry_v4(mount.as_raw_fd(), &mut geometry) }?;
    Ok(geometry)
}

/// `XFS_IOC_FSGROWFSDATA`.
pub(crate) fn xfs_grow(mount: BorrowedFd<'_>, grow: &XfsGrow) -> Result<()> {
    // SAFETY: the kernel reads 16 bytes.
    unsafe { ioctls::xfs_growfs_data(mount.as_raw_fd(), grow) }.map(drop)
}

/// Lets the kernel kill the program when the thread that starts it ends, however it ends: an orphaned mkfs would write to a
/// device that a restarted process takes for its own.
pub(crate) fn die_with_parent(command: &mut Command) {
    let parent = nix::unistd::getpid();
    let ask = move || {
        // SAFETY: PR_SET_PDEATHSIG takes a signal's number and no memory.
        Errno::result(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
        // The parent may have died before this.
        if nix::unistd::getppid() == parent { Ok(()) } else { Err(Errno::ECHILD.into()) }
    };
    // SAFETY: prctl and getppid may be called between fork and exec: they take no lock and allocate nothing.
    unsafe { command.pre_exec(ask) };
}
