//! Deliberate bugs, put between driver and machine: the histories must find each of them.

use crate::play::Wrap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use thinlayer_dm::{
    Access, DeviceMapper, DeviceNumber, DeviceRef, DmName, DmUuid, Events, Flush, Info, ListedDevice,
    Removal, Removed, Result, Sectors, Slot, Suspend, Target, TargetVersion, Version,
};
use thinlayer_graphdriver::Machine;
use thinlayer_store::{Disk, Entry};

/// What a bug does in place of, or before, a call. `None`: the call goes on as ever.
trait Bug: fmt::Debug + Send + Sync {
    fn message(
        &self,
        _dm: &dyn DeviceMapper,
        _device: DeviceRef<'_>,
        _text: &str,
    ) -> Option<Result<(Info, Option<String>)>> {
        None
    }
    fn sync_folder(&self, _folder: &Path) -> Option<io::Result<()>> {
        None
    }
    fn sync_file(&self, _path: &Path) -> Option<io::Result<()>> {
        None
    }
    fn rename(&self, _to: &Path) {}
    fn overwrite(&self, _path: &Path, _content: &[u8]) {}
}

#[derive(Debug)]
struct BuggyDisk {
    inner: Arc<dyn Disk>,
    bug: Arc<dyn Bug>,
}

impl Disk for BuggyDisk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.inner.read(path)
    }
    fn list(&self, folder: &Path) -> io::Result<Vec<Entry>> {
        self.inner.list(folder)
    }
    fn make_folder(&self, folder: &Path) -> io::Result<()> {
        self.inner.make_folder(folder)
    }
    fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.inner.write(path, content)
    }
    fn overwrite(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.bug.overwrite(path, content);
        self.inner.overwrite(path, content)
    }
    fn sync_file(&self, path: &Path) -> io::Result<()> {
        self.bug.sync_file(path).unwrap_or_else(|| self.inner.sync_file(path))
    }
    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.bug.sync_folder(folder).unwrap_or_else(|| self.inner.sync_folder(folder))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.bug.rename(to);
        self.inner.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.inner.remove(path)
    }
}

#[derive(Debug)]
struct BuggyDm {
    inner: Arc<dyn DeviceMapper>,
    bug: Arc<dyn Bug>,
}

impl DeviceMapper for BuggyDm {
    fn version(&self) -> Version {
        self.inner.version()
    }
    fn target_versions(&self) -> Result<Vec<TargetVersion>> {
        self.inner.target_versions()
    }
    fn devices(&self) -> Result<Vec<ListedDevice>> {
        self.inner.devices()
    }
    fn create(&self, name: &DmName, uuid: Option<&DmUuid>) -> Result<Info> {
        self.inner.create(name, uuid)
    }
    fn remove(&self, device: DeviceRef<'_>, when: Removal) -> Result<Removed> {
        self.inner.remove(device, when)
    }
    fn cancel_deferred_removal(&self, device: DeviceRef<'_>) -> Result<()> {
        self.inner.cancel_deferred_removal(device)
    }
    fn rename(&self, device: &DmName, to: &DmName) -> Result<Info> {
        self.inner.rename(device, to)
    }
    fn set_uuid(&self, device: &DmName, uuid: &DmUuid) -> Result<Info> {
        self.inner.set_uuid(device, uuid)
    }
    fn suspend(&self, device: DeviceRef<'_>, how: Suspend) -> Result<Info> {
        self.inner.suspend(device, how)
    }
    fn resume(&self, device: DeviceRef<'_>, how: Suspend) -> Result<Info> {
        self.inner.resume(device, how)
    }
    fn load(&self, device: DeviceRef<'_>, table: &[Target], access: Access) -> Result<Info> {
        self.inner.load(device, table, access)
    }
    fn clear(&self, device: DeviceRef<'_>) -> Result<Info> {
        self.inner.clear(device)
    }
    fn info(&self, device: DeviceRef<'_>) -> Result<Option<Info>> {
        self.inner.info(device)
    }
    fn table(&self, device: DeviceRef<'_>, slot: Slot) -> Result<(Info, Vec<Target>)> {
        self.inner.table(device, slot)
    }
    fn status(&self, device: DeviceRef<'_>, flush: Flush) -> Result<(Info, Vec<Target>)> {
        self.inner.status(device, flush)
    }
    fn deps(&self, device: DeviceRef<'_>) -> Result<Vec<DeviceNumber>> {
        self.inner.deps(device)
    }
    fn message(
        &self,
        device: DeviceRef<'_>,
        sector: Sectors,
        message: &str,
    ) -> Result<(Info, Option<String>)> {
        let done = self.bug.message(&*self.inner, device, message);
        done.unwrap_or_else(|| self.inner.message(device, sector, message))
    }
    fn events(&self) -> Result<Box<dyn Events>> {
        self.inner.events()
    }
    fn node(&self, name: &DmName, number: DeviceNumber) -> Result<PathBuf> {
        self.inner.node(name, number)
    }
    fn forget_node(&self, name: &DmName, number: DeviceNumber) -> Result<()> {
        self.inner.forget_node(name, number)
    }
}

