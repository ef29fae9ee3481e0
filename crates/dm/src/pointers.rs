//! [`DeviceMapper`] through references and smart pointers, so that owners can be generic over how they hold it.

use crate::device_mapper::{
    Access, DeviceMapper, Events, Flush, Info, ListedDevice, Removal, Removed, Slot, Suspend, Target,
    TargetVersion, Version,
};
use crate::error::Result;
use crate::name::{DeviceNumber, DeviceRef, DmName, DmUuid};
use crate::units::Sectors;
use std::path::PathBuf;
use std::sync::Arc;

macro_rules! through_pointer {
    ($($pointer:ty),+) => {$(
        impl<T: DeviceMapper + ?Sized> DeviceMapper for $pointer {
            fn version(&self) -> Version {
                (**self).version()
            }
            fn target_versions(&self) -> Result<Vec<TargetVersion>> {
                (**self).target_versions()
            }
            fn devices(&self) -> Result<Vec<ListedDevice>> {
                (**self).devices()
            }
            fn create(&self, name: &DmName, uuid: Option<&DmUuid>) -> Result<Info> {
                (**self).create(name, uuid)
            }
            fn remove(&self, device: DeviceRef<'_>, when: Removal) -> Result<Removed> {
                (**self).remove(device, when)
            }
            fn cancel_deferred_removal(&self, device: DeviceRef<'_>) -> Result<()> {
                (**self).cancel_deferred_removal(device)
            }
            fn rename(&self, device: &DmName, to: &DmName) -> Result<Info> {
                (**self).rename(device, to)
            }
            fn set_uuid(&self, device: &DmName, uuid: &DmUuid) -> Result<Info> {
                (**self).set_uuid(device, uuid)
            }
            fn suspend(&self, device: DeviceRef<'_>, how: Suspend) -> Result<Info> {
                (**self).suspend(device, how)
            }
            fn resume(&self, device: DeviceRef<'_>, how: Suspend) -> Result<Info> {
                (**self).resume(device, how)
            }
            fn load(&self, device: DeviceRef<'_>, table: &[Target], access: Access) -> Result<Info> {
                (**self).load(device, table, access)
            }
            fn clear(&self, device: DeviceRef<'_>) -> Result<Info> {
                (**self).clear(device)
            }
            fn info(&self, device: DeviceRef<'_>) -> Result<Option<Info>> {
                (**self).info(device)
            }
            fn table(&self, device: DeviceRef<'_>, slot: Slot) -> Result<(Info, Vec<Target>)> {
                (**self).table(device, slot)
            }
            fn status(&self, device: DeviceRef<'_>, flush: Flush) -> Result<(Info, Vec<Target>)> {
                (**self).status(device, flush)
            }
            fn deps(&self, device: DeviceRef<'_>) -> Result<Vec<DeviceNumber>> {
                (**self).deps(device)
            }
            fn message(&self, device: DeviceRef<'_>, sector: Sectors, message: &str) -> Result<(Info, Option<String>)> {
                (**self).message(device, sector, message)
            }
            fn events(&self) -> Result<Box<dyn Events>> {
                (**self).events()
            }
            fn node(&self, name: &DmName, number: DeviceNumber) -> Result<PathBuf> {
                (**self).node(name, number)
            }
            fn forget_node(&self, name: &DmName, number: DeviceNumber) -> Result<()> {
                (**self).forget_node(name, number)
            }
        }
    )+};
}

through_pointer!(&T, Arc<T>, Box<T>);
