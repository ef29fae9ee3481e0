//! A root that is only looked at: the pool comes up without a write, and goes again; and what opening a root would change is told.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure here is the test's")]

use std::path::Path;
use std::sync::Arc;
use thinlayer_graphdriver::{
    Adoption, Bytes, CreateRequest, Driver, Family, Kind, LayerId, Options, PutBack, ReadOnly, Silent,
    Unmount,
};
use thinlayer_provision::Allocation;
use thinlayer_sim::World;

const ROOT: &str = "/root";

fn id(text: &str) -> LayerId {
    LayerId::given(text).unwrap()
}

fn options() -> Options {
    Options::parse(&["dm.fs=ext4", "dm.basesize=1G"]).unwrap()
}

fn open(world: &World) -> Driver {
    Driver::open(world.machine(ROOT), &options(), Arc::new(Silent)).unwrap().0
}

/// A root at rest with `a`, which holds a file, and `fresh`, which nobody has ever mounted.
fn root() -> World {
    let world = World::new(1);
    let driver = open(&world);
    driver.create(&id("a"), &CreateRequest::empty()).unwrap();
    let tree = driver.get(&id("a"), None).unwrap();
    world.write_file(tree.join("hello"), b"world").unwrap();
    driver.put(&id("a"), Unmount::Now).unwrap();
    driver.create(&id("fresh"), &CreateRequest::empty()).unwrap();
    driver.stop().unwrap();
    world
}

/// What was done to files of the root, and to the pool, since this many effects.
fn writes(world: &World, since: usize) -> Vec<String> {
    let writes = |effect: &String| {
        effect.starts_with("disk ") || effect.contains("message") || effect.contains("allocate")
    };
    world.effects().into_iter().skip(since).filter(writes).collect()
}

#[test]
fn a_pool_comes_up_without_a_write_and_goes_again() {
    let world = root();
    let since = world.effects().len();
    let (looking, _) = ReadOnly::open(world.machine(ROOT), &options()).unwrap();
    let status = looking.status().unwrap();
    assert_eq!((status.layers, status.trouble), (2, None));
    assert_eq!(looking.check().unwrap().findings, []);
    looking.close().unwrap();
    assert_eq!(world.dm_names(), Default::default());

    let (looking, _) = ReadOnly::open(world.machine(ROOT), &options()).unwrap();
    let tree = looking.mount(&id("a")).unwrap();
    assert_eq!(looking.mount(&id("a")).unwrap(), tree);
    assert_eq!(world.read_file(tree.join("hello")).unwrap(), Some(b"world".to_vec()));
    world.write_file(tree.join("hello"), b"other").unwrap_err();
    assert_eq!(looking.mount(&id("nobody")).unwrap_err().kind(), Kind::NotFound);
    // It stays while something is mounted, and nobody writes meanwhile.
    looking.close().unwrap();
    assert_eq!(writes(&world, since), Vec::<String>::new());
    let error = Driver::open(world.machine(ROOT), &options(), Arc::new(Silent)).map(drop).unwrap_err();
    assert!(error.kind() == Kind::Busy && error.to_string().contains("--read-only"), "{error}");
    let since = world.effects().len();

    let (looking, _) = ReadOnly::open(world.machine(ROOT), &options()).unwrap();
    assert_eq!(looking.unmount(&id("a")).unwrap(), PutBack::Unmounted);
    assert_eq!(looking.unmount(&id("a")).unwrap(), PutBack::NotMounted);
    let empty = looking.mount(&id("fresh")).unwrap();
    assert!(world.host_entries(&empty).is_empty(), "{:?}", world.host_entries(&empty));
    looking.unmount_all().unwrap();
    looking.close().unwrap();
    assert_eq!(writes(&world, since), Vec::<String>::new());
    assert_eq!(world.dm_names(), Default::default());
    assert_eq!(world.loop_files(), vec![]);
    assert_eq!(world.violations(), Vec::<String>::new());
    open(&world).get(&id("a"), None).unwrap();
}

/// The growth of a file was cut off before the pool took it in. To take it in is to write.
#[test]
fn files_that_are_longer_than_the_pool_are_looked_at() {
    for (file, more, allocation) in
        [("data", 2_u64 << 30, Allocation::Sparse), ("metadata", 128 << 20, Allocation::Full)]
    {
        let world = root();
        let path = Path::new(ROOT).join("devicemapper").join(file);
        let backing = world.machine(ROOT).backing;
        let size = backing.file(&path).unwrap().unwrap().size;
        backing.ensure_file(&path, Bytes(size.0 + more), allocation).unwrap();
        let since = world.effects().len();
        let (looking, _) = ReadOnly::open(world.machine(ROOT), &options()).unwrap();
        assert_eq!(looking.status().unwrap().layers, 2, "{file}");
        let tree = looking.mount(&id("a")).unwrap();
        assert_eq!(world.read_file(tree.join("hello")).unwrap(), Some(b"world".to_vec()));
        looking.unmount_all().unwrap();
        looking.close().unwrap();
        assert_eq!(writes(&world, since), Vec::<String>::new());
        assert_eq!(world.dm_names(), Default::default());
        assert_eq!(world.loop_files(), vec![]);
        // Who may write takes it in.
        let (driver, _) = Driver::open(world.machine(ROOT), &options(), Arc::new(Silent)).unwrap();
        let status = driver.status().unwrap();
        let total = if file == "data" { status.data_total } else { status.metadata_total };
        assert!(total.0 > size.0, "{file}: {total}");
    }
}

