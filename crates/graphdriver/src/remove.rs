//! Layers that go: at once, or first out of sight and later out of the pool.

use crate::driver::Driver;
use crate::error::{Error, Result};
use crate::layer::Removed;
use thinlayer_dm::Removal;
use thinlayer_store::{LayerId, Record};

impl Driver {
    /// Removes a layer. Its id is free when this returns.
    ///
    /// Where whole devices are discarded first (`dm.blkdiscard`), or the device is still open elsewhere and deletion may be deferred, one atomic step takes
    /// the layer out of sight, and the worker does the rest. Otherwise it is two messages of the pool, one intent and one unlink.
    ///
    /// # Errors
    /// [`crate::Kind::Busy`] if it is mounted, or its device is open elsewhere and deletion may not be deferred.
    pub fn remove(&self, id: &LayerId) -> Result<Removed> {
        self.remove_layer(id).map_err(|error| error.on(id))
    }

    fn remove_layer(&self, id: &LayerId) -> Result<Removed> {
        if id.is_base() {
            return Err(Error::Invalid { what: "the base cannot be removed: all layers stand on it".into() });
        }
        self.ensure_sound()?;
        let _reserved = self.reservations.reserve(id, self.deadlines.layer)?;
        let record = match self.store.lookup(id) {
            Ok(record) => record,
            Err(error) if error.kind() == thinlayer_store::ErrorKind::NotFound => return Ok(Removed::Absent),
            Err(error) => return Err(error.into()),
        };
        if self.uses.get(id) > 0 {
            return Err(Error::Busy {
                what: format!("layer {id}"),
                why: format!("it is mounted at {}; umount it first", self.names.mount_point(id).display()),
            });
        }
        // What two records name is nobody's to delete or to discard.
        self.store.deletable(id)?;
        if let Err(error) = self.machine.filesystems.remove_dir(&self.names.mount_point(id)) {
            tracing::warn!(%error, "the mount point of a removed layer stays");
        }
        if self.options.discards() {
            self.retire(id, &record)?;
            return Ok(Removed::Deferred);
        }
        let deferred = self.options.defers_deletion();
        let gone = self.deactivate(id, if deferred { Removal::Deferred } else { Removal::Now })?;
        if gone == thinlayer_dm::Removed::Scheduled {
            self.retire(id, &record)?;
            return Ok(Removed::Deferred);
        }
        match self.delete_device(id, &record) {
            Ok(()) => Ok(Removed::Gone),
            Err(error) if deferred && error.kind() == crate::Kind::Busy => {
                self.retire(id, &record)?;
                Ok(Removed::Deferred)
            }
            Err(error) => Err(error),
        }
    }

    /// Takes a layer out of sight in one atomic, durable step, and gives it to the worker.
    fn retire(&self, id: &LayerId, record: &Record) -> Result<()> {
        // A device that is still there has the old id's name, which a new layer of that id will want.
        self.deactivate(id, if self.options.defers_deletion() { Removal::Deferred } else { Removal::Now })?;
        let retired = self.store.retire(id)?;
        tracing::debug!(layer = %id, %retired, device_id = %record.device_id, "removed; its blocks follow");
        self.queue.push(retired.clone());
        // The layer is gone from here on, whatever happens to its device's name.
        if let Some(device) = self.active.get(id).filter(|_| retired != *id)
            && let Err(error) = self.rename_leaving(id, &retired, device)
        {
            tracing::warn!(layer = %id, %error, "the device of a removed layer keeps the layer's name until it is closed");
        }
        Ok(())
    }

    /// Gives a device that goes at its last close the name of its retired record.
    pub(crate) fn rename_leaving(
        &self,
        id: &LayerId,
        retired: &LayerId,
        device: crate::active::Device,
    ) -> Result<()> {
        let (name, to) = (self.names.device(id)?, self.names.device(retired)?);
        match self.machine.dm.rename(&name, &to) {
            Ok(_) => {
                self.machine.dm.forget_node(&name, device.thin.number())?;
                if let Some(thin) = self.pool.device(&to)? {
                    self.active.set(retired, crate::active::Device { thin, ..device });
                }
            }
            // Gone in between, which is what was wanted.
            Err(error) if error.kind() == thinlayer_dm::Kind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        self.active.forget(id);
        Ok(())
    }
}
