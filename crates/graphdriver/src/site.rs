//! What the pool's two devices stand on, and how much larger each can become.

use crate::error::Result;
use crate::growth::{Extend, held_by_host, host_share, within_limit};
use crate::machine::Machine;
use crate::options::Options;
use crate::size::human_size;
use std::path::{Path, PathBuf};
use thinlayer_dm::{Bytes, DmName};
use thinlayer_provision::given::MAX_METADATA;
use thinlayer_provision::loop_pool::Side;
use thinlayer_provision::lvm::PoolVolume;
use thinlayer_thin::{BlockSize, MetaBlocks, PoolStatus};

/// Metadata devices are measured in these.
const META_BLOCK: u64 = MetaBlocks::BLOCK_BYTES;

/// What one of the pool's devices stands on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ground {
    /// A file of the root on a loop device.
    File,
    /// A device that the operator named.
    Given(PathBuf),
    /// A pool of LVM's that was set up for this root.
    Volume(PoolVolume),
    /// The pool is somebody else's.
    Others,
}

/// A pool with the root and the options that it is used with.
#[derive(Clone, Debug)]
pub(crate) struct Site<'a> {
    pub(crate) machine: &'a Machine,
    pub(crate) options: &'a Options,
    pub(crate) pool: &'a DmName,
    pub(crate) block: BlockSize,
    /// Why LVM did not extend the pool when it was last asked to.
    pub(crate) volume_blocked: Option<Blocked>,
}

/// Can a side become larger by itself?
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// To so many bytes.
    To(Bytes),
    /// No, and why.
    Not(Blocked),
}

/// Why a side does not grow by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Blocked {
    /// The options say so.
    Off,
    /// The host file system has too little room.
    Host {
        /// What it has.
        free: Bytes,
    },
    /// It is a device that the operator named: its size is the operator's.
    Given(PathBuf),
    /// dmeventd watches the pool, and LVM extends it if the group has room.
    Monitored,
    /// LVM was asked, and this is what it said.
    Volume(String),
    /// The pool is somebody else's.
    Others,
    /// The kernel takes no larger one.
    Largest,
}

impl std::fmt::Display for Blocked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Off => f.write_str("growing by itself is turned off"),
            Self::Host { free } => write!(f, "the host file system below it has {} free", human_size(*free)),
            Self::Given(path) => write!(f, "{} is as large as it was made", path.display()),
            Self::Monitored => f.write_str("dmeventd watches it, and has not extended it yet"),
            Self::Volume(said) => f.write_str(said),
            Self::Others => f.write_str("the pool was not made by thinlayer"),
            Self::Largest => f.write_str("the kernel takes no larger one"),
        }
    }
}

/// Used and total units of a side.
pub(crate) fn figures(side: Side, status: &PoolStatus) -> (u64, u64) {
    match side {
        Side::Data => (status.used_data.0, status.total_data.0),
        Side::Metadata => (status.used_metadata.0, status.total_metadata.0),
    }
}

impl<'a> Site<'a> {
    pub(crate) fn extend(&self) -> Extend {
        self.options.extend()
    }

    pub(crate) fn root(&self) -> &'a Path {
        &self.machine.root.path
    }

    /// What a side stands on.
    pub(crate) fn ground(&self, side: Side) -> Ground {
        if self.options.thin_pool.is_some() {
            return Ground::Others;
        }
        let volume = crate::direct_lvm::volume(self.machine.root.family);
        if volume.device_name().is_ok_and(|name| name == *self.pool) {
            return Ground::Volume(volume);
        }
        let given = match side {
            Side::Data => &self.options.data_device,
            Side::Metadata => &self.options.metadata_device,
        };
        given.clone().map_or(Ground::File, Ground::Given)
    }

    /// Bytes in one unit of a side's figures.
    pub(crate) fn unit(&self, side: Side) -> u64 {
        match side {
            Side::Data => self.block.bytes().0,
            Side::Metadata => META_BLOCK,
        }
    }

    /// Has a side reached the threshold? Where growing by itself is off: the part that is kept free.
    pub(crate) fn is_due(&self, side: Side, status: &PoolStatus) -> bool {
        let (used, total) = figures(side, status);
        self.watched().is_due(used, total)
    }

    /// The threshold that is looked at, also where nothing grows.
    pub(crate) fn watched(&self) -> Extend {
        let extend = self.extend();
        if extend.is_on() {
            return extend;
        }
        Extend { threshold: 100 - self.options.min_free_percent.clamp(1, 99), percent: 0 }
    }

    /// What one growth of a side would do.
    ///
    /// # Errors
    /// If its file cannot be looked at.
    pub(crate) fn plan(&self, side: Side, status: &PoolStatus) -> Result<Plan> {
        match self.ground(side) {
            Ground::Others => return Ok(Plan::Not(Blocked::Others)),
            Ground::Given(path) => return Ok(Plan::Not(Blocked::Given(path))),
            _ if !self.extend().is_on() => return Ok(Plan::Not(Blocked::Off)),
            Ground::File | Ground::Volume(_) => {}
        }
        let (used, total) = figures(side, status);
        let unit = self.unit(side);
        let wanted = self.extend().step(used, total).saturating_mul(unit);
        if let Ground::Volume(_) = self.ground(side) {
            // Only LVM knows what its group has.
            return Ok(self.volume_blocked.clone().map_or(Plan::To(Bytes(wanted)), Plan::Not));
        }
        let total = total.saturating_mul(unit);
        if side == Side::Metadata && total >= MAX_METADATA.0 {
            return Ok(Plan::Not(Blocked::Largest));
        }
        let free = self.host_free(side)?;
        let limit = match side {
            // Larger than the host can hold, its blocks would fail one by one in place of the pool saying that it is full.
            Side::Data => held_by_host(self.allocated(side)?, free.0),
            Side::Metadata => Bytes(total.saturating_add(host_share(free.0)).min(MAX_METADATA.0)),
        };
        Ok(match within_limit(total, wanted, limit.0, unit) {
            Some(to) => Plan::To(Bytes(to)),
            None => Plan::Not(Blocked::Host { free }),
        })
    }

    fn allocated(&self, side: Side) -> Result<Bytes> {
        Ok(self.machine.backing.file(&side.path(self.root()))?.map_or(Bytes(0), |file| file.allocated))
    }

    /// What is free on the file system that holds a side's file.
    pub(crate) fn host_free(&self, side: Side) -> Result<Bytes> {
        Ok(Bytes(self.machine.filesystems.free_bytes(&side.path(self.root()))?))
    }
}
