//! [`Recorder`]: a [`DeviceMapper`] that passes every call on and remembers it, for tests that count kernel work.

use crate::device_mapper::{
    Access, DeviceMapper, Events, Flush, Info, ListedDevice, Removal, Removed, Slot, Suspend, Target,
    TargetVersion, Version,
};
use crate::error::{Kind, Result};
use crate::name::{DeviceNumber, DeviceRef, DmName, DmUuid};
use crate::units::Sectors;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How a recorded call said which device it meant: a [`DeviceRef`] that owns its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    /// By name.
    Name(DmName),
    /// By UUID.
    Uuid(DmUuid),
    /// By number.
    Number(DeviceNumber),
}

impl From<DeviceRef<'_>> for Device {
    fn from(device: DeviceRef<'_>) -> Self {
        match device {
            DeviceRef::Name(name) => Self::Name(name.clone()),
            DeviceRef::Uuid(uuid) => Self::Uuid(uuid.clone()),
            DeviceRef::Number(number) => Self::Number(number),
        }
    }
}

/// One call, with its arguments: one variant for each method of [`DeviceMapper`], and one for a wait of its [`Events`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "variants and fields are the trait's methods and arguments, documented there"
)]
#[non_exhaustive]
pub enum Call {
    TargetVersions,
    Devices,
    Create { name: DmName, uuid: Option<DmUuid> },
    Remove { device: Device, when: Removal },
    CancelDeferredRemoval { device: Device },
    Rename { device: DmName, to: DmName },
    SetUuid { device: DmName, uuid: DmUuid },
    Suspend { device: Device, how: Suspend },
    Resume { device: Device, how: Suspend },
    Load { device: Device, table: Vec<Target>, access: Access },
    Clear { device: Device },
    Info { device: Device },
    Table { device: Device, slot: Slot },
    Status { device: Device, flush: Flush },
    Deps { device: Device },
    Message { device: Device, sector: Sectors, message: String },
    Events,
    Wait { timeout: Duration },
    Node { name: DmName, number: DeviceNumber },
    ForgetNode { name: DmName, number: DeviceNumber },
}

impl Call {
    /// The kernel command that the call is on [`crate::Control`]; `None` if it is no ioctl.
    pub fn command(&self) -> Option<&'static str> {
        Some(match self {
            Self::TargetVersions => "DM_LIST_VERSIONS",
            Self::Devices => "DM_LIST_DEVICES",
            Self::Create { .. } => "DM_DEV_CREATE",
            Self::Remove { .. } => "DM_DEV_REMOVE",
            Self::CancelDeferredRemoval { .. } | Self::Message { .. } => "DM_TARGET_MSG",
            Self::Rename { .. } | Self::SetUuid { .. } => "DM_DEV_RENAME",
            Self::Suspend { .. } | Self::Resume { .. } => "DM_DEV_SUSPEND",
            Self::Load { .. } => "DM_TABLE_LOAD",
            Self::Clear { .. } => "DM_TABLE_CLEAR",
            Self::Info { .. } => "DM_DEV_STATUS",
            Self::Table { .. } | Self::Status { .. } => "DM_TABLE_STATUS",
            Self::Deps { .. } => "DM_TABLE_DEPS",
            Self::Events | Self::Wait { .. } => "DM_DEV_ARM_POLL",
            Self::Node { .. } | Self::ForgetNode { .. } => return None,
        })
    }
}

/// A call and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// What was asked.
    pub call: Call,
    /// The class of its failure; `None` if it succeeded.
    pub failed: Option<Kind>,
}

type Log = Arc<Mutex<Vec<Recorded>>>;

/// A [`DeviceMapper`] that passes every call on to another and remembers it, in the order in which the calls returned.
///
/// It is meant for the tests of callers: how many ioctls did that cost, and which? [`DeviceMapper::version`] is not recorded,
/// as it costs nothing. Clones share one log.
///
/// # Examples
/// ```no_run
/// use thinlayer_dm::{Control, DeviceMapper, Recorder};
/// # fn main() -> Result<(), thinlayer_dm::Error> {
/// let dm = Recorder::new(Control::open()?);
/// dm.devices()?;
/// assert_eq!(dm.ioctls(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Recorder<D> {
    inner: D,
    log: Log,
}

