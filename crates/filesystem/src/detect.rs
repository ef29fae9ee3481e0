//! What is on a device, from its superblocks.

use crate::error::{Error, Result};
use crate::filesystems::{Detected, Kind};
use std::fs::File;
use std::io::ErrorKind as IoErrorKind;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// How much of a device [`identify`] looks at: to the end of btrfs's magic number. A shorter device holds nothing that is known.
pub const NEEDED: usize = 65_608;

/// What one read fetches: [`NEEDED`] rounded up to whole pages.
const READ: usize = 68 * 1024;

const BTRFS_MAGIC: &[u8] = b"_BHRfS_M";
/// Where btrfs's magic number is.
pub(crate) const BTRFS_MAGIC_AT: usize = 0x1_0040;
const EXT4_MAGIC: &[u8] = &[0x53, 0xef];
const EXT4_MAGIC_AT: usize = 0x438;
const EXT4_UUID_AT: usize = 0x468;
const XFS_MAGIC: &[u8] = b"XFSB";
const XFS_UUID_AT: usize = 32;

/// Which file system begins with these bytes, in the order in which Docker's driver looked: btrfs, ext4, xfs (section 4.3 of the
/// specification). ext2 and ext3 count as ext4, whose driver mounts them. Fewer than [`NEEDED`] bytes are [`Detected::Nothing`].
pub fn identify(start: &[u8]) -> Detected {
    if start.len() < NEEDED {
        return Detected::Nothing;
    }
    let known = |kind, uuid_at| Detected::Known { kind, uuid: uuid_text(start, uuid_at) };
    if start[BTRFS_MAGIC_AT..].starts_with(BTRFS_MAGIC) {
        Detected::Foreign("btrfs")
    } else if start[EXT4_MAGIC_AT..].starts_with(EXT4_MAGIC) {
        known(Kind::Ext4, EXT4_UUID_AT)
    } else if start.starts_with(XFS_MAGIC) {
        known(Kind::Xfs, XFS_UUID_AT)
    } else {
        Detected::Nothing
    }
}

