//! What a test suite that runs in the VM is written with.
//!
//! A suite is one program, `tests/suites/src/bin/NAME.rs`:
//!
//! ```no_run
//! use anyhow::{Result, ensure};
//! use harness::{Set, suite, test};
//!
//! fn lists_nothing_at_first() -> Result<()> {
//!     let listed = harness::run("dmsetup", ["ls"])?;
//!     ensure!(listed.stdout_text().contains("No devices found"), "dmsetup lists {listed:?}");
//!     Ok(())
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     suite("example", Set::Everywhere, vec![test("lists nothing at first", lists_nothing_at_first)]).main()
//! }
//! ```
//!
//! The guest's agent runs each test in a process of its own, as root, with a deadline, and afterwards sees to it
//! that no device, mount, loop or process stays. [`scratch_dir`] is an empty folder on a disk that survives
//! [`power_cut`]s. A suite's program also runs by hand in the VM, like any test program of cargo's
//! (`cargo xtask vm -- suites/example --list`).

pub mod protocol;
pub mod sweep;

mod phase;
mod process;
mod scratch;
mod suite;
mod wait;

pub use phase::{phase, power_cut};
pub use process::{Output, run, try_run};
pub use scratch::{LoopFile, results_dir, scratch_dir, sparse_file};
pub use suite::{Set, Suite, Test, skip, suite, test};
pub use wait::{eventually, udev_runs, wait_for_udev};

/// The kernel line that the VM was booted with (`6.1`, `6.12`), or `unknown` outside the VM.
pub fn kernel() -> String {
    std::env::var("THINLAYER_KERNEL").unwrap_or_else(|_| "unknown".to_owned())
}

/// How many rounds a soak asks for; 1 in an ordinary run.
pub fn soak_rounds() -> u32 {
    std::env::var("THINLAYER_SOAK_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(1)
}
