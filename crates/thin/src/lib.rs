//! A device-mapper thin pool and its devices: create, snapshot, delete, activate, watch and grow them.
//!
//! A *thin pool* hands out blocks of one large device to many *thin devices*, which take space only where they were written.
//! A snapshot of a thin device is a thin device that shares all blocks with it, and costs one message to the pool.
//!
//! - [`Pool`] is a pool that is active: its table, status and messages, and the devices made of its thin ids.
//! - [`ThinDevice`] is a thin id that is active as a block device.
//! - [`PoolTable`], [`ThinTable`], [`PoolStatus`], [`ThinStatus`] and [`Message`] are the kernel's texts as values, which print and parse.
//! - [`Watcher`] reports what happens to a pool.
//! - [`metadata`] reads what the pool's metadata device holds: its devices, their blocks, and whether all that agrees.
//!
//! All kernel work goes through [`thinlayer_dm::DeviceMapper`]; this crate itself writes no file, and opens none but
//! metadata devices for reading. Nothing is undone when a value
//! of this crate is dropped: pools and devices outlive the program that made them.
//!
//! ```no_run
//! use std::sync::Arc;
//! use thinlayer_dm::{Access, Bytes, Control, DeviceNumber, DmName};
//! use thinlayer_thin::{Pool, PoolTable, ThinId};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (metadata, data) = (DeviceNumber { major: 254, minor: 16 }, DeviceNumber { major: 254, minor: 32 });
//! let table = PoolTable::new(metadata, data, Bytes(100 << 30).to_sectors());
//! let pool = Pool::create(Arc::new(Control::open()?), &DmName::new("pool")?, &table, Access::ReadWrite)?;
//!
//! let (origin, copy) = (ThinId::new(1).ok_or("no thin id")?, ThinId::new(2).ok_or("no thin id")?);
//! pool.create_thin(origin)?;
//! pool.create_snap(copy, origin)?; // the origin is not active; else Pool::snapshot_of_active
//! let device = pool.activate(&DmName::new("copy")?, copy, Bytes(10 << 30).to_sectors(), Access::ReadWrite)?;
//! println!("{}", device.node().display());
//! # Ok(())
//! # }
//! ```
//!
//! # Privileges
//! `CAP_SYS_ADMIN` for all that reaches the kernel. The values need none.
//!
//! # References
//! The kernel's `Documentation/admin-guide/device-mapper/thin-provisioning.rst`.
#![forbid(unsafe_code)]

mod compatibility;
mod device;
mod error;
mod message;
pub mod metadata;
mod pool;
mod quantity;
#[cfg(test)]
mod scripted;
mod status;
mod swap;
mod table;
mod trouble;
mod wait;
mod watcher;

pub use compatibility::Difference;
pub use device::ThinDevice;
pub use error::{Error, Holders, Kind, ParseError, Result, Trouble};
pub use message::Message;
pub use pool::{Deleted, GROWING, Grown, Pool, Probe};
pub use quantity::{BlockSize, BlockSizeError, DataBlocks, MetaBlocks, ThinId, TransactionId};
pub use status::{Health, Mode, NoSpace, PoolState, PoolStatus, ThinStatus};
pub use table::{
    BackingDevice, DevicePath, Discard, Features, POOL_TARGET, PoolTable, THIN_TARGET, ThinTable,
};
pub use wait::{Patience, SystemWait, Wait};
pub use watcher::{PoolChange, Watcher};
