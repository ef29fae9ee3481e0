//! Devices, tables, open counts, deferred removal, names, events.

use super::bench::{Bench, line, remove_later};
use super::{Outcome, ensure, list, refused, same};
use nix::errno::Errno;
use std::time::Duration;
use thinlayer_dm::{Access, DeviceNumber, DmName, DmUuid, Kind, Removal, Removed, Sectors, Slot, Suspend};

list! {
    "a new device has no table and is not suspended" => a_new_device,
    "a name or uuid that is taken is refused with EBUSY" => taken_names,
    "what is asked of a device that is not there is answered with ENXIO" => absent_devices,
    "a loaded table waits in the inactive slot until the resume" => load_and_resume,
    "a table with a hole, without lines, or of an unknown target is refused" => bad_tables,
    "clear drops the inactive table only" => clear,
    "a rename moves the name, counts as an event, and is refused where the name is taken" => rename,
    "a uuid can be given once" => set_uuid,
    "an open device is not removed" => busy_removal,
    "a deferred removal happens at the last close" => deferred_removal,
    "a deferred removal of a device that nobody has open happens at once" => deferred_at_once,
    "a deferred removal can be cancelled" => cancelled_removal,
    "a name stays taken while its removal is put off" => deferred_name,
    "suspend and resume are answered the same when repeated" => suspend_twice,
    "a device without a table can be suspended but not resumed" => suspend_without_table,
    "a device with a read-only table is read-only" => read_only,
    "a linear device stands on the one below and has it open once for all tables of one access" => linear,
    "a linear device past the end of the one below is refused" => linear_past_end,
    "a removal put off below happens when the device above goes" => deferred_cascade,
    "a table on a device that is not there is refused as not found" => table_on_nothing,
    "devices are found by number and uuid too, and listed" => found,
    "the thin targets are listed with versions" => target_versions,
    "a watcher sees an event of any device, and nothing where there is none" => events,
    "a message to a target without messages is refused" => messages,
    "a table can be replaced while the device is in use" => hot_swap,
    "a device under another's table cannot be mounted or taken" => claimed,
    "a node leads to its device, and only to that" => nodes,
}

fn a_new_device(b: &Bench<'_>) -> Outcome {
    let name = b.name("new")?;
    let info = b.dm().create(&name, None)?;
    same!(info.name, name, "its name");
    same!(info.uuid, None, "its uuid");
    ensure!(!info.live_table && !info.inactive_table, "it has a table: {info:?}");
    ensure!(!info.suspended && !info.deferred_remove && !info.read_only, "{info:?}");
    same!((info.open_count, info.target_count, info.event_nr), (0, 0, 0), "counts");
    same!(b.dm().table((&name).into(), Slot::Live)?.1, vec![], "its table");
    same!(b.dm().status((&name).into(), thinlayer_dm::Flush::No)?.1, vec![], "its status");
    same!(b.dm().deps((&name).into())?, vec![], "what it stands on");
    Ok(())
}

fn taken_names(b: &Bench<'_>) -> Outcome {
    let (one, two, uuid) = (b.name("one")?, b.name("two")?, DmUuid::new("CONFORMANCE-1")?);
    b.dm().create(&one, Some(&uuid))?;
    let error = b.dm().create(&one, None).map(|_| ()).err();
    same!(error.as_ref().and_then(thinlayer_dm::Error::errno), Some(Errno::EBUSY), "the errno");
    same!(error.map(|e| e.kind()), Some(Kind::Exists), "the kind");
    refused!(b.dm().create(&two, Some(&uuid)), Kind::Exists, "a second device with the uuid");
    same!(b.dm().info((&two).into())?, None, "what is left of it");
    Ok(())
}

