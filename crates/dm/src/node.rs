//! Device nodes without udev: a path by which a device can be opened right after its first resume.
//!
//! The kernel itself makes `/dev/dm-N` where `/dev` is a devtmpfs, before the resume returns; udev's link under `/dev/mapper` comes
//! some time later. So `/dev/dm-N` is what is handed out, after a look at the number that it stands for. The link is made
//! as udev makes it, for others who look there; udev finds it as it wants it and leaves it.

use crate::error::{Error, Result};
use crate::name::{DeviceNumber, DmName};
use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, makedev, mknod, stat};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// How often a name that others change at the same time is looked at again.
const TRIES: usize = 8;

/// The folder of nodes, and the two calls that need a real block device or privileges to be tried.
#[derive(Debug)]
pub(crate) struct Nodes {
    dev: PathBuf,
    /// Which block device a path stands for, links followed; `None` if it is something else.
    device_at: fn(&Path) -> nix::Result<Option<DeviceNumber>>,
    make_node: fn(&Path, DeviceNumber) -> nix::Result<()>,
}

impl Nodes {
    pub(crate) fn standard() -> Self {
        Self { dev: "/dev".into(), device_at, make_node }
    }

    /// See [`crate::DeviceMapper::node`].
    pub(crate) fn node(&self, name: &DmName, number: DeviceNumber) -> Result<PathBuf> {
        let kernels = self.dev.join(kernel_name(number));
        let named = self.named(name);
        if self.stands_for(&kernels, number)? {
            // The node that matters is there. Somebody else may miss the link, which is no reason to fail.
            let link =
                |path: &Path| std::os::unix::fs::symlink(Path::new("..").join(kernel_name(number)), path);
            if let Err(error) = self.ensure(&named, number, &link) {
                tracing::warn!(device = %name, %error, "the link under /dev/mapper could not be made");
            }
            return Ok(kernels);
        }
        let node = |path: &Path| (self.make_node)(path, number).map_err(std::io::Error::from);
        self.ensure(&named, number, &node)?;
        // Made or found: it is looked at once more, since others may write to the folder.
        if self.stands_for(&named, number)? { Ok(named) } else { Err(node_error(&named, Errno::ESTALE)) }
    }

    /// See [`crate::DeviceMapper::forget_node`].
    pub(crate) fn forget(&self, name: &DmName, number: DeviceNumber) -> Result<()> {
        let named = self.named(name);
        // The device is gone, and so is the kernel's node: a link to it leads nowhere and is known by its text.
        let ours = match std::fs::read_link(&named) {
            Ok(target) => target.file_name() == Some(kernel_name(number).as_ref()),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == ErrorKind::InvalidInput => self.stands_for(&named, number)?,
            Err(error) => return Err(node_error(&named, errno_of(&error))),
        };
        if !ours {
            return Ok(());
        }
        match std::fs::remove_file(&named) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(node_error(&named, errno_of(&error))),
            _ => Ok(()),
        }
    }

    fn named(&self, name: &DmName) -> PathBuf {
        self.dev.join("mapper").join(name.as_str())
    }

    fn stands_for(&self, path: &Path, number: DeviceNumber) -> Result<bool> {
        match (self.device_at)(path) {
            Ok(found) => Ok(found == Some(number)),
            Err(Errno::ENOENT | Errno::ENXIO) => Ok(false),
            Err(errno) => Err(node_error(path, errno)),
        }
    }

    /// Sees to it that `path` stands for `number`. A link or node that stands for another device, or for none, is left over
    /// from an earlier device of that name, since the kernel has each name once: it is replaced, as libdevmapper does.
    /// Anything else that lies there is not touched.
    fn ensure(
        &self,
        path: &Path,
        number: DeviceNumber,
        make: &dyn Fn(&Path) -> std::io::Result<()>,
    ) -> Result<()> {
        for _ in 0..TRIES {
            if self.stands_for(path, number)? {
                return Ok(());
            }
            let made = match std::fs::symlink_metadata(path) {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    self.make_folder().and_then(|()| make(path))
                }
                Err(error) => Err(error),
                Ok(found) if found.is_symlink() || matches!((self.device_at)(path), Ok(Some(_))) => {
                    tracing::debug!(path = %path.display(), device = %number, "a stale name is replaced");
                    replace(path, make)
                }
                Ok(_) => {
                    return Err(Error::Other {
                        command: "node".into(),
                        device: number.to_string(),
                        why: format!("{} is neither a link nor a block device; remove it", path.display()),
                    });
                }
            };
            match made {
                // Somebody else was quicker: look at what they made.
                Err(error) if matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::NotFound) => {}
                Err(error) => return Err(node_error(path, errno_of(&error))),
                Ok(()) => return Ok(()),
            }
        }
        Err(node_error(path, Errno::EAGAIN))
    }

    fn make_folder(&self) -> std::io::Result<()> {
        match std::fs::create_dir(self.dev.join("mapper")) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }
}

/// Makes it beside and renames it over, so that the name is never missing.
fn replace(path: &Path, make: &dyn Fn(&Path) -> std::io::Result<()>) -> std::io::Result<()> {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    let beside = path.with_file_name(format!(".thinlayer-{}-{count}", std::process::id()));
    make(&beside)?;
    std::fs::rename(&beside, path).inspect_err(|_| {
        if let Err(error) = std::fs::remove_file(&beside) {
            tracing::warn!(path = %beside.display(), %error, "a temporary node stays behind");
        }
    })
}

fn kernel_name(number: DeviceNumber) -> String {
    format!("dm-{}", number.minor)
}

fn device_at(path: &Path) -> nix::Result<Option<DeviceNumber>> {
    let found = stat(path)?;
    let block = SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == SFlag::S_IFBLK;
    Ok(block.then(|| DeviceNumber::from_stat(found.st_rdev)))
}

fn make_node(path: &Path, number: DeviceNumber) -> nix::Result<()> {
    let dev = makedev(number.major.into(), number.minor.into());
    mknod(path, SFlag::S_IFBLK, Mode::S_IRUSR | Mode::S_IWUSR, dev)
}

fn errno_of(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw)
}

fn node_error(path: &Path, errno: Errno) -> Error {
    Error::Node { path: path.into(), errno }
}

#[cfg(test)]
mod tests;
