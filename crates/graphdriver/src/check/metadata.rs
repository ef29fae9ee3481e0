//! Records against the pool's own metadata, in both directions.

use super::report::{CheckReport, Mend};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use thinlayer_store::{DeviceId, LayerId, Record, Recovery, Store};
use thinlayer_thin::ThinId;
use thinlayer_thin::metadata::{DeviceDetails, Metadata};

/// So many faults of the metadata are told one by one.
const TOLD: usize = 5;

/// What the comparison has to know besides the records.
#[derive(Debug)]
pub(crate) struct Context {
    /// Records by their layers, removed ones too.
    pub(crate) records: Vec<(LayerId, Arc<Record>)>,
    /// Thin devices of an interrupted operation: they may be there or not.
    pub(crate) in_flight: BTreeSet<u32>,
    /// Thin devices of records with unusable names.
    pub(crate) nameless: BTreeSet<u32>,
    /// Records that cannot be read: nobody knows their devices.
    pub(crate) damaged: usize,
    /// Store and pool are at the same transaction, or at one that was interrupted.
    pub(crate) in_step: bool,
    /// Somebody else made the pool, and others may have devices in it.
    pub(crate) shared: bool,
    /// What to do about damaged metadata.
    pub(crate) advice: String,
}

impl Context {
    pub(crate) fn of(store: &Store, shared: bool, advice: String) -> Self {
        let records = store.records();
        let nameless = store.nameless().into_iter().map(DeviceId::get).collect();
        Self {
            records,
            in_flight: BTreeSet::new(),
            nameless,
            damaged: store.damaged().len(),
            in_step: false,
            shared,
            advice,
        }
    }

    /// Takes in what store and pool say of the last transaction.
    pub(crate) fn compared(&mut self, recovery: &Recovery) {
        self.in_step = matches!(recovery, Recovery::Clean | Recovery::Open(_));
        if let Recovery::Open(pending) = recovery {
            self.in_flight.extend(pending.iter().map(|pending| pending.device_id.get()));
        }
    }
}

/// Compares. Where the metadata is damaged, only that is told: what else is missing then may be the damage.
pub(crate) fn compare(metadata: &Metadata, context: &Context, report: &mut CheckReport) {
    consistency(metadata, context, report);
    if report.has("metadata-damage") {
        return;
    }
    let devices = match metadata.devices().collect::<Result<Vec<_>, _>>() {
        Ok(devices) => devices,
        Err(error) => {
            damage(report, metadata, &error.to_string(), context);
            return;
        }
    };
    report.thin_devices = Some(devices.len());
    let devices: BTreeMap<u32, DeviceDetails> =
        devices.into_iter().map(|device| (device.id.get(), device)).collect();
    let mut named = BTreeSet::new();
    for (id, record) in &context.records {
        named.insert(record.device_id.get());
        match devices.get(&record.device_id.get()) {
            Some(details) => one(metadata, id, record, details, context, report),
            None => missing(id, record, context, report),
        }
    }
    for details in devices.values() {
        let number = details.id.get();
        if !named.contains(&number)
            && !context.in_flight.contains(&number)
            && !context.nameless.contains(&number)
        {
            orphan(metadata, details, context, report);
        }
    }
}

fn consistency(metadata: &Metadata, context: &Context, report: &mut CheckReport) {
    let found = metadata.check();
    let (leaks, faults): (Vec<_>, Vec<_>) = found.faults.iter().partition(|fault| fault.is_leak());
    let told = faults.len().min(TOLD);
    for fault in &faults[..told] {
        damage(report, metadata, &fault.to_string(), context);
    }
    let more = (faults.len() - told) as u64 + if faults.is_empty() { 0 } else { found.more };
    if more > 0 {
        damage(report, metadata, &format!("{more} more faults"), context);
    }
    if let Some(first) = leaks.first().filter(|_| faults.is_empty()) {
        report.found(
            "metadata-leak",
            metadata.device(),
            format!("{first} ({} such places); {}", leaks.len() as u64 + found.more, context.advice),
        );
    }
    if metadata.superblock().needs_check && !metadata.is_snapshot() {
        report.found(
            "needs-check",
            metadata.device(),
            format!("the kernel marked the pool's metadata as possibly damaged, and loads the pool read-only; {}; `thin_check --clear-needs-check-flag {}` takes the mark off if nothing is wrong", context.advice, metadata.device()),
        );
    }
}

