use super::*;
use crate::error::Kind;
use crate::scripted::{FakeWait, POOL, POOL_STATUS, POOL_TABLE, Scripted, name};
use crate::{BlockSize, Features};
use std::error::Error as _;
use std::time::Duration;

fn pool(dm: &Arc<Scripted>) -> Pool {
    let pool = Pool::open(Arc::<Scripted>::clone(dm), &name(POOL)).unwrap().unwrap();
    dm.calls();
    pool
}

fn id(number: u32) -> ThinId {
    ThinId::new(number).unwrap()
}

fn table() -> PoolTable {
    POOL_TABLE.parse().unwrap()
}

/// One line, with all of these in it, and a source where device-mapper spoke.
#[track_caller]
fn check(error: &Error, kind: Kind, words: &[&str]) {
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{text}");
    assert!(!text.contains('\n'), "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text}");
    }
    if error.device_mapper().is_some() {
        assert!(error.source().is_some(), "{text}");
    }
}

#[test]
fn a_pool_is_made_in_three_calls() {
    let dm = Arc::new(Scripted::default());
    let made = Pool::create(Arc::<Scripted>::clone(&dm), &name(POOL), &table(), Access::ReadWrite).unwrap();
    assert_eq!(
        dm.calls(),
        [
            "create tlt-pool",
            "load tlt-pool 204800 7:0 7:1 128 100 1 skip_block_zeroing ReadWrite",
            "resume tlt-pool freeze flush"
        ]
    );
    assert_eq!(made.number(), DeviceNumber { major: 253, minor: 0 });
    assert_eq!(made.table().unwrap(), table());
}

#[test]
fn a_failed_making_is_undone_and_the_first_error_kept() {
    for step in ["load", "resume"] {
        let dm = Arc::new(Scripted::default());
        dm.fail(step, Errno::EINVAL, 1);
        let error =
            Pool::create(Arc::<Scripted>::clone(&dm), &name(POOL), &table(), Access::ReadWrite).unwrap_err();
        check(&error, Kind::Invalid, &["create pool tlt-pool", POOL_TABLE, "log says why"]);
        let calls = dm.calls();
        assert_eq!(calls[calls.len() - 2..], ["remove tlt-pool Deferred", "forget tlt-pool"], "{step}");
        assert!(!dm.exists(POOL));
    }
}

#[test]
fn a_failed_undo_is_told_beside_the_first_error() {
    let dm = Arc::new(Scripted::default());
    dm.fail("load", Errno::ENODEV, 1);
    dm.fail("remove", Errno::EBUSY, 1);
    let error =
        Pool::create(Arc::<Scripted>::clone(&dm), &name(POOL), &table(), Access::ReadWrite).unwrap_err();
    assert!(matches!(error, Error::NotUndone { .. }), "{error:?}");
    check(&error, Kind::NotFound, &["refuses the table", "tlt-pool is left behind", "EBUSY"]);
    let first = error.source().unwrap().downcast_ref::<Box<Error>>();
    assert!(first.is_some_and(|first| matches!(**first, Error::TableRefused { .. })));
}

#[test]
fn a_taken_name_is_left_alone() {
    let dm = Scripted::with_pool();
    let error =
        Pool::create(Arc::<Scripted>::clone(&dm), &name(POOL), &table(), Access::ReadWrite).unwrap_err();
    check(&error, Kind::Exists, &["create pool tlt-pool", "exists already"]);
    assert_eq!(dm.calls(), ["create tlt-pool"]);
    assert!(dm.exists(POOL));
}

#[test]
fn only_a_pool_is_opened_as_one() {
    let dm = Scripted::with_pool();
    dm.add("tlt-linear", "0 8 linear 7:0 0");
    let open = |text| Pool::open(Arc::<Scripted>::clone(&dm), &name(text));
    assert!(open("tlt-nothing").unwrap().is_none());
    assert!(open(POOL).unwrap().is_some());
    check(&open("tlt-linear").unwrap_err(), Kind::Invalid, &["tlt-linear is no thin-pool device but linear"]);
    dm.create(&name("tlt-half"), None).unwrap();
    check(&open("tlt-half").unwrap_err(), Kind::Unfinished, &["tlt-half has no table", "make it again"]);
    assert!(Pool::remove_unfinished(&*dm, &name("tlt-half")).unwrap());
    assert!(!Pool::remove_unfinished(&*dm, &name("tlt-half")).unwrap());
    assert!(Pool::remove_unfinished(&*dm, &name(POOL)).is_err());
    assert!(dm.exists(POOL) && !dm.exists("tlt-half"));
}