impl<D> Recorder<D> {
    /// Around `inner`, with an empty log.
    pub fn new(inner: D) -> Self {
        Self { inner, log: Log::default() }
    }

    /// What is behind it.
    pub fn inner(&self) -> &D {
        &self.inner
    }

    /// The calls so far.
    pub fn calls(&self) -> Vec<Recorded> {
        lock(&self.log).clone()
    }

    /// The calls so far; the log is empty afterwards.
    pub fn take(&self) -> Vec<Recorded> {
        std::mem::take(&mut *lock(&self.log))
    }

    /// How many of the calls so far are ioctls.
    pub fn ioctls(&self) -> usize {
        lock(&self.log).iter().filter(|recorded| recorded.call.command().is_some()).count()
    }

    /// The kernel commands of the calls so far, in order.
    pub fn commands(&self) -> Vec<&'static str> {
        lock(&self.log).iter().filter_map(|recorded| recorded.call.command()).collect()
    }

    fn note<T>(&self, call: Call, result: Result<T>) -> Result<T> {
        note(&self.log, call, result)
    }
}

/// A test that failed elsewhere may have poisoned the lock; the log is still whole.
fn lock(log: &Log) -> MutexGuard<'_, Vec<Recorded>> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

fn note<T>(log: &Log, call: Call, result: Result<T>) -> Result<T> {
    let failed = result.as_ref().err().map(crate::Error::kind);
    lock(log).push(Recorded { call, failed });
    result
}

impl<D: DeviceMapper> DeviceMapper for Recorder<D> {
    fn version(&self) -> Version {
        self.inner.version()
    }

    fn target_versions(&self) -> Result<Vec<TargetVersion>> {
        self.note(Call::TargetVersions, self.inner.target_versions())
    }

    fn devices(&self) -> Result<Vec<ListedDevice>> {
        self.note(Call::Devices, self.inner.devices())
    }

    fn create(&self, name: &DmName, uuid: Option<&DmUuid>) -> Result<Info> {
        self.note(Call::Create { name: name.clone(), uuid: uuid.cloned() }, self.inner.create(name, uuid))
    }

    fn remove(&self, device: DeviceRef<'_>, when: Removal) -> Result<Removed> {
        self.note(Call::Remove { device: device.into(), when }, self.inner.remove(device, when))
    }

    fn cancel_deferred_removal(&self, device: DeviceRef<'_>) -> Result<()> {
        let call = Call::CancelDeferredRemoval { device: device.into() };
        self.note(call, self.inner.cancel_deferred_removal(device))
    }

    fn rename(&self, device: &DmName, to: &DmName) -> Result<Info> {
        self.note(Call::Rename { device: device.clone(), to: to.clone() }, self.inner.rename(device, to))
    }

    fn set_uuid(&self, device: &DmName, uuid: &DmUuid) -> Result<Info> {
        self.note(
            Call::SetUuid { device: device.clone(), uuid: uuid.clone() },
            self.inner.set_uuid(device, uuid),
        )
    }

    fn suspend(&self, device: DeviceRef<'_>, how: Suspend) -> Result<Info> {
        self.note(Call::Suspend { device: device.into(), how }, self.inner.suspend(device, how))
    }

    fn resume(&self, device: DeviceRef<'_>, how: Suspend) -> Result<Info> {
        self.note(Call::Resume { device: device.into(), how }, self.inner.resume(device, how))
    }

    fn load(&self, device: DeviceRef<'_>, table: &[Target], access: Access) -> Result<Info> {
        let call = Call::Load { device: device.into(), table: table.to_vec(), access };
        self.note(call, self.inner.load(device, table, access))
    }

    fn clear(&self, device: DeviceRef<'_>) -> Result<Info> {
        self.note(Call::Clear { device: device.into() }, self.inner.clear(device))
    }

