//! What a world does that no kernel can be asked to: crashes, power cuts, faults, and watching for what must never happen.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure here is the test's")]

use nix::errno::Errno;
use std::path::Path;
use std::time::Duration;
use thinlayer_dm::{Access, Bytes, DeviceMapper, DmName, Flush, Info, Kind, Sectors, Suspend, Target};
use thinlayer_filesystem::{Kind as FsKind, MakeOptions, MountRequest, Owner, Unmount};
use thinlayer_graphdriver::Machine;
use thinlayer_provision::{Allocation, AttachOptions};
use thinlayer_sim::{Fault, World};

const ROOT: &str = "/root";
const THIN: u64 = 1 << 30;

fn name(text: &str) -> DmName {
    DmName::new(text).unwrap()
}

fn activate(dm: &dyn DeviceMapper, short: &str, len: u64, kind: &str, params: String) -> Info {
    let name = name(short);
    dm.create(&name, None).unwrap();
    let table = Target { start: Sectors(0), len: Sectors(len / 512), kind: kind.into(), params };
    dm.load((&name).into(), &[table], Access::ReadWrite).unwrap();
    dm.resume((&name).into(), Suspend::default()).unwrap()
}

/// A pool on loop files with a thin device 1 that has ext4 and is mounted at `/root/mnt`.
fn pool(machine: &Machine) -> Info {
    for (file, size) in [("/root/meta", 16 << 20), ("/root/data", 1 << 30)] {
        machine.backing.ensure_file(Path::new(file), Bytes(size), Allocation::Sparse).unwrap();
    }
    let attach = |file: &str| machine.backing.attach(Path::new(file), AttachOptions::default()).unwrap();
    let (meta, data) = (attach("/root/meta"), attach("/root/data"));
    let params = format!("{} {} 128 0 1 skip_block_zeroing", meta.number, data.number);
    activate(&*machine.dm, "pool", 1 << 30, "thin-pool", params)
}

fn message(machine: &Machine, text: &str) -> Result<(), Kind> {
    let sent = machine.dm.message((&name("pool")).into(), Sectors(0), text);
    sent.map(drop).map_err(|e| e.kind())
}

fn thin(machine: &Machine, pool: &Info, short: &str, id: u32) -> Info {
    activate(&*machine.dm, short, THIN, "thin", format!("{} {id}", pool.number))
}

fn mount(machine: &Machine, device: &Info, target: &str) {
    machine.filesystems.make_dir(Path::new(target), 0o755, Owner::default()).unwrap();
    let request = MountRequest {
        device: machine.dm.node(&device.name, device.number).unwrap(),
        target: target.into(),
        kind: FsKind::Ext4,
        read_only: false,
        no_recovery: false,
        options: Vec::new(),
        label: None,
    };
    machine.filesystems.mount(&request).unwrap();
}

fn mkfs(machine: &Machine, device: &Info) -> thinlayer_filesystem::Result<()> {
    let options = MakeOptions { kind: FsKind::Ext4, args: Vec::new(), deadline: Duration::from_secs(60) };
    machine.filesystems.make(&machine.dm.node(&device.name, device.number).unwrap(), &options, &|_| {})
}

fn mounted(machine: &Machine) -> (Info, Info) {
    let pool = pool(machine);
    message(machine, "create_thin 1").unwrap();
    let thin = thin(machine, &pool, "thin", 1);
    mkfs(machine, &thin).unwrap();
    mount(machine, &thin, "/root/mnt");
    (pool, thin)
}

#[test]
fn after_a_crash_every_call_fails_and_nothing_changes() {
    let world = World::new(1);
    let machine = world.machine(ROOT);
    world.crash_after(2);
    machine.dm.create(&name("one"), None).unwrap();
    machine.dm.create(&name("two"), None).unwrap();
    assert!(world.is_dead());
    let error = machine.dm.create(&name("three"), None).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::EIO));
    assert!(machine.disk.write(Path::new("file"), b"x").is_err());
    assert!(machine.filesystems.mounts().is_err());
    assert_eq!(world.effects(), ["dm create one", "dm create two"]);
    assert_eq!(world.dm_names().len(), 2);
    world.kill();
    assert!(machine.dm.devices().is_err(), "the old process came back");
    assert_eq!(world.machine(ROOT).dm.devices().unwrap().len(), 2);
}