#[test]
fn looks_do_not_make_the_kernel_commit() {
    let dm = Scripted::with_pool();
    let pool = pool(&dm);
    assert_eq!(pool.ensure_writable().unwrap().free_data(), DataBlocks(1590));
    assert_eq!(dm.calls(), ["status tlt-pool No"]);
    pool.status(Flush::Yes).unwrap();
    assert_eq!(dm.calls(), ["status tlt-pool Yes"]);
}

#[test]
fn messages_are_one_call_each() {
    let dm = Scripted::with_pool();
    let pool = pool(&dm);
    pool.create_thin(id(1)).unwrap();
    pool.create_snap(id(2), id(1)).unwrap();
    assert_eq!(pool.delete(id(2)).unwrap(), Deleted::Deleted);
    pool.set_transaction_id(TransactionId(5), TransactionId(6)).unwrap();
    pool.reserve_metadata_snap().unwrap();
    pool.release_metadata_snap().unwrap();
    assert_eq!(
        dm.calls(),
        [
            "message tlt-pool create_thin 1",
            "message tlt-pool create_snap 2 1",
            "message tlt-pool delete 2",
            "message tlt-pool set_transaction_id 5 6",
            "message tlt-pool reserve_metadata_snap",
            "message tlt-pool release_metadata_snap",
        ]
    );
}

#[test]
fn refusals_of_messages_have_their_own_words() {
    let dm = Scripted::with_pool();
    let pool = pool(&dm);
    let refused = |errno, what: &dyn Fn() -> Result<()>| {
        dm.fail("message", errno, 1);
        what().unwrap_err()
    };
    check(&refused(Errno::EEXIST, &|| pool.create_thin(id(7))), Kind::Exists, &["thin id 7", POOL]);
    check(&refused(Errno::EEXIST, &|| pool.create_snap(id(7), id(3))), Kind::Exists, &["thin id 7"]);
    check(&refused(Errno::ENODATA, &|| pool.create_snap(id(7), id(3))), Kind::NotFound, &["no thin id 3"]);
    check(&refused(Errno::EBUSY, &|| pool.reserve_metadata_snap()), Kind::Busy, &["snapshot already"]);
    check(
        &refused(Errno::EINVAL, &|| pool.release_metadata_snap()),
        Kind::Invalid,
        &["no metadata snapshot"],
    );
    let (from, to) = (TransactionId(8), TransactionId(9));
    let error = refused(Errno::EINVAL, &|| pool.set_transaction_id(from, to).map(drop));
    check(&error, Kind::Mismatch, &["transaction id of pool tlt-pool is 5 and not 8"]);
    check(&refused(Errno::ENXIO, &|| pool.create_thin(id(7))), Kind::NotFound, &["no such device"]);
    check(&refused(Errno::EPERM, &|| pool.create_thin(id(7))), Kind::Permission, &["EPERM"]);
    check(&refused(Errno::EOPNOTSUPP, &|| pool.create_thin(id(7))), Kind::Unsupported, &["kernel's log"]);
}

#[test]
fn a_refused_delete_names_who_holds_the_id() {
    let dm = Scripted::with_pool();
    let pool = pool(&dm);
    dm.add("tlt-other", "0 8 thin 253:9 7");
    dm.add("tlt-holder", "0 8 thin 253:0 7");
    dm.fail("message", Errno::EBUSY, 1);
    let error = pool.delete(id(7)).unwrap_err();
    check(&error, Kind::Busy, &["delete thin id 7 of tlt-pool", "tlt-holder"]);
    assert!(!error.to_string().contains("tlt-other"));
    dm.fail("message", Errno::ENODATA, 1);
    assert_eq!(pool.delete(id(7)).unwrap(), Deleted::WasAbsent);
}

