//! Every device-mapper ioctl, typed.

mod device_mapper;
mod error;
mod guard;
mod name;
mod pointers;
mod recorder;
#[cfg(test)]
mod scripted;
mod units;

pub use device_mapper::{
    Access, DeviceMapper, Events, Flush, Info, ListedDevice, Removal, Removed, Slot, Suspend, Target,
    TargetVersion, Version,
};
pub use error::{Error, Kind, Result};
pub use guard::{DEFAULT_PATIENCE, DeviceGuard, SuspendGuard, activate, remove_within};
pub use name::{DeviceNumber, DeviceRef, DmName, DmUuid, NAME_MAX_BYTES, UUID_MAX_BYTES};
pub use recorder::{Call, Device, Recorded, Recorder};
pub use units::{Bytes, SECTOR_BYTES, Sectors};