/// The kernel writes a superblock when it gives up on a pool, also on one that it was told not to write to.
#[test]
fn given_metadata_is_below_a_device_that_refuses_writes() {
    let world = World::new(1);
    world.add_block_device("/dev/data", Bytes(4 << 30), None);
    world.add_block_device("/dev/meta", Bytes(1 << 30), None);
    let options =
        Options::parse(&["dm.fs=ext4", "dm.basesize=1G", "dm.datadev=/dev/data", "dm.metadatadev=/dev/meta"])
            .unwrap();
    let (driver, _) = Driver::open(world.machine(ROOT), &options, Arc::new(Silent)).unwrap();
    driver.create(&id("a"), &CreateRequest::empty()).unwrap();
    driver.stop().unwrap();
    let since = world.effects().len();
    let (looking, _) = ReadOnly::open(world.machine(ROOT), &options).unwrap();
    let attached = world.machine(ROOT).backing.loops().unwrap();
    let attached: Vec<_> = attached.iter().map(|held| (held.file.as_path(), held.read_only)).collect();
    assert_eq!(attached, [(Path::new("/dev/meta"), true)]);
    let rows = looking.status().unwrap().rows;
    let row = |key: &str| rows.iter().find(|row| row.0 == key).map(|row| row.1.as_str());
    assert_eq!((row("Metadata file"), row("Metadata loop file")), (Some("/dev/meta"), None), "{rows:?}");
    assert_eq!(looking.check().unwrap().findings, []);
    looking.mount(&id("a")).unwrap();
    looking.unmount_all().unwrap();
    looking.close().unwrap();
    assert_eq!(writes(&world, since), Vec::<String>::new());
    assert_eq!(world.dm_names(), Default::default());
    assert_eq!(world.loop_files(), vec![]);
    let (driver, _) = Driver::open(world.machine(ROOT), &options, Arc::new(Silent)).unwrap();
    driver.get(&id("a"), None).unwrap();
    assert_eq!(world.violations(), Vec::<String>::new());
}

#[test]
fn a_read_only_pool_that_was_left_is_no_obstacle() {
    let world = root();
    let (looking, _) = ReadOnly::open(world.machine(ROOT), &options()).unwrap();
    drop(looking);
    assert_eq!(world.dm_names().len(), 1);
    let driver = open(&world);
    driver.create(&id("b"), &CreateRequest::on(id("a"))).unwrap();
    assert_eq!(world.violations(), Vec::<String>::new());
}

#[test]
fn a_growth_that_docker_failed_is_finished() {
    let world = root();
    let disk = world.machine(ROOT).disk;
    let docker = |device_id: u32, initialized: bool| {
        format!(
            r#"{{"device_id":{device_id},"size":{},"transaction_id":{device_id},"initialized":{initialized},"deleted":false}}"#,
            2_u64 << 30
        )
    };
    disk.write(Path::new("metadata/base"), docker(1, true).as_bytes()).unwrap();
    disk.write(Path::new("metadata/a"), docker(2, false).as_bytes()).unwrap();
    let options = Options::parse(&["dm.fs=ext4"]).unwrap();
    let since = world.effects().len();
    let (driver, _) = Driver::open(world.machine(ROOT), &options, Arc::new(Silent)).unwrap();
    let grown =
        |since: usize| world.effects().into_iter().skip(since).filter(|e| e.starts_with("fs grow")).count();
    assert_eq!(grown(since), 1, "the base: {:#?}", &world.effects()[since..]);
    let since = world.effects().len();
    let tree = driver.get(&id("a"), None).unwrap();
    assert_eq!(grown(since), 1, "the layer: {:#?}", &world.effects()[since..]);
    assert_eq!(world.read_file(tree.join("hello")).unwrap(), Some(b"world".to_vec()));
    driver.put(&id("a"), Unmount::Now).unwrap();
    // Once is enough.
    let since = world.effects().len();
    driver.get(&id("a"), None).unwrap();
    driver.put(&id("a"), Unmount::Now).unwrap();
    driver.stop().unwrap();
    let (driver, _) = Driver::open(world.machine(ROOT), &options, Arc::new(Silent)).unwrap();
    driver.stop().unwrap();
    assert_eq!(grown(since), 0, "{:#?}", &world.effects()[since..]);
    assert_eq!(world.violations(), Vec::<String>::new());
}

