//! Making, naming, suspending and removing devices.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Test, eventually, test};
use thinlayer_dm::{
    Access, Control, DeviceGuard, DeviceMapper, DmName, DmUuid, Kind, Removal, Removed, Sectors, Slot,
    Suspend, SuspendGuard, Version, activate,
};

use crate::{PATIENCE, dmsetup, info, make, name, refused, remove, target, zero};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("versions are those that dmsetup shows", versions),
        test("a target's module is loaded by asking for its version", target_version),
        test("a device's life is what dmsetup sees", life),
        test("all three ways to say a device work", by_name_uuid_and_number),
        test("a taken name or UUID is told as such", taken),
        test("a device is renamed and keeps its UUID", rename),
        test("a UUID is given once", uuid_once),
        test("an open device is busy, and goes at its last close if asked", deferred),
        test("a deferred removal is taken back", cancel_deferred),
        test("what is not there is not found, and removing it is no error", absent),
        test("a suspended device holds writes back until it is resumed", suspend),
        test("all ways to suspend and resume are accepted", suspend_flags),
        test("guards remove and resume", guards),
        test("hundreds of devices are listed", many_devices).deadline(Duration::from_secs(240)),
        test("a name made by others does not spoil the list", foreign_names),
        test("four threads share one control", threads).deadline(Duration::from_secs(240)),
        test("without privileges the error says so", unprivileged),
    ]
}

fn versions() -> Result<()> {
    let dm = Control::open()?;
    let shown = dmsetup(["version"])?;
    let driver =
        shown.lines().find_map(|line| line.strip_prefix("Driver version:")).context("no driver version")?;
    ensure!(driver.trim() == dm.version().to_string(), "dmsetup says {driver}, we {}", dm.version());
    ensure!(dm.version() >= Version(4, 44, 0), "this kernel lists no UUIDs");
    let mut theirs: Vec<String> = dmsetup(["targets"])?
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    let mut ours: Vec<String> =
        dm.target_versions()?.iter().map(|target| format!("{} v{}", target.name, target.version)).collect();
    theirs.sort();
    ours.sort();
    ensure!(ours == theirs && !ours.is_empty(), "we list {ours:?}, dmsetup {theirs:?}");
    Ok(())
}

fn target_version() -> Result<()> {
    let dm = Control::open()?;
    let found = dm.target_version("thin-pool")?.context("no thin-pool")?;
    ensure!(found.version >= Version(1, 20, 0), "thin-pool {}", found.version);
    ensure!(dm.target_versions()?.contains(&found), "{found:?} is not in the list");
    ensure!(dm.target_version("tlt-no-target")?.is_none());
    refused("a name that is too long", dm.target_version("a-target-of-20-bytes"), Kind::Invalid)
}

fn life() -> Result<()> {
    let dm = Control::open()?;
    let device = name("life")?;
    let uuid = DmUuid::new("TLT-life-1")?;
    let created = dm.create(&device, Some(&uuid))?;
    ensure!(created.name == device && created.uuid.as_ref() == Some(&uuid), "{created:?}");
    ensure!(!created.live_table && !created.inactive_table, "{created:?}");

    let loaded = dm.load((&device).into(), &zero(2048), Access::ReadWrite)?;
    ensure!(loaded.inactive_table && !loaded.live_table, "{loaded:?}");
    let resumed = dm.resume((&device).into(), Suspend::default())?;
    ensure!(resumed.live_table && !resumed.inactive_table && !resumed.suspended, "{resumed:?}");
    harness::wait_for_udev()?;

    let now = info(&dm, &device)?;
    let columns = "name,uuid,major,minor,open,segments,events,attr";
    let shown = dmsetup(["info", "-c", "--noheadings", "--separator=|", "-o", columns, device.as_str()])?;
    let ours = format!(
        "{}|{uuid}|{}|{}|{}|{}|{}|L--w",
        now.name, now.number.major, now.number.minor, now.open_count, now.target_count, now.event_nr
    );
    ensure!(shown == ours, "dmsetup shows {shown}, we {ours}");

    let listed =
        dm.devices()?.into_iter().find(|listed| listed.name == device).context("it is not listed")?;
    ensure!(listed.number == now.number && listed.uuid.as_ref() == Some(&uuid), "{listed:?}");
    ensure!(listed.event_nr == Some(now.event_nr), "{listed:?}, {now:?}");

    remove(&dm, (&device).into())?;
    ensure!(dm.info((&device).into())?.is_none(), "it is still there");
    ensure!(!dm.devices()?.iter().any(|listed| listed.name == device), "it is still listed");
    Ok(())
}

