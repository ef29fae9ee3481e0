//! A root whose pool is not active: its files are read, and nothing is woken.

use super::metadata::{Context, compare};
use super::report::{CheckReport, Reading};
use super::{advice, given_pool, kernel, store_and_pool};
use crate::error::{Error, Result};
use crate::machine::Machine;
use crate::names::Names;
use crate::options::Options;
use std::path::Path;
use thinlayer_provision::loop_pool::Side;
use thinlayer_store::Store;
use thinlayer_thin::metadata::{self, Metadata, Place};

/// Compares records, the pool's own metadata, mounts and loop devices. Read-only, and needs no device-mapper.
///
/// # Errors
/// If the pool was given by name (`dm.thinpooldev`): where its metadata lies is known only while it is active.
pub(crate) fn at_rest(machine: &Machine, store: &Store, options: &Options) -> Result<CheckReport> {
    if let Some(name) = given_pool(machine, options)? {
        return Err(Error::Invalid {
            what: format!(
                "thin pool {name} is not active, and only while it is, its metadata can be read; {}",
                crate::direct_lvm::how_to_activate(machine, &name)
                    .unwrap_or_else(|| "activate it first".into())
            ),
        });
    }
    let names = Names::of(&machine.root);
    let mut report = CheckReport::default();
    let mut context = Context::of(store, false, advice(machine, options, None));
    report.records = context.records.len();
    report.deferred = store.pending_deletion().len();

    super::files(machine, &mut report)?;
    kernel::folders(machine, &names, &context.records, &mut report)?;
    for (id, number) in kernel::mounted_layers(machine, &names)? {
        report.mounts += 1;
        report.found(
            "stray-mount",
            &id,
            format!(
                "device {number} is mounted at {}, and the pool is not active",
                names.mount_point(&id).display()
            ),
        );
    }
    let known = !context.records.is_empty() || context.damaged > 0;
    let readable = match &options.metadata_device {
        Some(device) => given_is_free(machine, device, &mut report)?,
        None => true,
    };
    if !loop_files(machine, options, known, &mut report)? || !readable {
        return Ok(report);
    }
    let path = match &options.metadata_device {
        Some(device) => device.clone(),
        None => Side::Metadata.path(&machine.root.path),
    };
    let shown = path.display().to_string();
    let opened = machine
        .metadata
        .open(Place::Path(&path))
        .map_err(|source| metadata::Error::Open { device: shown.clone(), source })
        .and_then(|source| Metadata::of(source, shown.clone()));
    match opened {
        Ok(metadata) => {
            report.reading = Some(Reading::Offline);
            let pool_id = metadata.superblock().transaction_id.0;
            store_and_pool(store, pool_id, &shown, &mut context, &mut report);
            compare(&metadata, &context, &mut report);
            report.hopeless |= report.has("metadata-damage") || report.has("needs-check");
        }
        // A root that was never used has no pool yet.
        Err(error) if error.kind() == metadata::Kind::NoPool && !known => {}
        Err(error) => {
            report.hopeless = true;
            let kind = match error.kind() {
                metadata::Kind::Damaged => "metadata-damage",
                metadata::Kind::NoPool => "no-pool",
                _ => "metadata-unread",
            };
            report.found(kind, &shown, format!("{error}; {}", context.advice));
        }
    }
    Ok(report)
}

/// The root's loop files are there, and nobody else has them. `false`: the metadata file cannot be read.
fn loop_files(machine: &Machine, options: &Options, known: bool, report: &mut CheckReport) -> Result<bool> {
    let mut readable = true;
    let loops = machine.backing.loops()?;
    for (side, given) in [(Side::Data, &options.data_device), (Side::Metadata, &options.metadata_device)] {
        if given.is_some() {
            continue;
        }
        let path = side.path(&machine.root.path);
        let Some(file) = machine.backing.file(&path)? else {
            readable &= side != Side::Metadata;
            if known {
                report.hopeless = true;
                report.found(
                    "missing-file",
                    path.display(),
                    format!(
                        "this {side} file of the pool is missing, and the root has layers in it; put it back"
                    ),
                );
            }
            continue;
        };
        for device in loops.iter().filter(|held| (held.dev, held.inode) == (file.dev, file.inode)) {
            let users = machine.backing.inspect(&device.node).map(|device| device.users).unwrap_or_default();
            // One that frees itself is about to, unless something stands on it.
            if users.is_empty() && device.autoclear {
                continue;
            }
            kernel::leaked_loop(machine, device, "and the pool is not active", report);
            readable &= side != Side::Metadata || users.is_empty();
        }
    }
    Ok(readable)
}

/// Nobody else works on a metadata device that was given.
fn given_is_free(machine: &Machine, device: &Path, report: &mut CheckReport) -> Result<bool> {
    let users = machine.backing.inspect(device)?.users;
    if !users.is_empty() {
        report.found(
            "metadata-unread",
            device.display(),
            format!(
                "the pool is not active, and something else uses its metadata device: {}",
                users.join(", ")
            ),
        );
    }
    Ok(users.is_empty())
}