fn absent_devices(b: &Bench<'_>) -> Outcome {
    let dm = b.dm();
    let name = DmName::new("conformance-nobody")?;
    let it = || (&name).into();
    same!(dm.info(it())?, None, "info");
    same!(dm.remove(it(), Removal::Now)?, Removed::Absent, "removal");
    same!(dm.remove(it(), Removal::Deferred)?, Removed::Absent, "deferred removal");
    refused!(dm.table(it(), Slot::Live), Kind::NotFound, "table");
    refused!(dm.status(it(), thinlayer_dm::Flush::No), Kind::NotFound, "status");
    refused!(dm.deps(it()), Kind::NotFound, "deps");
    refused!(dm.suspend(it(), Suspend::default()), Kind::NotFound, "suspend");
    refused!(dm.resume(it(), Suspend::default()), Kind::NotFound, "resume");
    refused!(dm.clear(it()), Kind::NotFound, "clear");
    refused!(dm.load(it(), &[line(0, 8, "zero", "")], Access::ReadWrite), Kind::NotFound, "load");
    refused!(dm.message(it(), Sectors(0), "hello"), Kind::NotFound, "message");
    refused!(dm.cancel_deferred_removal(it()), Kind::NotFound, "cancelling a removal");
    refused!(dm.rename(&name, &DmName::new("conformance-somebody")?), Kind::NotFound, "rename");
    refused!(dm.set_uuid(&name, &DmUuid::new("CONFORMANCE-2")?), Kind::NotFound, "set_uuid");
    same!(dm.info(DeviceNumber { major: 1, minor: 1 }.into())?, None, "info by a number that is no device's");
    Ok(())
}

fn load_and_resume(b: &Bench<'_>) -> Outcome {
    let name = b.name("zero")?;
    b.dm().create(&name, None)?;
    let table = [line(0, 2048, "zero", ""), line(2048, 8, "error", "")];
    let info = b.dm().load((&name).into(), &table, Access::ReadWrite)?;
    ensure!(!info.live_table && info.inactive_table, "after the load: {info:?}");
    same!(b.dm().table((&name).into(), Slot::Inactive)?.1, table.to_vec(), "the inactive table");
    let info = b.dm().resume((&name).into(), Suspend::default())?;
    ensure!(info.live_table && !info.inactive_table && !info.suspended, "after the resume: {info:?}");
    same!(info.target_count, 2, "targets");
    same!(b.dm().table((&name).into(), Slot::Live)?.1, table.to_vec(), "the live table");
    let status = b.dm().status((&name).into(), thinlayer_dm::Flush::No)?.1;
    same!(status.iter().map(|t| t.params.as_str()).collect::<Vec<_>>(), vec!["", ""], "the status");
    Ok(())
}

fn bad_tables(b: &Bench<'_>) -> Outcome {
    let name = b.name("bad")?;
    b.dm().create(&name, None)?;
    let tables = [
        vec![],
        vec![line(8, 8, "zero", "")],
        vec![line(0, 8, "zero", ""), line(16, 8, "zero", "")],
        vec![line(0, 0, "zero", "")],
        vec![line(0, 8, "no-such-target", "")],
        vec![line(0, 8, "zero", "word")],
        vec![line(0, 8, "linear", "7:0")],
    ];
    for table in tables {
        let result = b.dm().load((&name).into(), &table, Access::ReadWrite);
        refused!(result, Kind::Invalid, "{table:?}");
    }
    ensure!(!b.info(&name)?.inactive_table, "a refused table was kept");
    Ok(())
}

fn clear(b: &Bench<'_>) -> Outcome {
    let name = b.zero("zero", 8)?.name;
    b.dm().load((&name).into(), &[line(0, 16, "zero", "")], Access::ReadWrite)?;
    let info = b.dm().clear((&name).into())?;
    ensure!(info.live_table && !info.inactive_table, "{info:?}");
    b.dm().clear((&name).into())?;
    same!(b.table(&name)?.len, Sectors(8), "the live table's length");
    Ok(())
}

fn rename(b: &Bench<'_>) -> Outcome {
    let (old, other) = (b.zero("old", 8)?, b.zero("other", 8)?);
    let new = b.name("renamed")?;
    refused!(b.dm().rename(&old.name, &other.name), Kind::Exists, "a name that is taken");
    refused!(b.dm().rename(&old.name, &old.name), Kind::Exists, "its own name");
    let info = b.dm().rename(&old.name, &new)?;
    same!((info.name.clone(), info.number), (new, old.number), "who it is");
    ensure!(info.event_nr > old.event_nr, "no event: {info:?}");
    same!(b.dm().info((&old.name).into())?, None, "the old name");
    Ok(())
}

