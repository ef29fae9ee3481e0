//! What an existing graph directory holds, and what opening it would change: read, and nothing else.

use crate::error::Result;
use crate::machine::{Family, Machine};
use crate::names::Names;
use crate::options::Options;
use std::path::Path;
use thinlayer_dm::Bytes;
use thinlayer_provision::loop_pool::Side;
use thinlayer_provision::superblock::Superblock;
use thinlayer_store::{Finding, LayerId, Mode, Recovery, Store};
use thinlayer_thin::Pool;

/// A graph directory as it is, before this program has changed anything in it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Adoption {
    /// Whose it is.
    pub family: Family,
    /// This program has had it open before.
    pub known: bool,
    /// Where its pool is, in words.
    pub pool: String,
    /// The pool is up.
    pub active: bool,
    /// The pool's transaction id, if it can be read.
    pub transaction_id: Option<u64>,
    /// Layers that can be used.
    pub layers: usize,
    /// Removed layers whose blocks are still in the pool.
    pub deferred: usize,
    /// Layers whose record cannot be read.
    pub damaged: usize,
    /// The base's file system; empty if nobody wrote it down.
    pub filesystem: String,
    /// The base's UUID; empty if nobody wrote it down.
    pub base_uuid: String,
    /// The base's size.
    pub base_size: Bytes,
    /// What opening it would change, one line each.
    pub changes: Vec<String>,
    /// What keeps it from being opened, one line each.
    pub obstacles: Vec<String>,
}

impl Adoption {
    /// Looks at a root. Changes nothing in it, and asks the kernel only whether its pool is up.
    ///
    /// # Errors
    /// If the root cannot be read.
    pub fn look(machine: &Machine, options: &Options) -> Result<Self> {
        let mut notices = Vec::new();
        let (store, findings) = Store::open(machine.disk.clone(), Mode::ReadOnly)?;
        let (mut changes, mut obstacles) = (Vec::new(), Vec::new());
        let known = match crate::identity::check(machine, options, &mut notices) {
            Ok(known) => Some(known),
            Err(error) => {
                obstacles.push(error.to_string());
                None
            }
        };
        changes.extend(notices.into_iter().map(|notice| notice.text));
        changes.extend(findings.iter().map(planned));
        let name = crate::identity::pool_name(machine, options, &Names::of(&machine.root))?;
        let active = Pool::open(machine.dm.clone(), &name);
        let pool = match active {
            Ok(pool) => pool,
            // Without device-mapper nothing is up.
            Err(error)
                if matches!(
                    error.kind(),
                    thinlayer_thin::Kind::Absent | thinlayer_thin::Kind::Unfinished
                ) =>
            {
                None
            }
            Err(error) => {
                obstacles.push(error.to_string());
                None
            }
        };
        let transaction_id = transaction_id(machine, options, pool.as_ref());
        if let Some(id) = transaction_id {
            match store.compare(id) {
                Recovery::Clean => {}
                Recovery::Open(pending) => changes.extend(pending.iter().map(|pending| {
                    format!(
                        "an operation on layer {} was interrupted (thin device {}): it is undone or completed",
                        pending.layer, pending.device_id
                    )
                })),
                ahead @ Recovery::PoolAhead { .. } => changes.push(ahead.to_string()),
                older @ Recovery::TooFarAhead { .. } => obstacles.push(older.to_string()),
            }
        }
        let words = crate::identity::in_words(machine, options)?;
        let counts = store.counts();
        let set = store.device_set();
        let base = store.record_even_deleted(&LayerId::base());
        if counts.deleted > 0 {
            changes.push(format!(
                "{} removed layers are still in the pool: their blocks are given back",
                counts.deleted
            ));
        }
        if base.is_some() && (set.base_uuid.is_empty() || set.base_filesystem.is_empty()) {
            changes.push("the base's UUID and file system are looked up and written down".into());
        }
        let remembered = machine.disk.read(Path::new("thinlayer/pool.json")).is_ok();
        if !remembered {
            changes.push("which pool belongs to the root is written down (thinlayer/pool.json)".into());
        }
        if machine.disk.read(Path::new("thinlayer/lock")).is_err() {
            changes.push("the folder thinlayer/ is made, with the lock; Docker and Podman ignore it".into());
        }
        let transaction = machine.disk.read(Path::new("metadata/transaction-metadata"));
        if transaction.map_or(0, |text| text.len()) < thinlayer_store::TRANSACTION_FILE_BYTES {
            changes.push("the transaction file gets its room, so that removing works on a full disk".into());
        }
        if pool.is_none() && words == crate::identity::LOOP_WORDS {
            let file = machine.backing.file(&Side::Metadata.path(&machine.root.path))?;
            if let Some(file) = file.filter(|file| file.allocated < file.size) {
                changes.push(format!(
                    "the metadata file gets all of its blocks ({} more), so that a full disk cannot break the pool",
                    file.size.checked_sub(file.allocated).unwrap_or_default()
                ));
            }
        }
        let described = known.and_then(|known| known.remembered).map(|identity| identity.to_string());
        Ok(Self {
            family: machine.root.family,
            known: remembered,
            pool: described.unwrap_or(words),
            active: pool.is_some(),
            transaction_id,
            layers: counts.layers,
            deferred: counts.deleted,
            damaged: counts.damaged,
            filesystem: set.base_filesystem,
            base_uuid: set.base_uuid,
            base_size: base.map_or(Bytes(0), |record| Bytes(record.size_bytes)),
            changes,
            obstacles,
        })
    }
}

/// A finding of a store that may not write, as what one that may would do.
fn planned(finding: &Finding) -> String {
    match finding {
        Finding::Migrated { records } => {
            format!(
                "{records} records of Docker's oldest format (devicemapper/json) become files of their own"
            )
        }
        Finding::DamagedRecord { layer, why, .. } => {
            format!(
                "the record of layer {layer} is damaged ({why}): it is moved to thinlayer/quarantine/, and the others go on"
            )
        }
        other => other.to_string(),
    }
}

/// From the pool where it is up, else from its metadata's first block.
fn transaction_id(machine: &Machine, options: &Options, pool: Option<&Pool>) -> Option<u64> {
    if let Some(pool) = pool {
        let state = pool.status(thinlayer_dm::Flush::No).ok()?;
        return state.running().map(|status| status.transaction_id.0);
    }
    if options.thin_pool.is_some() {
        return None;
    }
    let file = Side::Metadata.path(&machine.root.path);
    let metadata = options.metadata_device.as_deref().unwrap_or(&file);
    match machine.backing.superblock(metadata) {
        Ok(Superblock::Pool(facts)) => Some(facts.transaction_id),
        _ => None,
    }
}
