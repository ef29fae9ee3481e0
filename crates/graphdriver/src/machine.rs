//! The machine that a driver works on: one implementation of each crate's trait, and a clock.

use crate::deadline::Deadlines;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use thinlayer_dm::DeviceMapper;
use thinlayer_filesystem::{Filesystems, Owner};
use thinlayer_provision::Backing;
use thinlayer_provision::lvm::Programs;
use thinlayer_store::Disk;
use thinlayer_thin::metadata::MetadataDevices;

/// Time, and threads that a deadline can be put on.
pub trait Clock: fmt::Debug + Send + Sync {
    /// Time since some fixed moment; never goes back.
    fn now(&self) -> Duration;

    /// The calendar's time, for records.
    fn wall(&self) -> SystemTime;

    /// Waits.
    fn sleep(&self, how_long: Duration);

    /// Runs a job on a thread of its own and waits for its end, at most `deadline`. `false`: it is still running, and goes on.
    ///
    /// For system calls that nobody can end (mount, umount, suspend): what the job owns stays reserved until it returns.
    fn run_within(&self, deadline: Duration, job: Box<dyn FnOnce() + Send>) -> bool;
}

/// Whose names a root's devices have, so that its maker finds a pool that was left active.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// `docker-MAJ:MIN-INO`: Docker's roots and our own.
    #[default]
    Docker,
    /// `container-MAJ:MIN-INO`: roots of containers/storage, which Podman and Buildah use.
    Containers,
}

impl Family {
    /// What names of devices begin with.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Containers => "container",
        }
    }
}

/// The graph directory and where its run-time state lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// The folder, absolute and without links.
    pub path: PathBuf,
    /// `st_dev` of the file system that holds it.
    pub dev: u64,
    /// Its inode there.
    pub inode: u64,
    /// Whose it is: with Docker's user namespaces the user that a container's root is on the host. Mount points and new trees are given to it.
    pub owner: Owner,
    /// Whose names its devices have.
    pub family: Family,
    /// A folder that is gone after a reboot (`/run/thinlayer/...`): use counts, temporary mount points.
    pub runtime: PathBuf,
}

/// Everything outside the driver that it acts on.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Device-mapper.
    pub dm: Arc<dyn DeviceMapper>,
    /// Mounts and file systems.
    pub filesystems: Arc<dyn Filesystems>,
    /// Backing files, loop devices, given devices.
    pub backing: Arc<dyn Backing>,
    /// LVM's programs, for pools that are LVM's.
    pub programs: Arc<dyn Programs>,
    /// Metadata devices of pools.
    pub metadata: Arc<dyn MetadataDevices>,
    /// The disk under [`Root::path`].
    pub disk: Arc<dyn Disk>,
    /// The disk under [`Root::runtime`].
    pub runtime: Arc<dyn Disk>,
    /// Time and threads.
    pub clock: Arc<dyn Clock>,
    /// Where the root lies.
    pub root: Root,
    /// How long it is waited for.
    pub deadlines: Deadlines,
}
