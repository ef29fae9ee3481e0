//! The ioctls of loop devices, block devices and files. The one module of this crate with `unsafe` code.
//!
//! # References
//! `include/uapi/linux/loop.h`, `include/uapi/linux/fs.h`, `include/uapi/linux/fiemap.h`.

#![expect(unsafe_code, reason = "nix has no loop ioctls, and its ioctl macros make unsafe functions")]

use libc::{self, c_int, c_ulong};
use nix::errno::Errno;
use std::fs::File;
use std::mem::{offset_of, size_of};
use std::os::fd::AsRawFd;
use thinlayer_dm::Bytes;

type Result<T> = std::result::Result<T, Errno>;

const LOOP_SET_FD: u32 = 0x4C00;
const LOOP_CLR_FD: u32 = 0x4C01;
const LOOP_SET_STATUS64: u32 = 0x4C04;
const LOOP_GET_STATUS64: u32 = 0x4C05;
const LOOP_SET_CAPACITY: u32 = 0x4C07;
const LOOP_SET_DIRECT_IO: u32 = 0x4C08;
const LOOP_CONFIGURE: u32 = 0x4C0A;
const LOOP_CTL_GET_FREE: u32 = 0x4C82;
/// `_IO(0x12, 94)`.
const BLKROGET: u32 = 0x125E;
/// `_IO(0x12, 119)`.
const BLKDISCARD: u32 = 0x1277;

/// `_IOWR('f', 11, struct fiemap)`.
const FS_IOC_FIEMAP: u32 = 0xC020_660B;
/// What is still in memory only is given its place first.
const FIEMAP_FLAG_SYNC: u32 = 1;
const FIEMAP_EXTENT_LAST: u32 = 1;
/// How many extents one call tells.
const EXTENTS: usize = 64;

// BLKGETSIZE64 is _IOR(0x12, 114, size_t), whose size is in the number.
nix::ioctl_read!(blkgetsize64, 0x12, 114, usize);

/// `LO_NAME_SIZE`.
const NAME_BYTES: usize = 64;

/// The device refuses writes.
pub(crate) const LO_FLAGS_READ_ONLY: u32 = 1;
/// The device frees itself at its last close.
pub(crate) const LO_FLAGS_AUTOCLEAR: u32 = 4;
/// The page cache is bypassed.
pub(crate) const LO_FLAGS_DIRECT_IO: u32 = 16;

/// `struct loop_info64`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoopInfo64 {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    rdevice: u64,
    offset: u64,
    sizelimit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    pub(crate) flags: u32,
    file_name: [u8; NAME_BYTES],
    crypt_name: [u8; NAME_BYTES],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo64,
    reserved: [u64; 8],
}

/// `struct fiemap_extent`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Extent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

/// `struct fiemap` with room for [`EXTENTS`].
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Fiemap {
    start: u64,
    length: u64,
    flags: u32,
    mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
    extents: [Extent; EXTENTS],
}

const _: () = {
    assert!(size_of::<Extent>() == 56);
    assert!(offset_of!(Extent, flags) == 40);
    assert!(offset_of!(Fiemap, extents) == 32);
    assert!(offset_of!(Fiemap, mapped_extents) == 20);
    assert!(size_of::<LoopInfo64>() == 232);
    assert!(offset_of!(LoopInfo64, sizelimit) == 32);
    assert!(offset_of!(LoopInfo64, flags) == 52);
    assert!(offset_of!(LoopInfo64, file_name) == 56);
    assert!(offset_of!(LoopInfo64, init) == 216);
    assert!(size_of::<LoopConfig>() == 304);
    assert!(offset_of!(LoopConfig, info) == 8);
};

impl LoopInfo64 {
    const ZERO: Self = Self {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        sizelimit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags: 0,
        file_name: [0; NAME_BYTES],
        crypt_name: [0; NAME_BYTES],
        encrypt_key: [0; 32],
        init: [0; 2],
    };

