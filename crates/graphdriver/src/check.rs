//! Does the store agree with the pool and the kernel? Looks, and changes nothing.

use crate::condition::Condition;
use crate::driver::Driver;
use crate::error::Result;
use crate::machine::Machine;
use crate::names::Names;
use crate::options::Options;
use crate::site::Site;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use thinlayer_dm::{Bytes, Flush, Slot};
use thinlayer_store::{LayerId, Record, Recovery, Store};
use thinlayer_thin::{BackingDevice, Pool, ThinTable};

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckFinding {
    /// Its class, for programs: `pool-trouble`, `open-transaction`, ...
    pub kind: &'static str,
    /// What it is about: a layer, a device, a file.
    pub subject: String,
    /// What is wrong and what to do, for people.
    pub text: String,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Nothing in here: store, pool and kernel agree.
    pub findings: Vec<CheckFinding>,
    /// Records that were looked at.
    pub records: usize,
    /// Active devices that were looked at.
    pub devices: usize,
    /// Mounts that were looked at.
    pub mounts: usize,
}

impl CheckReport {
    fn found(&mut self, kind: &'static str, subject: impl ToString, text: impl Into<String>) {
        self.findings.push(CheckFinding { kind, subject: subject.to_string(), text: text.into() });
    }
}

impl Driver {
    /// Compares store, pool, devices, mounts and loop devices. Read-only; costs a status and a few calls for each active device.
    ///
    /// # Errors
    /// If the kernel cannot be asked. What is wrong with the root is no error but a finding.
    pub fn check(&self) -> Result<CheckReport> {
        let mut report =
            self.between_transactions(|| check(&self.machine, &self.store, &self.pool, &self.options))?;
        let unsaid: HashSet<LayerId> = self.uses.all().into_iter().collect();
        let mounted: HashSet<LayerId> = mounted_layers(&self.machine, &self.names)?.into_keys().collect();
        for id in unsaid.difference(&mounted) {
            report.found("lost-mount", id, "it is in use as far as the driver knows, but nothing is mounted: somebody else unmounted it; `umount` it here too");
        }
        Ok(report)
    }
}

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

/// The check of an active pool.
pub(crate) fn check(machine: &Machine, store: &Store, pool: &Pool, options: &Options) -> Result<CheckReport> {
    let names = Names::of(&machine.root);
    let mut report = CheckReport::default();
    let mut records = store.layers();
    records.extend(store.pending_deletion());
    report.records = records.len();

    let state = pool.status(Flush::No)?;
    let table = pool.table()?;
    let site = Site { machine, options, pool: pool.name(), block: table.block_size, volume_blocked: None };
    let finding = site.judge(&state, Some(&table));
    if finding.condition != Condition::Good && !finding.condition.is_low() {
        report.found("pool-trouble", pool.name(), finding.text);
    }
    let pool_id = state.running().map_or(0, |status| status.transaction_id.0);
    match store.compare(pool_id) {
        Recovery::Clean => {}
        Recovery::Open(pending) => {
            for pending in pending {
                report.found(
                    "open-transaction",
                    &pending.layer,
                    "an operation on it was interrupted; the next command that opens the root finishes or undoes it",
                );
            }
        }
        other => report.found("transaction-id", pool.name(), other.to_string()),
    }
    check_records(&records, pool_id, &mut report);
    for (id, path) in store.damaged() {
        report.found("damaged-record", id, format!("its record was set aside as {}; mend it and move it back to metadata/, or delete it to give the layer up", path.display()));
    }
    check_devices(machine, pool, &names, &records, &mut report)?;
    check_loops(machine, pool, options, &mut report)?;
    Ok(report)
}

fn check_records(records: &[(LayerId, Arc<Record>)], pool_id: u64, report: &mut CheckReport) {
    let mut by_device: BTreeMap<u32, Vec<&LayerId>> = BTreeMap::new();
    for (id, record) in records {
        by_device.entry(record.device_id.get()).or_default().push(id);
        if record.transaction_id > pool_id {
            report.found("future-record", id, format!("it was made in transaction {}, and the pool is at {pool_id}: the pool is older than the store", record.transaction_id));
        }
        if record.deleted {
            report.found("deferred-deletion", id, "it is removed, but still in the pool; `thinlayer serve` or the next command gives its blocks back");
        }
        if record.extra.as_ref().is_some_and(|extra| extra.grow_pending) {
            report.found(
                "grow-pending",
                id,
                "its file system was not grown to its device's size yet; the next mount does it",
            );
        }
    }
    for (device_id, ids) in by_device {
        if ids.len() > 1 {
            let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
            report.found(
                "duplicate-device-id",
                device_id,
                format!("the records {} name the same thin device; none of them deletes it", ids.join(", ")),
            );
        }
    }
}

/// Active devices against records, and mounts against both.
fn check_devices(
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
            report.found(
                "orphan-device",
                &listed.name,
                "it is active, and no record knows it; `dmsetup remove` takes it away if nothing uses it",
            );
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
            report.found("idle-device", &listed.name, "it is active and nobody uses it: a command was interrupted; the next mount takes it, `stop` removes it");
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
fn check_loops(machine: &Machine, pool: &Pool, options: &Options, report: &mut CheckReport) -> Result<()> {
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
            report.found(
                "leaked-loop",
                device.node.display(),
                format!("it holds {} too, which the pool stands on; `losetup -d` it", device.file.display()),
            );
        }
    }
    Ok(())
}
