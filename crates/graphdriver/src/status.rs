//! What the driver says of itself: the rows of `docker info` (section 4.6 of the specification), and the same as values.

use crate::condition::{Condition, Finding};
use crate::driver::Driver;
use crate::error::Result;
use crate::growth::Extend;
use crate::machine::Machine;
use crate::options::Options;
use crate::site::{Blocked, Ground, Site};
use crate::size::human_size;
use std::path::PathBuf;
use thinlayer_dm::{Bytes, DeviceNumber, Flush};
use thinlayer_provision::{LoopDevice, loop_pool};
use thinlayer_store::{LayerId, Store};
use thinlayer_thin::{Pool, PoolStatus, PoolTable};

/// The pool's and the root's state.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// Docker's rows, in Docker's order.
    pub rows: Vec<(String, String)>,
    /// The pool's name.
    pub pool_name: String,
    /// The pool's block.
    pub block_size: Bytes,
    /// Bytes of data in use.
    pub data_used: Bytes,
    /// Bytes of data in all.
    pub data_total: Bytes,
    /// Bytes of data that can still be had: what is free in the pool and, below a sparse file, on the host.
    pub data_available: Bytes,
    /// Bytes of metadata in use.
    pub metadata_used: Bytes,
    /// Bytes of metadata in all.
    pub metadata_total: Bytes,
    /// The pool's transaction id.
    pub transaction_id: u64,
    /// What is wrong with the pool and what to do, if anything is.
    pub trouble: Option<String>,
    /// The same in one word.
    pub condition: Condition,
    /// When the pool grows by itself.
    pub extend: Extend,
    /// Whether its data can.
    pub data_growth: Growable,
    /// Whether its metadata can.
    pub metadata_growth: Growable,
    /// Room kept beside the metadata, so that layers can be removed when that is full.
    pub metadata_reserve: Bytes,
    /// Layers, without the base.
    pub layers: usize,
    /// Removed layers whose blocks are still in the pool.
    pub deferred: usize,
    /// The base's file system.
    pub filesystem: String,
    /// Is the pool on loop devices?
    pub loop_backed: bool,
}

/// Can one of the pool's devices become larger by itself?
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Growable {
    /// It can, this moment.
    pub possible: bool,
    /// Why not.
    pub why_not: Option<String>,
}

/// Where the pool's two devices lie.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Side {
    node: Option<PathBuf>,
    loop_file: Option<PathBuf>,
    /// Free bytes of the file system below a sparse file.
    host_free: Option<Bytes>,
}

/// What the rows are made of.
#[derive(Clone, Debug)]
struct Facts<'a> {
    pool_name: &'a str,
    table: &'a PoolTable,
    /// `None` for a pool that has failed: all sizes are 0 then.
    status: Option<&'a PoolStatus>,
    finding: Finding,
    data_growth: Growable,
    metadata_growth: Growable,
    metadata_reserve: Bytes,
    data: Side,
    metadata: Side,
    base_size: Bytes,
    filesystem: &'a str,
    options: &'a Options,
    layers: usize,
    deferred: usize,
    library: String,
}

impl Driver {
    /// The status. One status call that does not make the pool commit; never waits for another operation.
    ///
    /// # Errors
    /// If the pool cannot be asked.
    pub fn status(&self) -> Result<Status> {
        let blocked = self.volume_blocked.read().clone();
        status(&self.machine, &self.store, &self.pool, &self.layout, &self.options, blocked)
    }
}

