//! Making, mounting, unmounting, growing, freezing.

use super::bench::{Bench, MIB};
use super::{Failure, Outcome, ensure, list, refused, same};
use thinlayer_dm::{Access, Removal};
use thinlayer_filesystem::{Detected, ErrorKind, Kind, Unmount, Unmounted};
use thinlayer_provision::{AttachOptions, Attachment};

list! {
    "an empty device holds nothing, a made file system is known by kind and uuid" => detect,
    "two file systems have two uuids" => uuids,
    "xfs is made, detected and mounted" => xfs,
    "both kinds can be used here" => usable,
    "what was written and unmounted is there again" => lasting,
    "the mount table has a mount until it is unmounted" => mount_table,
    "what cannot be mounted is refused with its reason" => bad_mounts,
    "a mount in use is not unmounted, but can be put out of sight" => busy,
    "a read-only mount takes no writes" => read_only,
    "a read-only device is mounted read-only or not at all" => read_only_device,
    "a device mounted twice is in use until both are gone" => twice,
    "mkfs refuses a device that is mounted" => mkfs_mounted,
    "a frozen file system is frozen once and thawed once" => freeze,
    "growing what is not mounted there is refused" => bad_grow,
    "a mounted device is not removed" => removal,
}

fn disk(b: &Bench<'_>, name: &str, bytes: u64) -> Result<Attachment, Failure> {
    b.attached(name, bytes)
}

/// A loop device with ext4.
fn made(b: &Bench<'_>, name: &str) -> Result<Attachment, Failure> {
    let disk = disk(b, name, 64 * MIB)?;
    b.mkfs_at(&disk.node, Kind::Ext4)?;
    Ok(disk)
}

fn detect(b: &Bench<'_>) -> Outcome {
    let disk = disk(b, "disk", 64 * MIB)?;
    same!(b.fs().detect(&disk.node)?, Detected::Nothing, "what is on a new device");
    b.mkfs_at(&disk.node, Kind::Ext4)?;
    let Detected::Known { kind: Kind::Ext4, uuid } = b.fs().detect(&disk.node)? else {
        return Err(Failure::new("ext4 is not detected"));
    };
    let lengths: Vec<usize> = uuid.split('-').map(str::len).collect();
    same!(lengths, vec![8, 4, 4, 4, 12], "the parts of {uuid}");
    ensure!(
        uuid.bytes().all(|c| c == b'-' || c.is_ascii_digit() || (b'a'..=b'f').contains(&c)),
        "uuid {uuid}"
    );
    refused!(b.fs().detect(&b.path("nothing")), ErrorKind::NotFound, "a device that is not there");
    Ok(())
}

fn uuids(b: &Bench<'_>) -> Outcome {
    let (one, two) = (made(b, "one")?, made(b, "two")?);
    ensure!(b.fs().detect(&one.node)? != b.fs().detect(&two.node)?, "both have one uuid");
    let before = b.fs().detect(&one.node)?;
    b.mkfs_at(&one.node, Kind::Ext4)?;
    ensure!(b.fs().detect(&one.node)? != before, "a new file system has the old uuid");
    Ok(())
}

fn xfs(b: &Bench<'_>) -> Outcome {
    let small = disk(b, "small", 64 * MIB)?;
    ensure!(b.mkfs_at(&small.node, Kind::Xfs).is_err(), "xfs on 64 MiB");
    let disk = disk(b, "disk", 400 * MIB)?;
    b.mkfs_at(&disk.node, Kind::Xfs)?;
    ensure!(
        matches!(b.fs().detect(&disk.node)?, Detected::Known { kind: Kind::Xfs, .. }),
        "xfs is not detected"
    );
    let target = b.folder("mnt")?;
    b.fs().mount(&b.request(&disk.node, &target, Kind::Xfs))?;
    b.lab.write(&target.join("file"), b"xfs")?;
    b.unmount(&target)?;
    b.fs().mount(&b.request(&disk.node, &target, Kind::Xfs))?;
    same!(b.lab.read(&target.join("file"))?, Some(b"xfs".to_vec()), "the file");
    Ok(())
}

fn usable(b: &Bench<'_>) -> Outcome {
    b.fs().usable(Kind::Ext4)?;
    b.fs().usable(Kind::Xfs)?;
    Ok(())
}