#[test]
fn a_pool_that_takes_no_messages_says_why() {
    let tail = "discard_passdown queue_if_no_space";
    for (status, kind, word) in [
        (format!("5 40/1000 1/1600 - ro {tail} - 9"), Kind::ReadOnly, "read-only"),
        (format!("5 1000/1000 1/1600 - ro {tail} - 9"), Kind::NoSpace, "grow its metadata device"),
        (format!("5 40/1000 1/1600 - ro {tail} needs_check 9"), Kind::NeedsCheck, "thin_check"),
        ("Fail".into(), Kind::Failed, "take it down"),
    ] {
        let dm = Scripted::with_pool();
        let pool = pool(&dm);
        dm.says([status.as_str()]);
        dm.fail("message", Errno::EOPNOTSUPP, 2);
        check(&pool.create_snap(id(2), id(1)).unwrap_err(), kind, &[POOL, "thin id 2", word]);
        check(&pool.probe(id(2)).unwrap_err(), kind, &[word]);
        let error = pool.ensure_writable().unwrap_err();
        check(&error, kind, &[POOL, word]);
        if kind == Kind::NeedsCheck {
            check(&error, kind, &["thin_check", "thin_repair", "lvconvert --repair"]);
        }
    }
    let dm = Scripted::with_pool();
    let pool = pool(&dm);
    dm.says([format!("5 40/1000 1600/1600 - out_of_data_space {tail} - 9").as_str()]);
    // Messages need metadata only.
    pool.ensure_writable().unwrap();
}

#[test]
fn a_probe_is_one_message_that_cannot_succeed() {
    let dm = Scripted::with_pool();
    let pool = pool(&dm);
    dm.fail("message", Errno::ENODATA, 1);
    assert_eq!(pool.probe(id(9)).unwrap(), Probe::Free);
    dm.fail("message", Errno::EEXIST, 1);
    assert_eq!(pool.probe(id(9)).unwrap(), Probe::Taken);
    assert_eq!(dm.calls(), ["message tlt-pool create_snap 9 9"; 2]);
}

#[test]
fn growing_holds_io_back_without_waiting_for_it() {
    let dm = Scripted::with_pool();
    let pool = pool(&dm);
    dm.says([POOL_STATUS, "5 40/1000 10/3200 - rw discard_passdown queue_if_no_space - 250"]);
    let grown = pool.grow_data(Sectors(409_600)).unwrap();
    assert_eq!((grown.from, grown.to, grown.changed()), (DataBlocks(1600), DataBlocks(3200), true));
    let calls = dm.calls();
    assert_eq!(calls[2], "load tlt-pool 409600 7:0 7:1 128 100 1 skip_block_zeroing ReadWrite");
    assert_eq!(calls[3], "resume tlt-pool neither");
    let grown = pool.grow_data(Sectors(409_600)).unwrap();
    assert!(!grown.changed() && !dm.calls().iter().any(|call| call.starts_with("load")));
    check(&pool.grow_data(Sectors(204_800)).unwrap_err(), Kind::Invalid, &["cannot shrink"]);
    assert_eq!(dm.live(POOL), POOL_TABLE.replace("204800", "409600"));

    dm.says([
        "5 40/1000 10/3200 - rw discard_passdown queue_if_no_space - 250",
        "5 40/2000 10/3200 - rw discard_passdown queue_if_no_space - 250",
    ]);
    let grown = pool.grow_metadata().unwrap();
    assert_eq!((grown.from, grown.to), (MetaBlocks(1000), MetaBlocks(2000)));
}

#[test]
fn growth_that_the_kernel_passes_over_is_an_error() {
    let dm = Scripted::with_pool();
    let pool = pool(&dm);
    dm.says(["5 40/1000 10/1600 - ro discard_passdown queue_if_no_space needs_check 250"]);
    check(
        &pool.grow_data(Sectors(409_600)).unwrap_err(),
        Kind::NeedsCheck,
        &["grow the data of", "thin_repair"],
    );
    check(&pool.grow_metadata().unwrap_err(), Kind::NeedsCheck, &["grow the metadata of"]);
    dm.says(["Fail"]);
    check(&pool.grow_metadata().unwrap_err(), Kind::Failed, &["grow the metadata of"]);
}

