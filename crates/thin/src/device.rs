//! Thin devices that are active: making, finding, growing, snapshotting and removing them.

use crate::error::{Error, Result};
use crate::message::Message;
use crate::pool::{GROWING, Pool};
use crate::quantity::ThinId;
use crate::status::{Health, ThinStatus};
use crate::swap::{build, only_target, swap, undo_build};
use crate::table::{BackingDevice, THIN_TARGET, ThinTable};
use crate::trouble::holders_of;
use crate::wait::Patience;
use nix::errno::Errno;
use std::path::{Path, PathBuf};
use thinlayer_dm::{
    Access, DeviceMapper, DeviceNumber, DmName, Flush, Kind, Removal, Removed, Sectors, Slot, Suspend,
};

/// A thin id that is active as a block device.
///
/// A plain value: dropping it leaves the device as it is, as devices outlive programs. [`Pool::deactivate`] removes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThinDevice {
    name: DmName,
    number: DeviceNumber,
    node: PathBuf,
    id: ThinId,
    len: Sectors,
    access: Access,
}

impl ThinDevice {
    /// Its name.
    pub fn name(&self) -> &DmName {
        &self.name
    }

    /// Its number.
    pub fn number(&self) -> DeviceNumber {
        self.number
    }

    /// A node that can be opened now.
    pub fn node(&self) -> &Path {
        &self.node
    }

    /// Its thin id in the pool.
    pub fn id(&self) -> ThinId {
        self.id
    }

    /// Its length.
    pub fn len(&self) -> Sectors {
        self.len
    }

    /// Has it no length at all? The kernel makes no such device.
    pub fn is_empty(&self) -> bool {
        self.len == Sectors(0)
    }

    /// May it be written?
    pub fn access(&self) -> Access {
        self.access
    }
}

const ACTIVATE: &str = "activate";

impl Pool {
    /// Makes a block device of a thin id: create, load, resume (3 ioctls), and finds its node without waiting for udev.
    ///
    /// What was made is removed again if a step fails, in reverse order; the first error is kept.
    /// A thin id should not be active twice with write access: the kernel does not prevent it.
    ///
    /// # Errors
    /// [`Error::NameTaken`]; [`Error::NoSuchId`]; [`Error::PoolTrouble`] on a failed pool; [`Error::TableRefused`];
    /// [`Error::NotUndone`] if the device is left behind.
    pub fn activate(&self, name: &DmName, id: ThinId, size: Sectors, access: Access) -> Result<ThinDevice> {
        let dm = self.device_mapper();
        let table = ThinTable::new(self.number(), id, size);
        let info = build(dm, ACTIVATE, name, &table.target(), access)
            .map_err(|error| self.why_not_active(error, id))?;
        match dm.node(name, info.number) {
            Ok(node) => {
                Ok(ThinDevice { name: name.clone(), number: info.number, node, id, len: size, access })
            }
            Err(source) => {
                let first = Error::call(ACTIVATE, name, source);
                Err(undo_build(dm, name, info.number, first))
            }
        }
    }

    /// Says of a refused table what the kernel only wrote to its log.
    fn why_not_active(&self, error: Error, id: ThinId) -> Error {
        match error {
            Error::TableRefused { source, .. } if source.errno() == Some(Errno::ENODATA) => {
                Error::NoSuchId { pool: self.name().clone(), id, source }
            }
            Error::TableRefused { op, device, table, source } => {
                match self.status(Flush::No).map(|state| (state.running().is_some(), state.health())) {
                    Ok((false, Health::Trouble(trouble))) => Error::PoolTrouble {
                        op: format!("activate {device} from"),
                        pool: self.name().clone(),
                        trouble,
                        source: Some(source),
                    },
                    _ => Error::TableRefused { op, device, table, source },
                }
            }
            Error::NotUndone { first, left, undo } => {
                Error::NotUndone { first: Box::new(self.why_not_active(*first, id)), left, undo }
            }
            other => other,
        }
    }

    /// Finds an active thin device of this pool; `None` if there is no device of that name. One ioctl.
    ///
    /// # Errors
    /// [`Error::WrongTarget`] if it is something else or belongs to another pool; [`Error::Unfinished`] if it has no table
    /// ([`Pool::remove_unfinished`] removes it).
    pub fn device(&self, name: &DmName) -> Result<Option<ThinDevice>> {
        const OP: &str = "look at";
        let dm = self.device_mapper();
        let (info, targets) = match dm.table(name.into(), Slot::Live) {
            Ok(answer) => answer,
            Err(error) if error.kind() == Kind::NotFound => return Ok(None),
            Err(source) => return Err(Error::call(OP, name, source)),
        };
        let target = only_target(name, THIN_TARGET, &targets)?;
        let table = ThinTable::from_target(target).map_err(|source| Error::malformed(name, source))?;
        if table.pool != BackingDevice::Number(self.number()) {
            return Err(Error::WrongTarget {
                device: name.clone(),
                wanted: THIN_TARGET,
                found: format!("one of another pool ({})", table.pool),
            });
        }
        let node = dm.node(name, info.number).map_err(|source| Error::call(OP, name, source))?;
        let access = if info.read_only { Access::ReadOnly } else { Access::ReadWrite };
        let (id, len) = (table.id, table.len);
        Ok(Some(ThinDevice { name: name.clone(), number: info.number, node, id, len, access }))
    }

