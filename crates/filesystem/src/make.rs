//! Making file systems: section 2.7 of the specification.
//!
//! # What was on the device before
//! `-f` and `-F` are not given. A fresh thin device reads as zeroes, also in a pool with `skip_block_zeroing`, until its first
//! write; so mkfs.xfs sees no old signature there, and refusing a device that has one protects whoever names the wrong device.
//! (mkfs.ext4 asks only on a terminal and otherwise overwrites.) A caller who means it adds `-f` to the arguments.
//!
//! In a pool with `skip_block_zeroing`, mkfs's own writes may bring blocks of a deleted device into view, around what it wrote.
//! An old btrfs signature there would make [`crate::identify`] name the new file system wrongly, so it is erased afterwards.

use crate::detect::{BTRFS_MAGIC_AT, detect};
use crate::error::{Error, ErrorKind, Result};
use crate::ext4;
use crate::filesystems::{Alive, Detected, Kind, MakeOptions};
use crate::program::{self, Ended};
use nix::errno::Errno;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// The program that makes this kind.
pub(crate) fn program_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Ext4 => "mkfs.ext4",
        Kind::Xfs => "mkfs.xfs",
    }
}

/// The Debian and Fedora packages that have it.
pub(crate) fn package(kind: Kind) -> &'static str {
    match kind {
        Kind::Ext4 => "e2fsprogs",
        Kind::Xfs => "xfsprogs",
    }
}

/// The argument lists to try, one after the other.
fn attempts(options: &MakeOptions, device: &Path, kernel: Option<(u32, u32)>) -> Vec<Vec<OsString>> {
    let whole = |first: &[&str]| {
        first
            .iter()
            .map(OsString::from)
            .chain(options.args.iter().map(OsString::from))
            .chain([device.as_os_str().to_owned()])
            .collect()
    };
    match options.kind {
        // Kernels before 3.16 cannot mount what newer programs make by default.
        Kind::Xfs if kernel.is_some_and(|version| version < (3, 16)) => {
            vec![whole(&["-m", "crc=0,finobt=0"])]
        }
        Kind::Xfs => vec![whole(&[])],
        // Programs from before 2011 do not know lazy_journal_init.
        Kind::Ext4 => vec![
            whole(&["-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"]),
            whole(&["-E", "nodiscard,lazy_itable_init=0"]),
        ],
    }
}

/// Major and minor number of a release such as `6.1.0-18-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn running_kernel() -> Option<(u32, u32)> {
    version(nix::sys::utsname::uname().ok()?.release().to_str()?)
}

pub(crate) fn make(program: &Path, device: &Path, options: &MakeOptions, alive: Alive<'_>) -> Result<()> {
    make_for(running_kernel(), program, device, options, alive)
}

fn make_for(
    kernel: Option<(u32, u32)>,
    program: &Path,
    device: &Path,
    options: &MakeOptions,
    alive: Alive<'_>,
) -> Result<()> {
    let start = Instant::now();
    let mut last = None;
    for arguments in attempts(options, device, kernel) {
        let left = options.deadline.saturating_sub(start.elapsed());
        match run(program, device, options, &arguments, left, alive) {
            Ok(()) => {
                last = None;
                break;
            }
            Err(error) if error.kind() == ErrorKind::Deadline => return Err(error),
            Err(error) => last = Some(error),
        }
    }
    if let Some(error) = last {
        return Err(error);
    }
    if options.kind == Kind::Ext4 {
        ext4::never_check_by_count_or_time(device)?;
    }
    check(device, options.kind)
}

fn run(
    program: &Path,
    device: &Path,
    options: &MakeOptions,
    arguments: &[OsString],
    left: Duration,
    alive: Alive<'_>,
) -> Result<()> {
    let action = format!("make {} on", options.kind);
    let name = program.display();
    let ended = program::run(program, arguments, left, alive).map_err(|error| {
        Error::io(&action, device, &error).detail(format!("{name} cannot be run: {error}"))
    })?;
    let saying = |said: String| if said.is_empty() { String::new() } else { format!(": {said}") };
    let late = |what: String| {
        Err(Error::new(&action, device, Errno::ETIMEDOUT).detail(format!(
            "{name} still ran after {:.1} s and was killed{what}",
            options.deadline.as_secs_f64()
        )))
    };
    match ended {
        Ended::Exited(status, _) if status.success() => Ok(()),
        Ended::Exited(status, said) => Err(Error::new(&action, device, Errno::UnknownErrno)
            .detail(format!("{name} ended with {status}{}", saying(said)))),
        Ended::Killed(said) => late(saying(said)),
        Ended::Hanging(id) => {
            late(format!(", but hangs in the kernel as process {id}: the device does not answer"))
        }
    }
}

/// Is what was made what will be found?
fn check(device: &Path, kind: Kind) -> Result<()> {
    let mut found = detect(device)?;
    if found == Detected::Foreign("btrfs") {
        erase_btrfs_magic(device)
            .map_err(|error| Error::io("erase an old btrfs signature on", device, &error))?;
        found = detect(device)?;
    }
    match found {
        Detected::Known { kind: found, .. } if found == kind => Ok(()),
        other => Err(Error::new(format!("make {kind} on"), device, Errno::UnknownErrno)
            .detail(format!("{} ended well, but {other:?} is there now", program_name(kind)))),
    }
}

fn erase_btrfs_magic(device: &Path) -> std::io::Result<()> {
    let file = OpenOptions::new().write(true).open(device)?;
    file.write_all_at(&[0; 8], u64::try_from(BTRFS_MAGIC_AT).unwrap_or(u64::MAX))?;
    file.sync_all()
}

#[cfg(test)]
mod tests;