    /// What a new attachment asks for. A name of more than 63 bytes is cut, as losetup does; sysfs has the whole of it.
    pub(crate) fn new(name: &[u8], flags: u32, limit: Option<Bytes>) -> Self {
        let sizelimit = limit.map_or(0, |limit| limit.0);
        let mut info = Self { flags, sizelimit, ..Self::ZERO };
        for (to, from) in info.file_name.iter_mut().take(NAME_BYTES - 1).zip(name) {
            *to = *from;
        }
        info
    }
}

fn checked(answer: c_int) -> Result<c_int> {
    Errno::result(answer)
}

/// An ioctl whose argument is a number, or nothing.
fn with_number(file: &File, request: u32, argument: c_ulong) -> Result<c_int> {
    // SAFETY: the descriptor is open for the whole call, and every request passed here takes its argument by
    // value, so the kernel follows no pointer.
    checked(unsafe { libc::ioctl(file.as_raw_fd(), libc::Ioctl::from(request), argument) })
}

fn descriptor(file: &File) -> Result<c_ulong> {
    c_ulong::try_from(file.as_raw_fd()).map_err(|_| Errno::EBADF)
}

/// The number of a loop device that is free at this moment; makes one where there is none.
pub(crate) fn loop_get_free(control: &File) -> Result<u32> {
    u32::try_from(with_number(control, LOOP_CTL_GET_FREE, 0)?).map_err(|_| Errno::EINVAL)
}

/// Attaches a file, with everything about it, in one step. Kernel 5.8 and later.
pub(crate) fn loop_configure(device: &File, backing: &File, info: LoopInfo64) -> Result<()> {
    let fd = u32::try_from(backing.as_raw_fd()).map_err(|_| Errno::EBADF)?;
    let config = LoopConfig { fd, block_size: 0, info, reserved: [0; 8] };
    // SAFETY: both descriptors are open for the whole call; the kernel reads one `struct loop_config` from the
    // pointer, whose layout is asserted above.
    checked(unsafe { libc::ioctl(device.as_raw_fd(), libc::Ioctl::from(LOOP_CONFIGURE), &raw const config) })
        .map(drop)
}

/// Attaches a file: the first of two steps before kernel 5.8.
pub(crate) fn loop_set_fd(device: &File, backing: &File) -> Result<()> {
    with_number(device, LOOP_SET_FD, descriptor(backing)?).map(drop)
}

/// Says how the file is attached: the second step.
pub(crate) fn loop_set_status(device: &File, info: LoopInfo64) -> Result<()> {
    // SAFETY: the descriptor is open for the whole call; the kernel reads one `struct loop_info64` from the
    // pointer, whose layout is asserted above.
    checked(unsafe { libc::ioctl(device.as_raw_fd(), libc::Ioctl::from(LOOP_SET_STATUS64), &raw const info) })
        .map(drop)
}

/// Detaches the file, at once or at the last close.
pub(crate) fn loop_clear(device: &File) -> Result<()> {
    with_number(device, LOOP_CLR_FD, 0).map(drop)
}

/// Bypasses the page cache, or EINVAL where the backing file system cannot.
pub(crate) fn loop_set_direct_io(device: &File) -> Result<()> {
    with_number(device, LOOP_SET_DIRECT_IO, 1).map(drop)
}

/// What is attached; ENXIO if nothing is.
pub(crate) fn loop_status(device: &File) -> Result<LoopInfo64> {
    let mut info = LoopInfo64::ZERO;
    // SAFETY: the descriptor is open for the whole call; the kernel writes one `struct loop_info64` to the
    // pointer, whose layout is asserted above and for which every bit pattern is valid.
    checked(unsafe { libc::ioctl(device.as_raw_fd(), libc::Ioctl::from(LOOP_GET_STATUS64), &raw mut info) })?;
    Ok(info)
}

/// Takes over the file's size.
pub(crate) fn loop_set_capacity(device: &File) -> Result<()> {
    with_number(device, LOOP_SET_CAPACITY, 0).map(drop)
}

