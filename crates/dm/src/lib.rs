//! Every device-mapper ioctl, typed.

mod device_mapper;
mod error;
mod name;
mod units;

pub use device_mapper::{
    Access, DeviceMapper, Events, Flush, Info, ListedDevice, Removal, Removed, Slot, Suspend, Target, TargetVersion,
    Version,
};
pub use error::{Error, Kind, Result};
pub use name::{DeviceNumber, DeviceRef, DmName, DmUuid, NAME_MAX_BYTES, UUID_MAX_BYTES};
pub use units::{Bytes, SECTOR_BYTES, Sectors};
