//! The door of this crate: the trait [`DeviceMapper`], which [`crate::Control`] implements on the kernel's ioctls, and the
//! values that cross it.

use crate::error::Result;
use crate::name::{DeviceNumber, DeviceRef, DmName, DmUuid};
use crate::units::Sectors;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// A version of the interface or of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u32, pub u32, pub u32);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// One target type that the kernel has loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetVersion {
    /// Its name, such as `thin-pool`.
    pub name: String,
    /// Its version.
    pub version: Version,
}

/// One line of the device list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedDevice {
    /// The device's name.
    pub name: DmName,
    /// Its UUID, where it has one and the kernel lists it (interface 4.44 and newer).
    pub uuid: Option<DmUuid>,
    /// Its number.
    pub number: DeviceNumber,
    /// How many events it has seen (interface 4.37 and newer).
    pub event_nr: Option<u32>,
}

/// What the kernel says of a device in the header of every answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// The device's name.
    pub name: DmName,
    /// Its UUID, if it was given one.
    pub uuid: Option<DmUuid>,
    /// Its number.
    pub number: DeviceNumber,
    /// How many have it open: mounts, other tables, programs.
    pub open_count: u32,
    /// Targets in the live table.
    pub target_count: u32,
    /// Events so far.
    pub event_nr: u32,
    /// I/O is held back.
    pub suspended: bool,
    /// The live table is read-only.
    pub read_only: bool,
    /// There is a live table.
    pub live_table: bool,
    /// There is a table that the next resume takes.
    pub inactive_table: bool,
    /// It goes when the last user closes it.
    pub deferred_remove: bool,
}

/// One line of a table or of a status: where it lies, the target's type, and its words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// First sector.
    pub start: Sectors,
    /// Length.
    pub len: Sectors,
    /// The target's type, such as `thin`.
    pub kind: String,
    /// Its parameters (in a table) or its state (in a status).
    pub params: String,
}

/// May the device be written?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Yes.
    #[default]
    ReadWrite,
    /// No: the device itself refuses writes.
    ReadOnly,
}

/// Which of a device's two tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Slot {
    /// The one in use.
    #[default]
    Live,
    /// The one that the next resume takes.
    Inactive,
}

/// Does a status call make the target write out what it has first?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flush {
    /// No. What a look should ask for: a thin pool commits its metadata otherwise.
    #[default]
    No,
    /// Yes.
    Yes,
}

/// When a device that is open may go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Removal {
    /// Now, or not at all (EBUSY).
    #[default]
    Now,
    /// Now, or by itself at the last close (interface 4.27 and newer).
    Deferred,
}

/// What a removal did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    /// The device is gone.
    Gone,
    /// It is open, and goes at the last close.
    Scheduled,
    /// There was none.
    Absent,
}

/// How to suspend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suspend {
    /// Freeze the file system on it first, so that what is below is consistent (`true` is the kernel's default).
    pub freeze: bool,
    /// Write out what is under way first, instead of queueing it (`true` is the kernel's default).
    pub flush: bool,
}

impl Default for Suspend {
    fn default() -> Self {
        Self { freeze: true, flush: true }
    }
}

/// Every device-mapper call that this project makes, on the real kernel or on a simulated one.
///
/// Each method is one ioctl unless it says otherwise. An implementation may be shared by threads. None of the methods waits for udev.
///
/// # Privileges
/// `CAP_SYS_ADMIN` for everything.
///
/// # References
/// The kernel's `Documentation/admin-guide/device-mapper/` and `include/uapi/linux/dm-ioctl.h`.
pub trait DeviceMapper: fmt::Debug + Send + Sync {
    /// The interface's version, as agreed on when the control node was opened. No ioctl.
    fn version(&self) -> Version;

    /// The targets that are loaded, with versions (`DM_LIST_VERSIONS`).
    ///
    /// # Errors
    /// [`crate::Error::Ioctl`].
    fn target_versions(&self) -> Result<Vec<TargetVersion>>;

    /// All devices (`DM_LIST_DEVICES`).
    ///
    /// # Errors
    /// [`crate::Error::Ioctl`].
    fn devices(&self) -> Result<Vec<ListedDevice>>;

    /// Makes a device without a table (`DM_DEV_CREATE`). Its node works from the first resume on.
    ///
    /// # Errors
    /// [`crate::Kind::Exists`] if the name or UUID is taken.
    fn create(&self, name: &DmName, uuid: Option<&DmUuid>) -> Result<Info>;

