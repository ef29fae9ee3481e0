//! The machine of somebody who only looks: it works without device-mapper and without a run-time folder, as long as neither is asked for.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use thinlayer_dm::{
    Access, Control, DeviceMapper, DeviceNumber, DeviceRef, DmName, DmUuid, Events, Flush, Info,
    ListedDevice, Removal, Removed, Result, Sectors, Slot, Suspend, Target, TargetVersion, Version,
};
use thinlayer_store::{Disk, Entry};

/// Device-mapper that is opened at its first use. Where the kernel has none, that use fails and says so.
#[derive(Debug, Default)]
pub(crate) struct LazyControl(OnceLock<Control>);

impl LazyControl {
    fn control(&self) -> Result<&Control> {
        if let Some(control) = self.0.get() {
            return Ok(control);
        }
        let control = Control::open()?;
        Ok(self.0.get_or_init(|| control))
    }
}

impl DeviceMapper for LazyControl {
    fn version(&self) -> Version {
        self.control().map_or(Version(0, 0, 0), DeviceMapper::version)
    }
    fn target_versions(&self) -> Result<Vec<TargetVersion>> {
        self.control()?.target_versions()
    }
    fn devices(&self) -> Result<Vec<ListedDevice>> {
        self.control()?.devices()
    }
    fn create(&self, name: &DmName, uuid: Option<&DmUuid>) -> Result<Info> {
        self.control()?.create(name, uuid)
    }
    fn remove(&self, device: DeviceRef<'_>, when: Removal) -> Result<Removed> {
        self.control()?.remove(device, when)
    }
    fn cancel_deferred_removal(&self, device: DeviceRef<'_>) -> Result<()> {
        self.control()?.cancel_deferred_removal(device)
    }
    fn rename(&self, device: &DmName, to: &DmName) -> Result<Info> {
        self.control()?.rename(device, to)
    }
    fn set_uuid(&self, device: &DmName, uuid: &DmUuid) -> Result<Info> {
        self.control()?.set_uuid(device, uuid)
    }
    fn suspend(&self, device: DeviceRef<'_>, how: Suspend) -> Result<Info> {
        self.control()?.suspend(device, how)
    }
    fn resume(&self, device: DeviceRef<'_>, how: Suspend) -> Result<Info> {
        self.control()?.resume(device, how)
    }
    fn load(&self, device: DeviceRef<'_>, table: &[Target], access: Access) -> Result<Info> {
        self.control()?.load(device, table, access)
    }
    fn clear(&self, device: DeviceRef<'_>) -> Result<Info> {
        self.control()?.clear(device)
    }
    fn info(&self, device: DeviceRef<'_>) -> Result<Option<Info>> {
        self.control()?.info(device)
    }
    fn table(&self, device: DeviceRef<'_>, slot: Slot) -> Result<(Info, Vec<Target>)> {
        self.control()?.table(device, slot)
    }
    fn status(&self, device: DeviceRef<'_>, flush: Flush) -> Result<(Info, Vec<Target>)> {
        self.control()?.status(device, flush)
    }
    fn deps(&self, device: DeviceRef<'_>) -> Result<Vec<DeviceNumber>> {
        self.control()?.deps(device)
    }
    fn message(
        &self,
        device: DeviceRef<'_>,
        sector: Sectors,
        message: &str,
    ) -> Result<(Info, Option<String>)> {
        self.control()?.message(device, sector, message)
    }
    fn events(&self) -> Result<Box<dyn Events>> {
        self.control()?.events()
    }
    fn node(&self, name: &DmName, number: DeviceNumber) -> Result<PathBuf> {
        self.control()?.node(name, number)
    }
    fn forget_node(&self, name: &DmName, number: DeviceNumber) -> Result<()> {
        self.control()?.forget_node(name, number)
    }
}

/// A disk with nothing on it, which takes nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nothing;

fn refused<T>() -> io::Result<T> {
    Err(io::ErrorKind::ReadOnlyFilesystem.into())
}

impl Disk for Nothing {
    fn read(&self, _: &Path) -> io::Result<Vec<u8>> {
        Err(io::ErrorKind::NotFound.into())
    }
    fn list(&self, _: &Path) -> io::Result<Vec<Entry>> {
        Err(io::ErrorKind::NotFound.into())
    }
    fn make_folder(&self, _: &Path) -> io::Result<()> {
        refused()
    }
    fn write(&self, _: &Path, _: &[u8]) -> io::Result<()> {
        refused()
    }
    fn overwrite(&self, _: &Path, _: &[u8]) -> io::Result<()> {
        refused()
    }
    fn sync_file(&self, _: &Path) -> io::Result<()> {
        refused()
    }
    fn sync_folder(&self, _: &Path) -> io::Result<()> {
        refused()
    }
    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        refused()
    }
    fn remove(&self, _: &Path) -> io::Result<()> {
        refused()
    }
}
