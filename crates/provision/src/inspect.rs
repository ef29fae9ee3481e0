//! A given block device's facts: size, signature, users. Nothing is written, not even by a close.

use crate::backing::BlockDevice;
use crate::error::{Error, Result};
use crate::file::{errno, failed};
use crate::signature::{self, Ends};
use crate::sys;
use crate::system::System;
use nix::errno::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use thinlayer_dm::{Bytes, DeviceNumber};
use thinlayer_filesystem::{parse_mounts, parse_swaps};

/// [`crate::Backing::inspect`].
pub(crate) fn inspect(system: &System, path: &Path) -> Result<BlockDevice> {
    // Before the open: that of a FIFO would wait, that of a tape would rewind it.
    let found = std::fs::metadata(path).map_err(|error| failed("look at", path, errno(&error)))?;
    if !found.file_type().is_block_device() {
        return Err(Error::Unfit {
            path: path.to_owned(),
            why: "this is no block device; name a disk, a partition or a logical volume".into(),
        });
    }
    let device = File::open(path).map_err(|error| failed("open", path, errno(&error)))?;
    let opened = device.metadata().map_err(|error| failed("look at", path, errno(&error)))?;
    let number = DeviceNumber::from_stat(opened.rdev());
    let size = sys::block_size(&device).map_err(|errno| failed("measure", path, errno))?;
    let read_only = sys::block_read_only(&device).map_err(|errno| failed("look at", path, errno))?;
    let signature = signature(&device, path, size)?.map(str::to_owned);
    drop(device);
    let mut users = users(system, number)?;
    if users.is_empty() && taken(path)? {
        users.push(
            "somebody who has it open for himself alone, such as a mount in another namespace".to_owned(),
        );
    }
    Ok(BlockDevice { number, size, read_only, signature, users })
}

fn signature(device: &File, path: &Path, size: Bytes) -> Result<Option<&'static str>> {
    let head = read(device, path, 0, size.0.min(signature::HEAD_BYTES))?;
    let length = size.0.min(signature::TAIL_BYTES);
    let tail = read(device, path, size.0 - length, length)?;
    Ok(signature::recognise(&Ends { head: &head, tail: &tail, size: size.0 }))
}

fn read(device: &File, path: &Path, offset: u64, length: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(length).map_err(|_| failed("read", path, Errno::EOVERFLOW))?];
    device.read_exact_at(&mut bytes, offset).map_err(|error| failed("read", path, errno(&error)))?;
    Ok(bytes)
}

/// The last word: an exclusive open, which whoever mounts, swaps or stands on the device has.
fn taken(path: &Path) -> Result<bool> {
    match File::options().read(true).custom_flags(libc::O_EXCL).open(path) {
        Ok(_) => Ok(false),
        Err(error) if errno(&error) == Errno::EBUSY => Ok(true),
        Err(error) => Err(failed("open exclusively", path, errno(&error))),
    }
}

fn users(system: &System, number: DeviceNumber) -> Result<Vec<String>> {
    let mut users = users_of(system, number)?;
    for (name, partition) in partitions(system, number) {
        users
            .extend(users_of(system, partition)?.into_iter().map(|user| format!("partition {name}: {user}")));
    }
    Ok(users)
}

/// Mounts, swap, devices on top, loop devices on top.
fn users_of(system: &System, number: DeviceNumber) -> Result<Vec<String>> {
    let is_it = |node: &Path| {
        std::fs::metadata(node).is_ok_and(|found| {
            found.file_type().is_block_device() && DeviceNumber::from_stat(found.rdev()) == number
        })
    };
    let mut users = Vec::new();

    let text = table(&system.proc.join("self/mountinfo"))?;
    for mount in parse_mounts(&text) {
        let source = Path::new(&mount.source);
        // A btrfs has a number of its own, but names its device.
        if mount.device == (number.major, number.minor) || (source.is_absolute() && is_it(source)) {
            users.push(format!("mounted on {}", mount.target.display()));
        }
    }
    let text = table(&system.proc.join("swaps"))?;
    if parse_swaps(&text).iter().any(|swap| is_it(swap)) {
        users.push("used as swap space".to_owned());
    }
    let folder = system.sys.join("dev/block").join(number.to_string());
    for holder in names(&folder.join("holders")) {
        let label = std::fs::read_to_string(system.sys.join("block").join(&holder).join("dm/name"));
        users.push(match label {
            Ok(name) => format!("device-mapper device {} ({holder})", name.trim_end()),
            Err(_) => format!("device {holder}"),
        });
    }
    for held in system.list_loops()? {
        if is_it(&held.file) {
            users.push(format!("loop device {}", held.node.display()));
        }
    }
    Ok(users)
}