/// The status of an active pool. `volume_blocked`: why LVM did not extend it, if its owner has asked.
pub(crate) fn status(
    machine: &Machine,
    store: &Store,
    pool: &Pool,
    layout: &Layout,
    options: &Options,
    volume_blocked: Option<Blocked>,
) -> Result<Status> {
    let state = pool.status(Flush::No)?;
    let site = Site { machine, options, pool: pool.name(), block: layout.table.block_size, volume_blocked };
    let growable = |side| {
        let blocked = state.running().and_then(|status| site.blocked(side, status));
        Growable {
            possible: state.running().is_some() && blocked.is_none(),
            why_not: blocked.map(|why| why.to_string()),
        }
    };
    let layers = store.layers();
    let base_size =
        store.record_even_deleted(&LayerId::base()).map_or(Bytes(0), |record| Bytes(record.size_bytes));
    let facts = Facts {
        pool_name: pool.name().as_str(),
        data: layout.data.now(machine),
        metadata: layout.metadata.now(machine),
        table: &layout.table,
        status: state.running(),
        finding: site.judge(&state, Some(&layout.table)),
        data_growth: growable(loop_pool::Side::Data),
        metadata_growth: growable(loop_pool::Side::Metadata),
        metadata_reserve: match site.ground(loop_pool::Side::Metadata) {
            Ground::File => machine
                .backing
                .file(&loop_pool::reserve_path(&machine.root.path))?
                .map_or(Bytes(0), |file| file.allocated),
            _ => Bytes(0),
        },
        base_size,
        filesystem: &store.device_set().base_filesystem,
        options,
        layers: layers.iter().filter(|(id, record)| !id.is_base() && !record.is_hidden()).count(),
        deferred: store.counts().deleted,
        library: format!("thinlayer {} (device-mapper {})", env!("CARGO_PKG_VERSION"), machine.dm.version()),
    };
    Ok(facts.render())
}

/// What a pool is made of: its devices and its block. Neither changes while it is up, whatever is loaded into it, so its owner asks once, at the start;
/// then a status is one call to the kernel.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// As it was then: its length and its features may be others by now.
    pub(crate) table: PoolTable,
    data: Side,
    metadata: Side,
}

impl Layout {
    /// Asks for the table, and looks for what it stands on.
    ///
    /// # Errors
    /// If the pool cannot be asked, or loop devices cannot be listed.
    pub(crate) fn of(machine: &Machine, pool: &Pool) -> Result<Self> {
        let table = pool.table()?;
        let data = side(machine, crate::pool::number(&table.data).ok())?;
        let metadata = side(machine, crate::pool::number(&table.metadata).ok())?;
        Ok(Self { table, data, metadata })
    }
}

impl Side {
    /// With the room below it as it is this moment.
    fn now(&self, machine: &Machine) -> Self {
        // Where the file's folder is out of sight, nothing is known about that.
        let free = self.loop_file.as_ref().and_then(|file| machine.filesystems.free_bytes(file).ok());
        Self { host_free: free.map(Bytes), ..self.clone() }
    }
}

/// What a device of the pool's table is.
fn side(machine: &Machine, number: Option<DeviceNumber>) -> Result<Side> {
    let Some(number) = number else { return Ok(Side::default()) };
    if let Some(device) = machine.backing.loops()?.into_iter().find(|device| device.number == number) {
        // That of a root that is only looked at, on a device that was given.
        if device.read_only && device.file.starts_with("/dev") {
            return Ok(Side { node: Some(device.file), ..Side::default() });
        }
        let file = own_file(machine, &device)?.unwrap_or(device.file);
        return Ok(Side { node: Some(device.node), loop_file: Some(file), host_free: None });
    }
    let node = machine
        .dm
        .devices()?
        .into_iter()
        .find(|device| device.number == number)
        .map(|device| PathBuf::from(format!("/dev/mapper/{}", device.name)));
    Ok(Side { node: node.or_else(|| Some(format!("/dev/block/{number}").into())), ..Side::default() })
}

