//! The floor: the ioctls and mounts that a layer's life cannot do without, and nothing else. No record, no intent, no check,
//! no error handling worth the name, nothing that survives a crash.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use parking_lot::Mutex;
use thinlayer_dm::{
    Access, Bytes, Control, DeviceMapper, DmName, Kind, Removal, Sectors, Suspend, Target, remove_within,
};
use thinlayer_filesystem::{Filesystems, MakeOptions};
use thinlayer_provision::loop_pool::{Sizes, ensure_pair};
use thinlayer_thin::{DataBlocks, Patience, Pool, PoolTable, SystemWait, ThinId};

use crate::cycle::{Contender, Step, Turn, WORDS};
use crate::samples::Samples;
use crate::terms::{Terms, Unmounted};

/// Thin ids: an empty file system, the layer that all others start from, and the clients' from here on.
const BASE: u32 = 0;
const PARENT: u32 = 1;
const FIRST: u32 = 100;

/// How long a device that udev looks at is waited for, and how often it is tried.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(1);

/// The driver's mount option for ext4.
const MOUNTED: &str = "errors=remount-ro";

/// The driver's mark: as much as it keeps free at its default threshold.
fn low_water(table: &PoolTable) -> DataBlocks {
    let free = 100 - u64::from(thinlayer_graphdriver::Extend::default().threshold);
    DataBlocks(table.block_size.blocks_in(table.len).0 * free / 100)
}

/// A pool of its own.
#[derive(Debug)]
pub(crate) struct Floor {
    dm: Arc<Control>,
    pool: Pool,
    root: PathBuf,
    size: Sectors,
    calls: Mutex<BTreeMap<&'static str, Samples>>,
    busy: AtomicUsize,
}

impl Floor {
    /// Loop files, pool, file system and parent. Set up by the crates, so that it is as the driver's.
    pub(crate) fn set_up(root: &Path, sizes: Sizes, device: Bytes) -> Result<Self> {
        std::fs::create_dir_all(root.join("devicemapper"))?;
        std::fs::create_dir_all(root.join("mnt"))?;
        let dm = Arc::new(Control::open()?);
        let backing = thinlayer_provision::System::new();
        let pair = ensure_pair(&backing, root, sizes)?;
        let (data, metadata) = (&pair.data.attachment, &pair.metadata.attachment);
        let mut table = PoolTable::new(metadata.number, data.number, data.size.to_sectors());
        table.low_water = low_water(&table);
        let name = DmName::new("thinlayer-bench-floor")?;
        let pool = Pool::create(dm.clone(), &name, &table, Access::ReadWrite)?;
        drop(pair);
        let floor = Self {
            dm,
            pool,
            root: root.canonicalize()?,
            size: device.to_sectors(),
            calls: Mutex::default(),
            busy: AtomicUsize::new(0),
        };
        floor.make_base()?;
        floor.make_parent()?;
        Ok(floor)
    }

    fn make_base(&self) -> Result<()> {
        let base = thin_id(BASE)?;
        self.pool.create_thin(base)?;
        let device = self.pool.activate(&name(BASE)?, base, self.size, Access::ReadWrite)?;
        let options = MakeOptions {
            kind: thinlayer_filesystem::Kind::Ext4,
            args: Vec::new(),
            deadline: Duration::from_secs(600),
        };
        let made = thinlayer_filesystem::System::new().make(device.node(), &options, &|_| {});
        self.pool.deactivate(&device, Removal::Now, Patience::new(PATIENCE, &SystemWait))?;
        Ok(made?)
    }

    /// What the driver's parent has, too: it was mounted once.
    fn make_parent(&self) -> Result<()> {
        self.pool.create_snap(thin_id(PARENT)?, thin_id(BASE)?)?;
        let node = self.activate(PARENT)?;
        self.mounted(PARENT, &node, |tree| {
            std::fs::create_dir(tree.join("rootfs"))?;
            Ok(std::fs::write(tree.join("id"), "parent")?)
        })?;
        self.deactivate(PARENT)
    }

    /// The terms under which this side works.
    pub(crate) fn terms(&self) -> Result<Terms> {
        let node = self.activate(PARENT)?;
        let terms = self.mounted(PARENT, &node, |tree| Terms::of(&self.pool, tree));
        self.deactivate(PARENT)?;
        terms
    }

