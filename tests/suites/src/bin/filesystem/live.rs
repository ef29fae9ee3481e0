//! What is done to a mounted file system.

use crate::bench::{Bench, KINDS, SIZE, has};
use anyhow::{Context, Result, bail, ensure};
use harness::{LoopFile, run, scratch_dir};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use thinlayer_filesystem::{ErrorKind, Filesystems, Frozen, Kind, MountRequest, Mounted, System, Unmount};

/// Makes the backing file longer, and tells the loop device.
fn lengthen(disk: &LoopFile, bytes: u64) -> Result<()> {
    File::options().write(true).open(disk.file())?.set_len(bytes)?;
    run("losetup", [Path::new("--set-capacity"), disk.device()]).map(drop)
}

/// Blocks and their size, as the file system's own tool tells them.
fn told_size(bench: &Bench) -> Result<u64> {
    let text = match bench.kind {
        Kind::Ext4 => run("dumpe2fs", [Path::new("-h"), bench.device()])?.stdout_text(),
        Kind::Xfs => run("xfs_info", [&bench.target])?.stdout_text(),
    };
    let after = |label: &str, text: &str| -> Result<u64> {
        let at = text.find(label).with_context(|| format!("no {label} in {text}"))? + label.len();
        let digits: String = text[at..].trim_start().chars().take_while(char::is_ascii_digit).collect();
        Ok(digits.parse()?)
    };
    match bench.kind {
        Kind::Ext4 => Ok(after("Block count:", &text)? * after("Block size:", &text)?),
        Kind::Xfs => {
            let data = &text[text.find("data     =").context("no data section")?..];
            Ok(after("bsize=", data)? * after("blocks=", data)?)
        }
    }
}

pub(crate) fn growing() -> Result<()> {
    for kind in KINDS {
        let bench = Bench::made(kind, if kind == Kind::Xfs { &["-i", "maxpct=17"] } else { &[] })?;
        let mut mounted = Mounted::mount(&bench.system, &bench.request(&[]))?;
        fs::write(bench.target.join("file"), "content")?;
        let free = bench.system.free_bytes(&bench.target)?;
        // Nothing to do is no error.
        bench.system.grow(kind, &bench.target, bench.device())?;
        ensure!(bench.system.free_bytes(&bench.target)? == free, "it has grown on the same device");
        for bytes in [SIZE + (100 << 20), 3 * SIZE] {
            lengthen(&bench.disk, bytes)?;
            bench.system.grow(kind, &bench.target, bench.device())?;
            let told = told_size(&bench)?;
            ensure!(told == bytes, "{kind}: {told} bytes in a device of {bytes}");
            bench.system.grow(kind, &bench.target, bench.device())?;
        }
        let more = bench.system.free_bytes(&bench.target)?;
        ensure!(more > free + SIZE, "{free} bytes were free, and now {more}");
        if kind == Kind::Xfs {
            let text = run("xfs_info", [&bench.target])?.stdout_text();
            ensure!(text.contains("imaxpct=17"), "{text}");
        }
        ensure!(fs::read(bench.target.join("file"))? == b"content", "the file has changed");
        mounted.unmount(Unmount::Now)?;
        bench.check()?;
    }
    Ok(())
}

pub(crate) fn not_growing() -> Result<()> {
    for kind in KINDS {
        let bench = Bench::made(kind, &[])?;
        let system = &bench.system;
        let Err(error) = system.grow(kind, &bench.target, bench.device()) else { bail!("grown unmounted") };
        ensure!(error.kind() == ErrorKind::NotFound, "{error}");
        has(&error.to_string(), &["is not mounted there", &bench.device().display().to_string()])?;
        lengthen(&bench.disk, 2 * SIZE)?;
        let mut mounted = Mounted::mount(system, &MountRequest { read_only: true, ..bench.request(&[]) })?;
        let Err(error) = system.grow(kind, &bench.target, bench.device()) else { bail!("grown read-only") };
        ensure!(error.kind() == ErrorKind::ReadOnly, "{error}");
        mounted.unmount(Unmount::Now)?;
        let _mounted = Mounted::mount(system, &bench.request(&[]))?;
        let other = LoopFile::new("other.img", SIZE)?;
        let Err(error) = system.grow(kind, &bench.target, other.device()) else { bail!("another device") };
        ensure!(error.kind() == ErrorKind::NotFound, "{error}");
        let wrong = if kind == Kind::Xfs { Kind::Ext4 } else { Kind::Xfs };
        ensure!(system.grow(wrong, &bench.target, bench.device()).is_err(), "grown as {wrong}");
        // A device that has become smaller than its file system: refused, never shrunk.
        let smaller = SIZE - (100 << 20);
        lengthen(&bench.disk, smaller)?;
        let Err(error) = system.grow(kind, &bench.target, bench.device()) else { bail!("shrunk") };
        has(&error.to_string(), &["smaller than the file system", &smaller.to_string()])?;
        lengthen(&bench.disk, SIZE)?;
    }
    Ok(())
}

