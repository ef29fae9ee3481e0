//! Calls that do not come back: the caller gets an error that names call and device, the layer stays reserved, and others go on.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure here is the test's")]

use parking_lot::Mutex;
use std::path::Path;
use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};
use thinlayer_dm::Bytes;
use thinlayer_graphdriver::{
    Clock, CreateRequest, Driver, Error, Kind, LayerId, Machine, Options, Result, Silent, Stop, Unmount,
};
use thinlayer_sim::World;
use thinlayer_store::Record;

/// What the machine's deadline for a layer is, so that a test does not wait for it.
const LAYER: Duration = Duration::from_millis(20);

fn id(text: &str) -> LayerId {
    LayerId::given(text).unwrap()
}

fn machine(world: &World) -> Machine {
    let mut machine = world.machine("/root");
    machine.deadlines.layer = LAYER;
    machine.deadlines.discard = LAYER;
    machine
}

fn try_open(machine: Machine, discard: bool) -> Result<Driver> {
    let options = ["dm.fs=xfs", "dm.basesize=1G", &format!("dm.blkdiscard={discard}")];
    Ok(Driver::open(machine, &Options::parse(&options)?, Arc::new(Silent))?.0)
}

/// A root with the layers `a` and `other`.
fn open(world: &World) -> Driver {
    let driver = try_open(machine(world), false).unwrap();
    driver.create(&id("a"), &CreateRequest::empty()).unwrap();
    driver.create(&id("other"), &CreateRequest::empty()).unwrap();
    driver
}

/// As Docker writes records: without what thinlayer adds to them.
fn as_docker_writes(world: &World, layer: &str) {
    let path = format!("/root/metadata/{layer}");
    let text = world.read_file(&path).unwrap().unwrap();
    let record = Record { extra: None, ..Record::parse(&text).unwrap() };
    world.write_file(&path, record.to_json().as_bytes()).unwrap();
}

/// The error names the call and the device, and its layer is reserved while others are not.
fn hung<T>(driver: &Driver, layer: &str, call: &str, outcome: Result<T>) {
    let Err(error) = outcome else { panic!("{call}: no error") };
    let text = error.to_string();
    assert!(error.kind() == Kind::Busy && text.contains(call), "{call} is not in {text}");
    assert!(matches!(&error, Error::Deadline { .. } | Error::Layer { .. }), "{error:?}");
    let refused = driver.put(&id(layer), Unmount::Now).unwrap_err();
    assert!(refused.kind() == Kind::Busy && refused.to_string().contains(layer), "{refused}");
    // Neither of these waits for the layer.
    assert!(driver.exists(&id(layer)) && driver.inspect(&id(layer)).is_ok() && driver.layers().is_ok());
    let (other, child) = (id("other"), id("child"));
    driver.get(&other, None).unwrap();
    driver.create(&child, &CreateRequest::on(other.clone())).unwrap();
    driver.put(&other, Unmount::Now).unwrap();
    driver.remove(&child).unwrap();
}

/// The call comes back at last, and the layer is as good as any.
fn comes_back(world: &World, driver: &Driver, layer: &str) {
    assert_eq!(world.finish_hung(), 1);
    let layer = id(layer);
    let tree = driver.get(&layer, None).unwrap();
    world.write_file(tree.join("file"), b"1").unwrap();
    driver.put_all(&layer, Unmount::Now).unwrap();
    assert_eq!((world.mount_points(), world.suspended()), (Vec::new(), Default::default()));
    driver.remove(&layer).unwrap();
    driver.work_off().unwrap();
    driver.stop().unwrap();
    assert_eq!(world.violations(), Vec::<String>::new());
    assert_eq!((world.dm_names(), world.loop_files()), (Default::default(), Vec::new()));
}