fn by_name_uuid_and_number() -> Result<()> {
    let dm = Control::open()?;
    let device = name("three-ways")?;
    let uuid = DmUuid::new("TLT-three-ways")?;
    let guard = activate(&dm, &device, Some(&uuid), &zero(8), Access::ReadWrite)?.with_patience(PATIENCE);
    let number = guard.number();
    harness::wait_for_udev()?;
    for way in [(&device).into(), (&uuid).into(), number.into()] {
        let found = dm.info(way)?.with_context(|| format!("not found as {way}"))?;
        ensure!(found.name == device && found.uuid.as_ref() == Some(&uuid), "{way}: {found:?}");
        ensure!(found.number == number, "{way}: {found:?}");
        ensure!(dm.table(way, Slot::Live)?.1 == zero(8), "{way}");
        let suspended = dm.suspend(way, Suspend::default())?;
        ensure!(suspended.suspended && suspended.name == device, "{way}: {suspended:?}");
        ensure!(!dm.resume(way, Suspend::default())?.suspended, "{way}");
    }
    remove(&dm, number.into())?;
    guard.keep();
    Ok(())
}

fn taken() -> Result<()> {
    let dm = Control::open()?;
    let (one, two) = (name("taken-1")?, name("taken-2")?);
    let uuid = DmUuid::new("TLT-taken")?;
    let _one = DeviceGuard::create(&dm, &one, Some(&uuid))?;
    refused("creating a name again", dm.create(&one, None), Kind::Exists)?;
    refused("creating a UUID again", dm.create(&two, Some(&uuid)), Kind::Exists)?;
    ensure!(dm.info((&two).into())?.is_none(), "the refused device is there");
    let _two = DeviceGuard::create(&dm, &two, None)?;
    refused("renaming to a taken name", dm.rename(&two, &one), Kind::Exists)?;
    refused("giving a taken UUID", dm.set_uuid(&two, &uuid), Kind::Exists)
}

fn rename() -> Result<()> {
    let dm = Control::open()?;
    let (old, new) = (name("old-name")?, name("new-name")?);
    let uuid = DmUuid::new("TLT-rename")?;
    let guard = activate(&dm, &old, Some(&uuid), &zero(8), Access::ReadWrite)?.with_patience(PATIENCE);
    harness::wait_for_udev()?;
    let renamed = dm.rename(&old, &new)?;
    ensure!(renamed.name == new && renamed.number == guard.number(), "{renamed:?}");
    ensure!(renamed.uuid.is_none(), "the kernel tells the UUID after all: {renamed:?}");
    ensure!(dm.info((&old).into())?.is_none(), "the old name is still there");
    ensure!(info(&dm, &new)?.uuid == Some(uuid), "the UUID is lost");
    ensure!(dmsetup(["info", "-c", "--noheadings", "-o", "name", new.as_str()])? == new.as_str());
    refused("renaming what is not there", dm.rename(&old, &name("else")?), Kind::NotFound)?;
    harness::wait_for_udev()?;
    // By its UUID, since the name that the guard knows is gone.
    ensure!(guard.close()? == Removed::Gone);
    dm.forget_node(&new, renamed.number)?;
    ensure!(dm.info((&new).into())?.is_none());
    Ok(())
}

fn uuid_once() -> Result<()> {
    let dm = Control::open()?;
    let device = name("uuid-once")?;
    let _guard = DeviceGuard::create(&dm, &device, None)?;
    let uuid = DmUuid::new("TLT-uuid-once")?;
    ensure!(dm.set_uuid(&device, &uuid)?.uuid.as_ref() == Some(&uuid));
    ensure!(dm.info((&uuid).into())?.is_some_and(|found| found.name == device));
    refused("a second UUID", dm.set_uuid(&device, &DmUuid::new("TLT-uuid-twice")?), Kind::Invalid)
}

fn open_node(dm: &Control, device: &DmName) -> Result<File> {
    let node = dm.node(device, info(dm, device)?.number)?;
    File::open(&node).with_context(|| format!("cannot open {}", node.display()))
}

