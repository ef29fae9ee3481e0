//! Where a thin pool's two devices come from: loop-backed files and given block devices.
//!
//! - [`Backing`] is the door: backing files, loop devices, block devices. [`System`] implements it by system calls
//!   on this machine; a simulation can stand in its place.
//! - [`loop_pool`] keeps the two files of a root on loop devices, and a reserve beside them.
//! - [`given`] looks at devices that an operator names before anything is touched.
//! - [`lvm`] asks LVM for thin pools, by its own programs.
//! - [`signature`] tells what is on a device from its first and last blocks; bytes in, a name out.
//! - [`superblock`] tells what a pool's metadata says of the pool before anything stands on it.
//!
//! No process is started but for LVM. Loop devices are attached in one step with their true name, free themselves when nobody
//! has them open, and bypass the page cache where the host file system can.
//!
//! ```no_run
//! use std::path::Path;
//! use thinlayer_dm::Bytes;
//! use thinlayer_provision::loop_pool::{Sizes, ensure_pair};
//!
//! # fn main() -> thinlayer_provision::Result<()> {
//! let system = thinlayer_provision::System::new();
//! let sizes = Sizes { data: Bytes(100 << 30), metadata: Bytes(2 << 30) };
//! let pair = ensure_pair(&system, Path::new("/var/lib/thinlayer"), sizes)?;
//! println!("{} and {}", pair.metadata.attachment.node.display(), pair.data.attachment.node.display());
//! # Ok(())
//! # }
//! ```

mod attach;
mod backing;
mod checksum;
mod discard;
mod error;
#[cfg(test)]
mod fake;
mod file;
pub mod given;
mod inspect;
pub mod loop_pool;
pub mod lvm;
pub mod signature;
pub mod superblock;
mod sys;
mod system;

pub use backing::{
    Allocation, AttachOptions, Attachment, Backing, BlockDevice, Ensured, FileInfo, LoopDevice, Progress,
};
pub use error::{Error, ErrorKind, Result};
/// What the kernel answers, as the errors of this crate hold it.
pub use nix::errno::Errno;
pub use system::System;