    fn mounted<T>(&self, id: u32, node: &Path, work: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
        let target = self.mount_point(id);
        std::fs::create_dir_all(&target)?;
        mount(Some(node), &target, Some("ext4"), MsFlags::empty(), Some(MOUNTED))
            .with_context(|| format!("cannot mount {}", node.display()))?;
        let _unmounted = Unmounted(&target);
        work(&target)
    }

    /// Times of the single calls since the last time that somebody asked.
    pub(crate) fn take_calls(&self) -> BTreeMap<&'static str, Samples> {
        std::mem::take(&mut *self.calls.lock())
    }

    /// How often a device could not be removed at the first try, since udev had it open.
    pub(crate) fn take_busy(&self) -> usize {
        self.busy.swap(0, Ordering::Relaxed)
    }

    pub(crate) fn close(&self) -> Result<()> {
        self.pool.remove(Patience::new(PATIENCE, &SystemWait))?;
        Ok(())
    }

    fn timed<T>(&self, call: &'static str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let start = Instant::now();
        let result = work();
        let took = start.elapsed();
        self.calls.lock().entry(call).or_default().push(took);
        result.with_context(|| format!("{call} failed"))
    }

    fn message(&self, call: &'static str, message: &str) -> Result<()> {
        self.timed(call, || Ok(self.dm.message(self.pool.name().into(), Sectors(0), message).map(drop)?))
    }

    fn activate(&self, id: u32) -> Result<PathBuf> {
        let name = name(id)?;
        let table = [Target {
            start: Sectors(0),
            len: self.size,
            kind: "thin".to_owned(),
            params: format!("{} {id}", self.pool.number()),
        }];
        let made = self.timed("dev create", || Ok(self.dm.create(&name, None)?))?;
        self.timed("table load", || Ok(self.dm.load((&name).into(), &table, Access::ReadWrite)?))?;
        self.timed("resume", || Ok(self.dm.resume((&name).into(), Suspend::default())?))?;
        Ok(PathBuf::from(format!("/dev/dm-{}", made.number.minor)))
    }

    fn deactivate(&self, id: u32) -> Result<()> {
        let name = name(id)?;
        self.timed("dev remove", || {
            let end = Instant::now() + PATIENCE;
            loop {
                match self.dm.remove((&name).into(), Removal::Now) {
                    Ok(_) => return Ok(()),
                    Err(error) if error.kind() == Kind::Busy && Instant::now() < end => {
                        self.busy.fetch_add(1, Ordering::Relaxed);
                        std::thread::sleep(PAUSE);
                    }
                    Err(error) => bail!(error),
                }
            }
        })
    }

    fn mount_point(&self, id: u32) -> PathBuf {
        self.root.join("mnt").join(id.to_string())
    }
}

impl Contender for Floor {
    fn step(&self, step: Step, turn: Turn) -> Result<()> {
        let id = FIRST + turn.client;
        let target = self.mount_point(id);
        match step {
            Step::Create => self.message("message create_snap", &format!("create_snap {id} {PARENT}")),
            Step::Get => {
                let node = self.activate(id)?;
                if turn.number == 0 {
                    std::fs::create_dir_all(&target)?;
                }
                self.timed("mount", || {
                    Ok(mount(Some(&node), &target, Some("ext4"), MsFlags::empty(), Some(MOUNTED))?)
                })?;
                self.timed("open, write, close", || write(&target.join("rootfs/file")))
            }
            Step::Put => {
                self.timed("umount", || Ok(umount2(&target, MntFlags::empty())?))?;
                self.deactivate(id)
            }
            Step::Remove => self.message("message delete", &format!("delete {id}")),
        }
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        // Only after a failure there is anything left; the VM's agent sweeps what this leaves.
        for id in (0..FIRST * 2).filter_map(|id| name(id).ok()) {
            let _absent = remove_within(&*self.dm, (&id).into(), Duration::ZERO);
        }
        let _absent = self.pool.remove(Patience::none());
    }
}

/// Writes a few bytes to a new file.
pub(crate) fn write(path: &Path) -> Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    Ok(file.write_all(WORDS)?)
}

fn name(id: u32) -> Result<DmName> {
    Ok(DmName::new(format!("thinlayer-bench-{id}"))?)
}

fn thin_id(id: u32) -> Result<ThinId> {
    ThinId::new(id).with_context(|| format!("{id} is no thin id"))
}
