//! What the driver is built on, with a clock beside each call: which calls a step makes, in order, and what each takes.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use thinlayer_dm::{
    Access, DeviceMapper, DeviceNumber, DeviceRef, DmName, DmUuid, Events, Flush, Info, ListedDevice,
    Removal, Removed, Sectors, Slot, Suspend, Target, TargetVersion, Version,
};
use thinlayer_filesystem::{
    Alive, Detected, Filesystems, Kind, MakeOptions, Mount, MountRequest, Owner, Unmount, Unmounted,
};
use thinlayer_graphdriver::{Bytes, Machine};
use thinlayer_provision::superblock::Superblock;
use thinlayer_provision::{
    Allocation, AttachOptions, Attachment, Backing, BlockDevice, Ensured, FileInfo, LoopDevice, Progress,
};
use thinlayer_store::{Disk, Entry};

/// A call and how long it took.
#[derive(Clone, Debug)]
pub(crate) struct TimedCall {
    pub(crate) what: String,
    pub(crate) took: Duration,
}

/// The calls of all that is behind one machine, in the order in which they returned.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<TimedCall>>>);

impl Log {
    /// Puts the clock beside everything of a machine's.
    pub(crate) fn beside(&self, machine: Machine) -> Machine {
        let disk = |inner, what| -> Arc<dyn Disk> {
            Arc::new(Timed { inner: Named { inner, what }, log: self.clone() })
        };
        Machine {
            dm: Arc::new(Timed { inner: machine.dm, log: self.clone() }),
            backing: Arc::new(Timed { inner: machine.backing, log: self.clone() }),
            filesystems: Arc::new(Timed { inner: machine.filesystems, log: self.clone() }),
            disk: disk(machine.disk, "root"),
            runtime: disk(machine.runtime, "run"),
            ..machine
        }
    }

    /// Does something of the bench's own that belongs to a step.
    pub(crate) fn time<R>(&self, what: &str, work: impl FnOnce() -> R) -> R {
        Timed { inner: (), log: self.clone() }.time(what, |()| work())
    }

    /// The calls since the last time that somebody asked.
    pub(crate) fn take(&self) -> Vec<TimedCall> {
        std::mem::take(&mut *self.0.lock())
    }
}

#[derive(Debug)]
struct Timed<T> {
    inner: T,
    log: Log,
}

/// Which disk it is.
#[derive(Debug)]
struct Named {
    inner: Arc<dyn Disk>,
    what: &'static str,
}

impl<T> Timed<T> {
    fn time<R>(&self, what: impl Into<String>, call: impl FnOnce(&T) -> R) -> R {
        let start = Instant::now();
        let result = call(&self.inner);
        let took = start.elapsed();
        self.log.0.lock().push(TimedCall { what: what.into(), took });
        result
    }
}

type Dm = Arc<dyn DeviceMapper>;
type DmResult<T> = thinlayer_dm::Result<T>;

impl DeviceMapper for Timed<Dm> {
    fn version(&self) -> Version {
        self.inner.version()
    }

    fn target_versions(&self) -> DmResult<Vec<TargetVersion>> {
        self.time("ioctl target versions", |dm| dm.target_versions())
    }

    fn devices(&self) -> DmResult<Vec<ListedDevice>> {
        self.time("ioctl list", |dm| dm.devices())
    }

    fn create(&self, name: &DmName, uuid: Option<&DmUuid>) -> DmResult<Info> {
        self.time("ioctl create", |dm| dm.create(name, uuid))
    }

    fn remove(&self, device: DeviceRef<'_>, when: Removal) -> DmResult<Removed> {
        self.time("ioctl remove", |dm| dm.remove(device, when))
    }

    fn cancel_deferred_removal(&self, device: DeviceRef<'_>) -> DmResult<()> {
        self.time("ioctl cancel removal", |dm| dm.cancel_deferred_removal(device))
    }

    fn rename(&self, device: &DmName, to: &DmName) -> DmResult<Info> {
        self.time("ioctl rename", |dm| dm.rename(device, to))
    }

