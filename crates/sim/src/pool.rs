//! The thin-pool and thin targets: tables, modes, messages, mappings, and a metadata device that keeps only what was committed.

mod blocks;
mod messages;

use crate::devices::{Target, dm};
use crate::files::BackingFile;
use crate::image::Content;
use crate::state::{Result, State, Storage};
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;
use thinlayer_dm::DeviceNumber;

/// Bytes in a metadata block.
const METADATA_BLOCK: u64 = 4096;
/// Counts in a bitmap block of a space map: two bits each, behind a header of 16 bytes.
const BITMAP_ENTRIES: u64 = (4096 - 16) * 4;
/// The kernel sees no more of a metadata device than this many blocks.
const METADATA_MAX_BLOCKS: u64 = 255 * ((1 << 14) - 64);
/// Sectors of the smallest data block; every size is a multiple of it.
const BLOCK_MIN: u64 = 128;
/// Sectors of the largest.
const BLOCK_MAX: u64 = 1 << 21;
/// Thin ids have 24 bits.
const MAX_ID: u64 = (1 << 24) - 1;
/// How long a full pool lets writers wait before it fails them.
pub(crate) const NO_SPACE_TIMEOUT: Duration = Duration::from_secs(60);

/// The optional words of a pool's table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Features {
    pub(crate) skip_block_zeroing: bool,
    pub(crate) ignore_discard: bool,
    pub(crate) no_discard_passdown: bool,
    pub(crate) read_only: bool,
    pub(crate) error_if_no_space: bool,
}

/// A pool's table line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PoolSpec {
    pub(crate) metadata: DeviceNumber,
    pub(crate) data: DeviceNumber,
    pub(crate) block_sectors: u64,
    pub(crate) low_water: u64,
    pub(crate) features: Features,
}

/// A thin device in the pool's metadata.
#[derive(Clone, Debug)]
pub(crate) struct Volume {
    /// The pool's transaction id when it was made.
    pub(crate) created: u64,
    /// Virtual block to data block.
    pub(crate) blocks: Arc<BTreeMap<u64, u64>>,
    pub(crate) content: Content,
    /// The data device that the content was written to.
    pub(crate) data: Option<Storage>,
}

/// What a metadata device holds.
#[derive(Clone, Debug)]
pub(crate) struct PoolMetadata {
    pub(crate) block_sectors: u64,
    pub(crate) data_blocks: u64,
    pub(crate) metadata_blocks: u64,
    pub(crate) transaction_id: u64,
    pub(crate) volumes: BTreeMap<u32, Volume>,
    /// How many volumes use a data block.
    pub(crate) shares: Arc<BTreeMap<u64, u32>>,
    pub(crate) needs_check: bool,
    pub(crate) held_root: Option<u64>,
    /// Metadata blocks that a test says are used besides.
    pub(crate) ballast: u64,
}

impl PoolMetadata {
    fn reserve(&self) -> u64 {
        (self.metadata_blocks / 10).min(4096)
    }

    /// Metadata blocks in use, the kernel's reserve among them.
    pub(crate) fn metadata_used(&self) -> u64 {
        let mappings = self.volumes.values().map(|v| v.blocks.len()).sum::<usize>();
        let trees = self.volumes.len() + mappings / 126 + self.shares.len() / 512;
        (self.reserve() + 7 + u64::try_from(trees).unwrap_or(u64::MAX) + self.ballast)
            .min(self.metadata_blocks)
    }

    pub(crate) fn data_used(&self) -> u64 {
        u64::try_from(self.shares.len()).unwrap_or(u64::MAX)
    }

    fn free_block(&self) -> Option<u64> {
        let mut free = 0;
        for &used in self.shares.keys() {
            if used != free {
                break;
            }
            free += 1;
        }
        (free < self.data_blocks).then_some(free)
    }

    /// Drops one use of a data block; `true`: nobody uses it any more.
    fn unshare(&mut self, block: u64) -> bool {
        let shares = Arc::make_mut(&mut self.shares);
        match shares.get_mut(&block) {
            Some(count) if *count > 1 => {
                *count -= 1;
                false
            }
            _ => shares.remove(&block).is_some(),
        }
    }
}

/// What a pool lets happen, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mode {
    Write,
    OutOfDataSpace,
    OutOfMetadataSpace,
    ReadOnly,
    Fail,
}

