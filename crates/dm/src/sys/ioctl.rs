//! The device-mapper ioctl and the buffer that crosses it.

use crate::generated;
use nix::errno::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Bytes of the header that every command starts with.
pub(crate) const HEADER_BYTES: usize = size_of::<generated::dm_ioctl>();

/// A buffer with the alignment of `struct dm_ioctl`, zeroed, at least as long as the header.
#[derive(Debug)]
pub(crate) struct Buffer {
    words: Vec<u64>,
}

const WORD_BYTES: usize = size_of::<u64>();
const _: () = assert!(align_of::<u64>() >= align_of::<generated::dm_ioctl>());

impl Buffer {
    /// At least `bytes` long, rounded up to a whole word.
    pub(crate) fn new(bytes: usize) -> Self {
        Self { words: vec![0; bytes.max(HEADER_BYTES).div_ceil(WORD_BYTES)] }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        // SAFETY: the vector's words are initialised, contiguous and borrowed for as long as the slice; u8 has no alignment
        // and no invalid values.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr().cast(), self.words.len() * WORD_BYTES) }
    }

    pub(crate) fn as_bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, borrowed mutably; every bit pattern is a valid u64.
        unsafe {
            std::slice::from_raw_parts_mut(self.words.as_mut_ptr().cast(), self.words.len() * WORD_BYTES)
        }
    }
}

/// The request code of a command number, as `_IOWR(DM_IOCTL, number, struct dm_ioctl)` gives it.
pub(crate) const fn opcode(number: u32) -> nix::sys::ioctl::ioctl_num_type {
    nix::request_code_readwrite!(generated::DM_IOCTL, number, HEADER_BYTES)
}

/// Gives the buffer to the kernel, which answers in it. One ioctl, no retry.
pub(crate) fn submit(control: BorrowedFd<'_>, number: u32, buffer: &mut Buffer) -> nix::Result<()> {
    let bytes = buffer.as_bytes_mut();
    let len = u32::try_from(bytes.len()).map_err(|_| Errno::E2BIG)?;
    // Written here and not by the caller, since the call below is sound only with the true length.
    let at = std::mem::offset_of!(generated::dm_ioctl, data_size);
    bytes[at..at + size_of::<u32>()].copy_from_slice(&len.to_ne_bytes());
    // SAFETY: the descriptor is open for the time of the call. The pointer is to a writable buffer that is exclusively ours,
    // aligned as `struct dm_ioctl`, and at least as long as the header (`Buffer::new`); a device-mapper kernel reads and writes
    // no more than the `data_size` bytes that the header names, which is the buffer's length. Another driver behind the
    // descriptor would refuse the code (ENOTTY) or, with the same code, follow its encoded size, which is the header's.
    let result = unsafe { libc::ioctl(control.as_raw_fd(), opcode(number), bytes.as_mut_ptr()) };
    Errno::result(result).map(drop)
}

#[cfg(test)]
mod tests {
    use super::{Buffer, HEADER_BYTES, opcode, submit};
    use crate::generated as g;
    use linux_raw_sys::ioctl as second;
    use nix::errno::Errno;
    use std::os::fd::AsFd;

    #[test]
    fn opcodes_are_those_of_a_second_source() {
        for (number, expected) in [
            (g::DM_VERSION_CMD, second::DM_VERSION),
            (g::DM_REMOVE_ALL_CMD, second::DM_REMOVE_ALL),
            (g::DM_LIST_DEVICES_CMD, second::DM_LIST_DEVICES),
            (g::DM_DEV_CREATE_CMD, second::DM_DEV_CREATE),
            (g::DM_DEV_REMOVE_CMD, second::DM_DEV_REMOVE),
            (g::DM_DEV_RENAME_CMD, second::DM_DEV_RENAME),
            (g::DM_DEV_SUSPEND_CMD, second::DM_DEV_SUSPEND),
            (g::DM_DEV_STATUS_CMD, second::DM_DEV_STATUS),
            (g::DM_DEV_WAIT_CMD, second::DM_DEV_WAIT),
            (g::DM_TABLE_LOAD_CMD, second::DM_TABLE_LOAD),
            (g::DM_TABLE_CLEAR_CMD, second::DM_TABLE_CLEAR),
            (g::DM_TABLE_DEPS_CMD, second::DM_TABLE_DEPS),
            (g::DM_TABLE_STATUS_CMD, second::DM_TABLE_STATUS),
            (g::DM_LIST_VERSIONS_CMD, second::DM_LIST_VERSIONS),
            (g::DM_TARGET_MSG_CMD, second::DM_TARGET_MSG),
            (g::DM_DEV_SET_GEOMETRY_CMD, second::DM_DEV_SET_GEOMETRY),
            (g::DM_DEV_ARM_POLL_CMD, second::DM_DEV_ARM_POLL),
            (g::DM_GET_TARGET_VERSION_CMD, second::DM_GET_TARGET_VERSION),
        ] {
            // The type of a request code differs between C libraries, and may be signed.
            assert_eq!(i128::from(opcode(number)) & 0xffff_ffff, i128::from(expected), "command {number}");
        }
    }

    #[test]
    fn buffers_hold_a_header_and_are_aligned() {
        for bytes in [0, 1, HEADER_BYTES, HEADER_BYTES + 1, 16384] {
            let mut buffer = Buffer::new(bytes);
            assert!(buffer.as_bytes().len() >= bytes.max(HEADER_BYTES));
            assert_eq!(buffer.as_bytes().as_ptr().align_offset(align_of::<g::dm_ioctl>()), 0);
            assert!(buffer.as_bytes_mut().iter().all(|&byte| byte == 0));
        }
    }

    #[test]
    fn a_descriptor_that_is_no_control_node_is_refused() {
        let null = std::fs::File::open("/dev/null").unwrap();
        let mut buffer = Buffer::new(0);
        assert_eq!(submit(null.as_fd(), g::DM_VERSION_CMD, &mut buffer), Err(Errno::ENOTTY));
    }
}
