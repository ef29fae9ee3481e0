//! The store: opening it, what it knows, thin ids, and the recovery. What it writes is in `write.rs`.

use crate::files::Files;
use crate::load::Loader;
use crate::tables::Tables;
use crate::transaction::{Intent, IntentKind, TransactionFile};
use crate::{
    DeviceId, DeviceSet, Disk, Error, Finding, LayerId, OpenTransaction, Pending, Record, Recovery, Result,
};
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// What a store may do to its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Everything.
    ReadWrite,
    /// Nothing: it only reads and reports.
    ReadOnly,
}

/// How many layers of which sort there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Layers, without the base, hidden and removed ones.
    pub layers: usize,
    /// Hidden records.
    pub hidden: usize,
    /// Removed ones whose device is still to be deleted.
    pub deleted: usize,
    /// Records that cannot be read.
    pub damaged: usize,
}

/// What only one writer at a time may use.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) files: Files,
    pub(crate) transaction_ready: bool,
    /// Both names of records that were moved since the last sync of their folder.
    pub(crate) moved: BTreeSet<LayerId>,
}

/// The records of a root and its open transaction.
///
/// Reads come from memory and never wait for a write that is on its way to the disk; a change is seen once it is durable. Writers wait for each other.
/// Nothing keeps two processes from opening one root: that is the caller's lock.
pub struct Store {
    pub(crate) mode: Mode,
    pub(crate) writer: Mutex<Writer>,
    pub(crate) tables: RwLock<Tables>,
    pub(crate) transaction_open: Arc<AtomicBool>,
}

impl Store {
    /// Opens the root on this disk and reads everything. Next: [`Store::recovery`].
    ///
    /// With [`Mode::ReadWrite`] it makes `metadata/` if there is none, turns Docker's old file into records, moves damaged records into `thinlayer/quarantine/`,
    /// gives removed layers a new id, and gives the transaction file its room. With [`Mode::ReadOnly`] it only reports.
    ///
    /// # Errors
    /// The disk failed, or Docker's old file is damaged as a whole. A damaged record, device set or transaction is a [`Finding`].
    pub fn open(disk: Arc<dyn Disk>, mode: Mode) -> Result<(Self, Vec<Finding>)> {
        let Loader { files, tables, findings, transaction_ready, .. } = Loader::run(Files::new(disk), mode)?;
        for finding in &findings {
            tracing::info!(%finding, "opened the store");
        }
        let store = Self {
            mode,
            writer: Mutex::new(Writer { files, transaction_ready, moved: BTreeSet::new() }),
            tables: RwLock::new(tables),
            transaction_open: Arc::new(AtomicBool::new(false)),
        };
        Ok((store, findings))
    }

    /// What it may do to its disk.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// A layer's record; `None` for one that was removed and only waits for its device's deletion.
    pub fn record(&self, layer: &LayerId) -> Option<Arc<Record>> {
        self.record_even_deleted(layer).filter(|record| !record.deleted)
    }

    /// A layer's record, also if it was removed.
    pub fn record_even_deleted(&self, layer: &LayerId) -> Option<Arc<Record>> {
        self.tables.read().get(layer).cloned()
    }

    /// A layer's record.
    ///
    /// # Errors
    /// There is none ([`Error::NotFound`]), or it cannot be read ([`Error::Damaged`]): then the layer must not be taken for absent.
    pub fn lookup(&self, layer: &LayerId) -> Result<Arc<Record>> {
        let tables = self.tables.read();
        if let Some(record) = tables.get(layer).filter(|record| !record.deleted) {
            return Ok(Arc::clone(record));
        }
        undamaged(&tables, layer)?;
        Err(Error::NotFound { layer: layer.clone() })
    }

    /// All records at one moment, by id: layers, the base, hidden ones, and removed ones whose device is still to be deleted.
    pub fn records(&self) -> Vec<(LayerId, Arc<Record>)> {
        self.select(|_| true)
    }

