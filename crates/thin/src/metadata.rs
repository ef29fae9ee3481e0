//! What a pool's metadata device holds, read by this crate itself: [`Metadata`].
//!
//! The kernel keeps the metadata of a pool in blocks of 4096 bytes, each with a checksum and its own number in it:
//!
//! - the *superblock*, block 0: counters, flags, and where everything else begins;
//! - a B-tree of *device details*: one entry for each thin device;
//! - a B-tree of *mappings* in two levels: thin id, then the block of the thin device, to the block of the pool's data;
//! - two *space maps*, one for data blocks and one for metadata blocks: how often each is referred to. Counts up to two stand in bitmaps, larger
//!   ones in a B-tree beside them.
//!
//! Snapshots share nodes of the mapping trees as they share data blocks, and the space maps count those references too.
//!
//! # What is read
//! The metadata of a pool that is **not active**, from its device or file ([`Metadata::open`]); or the *metadata snapshot* of an active one, in which
//! nothing moves ([`HeldMetadata`], [`Metadata::open_held`]). The metadata of an active pool without a snapshot must not be read: the kernel
//! writes in place what is not in its last commit.
//!
//! # Damage
//! Nothing that is read is believed: every block's checksum and number, every node's header, the order and the bounds of its keys and the depth of
//! its tree are verified, so any input ends in values or in an [`Error`] that names the block. A tree is walked in memory of one node for each of its levels;
//! [`Metadata::check`] and [`Metadata::usage`] keep about ten bytes for each metadata block and one for each data block in use.
//!
//! # References
//! The kernel's `drivers/md/dm-thin-metadata.c`, `drivers/md/persistent-data/` and `Documentation/admin-guide/device-mapper/persistent-data.rst`.

mod block;
mod check;
mod counts;
mod cursor;
mod details;
mod difference;
mod error;
mod held;
mod mapping;
mod node;
mod reader;
mod source;
mod space_map;
mod superblock;
mod usage;
mod visits;
#[cfg(any(test, feature = "writer"))]
pub mod writer;

pub use check::{Consistency, Fault, Space};
pub use details::{DeviceDetails, Devices};
pub use difference::{Difference, Differences, Side};
pub use error::{BlockKind, Error, Kind, Result};
pub use held::{Abandoned, HeldMetadata};
pub use mapping::{Run, Runs};
pub use reader::Metadata;
pub use source::{DeviceSource, MetadataDevices, Place, ReadAt, SystemDevices};
pub use space_map::SpaceMap;
pub use superblock::Superblock;
pub use usage::Usage;

#[cfg(test)]
mod tests;
