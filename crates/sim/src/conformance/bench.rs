//! What cases are built from: devices, pools and mounts that are cleaned up whatever happens.

use super::{Failure, Lab, Outcome};
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use thinlayer_dm::{
    Access, Bytes, DeviceMapper, DmName, Info, Removal, Sectors, Slot, Suspend, Target, remove_within,
};
use thinlayer_filesystem::{Filesystems, Kind, MakeOptions, MountRequest, Owner, Unmount};
use thinlayer_provision::{Allocation, AttachOptions, Attachment, Backing};

pub(super) const MIB: u64 = 1 << 20;
/// Sectors of a pool's data block in the cases.
pub(super) const BLOCK: u64 = 128;
/// How long the machine may take for what it does by itself, such as udev closing what it looks at.
const PATIENCE: Duration = Duration::from_secs(10);

/// A loaded pool.
pub(super) struct Pool {
    pub(super) name: DmName,
    pub(super) info: Info,
    pub(super) metadata: Attachment,
    pub(super) data: Attachment,
}

/// A lab and what was made in it.
pub(super) struct Bench<'a> {
    pub(super) lab: &'a dyn Lab,
    devices: RefCell<Vec<DmName>>,
    mounts: RefCell<Vec<PathBuf>>,
}

impl<'a> Bench<'a> {
    pub(super) fn new(lab: &'a dyn Lab) -> Self {
        Self { lab, devices: RefCell::default(), mounts: RefCell::default() }
    }

