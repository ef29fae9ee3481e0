//! Mounting, unmounting, and folders around mounts.

use crate::bench::{Bench, KINDS, blkid, has};
use anyhow::{Context, Result, bail, ensure};
use harness::{run, scratch_dir};
use std::fs::{self, File, OpenOptions};
use std::hash::{DefaultHasher, Hasher};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use thinlayer_filesystem::{
    Error, ErrorKind, Filesystems, Frozen, Kind, MountRequest, Mounted, Owner, System, Unmount, Unmounted,
    with_temporary_mount,
};

fn findmnt(target: &Path) -> Result<Vec<String>> {
    let words = ["--noheadings", "--output", "OPTIONS", "--mountpoint"].map(Path::new);
    let text = run("findmnt", words.into_iter().chain([target]))?.stdout_text();
    let mut options: Vec<String> = text.trim().split(',').map(str::to_owned).collect();
    options.sort();
    Ok(options)
}

pub(crate) fn flags() -> Result<()> {
    for kind in KINDS {
        let bench = Bench::made(kind, &[])?;
        let classic = System::new().with_classic_mount();
        for (options, wanted) in [
            (&[][..], &["rw", "relatime"][..]),
            (&["noatime,nodev", "nosuid", "discard"], &["rw", "noatime", "nodev", "nosuid", "discard"]),
            (
                &["defaults", "noexec,sync,dirsync,lazytime"],
                &["noexec", "sync", "dirsync", "lazytime", "relatime"],
            ),
            (&["strictatime", "nodiratime"], &["rw", "nodiratime"]),
            (&["ro,rw,ro"], &["ro"]),
        ] {
            let mut seen = Vec::new();
            for system in [&bench.system, &classic] {
                let mut mounted = Mounted::mount(system, &bench.request(options))?;
                let found = findmnt(&bench.target)?;
                for word in wanted {
                    ensure!(
                        found.iter().any(|option| option == word),
                        "{kind} {options:?}: no {word} in {found:?}"
                    );
                }
                if kind == Kind::Xfs {
                    ensure!(found.iter().any(|option| option == "nouuid"), "no nouuid in {found:?}");
                }
                let entry = system
                    .mounts()?
                    .into_iter()
                    .find(|mount| mount.target == bench.target)
                    .context("the mount is not in the table")?;
                ensure!(entry.device == bench.number()?, "{entry:?}");
                ensure!(entry.kind == kind.as_str(), "{entry:?}");
                ensure!(Path::new(&entry.source) == bench.device(), "{entry:?}");
                ensure!(entry.read_only == wanted.contains(&"ro"), "{entry:?}");
                mounted.unmount(Unmount::Now)?;
                seen.push(found);
            }
            ensure!(
                seen[0] == seen[1],
                "{kind} {options:?}: by fsopen {:?}, by mount(2) {:?}",
                seen[0],
                seen[1]
            );
        }
        // Two xfs of one UUID: `nouuid` lets a snapshot's twin in. Any file system may be mounted twice itself.
        let _first = Mounted::mount(&bench.system, &bench.request(&[]))?;
        let elsewhere = scratch_dir()?.join("elsewhere");
        fs::create_dir_all(&elsewhere)?;
        let _second =
            Mounted::mount(&bench.system, &MountRequest { target: elsewhere, ..bench.request(&[]) })?;
    }
    Ok(())
}

fn refusal(system: &System, request: &MountRequest) -> Result<Error> {
    match system.mount(request) {
        Err(error) => Ok(error),
        Ok(()) => {
            system.unmount(&request.target, Unmount::Now)?;
            bail!("{request:?} was mounted")
        }
    }
}

pub(crate) fn refused_options() -> Result<()> {
    for kind in KINDS {
        let bench = Bench::made(kind, &[])?;
        for (options, name) in [
            (&["noatime,frobnicate=1"][..], "frobnicate"),
            (&["sqeak"], "sqeak"),
            (&["noatime", "remount"], "remount"),
            (&["context=\"a"], "context"),
        ] {
            let error = refusal(&bench.system, &bench.request(options))?;
            ensure!(error.kind() == ErrorKind::Options, "{:?}: {error}", error.kind());
            let device = bench.device().display().to_string();
            let target = bench.target.display().to_string();
            has(&error.to_string(), &[name, &device, &target, kind.as_str(), "EINVAL"])?;
        }
        // The kernel's own words, from the mount context.
        let error = refusal(&bench.system, &bench.request(&["frobnicate"]))?;
        has(&error.to_string(), &["Unknown parameter 'frobnicate'"])?;
        // No SELinux here, so a label is an option that nobody knows; its comma does not split it.
        let label = Some("system_u:object_r:container_file_t:s0:c1,c2".to_owned());
        let error = refusal(&bench.system, &MountRequest { label, ..bench.request(&[]) })?;
        has(&error.to_string(), &["context=\"system_u:object_r:container_file_t:s0:c1,c2\""])?;
        ensure!(!bench.is_mounted()?, "mounted after all");
    }
    Ok(())
}

