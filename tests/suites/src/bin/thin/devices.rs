//! Thin devices: activation, removal, size, status.

use std::fs::File;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::{Test, test};
use thinlayer_dm::{Access, DeviceMapper, Flush, Removal, Removed, Sectors};
use thinlayer_thin::{Kind, Patience, SystemWait, ThinStatus};

use crate::rig::{Rig, deactivate, dmsetup, fill, id, name, number, patience, refused, sectors, thin};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("an active device is what dmsetup sees", activation),
        test("the node works right after activation, many times", nodes),
        test("a read-only device refuses writes", read_only_device),
        test("an open device is busy until the deadline, or goes at its last close", busy),
        test("an active device grows in use and does not shrink", resize),
    ]
}

fn activation() -> Result<()> {
    let rig = Rig::usual()?;
    let pool = rig.create()?;
    let device = thin(&pool, 5, sectors(16))?;
    let table = dmsetup(["table", device.name().as_str()])?;
    ensure!(table == format!("0 {} thin {} 5", sectors(16).0, pool.number()), "{table}");
    ensure!(number(device.node())? == device.number());
    ensure!(pool.thin_status(&device)? == ThinStatus::Mapped { mapped: Sectors(0), highest: None });
    fill(device.node(), 0, 2, 1)?;
    fill(device.node(), 9, 1, 1)?;
    let status = pool.thin_status(&device)?;
    ensure!(
        status == ThinStatus::Mapped { mapped: Sectors(3 * 128), highest: Some(Sectors(10 * 128 - 1)) },
        "{status:?}"
    );
    let theirs = dmsetup(["status", device.name().as_str()])?;
    ensure!(theirs == format!("0 {} thin {status}", sectors(16).0), "dmsetup prints {theirs}, we {status}");
    ensure!(pool.device(device.name())?.as_ref() == Some(&device));

    let again = pool.activate(device.name(), id(5)?, sectors(16), Access::ReadWrite);
    refused("the same name", again, Kind::Exists, &["activate tlt-thin-5", "exists already"])?;
    ensure!(rig.dm.info(device.name().into())?.is_some(), "the first one is gone");
    deactivate(&pool, &device)?;
    ensure!(pool.device(device.name())?.is_none());
    let absent = pool.deactivate_by_name(device.name(), Removal::Now, patience())?;
    ensure!(absent == Removed::Absent);
    refused("its status", pool.thin_status(&device), Kind::NotFound, &["tlt-thin-5"])?;
    ensure!(!std::path::Path::new("/dev/mapper/tlt-thin-5").exists(), "its node is left");
    rig.close(&pool)
}

fn nodes() -> Result<()> {
    let rig = Rig::usual()?;
    let pool = rig.create()?;
    pool.create_thin(id(1)?)?;
    for round in 0..30 {
        let device = pool.activate(&name("again")?, id(1)?, sectors(8), Access::ReadWrite)?;
        File::open(device.node()).with_context(|| format!("round {round}"))?;
        ensure!(number(device.node())? == device.number(), "round {round}");
        let removed = pool.deactivate(&device, Removal::Now, patience())?;
        ensure!(removed == Removed::Gone, "round {round}: {removed:?}");
    }
    harness::wait_for_udev()?;
    rig.close(&pool)
}

fn read_only_device() -> Result<()> {
    let rig = Rig::usual()?;
    let pool = rig.create()?;
    let device = thin(&pool, 1, sectors(8))?;
    fill(device.node(), 0, 1, 3)?;
    deactivate(&pool, &device)?;
    let device = pool.activate(&name("ro")?, id(1)?, sectors(8), Access::ReadOnly)?;
    harness::wait_for_udev()?;
    ensure!(device.access() == Access::ReadOnly);
    ensure!(pool.device(device.name())?.as_ref() == Some(&device));
    let read_only = harness::run("blockdev", ["--getro", &device.node().to_string_lossy()])?.stdout_text();
    ensure!(read_only == "1", "blockdev says {read_only}");
    ensure!(crate::rig::peek(device.node(), 0)? == 3);
    ensure!(fill(device.node(), 0, 1, 4).is_err(), "it was written");
    deactivate(&pool, &device)?;
    rig.close(&pool)
}

fn busy() -> Result<()> {
    let rig = Rig::usual()?;
    let pool = rig.create()?;
    let device = thin(&pool, 1, sectors(8))?;
    let open = File::open(device.node())?;
    let limit = Duration::from_millis(300);
    let start = Instant::now();
    let tried = pool.deactivate(&device, Removal::Now, Patience::new(limit, &SystemWait));
    refused("an open device", tried, Kind::Busy, &["deactivate tlt-thin-1: it is busy", "open 1 times"])?;
    let took = start.elapsed();
    ensure!(took >= limit && took < limit + Duration::from_secs(10), "it took {took:?}");

    let scheduled = pool.deactivate(&device, Removal::Deferred, Patience::none())?;
    ensure!(scheduled == Removed::Scheduled, "{scheduled:?}");
    drop(open);
    harness::eventually("the device to go", Duration::from_secs(20), || {
        Ok(match rig.dm.info(device.name().into())? {
            None => Ok(()),
            Some(info) => Err(format!("{info:?}")),
        })
    })?;
    rig.dm.forget_node(device.name(), device.number())?;
    rig.close(&pool)
}

fn resize() -> Result<()> {
    let rig = Rig::usual()?;
    let pool = rig.create()?;
    let device = thin(&pool, 1, sectors(24))?;
    let node = device.node().to_string_lossy().into_owned();
    harness::run("mkfs.ext4", ["-q", "-F", &node])?;
    let mount = harness::scratch_dir()?.join("mount");
    std::fs::create_dir(&mount)?;
    let mount_text = mount.to_string_lossy().into_owned();
    harness::run("mount", [&node, &mount_text])?;
    std::fs::write(mount.join("file"), "kept")?;
    let device = pool.resize(&device, sectors(48))?;
    ensure!(device.len() == sectors(48));
    let bytes = harness::run("blockdev", ["--getsize64", &node])?.stdout_text();
    ensure!(bytes == (48u64 << 20).to_string(), "blockdev says {bytes}");
    harness::run("resize2fs", [&node])?;
    std::fs::write(mount.join("more"), vec![1; 1 << 20])?;
    ensure!(std::fs::read_to_string(mount.join("file"))? == "kept");
    harness::run("umount", [&mount_text])?;
    harness::run("e2fsck", ["-fn", &node])?;
    refused("shrinking", pool.resize(&device, sectors(24)), Kind::Invalid, &["cannot shrink"])?;
    ensure!(pool.resize(&device, sectors(48))? == device);
    ensure!(pool.status(Flush::No)?.running().is_some());
    deactivate(&pool, &device)?;
    rig.close(&pool)
}
