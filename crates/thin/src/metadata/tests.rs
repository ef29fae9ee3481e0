//! Pools that were written by the test are read back; damaged ones end in an error, whatever the damage.

mod broken;
mod model;

use super::writer::{WrittenDevice, WrittenPool};
use super::{DeviceDetails, Difference, Error, Kind, Metadata, ReadAt, Run, Side};
use crate::quantity::{BlockSize, DataBlocks, MetaBlocks, ThinId, TransactionId};
use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;

pub(super) fn id(number: u32) -> ThinId {
    ThinId::new(number).unwrap()
}

pub(super) fn device(mappings: impl IntoIterator<Item = (u64, u64)>) -> WrittenDevice {
    let mappings = mappings.into_iter().map(|(block, data)| (block, (data, 1))).collect();
    WrittenDevice { transaction_id: 5, created: 1, snapshotted: 2, mappings }
}

/// Base 1 with blocks 0..600 on data 100..700; 2 shares all but block 10; 3 is empty; the largest id has one block far out.
pub(super) fn usual() -> WrittenPool {
    let base = device((0..600).map(|block| (block, 100 + block)));
    let mut second = base.clone();
    second.mappings.insert(10, (900, 7));
    let far = device([(u64::MAX, 901)]);
    WrittenPool {
        transaction_id: 9,
        time: 7,
        devices: BTreeMap::from([(1, base), (2, second), (3, device([])), (0x00ff_ffff, far)]),
        ..WrittenPool::default()
    }
}

pub(super) fn open(pool: &WrittenPool) -> Metadata {
    Metadata::of(pool.bytes().unwrap(), "test").unwrap()
}

#[test]
fn a_pool_is_read_back() {
    let metadata = open(&usual());
    let superblock = metadata.superblock();
    assert_eq!(superblock.transaction_id, TransactionId(9));
    assert_eq!((superblock.version, superblock.time, superblock.needs_check), (2, 7, false));
    assert_eq!(superblock.block_size, BlockSize::MIN);
    assert_eq!((superblock.held_root, metadata.blocks()), (None, MetaBlocks(1024)));
    let devices: Vec<DeviceDetails> = metadata.devices().map(Result::unwrap).collect();
    let ids: Vec<u32> = devices.iter().map(|device| device.id.get()).collect();
    assert_eq!(ids, [1, 2, 3, 0x00ff_ffff]);
    assert_eq!(
        devices[1],
        DeviceDetails {
            id: id(2),
            mapped: DataBlocks(600),
            transaction_id: TransactionId(5),
            created: 1,
            snapshotted: 2
        }
    );
    assert_eq!(metadata.details(id(3)).unwrap().mapped, DataBlocks(0));
    let runs: Vec<Run> = metadata.runs(id(2)).unwrap().map(Result::unwrap).collect();
    assert_eq!(
        runs,
        [
            Run { start: 0, data: 100, len: 10, time: 1 },
            Run { start: 10, data: 900, len: 1, time: 7 },
            Run { start: 11, data: 111, len: 589, time: 1 },
        ]
    );
    assert_eq!(metadata.runs(id(3)).unwrap().count(), 0);
    for (number, highest) in [(1, Some(599)), (3, None), (0x00ff_ffff, Some(u64::MAX))] {
        assert_eq!(metadata.highest_mapped(id(number)).unwrap(), highest);
    }
    for number in [0, 4, 1000] {
        let error = metadata.details(id(number)).unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string()),
            (Kind::NotFound, format!("the pool on test has no thin id {number}"))
        );
        assert_eq!(metadata.runs(id(number)).unwrap_err().kind(), Kind::NotFound);
    }
}

#[test]
fn what_is_shared_and_what_differs() {
    let metadata = open(&usual());
    let usage: Vec<(u32, u64, u64)> = metadata
        .usage()
        .unwrap()
        .iter()
        .map(|usage| (usage.details.id.get(), usage.exclusive.0, usage.shared.0))
        .collect();
    assert_eq!(usage, [(1, 1, 599), (2, 1, 599), (3, 0, 0), (0x00ff_ffff, 1, 0)]);
    let differences = |left, right| -> Vec<Difference> {
        metadata.differences(id(left), id(right)).unwrap().map(Result::unwrap).collect()
    };
    assert_eq!(differences(1, 2), [Difference { start: 10, len: 1, side: Side::Both }]);
    assert_eq!(differences(1, 1), []);
    assert_eq!(differences(1, 3), [Difference { start: 0, len: 600, side: Side::Left }]);
    assert_eq!(differences(3, 2), [Difference { start: 0, len: 600, side: Side::Right }]);
}

