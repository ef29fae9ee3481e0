use super::*;
use crate::testing::{MemoryDisk, device, id, path, record};
use crate::{Disk, ErrorKind, Operation, OperationKind, Step, decide};
use std::io;

const DOCKER_OPEN: &str = r#"{"open_transaction_id":24,"device_hash":"L","device_id":18}"#;
const BAD: &str = "{\"device_id\":";

fn rec(number: u32, transaction_id: u64) -> String {
    record(number, transaction_id).to_json()
}

fn marked(number: u32) -> String {
    Record { deleted: true, ..record(number, 1) }.to_json()
}

/// A root as Docker leaves it.
fn docker_root(transaction: &str) -> MemoryDisk {
    MemoryDisk::with(&[
        ("metadata/base", &Record { initialized: true, ..record(1, 1) }.to_json()),
        ("metadata/L", &rec(18, 7)),
        (
            "metadata/deviceset-metadata",
            r#"{"next_device_id":5,"BaseDeviceUUID":"u","BaseDeviceFilesystem":"xfs"}"#,
        ),
        ("metadata/transaction-metadata", transaction),
    ])
}

#[test]
fn a_fresh_root_is_empty() {
    let disk = MemoryDisk::default();
    let (store, findings) = disk.open(Mode::ReadWrite);
    assert_eq!((findings, store.layers().len(), store.counts()), (vec![], 0, Counts::default()));
    assert_eq!(store.pool_transaction_id(), None);
    assert_eq!(store.recovery(0), Recovery::Clean);
    assert_eq!(store.propose_device_id().unwrap(), device(1));
    assert_eq!(disk.text("metadata/transaction-metadata").unwrap(), " ".repeat(4096));
    assert!(disk.open(Mode::ReadWrite).1.is_empty(), "and so it is at the next start");
}