/// Written out at once: xfs reads past the page cache, and while udev has the device open, our close does not flush it.
fn damage(device: &Path, at: u64) -> Result<()> {
    let device = OpenOptions::new().write(true).open(device)?;
    device.write_all_at(b"oops", at)?;
    Ok(device.sync_all()?)
}

pub(crate) fn damaged_superblock() -> Result<()> {
    for (kind, magic_at, says) in [
        (Kind::Ext4, 0x438, "VFS: Can't find ext4 filesystem"),
        (Kind::Xfs, 0, "Invalid superblock magic number"),
    ] {
        let bench = Bench::made(kind, &[])?;
        damage(bench.device(), magic_at)?;
        for system in [&bench.system, &System::new().with_classic_mount()] {
            // Lines of before the call are not of this mount.
            let mut log = OpenOptions::new().write(true).open("/dev/kmsg")?;
            log.write_all(format!("an old line about {}: stale\n", bench.kernel_name()?).as_bytes())?;
            let error = refusal(system, &bench.request(&[]))?;
            ensure!(error.kind() == ErrorKind::Damaged, "{:?}: {error}", error.kind());
            has(&error.to_string(), &[&format!("({})", bench.kernel_name()?), says])?;
            ensure!(!error.to_string().contains("stale"), "{error}");
        }
    }
    let bench = Bench::made(Kind::Xfs, &[])?;
    // A field that the checksum covers: EUCLEAN (or EFSBADCRC), and a line that says so.
    damage(bench.device(), 108)?;
    let error = refusal(&bench.system, &bench.request(&[]))?;
    has(&error.to_string(), &[&format!("XFS ({})", bench.kernel_name()?), "corrupt"])
}

pub(crate) fn bad_mount_points() -> Result<()> {
    let bench = Bench::made(Kind::Ext4, &[])?;
    let folder = scratch_dir()?;
    symlink(&bench.target, folder.join("link"))?;
    fs::write(folder.join("file"), "")?;
    let before = sum(bench.device())?;
    for (name, errno) in [("absent", "ENOENT"), ("link", "ENOTDIR"), ("file", "ENOTDIR")] {
        let target = folder.join(name);
        for system in [&bench.system, &System::new().with_classic_mount()] {
            let error = refusal(system, &MountRequest { target: target.clone(), ..bench.request(&[]) })?;
            has(&error.to_string(), &[name, errno, "mount point"])?;
        }
    }
    ensure!(sum(bench.device())? == before, "the device was written to");
    let gone = MountRequest { device: "/dev/absent".into(), ..bench.request(&[]) };
    let error = refusal(&bench.system, &gone)?;
    ensure!(error.kind() == ErrorKind::NotFound, "{error}");
    has(&error.to_string(), &["/dev/absent"])
}

pub(crate) fn unmounting() -> Result<()> {
    for kind in KINDS {
        let bench = Bench::made(kind, &[])?;
        let system = &bench.system;
        ensure!(system.unmount(&bench.target, Unmount::Now)? == Unmounted::NotMounted, "an empty folder");
        ensure!(system.unmount(Path::new("/absent/x"), Unmount::Lazy)? == Unmounted::NotMounted, "no folder");
        system.mount(&bench.request(&[]))?;
        let open = File::create(bench.target.join("open"))?;
        let Err(error) = system.unmount(&bench.target, Unmount::Now) else {
            bail!("unmounted under a writer")
        };
        ensure!(error.kind() == ErrorKind::Busy, "{error}");
        has(&error.to_string(), &[&bench.target.display().to_string(), "is open"])?;
        let link = scratch_dir()?.join(format!("link to {kind}"));
        symlink(&bench.target, &link)?;
        ensure!(system.unmount(&link, Unmount::Lazy)? == Unmounted::NotMounted, "a link was followed");
        ensure!(bench.is_mounted()? && bench.is_own_device()?, "the mount is gone");

        ensure!(system.unmount(&bench.target, Unmount::Lazy)? == Unmounted::Done, "no lazy unmount");
        ensure!(!bench.is_mounted()? && !bench.is_own_device()?, "still to be seen");
        // The open file lives on, and the device is free at its end.
        (&open).write_all(b"still here")?;
        drop(open);
        harness::eventually("the device to be free", std::time::Duration::from_secs(20), || {
            let opened = std::os::unix::fs::OpenOptionsExt::custom_flags(
                OpenOptions::new().read(true),
                0o200, // O_EXCL
            )
            .open(bench.device());
            Ok(opened.map(drop).map_err(|error| error.to_string()))
        })?;
        // A guard does the same by itself.
        let mounted = Mounted::mount(system, &bench.request(&[]))?;
        let open = File::open(bench.target.join("open"))?;
        drop(mounted);
        ensure!(!bench.is_mounted()?, "a dropped guard left its mount");
        drop(open);
    }
    Ok(())
}

