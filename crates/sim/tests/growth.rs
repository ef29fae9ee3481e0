//! The pool's growth on the simulated machine: at its threshold, by hand, out of the reserve, and where it cannot.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure here is the test's")]

use std::path::Path;
use std::sync::Arc;
use thinlayer_dm::{Bytes, DmName, Flush};
use thinlayer_graphdriver::{
    Condition, CreateRequest, Driver, GrowRequest, Kind, LayerId, Options, PoolSize, Silent, Unmount,
};
use thinlayer_sim::World;
use thinlayer_thin::Pool;

const MIB: u64 = 1 << 20;
const SMALL: [&str; 5] =
    ["dm.fs=ext4", "dm.basesize=1G", "dm.loopdatasize=64M", "dm.loopmetadatasize=8M", "dm.blkdiscard=false"];

fn id(text: &str) -> LayerId {
    LayerId::given(text).unwrap()
}

fn open(world: &World, options: &[&str]) -> Driver {
    let options = Options::parse(options).unwrap();
    Driver::open(world.machine("/root"), &options, Arc::new(Silent)).unwrap().0
}

fn pool(world: &World) -> Pool {
    let machine = world.machine("/root");
    let name = DmName::new(format!("docker-8:1-{}-pool", machine.root.inode)).unwrap();
    Pool::open(machine.dm, &name).unwrap().unwrap()
}

/// Fills a mounted layer until so much of the pool's data is used, in percent, or the file system takes no more.
fn fill(world: &World, driver: &Driver, tree: &Path, percent: u64) {
    for n in 0..4000 {
        let status = driver.status().unwrap();
        if status.data_used.0 * 100 >= status.data_total.0 * percent {
            return;
        }
        world.write_file(tree.join(format!("file-{n}")), &[7; 4000]).unwrap();
        if world.sync_fs(tree).is_err() {
            return;
        }
    }
    panic!("4000 files are not enough");
}

#[test]
fn the_watcher_grows_data_at_the_threshold_and_sets_the_mark_again() {
    let world = World::new(1);
    let driver =
        open(&world, &["dm.fs=ext4", "dm.basesize=1G", "dm.loopdatasize=8M", "dm.loopmetadatasize=8M"]);
    assert_eq!(pool(&world).table().unwrap().low_water.0, 128 / 5);
    driver.create(&id("a"), &CreateRequest::empty()).unwrap();
    let tree = driver.get(&id("a"), None).unwrap();
    driver.look_after_pool().unwrap();
    assert_eq!(driver.status().unwrap().data_total, Bytes(8 * MIB), "nothing is due");
    fill(&world, &driver, &tree, 81);
    driver.look_after_pool().unwrap();
    let status = driver.status().unwrap();
    assert!(status.data_total.0 > 9 * MIB, "{status:?}");
    assert_eq!(status.condition, Condition::Good);
    let table = pool(&world).table().unwrap();
    assert_eq!(table.low_water.0, status.data_total.0 / 65536 / 5);
    driver.put(&id("a"), Unmount::Now).unwrap();
}

#[test]
fn a_full_pool_that_cannot_grow_answers_with_errors_until_there_is_room() {
    let world = World::new(1);
    let driver = open(
        &world,
        &[
            "dm.fs=ext4",
            "dm.basesize=1G",
            "dm.loopdatasize=8M",
            "dm.loopmetadatasize=8M",
            "dm.blkdiscard=false",
        ],
    );
    driver.create(&id("a"), &CreateRequest::empty()).unwrap();
    let tree = driver.get(&id("a"), None).unwrap();
    fill(&world, &driver, &tree, 101);
    world.set_host_free(Bytes(MIB / 16));
    driver.look_after_pool().unwrap();
    let status = driver.status().unwrap();
    assert_eq!((status.condition, status.data_total), (Condition::OutOfData, Bytes(8 * MIB)), "{status:?}");
    assert!(pool(&world).table().unwrap().features.error_if_no_space);
    assert_eq!(driver.create(&id("b"), &CreateRequest::empty()).unwrap_err().kind(), Kind::NoSpace);
    driver.look_after_pool().unwrap();
    assert!(pool(&world).table().unwrap().features.error_if_no_space, "still full");
    world.set_host_free(Bytes(1 << 40));
    driver.look_after_pool().unwrap();
    let status = driver.status().unwrap();
    assert_eq!(status.condition, Condition::Good, "{status:?}");
    assert!(!pool(&world).table().unwrap().features.error_if_no_space);
    driver.create(&id("b"), &CreateRequest::empty()).unwrap();
}

