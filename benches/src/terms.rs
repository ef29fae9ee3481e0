//! The terms under which a side works. A comparison is fair only if both sides have the same.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, umount2};
use thinlayer_provision::Backing;
use thinlayer_thin::{BackingDevice, Pool};

/// What must be equal on both sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    /// The pool's table without its devices: length, block size, low-water mark, features.
    pub(crate) pool: String,
    /// Size and traits of the loop devices under it: data, then metadata.
    pub(crate) loops: String,
    /// File system and options of a mounted layer.
    pub(crate) mount: String,
}

impl Terms {
    /// The terms of a pool, and of a layer of its that is mounted now.
    pub(crate) fn of(pool: &Pool, mounted: &Path) -> Result<Self> {
        let table = pool.table()?;
        let loops = thinlayer_provision::System::new().loops()?;
        let mut sides = Vec::new();
        for device in [&table.data, &table.metadata] {
            let BackingDevice::Number(number) = device else { continue };
            let found = loops
                .iter()
                .find(|found| found.number == *number)
                .with_context(|| format!("{number} under the pool {} is no loop device", pool.name()))?;
            let bytes = std::fs::metadata(&found.file)?.len();
            let cache = if found.direct_io { "direct I/O" } else { "page cache" };
            sides.push(format!("{} MiB, {cache}", bytes >> 20));
        }
        let target = table.target();
        // The first two words name the devices.
        let features: Vec<&str> = target.params.split_whitespace().skip(2).collect();
        Ok(Self {
            pool: format!("{} {}", target.len, features.join(" ")),
            loops: sides.join("; "),
            mount: mount_of(mounted)?,
        })
    }

    pub(crate) fn ensure_same(&self, other: &Self) -> Result<()> {
        ensure!(self == other, "the two sides do not work under the same terms: {self:?} and {other:?}");
        Ok(())
    }
}

/// File system, flags and options of what is mounted at a path, as the kernel tells them.
fn mount_of(path: &Path) -> Result<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let wanted = path.to_str().context("a mount point is not UTF-8")?;
    let line = table
        .lines()
        .find(|line| line.split(' ').nth(4) == Some(wanted))
        .with_context(|| format!("nothing is mounted at {wanted}"))?;
    let words: Vec<&str> = line.split(' ').collect();
    let dash = words.iter().position(|word| *word == "-").context("no separator in the mount table")?;
    let word = |at: usize| words.get(at).copied().unwrap_or_default();
    Ok(format!("{} {} {}", word(dash + 1), word(5), word(dash + 3)))
}

/// Ends a mount when it is dropped, for the way out of a failure.
#[derive(Debug)]
pub(crate) struct Unmounted<'a>(pub(crate) &'a Path);

impl Drop for Unmounted<'_> {
    fn drop(&mut self) {
        if let Err(errno) = umount2(self.0, MntFlags::empty()) {
            eprintln!("bench: cannot unmount {}: {errno}", self.0.display());
        }
    }
}