#[test]
fn what_opening_would_change_is_told_and_not_done() {
    let world = root();
    let disk = world.machine(ROOT).disk;
    world.delete_file("/root/thinlayer/pool.json").unwrap();
    disk.write(Path::new("metadata/broken"), b"{").unwrap();
    let since = world.effects().len();
    let found = Adoption::look(&world.machine(ROOT), &options()).unwrap();
    assert_eq!((found.layers, found.damaged, found.active, found.known), (2, 1, false, false));
    assert_eq!((found.filesystem.as_str(), found.base_size), ("ext4", Bytes(1 << 30)));
    let changes = found.changes.join("\n");
    assert!(changes.contains("quarantine") && changes.contains("pool.json"), "{changes}");
    assert_eq!(found.obstacles, Vec::<String>::new());
    let other = Options::parse(&["dm.thinpooldev=other"]).unwrap();
    assert_eq!(Adoption::look(&world.machine(ROOT), &other).unwrap().obstacles.len(), 1);
    assert_eq!(world.effects().len(), since, "{:?}", world.effects().last());
}

/// What `adopt` would be told by a start.
#[test]
fn what_keeps_a_root_from_being_opened_is_told() {
    let world = root();
    let look = |items: &[&str]| {
        let options = Options::parse(&[&["dm.fs=ext4"], items].concat()).unwrap();
        let since = world.effects().len();
        let found = Adoption::look(&world.machine(ROOT), &options).unwrap();
        assert_eq!(world.effects().len(), since, "{:?}", world.effects().last());
        found
    };
    let obstacle = |items: &[&str], words: &str| {
        let found = look(items).obstacles;
        assert!(found.len() == 1 && found[0].contains(words), "{items:?}: {found:?}");
    };
    let change = |items: &[&str], words: &str| {
        let found = look(items);
        assert_eq!(found.obstacles, Vec::<String>::new(), "{items:?}");
        assert!(found.changes.iter().any(|change| change.contains(words)), "{items:?}: {:?}", found.changes);
    };
    // Nobody has owned it.
    let found = look(&[]);
    let lock = "the folder thinlayer/ is made, with the lock; Docker and Podman ignore it";
    assert_eq!((found.changes, found.obstacles), (vec![lock.to_owned()], vec![]));
    let reserve = thinlayer_provision::loop_pool::reserve_path(ROOT.as_ref());
    assert!(world.machine(ROOT).backing.remove_file(&reserve).unwrap());
    change(&[], "reserve");
    change(&["dm.basesize=2G"], "the base grows from");
    change(&["dm.loopdatasize=200G"], "the data file grows from");
    obstacle(&["dm.basesize=512M"], "cannot shrink");

    let held = world.attach_foreign_loop("/root/devicemapper/data", Bytes(0)).unwrap();
    obstacle(&[], &format!("/dev/loop{} holds /root/devicemapper/data", held.minor));
}

/// A pool that is named has to be there, and a pool that is marked takes no change.
#[test]
fn a_pool_that_cannot_be_used_is_an_obstacle() {
    let world = World::new(1);
    world.add_block_device("/dev/data", Bytes(4 << 30), None);
    world.add_block_device("/dev/meta", Bytes(1 << 30), None);
    let given = ["dm.fs=ext4", "dm.basesize=1G", "dm.datadev=/dev/data", "dm.metadatadev=/dev/meta"];
    let given = Options::parse(&given).unwrap();
    let (driver, _) = Driver::open(world.machine(ROOT), &given, Arc::new(Silent)).unwrap();
    driver.create(&id("a"), &CreateRequest::empty()).unwrap();
    let look = |options: &Options| {
        let found = Adoption::look(&world.machine(ROOT), options).unwrap();
        (found.active, found.obstacles)
    };
    assert_eq!(look(&given), (true, vec![]));
    let pool = world.dm_names().into_iter().find(|name| name.ends_with("-pool")).unwrap();
    world.set_needs_check(&thinlayer_dm::DmName::new(&pool).unwrap()).unwrap();
    let (active, found) = look(&given);
    assert!(active && found.len() == 1 && found[0].contains("thin_check"), "{found:?}");
    driver.stop().unwrap();
    let (active, found) = look(&given);
    assert!(!active && found.len() == 1 && found[0].contains("possibly damaged"), "{found:?}");
    // As Docker leaves it: nothing says which pool it was.
    world.delete_file("/root/thinlayer/pool.json").unwrap();
    let (_, found) = look(&Options::parse(&["dm.thinpooldev=nobody"]).unwrap());
    assert!(found.len() == 1 && found[0].contains("there is no thin pool nobody"), "{found:?}");
}

#[test]
fn podmans_roots_have_podmans_names() {
    let world = World::new(1);
    let mut machine = world.machine(ROOT);
    machine.root.family = Family::Containers;
    let (driver, _) = Driver::open(machine, &options(), Arc::new(Silent)).unwrap();
    driver.create(&id("a"), &CreateRequest::empty()).unwrap();
    driver.get(&id("a"), None).unwrap();
    assert!(world.dm_names().iter().all(|name| name.starts_with("container-8:1-")), "{:?}", world.dm_names());
    assert!(driver.check().unwrap().findings.is_empty());
}
