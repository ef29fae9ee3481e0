//! Disks of a test's own: small ones, full ones, and such as stand still.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
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

/// Takes all the room there is.
pub(crate) fn fill(folder: &Path) -> Result<PathBuf> {
    let file = folder.join("filler");
    // First in large blocks, then what is left in small ones, and then what removed files have left: that is free only when the journal says so.
    for block in ["1M", "4k", "4k"] {
        let shell =
            format!("dd if=/dev/zero of={} bs={block} oflag=append conv=notrunc 2>/dev/null", file.display());
        let full = harness::try_run("sh", ["-c", &shell])?;
        ensure!(!full.status.success(), "the disk has no end");
        harness::run("sync", ["-f", file.to_str().context("no UTF-8")?])?;
    }
    Ok(file)
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
