//! A mount for the time of one piece of work, at a place of its own.

use crate::error::{Error, ErrorKind};
use crate::filesystems::{Filesystems, MountRequest, Owner, Unmount};
use crate::guard::Mounted;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How long a mount that is in use after the work is tried again: an indexer or a scanner may have looked in.
const PATIENCE: Duration = Duration::from_secs(5);

/// Mounts a file system at a new private folder in `base` (0700, made if it does not exist), does the work there, unmounts and
/// removes the folder. The request's own target is not looked at.
///
/// The folder is removed with rmdir alone, never with what is in it: if unmounting failed, that would be the file system's content. A
/// mount that is still in use a few seconds after the work is taken out of sight and goes with its last user; that is an error too,
/// since the device stays open until then.
///
/// # Errors
/// The first of: making the folder, mounting, the work, unmounting ([`ErrorKind::Busy`]). What goes wrong after the first
/// error is logged.
pub fn with_temporary_mount<T, E>(
    filesystems: &dyn Filesystems,
    request: &MountRequest,
    base: &Path,
    work: impl FnOnce(&Path) -> Result<T, E>,
) -> Result<T, E>
where
    E: From<Error>,
{
    with_patience(filesystems, request, base, PATIENCE, work)
}

fn with_patience<T, E>(
    filesystems: &dyn Filesystems,
    request: &MountRequest,
    base: &Path,
    patience: Duration,
    work: impl FnOnce(&Path) -> Result<T, E>,
) -> Result<T, E>
where
    E: From<Error>,
{
    let folder = Folder::make(filesystems, base)?;
    // Dropped before the folder, also when the work panics.
    let mut mounted =
        Mounted::mount(filesystems, &MountRequest { target: folder.path.clone(), ..request.clone() })?;
    let done = work(mounted.target());
    let unmounted = mounted.unmount_within(patience).map(drop).map_err(|busy| {
        if busy.kind() != ErrorKind::Busy {
            return busy;
        }
        let detail = match mounted.unmount(Unmount::Lazy) {
            Ok(_) => format!(
                "still in use {:.0} s after the work; it is out of sight now and keeps {} open until its last user ends",
                patience.as_secs_f64(),
                request.device.display()
            ),
            Err(stays) => format!("it stays mounted: {stays}"),
        };
        busy.detail(detail)
    });
    drop(mounted);
    let removed = folder.remove();
    match (done, unmounted.and(removed)) {
        (Ok(done), Ok(())) => Ok(done),
        (Ok(_), Err(error)) => Err(error.into()),
        (Err(first), Ok(())) => Err(first),
        (Err(first), Err(error)) => {
            tracing::warn!(%error, "after a failure in a temporary mount");
            Err(first)
        }
    }
}

/// A folder that this operation alone knows.
#[derive(Debug)]
struct Folder<'a> {
    filesystems: &'a dyn Filesystems,
    path: PathBuf,
    armed: bool,
}

impl<'a> Folder<'a> {
    fn make(filesystems: &'a dyn Filesystems, base: &Path) -> Result<Self, Error> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        // A name of an earlier process of this number may be left, even with a mount on it.
        let taken = filesystems.dirs(base)?;
        loop {
            let name = format!("mount-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            if taken.contains(&name) {
                continue;
            }
            let path = base.join(name);
            filesystems.make_dir(&path, 0o700, Owner { uid: effective_uid(), gid: effective_gid() })?;
            return Ok(Self { filesystems, path, armed: true });
        }
    }

    fn remove(mut self) -> Result<(), Error> {
        self.armed = false;
        self.filesystems.remove_dir(&self.path).map(drop)
    }
}

impl Drop for Folder<'_> {
    fn drop(&mut self) {
        if self.armed
            && let Err(error) = self.filesystems.remove_dir(&self.path)
        {
            tracing::warn!(%error, "a temporary mount point stays behind");
        }
    }
}

fn effective_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

fn effective_gid() -> u32 {
    nix::unistd::getegid().as_raw()
}

#[cfg(test)]
mod tests;