#[test]
fn an_effect_with_parts_may_happen_in_part() {
    let mut lengths = std::collections::BTreeSet::new();
    for seed in 0..40 {
        let world = World::new(seed);
        let machine = world.machine(ROOT);
        world.crash_after(1);
        let written = machine.disk.write(Path::new("file"), b"123456").is_ok();
        world.kill();
        let content = world.machine(ROOT).disk.read(Path::new("file")).map(|c| c.len()).ok();
        assert!(!written || content == Some(6));
        lengths.insert(content);
    }
    assert_eq!(lengths, [Some(0), Some(2), Some(4), Some(6)].into_iter().collect());
}

#[test]
fn captures_are_what_crashes_leave() {
    let world = World::new(1);
    let machine = world.machine(ROOT);
    world.capture(true);
    machine.disk.write(Path::new("file"), b"123456").unwrap();
    machine.dm.create(&name("one"), None).unwrap();
    let captures = world.take_captures();
    let seen: Vec<_> = captures.iter().map(|c| (c.effects, c.part, c.world.dm_names().len())).collect();
    assert_eq!(seen, [(1, true, 0), (1, false, 0), (2, false, 1)]);
    for capture in captures {
        assert!(capture.world.is_dead());
        capture.world.kill();
        let content = capture.world.machine(ROOT).disk.read(Path::new("file"));
        assert!(capture.part || content.unwrap() == b"123456");
    }
}

#[test]
fn a_kill_leaves_the_kernel_and_closes_files() {
    let world = World::new(1);
    let machine = world.machine(ROOT);
    mounted(&machine);
    world.write_file("/root/mnt/file", b"dirty").unwrap();
    let path = Path::new("/root/held");
    machine.backing.ensure_file(path, Bytes(1 << 20), Allocation::Sparse).unwrap();
    let held = machine.backing.attach(path, AttachOptions::default()).unwrap();
    assert_eq!(world.loop_files().len(), 3);
    world.kill();
    assert_eq!(world.loop_files().len(), 2, "the loop device that only the process held is still there");
    drop(held);
    assert_eq!(world.read_file("/root/mnt/file").unwrap().as_deref(), Some(&b"dirty"[..]));
    assert_eq!(world.dm_names().len(), 2);
}

#[test]
fn a_power_cut_leaves_what_was_durable() {
    let mut kept = std::collections::BTreeSet::new();
    for seed in 0..30 {
        let world = World::new(seed);
        let machine = world.machine(ROOT);
        mounted(&machine);
        world.write_file("/root/mnt/synced", b"1").unwrap();
        world.sync_fs("/root/mnt").unwrap();
        world.write_file("/root/mnt/dirty", b"2").unwrap();
        machine.runtime.write(Path::new("use"), b"3").unwrap();
        world.power_cut(seed);
        assert!(
            world.dm_names().is_empty() && world.loop_files().is_empty() && world.mount_points().is_empty()
        );
        let machine = world.machine(ROOT);
        assert!(machine.runtime.read(Path::new("use")).is_err(), "run-time state survived");
        let pool = pool(&machine);
        let thin = thin(&machine, &pool, "thin", 1);
        mount(&machine, &thin, "/root/mnt");
        assert_eq!(world.read_file("/root/mnt/synced").unwrap().as_deref(), Some(&b"1"[..]));
        kept.insert(world.read_file("/root/mnt/dirty").unwrap());
        assert_eq!(world.violations(), Vec::<String>::new());
    }
    assert_eq!(kept, [None, Some(b"2".to_vec())].into_iter().collect());
}

