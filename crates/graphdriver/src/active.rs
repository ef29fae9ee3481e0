//! Which layers' devices are active. The owner of a root makes and removes all of them, so this is known without asking.

use crate::deadline::within;
use crate::driver::Driver;
use crate::error::{Error, Result};
use crate::machine::Clock;
use crate::names::Names;
use crate::reserve::Reservation;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::Duration;
use thinlayer_dm::{Access, Bytes, DmName, Removal, Removed, Slot, Suspend};
use thinlayer_store::{LayerId, Record};
use thinlayer_thin::{BackingDevice, Patience, Pool, ThinDevice, ThinId, ThinTable, Wait};

/// How often a device is activated again while its pool may be suspended, and the pause between.
const SUSPENDED_TRIES: u32 = 10;
const SUSPENDED_PAUSE: Duration = Duration::from_millis(100);

/// An active device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) thin: ThinDevice,
    /// It goes at its last close, and may be gone already.
    pub(crate) leaving: bool,
}

/// The active devices by layer.
#[derive(Debug, Default)]
pub(crate) struct Active(Mutex<HashMap<LayerId, Device>>);

impl Active {
    /// The devices of a root's layers that are active now. What has no table, as an interrupted making leaves it, is removed.
    pub(crate) fn find(pool: &Pool, names: &Names) -> Result<Self> {
        let dm = pool.device_mapper();
        let mut found = HashMap::new();
        for listed in dm.devices()? {
            let Some(id) = names.layer_of(listed.name.as_str()) else { continue };
            match pool.device(&listed.name) {
                Ok(Some(thin)) => {
                    let Some(info) = dm.info((&listed.name).into())? else { continue };
                    if info.suspended {
                        // An owner was killed while it made a snapshot of it; whoever writes to it hangs.
                        dm.resume((&listed.name).into(), Suspend::default())?;
                        tracing::warn!(device = %listed.name, "it was left suspended, and is resumed");
                    }
                    found.insert(id, Device { thin, leaving: info.deferred_remove });
                }
                Ok(None) => {}
                Err(error) if error.kind() == thinlayer_thin::Kind::Unfinished => {
                    Pool::remove_unfinished(dm, &listed.name)?;
                }
                // Somebody else's device under a name of ours: `check` tells, and its layer cannot be used.
                Err(error) => {
                    tracing::warn!(device = %listed.name, %error, "a device of this name is not a layer's")
                }
            }
        }
        Ok(Self(Mutex::new(found)))
    }

    pub(crate) fn set(&self, id: &LayerId, device: Device) {
        self.0.lock().insert(id.clone(), device);
    }

    pub(crate) fn forget(&self, id: &LayerId) {
        self.0.lock().remove(id);
    }

    pub(crate) fn get(&self, id: &LayerId) -> Option<Device> {
        self.0.lock().get(id).cloned()
    }

    pub(crate) fn all(&self) -> Vec<LayerId> {
        let mut all: Vec<_> = self.0.lock().keys().cloned().collect();
        all.sort();
        all
    }
}

/// The driver's clock for waits of the crates below.
#[derive(Debug)]
pub(crate) struct Waiting<'a>(pub(crate) &'a dyn Clock);

impl Wait for Waiting<'_> {
    fn now(&self) -> Duration {
        self.0.now()
    }

    fn sleep(&self, how_long: Duration) {
        self.0.sleep(how_long);
    }
}

impl Driver {
    /// What a killed owner left active: idle devices go, and one whose layer was removed meanwhile gets the removed record's name.
    pub(crate) fn tidy_active(&self) -> Result<()> {
        for id in self.active.all() {
            let Some(device) = self.active.get(&id) else { continue };
            if self.uses.get(&id) > 0 {
                continue;
            }
            let name = device.thin.name();
            let info = self.machine.dm.info(name.into())?;
            if info.is_none_or(|info| info.open_count == 0) {
                match self.machine.dm.remove(name.into(), Removal::Now) {
                    Ok(_) => {
                        self.active.forget(&id);
                        self.machine.dm.forget_node(name, device.thin.number())?;
                        continue;
                    }
                    // Somebody looks at it this moment.
                    Err(error) if error.kind() == thinlayer_dm::Kind::Busy => {}
                    Err(error) => return Err(error.into()),
                }
            }
            let stands_for = |record: &Record| thin_id(record).is_ok_and(|thin| thin == device.thin.id());
            if !self.store.record(&id).is_some_and(|record| stands_for(&record)) {
                let removed =
                    self.store.pending_deletion().into_iter().find(|(_, record)| stands_for(record));
                if let Some((removed, _)) = removed.filter(|(removed, _)| *removed != id) {
                    self.rename_leaving(&id, &removed, device)?;
                }
            }
        }
        Ok(())
    }