    /// Removes a thin device from the kernel; the thin id and what it holds stay in the pool. One ioctl per try.
    ///
    /// A busy device is tried again as long as `patience` lasts: udev opens new devices for a moment. Hold no lock meanwhile.
    ///
    /// # Errors
    /// [`Error::Busy`], with who holds it, if `how` is [`Removal::Now`] and it is still open at the end.
    pub fn deactivate(&self, device: &ThinDevice, how: Removal, patience: Patience<'_>) -> Result<Removed> {
        remove(self.device_mapper(), "deactivate", &device.name, device.number, how, patience)
    }

    /// As [`Pool::deactivate`], for a device of which only the name is known. One ioctl more; an absent device is no error.
    ///
    /// # Errors
    /// As [`Pool::deactivate`].
    pub fn deactivate_by_name(&self, name: &DmName, how: Removal, patience: Patience<'_>) -> Result<Removed> {
        const OP: &str = "deactivate";
        let dm = self.device_mapper();
        match dm.info(name.into()).map_err(|source| Error::call(OP, name, source))? {
            Some(info) => remove(dm, OP, name, info.number, how, patience),
            None => Ok(Removed::Absent),
        }
    }

    /// Takes a snapshot of a device that is active and maybe mounted: suspend (with its file system frozen), message, resume.
    ///
    /// Nothing but the message happens while the device is suspended. It is resumed whatever happened, with a second try.
    /// The suspend writes out the file system, and takes as long as that does: on a pool without space, for ever. Callers with a
    /// deadline use a thread.
    ///
    /// # Errors
    /// As [`Pool::create_snap`]; [`Error::LeftSuspended`] if the device could not be resumed. Its field `first` says whether the
    /// snapshot was made (`None`) or why not.
    pub fn snapshot_of_active(&self, device: &ThinDevice, new: ThinId) -> Result<()> {
        let dm = self.device_mapper();
        let name = &device.name;
        let how = Suspend::default();
        dm.suspend(name.into(), how).map_err(|source| Error::call("suspend", name, source))?;
        let message = Message::CreateSnap { new, origin: device.id };
        // The reason of a refusal is looked for after the resume, not while writers wait.
        let sent = self.send(&message);
        let resumed = dm.resume(name.into(), how).or_else(|_| dm.resume(name.into(), how));
        let result = sent.map_err(|source| self.explain(&message, source));
        match resumed {
            Ok(_) => result.map(drop),
            Err(source) => Err(Error::LeftSuspended {
                device: name.clone(),
                first: result.err().map(Box::new),
                source: Box::new(source),
            }),
        }
    }

    /// Makes an active thin device longer: table, load, resume (3 ioctls), without flushing or freezing. What is on it does not
    /// see that by itself: grow the file system afterwards.
    ///
    /// The old table is put back if the kernel refuses the new one.
    ///
    /// # Errors
    /// [`Error::Shrink`] for a smaller size; [`Error::TableRefused`]; [`Error::LeftSuspended`].
    pub fn resize(&self, device: &ThinDevice, size: Sectors) -> Result<ThinDevice> {
        const OP: &str = "resize";
        let dm = self.device_mapper();
        let name = &device.name;
        let (info, targets) =
            dm.table(name.into(), Slot::Live).map_err(|source| Error::call(OP, name, source))?;
        let old = only_target(name, THIN_TARGET, &targets)?;
        if size < old.len {
            return Err(Error::Shrink { device: name.clone(), active: old.len, wanted: size });
        }
        let access = if info.read_only { Access::ReadOnly } else { Access::ReadWrite };
        if size > old.len {
            let mut new = old.clone();
            new.len = size;
            swap(dm, OP, name, old, &new, access, GROWING)?;
        }
        Ok(ThinDevice { len: size, access, ..device.clone() })
    }

    /// What a thin device says of itself. One ioctl, without a flush.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`]; [`Error::WrongTarget`]; [`Error::Malformed`].
    pub fn thin_status(&self, device: &ThinDevice) -> Result<ThinStatus> {
        let name = &device.name;
        let (_, targets) = self
            .device_mapper()
            .status(name.into(), Flush::No)
            .map_err(|source| Error::call("read the status of", name, source))?;
        let target = only_target(name, THIN_TARGET, &targets)?;
        ThinStatus::from_target(target).map_err(|source| Error::malformed(name, source))
    }
}

/// Removes the name of a device that is gone. That it stays hurts nobody: whoever asks for a node is never given a stale one.
pub(crate) fn forget_node(dm: &dyn DeviceMapper, name: &DmName, number: DeviceNumber) {
    if let Err(error) = dm.forget_node(name, number) {
        tracing::warn!(device = %name, %error, "the device is gone, but its name under /dev/mapper stays");
    }
}

/// Removes a device and its name under `/dev/mapper`.
pub(crate) fn remove(
    dm: &dyn DeviceMapper,
    op: &'static str,
    name: &DmName,
    number: DeviceNumber,
    how: Removal,
    patience: Patience<'_>,
) -> Result<Removed> {
    let (result, waited) = patience.retry(|| dm.remove(name.into(), how));
    let removed = result.map_err(|source| match source.kind() {
        Kind::Busy => Error::Busy {
            op: op.into(),
            device: name.clone(),
            waited,
            holders: holders_of(dm, name, number),
            source: Box::new(source),
        },
        _ => Error::call(op, name, source),
    })?;
    if removed != Removed::Scheduled {
        forget_node(dm, name, number);
    }
    Ok(removed)
}
