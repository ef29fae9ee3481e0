//! The driver.

mod machine;

pub use machine::{Clock, Machine, Root};