#[test]
fn metadata_grows_at_a_create_and_the_create_succeeds() {
    let world = World::new(1);
    let driver = open(&world, &SMALL);
    let name = pool(&world).name().clone();
    world.set_free_metadata(&name, 20).unwrap();
    driver.create(&id("a"), &CreateRequest::empty()).unwrap();
    let status = driver.status().unwrap();
    assert!(status.metadata_total.0 > 8 * MIB, "{status:?}");
}

#[test]
fn without_room_on_the_host_creates_stop_and_the_reserve_lets_layers_go() {
    let world = World::new(1);
    let driver = open(&world, &SMALL);
    for name in ["a", "b"] {
        driver.create(&id(name), &CreateRequest::empty()).unwrap();
    }
    let before = driver.status().unwrap();
    assert_eq!(before.metadata_reserve, Bytes(4 * MIB));
    world.set_host_free(Bytes(0));
    let name = pool(&world).name().clone();
    world.set_free_metadata(&name, 0).unwrap();
    let status = driver.status().unwrap();
    assert_eq!(status.condition, Condition::OutOfMetadata, "{status:?}");
    let error = driver.create(&id("c"), &CreateRequest::empty()).unwrap_err();
    assert!(error.kind() == Kind::NoSpace && error.to_string().contains("metadata"), "{error}");
    assert_eq!(driver.status().unwrap().metadata_total, before.metadata_total, "the reserve is no create's");
    driver.remove(&id("a")).unwrap();
    let status = driver.status().unwrap();
    assert_eq!(status.metadata_total, Bytes(before.metadata_total.0 + 4 * MIB));
    assert_eq!((status.metadata_reserve, status.layers), (Bytes(0), 1));
    // With room again, it is made anew.
    world.set_host_free(Bytes(1 << 40));
    driver.look_after_pool().unwrap();
    assert!(driver.status().unwrap().metadata_reserve >= Bytes(4 * MIB));
}

#[test]
fn a_start_on_full_metadata_settles_what_was_open_out_of_the_reserve() {
    let world = World::new(1);
    let driver = open(&world, &SMALL);
    driver.create(&id("a"), &CreateRequest::empty()).unwrap();
    let name = pool(&world).name().clone();
    // Killed with the intent written: 1 effect into a removal.
    world.crash_after(1);
    driver.remove(&id("a")).unwrap_err();
    world.kill();
    world.set_host_free(Bytes(0));
    world.set_free_metadata(&name, 0).unwrap();
    let driver = open(&world, &SMALL);
    assert!(driver.status().unwrap().metadata_total > Bytes(8 * MIB));
    driver.create(&id("b"), &CreateRequest::empty()).map(drop).unwrap_or_default();
}

#[test]
fn growth_by_hand_is_exact_and_never_less() {
    let world = World::new(1);
    let driver = open(&world, &SMALL);
    let grown = driver.grow_pool(&GrowRequest::new(Some(PoolSize::To(Bytes(100 * MIB))), None)).unwrap();
    assert_eq!((grown.data.from.0, grown.data.to.0), (64 * MIB, 100 * MIB));
    assert_eq!(grown.metadata.from, grown.metadata.to);
    let error = driver.grow_pool(&GrowRequest::new(Some(PoolSize::To(Bytes(64 * MIB))), None)).unwrap_err();
    assert!(error.kind() == Kind::Invalid && error.to_string().contains("shrink"), "{error}");
    driver.grow_pool(&GrowRequest::new(None, Some(PoolSize::By(Bytes(4 * MIB))))).unwrap();
    let status = driver.status().unwrap();
    assert_eq!((status.data_total.0, status.metadata_total.0), (100 * MIB, 12 * MIB));
    // A start with the sizes of the beginning keeps what is there.
    drop(driver);
    world.kill();
    let driver = open(&world, &SMALL);
    assert_eq!(driver.status().unwrap().data_total.0, 100 * MIB);
    driver.stop().unwrap();
    let driver = open(&world, &SMALL);
    assert_eq!(driver.status().unwrap().data_total.0, 100 * MIB);
}