#[test]
fn a_refused_table_leaves_the_old_one() {
    let longer = PoolTable { len: Sectors(409_600), ..table() };
    let dm = Scripted::with_pool();
    let pool = pool(&dm);

    dm.fail("load", Errno::EINVAL, 1);
    check(&pool.reload(&longer, GROWING).unwrap_err(), Kind::Invalid, &["reload pool tlt-pool", "409600"]);
    assert_eq!(dm.live(POOL), POOL_TABLE);

    // Refused before the device was suspended.
    dm.fail("resume", Errno::EINVAL, 1);
    check(&pool.reload(&longer, GROWING).unwrap_err(), Kind::Invalid, &["409600"]);
    assert_eq!(dm.calls().last().unwrap(), "clear tlt-pool");
    assert_eq!((dm.live(POOL).as_str(), dm.suspended(POOL)), (POOL_TABLE, false));

    // Refused after the new table was taken.
    dm.refuse_table(Errno::EINVAL);
    check(&pool.reload(&longer, GROWING).unwrap_err(), Kind::Invalid, &["409600"]);
    assert_eq!((dm.live(POOL).as_str(), dm.suspended(POOL)), (POOL_TABLE, false));

    // And the old one cannot be put back.
    dm.refuse_table(Errno::EINVAL);
    dm.fail("resume", Errno::EIO, 1);
    let error = pool.reload(&longer, GROWING).unwrap_err();
    check(&error, Kind::Suspended, &["dmsetup resume tlt-pool", "EIO", "409600", "EINVAL"]);
}

#[test]
fn what_no_reload_can_change_is_refused_before_it() {
    let dm = Scripted::with_pool();
    let pool = pool(&dm);
    assert_eq!(pool.check_compatible(&table()).unwrap(), []);
    let mut wanted = table();
    wanted.len = Sectors(409_600);
    wanted.low_water = DataBlocks(7);
    wanted.features = Features { error_if_no_space: true, ..wanted.features };
    let found = pool.check_compatible(&wanted).unwrap();
    assert_eq!(found.len(), 3);
    assert_eq!(found[0], Difference::Length { active: Sectors(204_800), wanted: Sectors(409_600) });
    assert_eq!(found[1], Difference::LowWater { active: DataBlocks(100), wanted: DataBlocks(7) });
    assert!(matches!(found[2], Difference::Features { .. }));
    dm.calls();

    let blocks = PoolTable { block_size: BlockSize::new(Sectors(256)).unwrap(), ..table() };
    for error in [pool.check_compatible(&blocks).unwrap_err(), pool.reload(&blocks, GROWING).unwrap_err()] {
        check(&error, Kind::Mismatch, &["64 KiB and not 128 KiB", "fixed when a pool is made"]);
    }
    let other = PoolTable { data: DeviceNumber { major: 7, minor: 5 }.into(), ..table() };
    check(&pool.reload(&other, GROWING).unwrap_err(), Kind::Mismatch, &["uses 7:1 for its data and not 7:5"]);
    let by_path = PoolTable { data: "/dev/loop1".parse().unwrap(), ..table() };
    assert_eq!(pool.check_compatible(&by_path).unwrap(), []);
    assert!(!dm.calls().iter().any(|call| call.starts_with("load")));
}

#[test]
fn a_pool_in_use_is_not_removed() {
    let dm = Scripted::with_pool();
    let pool = pool(&dm);
    dm.add("tlt-thin", "0 8 thin 253:0 1");
    dm.stands_on("tlt-thin", pool.number());
    dm.open_count(POOL, 1);
    dm.fail("remove", Errno::EBUSY, 1);
    let error = pool.remove(Patience::none()).unwrap_err();
    check(&error, Kind::Busy, &["remove pool tlt-pool: it is busy", "deactivate", "tlt-thin"]);
    assert_eq!(pool.remove(Patience::none()).unwrap(), Removed::Gone);
    assert_eq!(dm.calls().last().unwrap(), "forget tlt-pool");
}

