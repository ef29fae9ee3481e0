//! What is left of a world after a crash is recovered, and looked at from outside.

use crate::history::{FILES, SLOTS, Setup};
use crate::model::{Model, Seen, Value, admits};
use crate::play::{
    FOREIGN_DM, FOREIGN_FILE, FOREIGN_THIN, ROOT, Wrap, id, mount_point, open, pool_name, tree,
};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use thinlayer_graphdriver::{CreateRequest, Driver, LayerId, Severity, Unmount};
use thinlayer_sim::World;

/// How the owner ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Kill,
    PowerCut(u64),
}

/// What to look for: the states before and after the step that was under way.
pub(crate) struct Expected<'a> {
    pub(crate) setup: Setup,
    pub(crate) before: &'a Model,
    pub(crate) after: &'a Model,
    /// The machine went down at some time since.
    pub(crate) power: bool,
    /// How thorough: also a second start, and a layer's life after it.
    pub(crate) deep: bool,
    /// Somebody else has a thin device in the pool.
    pub(crate) foreign_thin: bool,
}

fn failed(what: &str) -> impl Fn(thinlayer_graphdriver::Error) -> String + '_ {
    move |error| format!("{what}: {error}")
}

/// Ends the owner.
pub(crate) fn end(world: &World, how: End) {
    match how {
        End::Kill => world.kill(),
        End::PowerCut(seed) => world.power_cut(seed),
    }
}

/// Starts a new owner on what is left, and compares.
pub(crate) fn check(world: &World, expected: &Expected<'_>, wrap: Wrap) -> Result<(), String> {
    let (driver, _) = open(world, expected.setup, wrap).map_err(failed("the start after it"))?;
    let seen = observe(world, &driver)?;
    for slot in 0..SLOTS {
        let seen = seen.get(&slot);
        let before = admits(expected.before.layers.get(&slot), seen, expected.power);
        let after = admits(expected.after.layers.get(&slot), seen, expected.power);
        if let (Err(before), Err(after)) = (before, after) {
            return Err(format!("layer {slot}: {before} (before the step); {after} (after it)"));
        }
    }
    for holder in expected.before.holders().into_iter().chain(expected.after.holders()) {
        world.release(holder);
    }
    let driver = settle(world, &driver, &seen, expected.foreign_thin).map(|()| driver)?;
    let rebooted = expected.power || expected.before.rebooted;
    stop(world, &driver, rebooted)?;
    if expected.deep {
        world.kill();
        again(world, expected, wrap, &seen, rebooted)?;
    }
    let violations = world.violations();
    if violations.is_empty() { Ok(()) } else { Err(violations.join("; ")) }
}

/// Everything that can be seen of the layers.
fn observe(world: &World, driver: &Driver) -> Result<BTreeMap<u8, Seen>, String> {
    let mut all = BTreeMap::new();
    for slot in 0..SLOTS {
        let layer = id(slot);
        if !driver.exists(&layer) {
            continue;
        }
        let uses = driver.inspect(&layer).map_err(failed("inspect"))?.uses;
        driver.get(&layer, None).map_err(failed("get"))?;
        let filesystems = world.machine(ROOT).filesystems;
        if !filesystems.dirs(&mount_point(slot)).is_ok_and(|dirs| dirs.contains(&"rootfs".to_owned())) {
            return Err(format!("get of layer {slot} gave a path that is not there"));
        }
        let mut files = BTreeMap::new();
        for file in 0..FILES {
            let content =
                world.read_file(tree(slot).join(format!("file-{file}"))).map_err(|e| format!("read: {e}"))?;
            let value: Value = match content {
                None => None,
                Some(text) => Some(
                    String::from_utf8_lossy(&text)
                        .parse()
                        .map_err(|_| format!("layer {slot} file {file}: {text:?}"))?,
                ),
            };
            files.insert(file, value);
        }
        match driver.put(&layer, Unmount::Now) {
            Ok(_) => {}
            // The last use of a mount that somebody is in; a device that is open elsewhere and must go now.
            Err(error) if error.kind() == thinlayer_graphdriver::Kind::Busy => {}
            Err(error) => return Err(format!("put: {error}")),
        }
        all.insert(slot, Seen { uses, files });
    }
    Ok(all)
}

/// The thin ids that the records name, and which of them are of removed layers; read without the store's code.
fn records(world: &World) -> Result<BTreeMap<String, (u32, bool)>, String> {
    let folder = Path::new(ROOT).join("metadata");
    let mut all = BTreeMap::new();
    for name in world.host_entries(&folder) {
        if name.starts_with('.') || name.ends_with("-metadata") {
            continue;
        }
        let text = world.read_file(folder.join(&name)).map_err(|e| e.to_string())?.unwrap_or_default();
        let record: serde_json::Value = serde_json::from_slice(&text)
            .map_err(|e| format!("record {name}: {e}: {}", String::from_utf8_lossy(&text)))?;
        let device = record["device_id"].as_u64().and_then(|id| u32::try_from(id).ok());
        let device = device.ok_or_else(|| format!("record {name} without device_id"))?;
        all.insert(name, (device, record["deleted"].as_bool().unwrap_or(false)));
    }
    Ok(all)
}

