use super::*;
use crate::testing::{MemoryDisk, Unsynced, at_every_step, device, id, path, record};
use crate::{Disk, Extra, Finding, Recovery};
use proptest::prelude::*;

fn with_extra(number: u32) -> Record {
    Record { extra: Some(Extra { parent: Some(LayerId::base()), ..Extra::default() }), ..record(number, 1) }
}

/// A root of ours with layer `a` on device 5.
fn root() -> MemoryDisk {
    let disk = MemoryDisk::default();
    let store = disk.store(0);
    store.put(&id("a"), &with_extra(5)).unwrap();
    disk.take_steps();
    disk
}

/// What design.md allows.
#[test]
fn each_operation_costs_what_it_may() {
    let disk = root();
    let store = disk.store(0);
    disk.take_steps();
    let transaction = store.begin(&[Operation::create(id("b"), device(6))]).unwrap();
    assert_eq!(disk.take_steps(), ["overwrite"]);
    store.put(&id("b"), &record(6, transaction.id())).unwrap();
    assert_eq!(disk.take_steps(), ["write", "sync_file", "rename", "sync_folder"]);
    store.close(transaction);
    let transaction = store.begin(&[Operation::delete(id("b"), device(6))]).unwrap();
    assert_eq!(disk.take_steps(), ["overwrite"]);
    store.remove(&id("b")).unwrap();
    assert_eq!(disk.take_steps(), ["remove", "sync_folder"]);
    store.close(transaction);
    store.retire(&id("a")).unwrap();
    assert_eq!(disk.take_steps(), ["overwrite", "rename"]);
}

#[test]
fn a_transaction_lives_from_begin_to_close() {
    let disk = root();
    let store = disk.store(0);
    let create = [Operation::create(id("b"), device(6))];
    let transaction = store.begin(&create).unwrap();
    assert_eq!((transaction.pool_id(), transaction.id(), transaction.operations()), (0, 1, &create[..]));
    assert!(matches!(store.begin(&create), Err(Error::TransactionOpen { open: 1 })));
    store.close(transaction);
    assert_eq!(store.pool_transaction_id(), Some(1));
    // Given up: the next one has the same id, and until then the recovery knows.
    drop(store.begin(&create).unwrap());
    assert!(matches!(store.recovery(1), Recovery::Open(pending) if pending.len() == 1));
    assert_eq!(store.recovery(2), Recovery::Clean, "or it had reached the pool after all");
    assert_eq!(store.begin(&create).unwrap().id(), 3);
    assert_eq!(disk.text("metadata/transaction-metadata").unwrap().len(), 4096);
}

#[test]
fn operations_must_agree_with_the_records() {
    let store = root().store(0);
    let of = |operations: &[Operation]| store.begin(operations).map(|_| ()).unwrap_err();
    let (create, delete) = (Operation::create, Operation::delete);
    assert!(matches!(of(&[]), Error::EmptyTransaction));
    assert!(matches!(of(&[create(id("a"), device(9))]), Error::Exists { .. }));
    assert!(matches!(of(&[create(id("b"), device(5))]), Error::DeviceTaken { .. }));
    assert!(matches!(of(&[delete(id("a"), device(9))]), Error::OtherDevice { .. }));
    assert!(matches!(of(&[delete(id("b"), device(5))]), Error::DeviceTaken { .. }));
    assert!(matches!(of(&[create(id("b"), device(7)), create(id("b"), device(8))]), Error::Exists { .. }));
    assert!(matches!(
        of(&[create(id("b"), device(7)), create(id("c"), device(7))]),
        Error::DeviceTaken { .. }
    ));
    let many: Vec<Operation> = (10..20).map(|n| create(id(&format!("{n:064}")), device(n))).collect();
    assert_eq!(of(&many).kind(), ErrorKind::TooLong);
    assert!(store.begin(&[delete(id("a"), device(5)), create(id("b"), device(7))]).is_ok());
    assert!(store.begin(&[delete(id("orphan"), device(77))]).is_ok(), "a device without a record can go");
}