/// A pool in the kernel: what its metadata is now, committed or not.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    pub(crate) metadata: Storage,
    pub(crate) metadata_device: DeviceNumber,
    pub(crate) data_device: DeviceNumber,
    pub(crate) now: Arc<PoolMetadata>,
    pub(crate) mode: Mode,
    pub(crate) features: Features,
    /// Discards were off when the pool was made; that cannot change.
    pub(crate) ignored_discards: bool,
    pub(crate) low_water: u64,
    pub(crate) low_water_told: bool,
    pub(crate) metadata_told: bool,
    /// Since when writers wait for room.
    pub(crate) full_since: Option<Duration>,
    /// A table of it has been taken into use.
    pub(crate) bound: bool,
}

fn number(text: &str) -> Result<u64> {
    text.parse().map_err(|_| Errno::EINVAL)
}

/// Reads a thin id as messages and tables have it.
pub(crate) fn thin_id(text: &str) -> Result<u32> {
    let id = number(text)?;
    if id > MAX_ID { Err(Errno::EINVAL) } else { u32::try_from(id).map_err(|_| Errno::EINVAL) }
}

/// The words of a pool's table line, as the kernel gives them back.
pub(crate) fn pool_params(spec: &PoolSpec) -> String {
    let mut text = format!("{} {} {} {} ", spec.metadata, spec.data, spec.block_sectors, spec.low_water);
    let f = &spec.features;
    let words = [
        (f.skip_block_zeroing, "skip_block_zeroing "),
        (f.ignore_discard, "ignore_discard "),
        (f.no_discard_passdown, "no_discard_passdown "),
        (f.read_only, "read_only "),
        (f.error_if_no_space, "error_if_no_space "),
    ];
    let set: Vec<_> = words.iter().filter(|(on, _)| *on).map(|(_, word)| *word).collect();
    // Writing to a String cannot fail.
    if write!(text, "{} ", set.len()).is_ok() {
        text.extend(set);
    }
    text
}

impl State {
    /// Understands a pool's table line and opens or formats its metadata, as the target's constructor does.
    pub(crate) fn construct_pool(&mut self, minor: u32, params: &str) -> Result<PoolSpec> {
        let words: Vec<&str> = params.split_ascii_whitespace().collect();
        let [metadata, data, block, low_water, rest @ ..] = words.as_slice() else {
            return Err(Errno::EINVAL);
        };
        let mut features = Features::default();
        if let [count, names @ ..] = rest {
            let count = usize::try_from(number(count)?).map_err(|_| Errno::EINVAL)?;
            if count > 4 || names.len() < count {
                return Err(Errno::EINVAL);
            }
            for name in names.iter().take(count) {
                match *name {
                    "skip_block_zeroing" => features.skip_block_zeroing = true,
                    "ignore_discard" => features.ignore_discard = true,
                    "no_discard_passdown" => features.no_discard_passdown = true,
                    "read_only" => features.read_only = true,
                    "error_if_no_space" => features.error_if_no_space = true,
                    _ => return Err(Errno::EINVAL),
                }
            }
        }
        let metadata = self.target_device(metadata, minor)?;
        let data = self.target_device(data, minor)?;
        let (block_sectors, low_water) = (number(block)?, number(low_water)?);
        if !(BLOCK_MIN..=BLOCK_MAX).contains(&block_sectors) || block_sectors % BLOCK_MIN != 0 {
            return Err(Errno::EINVAL);
        }
        let spec = PoolSpec { metadata, data, block_sectors, low_water, features };
        if let Some((&other, pool)) = self.pools.iter().find(|(_, pool)| pool.metadata_device == metadata)
            && (other != minor || pool.data_device != data)
        {
            return Err(Errno::EBUSY);
        }
        if let Some(pool) = self.pools.get(&minor) {
            if pool.metadata_device != metadata || pool.ignored_discards != features.ignore_discard {
                return Err(Errno::EINVAL);
            }
            // Only a pool that is made looks at the table's block size.
            return Ok(PoolSpec { block_sectors: pool.now.block_sectors, ..spec });
        }
        let storage = self.storage(metadata).ok_or(Errno::EINVAL)?;
        let stored = match self.metadata.get(&storage) {
            Some(stored) if stored.block_sectors != block_sectors => return Err(Errno::EINVAL),
            Some(stored) => stored.clone(),
            None => {
                if self.contents.get(&storage).is_some_and(|content| *content != Content::Blank) {
                    return Err(Errno::EILSEQ);
                }
                if features.read_only || !self.writable(metadata) {
                    return Err(Errno::EPERM);
                }
                let made = Arc::new(PoolMetadata {
                    block_sectors,
                    data_blocks: 0,
                    metadata_blocks: self.metadata_blocks(metadata),
                    transaction_id: 0,
                    volumes: BTreeMap::new(),
                    shares: Arc::default(),
                    needs_check: false,
                    held_root: None,
                    ballast: 0,
                });
                self.metadata.insert(storage, made.clone());
                made
            }
        };
        let twice = self.pools.iter().find(|(_, pool)| pool.metadata == storage).map(|(&other, _)| other);
        if let Some(other) = twice {
            self.violation(format!(
                "two pools, dm-{other} and dm-{minor}, have the same metadata below them"
            ));
        }
        let pool = Pool {
            metadata: storage,
            metadata_device: metadata,
            data_device: data,
            now: stored,
            mode: if features.read_only { Mode::ReadOnly } else { Mode::Write },
            features,
            ignored_discards: features.ignore_discard,
            low_water,
            low_water_told: false,
            metadata_told: false,
            full_since: None,
            bound: false,
        };
        self.pools.insert(minor, pool);
        Ok(spec)
    }

