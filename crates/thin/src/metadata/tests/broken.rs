//! Damage: each kind by hand, and any by chance.

use super::super::writer::{WrittenPool, seal};
use super::super::{BlockKind, Consistency, Error, Fault, Kind, Metadata, Space};
use super::{device, id, usual};
use crate::quantity::MetaBlocks;
use proptest::prelude::*;
use std::collections::BTreeMap;

const BLOCK: usize = 4096;

fn set(image: &mut [u8], block: u64, at: usize, value: &[u8]) {
    let start = usize::try_from(block).unwrap() * BLOCK + at;
    image[start..start + value.len()].copy_from_slice(value);
}

fn sealed(image: &mut [u8], block: u64, kind: BlockKind, at: usize, value: &[u8]) {
    set(image, block, at, value);
    seal(image, MetaBlocks(block), kind);
}

fn number(image: &[u8], block: u64, at: usize) -> u64 {
    let start = usize::try_from(block).unwrap() * BLOCK + at;
    u64::from_le_bytes(image[start..start + 8].try_into().unwrap())
}

/// Reads everything in every way; only errors may come of it.
fn read_all(image: &[u8]) -> Vec<Error> {
    let mut errors = Vec::new();
    for metadata in [Metadata::of(image.to_vec(), "test"), Metadata::held_of(image.to_vec(), "test")] {
        let metadata = match metadata {
            Ok(metadata) => metadata,
            Err(error) => {
                errors.push(error);
                continue;
            }
        };
        let limit = image.len();
        let mut ids = Vec::new();
        for (count, details) in metadata.devices().enumerate() {
            assert!(count < limit, "it does not end");
            match details {
                Ok(details) => ids.push(details.id),
                Err(error) => errors.push(error),
            }
        }
        for id in ids.iter().take(6) {
            match metadata.runs(*id) {
                Ok(runs) => {
                    for (count, run) in runs.enumerate() {
                        assert!(count < limit, "it does not end");
                        errors.extend(run.err());
                    }
                }
                Err(error) => errors.push(error),
            }
            errors.extend(metadata.highest_mapped(*id).err());
            for other in ids.iter().take(3) {
                match metadata.differences(*id, *other) {
                    Ok(differences) => {
                        for (count, difference) in differences.enumerate() {
                            assert!(count < limit, "it does not end");
                            errors.extend(difference.err());
                        }
                    }
                    Err(error) => errors.push(error),
                }
            }
        }
        errors.extend(metadata.usage().err());
        for fault in metadata.check().faults {
            assert!(!fault.to_string().contains('\n'));
            if let Fault::Unreadable(error) = fault {
                errors.push(error);
            }
        }
        for map in [metadata.data_space_map(), metadata.metadata_space_map()].into_iter().flatten() {
            for block in [0, 1, 500, 16_320, u64::MAX - 1] {
                errors.extend(map.count(block).err());
            }
        }
    }
    errors
}

fn check(image: Vec<u8>) -> Consistency {
    Metadata::of(image, "test").unwrap().check()
}

/// The check must find a damaged block, and say this of it.
fn damaged(image: Vec<u8>, block: u64, words: &str) {
    let report = check(image);
    assert!(!report.counts_compared);
    let found = report.faults.iter().any(|fault| match fault {
        Fault::Unreadable(error @ Error::Damaged { block: at, .. }) => {
            at.0 == block
                && error.to_string().contains(words)
                && error.to_string().contains("thin_check test")
        }
        _ => false,
    });
    assert!(found, "block {block}, {words}: {:?}", report.faults);
}

/// The superblock's pointers.
fn roots(image: &[u8]) -> BTreeMap<&'static str, u64> {
    let at = [
        ("data index", 80),
        ("data counts", 88),
        ("metadata index", 208),
        ("mappings", 320),
        ("details", 328),
    ];
    at.into_iter().map(|(name, at)| (name, number(image, 0, at))).collect()
}

#[test]
fn what_is_no_pool() {
    let kind = |bytes: Vec<u8>| {
        let error = Metadata::of(bytes, "test").unwrap_err();
        (error.kind(), error.to_string())
    };
    assert_eq!(
        kind(vec![0; BLOCK]),
        (Kind::NoPool, "test holds no pool's metadata: its first block is empty".into())
    );
    assert_eq!(kind(Vec::new()).0, Kind::NoPool);
    assert_eq!(kind(vec![0; 100]).0, Kind::NoPool);
    let (class, text) = kind(vec![7; BLOCK]);
    assert!(class == Kind::NoPool && text.contains("magic number"), "{text}");
    let image = usual().bytes().unwrap();
    for (at, value, class, words) in [
        (40, 3_u32, Kind::NoPool, "its version is 3"),
        (360, 4, Kind::NoPool, "incompatible features (0x4)"),
        (340, 16, Kind::NoPool, "16 sectors"),
        (336, 100, Kind::Damaged, "multiple of 64 KiB"),
    ] {
        let mut image = image.clone();
        sealed(&mut image, 0, BlockKind::Superblock, at, &value.to_le_bytes());
        let (found, text) = kind(image);
        assert!(found == class && text.contains(words), "{text}");
    }
    let mut image = image;
    set(&mut image, 0, 200, &[1]);
    let (found, text) = kind(image);
    assert!(
        found == Kind::Damaged && text.contains("checksum") && text.contains("block 0 of test"),
        "{text}"
    );
}

