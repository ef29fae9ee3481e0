//! Does the store agree with the pool and the kernel? Looks, and changes nothing.

mod kernel;
mod metadata;
mod report;
mod rest;
mod snapshot;

pub(crate) use kernel::{mounted_layers, stray_folders};
pub(crate) use metadata::was_made_for;
pub(crate) use report::Mend;
pub use report::{CheckFinding, CheckReport, Outcome, Reading, Repair};
pub(crate) use rest::at_rest;
pub(crate) use snapshot::{Held, creations, held, release};

use crate::condition::Condition;
use crate::driver::Driver;
use crate::error::{Error, Result};
use crate::machine::Machine;
use crate::names::Names;
use crate::options::Options;
use crate::site::Site;
use metadata::{Context, compare};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use thinlayer_dm::{DmName, Flush};
use thinlayer_provision::loop_pool::Side;
use thinlayer_provision::lvm::PoolVolume;
use thinlayer_store::{Finding, LayerId, Mode, Record, Recovery, Store};
use thinlayer_thin::metadata::HeldMetadata;
use thinlayer_thin::{Health, Pool, PoolState, Trouble};

/// What is found twice, with this in between, is not just work under way.
const SETTLED: std::time::Duration = std::time::Duration::from_millis(200);

/// How far a check of an active pool goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// By somebody who does not own the root: others may be at work, and the pool is sent no message.
    Look,
    /// By the owner: the pool's metadata is read, through a metadata snapshot.
    Whole,
}

impl Driver {
    /// Compares store, pool, the pool's own metadata, devices, mounts and loop devices. Changes nothing but that a metadata snapshot is reserved and released,
    /// which is two commits of the pool; the metadata is read without holding anything that other operations need.
    ///
    /// # Errors
    /// If the kernel cannot be asked. What is wrong with the root is no error but a finding.
    pub fn check(&self) -> Result<CheckReport> {
        let _one = self.checking.try_lock_for(self.deadlines.layer).ok_or_else(|| Error::Busy {
            what: "the check".into(),
            why: "another one is under way; try again when it is done".into(),
        })?;
        let (mut report, taken) = self.between_transactions(|| {
            recorded(&self.machine, &self.store, &self.pool, &self.options, Depth::Whole)
        })?;
        // One that grows right now is not an interrupted one.
        report.findings.retain(
            |finding| !matches!(&finding.mend, Some(Mend::Grow(id)) if self.reservations.is_held(id)),
        );
        let uses = |report: &mut CheckReport| self.lost_mounts(report);
        seen(&self.machine, &self.store, &self.pool, &self.options, &uses, &mut report)?;
        finish(&self.machine, taken, &mut report)?;
        Ok(report)
    }

    fn lost_mounts(&self, report: &mut CheckReport) -> Result<()> {
        let used = self.uses.all();
        let mounted: HashSet<LayerId> = mounted_layers(&self.machine, &self.names)?.into_keys().collect();
        for id in used.into_iter().filter(|id| !mounted.contains(id)) {
            let text = "it is in use as far as the driver knows, but nothing is mounted: somebody else unmounted it; `umount` it here too";
            report.mendable("lost-mount", &id, text, Mend::ForgetUses(id.clone()));
        }
        Ok(())
    }
}

/// The check of an active pool by somebody who does not work on it.
pub(crate) fn active(
    machine: &Machine,
    store: &Store,
    pool: &Pool,
    options: &Options,
    depth: Depth,
) -> Result<CheckReport> {
    let (mut report, taken) = recorded(machine, store, pool, options, depth)?;
    seen(machine, store, pool, options, &|_| Ok(()), &mut report)?;
    finish(machine, taken, &mut report)?;
    Ok(report)
}