fn lasting(b: &Bench<'_>) -> Outcome {
    let disk = made(b, "disk")?;
    let (one, two) = (b.folder("one")?, b.folder("two")?);
    b.fs().mount(&b.request(&disk.node, &one, Kind::Ext4))?;
    b.lab.write(&one.join("file"), b"content")?;
    same!(b.fs().unmount(&one, Unmount::Now)?, Unmounted::Done, "the unmount");
    same!(b.lab.read(&one.join("file"))?, None, "the file in the empty mount point");
    b.fs().mount(&b.request(&disk.node, &two, Kind::Ext4))?;
    same!(b.lab.read(&two.join("file"))?, Some(b"content".to_vec()), "the file");
    Ok(())
}

fn mount_table(b: &Bench<'_>) -> Outcome {
    let disk = made(b, "disk")?;
    let target = b.folder("mnt")?;
    same!(b.fs().unmount(&target, Unmount::Now)?, Unmounted::NotMounted, "an unmount of nothing");
    same!(
        b.fs().unmount(&b.path("absent"), Unmount::Lazy)?,
        Unmounted::NotMounted,
        "an unmount of no folder"
    );
    b.fs().mount(&b.request(&disk.node, &target, Kind::Ext4))?;
    let mounts = b.fs().mounts()?;
    ensure!(mounts.iter().any(|m| m.target == *"/"), "no / in the mount table");
    let last =
        mounts.last().map(|m| (m.target.clone(), m.device, m.source.clone(), m.kind.clone(), m.read_only));
    let number = (disk.number.major, disk.number.minor);
    let expected =
        (target.clone(), number, disk.node.to_string_lossy().into_owned(), "ext4".to_owned(), false);
    same!(last, Some(expected), "its last line");
    b.unmount(&target)?;
    ensure!(b.fs().mounts()?.iter().all(|m| m.target != target), "it is still in the mount table");
    same!(b.fs().unmount(&target, Unmount::Now)?, Unmounted::NotMounted, "a second unmount");
    Ok(())
}

fn bad_mounts(b: &Bench<'_>) -> Outcome {
    let (disk, empty) = (made(b, "disk")?, disk(b, "empty", 64 * MIB)?);
    let target = b.folder("mnt")?;
    let gone = b.path("gone");
    refused!(b.fs().mount(&b.request(&gone, &target, Kind::Ext4)), ErrorKind::NotFound, "no device");
    refused!(b.fs().mount(&b.request(&disk.node, &gone, Kind::Ext4)), ErrorKind::NotFound, "no mount point");
    refused!(
        b.fs().mount(&b.request(&empty.node, &target, Kind::Ext4)),
        ErrorKind::Damaged,
        "no file system"
    );
    refused!(
        b.fs().mount(&b.request(&disk.node, &target, Kind::Xfs)),
        ErrorKind::Damaged,
        "another file system"
    );
    ensure!(b.fs().mounts()?.iter().all(|m| m.target != target), "something is mounted");
    Ok(())
}

fn busy(b: &Bench<'_>) -> Outcome {
    let pool = b.pool(64 * MIB, "1 skip_block_zeroing")?;
    let thin = b.new_thin(&pool, 1, 32 * MIB)?;
    b.mkfs(&thin, Kind::Ext4)?;
    let target = b.mount(&thin, "mnt")?;
    let inside = b.lab.enter(&target)?;
    refused!(b.fs().unmount(&target, Unmount::Now), ErrorKind::Busy, "an unmount");
    same!(b.fs().unmount(&target, Unmount::Lazy)?, Unmounted::Done, "a lazy one");
    ensure!(b.fs().mounts()?.iter().all(|m| m.target != target), "it is still in the mount table");
    refused!(
        b.dm().remove((&thin.name).into(), Removal::Now),
        thinlayer_dm::Kind::Busy,
        "removal of the device"
    );
    drop(inside);
    b.remove(&thin.name)?;
    Ok(())
}

fn read_only(b: &Bench<'_>) -> Outcome {
    let disk = made(b, "disk")?;
    let target = b.folder("mnt")?;
    let mut request = b.request(&disk.node, &target, Kind::Ext4);
    request.read_only = true;
    b.fs().mount(&request)?;
    ensure!(b.lab.write(&target.join("file"), b"x").is_err(), "a file was written");
    refused!(
        b.fs().make_dir(&target.join("folder"), 0o755, thinlayer_filesystem::Owner::default()),
        ErrorKind::ReadOnly,
        "a folder"
    );
    ensure!(
        b.fs().mounts()?.iter().any(|m| m.target == target && m.read_only),
        "the mount table does not say so"
    );
    b.unmount(&target)?;
    request.no_recovery = true;
    b.fs().mount(&request)?;
    Ok(())
}

