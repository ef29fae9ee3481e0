//! Weaknesses of Docker's driver (section 8.2 of the specification) that one call after another shows.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure here is the test's")]

use std::sync::Arc;
use thinlayer_dm::DmName;
use thinlayer_graphdriver::{CreateRequest, Driver, LayerId, Options, Removed, Silent, Unmount};
use thinlayer_sim::World;

fn id(text: &str) -> LayerId {
    LayerId::given(text).unwrap()
}

fn open(world: &World, items: &[&str]) -> Driver {
    let items = [&["dm.fs=ext4", "dm.basesize=1G"], items].concat();
    Driver::open(world.machine("/root"), &Options::parse(&items).unwrap(), Arc::new(Silent)).unwrap().0
}

/// C11: each try of Docker's worker opens a transaction first.
#[test]
fn looking_at_a_device_in_use_costs_no_transaction() {
    for discard in ["dm.blkdiscard=true", "dm.blkdiscard=false"] {
        let world = World::new(1);
        let driver = open(&world, &[discard]);
        let pool = DmName::new(driver.status().unwrap().pool_name).unwrap();
        driver.create(&id("a"), &CreateRequest::empty()).unwrap();
        driver.get(&id("a"), None).unwrap();
        let inside = world.hold("/root/mnt/a").unwrap();
        driver.put(&id("a"), Unmount::Lazy).unwrap();
        assert_eq!(driver.remove(&id("a")).unwrap(), Removed::Deferred, "{discard}");

        driver.work_off().unwrap();
        let (before, transaction) = (world.effects(), world.transaction_id(&pool).unwrap());
        for _ in 0..5 {
            assert_eq!((driver.work_off().unwrap(), driver.deferred()), (0, 1), "{discard}");
        }
        assert_eq!(world.transaction_id(&pool).unwrap(), transaction, "{discard}");
        assert_eq!(world.effects(), before, "{discard}");
        world.release(inside);
        assert_eq!((driver.work_off().unwrap(), driver.deferred()), (1, 0), "{discard}");
        assert_eq!(world.violations(), Vec::<String>::new());
    }
}

/// C17: Docker's options are variables of the process, and the last driver that is made sets them for all.
#[test]
fn drivers_of_one_process_have_options_of_their_own() {
    let (one, other) = (World::new(1), World::new(2));
    let first = open(&one, &["dm.use_deferred_removal=false", "dm.blkdiscard=false", "dm.min_free_space=5%"]);
    let second = open(&other, &[]);
    let rows = |driver: &Driver| {
        let rows = driver.status().unwrap().rows;
        let row = |key: &str| rows.iter().find(|row| row.0 == key).unwrap().1.clone();
        ["Deferred Removal Enabled", "Deferred Deletion Enabled", "Thin Pool Minimum Free Space"].map(row)
    };
    // 5 % and 10 % of 100 GiB.
    assert_eq!(rows(&first), ["false", "false", "5.369GB"]);
    assert_eq!(rows(&second), ["true", "true", "10.74GB"]);
    for (driver, removed) in [(&first, Removed::Gone), (&second, Removed::Deferred)] {
        driver.create(&id("a"), &CreateRequest::empty()).unwrap();
        assert_eq!(driver.remove(&id("a")).unwrap(), removed);
    }
}