#[test]
fn each_kind_of_block_is_verified() {
    let image = usual().bytes().unwrap();
    let roots = roots(&image);
    let bitmap = number(&image, roots["metadata index"], 16);
    for block in roots.values().copied().chain([bitmap]) {
        let mut flipped = image.clone();
        let at = usize::try_from(block).unwrap() * BLOCK + 3000;
        flipped[at] ^= 1;
        damaged(flipped, block, "checksum");
    }
    // A node that was copied elsewhere has a good checksum, and another number.
    let mut moved = image.clone();
    let node = usize::try_from(roots["details"]).unwrap() * BLOCK;
    moved.copy_within(node..node + BLOCK, 1000 * BLOCK);
    sealed(&mut moved, 0, BlockKind::Superblock, 328, &1000_u64.to_le_bytes());
    damaged(moved, 1000, &format!("says that it is block {}", roots["details"]));
}

#[test]
fn node_headers_and_keys_are_verified() {
    let image = WrittenPool { fill: 9, ..usual() }.bytes().unwrap();
    let details = roots(&image)["details"];
    let mappings = roots(&image)["mappings"];
    let device = number(&image, mappings, 32 + 8 * 252);
    for (block, at, value, words) in [
        (details, 4, 3_u32, "neither inner node nor leaf"),
        (details, 4, 1, "values are 24 bytes long in place of 8"),
        (details, 24, 8, "values are 8 bytes long in place of 24"),
        (details, 16, 5000, "5000 entries in room"),
        (details, 20, 5000, "room for 5000"),
        (device, 16, 0, "it is empty"),
        (details, 40, 1, "out of order"),
        (details, 36, 1, "out of order"),
        (details, 60, 1, "no thin id"),
    ] {
        let mut image = image.clone();
        sealed(&mut image, block, BlockKind::Node, at, &value.to_le_bytes());
        damaged(image, block, words);
    }
    // A child with keys outside of what its parent says.
    let child = number(&image, device, 32 + 8 * 252);
    let mut low = image.clone();
    sealed(&mut low, device, BlockKind::Node, 32, &5_u64.to_le_bytes());
    let below = number(&low, device, 32 + 8 * 252);
    assert_eq!(below, child);
    damaged(low, child, "its first key is 0, and the node above says at least 5");
}

#[test]
fn circles_and_stray_pointers() {
    let image = WrittenPool { fill: 9, ..usual() }.bytes().unwrap();
    let device = number(&image, roots(&image)["mappings"], 32 + 8 * 252);
    let mut circle = image.clone();
    sealed(&mut circle, device, BlockKind::Node, 32 + 8 * 252, &device.to_le_bytes());
    damaged(circle.clone(), device, "lies below itself");
    assert!(!read_all(&circle).is_empty());
    for stray in [0, 1024, u64::MAX] {
        let mut image = image.clone();
        sealed(&mut image, device, BlockKind::Node, 32 + 8 * 252, &stray.to_le_bytes());
        damaged(image.clone(), stray, "the device has the blocks 1 to 1023");
        assert!(!read_all(&image).is_empty());
    }
    // The tree of details as a device's mappings.
    let mut mixed = image.clone();
    let details = roots(&image)["details"];
    sealed(&mut mixed, roots(&image)["mappings"], BlockKind::Node, 32 + 8 * 252, &details.to_le_bytes());
    damaged(mixed, details, "a node of the tree of device details and of a device's mapping tree");
}

