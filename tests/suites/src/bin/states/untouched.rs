//! `--read-only` where the kernel would write if it could: what is below the pool is longer than the pool, and its metadata is really damaged.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use harness::LoopFile;

use crate::fixture::{Root, contents, small_root, unchanged};
use crate::looking::{gone, look};

/// So much more below the pool than it has: its space maps would need another bitmap block for that.
const MORE_DATA: u64 = 2 << 30;
const MORE_METADATA: u64 = 96 << 20;

/// Makes a file longer, by a hole.
fn lengthen(file: &Path, more: u64) -> Result<()> {
    let opened = fs::File::options().write(true).open(file)?;
    let length = opened.metadata()?.len();
    Ok(opened.set_len(length + more)?)
}

/// A pool's metadata as bytes, with its trees.
struct Image {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Image {
    fn read(path: &Path) -> Result<Self> {
        Ok(Self { path: path.to_owned(), bytes: fs::read(path)? })
    }

    fn number(&self, at: u64) -> Result<u64> {
        let at = usize::try_from(at)?;
        Ok(u64::from_le_bytes(self.bytes.get(at..at + 8).context("beyond the end")?.try_into()?))
    }

    /// A value's first word in a tree that is one leaf.
    fn value(&self, root: u64, key: u64) -> Result<u64> {
        let node = root * 4096;
        let flags = self.number(node)? >> 32;
        ensure!(flags == 2, "block {root} is no leaf, but {flags}");
        let (entries, most) = (self.number(node + 16)? & 0xffff_ffff, self.number(node + 16)? >> 32);
        let size = self.number(node + 24)? & 0xffff_ffff;
        for entry in 0..entries {
            if self.number(node + 32 + 8 * entry)? == key {
                return self.number(node + 32 + 8 * most + size * entry);
            }
        }
        anyhow::bail!("{key} is not in block {root}")
    }

    /// The root of a thin device's mappings.
    fn mappings(&self, id: u64) -> Result<u64> {
        self.value(self.number(320)?, id)
    }

    /// The first bitmap block of the data blocks.
    fn bitmap(&self) -> Result<u64> {
        self.value(self.number(80)?, 0)
    }

    /// Changes a bit of a block, so that its checksum is wrong.
    fn damage(&self, block: u64) -> Result<()> {
        let at = block * 4096 + 40;
        let byte = self.bytes[usize::try_from(at)?] ^ 0x10;
        let file = fs::File::options().write(true).open(&self.path)?;
        file.write_all_at(&[byte], at)?;
        Ok(file.sync_all()?)
    }

    /// As it was.
    fn restore(&self, block: u64) -> Result<()> {
        let at = usize::try_from(block * 4096)?;
        let file = fs::File::options().write(true).open(&self.path)?;
        file.write_all_at(&self.bytes[at..at + 4096], block * 4096)?;
        Ok(file.sync_all()?)
    }
}

/// The root opens, `a` can be read, and `b` if it is `whole`; afterwards all files are the same, and nothing is left in the kernel.
fn looked_at(root: &Root, files: &[&Path], whole: bool) -> Result<()> {
    let before = files.iter().map(|file| contents(file)).collect::<Result<Vec<_>>>()?;
    look(root)?;
    let tree = root.run(&["--read-only", "mount", "a"])?;
    ensure!(
        fs::read_to_string(Path::new(tree.trim_end()).join("of-a"))? == "content of a",
        "a's file has changed"
    );
    let other = root.try_run(&["--read-only", "mount", "b"])?;
    ensure!(other.status.success() == whole, "b is whole: {whole}, and {other:?}");
    root.run(&["--read-only", "stop"])?;
    gone(root)?;
    for (file, before) in files.iter().zip(&before) {
        unchanged(before, &contents(file)?)?;
    }
    Ok(())
}

/// Both, then also with `b`'s mappings and with a bitmap damaged. Then everything is still there.
fn longer_and_damaged(root: &Root, files: &[&Path], metadata: &Path) -> Result<()> {
    let (a, b) = (root.number("a", "device_id")?, root.number("b", "device_id")?);
    let image = Image::read(metadata)?;
    let mappings = image.mappings(b)?;
    ensure!(mappings != image.mappings(a)?, "a and b share block {mappings}");
    looked_at(root, files, true).context("longer")?;
    image.damage(mappings)?;
    ensure!(!harness::try_run("thin_check", [metadata])?.status.success(), "thin_check finds no damage");
    looked_at(root, files, false).context("a damaged mapping")?;
    image.restore(mappings)?;
    image.damage(image.bitmap()?)?;
    looked_at(root, files, true).context("a damaged bitmap")?;
    image.restore(image.bitmap()?)?;
    // Who may write takes in what is longer.
    root.holds("b", "a")?;
    let total = root.json(&["status"])?["data"]["total"].as_u64().context("no total of data")?;
    ensure!(total > MORE_DATA, "the pool has {total}");
    root.run(&["stop"]).map(drop)
}

pub(crate) fn long_files() -> Result<()> {
    let root = small_root("root", "ext4")?;
    root.layer("a", None)?;
    root.layer("b", Some("a"))?;
    root.stop()?;
    let metadata = root.path.join("devicemapper/metadata");
    lengthen(&root.path.join("devicemapper/data"), MORE_DATA)?;
    lengthen(&metadata, MORE_METADATA)?;
    longer_and_damaged(&root, &[&root.path], &metadata)
}

pub(crate) fn given_devices() -> Result<()> {
    let (data, metadata) =
        (LoopFile::new("given-data", 96 << 20)?, LoopFile::new("given-metadata", 4 << 20)?);
    let options = vec![
        format!("dm.datadev={}", data.device().display()),
        format!("dm.metadatadev={}", metadata.device().display()),
        "dm.basesize=48M".into(),
        "dm.fs=ext4".into(),
    ];
    let root = Root::with(&harness::scratch_dir()?.join("root"), options)?;
    root.layer("a", None)?;
    root.layer("b", Some("a"))?;
    root.stop()?;
    for (device, more) in [(&data, MORE_DATA), (&metadata, MORE_METADATA)] {
        lengthen(device.file(), more)?;
        harness::run("losetup", [Path::new("--set-capacity"), device.device()])?;
    }
    let status = root.json(&["--read-only", "status"])?;
    let rows = status["rows"].to_string();
    let shown = format!(r#"["Metadata file","{}"]"#, metadata.device().display());
    ensure!(rows.contains(&shown), "{shown} is not in {rows}");
    longer_and_damaged(&root, &[&root.path, data.file(), metadata.file()], metadata.file())
}
