//! A machine to test on without one: device-mapper with thin pools, file systems, mounts, loop devices, a disk and a clock, simulated
//! behind the traits of thinlayer's crates. Not published.
//!
//! A [`World`] keeps one log of numbered effects. A process that works on it can be made to die after any of them, by a kill or by a power
//! cut, and a new one can be started on what is left. [`conformance`] holds cases that run on the simulation and on the real kernel alike.
//!
//! See `docs/simulation.md`.

mod backing;
mod clock;
pub mod conformance;
mod devices;
mod disk;
mod dm;
mod faults;
mod files;
mod filesystems;
mod image;
mod loops;
mod metadata;
mod mounts;
mod pool;
mod random;
mod state;
mod world;

pub use faults::Fault;
pub use world::{Capture, Holder, Result, ThinFacts, World};
