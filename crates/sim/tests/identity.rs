//! A root and the pool that belongs to it: what is another pool is refused before anything happens.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure here is the test's")]

use std::path::Path;
use std::sync::Arc;
use thinlayer_dm::{Access, DmName, Removal};
use thinlayer_graphdriver::{Bytes, CreateRequest, Driver, Error, Kind, LayerId, Options, Silent};
use thinlayer_sim::World;
use thinlayer_thin::{BlockSize, Pool, PoolTable};

const ROOT: &str = "/root";
const POOL_FILE: &str = "/root/thinlayer/pool.json";

fn id(text: &str) -> LayerId {
    LayerId::given(text).unwrap()
}

fn open(world: &World, items: &[&str]) -> Result<(Driver, Vec<String>), Error> {
    let options = Options::parse(&[&["dm.fs=ext4"], items].concat()).unwrap();
    let (driver, notices) = Driver::open(world.machine(ROOT), &options, Arc::new(Silent))?;
    Ok((driver, notices.into_iter().map(|notice| notice.text).collect()))
}

/// A root with one layer, at rest.
fn root(items: &[&str]) -> World {
    let world = World::new(1);
    for name in ["/dev/data", "/dev/meta", "/dev/other", "/dev/small"] {
        let size = if name == "/dev/small" { 1 << 30 } else { 4 << 30 };
        world.add_block_device(name, Bytes(size), None);
    }
    let (driver, _) = open(&world, items).unwrap();
    driver.create(&id("a"), &CreateRequest::empty()).unwrap();
    driver.stop().unwrap();
    world
}

/// Refused, without a single effect on the machine. What was said.
fn refused(world: &World, items: &[&str], kind: Kind) -> String {
    let before = world.effect_count();
    let error = open(world, items).map(drop).unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert_eq!(world.effect_count(), before, "{:?}", world.effects().last());
    error.to_string()
}

fn works(world: &World, items: &[&str]) -> Vec<String> {
    let (driver, notices) = open(world, items).unwrap();
    assert!(driver.exists(&id("a")));
    driver.get(&id("a"), None).unwrap();
    driver.stop().unwrap();
    assert_eq!(world.violations(), Vec::<String>::new());
    notices
}

#[test]
fn a_loop_root_takes_no_other_pool() {
    let world = root(&[]);
    for items in [&["dm.thinpooldev=other-pool"][..], &["dm.datadev=/dev/data", "dm.metadatadev=/dev/meta"]] {
        let said = refused(&world, items, Kind::Invalid);
        for part in ["loop files", items[0], "pool.json"] {
            assert!(said.contains(part), "{part} is not in: {said}");
        }
        works(&world, &[]);
    }
    // Without our file the loop files themselves say it, as in a root that Docker made.
    world.delete_file(POOL_FILE).unwrap();
    let said = refused(&world, &["dm.thinpooldev=other-pool"], Kind::Invalid);
    assert!(said.contains("/root/devicemapper/data"), "{said}");
    works(&world, &[]);
    assert!(world.read_file(POOL_FILE).unwrap().is_some(), "the pool is remembered again");
}

#[test]
fn lost_options_make_no_loop_pool() {
    let devices = ["dm.datadev=/dev/data", "dm.metadatadev=/dev/meta"];
    let world = root(&devices);
    let said = refused(&world, &[], Kind::Invalid);
    assert!(said.contains("/dev/data") && said.contains("/dev/meta") && said.contains("unit file"), "{said}");
    assert!(!world.host_entries(ROOT).contains(&"devicemapper".to_owned()));
    // Also where nobody remembers: the root has layers, and no files.
    world.delete_file(POOL_FILE).unwrap();
    refused(&world, &[], Kind::Other);
    works(&world, &devices);
}

