//! Layer records and the open transaction.

mod disk;

pub use disk::{Disk, Entry};