#[test]
fn a_thin_device_is_activated_and_found() {
    let dm = Scripted::with_pool();
    let pool = pool(&dm);
    let device = pool.activate(&name("tlt-a"), id(7), Sectors(2048), Access::ReadOnly).unwrap();
    assert_eq!(
        dm.calls(),
        ["create tlt-a", "load tlt-a 2048 253:0 7 ReadOnly", "resume tlt-a freeze flush", "node tlt-a"]
    );
    assert_eq!(device.node(), std::path::Path::new("/dev/mapper/tlt-a"));
    assert_eq!(pool.device(&name("tlt-a")).unwrap(), Some(device));
    assert_eq!(pool.device(&name("tlt-b")).unwrap(), None);
    check(&pool.device(&name(POOL)).unwrap_err(), Kind::Invalid, &["no thin device but thin-pool"]);
    dm.add("tlt-c", "0 8 thin 253:99 7");
    check(&pool.device(&name("tlt-c")).unwrap_err(), Kind::Invalid, &["another pool (253:99)"]);
}

#[test]
fn a_failed_activation_is_undone() {
    for (step, errno, kind) in [
        ("load", Errno::ENODATA, Kind::NotFound),
        ("load", Errno::EINVAL, Kind::Invalid),
        ("resume", Errno::EIO, Kind::Other),
        ("node", Errno::EACCES, Kind::Permission),
    ] {
        let dm = Scripted::with_pool();
        let pool = pool(&dm);
        dm.fail(step, errno, 1);
        let error = pool.activate(&name("tlt-a"), id(7), Sectors(2048), Access::ReadWrite).unwrap_err();
        check(&error, kind, &[]);
        assert!(!dm.exists("tlt-a"), "{step}");
        assert!(dm.exists(POOL));
    }
    let dm = Scripted::with_pool();
    let pool = pool(&dm);
    dm.says(["Fail"]);
    dm.fail("load", Errno::EINVAL, 1);
    let error = pool.activate(&name("tlt-a"), id(7), Sectors(2048), Access::ReadWrite).unwrap_err();
    check(&error, Kind::Failed, &["activate tlt-a from pool tlt-pool"]);
}

#[test]
fn a_busy_device_is_tried_again_until_the_deadline() {
    let dm = Scripted::with_pool();
    let pool = pool(&dm);
    let device = pool.activate(&name("tlt-a"), id(7), Sectors(2048), Access::ReadWrite).unwrap();
    dm.open_count("tlt-a", 1);
    dm.fail("remove", Errno::EBUSY, 1000);
    let clock = FakeWait::default();
    let limit = Duration::from_secs(1);
    let error = pool.deactivate(&device, Removal::Now, Patience::new(limit, &clock)).unwrap_err();
    check(&error, Kind::Busy, &["deactivate tlt-a: it is busy after 1.0 s", "open 1 times", "unmount"]);
    let pauses = clock.pauses();
    assert_eq!(pauses.iter().sum::<Duration>(), limit, "no longer than asked for");
    assert!(pauses[0] < Duration::from_millis(10) && pauses.len() > 5, "{pauses:?}");

    let dm = Scripted::with_pool();
    let pool = self::pool(&dm);
    let device = pool.activate(&name("tlt-a"), id(7), Sectors(2048), Access::ReadWrite).unwrap();
    dm.fail("remove", Errno::EBUSY, 2);
    let clock = FakeWait::default();
    let removed = pool.deactivate(&device, Removal::Now, Patience::new(limit, &clock)).unwrap();
    assert_eq!((removed, clock.pauses().len()), (Removed::Gone, 2));
    let absent = pool.deactivate_by_name(&name("tlt-a"), Removal::Now, Patience::none()).unwrap();
    assert_eq!(absent, Removed::Absent);
}

#[test]
fn an_error_that_is_not_busy_is_not_tried_again() {
    let dm = Scripted::with_pool();
    let pool = pool(&dm);
    dm.add("tlt-a", "0 8 thin 253:0 7");
    dm.fail("remove", Errno::EIO, 2);
    let clock = FakeWait::default();
    let patience = Patience::new(Duration::from_secs(1), &clock);
    check(
        &pool.deactivate_by_name(&name("tlt-a"), Removal::Now, patience).unwrap_err(),
        Kind::Other,
        &["EIO"],
    );
    assert!(clock.pauses().is_empty());
}

