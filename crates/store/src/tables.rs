//! What the store knows, in memory: records by layer, layers by device, children by parent.

use crate::device_id::DeviceIds;
use crate::transaction::TransactionFile;
use crate::{DeviceId, LayerId, Record};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

/// A record that cannot be read.
#[derive(Clone, Debug)]
pub(crate) struct Damage {
    pub(crate) path: PathBuf,
    pub(crate) why: String,
}

#[derive(Debug)]
pub(crate) struct Tables {
    records: BTreeMap<LayerId, Arc<Record>>,
    holders: HashMap<DeviceId, BTreeSet<LayerId>>,
    children: HashMap<LayerId, BTreeSet<LayerId>>,
    pub(crate) damaged: BTreeMap<LayerId, Damage>,
    /// Devices of records under names that no layer can have: in use, and nobody's.
    pub(crate) nameless: BTreeSet<DeviceId>,
    pub(crate) ids: DeviceIds,
    pub(crate) base_uuid: String,
    pub(crate) base_filesystem: String,
    pub(crate) transaction: TransactionFile,
    /// The pool's transaction id, once it is known to agree with the store.
    pub(crate) pool: Option<u64>,
}

impl Tables {
    pub(crate) fn new() -> Self {
        Self {
            records: BTreeMap::new(),
            holders: HashMap::new(),
            children: HashMap::new(),
            damaged: BTreeMap::new(),
            nameless: BTreeSet::new(),
            ids: DeviceIds::new(DeviceId::default()),
            base_uuid: String::new(),
            base_filesystem: String::new(),
            transaction: TransactionFile::Nothing,
            pool: None,
        }
    }

    pub(crate) fn get(&self, layer: &LayerId) -> Option<&Arc<Record>> {
        self.records.get(layer)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&LayerId, &Arc<Record>)> {
        self.records.iter()
    }

    pub(crate) fn insert(&mut self, layer: LayerId, record: Record) {
        let old = self.unlink(&layer);
        self.ids.mark(record.device_id);
        self.holders.entry(record.device_id).or_default().insert(layer.clone());
        if let Some(parent) = parent(&record) {
            self.children.entry(parent).or_default().insert(layer.clone());
        }
        self.damaged.remove(&layer);
        self.records.insert(layer, Arc::new(record));
        // After the insertion, so that a record that keeps its device keeps its mark.
        if let Some(old) = old {
            self.release(old.device_id);
        }
    }

    pub(crate) fn remove(&mut self, layer: &LayerId) -> Option<Arc<Record>> {
        let old = self.unlink(layer)?;
        self.release(old.device_id);
        Some(old)
    }

    fn unlink(&mut self, layer: &LayerId) -> Option<Arc<Record>> {
        let old = self.records.remove(layer)?;
        drop_from(&mut self.holders, &old.device_id, layer);
        if let Some(parent) = parent(&old) {
            drop_from(&mut self.children, &parent, layer);
        }
        Some(old)
    }

    /// Makes a device's id free again unless a record names it.
    pub(crate) fn release(&mut self, device_id: DeviceId) {
        if !self.holders.contains_key(&device_id) && !self.nameless.contains(&device_id) {
            self.ids.clear(device_id);
        }
    }

    /// Whose record, other than this layer's, names this device.
    pub(crate) fn other_holder(&self, layer: &LayerId, device_id: DeviceId) -> Option<String> {
        let other = self.holders.get(&device_id).and_then(|all| all.iter().find(|holder| *holder != layer));
        match other {
            Some(holder) => Some(format!("layer {holder}")),
            None => self.nameless.contains(&device_id).then(|| "a record with an unusable name".to_owned()),
        }
    }

    pub(crate) fn duplicates(&self) -> BTreeMap<DeviceId, Vec<LayerId>> {
        let several = self.holders.iter().filter(|(_, layers)| layers.len() > 1);
        several.map(|(id, layers)| (*id, layers.iter().cloned().collect())).collect()
    }

    pub(crate) fn children(&self, parent: &LayerId) -> Vec<LayerId> {
        self.children.get(parent).into_iter().flatten().cloned().collect()
    }
}

/// Whose child it is, for the index: a removed layer is nobody's.
fn parent(record: &Record) -> Option<LayerId> {
    if record.deleted { None } else { record.extra.as_ref()?.parent.clone() }
}

fn drop_from<K: std::hash::Hash + Eq>(index: &mut HashMap<K, BTreeSet<LayerId>>, key: &K, layer: &LayerId) {
    if let Some(layers) = index.get_mut(key) {
        layers.remove(layer);
        if layers.is_empty() {
            index.remove(key);
        }
    }
}