#[test]
fn a_get_whose_superblock_is_not_read() {
    let world = World::new(1);
    drop(open(&world));
    as_docker_writes(&world, "a");
    world.kill();
    let driver = try_open(machine(&world), false).unwrap();
    world.hang_next(1);
    hung(&driver, "a", "reading the superblock on device docker-8:1-", driver.get(&id("a"), None));
    comes_back(&world, &driver, "a");
}

#[test]
fn a_get_whose_mount_hangs() {
    let world = World::new(1);
    let driver = open(&world);
    world.hang_next(1);
    hung(&driver, "a", "mount of device docker-8:1-", driver.get(&id("a"), None));
    assert_eq!(world.mount_points(), Vec::<std::path::PathBuf>::new());
    comes_back(&world, &driver, "a");
}

#[test]
fn a_get_whose_tree_is_not_prepared_is_unmounted_by_the_call_itself() {
    let world = World::new(1);
    let driver = open(&world);
    world.hang_after(1, 1);
    hung(&driver, "a", "preparing the tree on device docker-8:1-", driver.get(&id("a"), None));
    assert_eq!(world.mount_points(), [Path::new("/root/mnt/a")], "somebody waited for an unmount");
    comes_back(&world, &driver, "a");
}

#[test]
fn a_second_get_that_finds_the_file_system_silent() {
    let world = World::new(1);
    let driver = open(&world);
    driver.get(&id("a"), None).unwrap();
    world.hang_next(1);
    hung(&driver, "a", "looking into /root/mnt/a", driver.get(&id("a"), None));
    comes_back(&world, &driver, "a");
}

#[test]
fn a_put_whose_unmount_hangs() {
    let world = World::new(1);
    let driver = open(&world);
    driver.get(&id("a"), None).unwrap();
    world.hang_next(1);
    hung(&driver, "a", "umount of /root/mnt/a", driver.put(&id("a"), Unmount::Now));
    comes_back(&world, &driver, "a");
}

#[test]
fn a_create_on_a_parent_that_cannot_be_suspended() {
    let world = World::new(1);
    let driver = open(&world);
    driver.get(&id("a"), None).unwrap();
    world.hang_next(1);
    let created = driver.create(&id("late"), &CreateRequest::on(id("a")));
    hung(&driver, "a", "suspend of device docker-8:1-", created);
    assert!(!driver.exists(&id("late")));
    assert_eq!(world.finish_hung(), 1);
    assert_eq!(world.suspended(), Default::default(), "the call left it suspended");
    driver.create(&id("late"), &CreateRequest::on(id("a"))).unwrap();
    world.hang_next(0);
    driver.put(&id("a"), Unmount::Now).unwrap();
    assert_eq!(world.violations(), Vec::<String>::new());
}

#[test]
fn a_resize_that_does_not_end_is_finished_by_the_call_or_the_next_mount() {
    for mounted in [false, true] {
        let world = World::new(1);
        let driver = open(&world);
        if mounted {
            driver.get(&id("a"), None).unwrap();
        }
        // In use, its device gets the new table first.
        world.hang_after(u32::from(mounted), 1);
        let resized = driver.resize(&id("a"), Bytes(2 << 30));
        hung(&driver, "a", "growing the file system on device docker-8:1-", resized);
        assert_eq!(driver.inspect(&id("a")).unwrap().size, Bytes(2 << 30));
        comes_back(&world, &driver, "a");
    }
}

#[test]
fn a_resize_of_a_layer_in_use_whose_device_cannot_be_suspended() {
    let world = World::new(1);
    let driver = open(&world);
    driver.get(&id("a"), None).unwrap();
    world.hang_next(1);
    let resized = driver.resize(&id("a"), Bytes(2 << 30));
    hung(&driver, "a", "suspend of device docker-8:1-", resized);
    comes_back(&world, &driver, "a");
}

