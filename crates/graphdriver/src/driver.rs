//! The driver itself: what it holds, and the short operations that only read.

use crate::active::Active;
use crate::condition::Finding;
use crate::deadline::Deadlines;
use crate::error::{Error, Result};
use crate::layer::{LayerInfo, Metadata, Parent};
use crate::machine::Machine;
use crate::names::Names;
use crate::options::Options;
use crate::progress::Progress;
use crate::reserve::Reservations;
use crate::site::Blocked;
use crate::status::Layout;
use crate::transaction::Transactions;
use crate::uses::Uses;
use crate::worker::Queue;
use parking_lot::{Mutex, RwLock};
use std::path::PathBuf;
use std::sync::Arc;
use thinlayer_dm::Bytes;
use thinlayer_store::{LayerId, Record, Store};
use thinlayer_thin::{BlockSize, Pool};

/// Something that the person who runs the driver should know, in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The line.
    pub text: String,
    /// How much it matters.
    pub severity: Severity,
}

/// How much a [`Notice`] matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Good to know.
    Info,
    /// Somebody should look at it.
    Warning,
}

impl Notice {
    pub(crate) fn info(text: impl Into<String>) -> Self {
        Self { text: text.into(), severity: Severity::Info }
    }

    pub(crate) fn warning(text: impl Into<String>) -> Self {
        Self { text: text.into(), severity: Severity::Warning }
    }
}

/// An open root: its pool is up, its store is recovered, its base is made.
///
/// All methods may be called from many threads. Only one driver may be open on a root at a time: see [`crate::Ownership`].
#[derive(Debug)]
pub struct Driver {
    pub(crate) machine: Machine,
    pub(crate) options: Options,
    pub(crate) deadlines: Deadlines,
    pub(crate) progress: Arc<dyn Progress>,
    pub(crate) names: Names,
    pub(crate) store: Store,
    pub(crate) pool: Pool,
    /// What the pool stands on.
    pub(crate) layout: Layout,
    /// The driver made the pool, or found the one that it had made.
    pub(crate) owns_pool: bool,
    /// The pool is LVM's, and was set up for this root alone.
    pub(crate) direct_lvm: bool,
    /// The pool's data block.
    pub(crate) block: BlockSize,
    /// What is wrong with the pool, if nothing may be changed because of it.
    pub(crate) ailing: RwLock<Option<Finding>>,
    /// The pool's size changes under this.
    pub(crate) growing: Reservations,
    /// Why LVM did not extend the pool when it was last asked to.
    pub(crate) volume_blocked: RwLock<Option<Blocked>>,
    pub(crate) reservations: Reservations,
    pub(crate) transactions: Transactions,
    pub(crate) active: Active,
    pub(crate) uses: Uses,
    pub(crate) queue: Queue,
    /// One check at a time: a pool has room for one metadata snapshot.
    pub(crate) checking: Mutex<()>,
}

impl Driver {
    /// Is there such a layer? Never waits for another operation.
    pub fn exists(&self, id: &LayerId) -> bool {
        !id.is_base() && self.store.record(id).is_some_and(|record| !record.is_hidden())
    }

    /// A layer's record.
    pub(crate) fn record(&self, id: &LayerId) -> Result<Arc<Record>> {
        Ok(self.store.lookup(id)?)
    }

    /// What `docker inspect` shows of a layer. Never waits for another operation.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn metadata(&self, id: &LayerId) -> Result<Metadata> {
        let record = self.record(id)?;
        Ok(Metadata {
            device_id: record.device_id.get(),
            device_size: Bytes(record.size_bytes),
            device_name: self.names.device(id)?.as_str().to_owned(),
        })
    }

    /// Everything that is known of a layer. Never waits for another operation.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn inspect(&self, id: &LayerId) -> Result<LayerInfo> {
        if id.is_base() {
            return Err(Error::NotFound { id: id.clone() });
        }
        Ok(self.describe(id, self.record(id)?))
    }

    /// All layers but the base, sorted by id. Never waits for another operation.
    ///
    /// # Errors
    /// None today; the signature leaves room.
    pub fn layers(&self) -> Result<Vec<LayerInfo>> {
        Ok(self
            .store
            .layers()
            .into_iter()
            .filter(|(id, record)| !id.is_base() && !record.is_hidden())
            .map(|(id, record)| self.describe(&id, record))
            .collect())
    }

    fn describe(&self, id: &LayerId, record: Arc<Record>) -> LayerInfo {
        let uses = self.uses.get(id);
        describe(
            &self.names,
            id,
            record,
            (uses > 0).then(|| self.names.tree(id)),
            uses,
            self.base_filesystem().as_deref(),
        )
    }

    /// The base's file system as the store knows it.
    pub(crate) fn base_filesystem(&self) -> Option<String> {
        Some(self.store.device_set().base_filesystem).filter(|name| !name.is_empty())
    }
}

/// A layer's facts out of its record and the mount table.
pub(crate) fn describe(
    names: &Names,
    id: &LayerId,
    record: Arc<Record>,
    mounted_at: Option<PathBuf>,
    uses: u32,
    base_filesystem: Option<&str>,
) -> LayerInfo {
    let extra = record.extra.as_ref();
    LayerInfo {
        id: id.clone(),
        parent: match extra {
            None => Parent::Unknown,
            Some(extra) => match &extra.parent {
                None => Parent::Unknown,
                Some(parent) if parent.is_base() => Parent::None,
                Some(parent) => Parent::Layer(parent.clone()),
            },
        },
        device_id: record.device_id.get(),
        size: Bytes(record.size_bytes),
        transaction_id: record.transaction_id,
        // Every layer descends from the base, so the base's file system is theirs.
        filesystem: extra
            .and_then(|extra| extra.filesystem.clone())
            .or_else(|| base_filesystem.map(str::to_owned)),
        created: extra.and_then(|extra| extra.created_ns).map(|ns| ns / 1_000_000_000),
        device_name: names.device(id).map(|name| name.as_str().to_owned()).unwrap_or_default(),
        mounted_at,
        uses,
        record,
    }
}
