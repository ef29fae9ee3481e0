//! `check` and `check --repair` on the simulated machine.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure here is the test's")]

use std::path::Path;
use std::sync::Arc;
use thinlayer_dm::{Access, Bytes, DmName, Removal, Sectors};
use thinlayer_graphdriver::{
    CheckReport, CreateRequest, Driver, LayerId, Machine, Options, Outcome, Reading, Silent, Unmount, View,
    repair,
};
use thinlayer_sim::World;
use thinlayer_store::DeviceId;
use thinlayer_thin::{Patience, Pool, ThinId};

const ROOT: &str = "/root";

fn options() -> Options {
    Options::parse(&["dm.fs=ext4", "dm.basesize=1G"]).unwrap()
}

fn id(text: &str) -> LayerId {
    LayerId::given(text).unwrap()
}

fn open(world: &World) -> Driver {
    Driver::open(world.machine(ROOT), &options(), Arc::new(Silent)).unwrap().0
}

fn look(world: &World) -> CheckReport {
    View::open(&world.machine(ROOT)).unwrap().0.check_owned(&options()).unwrap()
}

fn pool_name(machine: &Machine) -> DmName {
    DmName::new(format!("docker-8:1-{}-pool", machine.root.inode)).unwrap()
}

fn message(machine: &Machine, text: &str) {
    machine.dm.message((&pool_name(machine)).into(), Sectors(0), text).unwrap();
}

fn kinds(report: &CheckReport) -> Vec<&str> {
    report.findings.iter().map(|finding| finding.kind).collect()
}

#[test]
fn a_root_is_checked_at_rest_and_at_work() {
    let world = World::new(1);
    let driver = open(&world);
    driver.create(&id("a"), &CreateRequest::empty()).unwrap();
    let report = driver.check().unwrap();
    assert_eq!(
        (kinds(&report), report.reading, report.thin_devices),
        (vec![], Some(Reading::Snapshot), Some(2))
    );
    driver.stop().unwrap();
    let effects = world.effect_count();
    let report = look(&world);
    assert_eq!(
        (kinds(&report), report.reading, report.thin_devices),
        (vec![], Some(Reading::Offline), Some(2))
    );
    assert_eq!(world.effect_count(), effects, "a look at a root at rest changed something");
}

#[test]
fn what_is_lost_on_either_side_is_mended_once() {
    let world = World::new(1);
    let driver = open(&world);
    for layer in ["a", "b"] {
        driver.create(&id(layer), &CreateRequest::empty()).unwrap();
    }
    let machine = world.machine(ROOT);
    let lost = driver.inspect(&id("b")).unwrap().record.device_id;
    message(&machine, "create_thin 77");
    message(&machine, &format!("delete {lost}"));
    driver.stop().unwrap();
    drop(driver);
    let mut found = kinds(&look(&world)).join(" ");
    assert_eq!(found, "missing-thin-device orphan-thin-device");
    let planned = look(&world).planned();
    assert!(
        planned.repairs.len() == 2 && planned.repairs.iter().all(|step| step.outcome == Outcome::Planned)
    );

    let (report, driver) = repair(world.machine(ROOT), &options(), Arc::new(Silent)).unwrap();
    found = kinds(&report).join(" ");
    assert_eq!(found, "", "{report:#?}");
    assert!(report.repairs.iter().all(|step| step.outcome == Outcome::Done), "{:#?}", report.repairs);
    let driver = driver.unwrap();
    assert!(driver.exists(&id("a")) && !driver.exists(&id("b")));
    // Nothing is deleted that somebody may need.
    let recovered = driver.inspect(&id("recovered-77")).unwrap().record;
    assert_eq!((recovered.device_id.get(), recovered.size_bytes), (77, 1 << 30));
    driver.remove(&id("recovered-77")).unwrap();
    driver.work_off().unwrap();
    assert_eq!(driver.repair().unwrap().repairs, vec![], "a second repair finds nothing to do");
    driver.create(&id("b"), &CreateRequest::on(id("a"))).unwrap();
    driver.stop().unwrap();
    assert_eq!(kinds(&look(&world)), Vec::<&str>::new());
    assert_eq!(world.violations(), Vec::<String>::new());
}