#[test]
fn a_removed_layer_whose_discard_hangs_is_worked_off_later() {
    let world = World::new(1);
    drop(open(&world));
    world.kill();
    let driver = try_open(machine(&world), true).unwrap();
    driver.remove(&id("a")).unwrap();
    world.hang_next(1);
    // As if it were open elsewhere: no error, and not forgotten.
    assert_eq!(driver.work_off().unwrap(), 0);
    assert_eq!(driver.deferred(), 1);
    assert!(!driver.exists(&id("a")));
    // Its device is with the call: the next try waits for the layer, not for the pool.
    assert_eq!(driver.work_off().unwrap(), 0);
    assert_eq!(world.finish_hung(), 1);
    assert_eq!((driver.work_off().unwrap(), driver.deferred()), (1, 0));
    driver.stop().unwrap();
    assert_eq!(world.violations(), Vec::<String>::new());
}

#[test]
fn a_first_start_whose_base_is_not_made_in_time() {
    for (skip, call) in [(0, "making xfs on device docker-8:1-"), (1, "reading the superblock on device")] {
        let world = World::new(1);
        world.hang_after(skip, 1);
        let error = try_open(machine(&world), false).unwrap_err();
        assert!(error.kind() == Kind::Busy && error.to_string().contains(call), "{error}");
        assert_eq!(world.finish_hung(), 1);
        world.kill();
        let driver = open(&world);
        driver.get(&id("a"), None).unwrap();
        driver.put(&id("a"), Unmount::Now).unwrap();
        driver.stop().unwrap();
        assert_eq!(world.violations(), Vec::<String>::new());
    }
}

/// A world's clock under which one call hangs for as long as the test says, in a thread that really waits.
#[derive(Debug)]
struct Stuck {
    clock: Arc<dyn Clock>,
    begun: Mutex<Option<mpsc::Sender<()>>>,
    ended: Mutex<Option<mpsc::Receiver<()>>>,
    armed: OnceLock<()>,
}

impl Clock for Stuck {
    fn now(&self) -> Duration {
        self.clock.now()
    }
    fn wall(&self) -> SystemTime {
        self.clock.wall()
    }
    fn sleep(&self, how_long: Duration) {
        self.clock.sleep(how_long);
    }
    fn run_within(&self, deadline: Duration, job: Box<dyn FnOnce() + Send>) -> bool {
        if self.armed.get().is_some()
            && let (Some(begun), Some(ended)) = (self.begun.lock().take(), self.ended.lock().take())
        {
            begun.send(()).unwrap();
            ended.recv_timeout(Duration::from_secs(60)).unwrap();
        }
        self.clock.run_within(deadline, job)
    }
}

#[test]
fn nobody_waits_for_ever_for_a_worker_that_is_stuck() {
    let world = World::new(1);
    drop(open(&world));
    world.kill();
    let mut machine = machine(&world);
    let ((begun, has_begun), (end, ended)) = (mpsc::channel(), mpsc::channel());
    let stuck = Arc::new(Stuck {
        clock: machine.clock.clone(),
        begun: Mutex::new(Some(begun)),
        ended: Mutex::new(Some(ended)),
        armed: OnceLock::new(),
    });
    machine.clock = stuck.clone();
    let driver = try_open(machine, true).unwrap();
    driver.remove(&id("a")).unwrap();
    let stop = Stop::default();
    std::thread::scope(|scope| {
        stuck.armed.set(()).unwrap();
        let worker = scope.spawn(|| driver.run_worker(&stop));
        has_begun.recv_timeout(Duration::from_secs(60)).unwrap();
        let error = driver.work_off().unwrap_err();
        assert!(error.kind() == Kind::Busy && error.to_string().contains("the worker of pool"), "{error}");
        assert_eq!(driver.stop().unwrap_err().kind(), Kind::Busy);
        stop.stop();
        end.send(()).unwrap();
        worker.join().unwrap();
    });
    assert_eq!((driver.work_off().unwrap(), driver.deferred()), (0, 0));
    driver.stop().unwrap();
}
