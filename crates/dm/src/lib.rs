//! Talks to the kernel's device-mapper: every ioctl that thin provisioning and its supervision need, typed.
//!
//! Device-mapper turns tables ("these sectors are linear on that device, those are a thin volume of this pool") into block
//! devices. This crate makes, changes, watches and removes such devices without libdevmapper, without `dmsetup` and without a
//! forked process, and needs neither libclang nor a C library's headers to build. It knows nothing of what the tables mean.
//!
//! * [`Control`] is the kernel's device-mapper; [`DeviceMapper`] is the trait that it implements, behind which a simulation fits too.
//! * [`DeviceGuard`] and [`SuspendGuard`] own a device and a suspension; [`activate`] makes a device in one step.
//! * [`Recorder`] remembers calls, for tests that count them.
//! * [`Error::kind`] tells busy, not found, exists and the like apart.
//!
//! ```no_run
//! use thinlayer_dm::{Access, Control, DeviceMapper, DmName, Sectors, Target, activate};
//!
//! # fn main() -> Result<(), thinlayer_dm::Error> {
//! let dm = Control::open()?;
//! let table = [Target { start: Sectors(0), len: Sectors(2048), kind: "zero".into(), params: String::new() }];
//! let device = activate(&dm, &DmName::new("a-mebibyte-of-nothing")?, None, &table, Access::ReadOnly)?;
//! println!("open {}", dm.node(device.name(), device.number())?.display());
//! device.close()?;
//! # Ok(())
//! # }
//! ```
//!
//! # Which command is which method
//!
//! | kernel command | here | interface |
//! | --- | --- | --- |
//! | `DM_VERSION` | [`Control::open`], [`DeviceMapper::version`] | 4.0 |
//! | `DM_LIST_DEVICES` | [`DeviceMapper::devices`] | 4.0; event numbers 4.37, UUIDs 4.44 |
//! | `DM_LIST_VERSIONS` | [`DeviceMapper::target_versions`] | 4.1 |
//! | `DM_GET_TARGET_VERSION` | [`Control::target_version`] | 4.41 |
//! | `DM_DEV_CREATE` | [`DeviceMapper::create`] | 4.0 |
//! | `DM_DEV_REMOVE` | [`DeviceMapper::remove`] | 4.0; deferred 4.27 |
//! | `DM_DEV_RENAME` | [`DeviceMapper::rename`], [`DeviceMapper::set_uuid`] | 4.0; UUID 4.19 |
//! | `DM_DEV_SUSPEND` | [`DeviceMapper::suspend`], [`DeviceMapper::resume`] | 4.0 |
//! | `DM_DEV_STATUS` | [`DeviceMapper::info`] | 4.0 |
//! | `DM_TABLE_LOAD`, `DM_TABLE_CLEAR` | [`DeviceMapper::load`], [`DeviceMapper::clear`] | 4.0 |
//! | `DM_TABLE_STATUS` | [`DeviceMapper::table`], [`DeviceMapper::status`] | 4.0; inactive tables 4.16 |
//! | `DM_TABLE_DEPS` | [`DeviceMapper::deps`] | 4.0 |
//! | `DM_TARGET_MSG` | [`DeviceMapper::message`], [`DeviceMapper::cancel_deferred_removal`] | 4.2; cancelling 4.27 |
//! | `DM_DEV_ARM_POLL` | [`DeviceMapper::events`] | 4.37 |
//!
//! Left out on purpose: `DM_REMOVE_ALL` (it removes what others made), `DM_DEV_WAIT` (it cannot have a deadline; poll can),
//! `DM_DEV_SET_GEOMETRY` (for a PC's BIOS).
//!
//! # References
//! The kernel's `Documentation/admin-guide/device-mapper/` and `include/uapi/linux/dm-ioctl.h`.

mod control;
mod decode;
mod device_mapper;
mod error;
mod event;
mod generated;
mod guard;
mod name;
mod node;
mod pointers;
mod recorder;
mod request;
#[cfg(test)]
mod scripted;
#[expect(unsafe_code, reason = "the ioctl and the SysV semaphore")]
mod sys;
mod udev;
mod units;

pub use control::Control;
pub use device_mapper::{
    Access, DeviceMapper, Events, Flush, Info, ListedDevice, Removal, Removed, Slot, Suspend, Target,
    TargetVersion, Version,
};
pub use error::{Error, Kind, Result};
pub use guard::{DEFAULT_PATIENCE, DeviceGuard, SuspendGuard, activate, remove_within};
pub use name::{DeviceNumber, DeviceRef, DmName, DmUuid, NAME_MAX_BYTES, UUID_MAX_BYTES};
/// What the kernel answers, as the errors of this crate hold it.
pub use nix::errno::Errno;
pub use recorder::{Call, Device, Recorded, Recorder};
pub use udev::{COOKIE_MAGIC, ListedCookie, UdevCookie, UdevFlags, cookies, reclaim_cookies, udev_runs};
pub use units::{Bytes, SECTOR_BYTES, Sectors};