    fn set_uuid(&self, device: &DmName, uuid: &DmUuid) -> DmResult<Info> {
        self.time("ioctl set UUID", |dm| dm.set_uuid(device, uuid))
    }

    fn suspend(&self, device: DeviceRef<'_>, how: Suspend) -> DmResult<Info> {
        self.time("ioctl suspend", |dm| dm.suspend(device, how))
    }

    fn resume(&self, device: DeviceRef<'_>, how: Suspend) -> DmResult<Info> {
        self.time("ioctl resume", |dm| dm.resume(device, how))
    }

    fn load(&self, device: DeviceRef<'_>, table: &[Target], access: Access) -> DmResult<Info> {
        self.time("ioctl load", |dm| dm.load(device, table, access))
    }

    fn clear(&self, device: DeviceRef<'_>) -> DmResult<Info> {
        self.time("ioctl clear", |dm| dm.clear(device))
    }

    fn info(&self, device: DeviceRef<'_>) -> DmResult<Option<Info>> {
        self.time("ioctl info", |dm| dm.info(device))
    }

    fn table(&self, device: DeviceRef<'_>, slot: Slot) -> DmResult<(Info, Vec<Target>)> {
        self.time("ioctl table", |dm| dm.table(device, slot))
    }

    fn status(&self, device: DeviceRef<'_>, flush: Flush) -> DmResult<(Info, Vec<Target>)> {
        self.time("ioctl status", |dm| dm.status(device, flush))
    }

    fn deps(&self, device: DeviceRef<'_>) -> DmResult<Vec<DeviceNumber>> {
        self.time("ioctl deps", |dm| dm.deps(device))
    }

    fn message(
        &self,
        device: DeviceRef<'_>,
        sector: Sectors,
        message: &str,
    ) -> DmResult<(Info, Option<String>)> {
        let words: Vec<&str> = message.split(' ').collect();
        // A snapshot of itself is how an id is proven free.
        let what = match words[..] {
            ["create_snap", new, of] if new == of => "probe",
            _ => words.first().copied().unwrap_or_default(),
        };
        self.time(format!("message {what}"), |dm| dm.message(device, sector, message))
    }

    fn events(&self) -> DmResult<Box<dyn Events>> {
        self.inner.events()
    }

    fn node(&self, name: &DmName, number: DeviceNumber) -> DmResult<PathBuf> {
        self.time("find the node", |dm| dm.node(name, number))
    }

    fn forget_node(&self, name: &DmName, number: DeviceNumber) -> DmResult<()> {
        self.time("forget the node", |dm| dm.forget_node(name, number))
    }
}

type FsResult<T> = thinlayer_filesystem::Result<T>;

impl Filesystems for Timed<Arc<dyn Filesystems>> {
    fn detect(&self, device: &Path) -> FsResult<Detected> {
        self.time("detect", |fs| fs.detect(device))
    }

    fn extent(&self, device: &Path) -> FsResult<Option<u64>> {
        self.time("extent", |fs| fs.extent(device))
    }

    fn usable(&self, kind: Kind) -> FsResult<()> {
        self.inner.usable(kind)
    }

    fn make(&self, device: &Path, options: &MakeOptions, alive: Alive<'_>) -> FsResult<()> {
        self.time("mkfs", |fs| fs.make(device, options, alive))
    }

    fn mount(&self, request: &MountRequest) -> FsResult<()> {
        self.time("mount", |fs| fs.mount(request))
    }

    fn unmount(&self, target: &Path, when: Unmount) -> FsResult<Unmounted> {
        self.time("umount", |fs| fs.unmount(target, when))
    }

    fn grow(&self, kind: Kind, mount_point: &Path, device: &Path) -> FsResult<()> {
        self.time("grow", |fs| fs.grow(kind, mount_point, device))
    }

    fn freeze(&self, mount_point: &Path) -> FsResult<()> {
        self.time("freeze", |fs| fs.freeze(mount_point))
    }