fn read_only_device(b: &Bench<'_>) -> Outcome {
    let disk = made(b, "disk")?;
    let table = [super::bench::line(0, disk.size.to_sectors().0, "linear", &format!("{} 0", disk.number))];
    let upper = b.device_as("upper", &table, Access::ReadOnly)?;
    let (node, target) = (b.node(&upper)?, b.folder("mnt")?);
    let mut request = b.request(&node, &target, Kind::Ext4);
    refused!(b.fs().mount(&request), ErrorKind::Permission, "a writable mount");
    request.read_only = true;
    request.no_recovery = true;
    b.fs().mount(&request)?;
    ensure!(b.mkfs(&upper, Kind::Ext4).is_err(), "mkfs wrote to it");
    Ok(())
}

fn twice(b: &Bench<'_>) -> Outcome {
    let pool = b.pool(64 * MIB, "1 skip_block_zeroing")?;
    let thin = b.new_thin(&pool, 1, 32 * MIB)?;
    b.mkfs(&thin, Kind::Ext4)?;
    let (one, two) = (b.mount(&thin, "one")?, b.mount(&thin, "two")?);
    b.lab.write(&one.join("file"), b"seen")?;
    same!(b.lab.read(&two.join("file"))?, Some(b"seen".to_vec()), "through the other");
    b.unmount(&one)?;
    refused!(
        b.dm().remove((&thin.name).into(), Removal::Now),
        thinlayer_dm::Kind::Busy,
        "removal of the device"
    );
    b.unmount(&two)?;
    b.remove(&thin.name)
}

fn mkfs_mounted(b: &Bench<'_>) -> Outcome {
    let disk = made(b, "disk")?;
    let target = b.folder("mnt")?;
    b.fs().mount(&b.request(&disk.node, &target, Kind::Ext4))?;
    let before = b.fs().detect(&disk.node)?;
    ensure!(b.mkfs_at(&disk.node, Kind::Ext4).is_err(), "mkfs wrote to a mounted device");
    same!(b.fs().detect(&disk.node)?, before, "what is on it");
    Ok(())
}

fn freeze(b: &Bench<'_>) -> Outcome {
    let disk = made(b, "disk")?;
    let target = b.folder("mnt")?;
    b.fs().mount(&b.request(&disk.node, &target, Kind::Ext4))?;
    ensure!(b.fs().thaw(&target).is_err(), "something that is not frozen was thawed");
    b.fs().freeze(&target)?;
    refused!(b.fs().freeze(&target), ErrorKind::Busy, "a second freeze");
    b.fs().thaw(&target)?;
    ensure!(b.fs().thaw(&target).is_err(), "it was thawed twice");
    b.lab.write(&target.join("file"), b"x")?;
    Ok(())
}

fn bad_grow(b: &Bench<'_>) -> Outcome {
    let disk = made(b, "disk")?;
    let target = b.folder("mnt")?;
    ensure!(b.fs().grow(Kind::Ext4, &target, &disk.node).is_err(), "an empty mount point grew");
    Ok(())
}

fn removal(b: &Bench<'_>) -> Outcome {
    let pool = b.pool(64 * MIB, "1 skip_block_zeroing")?;
    let thin = b.new_thin(&pool, 1, 32 * MIB)?;
    b.mkfs(&thin, Kind::Ext4)?;
    let target = b.mount(&thin, "mnt")?;
    b.opened(&thin.name, 1)?;
    refused!(b.dm().remove((&thin.name).into(), Removal::Now), thinlayer_dm::Kind::Busy, "removal");
    b.unmount(&target)?;
    b.opened(&thin.name, 0)?;
    let file = b.file("read-only", 64 * MIB, thinlayer_provision::Allocation::Sparse)?;
    let refused = b.backing().attach(&file, AttachOptions::READ_ONLY)?;
    ensure!(b.mkfs_at(&refused.node, Kind::Ext4).is_err(), "mkfs wrote to a read-only loop device");
    Ok(())
}