/// Devices, mounts, folders and loop devices against the records, while others may be at work: what is not there any more a moment later was work.
fn seen(
    machine: &Machine,
    store: &Store,
    pool: &Pool,
    options: &Options,
    more: &dyn Fn(&mut CheckReport) -> Result<()>,
    report: &mut CheckReport,
) -> Result<()> {
    let names = Names::of(&machine.root);
    let look = || -> Result<CheckReport> {
        let mut seen = CheckReport::default();
        let records = store.records();
        kernel::devices(machine, pool, &names, &records, &mut seen)?;
        kernel::folders(machine, &names, &records, &mut seen)?;
        kernel::loops(machine, pool, options, &mut seen)?;
        more(&mut seen)?;
        Ok(seen)
    };
    let mut last = look()?;
    if !last.findings.is_empty() {
        machine.clock.sleep(SETTLED);
        let first = std::mem::replace(&mut last, look()?);
        last.findings.retain(|finding| first.findings.contains(finding));
    }
    report.devices = last.devices;
    report.mounts = last.mounts;
    report.findings.extend(last.findings);
    Ok(())
}

/// Records and pool, and what is needed to go on with its metadata ([`finish`]). The owner calls it between two transactions.
fn recorded(
    machine: &Machine,
    store: &Store,
    pool: &Pool,
    options: &Options,
    depth: Depth,
) -> Result<(CheckReport, Option<(HeldMetadata, Context)>)> {
    let mut report = CheckReport::default();
    let given = given_pool(machine, options)?;
    let advice = advice(machine, options, given.as_ref());
    let mut context = Context::of(store, given.is_some(), advice);

    let state = pool.status(Flush::No)?;
    let health = state.health();
    let table = pool.table()?;
    let site = Site { machine, options, pool: pool.name(), block: table.block_size, volume_blocked: None };
    let finding = site.judge(&state, Some(&table));
    if finding.condition != Condition::Good && !finding.condition.is_low() {
        report.found("pool-trouble", pool.name(), format!("{}; {}", finding.text, context.advice));
        report.hopeless |= matches!(
            health,
            Health::Trouble(trouble) if !matches!(trouble, Trouble::OutOfData | Trouble::OutOfMetadata)
        );
    }
    let pool_id = state.running().map_or(0, |status| status.transaction_id.0);
    store_and_pool(store, pool_id, pool.name().as_str(), &mut context, &mut report);
    files(machine, &mut report)?;
    let takes_messages = matches!(health, Health::Good | Health::Trouble(Trouble::OutOfData));
    if depth == Depth::Look || !takes_messages || !matches!(state, PoolState::Running(_)) {
        return Ok((report, None));
    }
    let taken = match held(&*machine.disk, pool)? {
        Held::Nobody => match snapshot::take(machine, pool) {
            Ok(metadata) => Some((metadata, context)),
            Err(error) => {
                if error.kind() == crate::Kind::NeedsCheck {
                    report.hopeless = true;
                    report.found("metadata-damage", pool.name(), format!("{error}; {}", context.advice));
                } else {
                    report.found(
                        "metadata-unread",
                        pool.name(),
                        format!("the pool's metadata was not read: {error}; check again when that is over"),
                    );
                }
                None
            }
        },
        Held::Ours(root) => {
            report.mendable(
                "stale-metadata-snapshot",
                pool.name(),
                format!("a check that was killed left its metadata snapshot at block {}, so the pool's metadata was not read; `check --repair` releases it", root.0),
                Mend::Release(root),
            );
            None
        }
        Held::Foreign(root) => {
            report.found(
                "foreign-metadata-snapshot",
                pool.name(),
                format!("somebody (or a check that was killed as it began) holds a metadata snapshot at block {}, so the pool's metadata was not read; check again when it is released; if nobody needs it: `dmsetup message {} 0 release_metadata_snap`", root.0, pool.name()),
            );
            None
        }
    };
    Ok((report, taken))
}

/// The part of a check that reads the pool's metadata. Nothing that others need is held meanwhile.
fn finish(machine: &Machine, taken: Option<(HeldMetadata, Context)>, report: &mut CheckReport) -> Result<()> {
    let Some((metadata, context)) = taken else { return Ok(()) };
    report.reading = Some(Reading::Snapshot);
    compare(&metadata, &context, report);
    report.hopeless |= report.has("metadata-damage");
    snapshot::done(machine, metadata)
}