#[test]
fn wrong_counts_are_told() {
    let image = usual().bytes().unwrap();
    let roots = roots(&image);
    let faults = |image: Vec<u8>| {
        let report = check(image);
        assert!(report.counts_compared);
        report.faults
    };
    // Data block 0 counted once, and nobody has it.
    let bitmap = number(&image, roots["data index"], 32 + 8 * 168);
    let mut leak = image.clone();
    sealed(&mut leak, bitmap, BlockKind::Bitmap, 16, &[2]);
    let [
        Fault::Leaked { space: Space::Data, first: 0, blocks: 1, stored: 1, counted: 0 },
        Fault::Free { .. },
        Fault::Allocated { .. },
    ] = &faults(leak)[..]
    else {
        panic!("a leak")
    };
    // Data blocks 100 to 103 are free, and two devices have them.
    let mut lost = image.clone();
    sealed(&mut lost, bitmap, BlockKind::Bitmap, 16 + 25, &[0]);
    let found = faults(lost);
    let Fault::Undercounted { space: Space::Data, first: 100, blocks: 4, stored: 0, counted: 2 } = found[0]
    else {
        panic!("{found:?}")
    };
    assert!(!found[0].is_leak() && found[0].to_string().contains("may be given away while in use"));
    // What the kernel counts as free in the last bitmap, and what nobody does.
    let index = 32 + 8 * 168 + 8;
    let free = u32::try_from(number(&image, roots["data index"], index) & 0xffff_ffff).unwrap();
    for (stored, found) in [(free + 16_320 - 1024, 0), (free + 1, 1)] {
        let mut counted = image.clone();
        sealed(&mut counted, roots["data index"], BlockKind::Node, index, &stored.to_le_bytes());
        assert_eq!(faults(counted).len(), found, "{stored}");
    }
    // A device's own count.
    let mut mapped = image.clone();
    let values = 32 + 8 * number_of(&image, roots["details"], 20);
    sealed(&mut mapped, roots["details"], BlockKind::Node, values, &7_u64.to_le_bytes());
    assert!(matches!(faults(mapped)[..], [Fault::Mapped { stored: 7, counted: 600, .. }]));
    // A device of which only one of the two trees knows.
    let mut renamed = image.clone();
    sealed(&mut renamed, roots["details"], BlockKind::Node, 48, &4_u64.to_le_bytes());
    let found = faults(renamed);
    assert!(
        matches!(found[..], [Fault::NoDevice(three), Fault::NoMappings(four)] if three == id(3) && four == id(4)),
        "{found:?}"
    );
}

fn number_of(image: &[u8], block: u64, at: usize) -> usize {
    usize::try_from(number(image, block, at) & 0xffff_ffff).unwrap()
}

#[test]
fn a_large_count_that_is_missing() {
    let mut pool = usual();
    for number in 10..14_u32 {
        pool.devices.insert(number, device([(u64::from(number), 950)]));
    }
    let mut image = pool.bytes().unwrap();
    let counts = roots(&image)["data counts"];
    sealed(&mut image, counts, BlockKind::Node, 32, &951_u64.to_le_bytes());
    let report = check(image);
    let text = report.faults[0].to_string();
    assert!(!report.counts_compared && text.contains("block 950 is referred to more than twice"), "{text}");
}

/// Faults beyond the hundredth are counted, not kept.
#[test]
fn a_thousand_faults_are_not_kept() {
    let mut pool = usual();
    let mappings = (0..500).map(|block| (block, 2 * block));
    pool.devices = BTreeMap::from([(1, device(mappings))]);
    let mut image = pool.bytes().unwrap();
    let bitmap = number(&image, roots(&image)["data index"], 32 + 8 * 168);
    sealed(&mut image, bitmap, BlockKind::Bitmap, 16, &[0; 250]);
    let report = check(image);
    assert_eq!((report.faults.len(), report.more), (100, 402));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    /// Bytes change anywhere, and the blocks get good checksums or not: nothing panics, nothing runs for ever.
    #[test]
    fn any_damage_ends_in_errors(
        hits in prop::collection::vec((0..40_u64, 0..BLOCK, any::<u64>(), any::<bool>(), 0..4_u8), 1..12),
        fill in prop_oneof![Just(3_usize), Just(usize::MAX)],
        held in any::<bool>(),
    ) {
        let base = device((0..80).map(|block| (block * 3, 100 + block)));
        let mut second = base.clone();
        second.mappings.insert(9, (900, 7));
        let devices = BTreeMap::from([(1, base), (2, second), (7, device([(4, 5)]))]);
        let pool = WrittenPool { fill, held, metadata_blocks: 256, devices, ..WrittenPool::default() };
        let mut image = pool.bytes().unwrap();
        for (block, at, value, small, kind) in hits {
            // Header fields, keys and values are small numbers mostly.
            let at = if small { at % 64 / 4 * 4 } else { at };
            let value = if small { value % 48 } else { value };
            let bytes = value.to_le_bytes();
            let len = bytes.len().min(BLOCK - at);
            set(&mut image, block, at, &bytes[..len]);
            let kind = match (block, kind) {
                (0, 0..=2) => Some(BlockKind::Superblock),
                (_, 0 | 1) => Some(BlockKind::Node),
                (_, 2) => Some(BlockKind::Bitmap),
                _ => None,
            };
            kind.into_iter().for_each(|kind| seal(&mut image, MetaBlocks(block), kind));
        }
        for error in read_all(&image) {
            prop_assert!(!error.to_string().contains('\n') && error.to_string().contains("test"), "{}", error);
        }
    }

    #[test]
    fn any_bytes_end_in_errors(bytes in prop::collection::vec(any::<u8>(), 0..9000)) {
        prop_assert!(!read_all(&bytes).is_empty());
    }

    /// A device that ends early.
    #[test]
    fn a_cut_device_ends_in_errors(blocks in 1..60_usize) {
        let mut image = WrittenPool { fill: 9, ..usual() }.bytes().unwrap();
        image.truncate(blocks * BLOCK + 17);
        prop_assert!(!read_all(&image).is_empty());
    }
}