#[test]
fn counts_are_those_of_the_space_maps() {
    let mut pool = usual();
    // Four leaves refer to data block 950, which stands in the tree of counts then.
    for number in 10..14_u32 {
        pool.devices.insert(number, device([(u64::from(number), 950)]));
    }
    let metadata = open(&pool);
    let report = metadata.check();
    assert!(report.is_sound() && report.counts_compared, "{report:?}");
    assert_eq!(report.devices, 8);
    let data = metadata.data_space_map().unwrap();
    assert_eq!(data.blocks(), 1024);
    let counts = [99, 100, 110, 900, 950, 1023, 1024].map(|block| data.count(block).unwrap());
    assert_eq!(counts, [Some(0), Some(2), Some(1), Some(1), Some(4), Some(0), None]);
    // Two bitmaps for each of the space maps.
    pool.metadata_blocks = 17_000;
    pool.data_blocks = 20_000;
    pool.devices.insert(20, device([(7, 19_999)]));
    let metadata = open(&pool);
    assert!(metadata.check().is_sound(), "{:?}", metadata.check());
    assert_eq!(metadata.data_space_map().unwrap().count(19_999).unwrap(), Some(1));
    let map = metadata.metadata_space_map().unwrap();
    assert_eq!(map.count(16_999).unwrap(), Some(0));
    assert_eq!((map.count(0).unwrap(), map.count(1023).unwrap()), (Some(1), Some(0)));
}

#[test]
fn a_metadata_snapshot_has_no_space_maps() {
    let mut pool = usual();
    assert!(matches!(
        Metadata::held_of(pool.bytes().unwrap(), "test").unwrap_err(),
        Error::NoSnapshot { .. }
    ));
    pool.held = true;
    let live = open(&pool);
    assert!(live.check().is_sound(), "{:?}", live.check());
    let root = live.superblock().held_root.unwrap();
    for held in [
        Metadata::held_of(pool.bytes().unwrap(), "test").unwrap(),
        Metadata::held_at(pool.bytes().unwrap(), "test", root).unwrap(),
    ] {
        assert!(held.is_snapshot());
        assert_eq!(held.devices().count(), 4);
        assert!(matches!(held.data_space_map().unwrap_err(), Error::NoSpaceMaps { .. }));
        let report = held.check();
        assert!(report.is_sound() && !report.counts_compared && report.devices == 4, "{report:?}");
    }
    // Another block than the snapshot's is none.
    let error = Metadata::held_at(pool.bytes().unwrap(), "test", MetaBlocks(1)).unwrap_err();
    assert_eq!(error.kind(), Kind::Damaged, "{error}");
}

#[test]
fn a_file_and_a_longer_device_serve_as_well() {
    let mut bytes = usual().bytes().unwrap();
    bytes.resize(bytes.len() + 4096 * 3 + 100, 0xaa);
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().write_all_at(&bytes, 0).unwrap();
    let metadata = Metadata::open(file.path()).unwrap();
    assert_eq!(metadata.blocks(), MetaBlocks(1027));
    assert!(metadata.check().is_sound());
    assert_eq!(metadata.device(), file.path().display().to_string());
    let error = Metadata::open_held(file.path()).unwrap_err();
    assert!(error.to_string().contains("holds no metadata snapshot"), "{error}");
    let missing = Metadata::open(&file.path().with_extension("gone")).unwrap_err();
    assert!(missing.kind() == Kind::Io && missing.to_string().contains(".gone"), "{missing}");
}

#[test]
fn sources_end_where_they_end() {
    let source = vec![1_u8; 5000];
    let mut buffer = [0; 4096];
    source.read_exact_at(&mut buffer, 904).unwrap();
    assert!(source.read_exact_at(&mut buffer, 905).is_err());
    assert!(source.read_exact_at(&mut buffer, u64::MAX).is_err());
    assert_eq!(source.size().unwrap().0, 5000);
}
