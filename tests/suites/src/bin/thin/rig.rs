//! A pool on two loop devices that `losetup` made, and what tests do with it.

use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::LoopFile;
use thinlayer_dm::{Access, Control, DeviceNumber, DmName, Flush, Removal, Removed, Sectors};
use thinlayer_thin::{
    BlockSize, Error, Kind, Patience, Pool, PoolStatus, PoolTable, SystemWait, ThinDevice, ThinId,
};

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const BLOCK: usize = 65_536;

/// Two loop devices, and the table of a pool on them.
pub(crate) struct Rig {
    pub(crate) dm: Arc<Control>,
    pub(crate) name: DmName,
    pub(crate) metadata: LoopFile,
    pub(crate) data: LoopFile,
    pub(crate) table: PoolTable,
}

impl Rig {
    pub(crate) fn new(metadata_bytes: u64, data_bytes: u64) -> Result<Self> {
        let metadata = LoopFile::new("metadata", metadata_bytes)?;
        let data = LoopFile::new("data", data_bytes)?;
        let table =
            PoolTable::new(number(metadata.device())?, number(data.device())?, Sectors(data_bytes / 512));
        Ok(Self { dm: Arc::new(Control::open()?), name: name("pool")?, metadata, data, table })
    }

    /// 8 MiB of metadata, 64 MiB of data: 1024 blocks.
    pub(crate) fn usual() -> Result<Self> {
        Self::new(8 * MIB, 64 * MIB)
    }

    pub(crate) fn create(&self) -> Result<Pool> {
        Ok(self.create_as(&self.table)?)
    }

    pub(crate) fn create_as(&self, table: &PoolTable) -> thinlayer_thin::Result<Pool> {
        Pool::create(Arc::<Control>::clone(&self.dm), &self.name, table, Access::ReadWrite)
    }

    /// Takes the pool down and has its metadata checked.
    pub(crate) fn close(&self, pool: &Pool) -> Result<()> {
        remove(pool)?;
        self.check()
    }

    pub(crate) fn check(&self) -> Result<()> {
        harness::run("thin_check", [self.metadata.device()]).map(drop)
    }

    /// The pool's metadata as `thin_dump` sees it. The pool must not be active.
    pub(crate) fn dump(&self) -> Result<String> {
        Ok(harness::run("thin_dump", [self.metadata.device()])?.stdout_text())
    }
}

pub(crate) fn remove(pool: &Pool) -> Result<()> {
    let removed = pool.remove(patience())?;
    ensure!(removed == Removed::Gone, "{} is {removed:?}", pool.name());
    Ok(())
}

/// How long udev may keep a device open that is to go.
pub(crate) fn patience() -> Patience<'static> {
    Patience::new(Duration::from_secs(20), &SystemWait)
}

pub(crate) fn name(text: &str) -> Result<DmName> {
    Ok(DmName::new(format!("tlt-{text}"))?)
}

pub(crate) fn id(number: u32) -> Result<ThinId> {
    ThinId::new(number).with_context(|| format!("{number} is no thin id"))
}

pub(crate) fn number(device: &Path) -> Result<DeviceNumber> {
    let metadata = std::fs::metadata(device).with_context(|| device.display().to_string())?;
    Ok(DeviceNumber::from_stat(metadata.rdev()))
}

pub(crate) fn sectors(mib: u64) -> Sectors {
    Sectors(mib * MIB / 512)
}

pub(crate) fn block_size(sectors: u64) -> Result<BlockSize> {
    Ok(BlockSize::new(Sectors(sectors))?)
}

pub(crate) fn figures(pool: &Pool) -> Result<PoolStatus> {
    let state = pool.status(Flush::Yes)?;
    state.running().cloned().with_context(|| format!("the pool is {state:?}"))
}

/// A thin id made and activated as `tlt-thin-N`.
pub(crate) fn thin(pool: &Pool, number: u32, size: Sectors) -> Result<ThinDevice> {
    pool.create_thin(id(number)?)?;
    activate(pool, number, size)
}

pub(crate) fn activate(pool: &Pool, number: u32, size: Sectors) -> Result<ThinDevice> {
    let name = name(&format!("thin-{number}"))?;
    let device = pool.activate(&name, id(number)?, size, Access::ReadWrite)?;
    harness::wait_for_udev()?;
    Ok(device)
}

pub(crate) fn deactivate(pool: &Pool, device: &ThinDevice) -> Result<()> {
    let removed = pool.deactivate(device, Removal::Now, patience())?;
    ensure!(removed == Removed::Gone, "{} is {removed:?}", device.name());
    Ok(())
}

/// Fills blocks of a device with a byte, to the disk. The error is the kernel's.
pub(crate) fn fill(node: &Path, first: u64, blocks: u64, byte: u8) -> std::io::Result<()> {
    let file = OpenOptions::new().write(true).open(node)?;
    let content = vec![byte; BLOCK];
    for block in first..first + blocks {
        file.write_all_at(&content, block * BLOCK as u64)?;
    }
    file.sync_all()
}

/// The first byte of a block.
pub(crate) fn peek(node: &Path, block: u64) -> Result<u8> {
    let file = OpenOptions::new().read(true).open(node)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, block * BLOCK as u64)
        .with_context(|| format!("cannot read block {block} of {}", node.display()))?;
    Ok(byte[0])
}

/// The line that `dmsetup` prints.
pub(crate) fn dmsetup<const N: usize>(arguments: [&str; N]) -> Result<String> {
    Ok(harness::run("dmsetup", arguments)?.stdout_text().trim().to_owned())
}

/// The file behind a loop device becomes larger, and the loop device with it.
pub(crate) fn enlarge(file: &LoopFile, bytes: u64) -> Result<()> {
    OpenOptions::new().write(true).open(file.file())?.set_len(bytes)?;
    harness::run("losetup", [Path::new("--set-capacity"), file.device()])?;
    Ok(())
}

/// The call must fail, in this way, in one line that holds these words.
pub(crate) fn refused<T: std::fmt::Debug>(
    what: &str,
    result: Result<T, Error>,
    kind: Kind,
    words: &[&str],
) -> Result<Error> {
    let error = match result {
        Ok(value) => bail!("{what} succeeded: {value:?}"),
        Err(error) => error,
    };
    let text = error.to_string();
    println!("{what}: {text}");
    ensure!(error.kind() == kind, "{what} is {:?}, not {kind:?}: {text}", error.kind());
    ensure!(!text.contains('\n'), "{what}: more than one line: {text}");
    for word in words {
        ensure!(text.contains(word), "{what}: {word:?} is not in {text}");
    }
    Ok(error)
}