    /// All layers that were not removed, by id; the base and hidden ones too.
    pub fn layers(&self) -> Vec<(LayerId, Arc<Record>)> {
        self.select(|record| !record.deleted)
    }

    /// All removed ones whose device is still to be deleted.
    pub fn pending_deletion(&self) -> Vec<(LayerId, Arc<Record>)> {
        self.select(|record| record.deleted)
    }

    fn select(&self, wanted: impl Fn(&Record) -> bool) -> Vec<(LayerId, Arc<Record>)> {
        let tables = self.tables.read();
        let all = tables.iter().filter(|(_, record)| wanted(record));
        all.map(|(layer, record)| (layer.clone(), Arc::clone(record))).collect()
    }

    /// Layers known to be snapshots of this one. One whose record Docker has rewritten no longer tells.
    pub fn children_of(&self, layer: &LayerId) -> Vec<LayerId> {
        self.tables.read().children(layer)
    }

    /// Layers whose record cannot be read, and where it lies.
    pub fn damaged(&self) -> Vec<(LayerId, PathBuf)> {
        let tables = self.tables.read();
        tables.damaged.iter().map(|(layer, damage)| (layer.clone(), damage.path.clone())).collect()
    }

    /// Thin devices of records whose names no layer can have: they are somebody's, and nobody's layer.
    pub fn nameless(&self) -> Vec<DeviceId> {
        self.tables.read().nameless.iter().copied().collect()
    }

    /// How many layers of which sort there are.
    pub fn counts(&self) -> Counts {
        let tables = self.tables.read();
        let mut counts = Counts { damaged: tables.damaged.len(), ..Counts::default() };
        for (layer, record) in tables.iter() {
            if record.deleted {
                counts.deleted += 1;
            } else if record.is_hidden() {
                counts.hidden += 1;
            } else if !layer.is_base() {
                counts.layers += 1;
            }
        }
        counts
    }

    /// What is known of the set as a whole; its id is the last one handed out.
    pub fn device_set(&self) -> DeviceSet {
        let tables = self.tables.read();
        DeviceSet {
            next_device_id: tables.ids.last(),
            base_uuid: tables.base_uuid.clone(),
            base_filesystem: tables.base_filesystem.clone(),
        }
    }

    /// The next free thin id after the last one handed out, reserved until [`Store::release`], or for as long as a record names it.
    ///
    /// Free means free of records; whether the pool has such a device must be asked there, and [`Store::mark_taken`] called if it has.
    ///
    /// # Errors
    /// All 2^24 are in use.
    pub fn propose_device_id(&self) -> Result<DeviceId> {
        self.tables.write().ids.take().ok_or(Error::IdsExhausted)
    }

    /// Reserves this thin id, as a device list read at start shows it. `false`: it was in use or reserved already.
    pub fn reserve(&self, device_id: DeviceId) -> bool {
        let mut tables = self.tables.write();
        let free = !tables.ids.is_marked(device_id);
        tables.ids.mark(device_id);
        free
    }

    /// The pool has a device of this id that no record names: it is not proposed again by this store.
    pub fn mark_taken(&self, device_id: DeviceId) {
        self.tables.write().ids.mark(device_id);
    }

    /// Gives a reserved thin id back, unless a record names it.
    pub fn release(&self, device_id: DeviceId) {
        self.tables.write().release(device_id);
    }

    /// A record other than this layer's names this device.
    pub fn is_named_by_other(&self, layer: &LayerId, device_id: DeviceId) -> bool {
        self.tables.read().other_holder(layer, device_id).is_some()
    }

    /// Whether this layer's device is its alone, so that it may be deleted.
    ///
    /// # Errors
    /// No such layer, its record is damaged, or another record names the same device ([`Error::DeviceTaken`]).
    pub fn deletable(&self, layer: &LayerId) -> Result<()> {
        let tables = self.tables.read();
        let Some(record) = tables.get(layer) else {
            undamaged(&tables, layer)?;
            return Err(Error::NotFound { layer: layer.clone() });
        };
        not_taken(&tables, layer, record.device_id)
    }

