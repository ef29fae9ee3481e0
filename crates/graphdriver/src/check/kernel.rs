//! Active devices, mounts, mount folders and loop devices against the records.

use super::report::{CheckReport, Mend};
use crate::error::Result;
use crate::machine::Machine;
use crate::names::Names;
use crate::options::Options;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use thinlayer_dm::{Bytes, Slot};
use thinlayer_provision::LoopDevice;
use thinlayer_store::{LayerId, Record};
use thinlayer_thin::{BackingDevice, Pool, ThinTable};

/// The layers whose mount points have something mounted, with the number of the mounted device (the last one on top).
pub(crate) fn mounted_layers(
    machine: &Machine,
    names: &Names,
) -> Result<HashMap<LayerId, thinlayer_dm::DeviceNumber>> {
    let mut mounted = HashMap::new();
    for mount in machine.filesystems.mounts()? {
        if mount.target.parent() == Some(names.mounts().as_path())
            && let Some(id) = mount
                .target
                .file_name()
                .and_then(|name| name.to_str())
                .and_then(|name| LayerId::found(name).ok())
        {
            mounted.insert(id, thinlayer_dm::DeviceNumber { major: mount.device.0, minor: mount.device.1 });
        }
    }
    Ok(mounted)
}

/// Active devices against records, and mounts against both.
pub(crate) fn devices(
    machine: &Machine,
    pool: &Pool,
    names: &Names,
    records: &[(LayerId, Arc<Record>)],
    report: &mut CheckReport,
) -> Result<()> {
    let by_id: HashMap<&LayerId, &Arc<Record>> = records.iter().map(|(id, record)| (id, record)).collect();
    let mounted = mounted_layers(machine, names)?;
    report.mounts = mounted.len();
    let mut numbers = HashMap::new();
    for listed in machine.dm.devices()? {
        let Some(id) = names.layer_of(listed.name.as_str()) else { continue };
        report.devices += 1;
        numbers.insert(id.clone(), listed.number);
        let Some(record) = by_id.get(&id) else {
            let text =
                "it is active, and no record knows it; `dmsetup remove` takes it away if nothing uses it";
            let open = machine.dm.info((&listed.name).into())?.is_some_and(|info| info.open_count > 0);
            if open {
                report.found("orphan-device", &listed.name, text);
            } else {
                let mend = Mend::Deactivate(listed.name.clone());
                report.mendable("orphan-device", &listed.name, text, mend);
            }
            continue;
        };
        let (info, table) = machine.dm.table((&listed.name).into(), Slot::Live)?;
        if info.suspended {
            report.found(
                "suspended-device",
                &listed.name,
                "its I/O is held back; `dmsetup resume` lets it go on",
            );
        }
        let parsed = table.first().and_then(|target| ThinTable::from_target(target).ok());
        match parsed {
            Some(thin) => {
                if thin.id.get() != record.device_id.get() {
                    report.found(
                        "wrong-device",
                        &listed.name,
                        format!(
                            "it stands on thin device {}, and its record names {}",
                            thin.id.get(),
                            record.device_id.get()
                        ),
                    );
                }
                if thin.pool != BackingDevice::Number(pool.number()) {
                    report.found(
                        "wrong-pool",
                        &listed.name,
                        format!("it stands on another pool than {}", pool.name()),
                    );
                }
                if thin.len != Bytes(record.size_bytes).to_sectors() {
                    report.found(
                        "wrong-size",
                        &listed.name,
                        format!(
                            "it has {}, and its record says {}",
                            thin.len,
                            Bytes(record.size_bytes).to_sectors()
                        ),
                    );
                }
            }
            None => report.found("wrong-table", &listed.name, "it is no thin device"),
        }
        if !mounted.contains_key(&id) && info.open_count == 0 && !info.deferred_remove {
            report.mendable("idle-device", &listed.name, "it is active and nobody uses it: a command was interrupted; the next mount takes it, `stop` removes it", Mend::Deactivate(listed.name.clone()));
        }
    }
    for (id, number) in mounted {
        match numbers.get(&id) {
            Some(device) if *device == number => {}
            Some(device) => report.found(
                "wrong-mount",
                &id,
                format!("device {number} is mounted there, and the layer's device is {device}"),
            ),
            None => report.found(
                "stray-mount",
                &id,
                format!(
                    "device {number} is mounted at {}, which is not an active layer's",
                    names.mount_point(&id).display()
                ),
            ),
        }
    }
    Ok(())
}

/// Two loop devices on one file break a pool; a loop device that nobody uses holds the file's space.
pub(crate) fn loops(
    machine: &Machine,
    pool: &Pool,
    options: &Options,
    report: &mut CheckReport,
) -> Result<()> {
    if options.thin_pool.is_some() {
        return Ok(());
    }
    let table = pool.table()?;
    let ours = [crate::pool::number(&table.data).ok(), crate::pool::number(&table.metadata).ok()];
    let loops = machine.backing.loops()?;
    let files: HashSet<(u64, u64)> = loops
        .iter()
        .filter(|device| ours.contains(&Some(device.number)))
        .map(|device| (device.dev, device.inode))
        .collect();
    for device in loops {
        if files.contains(&(device.dev, device.inode)) && !ours.contains(&Some(device.number)) {
            leaked_loop(machine, &device, "which the pool stands on", report);
        }
    }
    Ok(())
}

/// A loop device on one of the pool's files that the pool does not stand on.
pub(super) fn leaked_loop(machine: &Machine, device: &LoopDevice, which: &str, report: &mut CheckReport) {
    let users = machine.backing.inspect(&device.node).map(|device| device.users).unwrap_or_default();
    let text = format!("it holds {} too, {which}; `losetup -d` it", device.file.display());
    if users.is_empty() {
        let mend = Mend::Detach(device.number, device.node.clone());
        report.mendable("leaked-loop", device.node.display(), text, mend);
    } else {
        report.found(
            "leaked-loop",
            device.node.display(),
            format!("{text} when what uses it has ended: {}", users.join(", ")),
        );
    }
}

/// Folders of layers that do not exist, in the folder of mount points.
pub(crate) fn folders(
    machine: &Machine,
    names: &Names,
    records: &[(LayerId, Arc<Record>)],
    report: &mut CheckReport,
) -> Result<()> {
    for id in stray_folders(machine, names, records)? {
        report.mendable(
            "stray-folder",
            names.mount_point(&id).display(),
            "it is the mount folder of a layer that does not exist; `rmdir` it if it is empty",
            Mend::RemoveFolder(id),
        );
    }
    Ok(())
}

/// The layers that such folders are named after.
pub(crate) fn stray_folders(
    machine: &Machine,
    names: &Names,
    records: &[(LayerId, Arc<Record>)],
) -> Result<Vec<LayerId>> {
    let known: HashSet<&LayerId> = records.iter().map(|(id, _)| id).collect();
    let mounted = mounted_layers(machine, names)?;
    let named = machine.filesystems.dirs(names.mounts())?.into_iter();
    Ok(named
        .filter_map(|name| LayerId::found(&name).ok())
        .filter(|id| !known.contains(id) && !mounted.contains_key(id))
        .collect())
}
