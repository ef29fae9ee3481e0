//! [`Filesystems`] through references and smart pointers, so that owners can be generic over how they hold it.

use crate::error::Result;
use crate::filesystems::{
    Alive, Detected, Filesystems, Kind, MakeOptions, Mount, MountRequest, Owner, Unmount, Unmounted,
};
use std::path::Path;
use std::sync::Arc;

macro_rules! through_pointer {
    ($($pointer:ty),+) => {$(
        impl<T: Filesystems + ?Sized> Filesystems for $pointer {
            fn detect(&self, device: &Path) -> Result<Detected> {
                (**self).detect(device)
            }
            fn extent(&self, device: &Path) -> Result<Option<u64>> {
                (**self).extent(device)
            }
            fn usable(&self, kind: Kind) -> Result<()> {
                (**self).usable(kind)
            }
            fn make(&self, device: &Path, options: &MakeOptions, alive: Alive<'_>) -> Result<()> {
                (**self).make(device, options, alive)
            }
            fn mount(&self, request: &MountRequest) -> Result<()> {
                (**self).mount(request)
            }
            fn unmount(&self, target: &Path, when: Unmount) -> Result<Unmounted> {
                (**self).unmount(target, when)
            }
            fn grow(&self, kind: Kind, mount_point: &Path, device: &Path) -> Result<()> {
                (**self).grow(kind, mount_point, device)
            }
            fn freeze(&self, mount_point: &Path) -> Result<()> {
                (**self).freeze(mount_point)
            }
            fn thaw(&self, mount_point: &Path) -> Result<()> {
                (**self).thaw(mount_point)
            }
            fn set_xfs_retries(&self, device: (u32, u32), retries: u64) -> Result<()> {
                (**self).set_xfs_retries(device, retries)
            }
            fn mounts(&self) -> Result<Vec<Mount>> {
                (**self).mounts()
            }
            fn make_dir(&self, path: &Path, mode: u32, owner: Owner) -> Result<()> {
                (**self).make_dir(path, mode, owner)
            }
            fn remove_dir(&self, path: &Path) -> Result<bool> {
                (**self).remove_dir(path)
            }
            fn dirs(&self, path: &Path) -> Result<Vec<String>> {
                (**self).dirs(path)
            }
            fn write_if_absent(&self, path: &Path, contents: &[u8]) -> Result<bool> {
                (**self).write_if_absent(path, contents)
            }
            fn free_bytes(&self, path: &Path) -> Result<u64> {
                (**self).free_bytes(path)
            }
        }
    )+};
}

through_pointer!(&T, Box<T>, Arc<T>);
