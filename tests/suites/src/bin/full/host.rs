//! A host file system of its own, small enough to be full.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use harness::{LoopFile, scratch_dir};
use nix::fcntl::{FallocateFlags, fallocate};

pub(crate) const MIB: u64 = 1 << 20;

/// A mounted ext4 on a loop device.
pub(crate) struct Host {
    pub(crate) folder: PathBuf,
    _device: LoopFile,
}

impl Host {
    pub(crate) fn new(bytes: u64) -> Result<Self> {
        let device = LoopFile::new("host", bytes)?;
        let node = device.device().to_str().context("no UTF-8")?.to_owned();
        harness::run("mkfs.ext4", ["-q", "-m", "0", &node])?;
        let folder = scratch_dir()?.join("small-host");
        std::fs::create_dir_all(&folder)?;
        harness::run("mount", [Path::new(&node), folder.as_path()])?;
        Ok(Self { folder, _device: device })
    }

    pub(crate) fn free(&self) -> Result<u64> {
        let found = nix::sys::statvfs::statvfs(&self.folder)?;
        Ok(found.blocks_free() * found.fragment_size())
    }

    /// Takes all room but this much, at once.
    pub(crate) fn fill_but(&self, but: u64) -> Result<PathBuf> {
        let path = self.folder.join("filler");
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        // The host needs some of its room for the file's own extents: what is refused at once is taken in smaller pieces.
        let mut piece = self.free()?.saturating_sub(but);
        while self.free()? > but && piece >= 4096 {
            let take = piece.min(self.free()? - but) / 4096 * 4096;
            let length = file.metadata()?.len();
            if take == 0 || grow(&file, length, take).is_err() {
                piece /= 2;
            }
        }
        file.sync_all()?;
        // ext4 keeps a fiftieth for itself, and calls it free.
        ensure!(self.free()? <= but + 4 * MIB, "{} are still free", self.free()?);
        Ok(path)
    }

    pub(crate) fn clear(&self) -> Result<()> {
        Ok(std::fs::remove_file(self.folder.join("filler"))?)
    }
}

fn grow(file: &File, from: u64, by: u64) -> Result<()> {
    Ok(fallocate(file.as_fd(), FallocateFlags::empty(), i64::try_from(from)?, i64::try_from(by)?)?)
}

impl Drop for Host {
    fn drop(&mut self) {
        let _unmounted = harness::try_run("umount", [&self.folder]);
    }
}

/// How a pool is called, and what `dmsetup` says of it.
pub(crate) fn dmsetup(what: &str, pool: &str) -> Result<String> {
    let words: &[&str] = if what == "status" { &["status", "--noflush", pool] } else { &[what, pool] };
    Ok(harness::run("dmsetup", words)?.stdout_text().trim().to_owned())
}
