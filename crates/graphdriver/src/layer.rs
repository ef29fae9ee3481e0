//! What the driver tells about layers.

use std::path::PathBuf;
use std::sync::Arc;
use thinlayer_dm::Bytes;
use thinlayer_store::{LayerId, Record};

/// A request for a new layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CreateRequest {
    /// The layer that it starts as a copy of; without one it starts empty.
    pub parent: Option<LayerId>,
    /// Its size, at least the parent's. `None` or zero: the parent's.
    pub size: Option<Bytes>,
}

impl CreateRequest {
    /// An empty layer of the default size.
    pub fn empty() -> Self {
        Self::default()
    }

    /// A layer on top of another.
    pub fn on(parent: LayerId) -> Self {
        Self { parent: Some(parent), size: None }
    }

    /// The same with another size.
    #[must_use]
    pub fn size(mut self, size: Bytes) -> Self {
        self.size = Some(size);
        self
    }
}

/// What removing a layer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    /// The layer and its device are gone.
    Gone,
    /// The layer is gone and its id is free; its blocks are given back in the background.
    Deferred,
    /// There was no such layer.
    Absent,
}

/// What giving back a use of a layer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutBack {
    /// Others still use it: so many.
    StillUsed(u32),
    /// That was the last use; it is unmounted.
    Unmounted,
    /// It was not mounted.
    NotMounted,
}

/// What is known of a parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parent {
    /// The layer was made empty.
    None,
    /// It was made as a copy of this one (which may be gone by now).
    Layer(LayerId),
    /// Docker made the record, and Docker does not write parents down.
    Unknown,
}

/// A layer, as `ls` and `inspect` show it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LayerInfo {
    /// Its id.
    pub id: LayerId,
    /// Its parent.
    pub parent: Parent,
    /// Thin device id in the pool.
    pub device_id: u32,
    /// Its device's size.
    pub size: Bytes,
    /// The pool's transaction under which it was made.
    pub transaction_id: u64,
    /// Its file system, where known.
    pub filesystem: Option<String>,
    /// When it was made, in seconds since 1970, where known.
    pub created: Option<u64>,
    /// The name of its device while it is active.
    pub device_name: String,
    /// Where its tree is, while it is mounted.
    pub mounted_at: Option<PathBuf>,
    /// How many uses have it mounted.
    pub uses: u32,
    /// The record, for those who want every fact.
    pub record: Arc<Record>,
}

/// What `docker inspect` shows (section 4.5 of the specification).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Thin device id, decimal.
    pub device_id: u32,
    /// Bytes.
    pub device_size: Bytes,
    /// The device-mapper name, without a path.
    pub device_name: String,
}