    fn metadata_blocks(&self, device: DeviceNumber) -> u64 {
        (self.sectors(device) * thinlayer_dm::SECTOR_BYTES / METADATA_BLOCK).min(METADATA_MAX_BLOCKS)
    }

    /// Understands a thin device's table line.
    pub(crate) fn construct_thin(&mut self, minor: u32, params: &str) -> Result<Target> {
        let words: Vec<&str> = params.split_ascii_whitespace().collect();
        let [pool, id] = words.as_slice() else { return Err(Errno::EINVAL) };
        let pool = self.target_device(pool, minor)?;
        let id = thin_id(id)?;
        let found = self.pools.get(&pool.minor).filter(|_| pool.major == crate::devices::DM_MAJOR);
        let found = found.ok_or(Errno::EINVAL)?;
        // A pool that was never resumed counts as suspended.
        if found.mode == Mode::Fail || !found.bound || self.is_suspended(pool) {
            return Err(Errno::EINVAL);
        }
        if !found.now.volumes.contains_key(&id) {
            return Err(Errno::ENODATA);
        }
        Ok(Target::Thin { pool, id })
    }

    /// A device that a table line names; opened for the table, so nobody else may have it for himself.
    pub(crate) fn target_device(&self, text: &str, minor: u32) -> Result<DeviceNumber> {
        let number = match self.block_device(text) {
            Ok(number) => number,
            Err(_) if text.parse::<DeviceNumber>().is_ok() => return Err(Errno::ENXIO),
            Err(_) => return Err(Errno::ENODEV),
        };
        if number == dm(minor) {
            return Err(Errno::EINVAL);
        }
        if self.supers.contains_key(&number) {
            return Err(Errno::EBUSY);
        }
        Ok(number)
    }

    /// Takes a pool's table into use: grows what has grown, and enters the mode that the table asks for.
    pub(crate) fn bind_pool(&mut self, minor: u32, spec: &PoolSpec, sectors: u64) -> Result<()> {
        let metadata_blocks = self.metadata_blocks(spec.metadata);
        let Some(pool) = self.pools.get_mut(&minor) else { return Err(Errno::EINVAL) };
        let wanted = if spec.features.read_only { Mode::ReadOnly } else { Mode::Write };
        let data_blocks = sectors / spec.block_sectors;
        pool.features = spec.features;
        pool.low_water = spec.low_water;
        pool.low_water_told = false;
        pool.bound = true;
        pool.full_since = None;
        let before = pool.mode;
        pool.mode = match (before, wanted) {
            (Mode::Fail, _) => Mode::Fail,
            (before, Mode::Write) if pool.now.needs_check => before.max(Mode::ReadOnly),
            (_, wanted) => wanted,
        };
        if data_blocks < pool.now.data_blocks || metadata_blocks < pool.now.metadata_blocks {
            return Err(Errno::EINVAL);
        }
        if data_blocks > pool.now.data_blocks || metadata_blocks > pool.now.metadata_blocks {
            if pool.now.needs_check {
                return Ok(());
            }
            // A space map that needs another bitmap block has to write.
            let bitmaps = |blocks: u64| blocks.div_ceil(BITMAP_ENTRIES);
            if spec.features.read_only
                && (bitmaps(data_blocks) > bitmaps(pool.now.data_blocks)
                    || bitmaps(metadata_blocks) > bitmaps(pool.now.metadata_blocks))
            {
                pool.mode = Mode::Fail;
                return Err(Errno::EPERM);
            }
            if pool.mode <= Mode::OutOfMetadataSpace {
                let now = Arc::make_mut(&mut pool.now);
                now.data_blocks = data_blocks;
                now.metadata_blocks = metadata_blocks;
                pool.metadata_told = false;
                self.commit(minor);
            }
        }
        Ok(())
    }

