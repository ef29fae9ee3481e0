//! [`System`]: the door by system calls.

use crate::backing::{
    Allocation, AttachOptions, Attachment, Backing, BlockDevice, Ensured, FileInfo, LoopDevice, Progress,
};
use crate::error::Result;
use crate::superblock::{self, Superblock};
use crate::{discard, file, inspect};
use std::path::{Path, PathBuf};
use thinlayer_dm::{Bytes, DeviceNumber};

/// [`Backing`] on this machine's kernel, by system calls and sysfs.
///
/// Holds nothing open: any number of them may be made, and shared by threads.
///
/// # Privileges
/// `CAP_SYS_ADMIN` to attach and discard, access to the block devices for the rest.
#[derive(Clone, Debug)]
pub struct System {
    pub(crate) sys: PathBuf,
    pub(crate) proc: PathBuf,
    pub(crate) dev: PathBuf,
    pub(crate) two_steps: bool,
}

impl System {
    /// With `/sys`, `/proc` and `/dev`.
    pub fn new() -> Self {
        Self { sys: "/sys".into(), proc: "/proc".into(), dev: "/dev".into(), two_steps: false }
    }

    /// Attaches by `LOOP_SET_FD` and `LOOP_SET_STATUS64`, as on kernels before 5.8, which have no `LOOP_CONFIGURE`.
    ///
    /// Those kernels get it by themselves; this is how newer ones test it.
    #[must_use]
    pub fn attach_in_two_steps(mut self) -> Self {
        self.two_steps = true;
        self
    }
}

impl Default for System {
    fn default() -> Self {
        Self::new()
    }
}

impl Backing for System {
    fn file(&self, path: &Path) -> Result<Option<FileInfo>> {
        file::look(path)
    }

    fn ensure_file(&self, path: &Path, size: Bytes, allocation: Allocation) -> Result<Ensured> {
        file::ensure(path, size, allocation, &|info| {
            Ok(self.holder(info.dev, info.inode, None)?.map(|held| held.node.display().to_string()))
        })
    }

    fn remove_file(&self, path: &Path) -> Result<bool> {
        if let Some(info) = file::look(path)?
            && let Some(held) = self.holder(info.dev, info.inode, None)?
        {
            return Err(self.held(path, &held));
        }
        file::remove(path)
    }

    fn attach(&self, path: &Path, options: AttachOptions) -> Result<Attachment> {
        self.attach_loop(path, options)
    }

    fn loops(&self) -> Result<Vec<LoopDevice>> {
        self.list_loops()
    }

    fn detach(&self, number: DeviceNumber) -> Result<()> {
        self.detach_loop(number)
    }

    fn refresh_size(&self, number: DeviceNumber) -> Result<Bytes> {
        self.refresh_loop(number)
    }

    fn inspect(&self, path: &Path) -> Result<BlockDevice> {
        inspect::inspect(self, path)
    }

    fn superblock(&self, path: &Path) -> Result<Superblock> {
        superblock::read(path)
    }

    fn discard(&self, device: &Path, rate: Option<Bytes>, progress: Progress<'_>) -> Result<bool> {
        discard::discard(&self.sys, device, rate, progress)
    }
}