fn set_uuid(b: &Bench<'_>) -> Outcome {
    let (one, two) = (b.zero("one", 8)?.name, b.zero("two", 8)?.name);
    let (first, second) = (DmUuid::new("CONFORMANCE-3")?, DmUuid::new("CONFORMANCE-4")?);
    same!(b.dm().set_uuid(&one, &first)?.uuid, Some(first.clone()), "its uuid");
    refused!(b.dm().set_uuid(&one, &second), Kind::Invalid, "a second one");
    refused!(b.dm().set_uuid(&two, &first), Kind::Exists, "one that is taken");
    Ok(())
}

fn busy_removal(b: &Bench<'_>) -> Outcome {
    let info = b.zero("zero", 2048)?;
    let open = b.lab.open_node(&b.node(&info)?)?;
    refused!(b.dm().remove((&info.name).into(), Removal::Now), Kind::Busy, "removal");
    ensure!(!b.info(&info.name)?.deferred_remove, "the removal was put off");
    drop(open);
    b.remove(&info.name)?;
    same!(b.dm().info((&info.name).into())?, None, "what is left");
    Ok(())
}

fn deferred_removal(b: &Bench<'_>) -> Outcome {
    let info = b.zero("zero", 2048)?;
    let open = b.lab.open_node(&b.node(&info)?)?;
    same!(remove_later(b, &info.name)?, Removed::Scheduled, "what the removal did");
    ensure!(b.info(&info.name)?.deferred_remove, "it is not marked");
    same!(remove_later(b, &info.name)?, Removed::Scheduled, "what a second one did");
    refused!(b.dm().remove((&info.name).into(), Removal::Now), Kind::Busy, "a removal now");
    drop(open);
    b.eventually("the device goes", || Ok(b.dm().info((&info.name).into())?.is_none()))?;
    same!(remove_later(b, &info.name)?, Removed::Absent, "one more removal");
    b.dm().forget_node(&info.name, info.number)?;
    Ok(())
}

fn deferred_at_once(b: &Bench<'_>) -> Outcome {
    let info = b.zero("zero", 8)?;
    b.opened(&info.name, 0)?;
    // udev may look at it this very moment; then it goes right after.
    remove_later(b, &info.name)?;
    b.eventually("the device goes", || Ok(b.dm().info((&info.name).into())?.is_none()))?;
    b.dm().forget_node(&info.name, info.number)?;
    Ok(())
}

fn cancelled_removal(b: &Bench<'_>) -> Outcome {
    let info = b.zero("zero", 2048)?;
    let open = b.lab.open_node(&b.node(&info)?)?;
    b.dm().cancel_deferred_removal((&info.name).into())?;
    remove_later(b, &info.name)?;
    b.dm().cancel_deferred_removal((&info.name).into())?;
    ensure!(!b.info(&info.name)?.deferred_remove, "it is still marked");
    drop(open);
    b.opened(&info.name, 0)?;
    ensure!(b.dm().info((&info.name).into())?.is_some(), "it went all the same");
    Ok(())
}

fn deferred_name(b: &Bench<'_>) -> Outcome {
    let info = b.zero("zero", 2048)?;
    let open = b.lab.open_node(&b.node(&info)?)?;
    remove_later(b, &info.name)?;
    refused!(b.dm().create(&info.name, None), Kind::Exists, "another device of the name");
    drop(open);
    b.eventually("the device goes", || Ok(b.dm().info((&info.name).into())?.is_none()))?;
    b.dm().forget_node(&info.name, info.number)?;
    b.dm().create(&info.name, None)?;
    Ok(())
}

fn suspend_twice(b: &Bench<'_>) -> Outcome {
    let name = b.zero("zero", 8)?.name;
    for _ in 0..2 {
        ensure!(b.dm().suspend((&name).into(), Suspend::default())?.suspended, "it is not suspended");
    }
    ensure!(b.info(&name)?.suspended, "it does not say that it is suspended");
    for _ in 0..2 {
        ensure!(!b.dm().resume((&name).into(), Suspend::default())?.suspended, "it is suspended");
    }
    Ok(())
}

fn suspend_without_table(b: &Bench<'_>) -> Outcome {
    let name = b.name("bare")?;
    b.dm().create(&name, None)?;
    b.dm().resume((&name).into(), Suspend::default())?;
    ensure!(b.dm().suspend((&name).into(), Suspend::default())?.suspended, "it is not suspended");
    refused!(b.dm().resume((&name).into(), Suspend::default()), Kind::Invalid, "resuming it");
    ensure!(b.info(&name)?.suspended, "it was resumed");
    Ok(())
}