fn damage(report: &mut CheckReport, metadata: &Metadata, what: &str, context: &Context) {
    report.found("metadata-damage", metadata.device(), format!("{what}; {}", context.advice));
}

/// May a thin device that was made in this transaction be the record's?
///
/// It is made before the transaction id moves on, so it has the id before its record's; some old records have the same.
pub(crate) fn was_made_for(record: &Record, made: u64) -> bool {
    made <= record.transaction_id && record.transaction_id <= made.saturating_add(1)
}

/// A record and its device.
fn one(
    metadata: &Metadata,
    id: &LayerId,
    record: &Record,
    details: &DeviceDetails,
    context: &Context,
    report: &mut CheckReport,
) {
    let made = details.transaction_id.0;
    let after = made > record.transaction_id;
    if !was_made_for(record, made) && !context.in_flight.contains(&record.device_id.get()) {
        report.found(
            "wrong-transaction",
            id,
            format!(
                "its thin device {} was made in transaction {made}, {} its record of transaction {}: the device may be another layer's; look at it before it is used",
                record.device_id,
                if after { "after" } else { "before" },
                record.transaction_id
            ),
        );
    }
    match metadata.highest_mapped(details.id) {
        Ok(Some(highest)) => {
            let block = metadata.superblock().block_size.bytes().0;
            let end = highest.saturating_add(1).saturating_mul(block);
            // The last block may reach beyond the end of a device that is no multiple of it.
            if end > record.size_bytes.div_ceil(block).saturating_mul(block) {
                report.found(
                    "mapped-beyond-size",
                    id,
                    format!(
                        "its thin device {} has blocks up to byte {end}, and its record says that it is {} bytes long: what lies beyond cannot be read; `resize` it",
                        record.device_id, record.size_bytes
                    ),
                );
            }
        }
        Ok(None) => {}
        Err(error) => damage(report, metadata, &error.to_string(), context),
    }
}

/// A record without a device.
fn missing(id: &LayerId, record: &Record, context: &Context, report: &mut CheckReport) {
    if context.in_flight.contains(&record.device_id.get()) {
        return;
    }
    let device = record.device_id;
    if record.deleted {
        // The worker finds that out, and unlinks the record.
        return;
    }
    let text =
        format!("the pool has no thin device {device}, so nothing is left of this layer but its record");
    if id.is_base() {
        report.found(
            "missing-thin-device",
            "base",
            format!("{text}; it is the base of all layers: is it the right pool?"),
        );
    } else if context.in_step {
        report.mendable(
            "missing-thin-device",
            id,
            format!("{text}; `check --repair` moves that to quarantine, or `rm` it"),
            Mend::SetAside(id.clone(), device),
        );
    } else {
        report.found("missing-thin-device", id, format!("{text}; is it the right pool?"));
    }
}

/// A device without a record.
fn orphan(metadata: &Metadata, details: &DeviceDetails, context: &Context, report: &mut CheckReport) {
    let id: ThinId = details.id;
    if context.shared {
        report.unnamed.push(id.get());
        return;
    }
    let text = format!(
        "no record names it ({} blocks, made in transaction {})",
        details.mapped.0, details.transaction_id
    );
    let subject = format!("thin device {id}");
    if context.damaged > 0 {
        report.found(
            "orphan-thin-device",
            subject,
            format!(
                "{text}; it may be that of a damaged record, so it is left alone; mend or delete those first"
            ),
        );
    } else if !context.in_step {
        report.found(
            "orphan-thin-device",
            subject,
            format!("{text}; its record may be in a newer copy of this root, so it is left alone"),
        );
    } else if let Some(device_id) = DeviceId::new(id.get()) {
        let block = metadata.superblock().block_size.bytes().0;
        let blocks =
            metadata.highest_mapped(id).ok().flatten().map_or(0, |highest| highest.saturating_add(1));
        // The pool does not know how long a device is. One that is longer than its file system does no harm.
        let longest = context.records.iter().map(|(_, record)| record.size_bytes).max().unwrap_or(0);
        let size = longest.max(blocks.saturating_mul(block));
        report.mendable(
            "orphan-thin-device",
            subject,
            format!(
                "{text}; `check --repair` makes layer recovered-{id} of it: look into that with `mount`, and `rm` it if nobody needs it"
            ),
            Mend::Recover { device_id, size, transaction_id: details.transaction_id.0 },
        );
    }
}