/// A copy of a device's backing file, attached; detached by the harness's sweep at the latest.
fn copy(bench: &Bench, name: &str) -> Result<(PathBuf, PathBuf)> {
    let file = scratch_dir()?.join(name);
    run("cp", [Path::new("--sparse=always"), bench.disk.file(), &file])?;
    let shown = run("losetup", [Path::new("--find"), Path::new("--show"), &file])?;
    Ok((file, PathBuf::from(shown.stdout_text())))
}

/// A checksum of all that is in a file or on a device. Mostly holes, so zeroes are passed over: sha256sum takes half a minute here.
fn sum(path: &Path) -> Result<u64> {
    run("sync", [Path::new("-f"), path])?;
    let mut file = File::open(path)?;
    let zeroes = vec![0; 1 << 20];
    let mut chunk = vec![0; 1 << 20];
    let mut sum = DefaultHasher::new();
    let mut at = 0;
    loop {
        let length = file.read(&mut chunk)?;
        if length == 0 {
            return Ok(sum.finish());
        }
        if chunk[..length] != zeroes[..length] {
            sum.write_usize(at);
            sum.write(&chunk[..length]);
        }
        at += length;
    }
}

/// Sectors written to a block device since it was attached.
fn sectors_written(device: &Path) -> Result<u64> {
    let name = device.file_name().context("a device without a name")?;
    let text = fs::read_to_string(Path::new("/sys/class/block").join(name).join("stat"))?;
    Ok(text.split_whitespace().nth(6).context("a short line of statistics")?.parse()?)
}

pub(crate) fn without_recovery() -> Result<()> {
    for kind in KINDS {
        let bench = Bench::made(kind, &[])?;
        let mounted = Mounted::mount(&bench.system, &bench.request(&[]))?;
        fs::write(bench.target.join("before"), "before")?;
        // An orphan: its inode is on the list that ext4 works off at a mount, journal or not.
        let orphan = File::create(bench.target.join("orphan"))?;
        orphan.write_all_at(&[7; 100_000], 0)?;
        orphan.sync_all()?;
        fs::remove_file(bench.target.join("orphan"))?;
        let frozen = Frozen::freeze(&bench.system, &bench.target)?;
        let (still_file, still) = copy(&bench, &format!("frozen.{kind}"))?;
        frozen.thaw()?;
        fs::write(bench.target.join("after"), "after")?;
        File::open(bench.target.join("after"))?.sync_all()?;
        let (dirty_file, dirty) = copy(&bench, &format!("dirty.{kind}"))?;
        drop(orphan);
        drop(mounted);

        for (file, device) in [(&still_file, &still), (&dirty_file, &dirty)] {
            let before = (sum(file)?, sectors_written(device)?);
            let request = MountRequest { device: device.clone(), no_recovery: true, ..bench.request(&[]) };
            let mut mounted = Mounted::mount(&bench.system, &request)?;
            ensure!(fs::read(bench.target.join("before"))? == b"before", "the file is not there");
            ensure!(fs::write(bench.target.join("new"), "").is_err(), "it takes new files");
            mounted.unmount(Unmount::Now)?;
            ensure!((sum(file)?, sectors_written(device)?) == before, "{} was written to", file.display());
            let answer = run("blockdev", [Path::new("--getro"), device])?.stdout_text();
            ensure!(answer == "0", "{} stays read-only", device.display());
        }
        // The other side: with recovery the same device is written to, so the sums can tell.
        let before = sum(&dirty_file)?;
        let mut mounted =
            Mounted::mount(&bench.system, &MountRequest { device: dirty.clone(), ..bench.request(&[]) })?;
        ensure!(fs::read(bench.target.join("after"))? == b"after", "the journal was not replayed");
        mounted.unmount(Unmount::Now)?;
        ensure!(sum(&dirty_file)? != before, "a replay changes nothing?");
        for device in [&still, &dirty] {
            run("losetup", [Path::new("--detach"), device])?;
        }
    }
    Ok(())
}