#[test]
fn a_metadata_snapshot_is_released_by_whose_it_is() {
    let world = World::new(1);
    let driver = open(&world);
    let machine = world.machine(ROOT);
    message(&machine, "reserve_metadata_snap");
    let report = driver.repair().unwrap();
    assert_eq!(kinds(&report), ["foreign-metadata-snapshot"]);
    assert_eq!(report.repairs, vec![]);
    // As a check leaves it that is killed before it knows which one is its own.
    let name = DmName::new(format!("docker-8:1-{}-pool", machine.root.inode)).unwrap();
    let note = Path::new("thinlayer/metadata-snapshot");
    machine.disk.make_folder(Path::new("thinlayer")).unwrap();
    for text in ["{".to_owned(), format!(r#"{{"pool":"{name}","root":null}}"#)] {
        machine.disk.write(note, text.as_bytes()).unwrap();
        assert_eq!(kinds(&driver.repair().unwrap()), ["foreign-metadata-snapshot"], "{text}");
    }
    // And one that is killed later.
    let pool = Pool::open(machine.dm.clone(), &name).unwrap().unwrap();
    let state = pool.status(thinlayer_dm::Flush::No).unwrap();
    let root = state.running().unwrap().held_metadata_root.unwrap().0;
    let text = format!(r#"{{"pool":"{name}","root":{root}}}"#);
    machine.disk.write(note, text.as_bytes()).unwrap();
    assert_eq!(kinds(&driver.check().unwrap()), ["stale-metadata-snapshot"]);
    let report = driver.repair().unwrap();
    assert_eq!((kinds(&report), report.repairs.len()), (vec![], 1), "{report:#?}");
    assert!(machine.disk.read(note).is_err(), "the note stays");

    // The next start releases it, too.
    message(&machine, "reserve_metadata_snap");
    machine.disk.write(note, text.as_bytes()).unwrap();
    drop(driver);
    world.kill();
    let driver = open(&world);
    assert_eq!(kinds(&driver.check().unwrap()), Vec::<&str>::new());
    assert!(world.machine(ROOT).disk.read(note).is_err(), "the note stays");
}

/// A root whose records are an old copy, put back when layer `later` was there. In it layer `gone` is removed, and still in the pool. Says which thin device
/// `later` has.
fn with_old_records(world: &World, change: impl Fn(String, DeviceId) -> String) -> DeviceId {
    let driver = open(world);
    for layer in ["a", "gone"] {
        driver.create(&id(layer), &CreateRequest::empty()).unwrap();
    }
    let machine = world.machine(ROOT);
    driver.remove(&id("gone")).unwrap();
    assert_eq!(driver.deferred(), 1);
    let folder = Path::new("metadata");
    let names = machine.disk.list(folder).unwrap().into_iter().map(|entry| folder.join(entry.name));
    let copy: Vec<_> = names.map(|path| (machine.disk.read(&path).unwrap(), path)).collect();
    // By then it is gone.
    driver.work_off().unwrap();
    driver.create(&id("later"), &CreateRequest::empty()).unwrap();
    driver.get(&id("later"), None).unwrap();
    world.write_file("/root/mnt/later/rootfs/file", b"dear").unwrap();
    driver.put(&id("later"), Unmount::Now).unwrap();
    let device_id = driver.inspect(&id("later")).unwrap().record.device_id;
    driver.stop().unwrap();
    drop(driver);
    machine.disk.remove(Path::new("metadata/later")).unwrap();
    for (text, path) in copy {
        let text = change(String::from_utf8(text).unwrap(), device_id);
        machine.disk.write(&path, text.as_bytes()).unwrap();
    }
    device_id
}

/// The next commands, and then the layer that was made last is there with all that is in it.
fn nothing_later_is_lost(world: &World, device_id: DeviceId) {
    for _ in 0..2 {
        let (_, driver) = repair(world.machine(ROOT), &options(), Arc::new(Silent)).unwrap();
        let driver = driver.unwrap();
        driver.create(&LayerId::opaque().unwrap(), &CreateRequest::empty()).unwrap();
        driver.stop().unwrap();
    }
    let driver = open(world);
    let recovered = id(&format!("recovered-{device_id}"));
    driver.get(&recovered, None).unwrap();
    let file = format!("/root/mnt/{recovered}/rootfs/file");
    assert_eq!(world.read_file(file).unwrap().as_deref(), Some(&b"dear"[..]));
}

/// The note that makes a metadata snapshot this root's has no room: the check says so, and looks at all else.
#[test]
fn a_check_on_a_full_disk_says_what_it_has_not_read() {
    let world = World::new(1);
    let driver = open(&world);
    driver.create(&id("a"), &CreateRequest::empty()).unwrap();
    world.set_host_free(Bytes(0));
    let report = driver.check().unwrap();
    assert_eq!(kinds(&report), ["metadata-unread"], "{report:#?}");
    assert!(!report.findings[0].text.contains("thin_repair"), "{:?}", report.findings);
    assert_eq!((report.records, report.thin_devices), (2, None));
    world.set_host_free(Bytes(1 << 30));
    assert_eq!(kinds(&driver.check().unwrap()), Vec::<&str>::new());
}

/// Somebody has put an old copy of the records back. Whatever is done then, no later layer is lost.
#[test]
fn layers_that_an_old_copy_of_the_records_does_not_know_are_kept() {
    let world = World::new(1);
    let device_id = with_old_records(&world, |text, _| text);
    nothing_later_is_lost(&world, device_id);
}

/// A removed layer's thin id may be a later layer's by now.
#[test]
fn a_removed_layer_of_an_old_copy_of_the_records_costs_no_later_layer_its_device() {
    let world = World::new(1);
    let device_id = with_old_records(&world, |text, device_id| {
        let Ok(mut record) = serde_json::from_str::<serde_json::Value>(&text) else { return text };
        if record["deleted"] == true {
            record["device_id"] = device_id.get().into();
        }
        record.to_string()
    });
    nothing_later_is_lost(&world, device_id);
    let set_aside = world.machine(ROOT).disk.list(Path::new("thinlayer/quarantine/without-device")).unwrap();
    assert_eq!(set_aside.len(), 1, "{set_aside:?}");
}

/// An operator who rescues something has a thin device active under a name of his own. What is removed meanwhile keeps its blocks until he is done.
#[test]
fn a_removed_layer_that_is_active_under_another_name_keeps_its_blocks() {
    let world = World::new(1);
    let driver = open(&world);
    driver.create(&id("a"), &CreateRequest::empty()).unwrap();
    driver.get(&id("a"), None).unwrap();
    world.write_file("/root/mnt/a/rootfs/file", b"dear").unwrap();
    driver.put(&id("a"), Unmount::Now).unwrap();
    let machine = world.machine(ROOT);
    let pool = Pool::open(machine.dm.clone(), &pool_name(&machine)).unwrap().unwrap();
    let record = driver.inspect(&id("a")).unwrap().record;
    let name = DmName::new("rescue").unwrap();
    let thin = ThinId::new(record.device_id.get()).unwrap();
    let len = Bytes(record.size_bytes).to_sectors();
    let rescue = pool.activate(&name, thin, len, Access::ReadWrite).unwrap();
    let used = || format!("{:?}", pool.thin_status(&rescue).unwrap());
    let before = used();

    driver.remove(&id("a")).unwrap();
    driver.work_off().unwrap();
    assert_eq!((driver.deferred(), used()), (1, before));
    pool.deactivate(&rescue, Removal::Now, Patience::none()).unwrap();
    driver.work_off().unwrap();
    assert_eq!(driver.deferred(), 0);
    assert_eq!(kinds(&driver.check().unwrap()), Vec::<&str>::new());
}

/// Without a single record there is nothing to compare with.
#[test]
fn a_root_without_its_records_is_left_alone() {
    let world = World::new(1);
    let driver = open(&world);
    driver.create(&id("a"), &CreateRequest::empty()).unwrap();
    driver.stop().unwrap();
    drop(driver);
    let machine = world.machine(ROOT);
    let folder = Path::new("metadata");
    for entry in machine.disk.list(folder).unwrap() {
        machine.disk.remove(&folder.join(entry.name)).unwrap();
    }
    let devices = kinds(&look(&world)).len();
    for _ in 0..2 {
        let refused = Driver::open(world.machine(ROOT), &options(), Arc::new(Silent)).map(drop).unwrap_err();
        assert!(refused.to_string().contains("put metadata/ back"), "{refused}");
        let refused = repair(world.machine(ROOT), &options(), Arc::new(Silent)).map(drop).unwrap_err();
        assert!(refused.to_string().contains("put metadata/ back"), "{refused}");
        // Also where nobody remembers, as in a root of Docker's.
        let _remembered = machine.disk.remove(Path::new("thinlayer/pool.json"));
    }
    assert_eq!(kinds(&look(&world)).len(), devices);
}