    pub(super) fn dm(&self) -> &'a dyn DeviceMapper {
        self.lab.dm()
    }

    pub(super) fn fs(&self) -> &'a dyn Filesystems {
        self.lab.filesystems()
    }

    pub(super) fn backing(&self) -> &'a dyn Backing {
        self.lab.backing()
    }

    /// Undoes what is left of everything, in reverse.
    pub(super) fn clean(&self) -> Outcome {
        let mut first = Ok(());
        let mut note = |outcome: Outcome| {
            if first.is_ok() {
                first = outcome;
            }
        };
        for target in self.mounts.borrow_mut().drain(..).rev() {
            while matches!(
                self.fs().unmount(&target, Unmount::Lazy),
                Ok(thinlayer_filesystem::Unmounted::Done)
            ) {}
        }
        for name in self.devices.borrow_mut().drain(..).rev() {
            note(remove(self.dm(), &name));
        }
        first
    }

    /// A name that no device has yet. It is cleaned up.
    pub(super) fn name(&self, short: &str) -> Result<DmName, Failure> {
        let name = DmName::new(format!("conformance-{short}"))?;
        self.devices.borrow_mut().push(name.clone());
        Ok(name)
    }

    /// Makes a device with a table in use.
    pub(super) fn device(&self, short: &str, table: &[Target]) -> Result<Info, Failure> {
        self.device_as(short, table, Access::ReadWrite)
    }

    pub(super) fn device_as(&self, short: &str, table: &[Target], access: Access) -> Result<Info, Failure> {
        let name = self.name(short)?;
        self.dm().create(&name, None)?;
        self.dm().load((&name).into(), table, access)?;
        Ok(self.dm().resume((&name).into(), Suspend::default())?)
    }

    /// Removes a device, waiting for whoever looks at it shortly.
    pub(super) fn remove(&self, name: &DmName) -> Outcome {
        remove(self.dm(), name)
    }

    pub(super) fn zero(&self, short: &str, sectors: u64) -> Result<Info, Failure> {
        self.device(short, &[line(0, sectors, "zero", "")])
    }

    pub(super) fn info(&self, name: &DmName) -> Result<Info, Failure> {
        self.dm().info(name.into())?.ok_or_else(|| Failure::new(format!("{name} is gone")))
    }

    /// The only line of a device's live table.
    pub(super) fn table(&self, name: &DmName) -> Result<Target, Failure> {
        one(self.dm().table(name.into(), Slot::Live)?.1)
    }

    /// The only line of a device's status.
    pub(super) fn status(&self, name: &DmName) -> Result<String, Failure> {
        Ok(one(self.dm().status(name.into(), thinlayer_dm::Flush::No)?.1)?.params)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.lab.folder().join(name)
    }

    /// A folder in the lab's.
    pub(super) fn folder(&self, name: &str) -> Result<PathBuf, Failure> {
        let path = self.path(name);
        self.fs().make_dir(&path, 0o755, Owner::default())?;
        Ok(path)
    }

    pub(super) fn file(&self, name: &str, bytes: u64, allocation: Allocation) -> Result<PathBuf, Failure> {
        let path = self.path(name);
        self.backing().ensure_file(&path, Bytes(bytes), allocation)?;
        Ok(path)
    }

    /// A loop device on a new file.
    pub(super) fn attached(&self, name: &str, bytes: u64) -> Result<Attachment, Failure> {
        let path = self.file(name, bytes, Allocation::Sparse)?;
        Ok(self.backing().attach(&path, AttachOptions::default())?)
    }

    /// A pool of `data` bytes with these feature words (count first).
    pub(super) fn pool(&self, data: u64, features: &str) -> Result<Pool, Failure> {
        let metadata = self.attached("metadata", 16 * MIB)?;
        let data = self.attached("data", data)?;
        self.pool_on(metadata, data, features)
    }

    pub(super) fn pool_on(
        &self,
        metadata: Attachment,
        data: Attachment,
        features: &str,
    ) -> Result<Pool, Failure> {
        let table = pool_line(&metadata, &data, BLOCK, 0, features);
        let info = self.device("pool", &[table])?;
        Ok(Pool { name: info.name.clone(), info, metadata, data })
    }

    pub(super) fn message(&self, pool: &Pool, text: &str) -> Result<Option<String>, thinlayer_dm::Error> {
        self.dm().message((&pool.name).into(), Sectors(0), text).map(|(_, answer)| answer)
    }

    /// Makes a thin device and activates it.
    pub(super) fn new_thin(&self, pool: &Pool, id: u32, bytes: u64) -> Result<Info, Failure> {
        self.message(pool, &format!("create_thin {id}"))?;
        self.thin(pool, id, bytes)
    }

    /// Activates a thin device that is there.
    pub(super) fn thin(&self, pool: &Pool, id: u32, bytes: u64) -> Result<Info, Failure> {
        self.device(&format!("thin-{id}"), &[thin_line(pool, id, bytes)])
    }

    pub(super) fn node(&self, info: &Info) -> Result<PathBuf, Failure> {
        Ok(self.dm().node(&info.name, info.number)?)
    }

    pub(super) fn mkfs(&self, info: &Info, kind: Kind) -> Outcome {
        self.mkfs_at(&self.node(info)?, kind)
    }

    pub(super) fn mkfs_at(&self, node: &Path, kind: Kind) -> Outcome {
        let options = MakeOptions { kind, args: Vec::new(), deadline: Duration::from_secs(100) };
        Ok(self.fs().make(node, &options, &|_| {})?)
    }

    pub(super) fn request(&self, node: &Path, target: &Path, kind: Kind) -> MountRequest {
        // The mount is cleaned up even if the case did not expect it to work.
        self.mounts.borrow_mut().push(target.to_owned());
        MountRequest {
            device: node.to_owned(),
            target: target.to_owned(),
            kind,
            read_only: false,
            no_recovery: false,
            options: Vec::new(),
            label: None,
        }
    }

    /// Mounts a device on a new folder of this name.
    pub(super) fn mount(&self, info: &Info, name: &str) -> Result<PathBuf, Failure> {
        let target = self.folder(name)?;
        self.fs().mount(&self.request(&self.node(info)?, &target, Kind::Ext4))?;
        Ok(target)
    }

    pub(super) fn unmount(&self, target: &Path) -> Outcome {
        Ok(self.fs().unmount(target, Unmount::Now).map(|_| ())?)
    }

    /// Waits for what the machine does by itself.
    pub(super) fn eventually(&self, what: &str, so: impl Fn() -> Result<bool, Failure>) -> Outcome {
        let start = Instant::now();
        while !so()? {
            if start.elapsed() > PATIENCE {
                return Err(Failure::new(format!("not so within {PATIENCE:?}: {what}")));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The device's open count comes to this.
    pub(super) fn opened(&self, name: &DmName, count: u32) -> Outcome {
        self.eventually(&format!("{name} is open {count} times"), || Ok(self.info(name)?.open_count == count))
    }
}

fn remove(dm: &dyn DeviceMapper, name: &DmName) -> Outcome {
    let number = dm.info(name.into())?.map(|info| info.number);
    remove_within(dm, name.into(), PATIENCE)?;
    if let Some(number) = number {
        dm.forget_node(name, number)?;
    }
    Ok(())
}

fn one(mut lines: Vec<Target>) -> Result<Target, Failure> {
    match (lines.pop(), lines.len()) {
        (Some(line), 0) => Ok(line),
        (_, more) => Err(Failure::new(format!("one line was expected, not {}", more + 1))),
    }
}

/// A table's line.
pub(super) fn line(start: u64, len: u64, kind: &str, params: &str) -> Target {
    Target { start: Sectors(start), len: Sectors(len), kind: kind.into(), params: params.into() }
}

pub(super) fn pool_line(
    metadata: &Attachment,
    data: &Attachment,
    block: u64,
    low_water: u64,
    features: &str,
) -> Target {
    let params = format!("{} {} {block} {low_water} {features}", metadata.number, data.number);
    line(0, data.size.to_sectors().0, "thin-pool", params.trim_end())
}

pub(super) fn thin_line(pool: &Pool, id: u32, bytes: u64) -> Target {
    line(0, bytes / 512, "thin", &format!("{} {id}", pool.info.number))
}

/// Removes a device at its last close, or now.
pub(super) fn remove_later(bench: &Bench<'_>, name: &DmName) -> Result<thinlayer_dm::Removed, Failure> {
    Ok(bench.dm().remove(name.into(), Removal::Deferred)?)
}

/// The numbers and words of a pool's status.
#[derive(Debug)]
pub(super) struct PoolStatus {
    pub(super) transaction_id: u64,
    pub(super) metadata: (u64, u64),
    pub(super) data: (u64, u64),
    pub(super) held_root: String,
    pub(super) mode: String,
    pub(super) discard: String,
    pub(super) no_space: String,
    pub(super) needs_check: String,
}

pub(super) fn pool_status(bench: &Bench<'_>, pool: &DmName) -> Result<PoolStatus, Failure> {
    let text = bench.status(pool)?;
    let bad = || Failure::new(format!("pool status {text:?}"));
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let [id, metadata, data, held, mode, discard, no_space, check, ..] = words.as_slice() else {
        return Err(bad());
    };
    let pair = |text: &str| {
        let (used, total) = text.split_once('/')?;
        Some((used.parse().ok()?, total.parse().ok()?))
    };
    Ok(PoolStatus {
        transaction_id: id.parse().map_err(|_| bad())?,
        metadata: pair(metadata).ok_or_else(bad)?,
        data: pair(data).ok_or_else(bad)?,
        held_root: (*held).to_owned(),
        mode: (*mode).to_owned(),
        discard: (*discard).to_owned(),
        no_space: (*no_space).to_owned(),
        needs_check: (*check).to_owned(),
    })
}
