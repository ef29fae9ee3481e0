//! Attaching files to loop devices, and the loop devices in use.

use crate::backing::{AttachOptions, Attachment, LoopDevice};
use crate::error::{Error, Result};
use crate::file::{self, errno, failed};
use crate::sys::{self, LO_FLAGS_AUTOCLEAR, LO_FLAGS_DIRECT_IO, LO_FLAGS_READ_ONLY, LoopInfo64};
use crate::system::System;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use thinlayer_dm::DeviceNumber;

/// How long a device is looked for that nobody else takes first, and how long another attachment of the same file is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a device is waited for that frees itself at its last close.
const GRACE: Duration = Duration::from_secs(1);
/// Between two tries, once it is clear that others are at it too.
const PAUSE: Duration = Duration::from_millis(2);

/// What becomes of a node that is not in `/dev`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nodes {
    /// It is made: the device is about to be used.
    Make,
    /// Nothing: somebody only looks.
    Leave,
}

impl System {
    /// [`crate::Backing::attach`].
    pub(crate) fn attach_loop(&self, path: &Path, options: AttachOptions) -> Result<Attachment> {
        let open = |write| match options.read_only && is_device(path) {
            true => file::open_device(path),
            false => file::open(path, write),
        };
        let file = open(!options.read_only)?;
        let true_path =
            std::fs::canonicalize(path).map_err(|error| failed("look at", path, errno(&error)))?;
        let deadline = Instant::now() + PATIENCE;
        let lock = lock(open(false)?, path, deadline)?;
        let facts = file.metadata().map_err(|error| failed("look at", path, errno(&error)))?;
        self.wait_until_free(path, facts.dev(), facts.ino())?;
        let mut flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO;
        if options.read_only {
            flags |= LO_FLAGS_READ_ONLY;
        }
        let info = LoopInfo64::new(true_path.as_os_str().as_bytes(), flags, options.limit);
        let attachment = self.attach_to_free(&file, path, info, options, deadline)?;
        // Who does not take the lock may have come in between; then the one that looks last gives way.
        if let Some(held) = self.holder(facts.dev(), facts.ino(), Some(attachment.number))? {
            return Err(self.held(path, &held));
        }
        drop(lock);
        Ok(attachment)
    }