fn read_only(b: &Bench<'_>) -> Outcome {
    let table = [line(0, 2048, "zero", "")];
    let info = b.device_as("zero", &table, Access::ReadOnly)?;
    ensure!(info.read_only, "{info:?}");
    ensure!(b.backing().inspect(&b.node(&info)?)?.read_only, "the block device is writable");
    b.dm().load((&info.name).into(), &table, Access::ReadWrite)?;
    ensure!(b.info(&info.name)?.read_only, "a loaded table changed the device");
    ensure!(!b.dm().resume((&info.name).into(), Suspend::default())?.read_only, "it is still read-only");
    Ok(())
}

fn linear(b: &Bench<'_>) -> Outcome {
    let lower = b.zero("lower", 2048)?;
    let on = |offset| line(0, 1024, "linear", &format!("{} {offset}", lower.number));
    let upper = b.device("upper", &[on(0)])?;
    same!(b.table(&upper.name)?, on(0), "its table");
    same!(b.status(&upper.name)?, "", "its status");
    same!(b.dm().deps((&upper.name).into())?, vec![lower.number], "what it stands on");
    b.opened(&lower.name, 1)?;
    refused!(b.dm().remove((&lower.name).into(), Removal::Now), Kind::Busy, "removal below");
    b.dm().load((&upper.name).into(), &[on(1024)], Access::ReadWrite)?;
    b.opened(&lower.name, 1)?;
    b.dm().clear((&upper.name).into())?;
    b.opened(&lower.name, 1)?;
    b.dm().load((&upper.name).into(), &[on(0)], Access::ReadOnly)?;
    b.opened(&lower.name, 2)?;
    let both = [on(0), line(1024, 1024, "linear", &format!("{} 1024", lower.number))];
    b.dm().load((&upper.name).into(), &both, Access::ReadWrite)?;
    b.dm().resume((&upper.name).into(), Suspend::default())?;
    b.opened(&lower.name, 1)?;
    b.remove(&upper.name)?;
    b.opened(&lower.name, 0)
}

fn linear_past_end(b: &Bench<'_>) -> Outcome {
    let lower = b.zero("lower", 2048)?;
    let name = b.name("upper")?;
    b.dm().create(&name, None)?;
    let table = [line(0, 2048, "linear", &format!("{} 8", lower.number))];
    refused!(b.dm().load((&name).into(), &table, Access::ReadWrite), Kind::Invalid, "the table");
    Ok(())
}

fn deferred_cascade(b: &Bench<'_>) -> Outcome {
    let lower = b.zero("lower", 2048)?;
    let upper = b.device("upper", &[line(0, 1024, "linear", &format!("{} 0", lower.number))])?;
    same!(remove_later(b, &lower.name)?, Removed::Scheduled, "what the removal did");
    b.remove(&upper.name)?;
    b.eventually("the device below goes", || Ok(b.dm().info((&lower.name).into())?.is_none()))?;
    b.dm().forget_node(&lower.name, lower.number)?;
    Ok(())
}

fn table_on_nothing(b: &Bench<'_>) -> Outcome {
    let name = b.name("upper")?;
    b.dm().create(&name, None)?;
    let gone = b.zero("gone", 8)?;
    b.remove(&gone.name)?;
    for below in [gone.number.to_string(), "/dev/mapper/conformance-nobody".to_owned()] {
        let table = [line(0, 8, "linear", &format!("{below} 0"))];
        let result = b.dm().load((&name).into(), &table, Access::ReadWrite);
        refused!(result, Kind::NotFound, "a table on {below}");
    }
    Ok(())
}

fn found(b: &Bench<'_>) -> Outcome {
    let info = b.zero("zero", 8)?;
    let uuid = DmUuid::new("CONFORMANCE-5")?;
    b.dm().set_uuid(&info.name, &uuid)?;
    for reference in [(&info.name).into(), (&uuid).into(), info.number.into()] {
        let found = b.dm().info(reference)?.map(|i| (i.name, i.number));
        same!(found, Some((info.name.clone(), info.number)), "{reference}");
    }
    let listed = b.dm().devices()?.into_iter().find(|d| d.name == info.name).map(|d| d.number);
    same!(listed, Some(info.number), "in the list");
    b.remove(&info.name)?;
    ensure!(b.dm().devices()?.iter().all(|d| d.name != info.name), "it is still listed");
    Ok(())
}

