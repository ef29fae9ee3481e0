//! What the tests work on: a loop device with a mount point beside it.

use anyhow::{Context, Result, ensure};
use harness::{LoopFile, run, scratch_dir};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thinlayer_filesystem::{Filesystems, Kind, MakeOptions, MountRequest, System};

pub(crate) const KINDS: [Kind; 2] = [Kind::Ext4, Kind::Xfs];

/// The least that mkfs.xfs accepts, and enough for ext4.
pub(crate) const SIZE: u64 = 300 << 20;

pub(crate) fn make_options(kind: Kind, args: &[&str]) -> MakeOptions {
    MakeOptions {
        kind,
        args: args.iter().map(ToString::to_string).collect(),
        deadline: Duration::from_secs(90),
    }
}

/// A loop device, a mount point and the crate's view of the machine.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) system: System,
    pub(crate) kind: Kind,
    pub(crate) disk: LoopFile,
    pub(crate) target: PathBuf,
}

impl Bench {
    /// Without a file system.
    pub(crate) fn blank(kind: Kind) -> Result<Self> {
        let disk = LoopFile::new(&format!("{kind}.img"), SIZE)?;
        let target = scratch_dir()?.join(format!("{kind} mount"));
        fs::create_dir_all(&target)?;
        Ok(Self { system: System::new(), kind, disk, target })
    }

    /// With one.
    pub(crate) fn made(kind: Kind, args: &[&str]) -> Result<Self> {
        let bench = Self::blank(kind)?;
        bench.system.make(bench.device(), &make_options(kind, args), &|_| {})?;
        Ok(bench)
    }

    pub(crate) fn device(&self) -> &Path {
        self.disk.device()
    }

    /// `loop3`
    pub(crate) fn kernel_name(&self) -> Result<&str> {
        self.device().file_name().and_then(|name| name.to_str()).context("a loop device without a name")
    }

    pub(crate) fn number(&self) -> Result<(u32, u32)> {
        let shown = run("stat", [Path::new("-L"), Path::new("-c"), Path::new("%Hr:%Lr"), self.device()])?;
        let text = shown.stdout_text();
        let (major, minor) = text.split_once(':').context("stat says no number")?;
        Ok((major.parse()?, minor.parse()?))
    }

    pub(crate) fn request(&self, options: &[&str]) -> MountRequest {
        MountRequest {
            device: self.device().to_owned(),
            target: self.target.clone(),
            kind: self.kind,
            read_only: false,
            no_recovery: false,
            options: options.iter().map(ToString::to_string).collect(),
            label: None,
        }
    }

    /// Is it in the mount table?
    pub(crate) fn is_mounted(&self) -> Result<bool> {
        Ok(self.system.mounts()?.iter().any(|mount| mount.target == self.target))
    }

    /// Is it mounted, as the kernel's own view of the folder has it?
    pub(crate) fn is_own_device(&self) -> Result<bool> {
        let above = self.target.parent().context("a mount point without a parent")?;
        Ok(fs::metadata(&self.target)?.dev() != fs::metadata(above)?.dev())
    }

    /// The file system's own checker, which must find nothing to mend.
    pub(crate) fn check(&self) -> Result<()> {
        let words: &[&str] = match self.kind {
            Kind::Ext4 => &["e2fsck", "-f", "-n"],
            Kind::Xfs => &["xfs_repair", "-n"],
        };
        let device = self.device().to_str().context("a device that is not UTF-8")?;
        run(words[0], words[1..].iter().copied().chain([device])).map(drop)
    }
}

/// One value as blkid reads it from the device itself; empty if it tells none.
pub(crate) fn blkid(tag: &str, device: &Path) -> Result<String> {
    let words = ["-p", "-s", tag, "-o", "value"].map(Path::new);
    Ok(harness::try_run("blkid", words.into_iter().chain([device]))?.stdout_text())
}

/// Each part is in the text.
pub(crate) fn has(text: &str, parts: &[&str]) -> Result<()> {
    for part in parts {
        ensure!(text.contains(part), "`{part}` is not in: {text}");
    }
    ensure!(!text.contains('\n'), "more than one line: {text}");
    Ok(())
}