pub(crate) fn freezing() -> Result<()> {
    for kind in KINDS {
        let bench = Bench::made(kind, &[])?;
        let _mounted = Mounted::mount(&bench.system, &bench.request(&[]))?;
        let frozen = Frozen::freeze(&bench.system, &bench.target)?;
        let Err(error) = bench.system.freeze(&bench.target) else { bail!("frozen twice") };
        ensure!(error.kind() == ErrorKind::Busy, "{error}");
        has(&error.to_string(), &["frozen already"])?;

        let (done, wait) = channel();
        let path = bench.target.join("new");
        let writer = std::thread::spawn(move || {
            let written =
                File::create(path).and_then(|mut file| file.write_all(b"text").and(file.sync_all()));
            // The test may have given up.
            done.send(()).ok();
            written
        });
        let early = wait.recv_timeout(Duration::from_secs(1));
        frozen.thaw()?;
        ensure!(early == Err(RecvTimeoutError::Timeout), "a writer was not held back: {early:?}");
        wait.recv_timeout(Duration::from_secs(20)).context("a thawed file system holds its writer")?;
        writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
        ensure!(fs::read(bench.target.join("new"))? == b"text", "the file holds something else");

        let Err(error) = bench.system.thaw(&bench.target) else { bail!("thawed twice") };
        has(&error.to_string(), &["is not frozen"])?;
        // A dropped guard thaws.
        drop(Frozen::freeze(&bench.system, &bench.target)?);
        fs::write(bench.target.join("last"), "")?;
    }
    Ok(())
}

pub(crate) fn xfs_retries() -> Result<()> {
    let bench = Bench::made(Kind::Xfs, &[])?;
    let number = bench.number()?;
    let Err(error) = bench.system.set_xfs_retries(number, 0) else { bail!("set without a mount") };
    ensure!(error.kind() == ErrorKind::Unsupported, "{error}");
    let _mounted = Mounted::mount(&bench.system, &bench.request(&[]))?;
    let knob = format!("/sys/fs/xfs/{}/error/metadata/ENOSPC/max_retries", bench.kernel_name()?);
    for retries in [0, 7] {
        bench.system.set_xfs_retries(number, retries)?;
        let read = fs::read_to_string(&knob)?;
        ensure!(read.trim() == retries.to_string(), "{read} and not {retries}");
    }
    let Err(error) = bench.system.set_xfs_retries(number, u64::MAX) else { bail!("it took 2^64-1") };
    ensure!(error.kind() == ErrorKind::Options, "{error}");
    has(&error.to_string(), &["18446744073709551615", "max_retries"])
}

const CYCLE: &str = "--cycle-below-strace";

/// `filesystem --cycle-below-strace KIND DEVICE TARGET FILE`: all that must start no process, once.
pub(crate) fn cycle_below_strace() -> Option<ExitCode> {
    let words: Vec<String> = std::env::args().collect();
    let [_, first, kind, device, target] = words.as_slice() else { return None };
    if first != CYCLE {
        return None;
    }
    let kind = if kind == "xfs" { Kind::Xfs } else { Kind::Ext4 };
    let cycle = || -> Result<()> {
        let system = System::new();
        let request = MountRequest {
            device: PathBuf::from(device),
            target: PathBuf::from(target),
            kind,
            read_only: false,
            no_recovery: false,
            options: vec!["discard".to_owned()],
            label: None,
        };
        system.usable(kind)?;
        system.detect(&request.device)?;
        system.mount(&request)?;
        system.grow(kind, &request.target, &request.device)?;
        system.freeze(&request.target)?;
        system.thaw(&request.target)?;
        system.mounts()?;
        system.unmount(&request.target, Unmount::Now)?;
        Ok(())
    };
    Some(match cycle() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    })
}

pub(crate) fn no_process() -> Result<()> {
    for kind in KINDS {
        let bench = Bench::made(kind, &[])?;
        lengthen(&bench.disk, SIZE + (64 << 20))?;
        let trace = scratch_dir()?.join("trace");
        let own = std::env::current_exe()?;
        let start = Instant::now();
        let calls = "trace=%process,fsopen,fsconfig,fsmount,move_mount,mount,umount2,ioctl";
        let mut words: Vec<&Path> = ["-f", "-e", calls, "-o"].map(Path::new).to_vec();
        words.extend([trace.as_path(), own.as_path(), Path::new(CYCLE), Path::new(kind.as_str())]);
        words.extend([bench.device(), bench.target.as_path()]);
        run("strace", words)?;
        let text = fs::read_to_string(&trace)?;
        println!("{kind}: {:?} below strace\n{text}", start.elapsed());
        let count = |call: &str| text.lines().filter(|line| line.contains(&format!("{call}("))).count();
        // That the trace sees what there is to see.
        ensure!(count("fsopen") == 1 && count("umount2") == 1 && count("move_mount") == 1, "an odd trace");
        ensure!(count("execve") == 1, "it starts a program");
        for call in ["fork", "vfork", "clone", "clone3", "execveat"] {
            ensure!(count(call) == 0, "it calls {call}");
        }
    }
    Ok(())
}
