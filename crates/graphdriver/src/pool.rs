//! The root's pool comes up: made on loop files or given devices, taken over where it is active already, or given by name.

use crate::active::Waiting;
use crate::driver::Notice;
use crate::error::{Error, Result};
use crate::identity::Known;
use crate::machine::Machine;
use crate::names::Names;
use crate::options::{DEFAULT_LOOP_DATA_SIZE, DEFAULT_LOOP_METADATA_SIZE, Options};
use crate::site::Site;
use crate::size::human_size;
use std::any::Any;
use std::path::Path;
use thinlayer_dm::{Access, Bytes, DeviceNumber, Flush};
use thinlayer_provision::superblock::Superblock;
use thinlayer_provision::{given, loop_pool};
use thinlayer_store::{LayerId, Store};
use thinlayer_thin::{BackingDevice, BlockSize, DataBlocks, GROWING, Pool, PoolTable};

/// A pool that is up, and how it came to be.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) pool: Pool,
    /// It was made by this start, and goes again if the start fails.
    pub(crate) made: bool,
    /// The driver made it, now or earlier; nobody else works on it.
    pub(crate) ours: bool,
    /// Its backing files prove that it is this root's.
    pub(crate) proven: bool,
    /// It is LVM's, and was set up for this root alone.
    pub(crate) direct_lvm: bool,
    /// What is below its data is larger than the pool by now: it is grown to that when its base has proven that it is this root's.
    pub(crate) larger: bool,
}

/// One of the pool's devices, held open until the pool stands on it.
#[derive(Debug)]
struct SideDevice {
    number: DeviceNumber,
    size: Bytes,
    _held: Option<Box<dyn Any + Send + Sync>>,
}

/// Brings the pool up.
///
/// # Errors
/// If files or devices are missing, in use or another root's: the pool and its devices are as they were then.
pub(crate) fn start(
    machine: &Machine,
    options: &Options,
    names: &Names,
    store: &Store,
    known: &Known,
    notices: &mut Vec<Notice>,
) -> Result<Started> {
    for (option, why) in options.unused() {
        notices.push(Notice::warning(format!("{option} is not used: {why}")));
    }
    if let Some(started) = crate::direct_lvm::start(machine, options, store, notices)? {
        return Ok(started);
    }
    if let Some(name) = &options.thin_pool {
        let found = Pool::open(machine.dm.clone(), name);
        // First, since LVM puts another device in front of a pool that it uses itself.
        crate::direct_lvm::check_lvm(machine, name, notices)?;
        let pool = found?.ok_or_else(|| Error::Invalid {
            what: format!(
                "there is no thin pool {name} (dm.thinpooldev); {}",
                crate::direct_lvm::how_to_activate(machine, name).unwrap_or_else(|| "make it first".into())
            ),
        })?;
        return Ok(Started {
            pool,
            made: false,
            ours: false,
            proven: false,
            direct_lvm: false,
            larger: false,
        });
    }
    let name = names.pool()?;
    let started = match Pool::open(machine.dm.clone(), &name) {
        Ok(Some(pool)) if crate::read_only::is_read_only(&pool)? => {
            crate::read_only::give_way(machine, names, &pool)?;
            make(machine, options, &name, store, known)?
        }
        Ok(Some(pool)) => take_over(machine, options, pool, notices)?,
        Ok(None) => make(machine, options, &name, store, known)?,
        // An earlier start was killed between making the device and giving it its table.
        Err(error) if error.kind() == thinlayer_thin::Kind::Unfinished => {
            Pool::remove_unfinished(&*machine.dm, &name)?;
            make(machine, options, &name, store, known)?
        }
        Err(error) => return Err(error.into()),
    };
    if started.made && (options.data_device.is_none() || options.metadata_device.is_none()) {
        notices.push(Notice::info(
            "the pool is on loop-backed files; a block device of its own is faster (dm.directlvm_device, dm.thinpooldev, or dm.datadev and dm.metadatadev)",
        ));
    }
    Ok(started)
}

