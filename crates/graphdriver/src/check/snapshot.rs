//! The metadata of an active pool is read through a metadata snapshot, which the pool has one of and does not say whose. A note on disk says that it is ours.

use crate::error::{Error, Result};
use crate::machine::Machine;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use thinlayer_dm::Flush;
use thinlayer_store::Disk;
use thinlayer_thin::metadata::{Abandoned, HeldMetadata, Place};
use thinlayer_thin::{MetaBlocks, Pool};

/// In the root, as a metadata snapshot outlives a reboot.
const NOTE: &str = "thinlayer/metadata-snapshot";
const FOLDER: &str = "thinlayer";

/// What is written before a metadata snapshot is reserved, and again when its root is known.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    pool: String,
    /// `None`: it was about to be reserved, and the pool had none the moment before.
    root: Option<u64>,
}

/// Whose metadata snapshot the pool holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// None.
    Nobody,
    /// One that a killed process of this root left.
    Ours(MetaBlocks),
    /// Somebody else's.
    Foreign(MetaBlocks),
}

/// Looks whose metadata snapshot the pool holds. The caller owns the root.
pub(crate) fn held(disk: &dyn Disk, pool: &Pool) -> Result<Held> {
    let state = pool.status(Flush::No)?;
    let Some(root) = state.running().and_then(|status| status.held_metadata_root) else {
        return Ok(Held::Nobody);
    };
    // Without its root it may be that of somebody who came right after we were killed; so may be one whose note was cut off.
    let ours = disk.read(Path::new(NOTE)).is_ok_and(|text| {
        serde_json::from_slice::<Note>(&text)
            .is_ok_and(|note| note.pool == pool.name().as_str() && note.root == Some(root.0))
    });
    Ok(if ours { Held::Ours(root) } else { Held::Foreign(root) })
}

/// Releases what a killed process of this root left.
pub(crate) fn release(disk: &dyn Disk, pool: &Pool, root: MetaBlocks) -> Result<Abandoned> {
    let released = pool.release_abandoned(root)?;
    forget(disk);
    Ok(released)
}

/// Takes a metadata snapshot, noted as ours. The caller owns the root, and releases it with [`done`].
pub(crate) fn take(machine: &Machine, pool: &Pool) -> Result<HeldMetadata> {
    let disk = &*machine.disk;
    let table = pool.table()?;
    let number = crate::pool::number(&table.metadata)?;
    let failed = |source| thinlayer_thin::metadata::Error::Open { device: number.to_string(), source };
    let source =
        machine.metadata.open(Place::Device(number)).map_err(failed).map_err(thinlayer_thin::Error::from)?;
    let name = pool.name().as_str();
    note(disk, name, None).map_err(failed).map_err(thinlayer_thin::Error::from)?;
    let device = format!("device {number}");
    let taken =
        pool.hold_metadata_of(source, &device, |root| Ok(note(disk, name, Some(root.0)).map_err(failed)?));
    if taken.is_err() {
        forget(disk);
    }
    Ok(taken?)
}

/// In which transaction each thin device of the pool was made. The caller owns the root, and nobody else holds a metadata snapshot.
pub(crate) fn creations(machine: &Machine, pool: &Pool) -> Result<BTreeMap<u32, u64>> {
    if let Held::Ours(root) | Held::Foreign(root) = held(&*machine.disk, pool)? {
        return Err(Error::Busy {
            what: format!("the metadata of pool {}", pool.name()),
            why: format!("a metadata snapshot is held at block {}", root.0),
        });
    }
    let metadata = take(machine, pool)?;
    let read: std::result::Result<_, _> = metadata
        .devices()
        .map(|device| device.map(|device| (device.id.get(), device.transaction_id.0)))
        .collect();
    done(machine, metadata)?;
    Ok(read.map_err(thinlayer_thin::Error::from)?)
}

/// Releases the metadata snapshot.
pub(crate) fn done(machine: &Machine, metadata: HeldMetadata) -> Result<()> {
    let released = metadata.release();
    // What is not released is ours for the next one.
    if released.is_ok() {
        forget(&*machine.disk);
    }
    Ok(released?)
}

fn note(disk: &dyn Disk, pool: &str, root: Option<u64>) -> io::Result<()> {
    let text = serde_json::to_vec(&Note { pool: pool.to_owned(), root }).unwrap_or_default();
    disk.make_folder(Path::new(FOLDER))?;
    disk.write(Path::new(NOTE), &text)?;
    disk.sync_file(Path::new(NOTE))?;
    disk.sync_folder(Path::new(FOLDER))
}

fn forget(disk: &dyn Disk) {
    let removed = disk.remove(Path::new(NOTE)).and_then(|()| disk.sync_folder(Path::new(FOLDER)));
    if let Err(error) = removed
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, "the note of a metadata snapshot that is released cannot be removed");
    }
}