#[test]
fn a_pool_keeps_what_it_committed() {
    let world = World::new(1);
    let machine = world.machine(ROOT);
    mounted(&machine);
    message(&machine, "create_thin 2").unwrap();
    message(&machine, "set_transaction_id 0 5").unwrap();
    let used = |world: &World| world.thin_devices(&name("pool")).unwrap()[0].1.mapped_blocks;
    let before = used(&world);
    world.write_file("/root/mnt/file", &[1; 1 << 20]).unwrap();
    // Written out after half a minute, and committed a second later.
    world.pass(Duration::from_secs(30));
    assert!(used(&world) >= before + 16);
    world.power_cut(3);
    pool(&world.machine(ROOT));
    assert_eq!(world.transaction_id(&name("pool")).unwrap(), 5);
    let ids: Vec<u32> = world.thin_devices(&name("pool")).unwrap().into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, [1, 2]);
}

#[test]
fn faults_strike_as_often_as_told() {
    let world = World::new(1);
    let machine = world.machine(ROOT);
    let one = name("one");
    machine.dm.create(&one, None).unwrap();
    world.inject(Fault::busy_removal("one", 2));
    for _ in 0..2 {
        let error = machine.dm.remove((&one).into(), thinlayer_dm::Removal::Now).unwrap_err();
        assert_eq!(error.kind(), Kind::Busy);
    }
    machine.dm.remove((&one).into(), thinlayer_dm::Removal::Now).unwrap();
    world.inject(Fault::new("disk write", Errno::ENOSPC).skip(1));
    machine.disk.write(Path::new("a"), b"x").unwrap();
    let error = machine.disk.write(Path::new("b"), b"x").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    machine.disk.write(Path::new("b"), b"x").unwrap();
    world.inject(Fault::new("fs make", Errno::EIO).always());
    assert!(machine.filesystems.make_dir(Path::new("/root/x"), 0o755, Owner::default()).is_err());
    assert!(machine.filesystems.make_dir(Path::new("/root/x"), 0o755, Owner::default()).is_err());
    world.clear_faults();
    machine.filesystems.make_dir(Path::new("/root/x"), 0o755, Owner::default()).unwrap();
}

#[test]
fn a_call_that_hangs_ends_when_it_is_let_go() {
    let world = World::new(1);
    let machine = world.machine(ROOT);
    world.hang_next(1);
    let (dm, before) = (machine.dm.clone(), machine.clock.now());
    let job = move || drop(dm.create(&name("late"), None));
    assert!(!machine.clock.run_within(Duration::from_secs(60), Box::new(job)));
    assert_eq!(machine.clock.now() - before, Duration::from_secs(60));
    assert!(world.dm_names().is_empty());
    assert_eq!(world.finish_hung(), 1);
    assert_eq!(world.dm_names().len(), 1);
    assert!(machine.clock.run_within(Duration::from_secs(60), Box::new(|| {})));
}

#[test]
fn a_full_host_is_a_clear_error_and_changes_nothing() {
    let world = World::new(1);
    let machine = world.machine(ROOT);
    world.set_host_free(Bytes(1 << 20));
    let path = Path::new("/root/meta");
    let error = machine.backing.ensure_file(path, Bytes(16 << 20), Allocation::Full).unwrap_err();
    assert_eq!(error.kind(), thinlayer_provision::ErrorKind::NoSpace);
    assert_eq!(machine.backing.file(path).unwrap(), None);
    world.set_host_free(Bytes(0));
    assert!(machine.disk.write(Path::new("file"), b"x").is_err());
    world.set_host_free(Bytes(1 << 20));
    machine.disk.write(Path::new("file"), b"x").unwrap();
}

#[test]
fn data_that_the_host_has_no_room_for_is_an_error_at_the_sync() {
    let world = World::new(1);
    let machine = world.machine(ROOT);
    mounted(&machine);
    world.set_host_free(Bytes(1 << 20));
    world.write_file("/root/mnt/large", &vec![1; 4 << 20]).unwrap();
    assert_eq!(world.sync_fs("/root/mnt"), Err(Errno::EIO));
    world.set_host_free(Bytes(1 << 30));
    assert_eq!(world.sync_fs("/root/mnt"), Ok(()));
    let (_, status) = machine.dm.status((&name("pool")).into(), Flush::No).unwrap();
    assert!(status[0].params.contains(" rw "), "{status:?}");
}