/// The ranges of a file, as start and end, that have blocks at or after `start`, in order; the last ones may be
/// left to another call, which starts at the end of the last. `true`: there are no more.
///
/// Blocks that were allocated and never written to count.
pub(crate) fn extents(file: &File, start: u64) -> Result<(Vec<(u64, u64)>, bool)> {
    let nothing =
        Extent { logical: 0, physical: 0, length: 0, reserved64: [0; 2], flags: 0, reserved: [0; 3] };
    let mut map = Fiemap {
        start,
        length: u64::MAX - start,
        flags: FIEMAP_FLAG_SYNC,
        mapped_extents: 0,
        extent_count: u32::try_from(EXTENTS).unwrap_or(0),
        reserved: 0,
        extents: [nothing; EXTENTS],
    };
    // SAFETY: the descriptor is open for the whole call; the kernel reads and writes one `struct fiemap` with at
    // most `extent_count` extents behind it, for which `map` has room, and whose layout is asserted above.
    checked(unsafe { libc::ioctl(file.as_raw_fd(), libc::Ioctl::from(FS_IOC_FIEMAP), &raw mut map) })?;
    let mapped = usize::try_from(map.mapped_extents).unwrap_or(0).min(EXTENTS);
    let found = &map.extents[..mapped];
    let last = found.last().is_none_or(|extent| extent.flags & FIEMAP_EXTENT_LAST != 0);
    Ok((
        found.iter().map(|extent| (extent.logical, extent.logical.saturating_add(extent.length))).collect(),
        last,
    ))
}

/// A block device's size.
pub(crate) fn block_size(device: &File) -> Result<Bytes> {
    // The kernel writes 64 bits even where size_t has 32.
    let mut size = [0_usize; 8 / size_of::<usize>()];
    // SAFETY: the descriptor is open for the whole call; the kernel writes a u64 to the pointer, which has room
    // for one.
    unsafe { blkgetsize64(device.as_raw_fd(), size.as_mut_ptr()) }?;
    let mut bytes = [0; 8];
    for (to, word) in bytes.chunks_mut(size_of::<usize>()).zip(size) {
        to.copy_from_slice(&word.to_ne_bytes());
    }
    Ok(Bytes(u64::from_ne_bytes(bytes)))
}

/// Whether a block device refuses writes.
pub(crate) fn block_read_only(device: &File) -> Result<bool> {
    let mut answer: c_int = 0;
    // SAFETY: the descriptor is open for the whole call; the kernel writes one int to the pointer.
    checked(unsafe { libc::ioctl(device.as_raw_fd(), libc::Ioctl::from(BLKROGET), &raw mut answer) })?;
    Ok(answer != 0)
}

/// Discards a range of a block device.
pub(crate) fn block_discard(device: &File, offset: u64, length: u64) -> Result<()> {
    let range = [offset, length];
    // SAFETY: the descriptor is open for the whole call; the kernel reads two u64 from the pointer.
    checked(unsafe { libc::ioctl(device.as_raw_fd(), libc::Ioctl::from(BLKDISCARD), range.as_ptr()) })
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_is_cut_and_stays_terminated() {
        let info = LoopInfo64::new(&[b'x'; 100], LO_FLAGS_AUTOCLEAR, None);
        assert_eq!(info.file_name[..63], [b'x'; 63]);
        assert_eq!(info.file_name[63], 0);
        assert_eq!(info.flags, 4);
    }

    #[test]
    fn what_is_no_loop_or_block_device_is_refused_by_errno() {
        let null = File::options().read(true).open("/dev/null").unwrap();
        assert_eq!(loop_status(&null).unwrap_err(), Errno::ENOTTY);
        assert_eq!(block_size(&null).unwrap_err(), Errno::ENOTTY);
        assert_eq!(block_read_only(&null).unwrap_err(), Errno::ENOTTY);
        assert_eq!(block_discard(&null, 0, 512).unwrap_err(), Errno::ENOTTY);
    }
}
