//! The real machine: the kernel's device-mapper, mounts, loop devices, a folder on disk and the clock on the wall.

use crate::deadline::Deadlines;
use crate::error::{Error, Result};
use crate::looking::{LazyControl, Nothing};
use crate::machine::{Clock, Family, Machine, Root};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime};
use thinlayer_dm::DeviceMapper;
use thinlayer_filesystem::Owner;
use thinlayer_store::{Disk, Folder};

/// Where run-time state of all roots lies.
const RUNTIME: &str = "/run/thinlayer";

/// The machine's own clock and threads.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }

    fn sleep(&self, how_long: Duration) {
        std::thread::sleep(how_long);
    }

    fn run_within(&self, deadline: Duration, job: Box<dyn FnOnce() + Send>) -> bool {
        let (done, finished) = mpsc::channel::<()>();
        let spawned = std::thread::Builder::new().name("thinlayer-call".into()).spawn(move || {
            job();
            // Nobody listens any more after the deadline.
            drop(done);
        });
        match spawned {
            // The channel closes at the job's end.
            Ok(_) => !matches!(finished.recv_timeout(deadline), Err(mpsc::RecvTimeoutError::Timeout)),
            // No thread to be had: the job was dropped unrun, which its caller sees by the missing result.
            Err(error) => {
                tracing::error!(%error, "cannot start a thread");
                true
            }
        }
    }
}

impl Root {
    /// The facts of a folder that exists. Two roots never share a run-time folder: its name holds device and inode.
    ///
    /// # Errors
    /// [`Error::Root`] if it does not exist or is no folder.
    pub fn of(path: &Path) -> Result<Self> {
        let given = path;
        let path = given.canonicalize().map_err(|e| cannot_look(given, &e))?;
        let meta = std::fs::metadata(&path).map_err(|e| cannot_look(given, &e))?;
        if !meta.is_dir() {
            return Err(Error::Root {
                path: given.to_owned(),
                why: "it is not a folder; a root must be one".into(),
            });
        }
        let (dev, inode) = (meta.dev(), meta.ino());
        let owner = Owner { uid: meta.uid(), gid: meta.gid() };
        let number = thinlayer_dm::DeviceNumber::from_stat(dev);
        let runtime = PathBuf::from(RUNTIME).join(format!("{}-{}-{inode}", number.major, number.minor));
        let family = crate::identity::family_on_disk(&path)
            .unwrap_or_else(|| if is_of_containers(&path) { Family::Containers } else { Family::Docker });
        Ok(Self { path, dev, inode, owner, family, runtime })
    }
}

/// containers/storage keeps these beside its driver's folder; Docker has neither.
fn is_of_containers(root: &Path) -> bool {
    let beside = |name: &str| root.parent().is_some_and(|parent| parent.join(name).exists());
    beside("devicemapper-layers/layers.json") || beside(crate::owner::STORAGE_LOCK)
}

impl Machine {
    /// Can this machine do it at all? For a caller that is about to make a root: where the answer is no, nothing should be made.
    ///
    /// # Errors
    /// [`crate::Kind::Unsupported`] if the kernel has no device-mapper; no privilege.
    pub fn supported() -> Result<()> {
        thinlayer_dm::Control::open()?;
        Ok(())
    }

    /// The real machine for a root that exists. Makes the root's folder under `/run/thinlayer`, and nothing else.
    ///
    /// # Errors
    /// [`crate::Kind::Unsupported`] if the kernel has no device-mapper; [`Error::Root`] if the root or the run-time folder cannot be used.
    ///
    /// # Privileges
    /// `CAP_SYS_ADMIN`.
    pub fn system(root: &Path) -> Result<Self> {
        let dm = Arc::new(thinlayer_dm::Control::open()?);
        let mut root = Root::of(root)?;
        if root.family == Family::Docker {
            // What was copied away from its surroundings may still be up under its old maker's names.
            let other = Root { family: Family::Containers, ..root.clone() };
            if dm.info((&crate::names::Names::of(&other).pool()?).into())?.is_some() {
                root = other;
            }
        }
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&root.runtime);
        made.map_err(|e| Error::Root { path: root.runtime.clone(), why: format!("it cannot be made: {e}") })?;
        let runtime = Arc::new(folder(&root.runtime)?);
        Self::with(dm, runtime, root)
    }

    /// The real machine for somebody who only looks ([`crate::View`]): makes nothing, and needs device-mapper only where the pool is asked.
    ///
    /// # Errors
    /// [`Error::Root`] if the root cannot be read.
    pub fn looking(root: &Path) -> Result<Self> {
        let root = Root::of(root)?;
        let runtime: Arc<dyn Disk> = match folder(&root.runtime) {
            Ok(folder) => Arc::new(folder),
            // Nobody has mounted anything since the machine started.
            Err(_) => Arc::new(Nothing),
        };
        Self::with(Arc::new(LazyControl::default()), runtime, root)
    }

    fn with(dm: Arc<dyn DeviceMapper>, runtime: Arc<dyn Disk>, root: Root) -> Result<Self> {
        Ok(Self {
            dm,
            filesystems: Arc::new(thinlayer_filesystem::System::default()),
            backing: Arc::new(thinlayer_provision::System::default()),
            programs: Arc::new(thinlayer_provision::lvm::Installed::default()),
            metadata: Arc::new(thinlayer_thin::metadata::SystemDevices),
            disk: Arc::new(folder(&root.path)?),
            runtime,
            clock: Arc::new(SystemClock::default()),
            root,
            deadlines: Deadlines::default(),
        })
    }
}

fn folder(path: &Path) -> Result<Folder> {
    Folder::open(path).map_err(|e| cannot_look(path, &e))
}

fn cannot_look(path: &Path, error: &std::io::Error) -> Error {
    let advice = match error.kind() {
        std::io::ErrorKind::PermissionDenied => "; run as root",
        std::io::ErrorKind::NotFound => "; name another root, or make this one",
        _ => "",
    };
    Error::Root { path: path.to_owned(), why: format!("{error}{advice}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_that_cannot_be_looked_at_is_said_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let said = Root::of(&folder.path().join("gone")).unwrap_err().to_string();
        assert!(said.contains("gone") && said.contains("name another root"), "{said}");
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(Root::of(&file).unwrap_err().to_string().contains("must be one"));
        let denied = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let said = cannot_look(folder.path(), &denied).to_string();
        assert!(said.ends_with("run as root"), "{said}");
    }
}
