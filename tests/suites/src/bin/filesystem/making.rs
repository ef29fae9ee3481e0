//! Making file systems.

use crate::bench::{Bench, KINDS, SIZE, blkid, has, make_options};
use anyhow::{Result, bail, ensure};
use harness::{LoopFile, eventually, run, scratch_dir};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};
use thinlayer_filesystem::{Detected, ErrorKind, Filesystems, Kind, MakeOptions, Mounted, System, Unmount};

fn listed(kind: Kind) -> Result<bool> {
    let list = fs::read_to_string("/proc/filesystems")?;
    Ok(list.lines().any(|line| line.split_whitespace().any(|word| word == kind.as_str())))
}

pub(crate) fn usable_loads_the_module() -> Result<()> {
    if listed(Kind::Xfs)? {
        run("modprobe", ["--remove", "xfs"])?;
    }
    ensure!(!listed(Kind::Xfs)?, "xfs is still there without its module");
    let system = System::new();
    for kind in KINDS {
        system.usable(kind)?;
        ensure!(listed(kind)?, "{kind} is usable and not in /proc/filesystems");
    }
    run("modprobe", ["--remove", "xfs"])?;
    run("modprobe", ["xfs"])?;
    Ok(())
}

pub(crate) fn made_as_blkid_tells() -> Result<()> {
    for kind in KINDS {
        let bench = Bench::blank(kind)?;
        ensure!(bench.system.detect(bench.device())? == Detected::Nothing, "a blank device holds something");
        bench.system.make(bench.device(), &make_options(kind, &["-L", "thin layer"]), &|_| {})?;
        let uuid = blkid("UUID", bench.device())?;
        ensure!(uuid.len() == 36, "blkid says {uuid}");
        let found = bench.system.detect(bench.device())?;
        ensure!(found == Detected::Known { kind, uuid: uuid.clone() }, "{found:?}, and blkid says {uuid}");
        ensure!(blkid("TYPE", bench.device())? == kind.as_str(), "blkid tells another type");
        // One argument stays one, with its blank.
        ensure!(blkid("LABEL", bench.device())? == "thin layer", "blkid tells another label");
        if kind == Kind::Ext4 {
            let words = [Path::new("-h"), bench.device()];
            let header = run("dumpe2fs", words)?.stdout_text();
            for (field, value) in [("Maximum mount count:", "-1"), ("Check interval:", "0 (<none>)")] {
                let line = header.lines().find(|line| line.starts_with(field)).unwrap_or_default();
                ensure!(line.ends_with(value), "{line}");
            }
        }
        bench.check()?;
    }
    Ok(())
}

pub(crate) fn words_of_mkfs() -> Result<()> {
    for kind in KINDS {
        let bench = Bench::blank(kind)?;
        let Err(error) = bench.system.make(bench.device(), &make_options(kind, &["-Z"]), &|_| {}) else {
            bail!("mkfs took -Z");
        };
        let name = format!("mkfs.{kind} ended with exit status: 1");
        let device = bench.device().display().to_string();
        has(&error.to_string(), &[&format!("make {kind} on {device}"), &name, "invalid option -- 'Z'"])?;
    }
    let small = LoopFile::new("small.img", 64 << 20)?;
    let Err(error) = System::new().make(small.device(), &make_options(Kind::Xfs, &[]), &|_| {}) else {
        bail!("mkfs.xfs took 64 MiB");
    };
    has(&error.to_string(), &["mkfs.xfs ended with", "larger than 300MB"])
}

pub(crate) fn not_made_anew() -> Result<()> {
    let bench = Bench::made(Kind::Ext4, &[])?;
    let before = bench.system.detect(bench.device())?;
    let Err(error) = bench.system.make(bench.device(), &make_options(Kind::Xfs, &[]), &|_| {}) else {
        bail!("mkfs.xfs wrote over ext4 without -f");
    };
    has(&error.to_string(), &["ext4", "-f"])?;
    let mut mounted = Mounted::mount(&bench.system, &bench.request(&[]))?;
    let Err(error) = bench.system.make(bench.device(), &make_options(Kind::Ext4, &[]), &|_| {}) else {
        bail!("mkfs.ext4 wrote over a mounted file system");
    };
    has(&error.to_string(), &["is mounted"])?;
    mounted.unmount(Unmount::Now)?;
    ensure!(bench.system.detect(bench.device())? == before, "the file system is another one now");
    bench.system.make(bench.device(), &make_options(Kind::Xfs, &["-f"]), &|_| {})?;
    ensure!(blkid("TYPE", bench.device())? == "xfs", "-f did not help");
    // The other way round mkfs.ext4 does not ask, and nothing of xfs is left to be seen.
    bench.system.make(bench.device(), &make_options(Kind::Ext4, &[]), &|_| {})?;
    ensure!(blkid("TYPE", bench.device())? == "ext4", "blkid says {}", blkid("TYPE", bench.device())?);
    Ok(())
}