#[test]
fn a_growth_that_was_cut_short_is_completed_by_the_next_start() {
    for effects in 1.. {
        let world = World::new(1);
        let driver = open(&world, &SMALL);
        world.crash_after(effects);
        let done = driver.grow_pool(&GrowRequest::new(
            Some(PoolSize::By(Bytes(36 * MIB))),
            Some(PoolSize::By(Bytes(4 * MIB))),
        ));
        let died = world.is_dead();
        world.kill();
        drop(driver);
        let driver = open(&world, &["dm.fs=ext4", "dm.blkdiscard=false"]);
        let status = driver.status().unwrap();
        assert!([64, 100].contains(&(status.data_total.0 / MIB)), "{effects}: {status:?}");
        assert!([8, 12].contains(&(status.metadata_total.0 / MIB)), "{effects}: {status:?}");
        assert_eq!(status.condition, Condition::Good);
        driver.create(&id("a"), &CreateRequest::empty()).unwrap();
        assert_eq!(world.violations(), Vec::<String>::new());
        if !died {
            done.unwrap();
            assert!(effects > 4, "a growth has more effects than {effects}");
            break;
        }
    }
}

#[test]
fn a_pool_that_needs_a_check_can_be_looked_at_and_taken_down_and_nothing_else() {
    let world = World::new(1);
    let driver = open(&world, &SMALL);
    driver.create(&id("a"), &CreateRequest::empty()).unwrap();
    let name = pool(&world).name().clone();
    world.set_needs_check(&name).unwrap();
    // The owner that runs learns it from its watcher, a new one at its start.
    driver.look_after_pool().unwrap();
    for driver in [driver, open(&world, &SMALL)] {
        for error in [
            driver.create(&id("b"), &CreateRequest::empty()).unwrap_err(),
            driver.get(&id("a"), None).unwrap_err(),
            driver.remove(&id("a")).unwrap_err(),
            driver.resize(&id("a"), Bytes(2 << 30)).unwrap_err(),
            driver.grow_pool(&GrowRequest::default()).unwrap_err(),
        ] {
            assert_eq!(error.kind(), Kind::NeedsCheck, "{error}");
            assert!(
                error.to_string().contains("thin_check --clear-needs-check-flag /root/devicemapper/metadata"),
                "{error}"
            );
        }
        assert_eq!(driver.status().unwrap().condition, Condition::NeedsCheck);
        assert!(driver.exists(&id("a")) && driver.check().is_ok());
    }
    let state = pool(&world).status(Flush::No).unwrap();
    assert!(state.running().is_some_and(|status| status.needs_check == Some(true)));
    open(&world, &SMALL).stop().unwrap();
    assert_eq!(world.dm_names(), Default::default());
}

#[test]
fn a_pool_that_has_failed_can_be_taken_down() {
    let world = World::new(1);
    let driver = open(&world, &SMALL);
    driver.create(&id("a"), &CreateRequest::empty()).unwrap();
    world.fail_pool(&pool(&world).name().clone()).unwrap();
    drop(driver);
    world.kill();
    let driver = open(&world, &SMALL);
    assert_eq!(driver.create(&id("b"), &CreateRequest::empty()).unwrap_err().kind(), Kind::NeedsCheck);
    assert_eq!(driver.status().unwrap().condition, Condition::Failed);
    driver.stop().unwrap();
    let driver = open(&world, &SMALL);
    driver.get(&id("a"), None).unwrap();
}

#[test]
fn a_host_that_cannot_hold_more_stops_creates_before_it_is_full() {
    let world = World::new(1);
    let driver =
        open(&world, &["dm.fs=ext4", "dm.basesize=1G", "dm.loopdatasize=100G", "dm.loopmetadatasize=8M"]);
    driver.create(&id("a"), &CreateRequest::empty()).unwrap();
    // A tenth of what pool and host can still give is nearly nothing here.
    world.set_host_free(Bytes(MIB / 8));
    let status = driver.status().unwrap();
    let refused = driver.create(&id("b"), &CreateRequest::empty());
    if status.condition == Condition::LowHost {
        let error = refused.unwrap_err();
        assert!(error.kind() == Kind::NoSpace && error.to_string().contains("host file system"), "{error}");
    } else {
        panic!("{status:?}");
    }
    world.set_host_free(Bytes(1 << 40));
    driver.create(&id("b"), &CreateRequest::empty()).unwrap();
}