pub(crate) fn temporary() -> Result<()> {
    for kind in KINDS {
        let bench = Bench::made(kind, &[])?;
        let base = scratch_dir()?.join("run");
        let system: &dyn Filesystems = &bench.system;
        let place = with_temporary_mount(system, &bench.request(&[]), &base, |place| -> Result<PathBuf> {
            fs::write(place.join("precious"), "data")?;
            ensure!(system.mounts()?.iter().any(|mount| mount.target == place), "not mounted");
            Ok(place.to_owned())
        })?;
        ensure!(!place.exists() && system.dirs(&base)?.is_empty(), "{} is left", place.display());
        // In use at its end: an error, out of sight, nothing deleted.
        let mut open = None;
        let Err(error) = with_temporary_mount(system, &bench.request(&[]), &base, |place| -> Result<()> {
            open = Some(File::open(place.join("precious"))?);
            Ok(())
        }) else {
            bail!("unmounted under an open file");
        };
        let kind_of_error = error.downcast_ref::<Error>().map(Error::kind);
        ensure!(kind_of_error == Some(ErrorKind::Busy), "{error}");
        ensure!(system.dirs(&base)?.is_empty(), "a folder is left");
        drop(open);
        let read = with_temporary_mount(system, &bench.request(&[]), &base, |place| -> Result<String> {
            Ok(fs::read_to_string(place.join("precious"))?)
        })?;
        ensure!(read == "data", "the file holds {read}");
        ensure!(!blkid("UUID", bench.device())?.is_empty(), "no file system any more");
    }
    Ok(())
}

pub(crate) fn folders() -> Result<()> {
    let bench = Bench::made(Kind::Ext4, &[])?;
    let system = &bench.system;
    let mounted = Mounted::mount(system, &bench.request(&[]))?;
    let Err(error) = system.remove_dir(&bench.target) else { bail!("a mount point was removed") };
    ensure!(error.kind() == ErrorKind::Busy, "{error}");
    let words = ["-f", "-c", "%f %S"].map(Path::new);
    let text = run("stat", words.into_iter().chain([bench.target.as_path()]))?.stdout_text();
    let (blocks, size) = text.split_once(' ').context("stat says nothing")?;
    let expected = blocks.parse::<u64>()? * size.parse::<u64>()?;
    let free = system.free_bytes(&bench.target)?;
    ensure!(free == expected, "{free} bytes are free, and stat says {expected}");

    system.make_dir(&bench.target.join("a/rootfs"), 0o1777, Owner { uid: 7, gid: 8 })?;
    let text = run("stat", [Path::new("-c"), Path::new("%a %u %g"), &bench.target.join("a/rootfs")])?;
    ensure!(text.stdout_text() == "1777 7 8", "{text:?}");
    system.make_dir(&bench.target.join("a/rootfs"), 0o711, Owner { uid: 1234, gid: 4321 })?;
    let text = run("stat", [Path::new("-c"), Path::new("%a %u %g"), &bench.target.join("a/rootfs")])?;
    ensure!(text.stdout_text() == "711 1234 4321", "one that is there keeps its owner: {text:?}");
    // A full file system takes no half of a file: later it would pass for a whole one.
    let id = bench.target.join("id");
    let big = vec![1; usize::try_from(free)?];
    let Err(error) = system.write_if_absent(&id, &big) else { bail!("it took all its free space") };
    ensure!(error.kind() == ErrorKind::NoSpace, "{error}");
    ensure!(!id.exists(), "half a file is left");
    ensure!(system.write_if_absent(&id, b"small")? && !system.write_if_absent(&id, b"other")?, "the file");
    ensure!(fs::read(&id)? == b"small", "the file was overwritten");
    drop(mounted);
    ensure!(system.remove_dir(&bench.target)? && !system.remove_dir(&bench.target)?, "rmdir");
    Ok(())
}