    /// Makes a pool's metadata durable, as the kernel does after each message, on a flush, and once a second.
    pub(crate) fn commit(&mut self, minor: u32) {
        let Some(pool) = self.pools.get(&minor) else { return };
        if pool.mode >= Mode::OutOfMetadataSpace {
            return;
        }
        match self.commits_fail.get_mut(&minor) {
            Some(0) => return self.abort(minor),
            Some(left) => *left -= 1,
            None => {}
        }
        self.metadata.insert(pool.metadata, pool.now.clone());
        self.watch_metadata(minor);
    }

    /// A commit failed: back to the one before, read-only from now on, and in need of a check.
    fn abort(&mut self, minor: u32) {
        let Some(pool) = self.pools.get_mut(&minor) else { return };
        self.commits_fail.remove(&minor);
        let committed = self.metadata.get(&pool.metadata).cloned();
        pool.now = committed.unwrap_or_else(|| pool.now.clone());
        Arc::make_mut(&mut pool.now).needs_check = true;
        pool.mode = Mode::ReadOnly;
        self.metadata.insert(pool.metadata, pool.now.clone());
        self.table_event(minor);
    }

    fn watch_metadata(&mut self, minor: u32) {
        let Some(pool) = self.pools.get_mut(&minor) else { return };
        let free = pool.now.metadata_blocks - pool.now.metadata_used();
        let threshold = (pool.now.metadata_blocks / 4).min(1024);
        let mut event = false;
        if free == 0 && pool.mode < Mode::OutOfMetadataSpace {
            pool.mode = Mode::OutOfMetadataSpace;
            event = true;
        }
        if free < threshold && !pool.metadata_told {
            pool.metadata_told = true;
            event = true;
        }
        if event {
            self.table_event(minor);
        }
    }

    /// The last table of a pool is gone.
    pub(crate) fn close_pool(&mut self, minor: u32) {
        self.commit(minor);
        self.pools.remove(&minor);
    }

    /// A pool's status line.
    pub(crate) fn pool_status(&self, minor: u32) -> String {
        let Some(pool) = self.pools.get(&minor) else { return "Error".into() };
        if pool.mode == Mode::Fail {
            return "Fail".into();
        }
        let m = &pool.now;
        let held = m.held_root.map_or_else(|| "-".to_owned(), |root| root.to_string());
        let mode = match pool.mode {
            Mode::OutOfDataSpace => "out_of_data_space",
            Mode::Write => "rw",
            _ => "ro",
        };
        let discard = if pool.features.ignore_discard {
            "ignore_discard"
        } else if pool.features.no_discard_passdown {
            "no_discard_passdown"
        } else {
            "discard_passdown"
        };
        let no_space =
            if pool.features.error_if_no_space { "error_if_no_space" } else { "queue_if_no_space" };
        let check = if m.needs_check { "needs_check" } else { "-" };
        format!(
            "{} {}/{} {}/{} {held} {mode} {discard} {no_space} {check} {} ",
            m.transaction_id,
            m.metadata_used(),
            m.metadata_blocks,
            m.data_used(),
            m.data_blocks,
            (m.metadata_blocks / 4).min(1024),
        )
    }

    /// A thin device's status line.
    pub(crate) fn thin_status(&self, pool: u32, id: u32) -> String {
        let Some(pool) = self.pools.get(&pool) else { return "Error".into() };
        if pool.mode == Mode::Fail {
            return "Fail".into();
        }
        let Some(volume) = pool.now.volumes.get(&id) else { return "-".into() };
        let sectors = pool.now.block_sectors;
        let mapped = u64::try_from(volume.blocks.len()).unwrap_or(u64::MAX) * sectors;
        match volume.blocks.last_key_value() {
            Some((highest, _)) => format!("{mapped} {}", (highest + 1) * sectors - 1),
            None => format!("{mapped} -"),
        }
    }

    /// Time has passed for the pools: a second is enough for a commit, a minute ends the patience with a full one.
    pub(crate) fn pools_over_time(&mut self) {
        let minors: Vec<u32> = self.pools.keys().copied().collect();
        for minor in minors {
            self.commit(minor);
            let now = self.now;
            if let Some(pool) = self.pools.get_mut(&minor)
                && pool.full_since.is_some_and(|since| now - since >= NO_SPACE_TIMEOUT)
            {
                pool.features.error_if_no_space = true;
                pool.full_since = None;
                self.table_event(minor);
            }
        }
    }
}

impl BackingFile {
    /// Takes all of its room.
    pub(crate) fn fill(&mut self) {
        self.full = true;
        self.blocks = Arc::default();
    }
}