    fn info(&self, device: DeviceRef<'_>) -> Result<Option<Info>> {
        self.note(Call::Info { device: device.into() }, self.inner.info(device))
    }

    fn table(&self, device: DeviceRef<'_>, slot: Slot) -> Result<(Info, Vec<Target>)> {
        self.note(Call::Table { device: device.into(), slot }, self.inner.table(device, slot))
    }

    fn status(&self, device: DeviceRef<'_>, flush: Flush) -> Result<(Info, Vec<Target>)> {
        self.note(Call::Status { device: device.into(), flush }, self.inner.status(device, flush))
    }

    fn deps(&self, device: DeviceRef<'_>) -> Result<Vec<DeviceNumber>> {
        self.note(Call::Deps { device: device.into() }, self.inner.deps(device))
    }

    fn message(
        &self,
        device: DeviceRef<'_>,
        sector: Sectors,
        message: &str,
    ) -> Result<(Info, Option<String>)> {
        let call = Call::Message { device: device.into(), sector, message: message.into() };
        self.note(call, self.inner.message(device, sector, message))
    }

    fn events(&self) -> Result<Box<dyn Events>> {
        let events = self.note(Call::Events, self.inner.events())?;
        Ok(Box::new(RecordedEvents { inner: events, log: Arc::clone(&self.log) }))
    }

    fn node(&self, name: &DmName, number: DeviceNumber) -> Result<PathBuf> {
        self.note(Call::Node { name: name.clone(), number }, self.inner.node(name, number))
    }

    fn forget_node(&self, name: &DmName, number: DeviceNumber) -> Result<()> {
        self.note(Call::ForgetNode { name: name.clone(), number }, self.inner.forget_node(name, number))
    }
}

#[derive(Debug)]
struct RecordedEvents {
    inner: Box<dyn Events>,
    log: Log,
}

impl Events for RecordedEvents {
    fn wait(&mut self, timeout: Duration) -> Result<bool> {
        let result = self.inner.wait(timeout);
        note(&self.log, Call::Wait { timeout }, result)
    }
}

#[cfg(test)]
mod tests {
    use super::{Call, Device, Recorder};
    use crate::device_mapper::{DeviceMapper, Flush, Removal};
    use crate::error::Kind;
    use crate::name::{DeviceNumber, DeviceRef, DmName};
    use crate::scripted::Scripted;
    use std::time::Duration;

    #[test]
    fn calls_are_values_in_order_with_how_they_ended() {
        let dm = Recorder::new(Scripted::default());
        let name = DmName::new("a").unwrap();
        let shared: &dyn DeviceMapper = &dm;
        shared.create(&name, None).unwrap();
        shared.create(&name, None).unwrap_err();
        shared.node(&name, DeviceNumber::default()).unwrap();
        shared.status(DeviceRef::Name(&name), Flush::No).unwrap();
        shared.remove(DeviceRef::Name(&name), Removal::Now).unwrap();
        shared.events().unwrap().wait(Duration::ZERO).unwrap();
        shared.version();

        let calls = dm.take();
        let failed: Vec<_> = calls.iter().map(|recorded| recorded.failed).collect();
        assert_eq!(failed, [None, Some(Kind::Exists), None, None, None, None, None]);
        assert_eq!(calls[3].call, Call::Status { device: Device::Name(name), flush: Flush::No });
        assert_eq!(calls[6].call, Call::Wait { timeout: Duration::ZERO });
        assert!(dm.calls().is_empty());
    }

    #[test]
    fn nodes_are_no_ioctls_and_clones_share_the_log() {
        let dm = Recorder::new(Scripted::default());
        let clone = Recorder { inner: Scripted::default(), log: dm.log.clone() };
        let name = DmName::new("a").unwrap();
        clone.devices().unwrap();
        dm.node(&name, DeviceNumber::default()).unwrap();
        dm.forget_node(&name, DeviceNumber::default()).unwrap();
        assert_eq!(dm.commands(), ["DM_LIST_DEVICES"]);
        assert_eq!((dm.ioctls(), dm.calls().len()), (1, 3));
    }
}