    /// The pool's transaction id as far as the store knows: after the recovery, and after each closed transaction.
    pub fn pool_transaction_id(&self) -> Option<u64> {
        self.tables.read().pool
    }

    /// Compares the store's transaction with the pool's id. Changes nothing on disk; may be asked again at any time, for example when the outcome of
    /// `set_transaction_id` is not known.
    ///
    /// After [`Recovery::Clean`] and [`Recovery::PoolAhead`] transactions can begin; after [`Recovery::Open`] once [`Store::finish_recovery`] was called.
    pub fn recovery(&self, pool: u64) -> Recovery {
        let mut tables = self.tables.write();
        let recovery = compare(&tables, pool);
        tables.pool = matches!(recovery, Recovery::Clean | Recovery::PoolAhead { .. }).then_some(pool);
        recovery
    }

    /// As [`Store::recovery`], for somebody who only looks: what may begin stays as it is.
    pub fn compare(&self, pool: u64) -> Recovery {
        compare(&self.tables.read(), pool)
    }

    /// The pool has the transaction's id: it is complete.
    pub fn close(&self, transaction: OpenTransaction) {
        self.tables.write().pool = Some(transaction.id());
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("mode", &self.mode)
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

/// An error if the layer's record cannot be read.
pub(crate) fn undamaged(tables: &Tables, layer: &LayerId) -> Result<()> {
    match tables.damaged.get(layer) {
        Some(damage) => {
            Err(Error::Damaged { layer: layer.clone(), path: damage.path.clone(), why: damage.why.clone() })
        }
        None => Ok(()),
    }
}

/// An error if another layer's record names the device.
pub(crate) fn not_taken(tables: &Tables, layer: &LayerId, device_id: DeviceId) -> Result<()> {
    match tables.other_holder(layer, device_id) {
        Some(holder) => Err(Error::DeviceTaken { device_id, layer: layer.clone(), holder }),
        None => Ok(()),
    }
}

fn compare(tables: &Tables, pool: u64) -> Recovery {
    match &tables.transaction {
        TransactionFile::Nothing => Recovery::Clean,
        TransactionFile::Intent(intent) => compare_intent(tables, intent, pool),
        TransactionFile::Malformed => infer(tables, pool),
    }
}

fn compare_intent(tables: &Tables, intent: &Intent, pool: u64) -> Recovery {
    let open = intent.id;
    if open == pool {
        return Recovery::Clean;
    }
    if open < pool {
        return Recovery::PoolAhead { open, pool };
    }
    // With nothing under way a pool that is one behind is an older one, too.
    if open - pool > 1 || intent.operations.is_empty() {
        return Recovery::TooFarAhead { open, pool };
    }
    let pending = |kind: &IntentKind, layer: &LayerId, device_id| Pending {
        kind: kind.clone(),
        layer: layer.clone(),
        device_id,
        open_transaction_id: open,
        record: tables.get(layer).map(|record| Record::clone(record)),
        unreadable_records: !tables.damaged.is_empty(),
    };
    Recovery::Open(intent.operations.iter().map(|op| pending(&op.kind, &op.layer, op.device_id)).collect())
}

/// The file says nothing. A record younger than the pool is of a creation that was not closed; about a deletion nothing can be known.
fn infer(tables: &Tables, pool: u64) -> Recovery {
    let young: Vec<_> = tables.iter().filter(|(_, record)| record.transaction_id > pool).collect();
    let Some(open) = young.iter().map(|(_, record)| record.transaction_id).max() else {
        return Recovery::Clean;
    };
    if open - pool > 1 {
        return Recovery::TooFarAhead { open, pool };
    }
    let pending = |layer: &LayerId, record: &Record| Pending {
        kind: IntentKind::Unknown,
        layer: layer.clone(),
        device_id: record.device_id,
        open_transaction_id: open,
        record: Some(record.clone()),
        unreadable_records: !tables.damaged.is_empty(),
    };
    Recovery::Open(young.into_iter().map(|(layer, record)| pending(layer, record)).collect())
}

#[cfg(test)]
mod tests;
