//! Disks of a test's own: small ones, full ones, and such as stand still.

use std::ffi::OsStr;
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use harness::{LoopFile, scratch_dir};

/// A mounted file system, unmounted when dropped.
pub(crate) struct Mounted(pub(crate) PathBuf);

impl Mounted {
    pub(crate) fn new(words: &[&str], at: PathBuf) -> Result<Self> {
        fs::create_dir_all(&at)?;
        let at_text = at.to_str().context("no UTF-8")?;
        harness::run("mount", words.iter().copied().chain([at_text]))?;
        Ok(Self(at))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _unmounted = harness::try_run("umount", [&self.0]);
    }
}

/// A small ext4 of its own.
pub(crate) fn small_disk(bytes: u64) -> Result<(Mounted, LoopFile)> {
    let device = LoopFile::new("small", bytes)?;
    let node = device.device().to_str().context("no UTF-8")?.to_owned();
    harness::run("mkfs.ext4", ["-q", "-m", "0", &node])?;
    let mounted = Mounted::new(&[&node], scratch_dir()?.join("small-disk"))?;
    Ok((mounted, device))
}

/// Takes all the room there is: first in large blocks, then in small ones, until a whole turn finds nothing any more. What was removed, and what
/// ext4 has set aside for writes to come, is free only when the journal says so. What is left for files of one block goes last: a large file needs a further block to say where the
/// next one is. The folder with all of it.
pub(crate) fn fill(disk: &Path) -> Result<PathBuf> {
    let folder = disk.join("filler");
    fs::create_dir_all(&folder)?;
    let file = folder.join("large");
    let path = file.to_str().context("no UTF-8")?;
    let mut length = None;
    for turn in 0.. {
        ensure!(turn < 50, "{path} goes on growing: {length:?} bytes");
        let block = if turn == 0 { "1M" } else { "4k" };
        let shell = format!("dd if=/dev/zero of={path} bs={block} oflag=append conv=notrunc 2>/dev/null");
        let full = harness::try_run("sh", ["-c", &shell])?;
        ensure!(!full.status.success(), "the disk has no end");
        harness::run("sync", ["-f", path])?;
        let now = fs::metadata(&file)?.len();
        if turn > 1 && length == Some(now) {
            break;
        }
        length = Some(now);
    }
    let small = |number: u32| -> std::io::Result<()> {
        // A file that is there from an earlier turn has its block already.
        let mut file = fs::File::create_new(folder.join(format!("small-{number}")))?;
        file.write_all(b"x")?;
        file.sync_all()
    };
    for number in 0..10_000 {
        match small(number) {
            Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(folder),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            other => other?,
        }
    }
    bail!("{} goes on growing", folder.display());
}

/// A file system that takes no write until this is dropped.
pub(crate) struct Frozen<'a>(&'a Path);

impl<'a> Frozen<'a> {
    pub(crate) fn new(at: &'a Path) -> Result<Self> {
        harness::run("fsfreeze", [OsStr::new("--freeze"), at.as_os_str()])?;
        Ok(Self(at))
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let _thawed = harness::try_run("fsfreeze", [OsStr::new("--unfreeze"), self.0.as_os_str()]);
    }
}