#[test]
fn metadata_space_and_needs_check() {
    let world = World::new(1);
    let machine = world.machine(ROOT);
    let pool = pool(&machine);
    message(&machine, "create_thin 1").unwrap();
    world.set_free_metadata(&pool.name, 0).unwrap();
    assert_eq!(message(&machine, "delete 1"), Err(Kind::Unsupported));
    // More room mends it, at the next resume.
    let file = Path::new("/root/meta");
    machine.backing.ensure_file(file, Bytes(32 << 20), Allocation::Full).unwrap();
    let number = machine.backing.loops().unwrap().into_iter().find(|l| l.file == file).unwrap().number;
    machine.backing.refresh_size(number).unwrap();
    let (_, table) = machine.dm.table((&pool.name).into(), thinlayer_dm::Slot::Live).unwrap();
    machine.dm.load((&pool.name).into(), &table, Access::ReadWrite).unwrap();
    machine.dm.resume((&pool.name).into(), Suspend::default()).unwrap();
    message(&machine, "delete 1").unwrap();
    world.set_needs_check(&pool.name).unwrap();
    let (_, status) = machine.dm.status((&pool.name).into(), Flush::No).unwrap();
    assert!(status[0].params.contains(" ro ") && status[0].params.contains(" needs_check "), "{status:?}");
    assert_eq!(message(&machine, "create_thin 2"), Err(Kind::Unsupported));
    machine.dm.load((&pool.name).into(), &table, Access::ReadWrite).unwrap();
    machine.dm.resume((&pool.name).into(), Suspend::default()).unwrap();
    assert_eq!(message(&machine, "create_thin 2"), Err(Kind::Unsupported), "a reload does not mend it");
    world.fail_pool(&pool.name).unwrap();
    let (_, status) = machine.dm.status((&pool.name).into(), Flush::No).unwrap();
    assert_eq!(status[0].params, "Fail");
}

#[test]
fn what_must_never_happen_is_seen() {
    let world = World::new(1);
    let machine = world.machine(ROOT);
    let (pool_device, thin_device) = mounted(&machine);
    let seen = |what: &str| {
        let all = world.violations();
        assert!(all.last().is_some_and(|v| v.contains(what)), "{what}: {all:?}");
    };
    message(&machine, "create_snap 2 1").unwrap();
    seen("active and not suspended");
    world.write_file("/root/mnt/file", b"x").unwrap();
    machine.dm.suspend((&thin_device.name).into(), Suspend { freeze: false, flush: true }).unwrap();
    message(&machine, "create_snap 3 1").unwrap();
    seen("dirty");
    assert!(machine.filesystems.unmount(Path::new("/root/mnt"), Unmount::Now).is_err());
    seen("would wait for ever");
    machine.dm.resume((&thin_device.name).into(), Suspend::default()).unwrap();
    thin(&machine, &pool_device, "again", 1);
    seen("active twice");
    // The kernel lets two loop devices share a file, and two pools share both.
    let loops: Vec<_> =
        ["/root/meta", "/root/data"].map(|file| world.attach_foreign_loop(file, Bytes(0)).unwrap()).into();
    let params = format!("{} {} 128 0", loops[0], loops[1]);
    activate(&*machine.dm, "second", 1 << 30, "thin-pool", params);
    seen("two pools");
    assert_eq!(world.violations().len(), 5);
}

#[test]
fn somebody_inside_outlives_an_unmount_and_a_kill() {
    let world = World::new(1);
    let machine = world.machine(ROOT);
    let (_, thin_device) = mounted(&machine);
    let inside = world.hold("/root/mnt").unwrap();
    world.write_file("/root/mnt/file", b"x").unwrap();
    machine.filesystems.unmount(Path::new("/root/mnt"), Unmount::Lazy).unwrap();
    world.kill();
    let machine = world.machine(ROOT);
    let gone = machine.dm.remove((&thin_device.name).into(), thinlayer_dm::Removal::Deferred).unwrap();
    assert_eq!(gone, thinlayer_dm::Removed::Scheduled);
    world.release(inside);
    assert_eq!(machine.dm.info((&thin_device.name).into()).unwrap(), None);
}