#[test]
fn another_disk_is_told_from_the_pools() {
    let world = root(&["dm.datadev=/dev/data", "dm.metadatadev=/dev/meta"]);
    let said = refused(&world, &["dm.datadev=/dev/small", "dm.metadatadev=/dev/meta"], Kind::Invalid);
    for part in ["/dev/small", "1.074GB", "4.295GB", "/dev/data"] {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
    // Blank metadata would be formatted, and the layers be gone.
    let said = refused(&world, &["dm.datadev=/dev/data", "dm.metadatadev=/dev/other"], Kind::Invalid);
    assert!(said.contains("holds no pool"), "{said}");
    works(&world, &["dm.datadev=/dev/data", "dm.metadatadev=/dev/meta"]);
}

#[test]
fn the_block_size_is_remembered() {
    let world = root(&["dm.blocksize=512K"]);
    works(&world, &[]);
    world.delete_file(POOL_FILE).unwrap();
    works(&world, &[]);
    let said = refused(&world, &["dm.blocksize=64K"], Kind::Invalid);
    assert!(said.contains("524288"), "{said}");
}

#[test]
fn a_damaged_or_later_file_is_told() {
    let world = root(&[]);
    world.write_file(POOL_FILE, b"{\"version\":1,").unwrap();
    let notices = works(&world, &[]);
    assert!(notices.iter().any(|text| text.contains("pool.json")), "{notices:?}");
    world.write_file(POOL_FILE, b"{\"version\":7}").unwrap();
    let said = refused(&world, &[], Kind::Other);
    assert!(said.contains("later version"), "{said}");
}

#[test]
fn a_full_disk_costs_only_the_memory() {
    let world = World::new(1);
    let fault = thinlayer_sim::Fault::new("disk write thinlayer/pool.json", nix::errno::Errno::ENOSPC);
    world.inject(fault);
    let (driver, notices) = open(&world, &[]).unwrap();
    assert!(notices.iter().any(|text| text.contains("pool.json")), "{notices:?}");
    driver.create(&id("a"), &CreateRequest::empty()).unwrap();
    driver.stop().unwrap();
    assert_eq!(world.read_file(POOL_FILE).unwrap(), None);
    world.clear_faults();
    works(&world, &[]);
    assert!(world.read_file(POOL_FILE).unwrap().is_some());
}

#[test]
fn a_root_without_a_finished_base_is_not_bound() {
    let world = World::new(1);
    world.inject(thinlayer_sim::Fault::new("fs make", nix::errno::Errno::EIO));
    open(&world, &[]).map(drop).unwrap_err();
    world.clear_faults();
    assert!(world.read_file(Path::new(POOL_FILE)).unwrap().is_none());
    let (driver, _) = open(&world, &[]).unwrap();
    driver.stop().unwrap();
}

/// Given devices cannot be made anew as files can: what an interrupted first start leaves on them must do for the next one.
#[test]
fn a_first_start_on_given_devices_can_be_cut_off_anywhere() {
    const GIVEN: [&str; 2] = ["dm.datadev=/dev/data", "dm.metadatadev=/dev/meta"];
    let world = World::new(1);
    for name in ["/dev/data", "/dev/meta"] {
        world.add_block_device(name, Bytes(4 << 30), None);
    }
    world.capture(true);
    open(&world, &GIVEN).unwrap().0.stop().unwrap();
    let captures = world.take_captures();
    assert!(captures.len() > 30, "{} effects", captures.len());
    for capture in captures {
        for power_cut in [false, true] {
            let world = capture.world.fork();
            if power_cut {
                world.power_cut(capture.effects);
            } else {
                world.kill();
            }
            let (driver, _) = open(&world, &GIVEN)
                .unwrap_or_else(|error| panic!("after {:?}: {error}", capture.world.effects().last()));
            driver.create(&id("a"), &CreateRequest::empty()).unwrap();
            driver.stop().unwrap();
            works(&world, &GIVEN);
        }
    }
}

/// A pool's block size cannot change, not even that of an empty one.
#[test]
fn an_empty_pool_on_given_devices_keeps_its_block_size() {
    const GIVEN: [&str; 2] = ["dm.datadev=/dev/data", "dm.metadatadev=/dev/meta"];
    let world = World::new(1);
    for name in ["/dev/data", "/dev/meta"] {
        world.add_block_device(name, Bytes(4 << 30), None);
    }
    let machine = world.machine("/other");
    let number = |path: &str| machine.backing.inspect(Path::new(path)).unwrap().number;
    let table = PoolTable {
        block_size: BlockSize::from_bytes(Bytes(128 << 10)).unwrap(),
        ..PoolTable::new(number("/dev/meta"), number("/dev/data"), Bytes(4 << 30).to_sectors())
    };
    let name = DmName::new("cut-off").unwrap();
    drop(Pool::create(machine.dm.clone(), &name, &table, Access::ReadWrite).unwrap());
    machine.dm.remove((&name).into(), Removal::Now).unwrap();

    let error = open(&world, &[GIVEN[0], GIVEN[1], "dm.blocksize=256K"]).map(drop).unwrap_err();
    let said = error.to_string();
    assert!(said.contains("131072") && said.contains("dd if=/dev/zero of=/dev/meta"), "{said}");
    let (driver, _) = open(&world, &GIVEN).unwrap();
    assert_eq!(driver.status().unwrap().block_size, Bytes(128 << 10));
    driver.stop().unwrap();
}

/// The kernel grows a pool as soon as its table is longer, and a grown pool does not fit its own device any more.
#[test]
fn a_wrong_and_larger_device_does_the_pool_no_harm() {
    const GIVEN: [&str; 2] = ["dm.datadev=/dev/data", "dm.metadatadev=/dev/meta"];
    let world = root(&GIVEN);
    world.add_block_device("/dev/larger", Bytes(6 << 30), None);
    let wrong = ["dm.datadev=/dev/larger", "dm.metadatadev=/dev/meta"];
    open(&world, &wrong).map(drop).unwrap_err();
    works(&world, &GIVEN);

    // And another root's metadata.
    let options =
        Options::parse(&["dm.fs=ext4", "dm.datadev=/dev/other", "dm.metadatadev=/dev/small"]).unwrap();
    let (other, _) = Driver::open(world.machine("/other"), &options, Arc::new(Silent)).unwrap();
    other.create(&id("theirs"), &CreateRequest::empty()).unwrap();
    other.stop().unwrap();
    drop(other);
    open(&world, &["dm.datadev=/dev/larger", "dm.metadatadev=/dev/small"]).map(drop).unwrap_err();
    let (other, _) = Driver::open(world.machine("/other"), &options, Arc::new(Silent)).unwrap();
    assert!(other.exists(&id("theirs")));
    other.stop().unwrap();
    works(&world, &GIVEN);
}

/// What a start puts in order in the store, it leaves alone on the way to a pool that is not this root's.
#[test]
fn records_stay_as_they_are_until_the_pool_has_proven_itself() {
    const GIVEN: [&str; 2] = ["dm.datadev=/dev/data", "dm.metadatadev=/dev/meta"];
    let world = root(&GIVEN);
    let disk = world.machine(ROOT).disk;
    let record = disk.read(Path::new("metadata/a")).unwrap();
    let mut removed: serde_json::Value = serde_json::from_slice(&record).unwrap();
    removed["deleted"] = true.into();
    removed["device_id"] = 70.into();
    disk.write(Path::new("metadata/removed"), removed.to_string().as_bytes()).unwrap();
    disk.write(Path::new("metadata/damaged"), b"{").unwrap();
    disk.make_folder(Path::new("devicemapper")).unwrap();
    disk.write(Path::new("devicemapper/json"), br#"{"Devices":{}}"#).unwrap();
    let found = || {
        let folders = ["metadata", "devicemapper", "thinlayer", "thinlayer/quarantine"];
        let mut found = Vec::new();
        for folder in folders.map(Path::new) {
            for entry in disk.list(folder).unwrap_or_default() {
                let path = folder.join(entry.name);
                let text = disk.read(&path).unwrap_or_default();
                found.push((String::from_utf8_lossy(&text).trim_end().to_owned(), path));
            }
        }
        found
    };
    let before = found();
    // The base is not on it.
    world.add_block_device("/dev/larger", Bytes(6 << 30), None);
    let error = open(&world, &["dm.datadev=/dev/larger", "dm.metadatadev=/dev/meta"]).map(drop).unwrap_err();
    assert!(error.to_string().contains("is not the pool of root"), "{error}");
    assert_eq!(before, found());
    works(&world, &GIVEN);
    assert!(found().iter().any(|(_, path)| path.ends_with("json.migrated")), "{:?}", found());
}
