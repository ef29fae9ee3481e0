//! The driver on the simulated machine: one layer's whole life.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure here is the test's")]

use nix::errno::Errno;
use std::sync::Arc;
use thinlayer_graphdriver::{CreateRequest, Driver, LayerId, Options, Silent, Unmount};
use thinlayer_sim::{Fault, World};

fn id(text: &str) -> LayerId {
    LayerId::given(text).unwrap()
}

#[test]
fn a_layers_life() {
    let world = World::new(1);
    let options = Options::parse(&["dm.fs=ext4", "dm.basesize=1G"]).unwrap();
    let (driver, notices) = Driver::open(world.machine("/root"), &options, Arc::new(Silent)).unwrap();
    println!("{notices:#?}");
    driver.create(&id("a"), &CreateRequest::empty()).unwrap();
    let tree = driver.get(&id("a"), None).unwrap();
    world.write_file(tree.join("hello"), b"world").unwrap();
    driver.create(&id("b"), &CreateRequest::on(id("a"))).unwrap();
    driver.put(&id("a"), Unmount::Now).unwrap();
    let tree = driver.get(&id("b"), None).unwrap();
    assert_eq!(world.read_file(tree.join("hello")).unwrap(), Some(b"world".to_vec()));
    driver.put(&id("b"), Unmount::Now).unwrap();
    driver.remove(&id("a")).unwrap();
    driver.work_off().unwrap();
    println!("{}", world.effects().join("\n"));
    println!("{:#?}", driver.check().unwrap());
    driver.stop().unwrap();
    assert_eq!(world.violations(), Vec::<String>::new());
    assert_eq!(world.dm_names(), Default::default());
    assert_eq!(world.loop_files(), vec![]);
}

#[test]
fn a_device_whose_name_stays_is_gone_all_the_same() {
    let world = World::new(1);
    let options = Options::parse(&["dm.fs=ext4", "dm.basesize=1G"]).unwrap();
    let (driver, _) = Driver::open(world.machine("/root"), &options, Arc::new(Silent)).unwrap();
    driver.create(&id("a"), &CreateRequest::empty()).unwrap();
    world.inject(Fault::new("fs mount", Errno::EIO));
    world.inject(Fault::new("dm forget node", Errno::EIO));
    driver.get(&id("a"), None).unwrap_err();
    driver.get(&id("a"), None).unwrap();
    driver.put(&id("a"), Unmount::Now).unwrap();
}

#[test]
fn the_status_names_the_roots_own_files_also_when_the_kernel_cannot() {
    let world = World::new(1);
    let options = Options::parse(&["dm.fs=ext4", "dm.basesize=1G"]).unwrap();
    let (driver, _) = Driver::open(world.machine("/root"), &options, Arc::new(Silent)).unwrap();
    let before = driver.status().unwrap();
    // dockerd mounts its data root on itself, and takes that mount away when it ends.
    world.hide_loop_paths("/root");
    let paths: Vec<_> = world.loop_files().into_iter().map(|(_, file)| file).collect();
    assert!(paths.iter().all(|path| !path.starts_with("/root")), "the test shows nothing: {paths:?}");
    assert_eq!(driver.status().unwrap(), before);
    assert!(before.rows.contains(&("Data loop file".into(), "/root/devicemapper/data".into())), "{before:?}");
}