#[test]
fn a_docker_root_is_read() {
    let disk = docker_root(&DOCKER_OPEN.replace("24", "7"));
    let (store, findings) = disk.open(Mode::ReadWrite);
    assert_eq!(findings, []);
    assert_eq!(store.recovery(7), Recovery::Clean);
    let layers: Vec<LayerId> = store.layers().into_iter().map(|(layer, _)| layer).collect();
    assert_eq!(layers, [LayerId::base(), id("L")]);
    let set = DeviceSet { next_device_id: device(5), base_uuid: "u".into(), base_filesystem: "xfs".into() };
    assert_eq!(store.device_set(), set);
    assert_eq!(store.counts(), Counts { layers: 1, ..Counts::default() });
    assert_eq!(store.record(&id("L")).unwrap().device_id, device(18));
    assert_eq!(store.lookup(&id("M")).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn the_transaction_file_gets_its_room_at_the_start() {
    let disk = docker_root(DOCKER_OPEN);
    let (store, _) = disk.open(Mode::ReadWrite);
    let text = disk.text("metadata/transaction-metadata").unwrap();
    assert_eq!((text.len(), text.trim_end()), (4096, DOCKER_OPEN));
    assert!(matches!(store.recovery(23), Recovery::Open(_)));
    disk.take_steps();
    disk.open(Mode::ReadWrite);
    assert_eq!(
        disk.take_steps(),
        ["make_folder", "sync_folder", "sync_folder", "sync_file"],
        "a second start only makes durable what a killed owner may have left undone"
    );
}

#[test]
fn the_ids_are_compared() {
    let disk = docker_root(DOCKER_OPEN);
    let store = disk.open(Mode::ReadWrite).0;
    assert_eq!(store.recovery(24), Recovery::Clean);
    assert_eq!(store.recovery(30), Recovery::PoolAhead { open: 24, pool: 30 });
    assert_eq!(store.pool_transaction_id(), Some(30));
    assert_eq!(store.recovery(22), Recovery::TooFarAhead { open: 24, pool: 22 });
    assert!(matches!(store.begin(&[Operation::create(id("N"), device(30))]), Err(Error::NotRecovered)));
    let Recovery::Open(pending) = store.recovery(23) else { panic!() };
    let expected = Pending {
        kind: IntentKind::Unknown,
        layer: id("L"),
        device_id: device(18),
        open_transaction_id: 24,
        record: Some(record(18, 7)),
        unreadable_records: false,
    };
    assert_eq!(pending, [expected]);
    assert!(matches!(store.begin(&[Operation::create(id("N"), device(30))]), Err(Error::NotRecovered)));
    store.finish_recovery(23).unwrap();
    assert_eq!((store.recovery(23), store.pool_transaction_id()), (Recovery::Clean, Some(23)));
    // With nothing under way, one behind is an older pool, now and after a start.
    assert_eq!(store.recovery(22), Recovery::TooFarAhead { open: 23, pool: 22 });
    assert_eq!(disk.open(Mode::ReadWrite).0.recovery(22), Recovery::TooFarAhead { open: 23, pool: 22 });
}

/// C1: what a recovery removed is gone from memory too, and its thin id is free.
#[test]
fn a_rolled_back_layer_is_gone_everywhere() {
    let disk = docker_root(DOCKER_OPEN);
    disk.plant("metadata/L", rec(18, 24).as_bytes());
    let store = disk.open(Mode::ReadWrite).0;
    let Recovery::Open(pending) = store.recovery(23) else { panic!() };
    let facts = crate::DeviceFacts {
        present: true,
        in_use_by_other_record: store.is_named_by_other(&pending[0].layer, pending[0].device_id),
        active: false,
        pool_is_ours: true,
    };
    let steps = decide(&pending[0], &facts).steps;
    assert_eq!(steps, [Step::DeleteDevice(device(18)), Step::RemoveRecord(id("L"))]);
    store.remove(&id("L")).unwrap();
    store.finish_recovery(23).unwrap();
    assert_eq!(store.record_even_deleted(&id("L")), None);
    assert!(store.reserve(device(18)), "its thin id is free again");
    // The next owner of the id does not share it with a ghost.
    let transaction = store.begin(&[Operation::create(id("N"), device(18))]).unwrap();
    store.put(&id("N"), &record(18, transaction.id())).unwrap();
    store.close(transaction);
    assert!(store.deletable(&id("N")).is_ok());
    store.remove(&id("L")).unwrap();
    assert!(store.record(&id("N")).is_some());
}

/// C10: a transaction file that says nothing is not taken for "nothing was open".
#[test]
fn a_malformed_transaction_is_reported_and_kept() {
    let garbage = "{\"open_transaction_id\":24,";
    let disk = docker_root(garbage);
    let (store, findings) = disk.open(Mode::ReadWrite);
    let [Finding::MalformedTransaction { why, copied_to: Some(copy) }] = &findings[..] else {
        panic!("{findings:?}")
    };
    assert_eq!(why, "it ends too early");
    assert_eq!(disk.text(copy.to_str().unwrap()).unwrap(), garbage);
    assert_eq!(disk.text("metadata/transaction-metadata").unwrap(), garbage, "until the recovery is done");
    assert_eq!(disk.open(Mode::ReadWrite).1, findings, "the next start says the same, with no second copy");
    assert_eq!(disk.names("thinlayer/quarantine").len(), 1);
    assert_eq!(store.recovery(7), Recovery::Clean);
    let transaction = store.begin(&[Operation::create(id("N"), device(30))]).unwrap();
    store.close(transaction);
    let text = disk.text("metadata/transaction-metadata").unwrap();
    assert_eq!((text.len(), &text[..24]), (4096, r#"{"open_transaction_id":8"#));
}

#[test]
fn under_a_malformed_transaction_young_records_are_unfinished() {
    let disk = docker_root("x");
    disk.plant("metadata/M", rec(19, 8).as_bytes());
    let store = disk.open(Mode::ReadWrite).0;
    let Recovery::Open(pending) = store.recovery(7) else { panic!() };
    assert_eq!(pending.len(), 1);
    let Pending { kind, layer, open_transaction_id, .. } = &pending[0];
    assert_eq!((kind, layer, *open_transaction_id), (&IntentKind::Unknown, &id("M"), 8));
    assert_eq!(store.recovery(8), Recovery::Clean);
    assert_eq!(store.recovery(6), Recovery::TooFarAhead { open: 8, pool: 6 });
    assert_eq!(store.recovery(7), Recovery::Open(pending));
    store.remove(&id("M")).unwrap();
    store.finish_recovery(7).unwrap();
    let (store, findings) = disk.open(Mode::ReadWrite);
    assert_eq!((findings, store.recovery(7)), (vec![], Recovery::Clean));
}

#[test]
fn a_bad_record_is_set_aside_and_the_rest_works() {
    for (bad, reason) in
        [(BAD, "it ends too early"), ("", "it is empty"), ("null", "it is null"), ("7", "object")]
    {
        let disk = docker_root(DOCKER_OPEN);
        disk.plant("metadata/bad", bad.as_bytes());
        let (store, findings) = disk.open(Mode::ReadWrite);
        let [Finding::DamagedRecord { layer, why, now_at }] = &findings[..] else { panic!("{findings:?}") };
        assert_eq!((layer, now_at.as_path()), (&id("bad"), path("thinlayer/quarantine/bad.1")));
        assert!(why.contains(reason), "{why}");
        assert_eq!(disk.text("thinlayer/quarantine/bad.1").unwrap(), bad);
        assert_eq!(disk.text("metadata/bad"), None);
        assert!(store.record(&id("L")).is_some());
        // Each command on that id says where it is, now and after a restart.
        let (again, findings) = disk.open(Mode::ReadWrite);
        assert_eq!(findings, []);
        for store in [&store, &again] {
            assert_eq!(store.recovery(24), Recovery::Clean);
            let errors = [
                store.lookup(&id("bad")).map(|_| ()).unwrap_err(),
                store.put(&id("bad"), &record(90, 1)).unwrap_err(),
                store.remove(&id("bad")).unwrap_err(),
                store.retire(&id("bad")).map(|_| ()).unwrap_err(),
                store.deletable(&id("bad")).unwrap_err(),
                store.begin(&[Operation::create(id("bad"), device(90))]).map(|_| ()).unwrap_err(),
            ];
            for error in errors {
                assert_eq!(error.kind(), ErrorKind::Damaged);
                assert!(error.to_string().contains("thinlayer/quarantine/bad.1"), "{error}");
            }
            assert_eq!(store.counts().damaged, 1);
        }
        // A second one does not overwrite the first; a mended one ends it.
        disk.plant("metadata/bad", BAD.as_bytes());
        assert_eq!(
            disk.open(Mode::ReadWrite).0.damaged(),
            [(id("bad"), path("thinlayer/quarantine/bad.2").into())]
        );
        assert_eq!(disk.names("thinlayer/quarantine"), ["bad.1", "bad.2"]);
        disk.plant("metadata/bad", rec(40, 3).as_bytes());
        assert_eq!(disk.open(Mode::ReadWrite).0.lookup(&id("bad")).unwrap().device_id, device(40));
    }
}

#[test]
fn a_bad_base_is_not_an_absent_base() {
    let disk = docker_root(DOCKER_OPEN);
    disk.plant("metadata/base", b"");
    let store = disk.open(Mode::ReadWrite).0;
    let error = store.lookup(&LayerId::base()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert!(error.to_string().contains("thinlayer/quarantine/base.1"), "{error}");
}

#[test]
fn a_record_that_cannot_be_moved_or_read_stays_and_is_reported() {
    let disk = docker_root(DOCKER_OPEN);
    disk.open(Mode::ReadWrite);
    disk.plant("metadata/bad", BAD.as_bytes());
    disk.set_full(true);
    let (store, findings) = disk.open(Mode::ReadWrite);
    assert!(
        matches!(&findings[..], [Finding::DamagedRecord { now_at, .. }] if now_at == path("metadata/bad"))
    );
    assert_eq!(store.lookup(&id("bad")).unwrap_err().kind(), ErrorKind::Damaged);
    assert_eq!(disk.text("metadata/bad").unwrap(), BAD);
    // A disk that fails to read does not make a record bad.
    disk.set_full(false);
    disk.plant("metadata/bad", rec(40, 3).as_bytes());
    disk.break_call("read", io::ErrorKind::Other);
    let (store, findings) = disk.open(Mode::ReadWrite);
    assert!(matches!(&findings[..], [Finding::Untouched { path: at, .. }] if at == path("metadata/bad")));
    assert_eq!(store.remove(&id("bad")).unwrap_err().kind(), ErrorKind::Damaged);
    disk.mend();
    assert_eq!(disk.open(Mode::ReadWrite).0.lookup(&id("bad")).unwrap().device_id, device(40));
}

#[test]
fn what_else_lies_in_the_folder_does_not_stop_the_start() {
    let disk = docker_root(DOCKER_OPEN);
    disk.plant("metadata/.tmp123", b"x");
    disk.plant("metadata/.tmp-thinlayer-1", b"x");
    disk.plant("metadata/old.migrated", b"x");
    disk.plant("metadata/.hidden", b"x");
    disk.plant("metadata/sub/file", b"x");
    let reads = disk.open(Mode::ReadOnly).1;
    let (store, writes) = disk.open(Mode::ReadWrite);
    for (findings, removed) in [(reads, false), (writes, true)] {
        let expected = [
            Finding::OwnTemporary { path: path("metadata/.tmp-thinlayer-1").into(), removed },
            Finding::DockerTemporary { path: path("metadata/.tmp123").into() },
            Finding::Folder { path: path("metadata/sub").into() },
        ];
        assert_eq!(findings, expected);
    }
    assert_eq!(store.layers().len(), 2);
    assert_eq!(disk.text("metadata/.tmp-thinlayer-1"), None);
    assert!(disk.text("metadata/.tmp123").is_some());
}

#[test]
fn reading_only_writes_nothing() {
    let disk = docker_root("garbage");
    for (name, content) in [("bad", BAD), ("dead", &marked(30)), (".tmp-thinlayer-9", "x")] {
        disk.plant(&format!("metadata/{name}"), content.as_bytes());
    }
    disk.plant("devicemapper/json", format!(r#"{{"Devices":{{"old":{}}}}}"#, rec(50, 2)).as_bytes());
    let (store, findings) = disk.open(Mode::ReadOnly);
    assert_eq!(disk.take_steps(), [""; 0]);
    assert_eq!(findings.len(), 4, "{findings:?}");
    assert_eq!(store.recovery(7), Recovery::Clean);
    assert!(store.record(&id("old")).is_some(), "the old file is read, not turned into records");
    assert_eq!(store.pending_deletion()[0].0, id("dead"));
    assert!(store.lookup(&id("bad")).unwrap_err().to_string().contains("metadata/bad"));
    let errors = [
        store.put(&id("x"), &record(60, 1)).unwrap_err(),
        store.remove(&id("L")).unwrap_err(),
        store.retire(&id("L")).map(|_| ()).unwrap_err(),
        store.begin(&[Operation::delete(id("L"), device(18))]).map(|_| ()).unwrap_err(),
        store.finish_recovery(7).unwrap_err(),
        store.save_device_set(&DeviceSet::default()).unwrap_err(),
        store.keep_for_deletion(device(60), 1, 1).map(|_| ()).unwrap_err(),
    ];
    assert!(errors.iter().all(|error| error.kind() == ErrorKind::ReadOnly));
    assert_eq!(disk.take_steps(), [""; 0]);
    // Nor does it need a folder.
    assert_eq!(MemoryDisk::default().open(Mode::ReadOnly).0.layers().len(), 0);
}

#[test]
fn two_records_of_one_device_are_kept_and_neither_deletes_it() {
    let disk = docker_root(DOCKER_OPEN);
    disk.plant("metadata/twin", rec(18, 9).as_bytes());
    let (store, findings) = disk.open(Mode::ReadWrite);
    let layers = vec![id("L"), id("twin")];
    assert_eq!(findings, [Finding::DuplicateDeviceId { device_id: device(18), layers }]);
    assert_eq!(store.recovery(24), Recovery::Clean);
    for layer in ["L", "twin"] {
        let error = store.deletable(&id(layer)).unwrap_err();
        assert!(matches!(error, Error::DeviceTaken { .. }), "{error}");
        let operation = Operation::delete(id(layer), device(18));
        assert_eq!(store.begin(&[operation]).map(|_| ()).unwrap_err().kind(), ErrorKind::Damaged);
    }
    assert!(store.deletable(&LayerId::base()).is_ok());
    assert!(store.is_named_by_other(&id("L"), device(18)));
    // Once one record is gone, the other owns the device, which was in use all the time.
    store.remove(&id("twin")).unwrap();
    assert!(!store.reserve(device(18)));
    assert!(store.deletable(&id("L")).is_ok());
}

#[test]
fn a_damaged_device_set_is_set_aside() {
    let disk = docker_root(DOCKER_OPEN);
    disk.plant("metadata/deviceset-metadata", b"{");
    let (store, findings) = disk.open(Mode::ReadWrite);
    let [Finding::DamagedDeviceSet { now_at, .. }] = &findings[..] else { panic!("{findings:?}") };
    assert_eq!(now_at, path("thinlayer/quarantine/deviceset-metadata.1"));
    assert_eq!(store.device_set(), DeviceSet::default());
    assert_eq!(disk.open(Mode::ReadWrite).1, []);
}

#[test]
fn dockers_old_file_becomes_records() {
    let disk = docker_root(DOCKER_OPEN);
    let old = format!(
        r#"{{"devices":{{"":{{"device_id":0,"size":5}},"a":{},"L":{},"bad":null,"x/y":{}}}}}"#,
        r#"{"device_id":2,"size":6,"transaction_id":3,"initialized":false}"#,
        rec(44, 2),
        rec(45, 2),
    );
    disk.plant("devicemapper/json", old.as_bytes());
    let (store, findings) = disk.open(Mode::ReadWrite);
    let kinds: Vec<bool> = findings.iter().map(Finding::is_problem).collect();
    assert_eq!(kinds, [true, true, false], "{findings:?}");
    assert_eq!(findings[2], Finding::Migrated { records: 3 });
    assert_eq!(store.record(&LayerId::base()).unwrap().size_bytes, 5);
    assert_eq!(disk.text("metadata/a").unwrap(), Record::new(device(2), 6, 3).to_json());
    assert_eq!(store.record(&id("L")).unwrap().device_id, device(44), "the old file wins, as in Docker");
    assert_eq!(store.lookup(&id("bad")).unwrap_err().kind(), ErrorKind::Damaged);
    assert_eq!(disk.names("devicemapper"), ["json.migrated"]);
    assert_eq!(disk.names("thinlayer/quarantine"), [".legacy-record.1", "bad.1"]);
    assert_eq!(disk.open(Mode::ReadWrite).1, []);
}

#[test]
fn a_damaged_old_file_stops_the_start() {
    for old in ["", "{\"Devices\":7}", "{\"Devices\":{"] {
        let disk = MemoryDisk::with(&[("devicemapper/json", old)]);
        let error = Store::open(Arc::new(disk.clone()), Mode::ReadWrite).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged);
        assert!(error.to_string().contains("devicemapper/json"), "{error}");
        assert_eq!(disk.text("devicemapper/json").unwrap(), old);
    }
}

#[test]
fn removed_layers_give_their_id_back_at_the_start() {
    let disk = docker_root(DOCKER_OPEN);
    disk.plant("metadata/dead", marked(30).as_bytes());
    let (store, findings) = disk.open(Mode::ReadWrite);
    let [Finding::RenamedDeleted { from, to }] = &findings[..] else { panic!("{findings:?}") };
    assert_eq!((from, to.is_opaque()), (&id("dead"), true));
    assert_eq!(store.pending_deletion().len(), 1);
    assert_eq!(store.record_even_deleted(&id("dead")), None);
    assert!(!store.reserve(device(30)), "its device is still there");
    assert_eq!(disk.open(Mode::ReadWrite).1, [], "a second start leaves it");
}

/// What the open transaction names must be found under its name by the recovery.
#[test]
fn a_removed_layer_under_way_keeps_its_name_for_the_recovery() {
    let disk = docker_root(DOCKER_OPEN);
    disk.plant("metadata/L", marked(18).as_bytes());
    let store = disk.open(Mode::ReadWrite).0;
    let Recovery::Open(pending) = store.recovery(23) else { panic!() };
    assert!(pending[0].record.as_ref().is_some_and(|record| record.deleted));
    let to = store.retire(&id("L")).unwrap();
    assert!(to.is_opaque());
    store.finish_recovery(23).unwrap();
    // Had the crash come before that: the device belongs to the new name.
    assert!(store.is_named_by_other(&id("L"), device(18)));
}

#[test]
fn hidden_and_removed_records_are_counted_apart() {
    let disk = MemoryDisk::default();
    let store = disk.store(0);
    let child_of = |parent: &LayerId, hidden| {
        let extra = crate::Extra { parent: Some(parent.clone()), hidden, ..crate::Extra::default() };
        Some(extra)
    };
    store.put(&LayerId::base(), &record(1, 1)).unwrap();
    store.put(&id("a"), &Record { extra: child_of(&LayerId::base(), false), ..record(2, 2) }).unwrap();
    store.put(&id("b"), &Record { extra: child_of(&id("a"), false), ..record(3, 3) }).unwrap();
    store.put(&id("h"), &Record { extra: child_of(&LayerId::base(), true), ..record(4, 4) }).unwrap();
    assert_eq!(store.children_of(&LayerId::base()), [id("a"), id("h")]);
    assert_eq!(store.children_of(&id("a")), [id("b")]);
    store.retire(&id("b")).unwrap();
    assert_eq!(store.children_of(&id("a")), []);
    store.put(&id("h"), &record(4, 4)).unwrap();
    assert_eq!(store.children_of(&LayerId::base()), [id("a")], "an unknown parent is nobody");
    assert_eq!(store.counts(), Counts { layers: 2, hidden: 0, deleted: 1, damaged: 0 });
}

#[test]
fn thin_ids_are_proposed_reserved_and_released() {
    let disk = docker_root(DOCKER_OPEN);
    disk.plant("metadata/six", rec(6, 2).as_bytes());
    let store = disk.open(Mode::ReadWrite).0;
    assert_eq!(store.propose_device_id().unwrap(), device(7), "after the last one, past the used one");
    store.mark_taken(device(8));
    assert_eq!(store.propose_device_id().unwrap(), device(9));
    assert!(!store.reserve(device(9)) && store.reserve(device(11)));
    store.release(device(9));
    store.release(device(6));
    assert!(!store.reserve(device(6)), "a record's id is not released");
    assert!(store.reserve(device(9)));
    assert_eq!(store.device_set().next_device_id, device(9));
}

#[test]
fn reads_do_not_wait_for_a_write() {
    #[derive(Debug)]
    struct Slow(MemoryDisk, std::sync::Barrier, std::sync::Barrier);
    impl Disk for Slow {
        fn read(&self, path: &std::path::Path) -> io::Result<Vec<u8>> {
            self.0.read(path)
        }
        fn list(&self, folder: &std::path::Path) -> io::Result<Vec<crate::Entry>> {
            self.0.list(folder)
        }
        fn make_folder(&self, folder: &std::path::Path) -> io::Result<()> {
            self.0.make_folder(folder)
        }
        fn write(&self, path: &std::path::Path, content: &[u8]) -> io::Result<()> {
            self.0.write(path, content)
        }
        fn overwrite(&self, path: &std::path::Path, content: &[u8]) -> io::Result<()> {
            self.1.wait();
            self.2.wait();
            self.0.overwrite(path, content)
        }
        fn sync_file(&self, path: &std::path::Path) -> io::Result<()> {
            self.0.sync_file(path)
        }
        fn sync_folder(&self, folder: &std::path::Path) -> io::Result<()> {
            self.0.sync_folder(folder)
        }
        fn rename(&self, from: &std::path::Path, to: &std::path::Path) -> io::Result<()> {
            self.0.rename(from, to)
        }
        fn remove(&self, path: &std::path::Path) -> io::Result<()> {
            self.0.remove(path)
        }
    }
    let slow =
        Arc::new(Slow(docker_root(DOCKER_OPEN), std::sync::Barrier::new(2), std::sync::Barrier::new(2)));
    let store = Store::open(Arc::clone(&slow) as Arc<dyn Disk>, Mode::ReadWrite).unwrap().0;
    assert_eq!(store.recovery(24), Recovery::Clean);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let operation = Operation { kind: OperationKind::Delete, layer: id("L"), device_id: device(18) };
            store.begin(&[operation]).map(|transaction| transaction.id())
        });
        slow.1.wait();
        // The intent is on its way to the disk, for as long as this thread likes.
        assert_eq!(store.layers().len(), 2);
        assert!(store.record(&id("L")).is_some());
        assert!(store.propose_device_id().is_ok());
        slow.2.wait();
        assert_eq!(writer.join().unwrap().unwrap(), 25);
    });
}