/// The root's own file below a loop device, by its inode. The kernel tells a path that is of no use once the mount is gone through which the file was
/// opened, as dockerd's and Podman's private mounts of their folders are after their end.
fn own_file(machine: &Machine, device: &LoopDevice) -> Result<Option<PathBuf>> {
    for side in [loop_pool::Side::Data, loop_pool::Side::Metadata] {
        let path = side.path(&machine.root.path);
        if machine
            .backing
            .file(&path)?
            .is_some_and(|file| (file.dev, file.inode) == (device.dev, device.inode))
        {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

impl Facts<'_> {
    fn render(self) -> Status {
        let figure = |figure: fn(&PoolStatus) -> u64| self.status.map_or(0, figure);
        let block = self.table.block_size.bytes();
        let meta_block = thinlayer_thin::MetaBlocks::BLOCK_BYTES;
        let times = |blocks: u64, bytes: u64| Bytes(blocks.saturating_mul(bytes));
        let data_used = times(figure(|status| status.used_data.0), block.0);
        let data_total = times(figure(|status| status.total_data.0), block.0);
        let metadata_used = times(figure(|status| status.used_metadata.0), meta_block);
        let metadata_total = times(figure(|status| status.total_metadata.0), meta_block);
        let left = |total: Bytes, used: Bytes| total.checked_sub(used).unwrap_or_default();
        let data_available = self
            .data
            .host_free
            .map_or(left(data_total, data_used), |free| left(data_total, data_used).min(free));
        // The metadata file is fully allocated, but Docker caps this row all the same.
        let metadata_available =
            self.metadata.host_free.map_or(left(metadata_total, metadata_used), |free| {
                left(metadata_total, metadata_used).min(free)
            });
        let minimum_free = times(
            figure(|status| status.total_data.0).saturating_mul(u64::from(self.options.min_free_percent))
                / 100,
            block.0,
        );
        let loop_backed = self.data.loop_file.is_some() || self.metadata.loop_file.is_some();

        let mut rows: Vec<(String, String)> = Vec::new();
        let mut row = |key: &str, value: String| rows.push((key.to_owned(), value));
        let path = |path: &PathBuf| path.display().to_string();
        row("Pool Name", self.pool_name.to_owned());
        row("Pool Blocksize", human_size(block));
        row("Base Device Size", human_size(self.base_size));
        row("Backing Filesystem", self.filesystem.to_owned());
        // No operation depends on udev; tools that read this row take `false` for a broken installation.
        row("Udev Sync Supported", "true".to_owned());
        if let Some(node) = &self.data.node {
            row("Data file", path(node));
        }
        if let Some(node) = &self.metadata.node {
            row("Metadata file", path(node));
        }
        if let Some(file) = &self.data.loop_file {
            row("Data loop file", path(file));
        }
        if let Some(file) = &self.metadata.loop_file {
            row("Metadata loop file", path(file));
        }
        row("Data Space Used", human_size(data_used));
        row("Data Space Total", human_size(data_total));
        row("Data Space Available", human_size(data_available));
        row("Metadata Space Used", human_size(metadata_used));
        row("Metadata Space Total", human_size(metadata_total));
        row("Metadata Space Available", human_size(metadata_available));
        row("Thin Pool Minimum Free Space", human_size(minimum_free));
        row("Deferred Removal Enabled", self.options.defers_removal().to_string());
        row("Deferred Deletion Enabled", self.options.defers_deletion().to_string());
        row("Deferred Deleted Device Count", self.deferred.to_string());
        row("Library Version", self.library);
        Status {
            rows,
            pool_name: self.pool_name.to_owned(),
            block_size: block,
            data_used,
            data_total,
            data_available,
            metadata_used,
            metadata_total,
            transaction_id: figure(|status| status.transaction_id.0),
            trouble: Some(self.finding.text).filter(|text| !text.is_empty()),
            condition: self.finding.condition,
            extend: self.options.extend(),
            data_growth: self.data_growth,
            metadata_growth: self.metadata_growth,
            metadata_reserve: self.metadata_reserve,
            layers: self.layers,
            deferred: self.deferred,
            filesystem: self.filesystem.to_owned(),
            loop_backed,
        }
    }
}