fn with(machine: Machine, bug: Arc<dyn Bug>) -> Machine {
    Machine {
        dm: Arc::new(BuggyDm { inner: machine.dm.clone(), bug: bug.clone() }),
        disk: Arc::new(BuggyDisk { inner: machine.disk.clone(), bug }),
        ..machine
    }
}

/// A message that was sent before.
fn answered(dm: &dyn DeviceMapper, device: DeviceRef<'_>) -> Result<(Info, Option<String>)> {
    Ok((dm.status(device, Flush::No)?.0, None))
}

/// The pool that the machine's root has.
fn pool(machine: &Machine) -> DmName {
    DmName::new(format!("docker-8:1-{}-pool", machine.root.inode)).unwrap()
}

/// A sync left out: the folder's after a record was put or removed.
#[derive(Debug)]
struct NoFolderSync;

impl Bug for NoFolderSync {
    fn sync_folder(&self, folder: &Path) -> Option<io::Result<()>> {
        (folder == Path::new("metadata")).then_some(Ok(()))
    }
}

/// A sync left out: a record's own, before it takes its name.
#[derive(Debug)]
struct NoFileSync;

impl Bug for NoFileSync {
    fn sync_file(&self, _path: &Path) -> Option<io::Result<()>> {
        Some(Ok(()))
    }
}

/// Two steps swapped: the pool's transaction id moves before the record has its name.
#[derive(Debug)]
struct IdBeforeRecord {
    dm: Arc<dyn DeviceMapper>,
    pool: DmName,
    /// A creation is under way.
    creating: AtomicBool,
    sent: AtomicBool,
}

impl Bug for IdBeforeRecord {
    fn message(
        &self,
        dm: &dyn DeviceMapper,
        device: DeviceRef<'_>,
        text: &str,
    ) -> Option<Result<(Info, Option<String>)>> {
        if let Some(ids) = text.strip_prefix("create_snap ") {
            // Not the probe, which names one id twice.
            let mut ids = ids.split(' ');
            self.creating.store(ids.next() != ids.next(), Ordering::Relaxed);
        }
        let early = text.starts_with("set_transaction_id") && self.sent.swap(false, Ordering::Relaxed);
        early.then(|| answered(dm, device))
    }

    fn rename(&self, to: &Path) {
        if to.starts_with("metadata/") && self.creating.swap(false, Ordering::Relaxed) {
            let status = self.dm.status((&self.pool).into(), Flush::No).ok();
            let id =
                status.and_then(|(_, lines)| lines.first()?.params.split(' ').next()?.parse::<u64>().ok());
            if let Some(id) = id {
                let text = format!("set_transaction_id {id} {}", id + 1);
                let moved = self.dm.message((&self.pool).into(), Sectors(0), &text).is_ok();
                self.sent.store(moved, Ordering::Relaxed);
            }
        }
    }
}

/// An id freed early: the thin device is deleted before the intent to do so is on disk.
#[derive(Debug)]
struct DeletedBeforeIntent {
    dm: Arc<dyn DeviceMapper>,
    pool: DmName,
    done: Mutex<Option<String>>,
}

impl Bug for DeletedBeforeIntent {
    fn overwrite(&self, path: &Path, content: &[u8]) {
        if path != Path::new("metadata/transaction-metadata") {
            return;
        }
        let Ok(intent) = serde_json::from_slice::<serde_json::Value>(content) else { return };
        if intent.to_string().contains("delete")
            && let Some(id) = intent["device_id"].as_u64()
        {
            let text = format!("delete {id}");
            if self.dm.message((&self.pool).into(), Sectors(0), &text).is_ok() {
                *self.done.lock().unwrap() = Some(text);
            }
        }
    }

    fn message(
        &self,
        dm: &dyn DeviceMapper,
        device: DeviceRef<'_>,
        text: &str,
    ) -> Option<Result<(Info, Option<String>)>> {
        let mut done = self.done.lock().unwrap();
        (done.as_deref() == Some(text)).then(|| {
            *done = None;
            answered(dm, device)
        })
    }
}

/// The bugs with their names.
pub(crate) const ALL: [(&str, Wrap); 4] = [
    ("the folder is not synced", |machine| with(machine, Arc::new(NoFolderSync))),
    ("records are not synced", |machine| with(machine, Arc::new(NoFileSync))),
    ("the transaction id moves before the record is written", |machine| {
        let bug = IdBeforeRecord {
            dm: machine.dm.clone(),
            pool: pool(&machine),
            creating: AtomicBool::new(false),
            sent: AtomicBool::new(false),
        };
        with(machine, Arc::new(bug))
    }),
    ("a thin id is freed before the intent is written", |machine| {
        let bug =
            DeletedBeforeIntent { dm: machine.dm.clone(), pool: pool(&machine), done: Mutex::new(None) };
        with(machine, Arc::new(bug))
    }),
];
