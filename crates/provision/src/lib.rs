//! Where a thin pool's two devices come from.

mod backing;
mod error;

pub use backing::{
    Allocation, AttachOptions, Attachment, Backing, BlockDevice, Ensured, FileInfo, LoopDevice, Progress,
};
pub use error::{Error, ErrorKind, Result};
