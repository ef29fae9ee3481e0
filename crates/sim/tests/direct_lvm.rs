//! A root whose pool was set up under LVM, on a machine where LVM cannot be asked: what is stored wins, and nothing else is made.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure here is the test's")]

use std::path::Path;
use std::sync::Arc;
use thinlayer_dm::{Access, Bytes, DeviceMapper, DmName};
use thinlayer_graphdriver::{CreateRequest, Driver, Kind, LayerId, Machine, Options, Silent, View};
use thinlayer_sim::World;
use thinlayer_thin::{BlockSize, Pool, PoolTable};

const CONFIG: &[u8] = br#"{"Device":"/dev/sdb","ThinpPercent":0,"ThinpMetaPercent":0,"AutoExtendPercent":0,"AutoExtendThreshold":0}"#;

fn stored(world: &World, config: &[u8]) -> Machine {
    let machine = world.machine("/root");
    machine.disk.write(Path::new("setup-config.json"), config).unwrap();
    machine
}

fn refused(machine: &Machine, items: &[&str]) -> thinlayer_graphdriver::Error {
    let items = [&["dm.fs=ext4", "dm.basesize=1G"], items].concat();
    Driver::open(machine.clone(), &Options::parse(&items).unwrap(), Arc::new(Silent)).unwrap_err()
}

/// No pool of another kind was begun, in whatever state the call left things.
fn nothing_made(world: &World, machine: &Machine) {
    assert!(world.dm_names().is_empty(), "{:?}", world.dm_names());
    assert!(machine.backing.file(Path::new("/root/devicemapper/data")).unwrap().is_none());
}

#[test]
fn without_its_options_and_without_lvm_the_root_gets_no_loop_pool() {
    let world = World::new(1);
    let machine = stored(&world, CONFIG);
    let error = refused(&machine, &[]);
    assert!(error.kind() == Kind::Unsupported && error.to_string().contains("lvm2"), "{error}");
    assert!(error.to_string().contains("docker-thinpool"), "{error}");
    nothing_made(&world, &machine);
}

#[test]
fn other_options_are_refused_with_both_values() {
    let world = World::new(1);
    let machine = stored(&world, CONFIG);
    for (item, part) in [
        ("dm.directlvm_device=/dev/sdc", "/dev/sdc"),
        ("dm.thinpooldev=other", "dm.thinpooldev=other"),
        ("dm.datadev=/dev/sdd", "dm.datadev=/dev/sdd"),
    ] {
        let error = refused(&machine, &[item]);
        assert_eq!(error.kind(), Kind::Invalid, "{error}");
        assert!(error.to_string().contains(part) && error.to_string().contains("/dev/sdb"), "{error}");
    }
    nothing_made(&world, &machine);
}

#[test]
fn a_damaged_configuration_stops_the_start() {
    let world = World::new(1);
    let machine = stored(&world, b"{\"Device\":");
    let error = refused(&machine, &[]);
    assert!(error.to_string().contains("setup-config.json"), "{error}");
    nothing_made(&world, &machine);
}

#[test]
fn an_active_pool_is_taken_and_left() {
    let world = World::new(1);
    let machine = stored(&world, CONFIG);
    let data = world.add_block_device("/dev/tdata", Bytes(2 << 30), None);
    let metadata = world.add_block_device("/dev/tmeta", Bytes(32 << 20), None);
    let name = DmName::new("docker-thinpool").unwrap();
    let table = PoolTable {
        block_size: BlockSize::MIN,
        ..PoolTable::new(metadata, data, Bytes(2 << 30).to_sectors())
    };
    Pool::create(machine.dm.clone(), &name, &table, Access::ReadWrite).unwrap();

    let options = Options::parse(&["dm.fs=ext4", "dm.basesize=1G"]).unwrap();
    let (driver, notices) = Driver::open(machine.clone(), &options, Arc::new(Silent)).unwrap();
    assert!(notices.iter().any(|notice| notice.text.contains("setup-config.json")), "{notices:?}");
    driver.create(&LayerId::given("a").unwrap(), &CreateRequest::empty()).unwrap();
    assert!(driver.stop().unwrap().is_empty());
    // It is LVM's, not the driver's to remove.
    assert!(machine.dm.info((&name).into()).unwrap().is_some());
    let (view, _) = View::open(&machine).unwrap();
    assert_eq!(view.status(&options).unwrap().unwrap().pool_name, "docker-thinpool");
}

#[test]
fn a_root_with_layers_in_another_pool_gets_no_second_one() {
    let world = World::new(1);
    let machine = world.machine("/root");
    let options = Options::parse(&["dm.fs=ext4", "dm.basesize=1G"]).unwrap();
    let (driver, _) = Driver::open(machine.clone(), &options, Arc::new(Silent)).unwrap();
    driver.create(&LayerId::given("a").unwrap(), &CreateRequest::empty()).unwrap();
    driver.stop().unwrap();
    drop(driver);
    let error = refused(&machine, &["dm.directlvm_device=/dev/sdb"]);
    assert!(error.kind() == Kind::Invalid && error.to_string().contains("nothing was changed"), "{error}");
    assert!(machine.disk.read(Path::new("setup-config.json")).is_err());
}