/// A pool that an earlier owner left active: it must stand on what this root has, and gets the sizes that are asked for now.
fn take_over(machine: &Machine, options: &Options, pool: Pool, notices: &mut Vec<Notice>) -> Result<Started> {
    let root = &machine.root.path;
    let backing = &*machine.backing;
    let table = pool.table()?;
    if let Some(asked) = options.block_size.filter(|asked| *asked != table.block_size) {
        return Err(Error::option(
            &format!("dm.blocksize={}", asked.bytes().0),
            &format!(
                "the pool has blocks of {} bytes, which cannot change; drop the option",
                table.block_size.bytes().0
            ),
        ));
    }
    let mut proven = true;
    let state = pool.status(Flush::No)?;
    let site = Site { machine, options, pool: pool.name(), block: table.block_size, volume_blocked: None };
    // What needs a check takes nothing new, and is looked at by the caller.
    let sound = state.running().filter(|_| !site.judge(&state, Some(&table)).condition.is_ailing());
    for (side, device, asked) in [
        (loop_pool::Side::Metadata, &table.metadata, options.loop_metadata_size),
        (loop_pool::Side::Data, &table.data, options.loop_data_size),
    ] {
        let number = number(device)?;
        if let Some(path) = given_path(options, side) {
            given::validate_active(backing, path, side, number)?;
            proven = false;
            continue;
        }
        loop_pool::find_active_side(backing, root, side, number)?;
        let Some(status) = sound else { continue };
        // A file that is larger than the pool: an owner was killed while it grew.
        let has = Bytes(crate::site::figures(side, status).1.saturating_mul(site.unit(side)));
        let larger = backing
            .file(&side.path(root))?
            .map(|file| file.size)
            .filter(|size| size.0 / site.unit(side) > has.0 / site.unit(side));
        let Some(size) = asked.max(larger) else { continue };
        let growth = loop_pool::grow_side(backing, root, side, number, size)?;
        let mark = |total| DataBlocks(site.watched().mark(total));
        let change = crate::grow::take_in(&pool, side, &pool.table()?, growth.device, mark)?;
        if larger.is_some() && asked < larger && change.from < change.to {
            notices.push(Notice::info(format!(
                "the growth of the pool's {side} to {} was interrupted and has been completed",
                human_size(change.to)
            )));
        }
    }
    if sound.is_some() {
        let mut table = pool.table()?;
        let mark = DataBlocks(site.watched().mark(table.block_size.blocks_in(table.len).0));
        if table.low_water != mark {
            // Docker's mark, or that of another threshold.
            table.low_water = mark;
            pool.reload(&table, GROWING)?;
        }
    }
    Ok(Started { pool, made: false, ours: true, proven, direct_lvm: false, larger: false })
}

fn make(
    machine: &Machine,
    options: &Options,
    name: &thinlayer_dm::DmName,
    store: &Store,
    remembered: &Known,
) -> Result<Started> {
    let root = &machine.root.path;
    let backing = &*machine.backing;
    // Any record, readable or not, says that the root had a pool.
    let counts = store.counts();
    let known = store.record_even_deleted(&LayerId::base()).is_some()
        || counts.layers + counts.hidden + counts.deleted + counts.damaged > 0;
    if known {
        refuse_lost_files(machine, options)?;
    }
    let purpose = if known { given::Purpose::Existing } else { given::Purpose::New };
    if options.data_device.is_none() || options.metadata_device.is_none() {
        machine.filesystems.make_dir(&root.join("devicemapper"), 0o700, machine.root.owner)?;
    }
    let sizes = loop_pool::Sizes {
        data: size_of(machine, loop_pool::Side::Data, options.loop_data_size, DEFAULT_LOOP_DATA_SIZE, known)?,
        metadata: size_of(
            machine,
            loop_pool::Side::Metadata,
            options.loop_metadata_size,
            DEFAULT_LOOP_METADATA_SIZE,
            known,
        )?,
    };
    let (data, metadata) = match (&options.data_device, &options.metadata_device) {
        (None, None) => {
            let pair = loop_pool::ensure_pair(backing, root, sizes)?;
            (attached(pair.data), attached(pair.metadata))
        }
        (Some(data), Some(metadata)) => {
            let pair = given::validate_pair_for(backing, data, metadata, purpose)?;
            if known && pair.blank {
                return Err(blank(metadata));
            }
            (block(pair.data), block(pair.metadata))
        }
        (Some(data), None) => {
            let device = given::validate_data(backing, data, purpose)?;
            (
                block(device),
                attached(loop_pool::ensure_side(backing, root, loop_pool::Side::Metadata, sizes.metadata)?),
            )
        }
        (None, Some(metadata)) => {
            let (device, is_blank) = given::validate_metadata(backing, metadata, purpose)?;
            if known && is_blank {
                return Err(blank(metadata));
            }
            (
                attached(loop_pool::ensure_side(backing, root, loop_pool::Side::Data, sizes.data)?),
                block(device),
            )
        }
    };
    let block_size = match (remembered.block_size(), &options.metadata_device) {
        // One that a first start made before it was cut off.
        (None, Some(path)) if !known => block_of_empty(machine, options, path)?,
        (block_size, _) => block_size,
    };
    let block_size = options.block_size.or(block_size).unwrap_or(BlockSize::MIN);
    // With a larger device the kernel would grow the pool at once, before its base has proven that it is the right one: that cannot be taken back.
    let size = remembered.data_size().map_or(data.size, |had| had.min(data.size));
    let len = size.to_sectors();
    let site = Site { machine, options, pool: name, block: block_size, volume_blocked: None };
    let table = PoolTable {
        block_size,
        low_water: DataBlocks(site.watched().mark(block_size.blocks_in(len).0)),
        ..PoolTable::new(metadata.number, data.number, len)
    };
    let pool = Pool::create(machine.dm.clone(), name, &table, Access::ReadWrite)?;
    let larger = size < data.size;
    Ok(Started { pool, made: true, ours: true, proven: false, direct_lvm: false, larger })
}

