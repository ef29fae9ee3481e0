//! What the tests share.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::{LoopFile, eventually, run, scratch_dir, try_run};
use thinlayer_dm::DeviceNumber;
use thinlayer_provision::{AttachOptions, Attachment, Error, ErrorKind};

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const RW: AttachOptions = AttachOptions { read_only: false, limit: None };
pub(crate) const RO: AttachOptions = AttachOptions::READ_ONLY;
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn path(name: &str) -> Result<PathBuf> {
    Ok(scratch_dir()?.join(name))
}

pub(crate) fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path is not UTF-8")
}

pub(crate) fn word(program: &str, arguments: &[&str]) -> Result<String> {
    Ok(run(program, arguments)?.stdout_text())
}

/// Columns of losetup for one device.
pub(crate) fn losetup(node: &Path, columns: &str) -> Result<String> {
    let shown = word("losetup", &["--list", "--noheadings", "--raw", "--output", columns, text(node)?])?;
    Ok(shown.trim().to_owned())
}

pub(crate) fn is_attached(node: &Path) -> Result<bool> {
    let name = node.file_name().context("a node has a name")?;
    Ok(Path::new("/sys/block").join(name).join("loop/backing_file").exists())
}

pub(crate) fn gone(node: &Path) -> Result<()> {
    eventually("the loop device to free itself", PATIENCE, || {
        Ok(if is_attached(node)? { Err(format!("{} is attached", node.display())) } else { Ok(()) })
    })
}

/// Frees it and waits: a test that ends while udev still looks would have left it behind.
pub(crate) fn detach(attachment: Attachment) -> Result<()> {
    let node = attachment.node.clone();
    drop(attachment);
    gone(&node)
}

pub(crate) fn expect(what: Result<(), Error>, kind: ErrorKind, words: &[&str]) -> Result<()> {
    let Err(error) = what else { bail!("no error, and {kind:?} was expected ({words:?})") };
    let said = error.to_string();
    ensure!(error.kind() == kind, "{said}: {:?}, not {kind:?}", error.kind());
    for word in words {
        ensure!(said.contains(word), "{word:?} is not in {said:?}");
    }
    ensure!(!said.contains('\n'), "more than one line: {said:?}");
    Ok(())
}

/// A file system on a loop device, mounted.
pub(crate) struct Mounted {
    pub(crate) folder: PathBuf,
    _device: LoopFile,
}

impl Mounted {
    pub(crate) fn new(name: &str, mkfs: &[&str], bytes: u64) -> Result<Self> {
        let device = LoopFile::new(&format!("{name}.img"), bytes)?;
        let (program, arguments) = mkfs.split_first().context("a mkfs")?;
        let mut arguments = arguments.to_vec();
        arguments.push(text(device.device())?);
        run(program, arguments)?;
        let folder = path(&format!("{name}.mnt"))?;
        fs::create_dir_all(&folder)?;
        run("mount", [device.device(), folder.as_path()])?;
        Ok(Self { folder, _device: device })
    }

    /// Takes all the room there is.
    pub(crate) fn fill(&self) -> Result<()> {
        let file = File::create(self.folder.join("filler"))?;
        for piece in [MIB, 4096] {
            let zeros = vec![1_u8; usize::try_from(piece)?];
            let mut at = file.metadata()?.len();
            while let Ok(written) = file.write_at(&zeros, at) {
                at += written as u64;
                if at % (8 * MIB) == 0 {
                    file.sync_all()?;
                }
            }
        }
        Ok(())
    }

    pub(crate) fn free(&self) -> Result<u64> {
        Ok(word("stat", &["--file-system", "--format=%f", text(&self.folder)?])?.parse()?)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _unmounted = try_run("umount", [&self.folder]);
    }
}

/// Bytes that du finds under a file.
pub(crate) fn du(path: &Path) -> Result<u64> {
    let shown = word("du", &["--block-size=1", text(path)?])?;
    Ok(shown.split_whitespace().next().context("du says nothing")?.parse()?)
}

pub(crate) fn number_of(node: &Path) -> Result<DeviceNumber> {
    Ok(DeviceNumber::from_stat(fs::metadata(node)?.rdev()))
}

/// Removes a device-mapper device when it goes.
pub(crate) struct Mapped(String);

impl Mapped {
    pub(crate) fn new(name: &str, table: &str) -> Result<Self> {
        run("dmsetup", ["create", name, "--table", table])?;
        Ok(Self(name.to_owned()))
    }

    /// Its own node: without udev nobody makes a link in /dev/mapper.
    pub(crate) fn node(&self) -> Result<PathBuf> {
        let name = word("dmsetup", &["info", "--columns", "--noheadings", "-o", "blkdevname", &self.0])?;
        Ok(Path::new("/dev").join(name.trim()))
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        let _removed = try_run("dmsetup", ["remove", "--retry", &self.0]);
    }
}