fn deferred() -> Result<()> {
    let dm = Control::open()?;
    let device = name("deferred")?;
    let guard = make(&dm, &device)?;
    let open = open_node(&dm, &device)?;
    ensure!(info(&dm, &device)?.open_count == 1);
    refused("removing an open device", dm.remove((&device).into(), Removal::Now), Kind::Busy)?;
    ensure!(dm.remove((&device).into(), Removal::Deferred)? == Removed::Scheduled);
    ensure!(info(&dm, &device)?.deferred_remove, "it is not scheduled");
    let shown = dmsetup(["info", device.as_str()])?;
    ensure!(shown.contains("DEFERRED REMOVE"), "dmsetup shows {shown}");
    drop(open);
    eventually("the device to go", Duration::from_secs(10), || {
        Ok(dm.info((&device).into())?.map_or(Ok(()), |left| Err(format!("{left:?}"))))
    })?;
    dm.forget_node(&device, guard.number())?;
    guard.keep();

    let guard = make(&dm, &device)?;
    ensure!(dm.remove((&device).into(), Removal::Deferred)? == Removed::Gone, "nobody had it open");
    dm.forget_node(&device, guard.number())?;
    guard.keep();
    Ok(())
}

fn cancel_deferred() -> Result<()> {
    let dm = Control::open()?;
    let device = name("cancelled")?;
    let guard = make(&dm, &device)?;
    let open = open_node(&dm, &device)?;
    ensure!(dm.remove((&device).into(), Removal::Deferred)? == Removed::Scheduled);
    dm.cancel_deferred_removal((&device).into())?;
    ensure!(!info(&dm, &device)?.deferred_remove);
    drop(open);
    std::thread::sleep(Duration::from_millis(300));
    ensure!(!info(&dm, &device)?.deferred_remove, "it went all the same");
    // Where nothing was deferred there is nothing to do.
    dm.cancel_deferred_removal((&device).into())?;
    guard.close()?;
    refused(
        "cancelling for a device that is gone",
        dm.cancel_deferred_removal((&device).into()),
        Kind::NotFound,
    )
}

fn absent() -> Result<()> {
    let dm = Control::open()?;
    let device = name("absent")?;
    let on = (&device).into();
    ensure!(dm.remove(on, Removal::Now)? == Removed::Absent);
    ensure!(dm.remove(on, Removal::Deferred)? == Removed::Absent);
    ensure!(dm.info(on)?.is_none());
    refused("suspend", dm.suspend(on, Suspend::default()), Kind::NotFound)?;
    refused("resume", dm.resume(on, Suspend::default()), Kind::NotFound)?;
    refused("load", dm.load(on, &zero(8), Access::ReadWrite), Kind::NotFound)?;
    refused("clear", dm.clear(on), Kind::NotFound)?;
    refused("table", dm.table(on, Slot::Live), Kind::NotFound)?;
    refused("status", dm.status(on, thinlayer_dm::Flush::No), Kind::NotFound)?;
    refused("deps", dm.deps(on), Kind::NotFound)?;
    refused("message", dm.message(on, Sectors(0), "hello"), Kind::NotFound)?;
    refused("set_uuid", dm.set_uuid(&device, &DmUuid::new("TLT-absent")?), Kind::NotFound)
}

fn suspend() -> Result<()> {
    let dm = Control::open()?;
    let device = name("suspended")?;
    let guard = make(&dm, &device)?;
    let node = dm.node(&device, guard.number())?;
    let suspension = SuspendGuard::suspend(&dm, &device, Suspend::default())?;
    ensure!(info(&dm, &device)?.suspended);
    ensure!(dmsetup(["info", "-c", "--noheadings", "-o", "suspended", device.as_str()])? == "Suspended");

    let (done, finished) = mpsc::channel();
    let writer = std::thread::spawn(move || -> Result<()> {
        // O_DSYNC: the write is over when the device has it.
        let file = OpenOptions::new().write(true).custom_flags(O_DSYNC).open(node)?;
        std::os::unix::fs::FileExt::write_all_at(&file, &[7; 4096], 0)?;
        done.send(())?;
        Ok(())
    });
    let early = finished.recv_timeout(Duration::from_millis(500));
    let resumed = suspension.resume()?;
    ensure!(early.is_err(), "the write passed a suspended device");
    ensure!(!resumed.suspended, "{resumed:?}");
    finished.recv_timeout(Duration::from_secs(20)).context("the write did not end after the resume")?;
    writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
    guard.close()?;
    Ok(())
}

/// On every architecture that the VM has.
const O_DSYNC: i32 = 0o10000;

fn suspend_flags() -> Result<()> {
    let dm = Control::open()?;
    let device = name("suspend-flags")?;
    let guard = make(&dm, &device)?;
    for (freeze, flush) in [(true, true), (true, false), (false, true), (false, false)] {
        let how = Suspend { freeze, flush };
        ensure!(dm.suspend((&device).into(), how)?.suspended, "{how:?}");
        dm.load((&device).into(), &zero(4096), Access::ReadWrite)?;
        let resumed = dm.resume((&device).into(), how)?;
        ensure!(!resumed.suspended && !resumed.inactive_table, "{how:?}: {resumed:?}");
        // And a swap without a suspension of its own.
        dm.load((&device).into(), &zero(2048), Access::ReadWrite)?;
        ensure!(!dm.resume((&device).into(), how)?.inactive_table, "{how:?}");
    }
    guard.close()?;
    Ok(())
}