#[test]
fn an_active_origin_is_resumed_whatever_happens() {
    let dm = Scripted::with_pool();
    let pool = pool(&dm);
    let device = pool.activate(&name("tlt-a"), id(7), Sectors(2048), Access::ReadWrite).unwrap();
    dm.calls();
    pool.snapshot_of_active(&device, id(8)).unwrap();
    let window =
        ["suspend tlt-a freeze flush", "message tlt-pool create_snap 8 7", "resume tlt-a freeze flush"];
    assert_eq!(dm.calls(), window, "nothing else happens while writers wait");

    dm.fail("message", Errno::EEXIST, 1);
    check(&pool.snapshot_of_active(&device, id(8)).unwrap_err(), Kind::Exists, &["thin id 8"]);
    assert_eq!(dm.calls(), window);
    assert!(!dm.suspended("tlt-a"));

    dm.fail("message", Errno::EOPNOTSUPP, 1);
    pool.snapshot_of_active(&device, id(8)).unwrap_err();
    let calls = dm.calls();
    assert_eq!(calls[..3], window, "the reason is looked for after the resume");
    assert_eq!(calls[3], "status tlt-pool No");

    dm.fail("suspend", Errno::EINTR, 1);
    check(&pool.snapshot_of_active(&device, id(8)).unwrap_err(), Kind::Other, &["suspend tlt-a"]);
    assert_eq!(dm.calls().len(), 1, "what was not suspended is not resumed");
}

#[test]
fn a_failed_resume_is_tried_twice_and_told_with_the_first_error() {
    let dm = Scripted::with_pool();
    let pool = pool(&dm);
    let device = pool.activate(&name("tlt-a"), id(7), Sectors(2048), Access::ReadWrite).unwrap();
    dm.fail("resume", Errno::EIO, 1);
    pool.snapshot_of_active(&device, id(8)).unwrap();

    dm.fail("resume", Errno::EIO, 2);
    let error = pool.snapshot_of_active(&device, id(8)).unwrap_err();
    check(&error, Kind::Suspended, &["tlt-a is left suspended", "EIO", "dmsetup resume tlt-a"]);
    assert!(matches!(error, Error::LeftSuspended { first: None, .. }), "the snapshot was made");

    dm.fail("message", Errno::ENODATA, 1);
    dm.fail("resume", Errno::EIO, 2);
    let error = pool.snapshot_of_active(&device, id(8)).unwrap_err();
    check(&error, Kind::Suspended, &["EIO", "no thin id 7"]);
}

#[test]
fn a_device_grows_and_never_shrinks() {
    let dm = Scripted::with_pool();
    let pool = pool(&dm);
    let device = pool.activate(&name("tlt-a"), id(7), Sectors(2048), Access::ReadWrite).unwrap();
    dm.calls();
    let device = pool.resize(&device, Sectors(4096)).unwrap();
    assert_eq!(device.len(), Sectors(4096));
    assert_eq!(dm.calls(), ["table tlt-a", "load tlt-a 4096 253:0 7 ReadWrite", "resume tlt-a neither"]);
    pool.resize(&device, Sectors(4096)).unwrap();
    assert_eq!(dm.calls(), ["table tlt-a"]);
    check(&pool.resize(&device, Sectors(2048)).unwrap_err(), Kind::Invalid, &["tlt-a has 4096 sectors"]);
}

#[test]
fn an_unreadable_answer_is_an_error_with_the_devices_name() {
    let dm = Scripted::with_pool();
    let pool = pool(&dm);
    dm.says(["garbage"]);
    check(&pool.status(Flush::No).unwrap_err(), Kind::Other, &[POOL, "garbage"]);
    dm.add("tlt-linear", "0 8 linear 7:0 0");
    let device = pool.activate(&name("tlt-a"), id(7), Sectors(2048), Access::ReadWrite).unwrap();
    dm.says(["64 127"]);
    let status = pool.thin_status(&device).unwrap();
    assert_eq!(status, crate::ThinStatus::Mapped { mapped: Sectors(64), highest: Some(Sectors(127)) });
    pool.remove(Patience::none()).unwrap();
    check(&pool.status(Flush::No).unwrap_err(), Kind::NotFound, &[POOL, "no such device"]);
    check(&pool.table().unwrap_err(), Kind::NotFound, &[POOL]);
}
