//! A [`Filesystems`] for this crate's tests: folders are real, mounts and freezes are entries in a list, errors are given ahead.

use crate::error::{Error, Result};
use crate::filesystems::{
    Alive, Detected, Filesystems, Kind, MakeOptions, Mount, MountRequest, Owner, Unmount, Unmounted,
};
use crate::folders;
use nix::errno::Errno;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

#[derive(Debug, Default)]
pub(crate) struct Scripted {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) mounted: Vec<PathBuf>,
    pub(crate) detached: Vec<PathBuf>,
    pub(crate) frozen: Vec<PathBuf>,
    /// How many of the next plain unmounts are answered with EBUSY.
    pub(crate) busy: usize,
    /// How many of the next thaws fail.
    pub(crate) stuck: usize,
    pub(crate) mount_error: Option<Errno>,
}

impl Scripted {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

fn take(list: &mut Vec<PathBuf>, path: &Path) -> Option<PathBuf> {
    let index = list.iter().position(|entry| entry == path)?;
    Some(list.remove(index))
}

impl Filesystems for Scripted {
    fn detect(&self, _: &Path) -> Result<Detected> {
        Ok(Detected::Nothing)
    }
    fn extent(&self, _: &Path) -> Result<Option<u64>> {
        Ok(None)
    }
    fn usable(&self, _: Kind) -> Result<()> {
        Ok(())
    }
    fn make(&self, device: &Path, _: &MakeOptions, _: Alive<'_>) -> Result<()> {
        Err(Error::new("make", device, Errno::ENOSYS))
    }
    fn mount(&self, request: &MountRequest) -> Result<()> {
        let mut state = self.state();
        if let Some(errno) = state.mount_error {
            return Err(Error::new("mount", &request.device, errno));
        }
        state.mounted.push(request.target.clone());
        Ok(())
    }
    fn unmount(&self, target: &Path, when: Unmount) -> Result<Unmounted> {
        let mut state = self.state();
        if when == Unmount::Now && state.busy > 0 {
            state.busy -= 1;
            return Err(Error::new("unmount", target, Errno::EBUSY));
        }
        match take(&mut state.mounted, target) {
            Some(mount) if when == Unmount::Lazy => state.detached.push(mount),
            Some(_) => {}
            None => return Ok(Unmounted::NotMounted),
        }
        Ok(Unmounted::Done)
    }
    fn grow(&self, _: Kind, mount_point: &Path, _: &Path) -> Result<()> {
        Err(Error::new("grow", mount_point, Errno::ENOSYS))
    }
    fn freeze(&self, mount_point: &Path) -> Result<()> {
        self.state().frozen.push(mount_point.to_owned());
        Ok(())
    }
    fn thaw(&self, mount_point: &Path) -> Result<()> {
        let mut state = self.state();
        if state.stuck > 0 {
            state.stuck -= 1;
            return Err(Error::new("thaw", mount_point, Errno::EIO));
        }
        take(&mut state.frozen, mount_point)
            .map(drop)
            .ok_or_else(|| Error::new("thaw", mount_point, Errno::EINVAL))
    }
    fn set_xfs_retries(&self, _: (u32, u32), _: u64) -> Result<()> {
        Ok(())
    }
    fn mounts(&self) -> Result<Vec<Mount>> {
        Ok(Vec::new())
    }
    fn make_dir(&self, path: &Path, mode: u32, owner: Owner) -> Result<()> {
        folders::make_dir(path, mode, owner)
    }
    fn remove_dir(&self, path: &Path) -> Result<bool> {
        if self.state().mounted.iter().any(|mount| mount == path) {
            return Err(Error::new("remove the folder", path, Errno::EBUSY));
        }
        folders::remove_dir(path)
    }
    fn dirs(&self, path: &Path) -> Result<Vec<String>> {
        folders::dirs(path)
    }
    fn write_if_absent(&self, path: &Path, contents: &[u8]) -> Result<bool> {
        folders::write_if_absent(path, contents)
    }
    fn free_bytes(&self, path: &Path) -> Result<u64> {
        folders::free_bytes(path)
    }
}
