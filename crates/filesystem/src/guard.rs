//! Owners of kernel state: a mount that goes, and a freeze that ends, when its owner is dropped.
//!
//! Each has an explicit end that gives back the error ([`Mounted::unmount`], [`Frozen::thaw`]). `Drop` is for the paths where
//! another error is already on its way: it undoes and logs, and never hides the first error.

use crate::error::{ErrorKind, Result};
use crate::filesystems::{Filesystems, MountRequest, Unmount, Unmounted};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// First pause between two tries to unmount; each next one is twice as long, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// Unmounts now, and tries again for at most `patience` while the mount is in use. Sleeps between tries: hold no lock that others need.
///
/// # Errors
/// As [`Filesystems::unmount`]; [`ErrorKind::Busy`] when the patience is over.
pub fn unmount_within<F>(filesystems: &F, target: &Path, patience: Duration) -> Result<Unmounted>
where
    F: Filesystems + ?Sized,
{
    let deadline = Instant::now() + patience;
    let mut pause = FIRST_PAUSE;
    loop {
        match filesystems.unmount(target, Unmount::Now) {
            Err(error) if error.kind() == ErrorKind::Busy => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(error);
                }
                std::thread::sleep(pause.min(left));
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            other => return other,
        }
    }
}

/// Owns a mount: it is unmounted when the guard is dropped, unless [`Mounted::keep`] was called.
///
/// `F` is anything that is a [`Filesystems`]: `&dyn Filesystems`, `Arc<dyn Filesystems>`, `&System`. A mount that is in use when the
/// guard is dropped is taken out of sight and goes with its last user (`MNT_DETACH`), since a forgotten mount would stay for ever.
#[derive(Debug)]
#[must_use = "the mount goes when the guard is dropped"]
pub struct Mounted<F: Filesystems> {
    filesystems: F,
    target: PathBuf,
    armed: bool,
}

impl<F: Filesystems> Mounted<F> {
    /// Mounts, and owns the mount.
    ///
    /// # Errors
    /// As [`Filesystems::mount`].
    pub fn mount(filesystems: F, request: &MountRequest) -> Result<Self> {
        filesystems.mount(request)?;
        Ok(Self::adopt(filesystems, &request.target))
    }

    /// Takes over a mount that is there already.
    pub fn adopt(filesystems: F, target: impl Into<PathBuf>) -> Self {
        Self { filesystems, target: target.into(), armed: true }
    }

    /// Where it is mounted.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Gives the mount up without undoing it.
    pub fn keep(mut self) -> PathBuf {
        self.armed = false;
        std::mem::take(&mut self.target)
    }

    /// Unmounts. After an error the mount is still owned.
    ///
    /// # Errors
    /// As [`Filesystems::unmount`].
    pub fn unmount(&mut self, when: Unmount) -> Result<Unmounted> {
        let answer = self.filesystems.unmount(&self.target, when)?;
        self.armed = false;
        Ok(answer)
    }

    /// Unmounts as [`unmount_within`] does. After an error the mount is still owned.
    ///
    /// # Errors
    /// As [`unmount_within`].
    pub fn unmount_within(&mut self, patience: Duration) -> Result<Unmounted> {
        let answer = unmount_within(&self.filesystems, &self.target, patience)?;
        self.armed = false;
        Ok(answer)
    }
}

impl<F: Filesystems> Drop for Mounted<F> {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let answer = match self.filesystems.unmount(&self.target, Unmount::Now) {
            Err(error) if error.kind() == ErrorKind::Busy => {
                tracing::warn!(target = %self.target.display(), "a mount is in use and goes with its last user");
                self.filesystems.unmount(&self.target, Unmount::Lazy)
            }
            other => other,
        };
        if let Err(error) = answer {
            tracing::warn!(%error, "a mount stays behind");
        }
    }
}

/// Owns a freeze: the file system is thawed when the guard is dropped.
#[derive(Debug)]
#[must_use = "the file system is thawed when the guard is dropped"]
pub struct Frozen<F: Filesystems> {
    filesystems: F,
    mount_point: PathBuf,
    armed: bool,
}

impl<F: Filesystems> Frozen<F> {
    /// Freezes, and owns the freeze.
    ///
    /// # Errors
    /// As [`Filesystems::freeze`].
    pub fn freeze(filesystems: F, mount_point: impl Into<PathBuf>) -> Result<Self> {
        let mount_point = mount_point.into();
        filesystems.freeze(&mount_point)?;
        Ok(Self { filesystems, mount_point, armed: true })
    }

    /// What is frozen.
    pub fn mount_point(&self) -> &Path {
        &self.mount_point
    }

    /// Thaws. After an error it is tried once more when the guard is dropped, right away.
    ///
    /// # Errors
    /// As [`Filesystems::thaw`].
    pub fn thaw(mut self) -> Result<()> {
        self.filesystems.thaw(&self.mount_point)?;
        self.armed = false;
        Ok(())
    }
}

impl<F: Filesystems> Drop for Frozen<F> {
    fn drop(&mut self) {
        if self.armed
            && let Err(error) = self.filesystems.thaw(&self.mount_point)
        {
            tracing::error!(%error, "a file system stays frozen: its writers wait until it is thawed (`fsfreeze -u`)");
        }
    }
}

#[cfg(test)]
mod tests;