/// A device's partitions: those of its folders that say so.
fn partitions(system: &System, number: DeviceNumber) -> Vec<(String, DeviceNumber)> {
    let folder = system.sys.join("dev/block").join(number.to_string());
    let mut found = Vec::new();
    for name in names(&folder) {
        let inner: PathBuf = folder.join(&name);
        if inner.join("partition").exists()
            && let Ok(text) = std::fs::read_to_string(inner.join("dev"))
            && let Ok(number) = text.trim().parse()
        {
            found.push((name, number));
        }
    }
    found
}

/// The names in a folder of sysfs, sorted; none if it is not there.
fn names(folder: &Path) -> Vec<String> {
    let Ok(listing) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<_> =
        listing.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    names
}

/// A table of the kernel's; a kernel without swap has no list of it.
fn table(path: &Path) -> Result<Vec<u8>> {
    match std::fs::read(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed("read", path, errno(&error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use std::fs::{create_dir_all, write};

    #[test]
    fn what_is_no_block_device_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        write(&file, b"x").unwrap();
        for path in [folder.path(), &file, Path::new("/dev/null")] {
            let error = inspect(&System::new(), path).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
            assert!(error.to_string().contains("no block device"), "{error}");
        }
        let error = inspect(&System::new(), &folder.path().join("missing")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }

    /// A machine's `/sys` and `/proc` with one disk (8:0) of two partitions.
    fn machine(folder: &Path) -> System {
        let system = System {
            sys: folder.join("sys"),
            proc: folder.join("proc"),
            dev: folder.join("dev"),
            ..System::new()
        };
        for (inner, dev) in [("sda1", "8:1\n"), ("sda2", "8:2\n")] {
            let partition = system.sys.join("dev/block/8:0").join(inner);
            create_dir_all(&partition).unwrap();
            write(partition.join("partition"), "1\n").unwrap();
            write(partition.join("dev"), dev).unwrap();
        }
        create_dir_all(system.sys.join("dev/block/8:0/queue")).unwrap();
        create_dir_all(system.sys.join("block/dm-3/dm")).unwrap();
        write(system.sys.join("block/dm-3/dm/name"), "vg-home\n").unwrap();
        create_dir_all(system.proc.join("self")).unwrap();
        write(system.proc.join("self/mountinfo"), "").unwrap();
        system
    }

    fn disk() -> DeviceNumber {
        DeviceNumber { major: 8, minor: 0 }
    }

    #[test]
    fn a_free_disk_has_no_users() {
        let folder = tempfile::tempdir().unwrap();
        let system = machine(folder.path());
        assert_eq!(users(&system, disk()).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn mounts_and_holders_of_the_disk_and_of_its_partitions_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let system = machine(folder.path());
        write(
            system.proc.join("self/mountinfo"),
            "31 1 8:0 / /whole rw - ext4 /dev/none rw\n32 1 8:1 / /with\\040blank rw shared:1 - xfs none rw\n",
        )
        .unwrap();
        create_dir_all(system.sys.join("dev/block/8:2/holders/dm-3")).unwrap();
        create_dir_all(system.sys.join("dev/block/8:2/holders/md0")).unwrap();
        assert_eq!(
            users(&system, disk()).unwrap(),
            [
                "mounted on /whole",
                "partition sda1: mounted on /with blank",
                "partition sda2: device-mapper device vg-home (dm-3)",
                "partition sda2: device md0",
            ]
        );
    }
}
