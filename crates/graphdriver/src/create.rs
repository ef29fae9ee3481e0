//! New layers: a snapshot of the parent, or of the base.

use crate::active::thin_id;
use crate::deadline::within;
use crate::driver::Driver;
use crate::error::{Error, Result};
use crate::layer::CreateRequest;
use crate::options::whole_sectors;
use crate::reserve::Reservation;
use crate::size::{checked_size, human_size};
use crate::transaction::Origin;
use std::sync::Arc;
use thinlayer_dm::{Bytes, DeviceMapper, Suspend, SuspendGuard};
use thinlayer_store::{Extra, LayerId, Record};

/// A layer whose writers are held back.
type Suspended = SuspendGuard<Arc<dyn DeviceMapper>>;

/// The pool's own device has the name that a layer of this id would get.
const POOL_SUFFIX: &str = "pool";

impl Driver {
    /// Makes a layer: a copy of its parent, or an empty one. Durable when it returns.
    ///
    /// Costs one status, a probe, two messages of the pool, one intent and one record. A parent in use is suspended for its message.
    /// With a size above the parent's the file system is grown too.
    ///
    /// # Errors
    /// [`crate::Kind::Exists`], [`crate::Kind::NotFound`] (the parent), [`crate::Kind::Invalid`] (a size below the parent's),
    /// [`crate::Kind::NoSpace`] (the pool has less free than `dm.min_free_space`). Nothing is left of the layer then.
    pub fn create(&self, id: &LayerId, request: &CreateRequest) -> Result<()> {
        self.create_layer(id, request).map_err(|error| error.on(id))
    }

    fn create_layer(&self, id: &LayerId, request: &CreateRequest) -> Result<()> {
        // Ids of old roots are taken as they are; a new one has to be fit for names of files and devices.
        let id = &LayerId::given(id.as_str())?;
        if id.as_str() == POOL_SUFFIX {
            return Err(Error::Invalid {
                what: "the id \"pool\" is reserved for the pool's own device; choose another".into(),
            });
        }
        self.names.device(id)?;
        self.ensure_sound()?;
        let parent = request.parent.clone().unwrap_or_else(LayerId::base);
        let (reserved, parent_reserved) =
            self.reservations.reserve_pair(id, &parent, self.deadlines.layer)?;
        if self.store.record(id).is_some() {
            return Err(Error::Exists { id: id.clone() });
        }
        let parent_record = self.record(&parent)?;
        let size = layer_size(request.size, Bytes(parent_record.size_bytes))?;
        let origin = Origin::SnapshotOf(thin_id(&parent_record)?);
        self.check_room()?;
        let device_id = self.free_device_id()?;
        // Before the transaction's lock, as a suspend may take its time. The parent's writers then wait for one small write, and not long for the lock.
        let suspended = self
            .suspend_if_active(&parent, &parent_reserved)
            .inspect_err(|_| self.store.release(device_id))?;
        let wait = if suspended.is_some() { self.deadlines.suspended } else { self.deadlines.transaction };
        let resume = || suspended.map_or(Ok(()), |guard| self.resume(guard));
        let grows = size > Bytes(parent_record.size_bytes);
        let of = parent.clone();
        let filesystem = parent_record
            .extra
            .as_ref()
            .and_then(|extra| extra.filesystem.clone())
            .or_else(|| self.base_filesystem());
        let created = self.now_ns();
        let record = self.create_device(id, device_id, origin, wait, resume, |transaction_id| {
            let extra = Extra {
                parent: Some(of),
                filesystem,
                created_ns: Some(created),
                grow_pending: grows,
                ..Extra::default()
            };
            Record { extra: Some(extra), ..Record::new(device_id, size.0, transaction_id.0) }
        })?;
        drop(parent_reserved);
        if grows {
            // Until this is done the record says so, and the next mount would do it (a crash right here loses nothing).
            if let Err(error) = self.grow_filesystem(id, &record, &reserved) {
                if matches!(error, Error::Deadline { .. }) {
                    // The call has the layer; it is made, and the next mount grows it if the call does not.
                    return Err(error);
                }
                let undone = self.drop_device(id).and_then(|()| self.delete_device(id, &record));
                return Err(error.and_undo(undone));
            }
        }
        drop(reserved);
        tracing::debug!(layer = %id, device_id = record.device_id.get(), size = record.size_bytes, "created");
        Ok(())
    }

    /// Holds back the writers of a layer in use, so that its copy is consistent.
    fn suspend_if_active(&self, id: &LayerId, reserved: &Reservation) -> Result<Option<Suspended>> {
        let Some(device) = self.active.get(id) else { return Ok(None) };
        let name = device.thin.name().clone();
        let dm = self.machine.dm.clone();
        // One that goes at its last close may be gone any moment, unless it is kept.
        if device.leaving && !self.keep_leaving(id, &device)? {
            return Ok(None);
        }
        let what = || format!("suspend of device {}", device.thin.name());
        within(&*self.machine.clock, what, self.deadlines.suspend, reserved, move || {
            Ok(SuspendGuard::suspend(dm, &name, Suspend::default())?)
        })
        .map(Some)
    }

    /// Lets the writers go on, with a second try: a layer that stays suspended hangs whoever uses it.
    fn resume(&self, guard: Suspended) -> Result<()> {
        let name = guard.name().clone();
        if let Err(error) = guard.resume() {
            tracing::warn!(device = %name, %error, "resuming is tried again");
            self.machine.dm.resume((&name).into(), Suspend::default())?;
        }
        Ok(())
    }

    /// Now, in nanoseconds since 1970.
    pub(crate) fn now_ns(&self) -> u64 {
        let since = self.machine.clock.wall().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }
}

/// The size of a layer on a parent of this size.
fn layer_size(asked: Option<Bytes>, parent: Bytes) -> Result<Bytes> {
    let Some(size) = asked.filter(|size| size.0 > 0) else { return Ok(parent) };
    let size = whole_sectors(size).unwrap_or_default();
    checked_size(size).map_err(|what| Error::Invalid { what })?;
    if size < parent {
        return Err(Error::Invalid {
            what: format!("Container size cannot be smaller than {}; layers only grow", human_size(parent)),
        });
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_the_parent() {
        let parent = Bytes(10 << 30);
        assert_eq!(layer_size(None, parent).unwrap(), parent);
        assert_eq!(layer_size(Some(Bytes(0)), parent).unwrap(), parent);
        assert_eq!(layer_size(Some(Bytes((10 << 30) + 700)), parent).unwrap(), Bytes((10 << 30) + 512));
        let error = layer_size(Some(Bytes(5 << 30)), parent).unwrap_err();
        assert!(error.to_string().contains("Container size cannot be smaller than 10.74GB"), "{error}");
        let error = layer_size(Some(Bytes(10 << 50)), parent).unwrap_err();
        assert!(error.to_string().contains("16 TiB"), "{error}");
        // What is there already is taken as it is.
        assert_eq!(layer_size(None, Bytes(10 << 50)).unwrap(), Bytes(10 << 50));
    }
}