/// The transaction, and what the records say by themselves.
fn store_and_pool(store: &Store, pool_id: u64, pool: &str, context: &mut Context, report: &mut CheckReport) {
    report.records = context.records.len();
    report.deferred = store.pending_deletion().len();
    let recovery = store.compare(pool_id);
    context.compared(&recovery);
    match recovery {
        Recovery::Clean => {}
        Recovery::Open(pending) => {
            for pending in pending {
                report.mendable(
                    "open-transaction",
                    &pending.layer,
                    "an operation on it was interrupted; the next command that opens the root finishes or undoes it",
                    Mend::Settle,
                );
            }
        }
        other => {
            report.hopeless |= matches!(other, Recovery::TooFarAhead { .. });
            report.found("transaction-id", pool, other.to_string());
        }
    }
    records(&context.records, pool_id, report);
    for (id, path) in store.damaged() {
        report.found("damaged-record", id, format!("its record was set aside as {}; mend it and move it back to metadata/, or delete it to give the layer up", path.display()));
    }
}

/// What is wrong with the files of the store by themselves. Reads them anew: what a start has put in order is no finding any more.
fn files(machine: &Machine, report: &mut CheckReport) -> Result<()> {
    let (_, findings) = Store::open(machine.disk.clone(), Mode::ReadOnly)?;
    for finding in findings {
        let kind = match &finding {
            Finding::UnusableName { .. } => "unusable-name",
            Finding::Folder { .. } => "foreign-folder",
            Finding::MalformedTransaction { .. } => "malformed-transaction",
            Finding::DamagedDeviceSet { .. } => "damaged-device-set",
            Finding::DamagedLegacyRecord { .. } => "damaged-record",
            _ => continue,
        };
        report.found(kind, machine.root.path.join("metadata").display(), finding.to_string());
    }
    Ok(())
}

fn records(records: &[(LayerId, Arc<Record>)], pool_id: u64, report: &mut CheckReport) {
    let mut by_device: BTreeMap<u32, Vec<&LayerId>> = BTreeMap::new();
    for (id, record) in records {
        by_device.entry(record.device_id.get()).or_default().push(id);
        // The record of an interrupted creation is one ahead.
        if record.transaction_id > pool_id.saturating_add(report.has("open-transaction").into()) {
            report.found("future-record", id, format!("it was made in transaction {}, and the pool is at {pool_id}: the pool is older than the store", record.transaction_id));
        }
        if record.extra.as_ref().is_some_and(|extra| extra.grow_pending) {
            report.mendable(
                "grow-pending",
                id,
                "its file system was not grown to its device's size yet; the next mount does it",
                Mend::Grow(id.clone()),
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

/// The pool of this root, where somebody else made it: LVM, or who named it in `dm.thinpooldev`.
pub(crate) fn given_pool(machine: &Machine, options: &Options) -> Result<Option<DmName>> {
    match &options.thin_pool {
        Some(name) => Ok(Some(name.clone())),
        None => crate::direct_lvm::pool_name(machine, options),
    }
}

/// The command lines for damaged metadata.
pub(crate) fn advice(machine: &Machine, options: &Options, given: Option<&DmName>) -> String {
    if let Some(pool) = given {
        return match PoolVolume::of_device(pool) {
            Some(volume) => {
                format!(
                    "take the pool down (`lvchange -an {volume}`) and repair it with `lvconvert --repair {volume}`"
                )
            }
            None => format!(
                "take pool {pool} down, run `thin_check` on its metadata device, and `thin_repair` if that finds damage"
            ),
        };
    }
    let root = machine.root.path.display();
    let stop = format!("take the pool down (`thinlayer --root {root} stop`)");
    match &options.metadata_device {
        Some(device) => {
            let device = device.display();
            format!(
                "{stop}, then `thin_check {device}`; if that finds damage, `thin_repair --input {device} --output DEVICE` onto another device of its size, and name that in dm.metadatadev"
            )
        }
        None => {
            let file = Side::Metadata.path(&machine.root.path);
            let file = file.display();
            format!(
                "{stop}, then `thin_check {file}`; if that finds damage, `fallocate --length $(stat --format %s {file}) {file}.new` and `thin_repair --input {file} --output {file}.new`, and put that in its place"
            )
        }
    }
}