fn target_versions(b: &Bench<'_>) -> Outcome {
    b.pool(64 << 20, "1 skip_block_zeroing")?;
    let targets = b.dm().target_versions()?;
    for name in ["thin-pool", "thin", "linear", "error"] {
        ensure!(targets.iter().any(|t| t.name == name && t.version.0 >= 1), "no {name} in {targets:?}");
    }
    Ok(())
}

fn events(b: &Bench<'_>) -> Outcome {
    let info = b.zero("zero", 8)?;
    let new = b.name("renamed")?;
    let mut events = b.dm().events()?;
    // What came before may still be told once.
    while events.wait(Duration::from_millis(300))? {}
    ensure!(!events.wait(Duration::from_millis(50))?, "an event out of nothing");
    b.dm().rename(&info.name, &new)?;
    ensure!(events.wait(Duration::from_secs(5))?, "the event was not seen");
    Ok(())
}

fn messages(b: &Bench<'_>) -> Outcome {
    let info = b.zero("zero", 8)?;
    refused!(b.dm().message((&info.name).into(), Sectors(0), "hello"), Kind::Invalid, "a message");
    refused!(
        b.dm().message((&info.name).into(), Sectors(8), "hello"),
        Kind::Invalid,
        "a message past the end"
    );
    let bare = b.name("bare")?;
    b.dm().create(&bare, None)?;
    refused!(b.dm().message((&bare).into(), Sectors(0), "hello"), Kind::Invalid, "a message without a table");
    Ok(())
}

fn hot_swap(b: &Bench<'_>) -> Outcome {
    let info = b.zero("zero", 2048)?;
    let _open = b.lab.open_node(&b.node(&info)?)?;
    b.dm().load((&info.name).into(), &[line(0, 4096, "zero", "")], Access::ReadWrite)?;
    same!(b.table(&info.name)?.len, Sectors(2048), "the length before");
    let after = b.dm().resume((&info.name).into(), Suspend::default())?;
    ensure!(!after.suspended && !after.inactive_table, "{after:?}");
    same!(b.table(&info.name)?.len, Sectors(4096), "the length after");
    same!(b.backing().inspect(&b.node(&info)?)?.size.0, 4096 * 512, "the block device's size");
    Ok(())
}

fn claimed(b: &Bench<'_>) -> Outcome {
    let disk = b.attached("disk", 64 << 20)?;
    b.mkfs_at(&disk.node, thinlayer_filesystem::Kind::Ext4)?;
    let on = line(0, 2048, "linear", &format!("{} 0", disk.number));
    let upper = b.device("upper", std::slice::from_ref(&on))?;
    let target = b.folder("mnt")?;
    let request = b.request(&disk.node, &target, thinlayer_filesystem::Kind::Ext4);
    refused!(b.fs().mount(&request), thinlayer_filesystem::ErrorKind::Busy, "a mount of the device below");
    b.remove(&upper.name)?;
    b.fs().mount(&request)?;
    let name = b.name("late")?;
    b.dm().create(&name, None)?;
    refused!(
        b.dm().load((&name).into(), &[on], Access::ReadWrite),
        Kind::Busy,
        "a table on a mounted device"
    );
    Ok(())
}

fn nodes(b: &Bench<'_>) -> Outcome {
    let (one, two) = (b.zero("one", 2048)?, b.zero("two", 4096)?);
    for info in [&one, &two] {
        let found = b.backing().inspect(&b.node(info)?)?;
        same!(found.number, info.number, "who the node of {} leads to", info.name);
    }
    // The name may go to another device.
    b.remove(&one.name)?;
    b.dm().rename(&two.name, &one.name)?;
    let renamed = b.info(&one.name)?;
    same!(
        b.backing().inspect(&b.node(&renamed)?)?.number,
        two.number,
        "who the node of the new name leads to"
    );
    b.dm().forget_node(&two.name, two.number)?;
    Ok(())
}
