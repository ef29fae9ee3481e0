//! `check` and `check --repair` on the simulated machine.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure here is the test's")]

use std::path::Path;
use std::sync::Arc;
use thinlayer_dm::{DmName, Sectors};
use thinlayer_graphdriver::{
    CheckReport, CreateRequest, Driver, LayerId, Machine, Options, Outcome, Reading, Silent, View, repair,
};
use thinlayer_sim::World;

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

fn message(machine: &Machine, text: &str) {
    let name = DmName::new(format!("docker-8:1-{}-pool", machine.root.inode)).unwrap();
    machine.dm.message((&name).into(), Sectors(0), text).unwrap();
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
    // As a killed check leaves it.
    let note = Path::new("thinlayer/metadata-snapshot");
    machine.disk.make_folder(Path::new("thinlayer")).unwrap();
    machine.disk.write(note, b"{").unwrap();
    assert_eq!(kinds(&driver.check().unwrap()), ["stale-metadata-snapshot"]);
    let report = driver.repair().unwrap();
    assert_eq!((kinds(&report), report.repairs.len()), (vec![], 1), "{report:#?}");
    assert!(machine.disk.read(note).is_err(), "the note stays");
}