    /// Removes a device (`DM_DEV_REMOVE`). One that is not there is no error: the answer says so.
    ///
    /// # Errors
    /// [`crate::Kind::Busy`] if it is open and `when` is [`Removal::Now`].
    fn remove(&self, device: DeviceRef<'_>, when: Removal) -> Result<Removed>;

    /// Takes back a deferred removal (the core message `@cancel_deferred_remove`).
    ///
    /// # Errors
    /// [`crate::Kind::Busy`] if it is being removed this moment, [`crate::Kind::NotFound`] if it is gone.
    fn cancel_deferred_removal(&self, device: DeviceRef<'_>) -> Result<()>;

    /// Gives a device another name (`DM_DEV_RENAME`). The kernel's answer has the new name, but never the UUID.
    ///
    /// # Errors
    /// [`crate::Kind::Exists`] if the name is taken.
    fn rename(&self, device: &DmName, to: &DmName) -> Result<Info>;

    /// Gives a device that has none a UUID (`DM_DEV_RENAME` with `DM_UUID_FLAG`).
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`] if it has one.
    fn set_uuid(&self, device: &DmName, uuid: &DmUuid) -> Result<Info>;

    /// Holds back I/O (`DM_DEV_SUSPEND`). May take as long as the I/O under way does: callers with a deadline use a thread.
    ///
    /// # Errors
    /// [`crate::Error::Ioctl`].
    fn suspend(&self, device: DeviceRef<'_>, how: Suspend) -> Result<Info>;

    /// Takes a loaded table into use, if there is one, and lets I/O pass (`DM_DEV_SUSPEND` without the flag).
    /// On a device without any table it does nothing.
    ///
    /// `how` matters where a table is swapped: with neither flush nor freeze the device is suspended that way for the swap.
    ///
    /// # Errors
    /// [`crate::Error::Ioctl`]; the target refuses here what it could not check at load.
    fn resume(&self, device: DeviceRef<'_>, how: Suspend) -> Result<Info>;

    /// Loads a table into the inactive slot (`DM_TABLE_LOAD`).
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`] if a target refuses its parameters (the kernel's log says why).
    fn load(&self, device: DeviceRef<'_>, table: &[Target], access: Access) -> Result<Info>;

    /// Drops the table in the inactive slot (`DM_TABLE_CLEAR`).
    ///
    /// # Errors
    /// [`crate::Error::Ioctl`].
    fn clear(&self, device: DeviceRef<'_>) -> Result<Info>;

    /// State and counts of a device (`DM_DEV_STATUS`); `None` if there is no such device.
    ///
    /// # Errors
    /// [`crate::Error::Ioctl`].
    fn info(&self, device: DeviceRef<'_>) -> Result<Option<Info>>;

    /// A table's lines (`DM_TABLE_STATUS` with `DM_STATUS_TABLE_FLAG`).
    ///
    /// # Errors
    /// [`crate::Kind::NotFound`].
    fn table(&self, device: DeviceRef<'_>, slot: Slot) -> Result<(Info, Vec<Target>)>;

    /// The live targets' state (`DM_TABLE_STATUS`).
    ///
    /// # Errors
    /// [`crate::Kind::NotFound`].
    fn status(&self, device: DeviceRef<'_>, flush: Flush) -> Result<(Info, Vec<Target>)>;

    /// The devices that the live table stands on, each once (`DM_TABLE_DEPS`); none without a live table.
    ///
    /// # Errors
    /// [`crate::Kind::NotFound`].
    fn deps(&self, device: DeviceRef<'_>) -> Result<Vec<DeviceNumber>>;

    /// Sends a message to the target at `sector` (`DM_TARGET_MSG`) and gives back its answer, if it has one.
    ///
    /// The facts are those after the message: another event number than before tells that something happened to the device.
    ///
    /// # Errors
    /// Whatever the target says; the error's command holds the message.
    fn message(
        &self,
        device: DeviceRef<'_>,
        sector: Sectors,
        message: &str,
    ) -> Result<(Info, Option<String>)>;

    /// A watcher of events on all devices (`DM_DEV_ARM_POLL` and poll; interface 4.37 and newer).
    ///
    /// # Errors
    /// [`crate::Kind::Unsupported`] on older kernels.
    fn events(&self) -> Result<Box<dyn Events>>;

    /// The path of a node by which the device can be opened now, without waiting for udev; no ioctl.
    ///
    /// It makes the node if `/dev` has none, and `/dev/mapper/NAME` if that is absent, as others look for it.
    /// A node that names another device is never handed out.
    ///
    /// # Errors
    /// [`crate::Error::Node`].
    fn node(&self, name: &DmName, number: DeviceNumber) -> Result<PathBuf>;

    /// Removes `/dev/mapper/NAME` if it still stands for `number`, which is gone. udev may have done it already; no ioctl.
    ///
    /// # Errors
    /// [`crate::Error::Node`].
    fn forget_node(&self, name: &DmName, number: DeviceNumber) -> Result<()>;
}

/// A watcher of device-mapper events.
pub trait Events: fmt::Debug + Send {
    /// Waits until any device has an event, at most `timeout`. `true`: look at the list for who it was.
    ///
    /// Arm, list, compare `event_nr`, wait: an event between two waits is not lost.
    ///
    /// # Errors
    /// [`crate::Error::Ioctl`].
    fn wait(&mut self, timeout: Duration) -> Result<bool>;
}
