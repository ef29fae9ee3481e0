use super::*;
use crate::error::Trouble;
use crate::scripted::{POOL, Scripted, name};
use std::sync::Arc;

const GOOD: &str = "5 40/1000 10/1600 - rw discard_passdown queue_if_no_space - 250";
const LOW: &str = "5 40/1000 1500/1600 - rw discard_passdown queue_if_no_space - 250";
const FULL: &str = "5 800/1000 1600/1600 - out_of_data_space discard_passdown queue_if_no_space - 250";
const GROWN: &str = "5 800/2000 1600/3200 - rw discard_passdown queue_if_no_space - 250";

fn watcher(lines: &[&str]) -> (Arc<Scripted>, Watcher) {
    let dm = Scripted::with_pool();
    dm.says(lines.iter().copied());
    let pool = Pool::open(Arc::<Scripted>::clone(&dm), &name(POOL)).unwrap().unwrap();
    let watcher = Watcher::new(&pool).unwrap();
    (dm, watcher)
}

#[test]
fn changes_are_reported_once() {
    let (dm, mut watcher) = watcher(&[GOOD, GOOD, LOW, LOW, FULL, GROWN, GROWN]);
    let low_water = DataBlocks(100);
    dm.event(POOL);
    let timeout = Duration::from_secs(1);
    assert_eq!(watcher.wait(timeout).unwrap(), [PoolChange::DataLow { free: DataBlocks(100), low_water }]);
    dm.event(POOL);
    assert_eq!(
        watcher.wait(timeout).unwrap(),
        [
            PoolChange::Health { from: Health::Good, to: Health::Trouble(Trouble::OutOfData) },
            PoolChange::MetadataLow { free: MetaBlocks(200), low_water: MetaBlocks(250) },
        ]
    );
    assert_eq!(
        watcher.wait(timeout).unwrap(),
        [
            PoolChange::Health { from: Health::Trouble(Trouble::OutOfData), to: Health::Good },
            PoolChange::DataSize { from: DataBlocks(1600), to: DataBlocks(3200) },
            PoolChange::MetadataSize { from: MetaBlocks(1000), to: MetaBlocks(2000) },
        ]
    );
    assert_eq!(watcher.wait(timeout).unwrap(), []);
    assert_eq!(watcher.state().running().unwrap().total_data, DataBlocks(3200));
}

#[test]
fn what_is_low_already_is_told_first() {
    let (_dm, mut watcher) = watcher(&[LOW]);
    let changes = watcher.wait(Duration::ZERO).unwrap();
    assert_eq!(changes, [PoolChange::DataLow { free: DataBlocks(100), low_water: DataBlocks(100) }]);
    assert_eq!(watcher.wait(Duration::ZERO).unwrap(), []);
}

#[test]
fn a_failed_pool_is_told() {
    let (_dm, mut watcher) = watcher(&[GOOD, "Fail"]);
    let to = Health::Trouble(Trouble::Failed);
    assert_eq!(watcher.wait(Duration::ZERO).unwrap(), [PoolChange::Health { from: Health::Good, to }]);
}

#[test]
fn a_pool_that_is_gone_ends_the_watch() {
    let (dm, mut watcher) = watcher(&[GOOD]);
    thinlayer_dm::DeviceMapper::remove(&*dm, (&name(POOL)).into(), thinlayer_dm::Removal::Now).unwrap();
    assert_eq!(watcher.wait(Duration::ZERO).unwrap_err().kind(), crate::Kind::NotFound);
}