    fn thaw(&self, mount_point: &Path) -> FsResult<()> {
        self.time("thaw", |fs| fs.thaw(mount_point))
    }

    fn set_xfs_retries(&self, device: (u32, u32), retries: u64) -> FsResult<()> {
        self.inner.set_xfs_retries(device, retries)
    }

    fn mounts(&self) -> FsResult<Vec<Mount>> {
        self.time("read the mount table", |fs| fs.mounts())
    }

    fn make_dir(&self, path: &Path, mode: u32, owner: Owner) -> FsResult<()> {
        self.time("make a folder", |fs| fs.make_dir(path, mode, owner))
    }

    fn remove_dir(&self, path: &Path) -> FsResult<bool> {
        self.time("remove a folder", |fs| fs.remove_dir(path))
    }

    fn dirs(&self, path: &Path) -> FsResult<Vec<String>> {
        self.time("list folders", |fs| fs.dirs(path))
    }

    fn write_if_absent(&self, path: &Path, contents: &[u8]) -> FsResult<bool> {
        self.time("write if absent", |fs| fs.write_if_absent(path, contents))
    }

    fn free_bytes(&self, path: &Path) -> FsResult<u64> {
        self.inner.free_bytes(path)
    }
}

type BackingResult<T> = thinlayer_provision::Result<T>;

impl Backing for Timed<Arc<dyn Backing>> {
    fn file(&self, path: &Path) -> BackingResult<Option<FileInfo>> {
        self.time("look at a backing file", |backing| backing.file(path))
    }

    fn ensure_file(&self, path: &Path, size: Bytes, allocation: Allocation) -> BackingResult<Ensured> {
        self.time("make a backing file", |backing| backing.ensure_file(path, size, allocation))
    }

    fn remove_file(&self, path: &Path) -> BackingResult<bool> {
        self.time("remove a backing file", |backing| backing.remove_file(path))
    }

    fn attach(&self, path: &Path, options: AttachOptions) -> BackingResult<Attachment> {
        self.time("attach a loop device", |backing| backing.attach(path, options))
    }

    fn loops(&self) -> BackingResult<Vec<LoopDevice>> {
        self.time("list loop devices", |backing| backing.loops())
    }

    fn detach(&self, number: DeviceNumber) -> BackingResult<()> {
        self.time("detach a loop device", |backing| backing.detach(number))
    }

    fn refresh_size(&self, number: DeviceNumber) -> BackingResult<Bytes> {
        self.time("refresh a loop device", |backing| backing.refresh_size(number))
    }

    fn inspect(&self, path: &Path) -> BackingResult<BlockDevice> {
        self.time("inspect a device", |backing| backing.inspect(path))
    }

    fn superblock(&self, path: &Path) -> BackingResult<Superblock> {
        self.time("read a pool's superblock", |backing| backing.superblock(path))
    }

    fn discard(&self, device: &Path, rate: Option<Bytes>, progress: Progress<'_>) -> BackingResult<bool> {
        self.time("discard", |backing| backing.discard(device, rate, progress))
    }
}

impl Timed<Named> {
    fn file<R>(&self, what: &str, call: impl FnOnce(&dyn Disk) -> R) -> R {
        self.time(format!("{} {what}", self.inner.what), |named| call(&*named.inner))
    }
}

impl Disk for Timed<Named> {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.file("read", |disk| disk.read(path))
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<Entry>> {
        self.file("list", |disk| disk.list(folder))
    }

    fn make_folder(&self, folder: &Path) -> io::Result<()> {
        self.file("make a folder", |disk| disk.make_folder(folder))
    }

    fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.file("write", |disk| disk.write(path, content))
    }

    fn overwrite(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.file("overwrite in place, sync", |disk| disk.overwrite(path, content))
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        self.file("sync a file", |disk| disk.sync_file(path))
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.file("sync a folder", |disk| disk.sync_folder(folder))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.file("rename", |disk| disk.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.file("unlink", |disk| disk.remove(path))
    }
}
