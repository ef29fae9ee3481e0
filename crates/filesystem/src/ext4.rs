//! ext4's superblock: no checks by number of mounts or by time (what `tune2fs -c -1 -i 0` does).

use crate::error::{Error, Result};
use nix::errno::Errno;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes of a superblock, and where the first one is.
const SIZE: usize = 1024;
const OFFSET: u64 = 1024;

/// Places in it (`struct ext4_super_block`).
const MAX_MOUNT_COUNT: usize = 0x36;
const MAGIC: usize = 0x38;
const CHECK_INTERVAL: usize = 0x44;
const RO_COMPAT: usize = 0x64;
const CHECKSUM: usize = 0x3fc;
/// `metadata_csum`: the superblock ends in a checksum of itself.
const RO_COMPAT_METADATA_CSUM: u32 = 0x400;

/// Turns both kinds of periodic check off in the first superblock, as tune2fs does. mke2fs makes file systems so unless its
/// configuration says otherwise, and then nothing is written.
pub(crate) fn never_check_by_count_or_time(device: &Path) -> Result<()> {
    let failed = |error: std::io::Error| {
        Error::io("turn off periodic checks of the ext4 file system on", device, &error)
    };
    let file = OpenOptions::new().read(true).write(true).open(device).map_err(failed)?;
    let mut superblock = [0; SIZE];
    file.read_exact_at(&mut superblock, OFFSET).map_err(failed)?;
    match without_checks(&mut superblock) {
        Some(false) => Ok(()),
        Some(true) => {
            file.write_all_at(&superblock, OFFSET).map_err(failed)?;
            file.sync_all().map_err(failed)
        }
        None => Err(failed(Errno::EUCLEAN.into())),
    }
}

/// `true`: something was changed. `None`: this is no ext4 superblock.
fn without_checks(superblock: &mut [u8; SIZE]) -> Option<bool> {
    if superblock[MAGIC..MAGIC + 2] != [0x53, 0xef] {
        return None;
    }
    let never = (-1i16).to_le_bytes();
    if superblock[MAX_MOUNT_COUNT..MAX_MOUNT_COUNT + 2] == never
        && superblock[CHECK_INTERVAL..CHECK_INTERVAL + 4] == [0; 4]
    {
        return Some(false);
    }
    superblock[MAX_MOUNT_COUNT..MAX_MOUNT_COUNT + 2].copy_from_slice(&never);
    superblock[CHECK_INTERVAL..CHECK_INTERVAL + 4].fill(0);
    let mut features = [0; 4];
    features.copy_from_slice(&superblock[RO_COMPAT..RO_COMPAT + 4]);
    if u32::from_le_bytes(features) & RO_COMPAT_METADATA_CSUM != 0 {
        let checksum = crc32c(&superblock[..CHECKSUM]).to_le_bytes();
        superblock[CHECKSUM..CHECKSUM + 4].copy_from_slice(&checksum);
    }
    Some(true)
}

/// CRC-32C as ext4 uses it: all ones to begin with, and not inverted at the end.
fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0x82f6_3b78 * (sum & 1)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_of_the_standard_text() {
        // The check value of CRC-32C is inverted at the end.
        assert_eq!(!crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn what_is_no_superblock_is_left_alone() {
        let mut bytes = [0; SIZE];
        assert_eq!(without_checks(&mut bytes), None);
        assert_eq!(bytes, [0; SIZE]);
    }

    #[test]
    fn both_fields_are_set_and_then_there_is_nothing_to_do() {
        let mut bytes = [0; SIZE];
        bytes[MAGIC..MAGIC + 2].copy_from_slice(&[0x53, 0xef]);
        bytes[MAX_MOUNT_COUNT] = 20;
        bytes[CHECK_INTERVAL] = 7;
        assert_eq!(without_checks(&mut bytes), Some(true));
        assert_eq!(bytes[MAX_MOUNT_COUNT..MAX_MOUNT_COUNT + 2], [0xff, 0xff]);
        assert_eq!(bytes[CHECK_INTERVAL..CHECK_INTERVAL + 4], [0; 4]);
        // Without metadata_csum there is no checksum.
        assert_eq!(bytes[CHECKSUM..], [0; 4]);
        assert_eq!(without_checks(&mut bytes), Some(false));
    }
}