pub(crate) fn old_btrfs_signature() -> Result<()> {
    for kind in KINDS {
        let bench = Bench::blank(kind)?;
        let device = File::options().write(true).open(bench.device())?;
        device.write_all_at(b"_BHRfS_M", 0x1_0040)?;
        device.sync_all()?;
        ensure!(
            bench.system.detect(bench.device())? == Detected::Foreign("btrfs"),
            "the signature is not seen"
        );
        let args: &[&str] = if kind == Kind::Xfs { &["-f"] } else { &[] };
        bench.system.make(bench.device(), &make_options(kind, args), &|_| {})?;
        let found = bench.system.detect(bench.device())?;
        ensure!(matches!(found, Detected::Known { kind: now, .. } if now == kind), "{found:?}");
        bench.check()?;
    }
    Ok(())
}

/// A mke2fs that is told to: here tune2fs does it behind it.
pub(crate) fn periodic_checks() -> Result<()> {
    let folder = scratch_dir()?.join("bin");
    fs::create_dir(&folder)?;
    let program = folder.join("mkfs.ext4");
    let real = run("sh", ["-c", "command -v mkfs.ext4"])?.stdout_text();
    fs::write(
        &program,
        format!(
            "#!/bin/sh\n{real} \"$@\" || exit\nfor device; do :; done\ntune2fs -c 20 -i 30d \"$device\"\n"
        ),
    )?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    let system = System::new().with_search_path(&folder);
    for checksum in ["metadata_csum", "^metadata_csum"] {
        let disk = LoopFile::new(&format!("{checksum}.img"), 64 << 20)?;
        system.make(disk.device(), &make_options(Kind::Ext4, &["-O", checksum]), &|_| {})?;
        let header = run("dumpe2fs", [Path::new("-h"), disk.device()])?.stdout_text();
        for line in ["Maximum mount count:      -1", "Check interval:           0 (<none>)"] {
            ensure!(header.lines().any(|is| is == line), "{line:?} is not in {header}");
        }
        run("e2fsck", [Path::new("-fn"), disk.device()])?;
    }
    Ok(())
}

pub(crate) fn hanging_mkfs() -> Result<()> {
    let folder = scratch_dir()?;
    let program = folder.join("mkfs.xfs");
    let ids = folder.join("ids");
    let text =
        format!("#!/bin/sh\nsleep 998 &\necho $$ $! > {}\necho discarding blocks\nwait\n", ids.display());
    fs::write(&program, text)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    let disk = LoopFile::new("disk.img", SIZE)?;
    let system = System::new().with_search_path(&folder);
    let options = MakeOptions { deadline: Duration::from_secs(3), ..make_options(Kind::Xfs, &[]) };
    let beats = std::sync::Mutex::new(0);
    let start = Instant::now();
    let Err(error) =
        system.make(disk.device(), &options, &|_| *beats.lock().unwrap_or_else(|e| e.into_inner()) += 1)
    else {
        bail!("a mkfs that hangs made something");
    };
    ensure!(error.kind() == ErrorKind::Deadline, "{error}");
    has(&error.to_string(), &["still ran after 3.0 s and was killed", "discarding blocks"])?;
    ensure!(start.elapsed() < Duration::from_secs(10), "the deadline came after {:?}", start.elapsed());
    let beats = *beats.lock().unwrap_or_else(|e| e.into_inner());
    ensure!((1..=3).contains(&beats), "{beats} signs of life in 3 s");
    for id in fs::read_to_string(&ids)?.split_whitespace() {
        eventually("the killed processes to go", Duration::from_secs(10), || {
            let status = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
            Ok(if status.is_empty() || status.contains(") Z ") { Ok(()) } else { Err(status) })
        })?;
    }
    Ok(())
}
