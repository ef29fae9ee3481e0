//! A look at a root without owning it: records and mount table, nothing else, and nothing is written.

use crate::check::{CheckReport, Depth, active, at_rest, mounted_layers};
use crate::driver::{Notice, describe};
use crate::error::Result;
use crate::layer::LayerInfo;
use crate::machine::Machine;
use crate::names::Names;
use crate::options::Options;
use crate::status::{Layout, Status, status};
use crate::uses::Uses;
use std::sync::Arc;
use thinlayer_store::{LayerId, Mode, Record, Store};
use thinlayer_thin::Pool;

/// A root as it is this moment. Others may own it and work on it meanwhile: each record is seen as it was before or after a change.
#[derive(Debug)]
pub struct View {
    machine: Machine,
    names: Names,
    store: Store,
    uses: Uses,
}

impl View {
    /// Reads a root's records and the mount table.
    ///
    /// # Errors
    /// If the root cannot be read.
    pub fn open(machine: &Machine) -> Result<(Self, Vec<Notice>)> {
        let names = Names::of(&machine.root);
        let (store, findings) = Store::open(machine.disk.clone(), Mode::ReadOnly)?;
        let notices = findings
            .iter()
            .filter(|finding| finding.is_problem())
            .map(|finding| Notice::warning(finding.to_string()))
            .collect();
        let mounted: Vec<LayerId> = mounted_layers(machine, &names)?.into_keys().collect();
        let uses = Uses::load(machine.runtime.clone(), &mounted, false);
        Ok((Self { machine: machine.clone(), names, store, uses }, notices))
    }

    /// All layers but the base, sorted by id.
    ///
    /// # Errors
    /// None today; the signature leaves room.
    pub fn layers(&self) -> Result<Vec<LayerInfo>> {
        let visible = |(id, record): &(LayerId, Arc<Record>)| !id.is_base() && !record.is_hidden();
        Ok(self
            .store
            .layers()
            .into_iter()
            .filter(visible)
            .map(|(id, record)| self.describe(&id, record))
            .collect())
    }

    /// Everything that is known of a layer.
    ///
    /// # Errors
    /// [`crate::Kind::NotFound`]; [`crate::Kind::NeedsCheck`] if its record is damaged.
    pub fn inspect(&self, id: &LayerId) -> Result<LayerInfo> {
        if id.is_base() {
            return Err(crate::Error::NotFound { id: id.clone() });
        }
        Ok(self.describe(id, self.store.lookup(id)?))
    }

    /// Is there such a layer?
    ///
    /// # Errors
    /// None today; the signature leaves room.
    pub fn exists(&self, id: &LayerId) -> Result<bool> {
        Ok(!id.is_base() && self.store.record(id).is_some_and(|record| !record.is_hidden()))
    }

    /// The status, if the pool is active.
    ///
    /// # Errors
    /// If the pool cannot be asked.
    pub fn status(&self, options: &Options) -> Result<Option<Status>> {
        let Some(pool) = self.pool(options)? else { return Ok(None) };
        // Two calls: who comes for one look knows nothing of the pool.
        let layout = Layout::of(&self.machine, &pool)?;
        status(&self.machine, &self.store, &pool, &layout, options, None).map(Some)
    }

    /// A check by somebody who does not own the root. Of an active pool the metadata is not read, as that takes a message to the pool.
    ///
    /// # Errors
    /// If the kernel cannot be asked.
    pub fn check(&self, options: &Options) -> Result<CheckReport> {
        self.check_to(options, Depth::Look)
    }

    /// A check by the owner of the root ([`crate::Ownership`]), without opening it: a pool that is not active stays so.
    ///
    /// # Errors
    /// If the kernel cannot be asked.
    pub fn check_owned(&self, options: &Options) -> Result<CheckReport> {
        self.check_to(options, Depth::Whole)
    }

    fn check_to(&self, options: &Options, depth: Depth) -> Result<CheckReport> {
        let pool = match self.pool(options) {
            // Without device-mapper no pool is active.
            Err(error) if error.kind() == crate::Kind::Unsupported && options.thin_pool.is_none() => None,
            other => other?,
        };
        let Some(pool) = pool else { return at_rest(&self.machine, &self.store, options) };
        active(&self.machine, &self.store, &pool, options, depth)
    }

    fn pool(&self, options: &Options) -> Result<Option<Pool>> {
        let name = crate::identity::pool_name(&self.machine, options, &self.names)?;
        match Pool::open(self.machine.dm.clone(), &name) {
            Err(error) if error.kind() == thinlayer_thin::Kind::Unfinished => Ok(None),
            other => Ok(other?),
        }
    }

    fn describe(&self, id: &LayerId, record: Arc<Record>) -> LayerInfo {
        let uses = self.uses.get(id);
        let set = self.store.device_set();
        let base = Some(set.base_filesystem.as_str()).filter(|name| !name.is_empty());
        describe(&self.names, id, record, (uses > 0).then(|| self.names.tree(id)), uses, base)
    }
}