/// As blkid prints it, which prints none if all of it is zero.
fn uuid_text(start: &[u8], at: usize) -> String {
    let uuid = &start[at..at + 16];
    if uuid.iter().all(|byte| *byte == 0) {
        return String::new();
    }
    let mut text = String::with_capacity(36);
    for (index, byte) in uuid.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// How many bytes the file system takes that begins with these: blocks times their size, as its superblock has them.
pub fn extent_of(start: &[u8]) -> Option<u64> {
    /// `s_blocks_count_lo`, `s_log_block_size`, `s_feature_incompat`, `s_blocks_count_hi` of `struct ext4_super_block`.
    const EXT4: [usize; 4] = [0x404, 0x418, 0x460, 0x550];
    const EXT4_64BIT: u32 = 0x80;
    let Detected::Known { kind, .. } = identify(start) else { return None };
    let four = |at: usize| start.get(at..at + 4)?.try_into().ok();
    match kind {
        Kind::Ext4 => {
            let word = |at: usize| Some(u32::from_le_bytes(four(at)?));
            let [low, log, features, high] = EXT4.map(word);
            let high = if features? & EXT4_64BIT == 0 { 0 } else { u64::from(high?) };
            let blocks = high << 32 | u64::from(low?);
            blocks.checked_mul(1024_u64.checked_shl(log?).filter(|size| *size <= 64 << 10)?)
        }
        Kind::Xfs => {
            // sb_blocksize, sb_dblocks
            let size = u32::from_be_bytes(four(4)?);
            let blocks = u64::from_be_bytes(start.get(8..16)?.try_into().ok()?);
            blocks.checked_mul(size.into())
        }
    }
}

/// [`identify`] for what a path names: a device's node, or an image file.
pub(crate) fn detect(device: &Path) -> Result<Detected> {
    read(device).map(|start| identify(&start))
}

/// [`extent_of`] for what a path names.
pub(crate) fn extent(device: &Path) -> Result<Option<u64>> {
    read(device).map(|start| extent_of(&start))
}

fn read(device: &Path) -> Result<Vec<u8>> {
    let failed = |error: std::io::Error| Error::io("read the start of", device, &error);
    let file = File::open(device).map_err(failed)?;
    let mut start = vec![0; READ];
    let length = read_start(&file, &mut start).map_err(failed)?;
    start.truncate(length);
    Ok(start)
}

/// One read as a rule: more only where it was interrupted or came up short.
fn read_start(file: &File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut length = 0;
    while length < NEEDED {
        match file.read_at(&mut buffer[length..], u64::try_from(length).unwrap_or(u64::MAX)) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == IoErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn image(parts: &[(usize, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; NEEDED];
        for (at, part) in parts {
            bytes[*at..*at + part.len()].copy_from_slice(part);
        }
        bytes
    }

    const UUID: &[u8] =
        &[0x5f, 0x1f, 0x0a, 0x52, 0x6a, 0x3d, 0x4d, 0x2b, 0x9b, 0x9b, 0x3e, 0x0c, 0x7b, 0x6d, 0x2a, 0x11];

    #[test]
    fn each_signature_in_its_place() {
        let uuid = "5f1f0a52-6a3d-4d2b-9b9b-3e0c7b6d2a11".to_owned();
        assert_eq!(
            identify(&image(&[(EXT4_MAGIC_AT, EXT4_MAGIC), (EXT4_UUID_AT, UUID)])),
            Detected::Known { kind: Kind::Ext4, uuid: uuid.clone() }
        );
        assert_eq!(
            identify(&image(&[(0, XFS_MAGIC), (XFS_UUID_AT, UUID)])),
            Detected::Known { kind: Kind::Xfs, uuid }
        );
        assert_eq!(identify(&image(&[(BTRFS_MAGIC_AT, BTRFS_MAGIC)])), Detected::Foreign("btrfs"));
        assert_eq!(identify(&image(&[])), Detected::Nothing);
    }

    #[test]
    fn a_superblock_tells_how_far_its_file_system_goes() {
        let xfs = image(&[(0, XFS_MAGIC), (4, &4096_u32.to_be_bytes()), (8, &76_800_u64.to_be_bytes())]);
        assert_eq!(extent_of(&xfs), Some(300 << 20));
        let blocks = 12_288_u32.to_le_bytes();
        let ext4 =
            [(EXT4_MAGIC_AT, EXT4_MAGIC), (0x404, &blocks), (0x418, &[2, 0, 0, 0]), (0x550, &[1, 0, 0, 0])];
        assert_eq!(extent_of(&image(&ext4)), Some(48 << 20), "the high half counts only with 64bit");
        let large = [&ext4[..], &[(0x460, &[0x80, 0, 0, 0])]].concat();
        assert_eq!(extent_of(&image(&large)), Some((48 << 20) + (4096 << 32)));
        assert_eq!(extent_of(&image(&[])), None);
    }

    #[test]
    fn btrfs_before_ext4_before_xfs() {
        let all = [(0, XFS_MAGIC), (EXT4_MAGIC_AT, EXT4_MAGIC), (BTRFS_MAGIC_AT, BTRFS_MAGIC)];
        assert_eq!(identify(&image(&all)), Detected::Foreign("btrfs"));
        assert!(matches!(identify(&image(&all[..2])), Detected::Known { kind: Kind::Ext4, .. }));
    }

    #[test]
    fn a_uuid_of_zeroes_is_none() {
        let found = identify(&image(&[(0, XFS_MAGIC)]));
        assert_eq!(found, Detected::Known { kind: Kind::Xfs, uuid: String::new() });
    }

    #[test]
    fn a_short_device_holds_nothing_and_a_missing_one_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("short");
        let whole = image(&[(EXT4_MAGIC_AT, EXT4_MAGIC), (EXT4_UUID_AT, UUID)]);
        for length in [0, 1, 512, NEEDED - 1] {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(detect(&path).unwrap(), Detected::Nothing, "{length}");
        }
        std::fs::write(&path, &whole).unwrap();
        assert!(matches!(detect(&path).unwrap(), Detected::Known { kind: Kind::Ext4, .. }));
        let error = detect(&folder.path().join("absent")).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::NotFound);
        assert!(error.to_string().contains("absent"), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_bytes_have_an_answer(
            seed in prop::collection::vec(any::<u8>(), 1..200),
            length in prop::sample::select(vec![0, 3, 0x439, 0x43a, NEEDED - 1, NEEDED, READ]),
            at in prop::sample::select(vec![0usize, 1, EXT4_MAGIC_AT, BTRFS_MAGIC_AT]),
            magic in prop::sample::select(vec![XFS_MAGIC, EXT4_MAGIC, BTRFS_MAGIC]),
        ) {
            let mut bytes: Vec<u8> = seed.iter().copied().cycle().take(length).collect();
            if let Some(place) = bytes.get_mut(at..at + magic.len()) {
                place.copy_from_slice(magic);
            }
            match identify(&bytes) {
                Detected::Known { uuid, .. } => prop_assert!(uuid.is_empty() || uuid.len() == 36),
                Detected::Foreign(name) => prop_assert_eq!(name, "btrfs"),
                Detected::Nothing => prop_assert!(length < NEEDED || at != 0 || magic != XFS_MAGIC),
            }
        }
    }
}
