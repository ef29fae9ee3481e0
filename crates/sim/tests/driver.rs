//! The driver on the simulated machine: one layer's whole life.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure here is the test's")]

use nix::errno::Errno;
use std::path::Path;
use std::sync::Arc;
use thinlayer_dm::{Bytes, Call, DmName, Flush, Recorder};
use thinlayer_graphdriver::{
    CreateRequest, DEFAULT_LOOP_DATA_SIZE, DEFAULT_LOOP_METADATA_SIZE, Driver, Kind, LayerId, Options,
    Silent, Unmount,
};
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

#[test]
fn what_the_pool_could_not_commit_is_not_acknowledged() {
    // The commit of the snapshot, and that of the transaction id.
    for skip in 0..2 {
        let world = World::new(1);
        let options = Options::parse(&["dm.fs=ext4", "dm.basesize=1G"]).unwrap();
        let (driver, _) = Driver::open(world.machine("/root"), &options, Arc::new(Silent)).unwrap();
        let pool = DmName::new(driver.status().unwrap().pool_name).unwrap();
        driver.create(&id("kept"), &CreateRequest::empty()).unwrap();
        world.fail_commit(&pool, skip).unwrap();
        let error = driver.create(&id("lost"), &CreateRequest::empty()).unwrap_err();
        assert_eq!(error.kind(), Kind::NeedsCheck, "{error}");
        assert!(!driver.exists(&id("lost")) && driver.exists(&id("kept")));
        driver.create(&id("more"), &CreateRequest::empty()).unwrap_err();
    }
}

#[test]
fn a_first_start_that_was_cut_off_is_begun_again() {
    let options = Options::parse(&["dm.fs=ext4"]).unwrap();
    let open = |world: &World| Driver::open(world.machine("/root"), &options, Arc::new(Silent));
    let whole = World::new(1);
    open(&whole).unwrap();
    for (crash, effect) in (1..whole.effect_count()).zip(whole.effects()) {
        for seed in 0..4 {
            let world = World::new(seed);
            world.crash_after(crash);
            // The last ones may be of steps whose failure is only told.
            if open(&world).is_ok() {
                continue;
            }
            world.power_cut(seed);
            let (driver, _) =
                open(&world).unwrap_or_else(|error| panic!("cut off after {effect:?}, seed {seed}: {error}"));
            driver.create(&id("a"), &CreateRequest::empty()).unwrap();
            let status = driver.status().unwrap();
            assert_eq!(status.data_total, DEFAULT_LOOP_DATA_SIZE);
            assert_eq!(status.metadata_total, DEFAULT_LOOP_METADATA_SIZE);
        }
    }
}

#[test]
fn a_file_system_that_cannot_be_made_leaves_nothing_behind() {
    let world = World::new(1);
    let options = Options::parse(&["dm.fs=xfs"]).unwrap();
    world.inject(Fault::new("fs use", Errno::ENOENT));
    Driver::open(world.machine("/root"), &options, Arc::new(Silent)).unwrap_err();
    assert_eq!(world.dm_names(), Default::default());
    assert!(!world.host_entries("/root").iter().any(|name| name == "devicemapper"));
    Driver::open(world.machine("/root"), &options, Arc::new(Silent)).unwrap();
}

#[test]
fn a_damaged_base_keeps_no_layer_from_its_user() {
    let world = World::new(1);
    let options = Options::parse(&["dm.fs=ext4", "dm.basesize=1G"]).unwrap();
    let open = || Driver::open(world.machine("/root"), &options, Arc::new(Silent));
    let (driver, _) = open().unwrap();
    driver.create(&id("a"), &CreateRequest::empty()).unwrap();
    driver.stop().unwrap();
    world.machine("/root").disk.write(Path::new("metadata/base"), b"{").unwrap();
    let (driver, notices) = open().unwrap();
    assert!(notices.iter().any(|notice| notice.text.contains("without a parent")), "{notices:?}");
    driver.get(&id("a"), None).unwrap();
    driver.create(&id("b"), &CreateRequest::on(id("a"))).unwrap();
    let error = driver.create(&id("c"), &CreateRequest::empty()).unwrap_err();
    assert_eq!(error.kind(), Kind::NeedsCheck, "{error}");
    driver.put(&id("a"), Unmount::Now).unwrap();
    driver.stop().unwrap();
    // It stays so, and nothing else takes its place.
    let (driver, _) = open().unwrap();
    driver.create(&id("c"), &CreateRequest::empty()).unwrap_err();
    driver.remove(&id("a")).unwrap();
}

/// Whatever the pool stands on: one call, and the kernel commits nothing for it.
#[test]
fn the_status_asks_the_kernel_once() {
    for given in [false, true] {
        let world = World::new(1);
        let mut options = vec!["dm.fs=ext4", "dm.basesize=1G"];
        if given {
            world.add_block_device("/dev/data", Bytes(2 << 30), None);
            world.add_block_device("/dev/meta", Bytes(32 << 20), None);
            options.extend(["dm.datadev=/dev/data", "dm.metadatadev=/dev/meta"]);
        }
        let mut machine = world.machine("/root");
        let calls = Recorder::new(machine.dm.clone());
        machine.dm = Arc::new(calls.clone());
        let options = Options::parse(&options).unwrap();
        let (driver, _) = Driver::open(machine, &options, Arc::new(Silent)).unwrap();
        calls.take();
        let before = driver.status().unwrap();
        driver.create(&id("a"), &CreateRequest::empty()).unwrap();
        calls.take();
        let after = driver.status().unwrap();
        let sent: Vec<Call> = calls.take().into_iter().map(|recorded| recorded.call).collect();
        assert!(matches!(sent.as_slice(), [Call::Status { flush: Flush::No, .. }]), "{given}: {sent:?}");
        assert!(before.layers == 0 && after.layers == 1 && after.loop_backed != given, "{after:?}");
        assert!(after.transaction_id > before.transaction_id);
    }
}

#[test]
fn creates_stop_before_the_pool_is_full() {
    let world = World::new(1);
    let options = Options::parse(&["dm.fs=ext4", "dm.basesize=1G"]).unwrap();
    let (driver, _) = Driver::open(world.machine("/root"), &options, Arc::new(Silent)).unwrap();
    let pool = DmName::new(driver.status().unwrap().pool_name).unwrap();
    world.set_free_metadata(&pool, 2).unwrap();
    // With room on the host it would grow.
    world.set_host_free(Bytes(0));
    let error = driver.create(&id("a"), &CreateRequest::empty()).unwrap_err();
    assert_eq!(error.kind(), Kind::NoSpace);
    let said = error.to_string();
    for part in ["2 free metadata blocks", "10%", "dm.min_free_space", "remove layers"] {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
    assert!(!driver.exists(&id("a")));
}
