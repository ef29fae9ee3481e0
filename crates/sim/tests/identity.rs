//! A root and the pool that belongs to it: what is another pool is refused before anything happens.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure here is the test's")]

use std::path::Path;
use std::sync::Arc;
use thinlayer_graphdriver::{Bytes, CreateRequest, Driver, Error, Kind, LayerId, Options, Silent};
use thinlayer_sim::World;

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
