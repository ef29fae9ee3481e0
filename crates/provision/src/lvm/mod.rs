//! LVM's thin pools, by LVM's own programs: looked at, activated, grown, and set up from one empty device.
//!
//! - [`Programs`] is the door: programs that are run with a deadline. [`Installed`] are those of this machine.
//! - [`set_up`] makes the pool `docker/thinpool` as Docker's driver does, and goes on where it was interrupted.
//! - [`PoolVolume`] names a pool; [`look`] is what LVM knows of it, [`activate`] makes it a device, [`grow`] extends it, [`relieve`] finds metadata for a removal.
//!
//! LVM owns its pools: their tables are its own, and nothing here loads one. Whoever moves a pool's transaction id, as a graph driver
//! does, must find LVM's own idea of it at 0 and no thin volumes of LVM's in the pool ([`PoolFacts::check_shared`]): only then LVM leaves
//! the number alone, and activates the pool after a reboot whatever it has become.

mod config;
mod device;
#[cfg(test)]
mod fake;
mod grow;
mod journal;
mod pool;
mod programs;
mod report;
mod setup;

pub use config::{CONFIG_FILE, SetupConfig};
pub use grow::{Grown, free, grow, relieve};
pub use journal::{JOURNAL_FILE, RootFiles};
pub use pool::{DOCKER_GROUP, DOCKER_POOL, PoolFacts, PoolVolume, activate, is_lvm, look, look_by_device};
pub use programs::{Finished, Installed, NotInstalled, Programs};
pub use setup::{PROFILE, SetUp, Workshop, forget_journal, set_up, stored};

use crate::error::{Error, Result};
use std::time::Duration;

/// Programs by the package that holds them, as Debian names it.
const PACKAGES: &[(&str, &[&str])] =
    &[("thin-provisioning-tools", &["thin_check"]), ("util-linux", &["blkid", "lsblk"])];

/// The error for programs that are not there: all of them, and what to install.
fn missing(programs: &[&str]) -> Error {
    let package = |program: &&str| {
        PACKAGES.iter().find(|(_, held)| held.contains(program)).map_or("lvm2", |(package, _)| package)
    };
    let mut packages: Vec<&str> = programs.iter().map(package).collect();
    packages.sort_unstable();
    packages.dedup();
    Error::MissingTools { tools: programs.join(", "), packages: packages.join(" and ") }
}

/// Runs a program that must succeed.
fn must(programs: &dyn Programs, program: &str, arguments: &[&str], deadline: Duration) -> Result<String> {
    let ended = programs.run(program, arguments, deadline)?;
    if ended.success() {
        return Ok(ended.stdout);
    }
    Err(Error::Program {
        command: [&[program], arguments].concat().join(" "),
        said: ended.said(),
        advice: String::new(),
    })
}