/// Nobody is in a layer any more: what was put off can be done, and then nothing leaks.
fn settle(world: &World, driver: &Driver, seen: &BTreeMap<u8, Seen>, foreign: bool) -> Result<(), String> {
    driver.work_off().map_err(failed("work_off"))?;
    if driver.deferred() != 0 {
        driver.work_off().map_err(failed("work_off"))?;
    }
    if driver.deferred() != 0 {
        return Err(format!("{} removed layers cannot be finished", driver.deferred()));
    }
    let records = records(world)?;
    let names: BTreeSet<String> = records.keys().cloned().collect();
    let wanted: BTreeSet<String> =
        seen.keys().map(|slot| format!("layer-{slot}")).chain(["base".to_owned()]).collect();
    if names != wanted {
        return Err(format!("records {names:?}, and layers {wanted:?}"));
    }
    let foreign_thin = foreign.then_some(FOREIGN_THIN);
    let named: BTreeSet<u32> = records.values().map(|(device, _)| *device).chain(foreign_thin).collect();
    if named.len() != records.len() + usize::from(foreign) {
        return Err(format!("a thin id is in two records: {records:?}"));
    }
    let devices = world.thin_devices(&pool_name(world)).map_err(|e| format!("thin devices: {e}"))?;
    let devices: BTreeSet<u32> = devices.into_iter().map(|(id, _)| id).collect();
    if devices != named {
        return Err(format!(
            "thin devices {devices:?} in the pool, {named:?} in the records (with the foreign one)"
        ));
    }
    let report = driver.check().map_err(failed("check"))?;
    let about_it = |text: &str| foreign && text.contains(&FOREIGN_THIN.to_string());
    // A device that a crash left active, and that somebody had open at the start after it, waits for the next mount or for the stop.
    let ours = |f: &&thinlayer_graphdriver::CheckFinding| {
        f.kind != "idle-device" && !about_it(&f.subject) && !about_it(&f.text)
    };
    if let Some(finding) = report.findings.iter().find(ours) {
        return Err(format!("check found {}: {}: {}", finding.kind, finding.subject, finding.text));
    }
    Ok(())
}

/// After the end in good order nothing of ours is left in the kernel, and everything that is not ours is.
fn stop(world: &World, driver: &Driver, rebooted: bool) -> Result<(), String> {
    let notices = driver.stop().map_err(failed("stop"))?;
    if let Some(notice) = notices.first() {
        return Err(format!("stop says {}", notice.text));
    }
    let devices = world.dm_names();
    let foreign = if rebooted { BTreeSet::new() } else { BTreeSet::from([FOREIGN_DM.to_owned()]) };
    if devices != foreign {
        return Err(format!("devices left: {devices:?}"));
    }
    let loops: Vec<_> = world.loop_files().into_iter().map(|(_, file)| file).collect();
    if rebooted && !loops.is_empty() || !rebooted && loops != [Path::new(FOREIGN_FILE)] {
        return Err(format!("loop devices left: {loops:?}"));
    }
    let mounts = world.mount_points();
    if !mounts.is_empty() {
        return Err(format!("mounts left: {mounts:?}"));
    }
    let folders = world.host_entries(Path::new(ROOT).join("mnt"));
    if !folders.is_empty() {
        return Err(format!("mount points left: {folders:?}"));
    }
    // A name under /dev/mapper may outlive its device by a crash; udev removes it, and the next device of the name replaces it.
    Ok(())
}

/// A second start is quiet, finds the same, and works.
fn again(
    world: &World,
    expected: &Expected<'_>,
    wrap: Wrap,
    seen: &BTreeMap<u8, Seen>,
    rebooted: bool,
) -> Result<(), String> {
    let (driver, notices) = open(world, expected.setup, wrap).map_err(failed("the second start"))?;
    let loud = notices.iter().find(|n| n.severity == Severity::Warning || !n.text.contains("loop-backed"));
    if let Some(notice) = loud {
        return Err(format!("the second start says {}", notice.text));
    }
    for slot in 0..SLOTS {
        if driver.exists(&id(slot)) != seen.contains_key(&slot) {
            return Err(format!("layer {slot} came or went with the second start"));
        }
    }
    let extra = LayerId::given("extra").map_err(|e| e.to_string())?;
    let request = seen.keys().next().map_or_else(CreateRequest::empty, |slot| CreateRequest::on(id(*slot)));
    driver.create(&extra, &request).map_err(failed("a new layer"))?;
    driver.get(&extra, None).map_err(failed("its get"))?;
    driver.put(&extra, Unmount::Now).map_err(failed("its put"))?;
    driver.remove(&extra).map_err(failed("its removal"))?;
    settle(world, &driver, seen, expected.foreign_thin)?;
    stop(world, &driver, rebooted)
}