    /// Makes a layer's device, if it is not there. The caller has reserved the layer.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn activate(
        &self,
        id: &LayerId,
        record: &Record,
        reserved: &Reservation,
    ) -> Result<ThinDevice> {
        let name = self.names.device(id)?;
        if let Some(device) = self.active.get(id) {
            if device.thin.id() != thin_id(record)? {
                return Err(Error::Busy {
                    what: format!("device {name}"),
                    why: format!(
                        "it stands for thin device {} of a removed layer and is still open; end what uses it",
                        device.thin.id()
                    ),
                });
            }
            if device.thin.access() == Access::ReadOnly {
                // Of a command with --read-only.
                self.deactivate(id, Removal::Now).map_err(|_| Error::Busy {
                    what: format!("device {name}"),
                    why: "it is mounted with --read-only; unmount it first (thinlayer --read-only stop)"
                        .into(),
                })?;
            } else if !device.leaving || self.keep_leaving(id, &device)? {
                return self.fit(id, device.thin, record, reserved);
            }
        }
        let (thin_id, len) = (thin_id(record)?, Bytes(record.size_bytes).to_sectors());
        let mut tries = 0;
        let thin = loop {
            match self.pool.activate(&name, thin_id, len, Access::ReadWrite) {
                // The kernel takes no thin table in the moment in which a pool that grows is suspended, whoever grows it.
                Err(error) if error.kind() == thinlayer_thin::Kind::Invalid && tries < SUSPENDED_TRIES => {
                    tries += 1;
                    self.machine.clock.sleep(SUSPENDED_PAUSE);
                }
                other => break other?,
            }
        };
        self.active.set(id, Device { thin: thin.clone(), leaving: false });
        Ok(thin)
    }

    /// Keeps a device that would go at its last close. It may go at any moment, or be gone, which only the kernel knows: `false` if it is.
    pub(crate) fn keep_leaving(&self, id: &LayerId, device: &Device) -> Result<bool> {
        let clock = &self.machine.clock;
        let end = clock.now() + self.deadlines.removal;
        loop {
            match self.machine.dm.cancel_deferred_removal(device.thin.name().into()) {
                Ok(()) => {
                    self.active.set(id, Device { thin: device.thin.clone(), leaving: false });
                    return Ok(true);
                }
                Err(error) if error.kind() == thinlayer_dm::Kind::NotFound => {
                    self.active.forget(id);
                    return Ok(false);
                }
                // It is going this moment.
                Err(error) if error.kind() == thinlayer_dm::Kind::Busy && clock.now() < end => {
                    clock.sleep(Duration::from_millis(10));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// An active device with the length that its record says: an interrupted growth may have left it shorter.
    fn fit(
        &self,
        id: &LayerId,
        thin: ThinDevice,
        record: &Record,
        reserved: &Reservation,
    ) -> Result<ThinDevice> {
        let wanted = Bytes(record.size_bytes).to_sectors();
        if thin.len() >= wanted {
            return Ok(thin);
        }
        let pool = self.pool.clone();
        let what = format!("suspend of device {}", thin.name());
        let thin = within(
            &*self.machine.clock,
            || what,
            self.deadlines.suspend,
            reserved,
            move || Ok(pool.resize(&thin, wanted)?),
        )?;
        self.active.set(id, Device { thin: thin.clone(), leaving: false });
        Ok(thin)
    }

    /// Removes a layer's device, if it is there. The caller has reserved the layer and unmounted it.
    ///
    /// With `when` [`Removal::Deferred`] a device that is open elsewhere goes at its last close.
    ///
    /// # Errors
    /// [`crate::Kind::Busy`] if it stays open until the deadline.
    pub(crate) fn deactivate(&self, id: &LayerId, when: Removal) -> Result<Removed> {
        let Some(device) = self.active.get(id) else { return Ok(Removed::Absent) };
        let clock = Waiting(&*self.machine.clock);
        let removed =
            self.pool.deactivate(&device.thin, when, Patience::new(self.deadlines.removal, &clock))?;
        if removed == Removed::Scheduled {
            self.active.set(id, Device { leaving: true, ..device });
        } else {
            self.active.forget(id);
        }
        Ok(removed)
    }

    /// A device of somebody else's that stands on a record's thin device. The kernel refuses to delete such a one; nothing keeps its blocks from being
    /// discarded through another.
    pub(crate) fn held_elsewhere(&self, record: &Record) -> Result<Option<DmName>> {
        let thin = thin_id(record)?;
        for listed in self.machine.dm.devices()? {
            if self.names.layer_of(listed.name.as_str()).is_some() {
                continue;
            }
            let table = match self.machine.dm.table((&listed.name).into(), Slot::Live) {
                Ok((_, table)) => table,
                Err(error) if error.kind() == thinlayer_dm::Kind::NotFound => continue,
                Err(error) => return Err(error.into()),
            };
            let on_it = |table: ThinTable| {
                table.pool == BackingDevice::Number(self.pool.number()) && table.id == thin
            };
            if table.first().and_then(|target| ThinTable::from_target(target).ok()).is_some_and(on_it) {
                return Ok(Some(listed.name));
            }
        }
        Ok(None)
    }

    /// Removes a device that must not stay after a failure.
    pub(crate) fn drop_device(&self, id: &LayerId) -> Result<()> {
        self.deactivate(id, Removal::Now).map(drop)
    }
}

/// A record's device id in the pool's words.
pub(crate) fn thin_id(record: &Record) -> Result<ThinId> {
    as_thin_id(record.device_id)
}

/// A device id of the store in the pool's words.
pub(crate) fn as_thin_id(device_id: thinlayer_store::DeviceId) -> Result<ThinId> {
    ThinId::new(device_id.get()).ok_or_else(|| Error::NeedsCheck {
        what: format!("{device_id} is no thin device id: it has more than 24 bits"),
    })
}