fn guards() -> Result<()> {
    let dm = Control::open()?;
    let device = name("guarded")?;
    drop(make(&dm, &device)?);
    ensure!(dm.info((&device).into())?.is_none(), "a dropped guard left its device");

    let bad = activate(&dm, &device, None, &[target(0, 8, "tlt-no-target", "")], Access::ReadWrite);
    refused("a target that does not exist", bad, Kind::Invalid)?;
    ensure!(dm.info((&device).into())?.is_none(), "a failed activation left its device");

    let guard = make(&dm, &device)?;
    drop(SuspendGuard::suspend(&dm, &device, Suspend::default())?);
    ensure!(!info(&dm, &device)?.suspended, "a dropped guard left a suspension");
    guard.close()?;
    Ok(())
}

fn many_devices() -> Result<()> {
    let dm = Control::open()?;
    let mut guards = Vec::new();
    for index in 0..300 {
        // Long names and UUIDs, so that the list outgrows the first buffers.
        let device = name(&format!("many-{index:03}-{}", "n".repeat(100)))?;
        let uuid = DmUuid::new(format!("TLT-many-{index:03}-{}", "u".repeat(100)))?;
        guards.push(DeviceGuard::create(&dm, &device, Some(&uuid))?);
    }
    let listed = dm.devices()?;
    for guard in &guards {
        let found = listed.iter().find(|listed| &listed.name == guard.name());
        let found = found.with_context(|| format!("{} is not listed", guard.name()))?;
        ensure!(found.number == guard.number() && found.uuid == guard.info().uuid, "{found:?}");
    }
    let shown = dmsetup(["ls"])?;
    ensure!(shown.lines().filter(|line| line.starts_with("tlt-many-")).count() == guards.len());
    for guard in guards {
        guard.close()?;
    }
    Ok(())
}

fn foreign_names() -> Result<()> {
    let dm = Control::open()?;
    let ours = name("beside-a-foreign-name")?;
    let _ours = DeviceGuard::create(&dm, &ours, None)?;
    harness::run("dmsetup", ["create", "--manglename", "none", "--notable", "tlt-my disk"])?;
    let listed = dm.devices();
    let found =
        listed.as_ref().ok().and_then(|list| list.iter().find(|d| d.name.as_str() == "tlt-my\\x20disk"));
    let found = found.with_context(|| format!("it is not in {listed:?}"))?;
    ensure!(listed.as_ref().is_ok_and(|list| list.iter().any(|d| d.name == ours)), "{listed:?}");
    ensure!(dm.info(found.number.into())?.is_some_and(|info| info.name == found.name), "not found by number");
    crate::list_example::list(std::iter::empty())?;
    // The escaped form is no name of the kernel's.
    ensure!(dm.info((&found.name).into())?.is_none());
    remove(&dm, found.number.into())
}

fn threads() -> Result<()> {
    let dm = Control::open()?;
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|worker| {
                let dm = &dm;
                scope.spawn(move || -> Result<()> {
                    for round in 0..8 {
                        let device = name(&format!("thread-{worker}-{round}"))?;
                        let sectors = 8 * (round + 1);
                        let guard = activate(dm, &device, None, &zero(sectors), Access::ReadWrite)?;
                        let (now, table) = dm.table((&device).into(), Slot::Live)?;
                        ensure!(now.name == device && table == zero(sectors), "{now:?} {table:?}");
                        ensure!(dm.devices()?.iter().any(|listed| listed.name == device));
                        guard.with_patience(PATIENCE).close()?;
                    }
                    Ok(())
                })
            })
            .collect();
        for worker in workers {
            worker.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        }
        Ok(())
    })
}

/// The library's own answer, out of this program's mouth, as another user.
fn unprivileged() -> Result<()> {
    let me = std::env::current_exe()?;
    if std::env::var_os("TLT_UNPRIVILEGED").is_some() {
        return refused("opening as nobody", Control::open(), Kind::Permission);
    }
    let me = me.to_str().context("a path that is not UTF-8")?;
    let test = "without privileges the error says so";
    harness::run(
        "setpriv",
        [
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "env",
            "TLT_UNPRIVILEGED=1",
            me,
            "--run-one",
            test,
        ],
    )?;
    Ok(())
}
