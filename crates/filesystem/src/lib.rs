//! ext4 and xfs on a block device.

mod error;
mod filesystems;

pub use error::{Error, ErrorKind, Result};
pub use filesystems::{
    Alive, Detected, Filesystems, Kind, MakeOptions, Mount, MountRequest, Owner, Unmount, Unmounted,
};
