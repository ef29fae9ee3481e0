//! A pool on two loop devices that `losetup` made, with thin devices that share much.

use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use harness::LoopFile;
use thinlayer_dm::{Access, Control, DeviceNumber, DmName, Flush, Removal, Sectors};
use thinlayer_thin::{Patience, Pool, PoolStatus, PoolTable, SystemWait, ThinDevice, ThinId, TransactionId};

const MIB: u64 = 1 << 20;
pub(crate) const BLOCK: u64 = 65_536;
/// Of every thin device.
const SIZE: Sectors = Sectors(4096 * BLOCK / 512);

pub(crate) struct Rig {
    dm: Arc<Control>,
    name: DmName,
    pub(crate) metadata: LoopFile,
    _data: LoopFile,
    table: PoolTable,
}

impl Rig {
    /// 8 MiB of metadata, 256 MiB of data: 4096 blocks.
    pub(crate) fn new() -> Result<Self> {
        let metadata = LoopFile::new("metadata", 8 * MIB)?;
        let data = LoopFile::new("data", 256 * MIB)?;
        let table =
            PoolTable::new(number(metadata.device())?, number(data.device())?, Sectors(256 * MIB / 512));
        Ok(Self { dm: Arc::new(Control::open()?), name: name("pool")?, metadata, _data: data, table })
    }

    pub(crate) fn create(&self) -> Result<Pool> {
        Ok(Pool::create(Arc::<Control>::clone(&self.dm), &self.name, &self.table, Access::ReadWrite)?)
    }

    pub(crate) fn remove(&self, pool: &Pool) -> Result<()> {
        pool.remove(patience())?;
        Ok(())
    }
}

/// Four leaves in the base's tree, 20 snapshots that go their own ways, snapshots of those, discarded and deleted ones, the largest id, an empty device.
pub(crate) fn fill(pool: &Pool) -> Result<()> {
    pool.create_thin(id(1)?)?;
    with(pool, 1, |node| {
        // Not in the order of the blocks, so that nothing lies in a row.
        touch(node, (0..800).map(|block| block * 7 % 800))?;
        touch(node, [4095])
    })?;
    for number in 2..22 {
        pool.set_transaction_id(TransactionId(u64::from(number) - 2), TransactionId(u64::from(number) - 1))?;
        let origin = if number % 3 == 0 { number - 1 } else { 1 };
        pool.create_snap(id(number)?, id(origin)?)?;
        if number % 2 == 0 {
            with(pool, number, |node| {
                let start = u64::from(number) * 30;
                touch(node, (start..start + 5).chain([1000 + start]))
            })?;
        }
    }
    with(pool, 4, |node| discard(node, 100, 300))?;
    with(pool, 9, |node| discard(node, 0, 4096))?;
    with(pool, 1, |node| discard(node, 700, 50))?;
    for number in [5, 12] {
        pool.delete(id(number)?)?;
    }
    pool.create_thin(id(0)?)?;
    pool.create_snap(id(0x00ff_ffff)?, id(4)?)?;
    with(pool, 0x00ff_ffff, |node| touch(node, [4094]))
}

/// Does something with a thin device that is active for just so long.
pub(crate) fn with(pool: &Pool, number: u32, work: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let device = activate(pool, number)?;
    work(device.node())?;
    deactivate(pool, &device)
}

pub(crate) fn activate(pool: &Pool, number: u32) -> Result<ThinDevice> {
    let device = pool.activate(&name(&format!("thin-{number}"))?, id(number)?, SIZE, Access::ReadWrite)?;
    harness::wait_for_udev()?;
    Ok(device)
}

pub(crate) fn deactivate(pool: &Pool, device: &ThinDevice) -> Result<()> {
    pool.deactivate(device, Removal::Now, patience())?;
    Ok(())
}

/// Gives blocks to a device by writing a little of each.
pub(crate) fn touch(node: &Path, blocks: impl IntoIterator<Item = u64>) -> Result<()> {
    let file = OpenOptions::new().write(true).open(node)?;
    for block in blocks {
        file.write_all_at(&[7; 4096], block * BLOCK)?;
    }
    file.sync_all().with_context(|| node.display().to_string())
}

fn discard(node: &Path, first: u64, blocks: u64) -> Result<()> {
    let node = node.to_str().context("path")?;
    let (offset, length) = ((first * BLOCK).to_string(), (blocks * BLOCK).to_string());
    harness::run("blkdiscard", ["--offset", &offset, "--length", &length, node]).map(drop)
}

fn patience() -> Patience<'static> {
    Patience::new(Duration::from_secs(20), &SystemWait)
}

fn name(text: &str) -> Result<DmName> {
    Ok(DmName::new(format!("tlt-{text}"))?)
}

pub(crate) fn id(number: u32) -> Result<ThinId> {
    ThinId::new(number).with_context(|| format!("{number} is no thin id"))
}

fn number(device: &Path) -> Result<DeviceNumber> {
    Ok(DeviceNumber::from_stat(std::fs::metadata(device)?.rdev()))
}

pub(crate) fn figures(pool: &Pool) -> Result<PoolStatus> {
    let state = pool.status(Flush::Yes)?;
    state.running().cloned().with_context(|| format!("the pool is {state:?}"))
}