#[test]
fn a_device_has_one_record() {
    let store = root().store(0);
    assert!(matches!(store.put(&id("b"), &record(5, 1)), Err(Error::DeviceTaken { .. })));
    store.put(&id("a"), &Record { size_bytes: 1, ..with_extra(5) }).unwrap();
    assert_eq!(store.record(&id("a")).unwrap().size_bytes, 1);
    store.put(&id("a"), &record(6, 1)).unwrap();
    assert!(store.reserve(device(5)), "the old device's id is free");
}

/// C12: the id of a removed layer is free at once, whether its device is gone or not.
#[test]
fn a_removed_id_can_be_made_again() {
    let disk = root();
    let store = disk.store(0);
    let gone = store.retire(&id("a")).unwrap();
    assert!(gone.is_opaque());
    assert_eq!((store.record(&id("a")), store.record(&gone)), (None, None));
    let kept = store.record_even_deleted(&gone).unwrap();
    assert_eq!((kept.deleted, kept.device_id, &kept.extra), (true, device(5), &with_extra(5).extra));
    let transaction = store.begin(&[Operation::create(id("a"), device(6))]).unwrap();
    store.put(&id("a"), &record(6, transaction.id())).unwrap();
    assert_eq!(store.counts().deleted, 1);
    assert!(disk.text(&format!("metadata/{gone}")).unwrap().contains(r#""deleted": true"#));
    assert!(matches!(store.retire(&id("nobody")), Err(Error::NotFound { .. })));
    assert!(store.retire(&gone).unwrap().is_opaque(), "a second time is no error");
}

#[test]
fn a_record_marked_by_docker_under_its_own_id_makes_way() {
    let marked = Record { deleted: true, ..record(5, 1) }.to_json();
    let text = r#"{"open_transaction_id":9,"device_hash":"a","device_id":5}"#;
    let disk = MemoryDisk::with(&[("metadata/a", &marked), ("metadata/transaction-metadata", text)]);
    let store = disk.store(9);
    assert!(store.record_even_deleted(&id("a")).is_some(), "the transaction named it, so it kept its name");
    store.put(&id("a"), &record(6, 10)).unwrap();
    assert_eq!(store.pending_deletion()[0].1.device_id, device(5));
    assert_eq!(store.record(&id("a")).unwrap().device_id, device(6));
}

/// I13: on a full disk layers can be removed.
#[test]
fn a_full_disk_refuses_records_but_not_removals() {
    let disk = root();
    let store = disk.store(0);
    disk.set_full(true);
    for result in [store.put(&id("b"), &record(6, 1)), store.save_device_set(&DeviceSet::default())] {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        assert!(error.to_string().contains("metadata/"), "{error}");
    }
    assert!(store.record(&id("b")).is_none());
    assert_eq!(disk.names("metadata"), ["a", "transaction-metadata"], "no temporary file is left");
    let gone = store.retire(&id("a")).unwrap();
    let transaction = store.begin(&[Operation::delete(gone.clone(), device(5))]).unwrap();
    store.remove(&gone).unwrap();
    store.close(transaction);
    assert_eq!(disk.names("metadata"), ["transaction-metadata"]);
}

/// A new name may need a new block of the folder.
#[test]
fn a_removed_layer_keeps_its_name_while_there_is_no_room_for_another() {
    let disk = root();
    let store = disk.store(0);
    disk.break_call("rename", io::ErrorKind::StorageFull);
    assert_eq!(store.retire(&id("a")).unwrap(), id("a"));
    assert_eq!((store.record(&id("a")), store.counts().deleted), (None, 1));
    assert_eq!(store.put(&id("a"), &record(6, 1)).unwrap_err().kind(), ErrorKind::NoSpace);
    disk.mend();
    store.put(&id("a"), &record(6, 1)).unwrap();
    assert_eq!((store.counts().deleted, store.counts().layers), (1, 1));
}

#[test]
fn a_full_disk_lets_old_records_be_marked_in_their_place() {
    // As Docker's old versions wrote them, and by hand.
    let with_false = r#"{"device_id":7,"size":10737418240,"transaction_id":3,"initialized":false}"#;
    let spaced = r#"{ "device_id": 7, "size": 10737418240, "transaction_id": 3, "deleted" : false }"#;
    for text in [with_false, spaced] {
        let disk = MemoryDisk::with(&[("metadata/old", text)]);
        let store = disk.store(0);
        disk.set_full(true);
        let gone = store.retire(&id("old")).unwrap();
        let marked = Record::parse(disk.text(&format!("metadata/{gone}")).unwrap().as_bytes()).unwrap();
        assert_eq!(marked, Record { deleted: true, ..record(7, 3) });
    }
    // Too short for it: an error, and nothing has changed.
    let disk = MemoryDisk::with(&[("metadata/old", r#"{"device_id":7}"#)]);
    let store = disk.store(0);
    disk.set_full(true);
    assert_eq!(store.retire(&id("old")).unwrap_err().kind(), ErrorKind::NoSpace);
    assert!(store.record(&id("old")).is_some());
    disk.set_full(false);
    assert!(store.retire(&id("old")).is_ok());
}

#[test]
fn a_long_record_is_marked_within_its_first_sector() {
    let labels = (0..40).map(|n| (format!("label-{n}"), "\"deleted\":false".to_owned())).collect();
    let long = Record { extra: Some(Extra { labels, ..Extra::default() }), ..record(7, 1) };
    let disk = MemoryDisk::default();
    let store = disk.store(0);
    store.put(&id("long"), &long).unwrap();
    disk.set_full(true);
    let gone = store.retire(&id("long")).unwrap();
    let text = disk.text(&format!("metadata/{gone}")).unwrap();
    assert_eq!(Record::parse(text.as_bytes()).unwrap(), Record { deleted: true, ..long });
}

#[test]
fn a_full_disk_at_the_start_is_reported_and_mended_later() {
    let disk = MemoryDisk::with(&[("metadata/a", &record(5, 1).to_json())]);
    disk.set_full(true);
    let (store, findings) = disk.open(Mode::ReadWrite);
    assert_eq!(findings, [Finding::TransactionNotPreallocated]);
    assert_eq!(store.recovery(0), Recovery::Clean);
    let delete = [Operation::delete(id("a"), device(5))];
    assert_eq!(store.begin(&delete).map(|_| ()).unwrap_err().kind(), ErrorKind::NoSpace);
    disk.set_full(false);
    assert!(store.begin(&delete).is_ok());
    disk.set_full(true);
    assert!(store.begin(&delete).is_ok(), "from then on it has its room");
}

#[test]
fn a_failed_write_leaves_what_was_and_can_be_repeated() {
    let calls = ["write", "sync_file", "rename"];
    for call in calls {
        let disk = root();
        let store = disk.store(0);
        disk.break_call(call, io::ErrorKind::Other);
        let error = store.put(&id("a"), &record(5, 9)).unwrap_err();
        assert_eq!((error.kind(), store.record(&id("a")).unwrap().transaction_id), (ErrorKind::Io, 1));
        disk.mend();
        assert_eq!(disk.names("metadata"), ["a", "transaction-metadata"], "{call}");
        store.put(&id("a"), &record(5, 9)).unwrap();
    }
    let disk = root();
    let store = disk.store(0);
    disk.break_call("sync_folder", io::ErrorKind::Other);
    // The record is there, and memory says so; the caller knows that it may not last.
    assert!(store.put(&id("b"), &record(6, 1)).is_err());
    assert!(store.record(&id("b")).is_some());
    assert!(store.remove(&id("b")).is_err());
    assert!(store.record(&id("b")).is_none());
    disk.mend();
    store.remove(&id("b")).unwrap();
    disk.break_call("overwrite", io::ErrorKind::Other);
    assert!(store.begin(&[Operation::create(id("b"), device(6))]).is_err());
    disk.mend();
    assert!(store.begin(&[Operation::create(id("b"), device(6))]).is_ok());
}

#[test]
fn the_device_set_is_written_as_docker_writes_it() {
    let disk = root();
    let store = disk.store(0);
    store.propose_device_id().unwrap();
    let set = DeviceSet { base_uuid: "u".into(), base_filesystem: "ext4".into(), ..DeviceSet::default() };
    store.save_device_set(&set).unwrap();
    assert_eq!(
        disk.text("metadata/deviceset-metadata").unwrap(),
        r#"{"next_device_id":1,"BaseDeviceUUID":"u","BaseDeviceFilesystem":"ext4"}"#
    );
    assert_eq!(store.device_set().base_uuid, "u");
}

#[test]
fn a_device_without_record_gets_one_for_its_deletion() {
    let disk = root();
    let store = disk.store(0);
    let layer = store.keep_for_deletion(device(9), 4096, 3).unwrap();
    assert_eq!(
        *store.record_even_deleted(&layer).unwrap(),
        Record { deleted: true, ..Record::new(device(9), 4096, 3) }
    );
    assert!(store.keep_for_deletion(device(5), 1, 1).is_err(), "that one has a record");
}

fn reopened(disk: &MemoryDisk) -> (Store, Vec<Finding>) {
    let (store, findings) = disk.open(Mode::ReadWrite);
    assert!(!findings.iter().any(Finding::is_problem), "{findings:?}");
    assert!(!disk.names("metadata").iter().any(|name| name.starts_with(".tmp")));
    (store, findings)
}

#[test]
fn a_crash_in_put_leaves_the_record_before_or_after() {
    let (old, new) = (with_extra(5), Record { size_bytes: 1 << 40, ..with_extra(5) });
    let put = |store: &Store| store.put(&id("a"), &new).is_ok();
    let steps = at_every_step(
        root,
        |disk| stopped(disk, put),
        |image, answered| {
            let found = reopened(image).0.record(&id("a")).unwrap();
            assert!(*found == new || (*found == old && !answered), "{answered} {found:?}");
        },
    );
    assert!(steps >= 4);
    let put = |store: &Store| store.put(&id("b"), &record(6, 1)).is_ok();
    at_every_step(
        root,
        |disk| stopped(disk, put),
        |image, answered| {
            assert!(reopened(image).0.record(&id("b")).is_some() || !answered);
        },
    );
}

/// Opening fails when the machine is off already.
fn stopped(disk: &MemoryDisk, act: impl Fn(&Store) -> bool) -> bool {
    Store::open(Arc::new(disk.clone()), Mode::ReadWrite).is_ok_and(|(store, _)| act(&store))
}

#[test]
fn a_crash_in_remove_leaves_the_record_or_nothing() {
    let remove = |store: &Store| store.remove(&id("a")).is_ok();
    at_every_step(
        root,
        |disk| stopped(disk, remove),
        |image, answered| {
            let found = reopened(image).0.record(&id("a"));
            assert!(found.is_none() || (!answered && *found.unwrap() == with_extra(5)));
        },
    );
}

/// Never both names, never none, never a layer under a name that nobody gave it.
fn retired(image: &MemoryDisk, answered: bool) {
    let store = reopened(image).0;
    let (live, dead) = (store.layers(), store.pending_deletion());
    assert_eq!(live.len() + dead.len(), 1, "{live:?} {dead:?}");
    if let Some((layer, record)) = live.first() {
        assert!(!answered && *layer == id("a") && record.device_id == device(5));
    }
    for (layer, record) in &dead {
        assert!(layer.is_opaque() && record.device_id == device(5));
    }
    assert!(!store.reserve(device(5)), "its device is never free");
}

#[test]
fn a_crash_in_retire_leaves_the_layer_or_a_removed_one() {
    let retire = |store: &Store| store.retire(&id("a")).is_ok();
    at_every_step(root, |disk| stopped(disk, retire), retired);
    // The same for a record that cannot be marked in its place.
    let old = || {
        let disk = root();
        disk.plant("metadata/a", br#"{"device_id":5,"size":1}"#);
        disk
    };
    let steps = at_every_step(old, |disk| stopped(disk, retire), retired);
    assert!(steps >= 7, "{steps}");
}

/// What the caller of a removal waits for: the mark. The new name is made durable by whoever builds on it.
#[test]
fn a_removed_layer_costs_one_durable_write() {
    let disk = root();
    let store = disk.store(0);
    disk.take_steps();
    let gone = store.retire(&id("a")).unwrap();
    assert_eq!(disk.take_steps(), ["overwrite", "rename"]);
    // Another layer is none of its business; its own sync covers the name.
    store.put(&id("b"), &record(6, 1)).unwrap();
    assert_eq!(disk.take_steps(), ["write", "sync_file", "rename", "sync_folder"]);
    let transaction = store.begin(&[Operation::delete(gone.clone(), device(5))]).unwrap();
    assert_eq!(disk.take_steps(), ["overwrite"]);
    store.remove(&gone).unwrap();
    store.close(transaction);
    disk.take_steps();
    // Who takes the id, or deletes what moved on, waits for the name.
    let gone = store.retire(&id("b")).unwrap();
    disk.take_steps();
    let transaction = store.begin(&[Operation::delete(gone.clone(), device(6))]).unwrap();
    assert_eq!(disk.take_steps(), ["sync_folder", "overwrite"]);
    store.remove(&gone).unwrap();
    store.close(transaction);
    store.put(&id("b"), &record(7, 1)).unwrap();
    store.retire(&id("b")).unwrap();
    disk.take_steps();
    store.put(&id("b"), &record(8, 1)).unwrap();
    assert_eq!(disk.take_steps(), ["sync_folder", "write", "sync_file", "rename", "sync_folder"]);
}

#[test]
fn a_crash_behind_retire_leaves_the_removed_layer_whatever_comes_next() {
    // The id is taken again, in a transaction or without one.
    for begins in [true, false] {
        let again = |store: &Store| {
            store.retire(&id("a")).is_ok()
                && (!begins || store.begin(&[Operation::create(id("a"), device(6))]).is_ok())
                && store.put(&id("a"), &record(6, 1)).is_ok()
        };
        let steps = at_every_step(
            root,
            |disk| stopped(disk, |store| store.recovery(0) == Recovery::Clean && again(store)),
            |image, answered| {
                let store = reopened(image).0;
                assert!(!store.reserve(device(5)), "the removed layer's device is lost");
                let live = store.record(&id("a"));
                assert!(live.is_none_or(|live| live.device_id == device(6) || !answered));
                assert!(!answered || store.counts().deleted == 1);
            },
        );
        assert!(steps >= 7, "{steps}");
    }
    // Its device is deleted. The pool has deleted it once `remove` begins, so from there on the record may be gone.
    let begun = std::cell::Cell::new(false);
    let steps = at_every_step(
        root,
        |disk| {
            begun.set(false);
            stopped(disk, |store| {
                let Ok(gone) = store.retire(&id("a")) else { return false };
                let recovered = store.recovery(0) == Recovery::Clean;
                begun.set(recovered && store.begin(&[Operation::delete(gone.clone(), device(5))]).is_ok());
                begun.get() && store.remove(&gone).is_ok()
            })
        },
        |image, answered| {
            let store = reopened(image).0;
            let left = store.pending_deletion();
            assert!(begun.get() || !store.reserve(device(5)), "a device without record");
            assert!(!answered || (left.is_empty() && store.layers().is_empty()), "{left:?}");
            if begun.get() {
                assert!(store.layers().is_empty() && left.len() <= 1, "the layer is back: {left:?}");
                // The intent names the record as it stands.
                assert!(left.iter().all(|(layer, _)| layer.is_opaque()));
                let Recovery::Open(pending) = store.recovery(0) else { panic!("no intent") };
                assert_eq!(pending[0].record.is_some(), left.len() == 1);
            }
        },
    );
    assert!(steps >= 5, "{steps}");
}

#[test]
fn a_crash_in_begin_leaves_the_last_intent_or_this_one() {
    let make = || {
        let disk = root();
        let store = disk.store(0);
        store.close(store.begin(&[Operation::create(id("b"), device(6))]).unwrap());
        disk
    };
    let next = [Operation::delete(id("a"), device(5)), Operation::create(id("c"), device(7))];
    let begin = |store: &Store| store.recovery(1) == Recovery::Clean && store.begin(&next).is_ok();
    at_every_step(
        make,
        |disk| stopped(disk, begin),
        |image, answered| match reopened(image).0.recovery(1) {
            Recovery::Clean => assert!(!answered),
            Recovery::Open(pending) => {
                let layers: Vec<&LayerId> = pending.iter().map(|pending| &pending.layer).collect();
                assert_eq!(layers, [&id("a"), &id("c")]);
            }
            other => panic!("{other:?}"),
        },
    );
}

/// The first start after Docker: the short transaction file becomes long without ever being unreadable.
#[test]
fn a_crash_while_opening_a_docker_root_loses_nothing() {
    let marked = Record { deleted: true, ..record(8, 1) }.to_json();
    let make = || {
        MemoryDisk::with(&[
            ("metadata/a", &record(5, 1).to_json()),
            ("metadata/dead", &marked),
            ("metadata/bad", "{"),
            ("metadata/transaction-metadata", r#"{"open_transaction_id":4,"device_hash":"a","device_id":5}"#),
            ("devicemapper/json", r#"{"Devices":{"old":{"device_id":9},"older":{"device_id":10}}}"#),
        ])
    };
    let open = |disk: &MemoryDisk| Store::open(Arc::new(disk.clone()), Mode::ReadWrite).is_ok();
    let steps = at_every_step(make, open, |image, _| {
        let store = image.open(Mode::ReadWrite).0;
        let layers: Vec<LayerId> = store.layers().into_iter().map(|(layer, _)| layer).collect();
        assert_eq!(layers, [id("a"), id("old"), id("older")]);
        let dead = store.pending_deletion();
        assert!(dead.len() == 1 && dead[0].0.is_opaque() && dead[0].1.device_id == device(8));
        assert_eq!(store.lookup(&id("bad")).unwrap_err().kind(), ErrorKind::Damaged);
        assert!(image.read(&store.damaged()[0].1).is_ok(), "the damaged record is somewhere");
        assert!(matches!(store.recovery(3), Recovery::Open(pending) if pending[0].layer == id("a")));
        assert!(image.read(path("devicemapper/json")).is_err());
    });
    assert!(steps > 20, "{steps}");
}

#[test]
fn a_crash_while_a_recovery_finishes_means_another_one() {
    let make = || {
        let disk = root();
        disk.plant("metadata/transaction-metadata", b"garbage");
        disk.plant("metadata/young", record(6, 1).to_json().as_bytes());
        disk
    };
    let finish = |disk: &MemoryDisk| {
        let Ok((store, _)) = Store::open(Arc::new(disk.clone()), Mode::ReadWrite) else { return false };
        store.remove(&id("young")).is_ok() && store.finish_recovery(0).is_ok()
    };
    at_every_step(make, finish, |image, answered| {
        let store = image.open(Mode::ReadWrite).0;
        match store.recovery(0) {
            // `a` was made in transaction 1 too, so it is in question as well.
            Recovery::Open(pending) => assert!(!answered && !pending.is_empty()),
            Recovery::Clean => assert!(store.record(&id("young")).is_none()),
            other => panic!("{other:?}"),
        }
    });
}

#[derive(Clone, Debug)]
enum Act {
    Put(u8, u64),
    Remove(u8),
    Retire(u8),
    Reopen,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0u8..4, 1u64..9).prop_map(|(layer, size)| Act::Put(layer, size)),
        1 => (0u8..4).prop_map(Act::Remove),
        2 => (0u8..4).prop_map(Act::Retire),
        1 => Just(Act::Reopen),
    ]
}

/// What must be there: sizes by layer, and how many removed records.
type Model = (std::collections::BTreeMap<u8, u64>, usize);

fn after(act: &Act, (live, dead): &Model) -> Model {
    let (mut live, mut dead) = (live.clone(), *dead);
    match act {
        Act::Put(layer, size) => {
            live.insert(*layer, *size);
        }
        Act::Remove(layer) => {
            live.remove(layer);
        }
        Act::Retire(layer) => dead += usize::from(live.remove(layer).is_some()),
        Act::Reopen => {}
    }
    (live, dead)
}

fn seen(store: &Store) -> Model {
    let number = |layer: &LayerId| layer.as_str().parse().unwrap();
    let live = store.layers().iter().map(|(layer, record)| (number(layer), record.size_bytes)).collect();
    (live, store.pending_deletion().len())
}

/// A device of its own for each record, as the ids are shared with removed ones.
fn perform(store: &Store, act: &Act) -> crate::Result<()> {
    match act {
        Act::Put(layer, size) => {
            let layer = id(&layer.to_string());
            let device_id = match store.record(&layer) {
                Some(record) => record.device_id,
                None => store.propose_device_id()?,
            };
            store.put(&layer, &Record::new(device_id, *size, 1))
        }
        Act::Remove(layer) => store.remove(&id(&layer.to_string())),
        Act::Retire(layer) => match store.retire(&id(&layer.to_string())) {
            Err(Error::NotFound { .. }) => Ok(()),
            other => other.map(|_| ()),
        },
        Act::Reopen => Ok(()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Any history, cut off at any step: what was answered is there, what was under way is done or not.
    #[test]
    fn any_history_survives_a_crash_at_any_step(acts in proptest::collection::vec(act(), 1..14), stop in 3usize..60, seed: u64) {
        let disk = MemoryDisk::default();
        let mut store = disk.open(Mode::ReadWrite).0;
        disk.stop_after(stop);
        let mut model = Model::default();
        let mut under_way = model.clone();
        for act in &acts {
            under_way = after(act, &model);
            if matches!(act, Act::Reopen) {
                let Ok((again, _)) = Store::open(Arc::new(disk.clone()), Mode::ReadWrite) else { break };
                store = again;
            }
            if perform(&store, act).is_err() {
                break;
            }
            model = under_way.clone();
            prop_assert_eq!(seen(&store), model.clone(), "in memory");
        }
        let (store, findings) = disk.image(Unsynced::Some(seed)).open(Mode::ReadWrite);
        let found = seen(&store);
        prop_assert!(found == model || found == under_way, "{:?} is neither {:?} nor {:?}", found, model, under_way);
        prop_assert!(!findings.iter().any(Finding::is_problem), "{findings:?}");
        let devices: std::collections::BTreeSet<_> =
            store.layers().iter().chain(&store.pending_deletion()).map(|(_, record)| record.device_id).collect();
        prop_assert_eq!(devices.len(), found.0.len() + found.1, "no device twice");
    }
}

#[test]
fn a_record_without_device_is_moved_away_and_its_id_is_free() {
    let disk = root();
    let store = disk.store(0);
    let text = disk.text("metadata/a").unwrap();
    let aside = store.set_aside_without_device(&id("a")).unwrap();
    assert_eq!(aside, path("thinlayer/quarantine/without-device/a.1"));
    assert_eq!(disk.text("thinlayer/quarantine/without-device/a.1").unwrap(), text);
    assert!(disk.text("metadata/a").is_none() && store.record_even_deleted(&id("a")).is_none());
    assert!(matches!(store.set_aside_without_device(&id("a")), Err(Error::NotFound { .. })));
    // Both ids are free, and what is there is not overwritten.
    store.put(&id("a"), &record(5, 1)).unwrap();
    assert_eq!(
        store.set_aside_without_device(&id("a")).unwrap(),
        path("thinlayer/quarantine/without-device/a.2")
    );
    assert_eq!(disk.text("thinlayer/quarantine/without-device/a.1").unwrap(), text);
    // It is no damaged record, at later starts neither.
    assert!(disk.store(0).damaged().is_empty());
    let (store, _) = disk.open(Mode::ReadOnly);
    assert!(matches!(store.set_aside_without_device(&id("a")), Err(Error::ReadOnly { .. })));
}

#[test]
fn a_record_without_device_is_lost_by_no_crash() {
    let steps = at_every_step(
        root,
        |disk| {
            // A store cannot even be opened on a disk that has stopped.
            let (store, _) = match Store::open(std::sync::Arc::new(disk.clone()), Mode::ReadWrite) {
                Ok(opened) => opened,
                Err(_) => return false,
            };
            store.set_aside_without_device(&id("a")).is_ok()
        },
        |disk, answered| {
            let here = disk.text("metadata/a").is_some();
            let aside = disk.text("thinlayer/quarantine/without-device/a.1").is_some();
            assert!(here || aside, "the record is nowhere");
            assert!(!answered || !here, "it came back");
        },
    );
    assert!(steps > 3);
}