    /// A device that was closed a moment ago may live on while udev looks into it: that one is waited for, no other.
    fn wait_until_free(&self, path: &Path, dev: u64, inode: u64) -> Result<()> {
        let deadline = Instant::now() + GRACE;
        while let Some(held) = self.holder(dev, inode, None)? {
            let name = held.node.file_name().unwrap_or_default();
            let stood_on = std::fs::read_dir(self.sys.join("block").join(name).join("holders"))
                .is_ok_and(|mut holders| holders.next().is_some());
            if !held.autoclear || stood_on || Instant::now() >= deadline {
                return Err(self.held(path, &held));
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    fn attach_to_free(
        &self,
        file: &File,
        path: &Path,
        info: LoopInfo64,
        options: AttachOptions,
        deadline: Instant,
    ) -> Result<Attachment> {
        let control_path = self.dev.join("loop-control");
        let control = File::options()
            .read(true)
            .write(true)
            .open(&control_path)
            .map_err(|error| advised("open", &control_path, errno(&error)))?;
        let mut tries = 0_u32;
        loop {
            let index = sys::loop_get_free(&control)
                .map_err(|errno| advised("get a loop device from", &control_path, errno))?;
            let name = format!("loop{index}");
            let taken = match self.open_loop(&name, !options.read_only, Nodes::Make) {
                Ok((device, node, number)) => match self.configure(&device, file, info) {
                    Ok(()) => {
                        // From here on, dropping `device` detaches the file.
                        let size =
                            sys::block_size(&device).map_err(|errno| failed("measure", &node, errno))?;
                        let direct_io = self.flag(&name, "loop/dio");
                        return Ok(Attachment { node, number, size, direct_io, guard: Box::new(device) });
                    }
                    // Another one was faster.
                    Err(Errno::EBUSY) => failed("attach", path, Errno::EBUSY),
                    Err(errno) => return Err(failed("attach", path, errno)),
                },
                // Removed between the answer and the open.
                Err(error) if error.kind() == crate::ErrorKind::NotFound => error,
                Err(error) => return Err(error),
            };
            tries += 1;
            if Instant::now() >= deadline {
                return Err(taken);
            }
            if tries > 8 {
                std::thread::sleep(PAUSE);
            }
        }
    }

    fn configure(&self, device: &File, file: &File, info: LoopInfo64) -> std::result::Result<(), Errno> {
        if !self.two_steps {
            match sys::loop_configure(device, file, info) {
                // A kernel before 5.8 does not know the request.
                Err(Errno::EINVAL | Errno::ENOTTY) => {}
                answer => return answer,
            }
        }
        sys::loop_set_fd(device, file)?;
        // Read-only comes from how the file was opened, direct I/O by a call of its own.
        let mut settable = info;
        settable.flags &= LO_FLAGS_AUTOCLEAR;
        if let Err(errno) = sys::loop_set_status(device, settable) {
            if let Err(second) = sys::loop_clear(device) {
                tracing::warn!("a loop device that cannot be set up ({errno}) cannot be detached: {second}");
            }
            return Err(errno);
        }
        if let Err(errno) = sys::loop_set_direct_io(device) {
            tracing::debug!("no direct I/O below a loop device: {errno}");
        }
        Ok(())
    }

    /// Opens a loop device by its name. With [`Nodes::Make`] its node is made where nobody else does.
    fn open_loop(&self, name: &str, write: bool, nodes: Nodes) -> Result<(File, PathBuf, DeviceNumber)> {
        let node = self.dev.join(name);
        let number = self.number(name)?;
        let open = || File::options().read(true).write(write).custom_flags(libc::O_NONBLOCK).open(&node);
        let opened = match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound && nodes == Nodes::Make => {
                let device = makedev(u64::from(number.major), u64::from(number.minor));
                match mknod(&node, SFlag::S_IFBLK, Mode::from_bits_truncate(0o660), device) {
                    Ok(()) | Err(Errno::EEXIST) => open(),
                    Err(errno) => return Err(failed("make the node", &node, errno)),
                }
            }
            opened => opened,
        };
        let device = opened.map_err(|error| failed("open", &node, errno(&error)))?;
        let facts = device.metadata().map_err(|error| failed("look at", &node, errno(&error)))?;
        if !facts.file_type().is_block_device() || DeviceNumber::from_stat(facts.rdev()) != number {
            return Err(Error::Unfit {
                path: node,
                why: format!("this is not the node of {name} ({number}); remove it"),
            });
        }
        Ok((device, node, number))
    }

    /// A block device's number, as sysfs tells it: loop devices with partitions do not count by one.
    fn number(&self, name: &str) -> Result<DeviceNumber> {
        let path = self.sys.join("block").join(name).join("dev");
        let text = std::fs::read_to_string(&path).map_err(|error| failed("read", &path, errno(&error)))?;
        text.trim().parse().map_err(|_| Error::Unfit { path, why: format!("{text:?} is no device number") })
    }

    fn flag(&self, name: &str, flag: &str) -> bool {
        let path = self.sys.join("block").join(name).join(flag);
        std::fs::read_to_string(path).is_ok_and(|text| text.trim() == "1")
    }

    /// [`crate::Backing::loops`]: writes nothing, not even a node.
    pub(crate) fn list_loops(&self) -> Result<Vec<LoopDevice>> {
        self.loops_in_use(Nodes::Leave)
    }

    fn loops_in_use(&self, nodes: Nodes) -> Result<Vec<LoopDevice>> {
        let folder = self.sys.join("block");
        let listing = match std::fs::read_dir(&folder) {
            Ok(listing) => listing,
            Err(error) => return Err(failed("list", &folder, errno(&error))),
        };
        let mut names = Vec::new();
        for entry in listing {
            let entry = entry.map_err(|error| failed("list", &folder, errno(&error)))?;
            if let Some(name) = entry.file_name().to_str()
                && let Some(index) = name.strip_prefix("loop").and_then(|index| index.parse::<u32>().ok())
            {
                names.push((index, name.to_owned()));
            }
        }
        names.sort_unstable();
        let mut found = Vec::new();
        for (_, name) in names {
            // Only a device in use has this folder, so the others cost one look and no open.
            let file = folder.join(&name).join("loop/backing_file");
            let Ok(file) = std::fs::read(&file) else { continue };
            let file = file.strip_suffix(b"\n").unwrap_or(&file);
            if let Some(device) = self.loop_in_use(&name, file, nodes)? {
                found.push(device);
            }
        }
        Ok(found)
    }

    /// What a loop device holds. `None` if it was detached between two looks, or if nothing tells which file it is.
    fn loop_in_use(&self, name: &str, file: &[u8], nodes: Nodes) -> Result<Option<LoopDevice>> {
        let number = match self.number(name) {
            Ok(number) => number,
            Err(error) if error.kind() == crate::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let node = self.dev.join(name);
        let file = PathBuf::from(std::ffi::OsStr::from_bytes(file));
        let asked = self.open_loop(name, false, nodes).and_then(|(device, ..)| {
            sys::loop_status(&device).map_err(|errno| failed("ask for the file of", &node, errno))
        });
        Ok(match asked {
            Ok(status) => Some(LoopDevice {
                number,
                node,
                file,
                dev: status.device,
                inode: status.inode,
                autoclear: status.flags & LO_FLAGS_AUTOCLEAR != 0,
                direct_io: status.flags & LO_FLAGS_DIRECT_IO != 0,
                read_only: status.flags & LO_FLAGS_READ_ONLY != 0,
            }),
            Err(Error::System { errno: Errno::ENXIO, .. }) => None,
            // Somebody else's as a rule, in a container that may not open it or whose /dev lacks it. One of ours is recognised by its path.
            Err(error) => {
                let facts = std::fs::metadata(&file).ok();
                if facts.is_none() {
                    tracing::debug!(device = name, file = %file.display(), %error, "a loop device on an unknown file is left out");
                }
                facts.map(|facts| LoopDevice {
                    number,
                    node,
                    file,
                    dev: facts.dev(),
                    inode: facts.ino(),
                    autoclear: self.flag(name, "loop/autoclear"),
                    direct_io: self.flag(name, "loop/dio"),
                    read_only: self.flag(name, "ro"),
                })
            }
        })
    }

    /// The loop device that holds a file, other than `except`. For those who are about to change the file: nodes that are missing are made, so that
    /// no device is overlooked whose file the kernel tells by a path that is gone.
    pub(crate) fn holder(
        &self,
        dev: u64,
        inode: u64,
        except: Option<DeviceNumber>,
    ) -> Result<Option<LoopDevice>> {
        let mut loops = self.loops_in_use(Nodes::Make)?;
        loops.retain(|held| held.dev == dev && held.inode == inode && Some(held.number) != except);
        Ok(loops.into_iter().next())
    }

    pub(crate) fn held(&self, path: &Path, held: &LoopDevice) -> Error {
        let node = held.node.display();
        Error::InUse {
            path: path.to_owned(),
            user: node.to_string(),
            advice: format!(
                "two loop devices on one file destroy it; see who uses it (losetup -l, dmsetup deps) and detach it (losetup -d {node})"
            ),
        }
    }

    /// [`crate::Backing::detach`].
    pub(crate) fn detach_loop(&self, number: DeviceNumber) -> Result<()> {
        let (device, node) = self.open_numbered(number)?;
        sys::loop_clear(&device).map_err(|errno| failed("detach the file of", &node, errno))
    }

    /// [`crate::Backing::refresh_size`].
    pub(crate) fn refresh_loop(&self, number: DeviceNumber) -> Result<thinlayer_dm::Bytes> {
        let (device, node) = self.open_numbered(number)?;
        sys::loop_set_capacity(&device).map_err(|errno| failed("refresh the size of", &node, errno))?;
        sys::block_size(&device).map_err(|errno| failed("measure", &node, errno))
    }

    /// Opens a device of which only the number is known, if it is a loop device.
    fn open_numbered(&self, number: DeviceNumber) -> Result<(File, PathBuf)> {
        let link = self.sys.join("dev/block").join(number.to_string());
        let target =
            std::fs::read_link(&link).map_err(|error| failed("look for the device", &link, errno(&error)))?;
        let name = target.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.strip_prefix("loop").and_then(|index| index.parse::<u32>().ok()).is_none() {
            return Err(Error::Unfit {
                path: self.dev.join(name),
                why: format!("{number} is no loop device"),
            });
        }
        let (device, node, _) = self.open_loop(name, false, Nodes::Make)?;
        Ok((device, node))
    }
}

fn advised(action: &'static str, path: &Path, errno: Errno) -> Error {
    match errno {
        Errno::ENOENT | Errno::ENODEV | Errno::ENXIO => {
            Error::NoLoopDriver { action, path: path.to_owned(), errno }
        }
        errno => failed(action, path, errno),
    }
}

fn is_device(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|facts| facts.file_type().is_block_device())
}

/// Keeps two of us from attaching one file at the same time, threads and processes alike.
///
/// The lock is on an open file of its own, since the loop device keeps the other one open.
fn lock(mut file: File, path: &Path, deadline: Instant) -> Result<Option<Flock<File>>> {
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(Some(lock)),
            Err((back, Errno::EWOULDBLOCK | Errno::EINTR)) if Instant::now() < deadline => {
                file = back;
                std::thread::sleep(PAUSE);
            }
            Err((_, Errno::EWOULDBLOCK)) => {
                return Err(Error::InUse {
                    path: path.to_owned(),
                    user: "somebody who holds a lock on it (flock)".into(),
                    advice: "see who (lslocks, fuser) and end that".into(),
                });
            }
            // Some network file systems have no locks; the look afterwards remains.
            Err((_, errno)) => {
                tracing::debug!("cannot lock {}: {errno}", path.display());
                return Ok(None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_loop_driver_is_explained() {
        let folder = tempfile::tempdir().unwrap();
        for sub in ["sys/block", "dev"] {
            std::fs::create_dir_all(folder.path().join(sub)).unwrap();
        }
        let path = folder.path().join("data");
        std::fs::write(&path, [0; 4096]).unwrap();
        let system =
            System { sys: folder.path().join("sys"), dev: folder.path().join("dev"), ..System::new() };
        let error = system.attach_loop(&path, AttachOptions::default()).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Unsupported);
        assert!(error.to_string().ends_with("load the loop driver (modprobe loop)"), "{error}");
    }

    #[test]
    fn devices_that_hold_nothing_are_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["loop0", "loop1", "loop-x", "sda"] {
            std::fs::create_dir_all(folder.path().join("block").join(name)).unwrap();
        }
        let system = System { sys: folder.path().to_owned(), dev: "/nonexistent".into(), ..System::new() };
        assert_eq!(system.list_loops().unwrap(), vec![]);
    }

    /// A machine with `loop0` on `file`, whose node the caller makes, or not.
    fn with_loop0(folder: &Path, file: &Path) -> System {
        let loop0 = folder.join("block/loop0/loop");
        std::fs::create_dir_all(&loop0).unwrap();
        std::fs::write(loop0.join("backing_file"), format!("{}\n", file.display())).unwrap();
        std::fs::write(loop0.join("autoclear"), "1\n").unwrap();
        std::fs::write(folder.join("block/loop0/ro"), "1\n").unwrap();
        std::fs::write(folder.join("block/loop0/dev"), "7:0\n").unwrap();
        System { sys: folder.to_owned(), dev: folder.to_owned(), ..System::new() }
    }

    #[test]
    fn a_node_that_is_something_else_is_refused_where_it_is_used() {
        let folder = tempfile::tempdir().unwrap();
        let system = with_loop0(folder.path(), Path::new("/some/file"));
        std::fs::write(folder.path().join("loop0"), "a file").unwrap();
        for nodes in [Nodes::Make, Nodes::Leave] {
            let error = system.open_loop("loop0", false, nodes).map(drop).unwrap_err();
            assert!(error.to_string().contains("not the node of loop0 (7:0); remove it"), "{error}");
        }
    }

    #[test]
    fn a_foreign_device_that_cannot_be_opened_stops_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let system = with_loop0(folder.path(), Path::new("/nonexistent/file"));
        assert_eq!(system.list_loops().unwrap(), vec![]);
        assert!(!folder.path().join("loop0").exists(), "looking made a node");
        std::fs::write(folder.path().join("loop0"), "a file").unwrap();
        assert_eq!(system.list_loops().unwrap(), vec![]);
    }

    #[test]
    fn a_device_that_cannot_be_opened_is_known_by_its_files_path() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        std::fs::write(&data, b"").unwrap();
        let system = with_loop0(folder.path(), &data);
        let facts = std::fs::metadata(&data).unwrap();
        let expected = LoopDevice {
            number: DeviceNumber { major: 7, minor: 0 },
            node: folder.path().join("loop0"),
            file: data.clone(),
            dev: facts.dev(),
            inode: facts.ino(),
            autoclear: true,
            direct_io: false,
            read_only: true,
        };
        assert_eq!(system.list_loops().unwrap(), std::slice::from_ref(&expected));
        // Also for those who are about to change the file, where no node can be made.
        std::fs::write(folder.path().join("loop0"), "a file").unwrap();
        assert_eq!(system.holder(facts.dev(), facts.ino(), None).unwrap(), Some(expected));
    }

    #[test]
    fn only_loop_devices_have_their_size_refreshed() {
        let folder = tempfile::tempdir().unwrap();
        let block = folder.path().join("dev/block");
        std::fs::create_dir_all(&block).unwrap();
        std::os::unix::fs::symlink("../../block/sda", block.join("8:0")).unwrap();
        let system = System { sys: folder.path().to_owned(), ..System::new() };
        let error = system.refresh_loop(DeviceNumber { major: 8, minor: 0 }).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Invalid);
        let error = system.refresh_loop(DeviceNumber { major: 8, minor: 1 }).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::NotFound);
    }

    #[test]
    fn a_lock_that_another_holds_is_waited_for_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        std::fs::write(&path, b"").unwrap();
        let lock = |deadline| lock(file::open(&path, false).unwrap(), &path, deadline);
        let held = lock(Instant::now()).unwrap().unwrap();
        let error = lock(Instant::now() + Duration::from_millis(20)).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Busy);
        drop(held);
        assert!(lock(Instant::now()).unwrap().is_some());
    }
}