/// The block size of a pool that was made on a given device and never used, if there is one. It cannot change.
fn block_of_empty(machine: &Machine, options: &Options, path: &Path) -> Result<Option<BlockSize>> {
    let Superblock::Pool(facts) = machine.backing.superblock(path)? else { return Ok(None) };
    if options.block_size.is_some_and(|asked| asked.bytes() != facts.data_block) {
        let shown = path.display();
        return Err(Error::option(
            &format!("dm.blocksize={}", options.block_size.map_or(0, |asked| asked.bytes().0)),
            &format!(
                "an earlier start made a pool on {shown}, which holds nothing yet, with blocks of {} bytes; drop the option, or zero its first 4 KiB: \
                 dd if=/dev/zero of={shown} bs=4096 count=1 conv=fsync",
                facts.data_block.0
            ),
        ));
    }
    Ok(BlockSize::from_bytes(facts.data_block).ok())
}

/// The size to ask for: what was given, else what is there, else the default.
///
/// What is there counts only where layers are `known`: a first start that was cut off leaves files of any length.
fn size_of(
    machine: &Machine,
    side: loop_pool::Side,
    asked: Option<Bytes>,
    default: Bytes,
    known: bool,
) -> Result<Bytes> {
    if let Some(size) = asked {
        return Ok(size);
    }
    if !known {
        return Ok(default);
    }
    Ok(machine.backing.file(&side.path(&machine.root.path))?.map_or(default, |file| file.size))
}

/// A root with layers whose files are gone: a new pool would be taken for the old one.
fn refuse_lost_files(machine: &Machine, options: &Options) -> Result<()> {
    for side in [loop_pool::Side::Data, loop_pool::Side::Metadata] {
        if given_path(options, side).is_some() {
            continue;
        }
        if machine.backing.file(&side.path(&machine.root.path))?.is_none() {
            return Err(crate::identity::lost_file(machine, side));
        }
    }
    Ok(())
}

fn blank(metadata: &Path) -> Error {
    Error::Invalid {
        what: format!(
            "{} holds no pool, and this root has layers in one; none was made on it; name the right device (dm.metadatadev)",
            metadata.display()
        ),
    }
}

fn given_path(options: &Options, side: loop_pool::Side) -> Option<&Path> {
    match side {
        loop_pool::Side::Data => options.data_device.as_deref(),
        loop_pool::Side::Metadata => options.metadata_device.as_deref(),
    }
}

fn attached(side: loop_pool::LoopSide) -> SideDevice {
    let attachment = side.attachment;
    SideDevice { number: attachment.number, size: attachment.size, _held: Some(attachment.guard) }
}

fn block(device: thinlayer_provision::BlockDevice) -> SideDevice {
    SideDevice { number: device.number, size: device.size, _held: None }
}

/// The kernel always prints numbers.
pub(crate) fn number(device: &BackingDevice) -> Result<DeviceNumber> {
    match device {
        BackingDevice::Number(number) => Ok(*number),
        BackingDevice::Path(path) => Err(Error::NeedsCheck {
            what: format!("the pool's table names {} in place of a number", path.as_str()),
        }),
    }
}

/// Takes a pool away that the driver made.
pub(crate) fn remove(pool: &Pool, machine: &Machine, patience: std::time::Duration) -> Result<()> {
    let clock = Waiting(&*machine.clock);
    Ok(pool.remove(thinlayer_thin::Patience::new(patience, &clock)).map(drop)?)
}
