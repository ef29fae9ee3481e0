//! Small roots on the scratch disk, the program on them, and what Docker's driver would have left in them.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use harness::scratch_dir;
use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use serde_json::Value;

#[path = "../program/fixture.rs"]
mod program;
pub(crate) use program::Root;

/// As small as each file system can be, so that whole pools can be compared.
pub(crate) fn options(filesystem: &str) -> Vec<String> {
    let base = if filesystem == "xfs" { "dm.basesize=300M" } else { "dm.basesize=48M" };
    ["dm.loopdatasize=96M", "dm.loopmetadatasize=4M", base, &format!("dm.fs={filesystem}")]
        .map(str::to_owned)
        .to_vec()
}

/// A small root in the test's scratch folder.
pub(crate) fn small_root(name: &str, filesystem: &str) -> Result<Root> {
    Root::with(&scratch_dir()?.join(name), options(filesystem))
}

/// What these suites ask of a root besides.
impl Root {
    /// Runs it; it has to succeed. The line that it printed.
    pub(crate) fn line(&self, words: &[&str]) -> Result<String> {
        Ok(self.run(words)?.trim_end().to_owned())
    }

    /// Runs it; it has to succeed. What it said on standard error.
    pub(crate) fn said(&self, words: &[&str]) -> Result<String> {
        let output = self.try_run(words)?;
        ensure!(output.status.success(), "thinlayer {words:?} failed: {output:?}");
        Ok(output.stderr_text())
    }

    /// Refused with this code, and not a byte of the root has changed.
    pub(crate) fn refused_untouched(&self, words: &[&str], code: i32) -> Result<String> {
        let before = contents(&self.path)?;
        let said = self.refused(words, code)?;
        unchanged(&before, &contents(&self.path)?)?;
        Ok(said)
    }

    /// The ids that `ls` shows, in order.
    pub(crate) fn list(&self) -> Result<Vec<String>> {
        Ok(self.ids()?.into_iter().collect())
    }

    /// Makes a layer with a file in it.
    pub(crate) fn layer(&self, id: &str, parent: Option<&str>) -> Result<()> {
        match parent {
            Some(parent) => self.run(&["create", "--parent", parent, id])?,
            None => self.run(&["create", id])?,
        };
        let tree = self.line(&["mount", id])?;
        fs::write(Path::new(&tree).join(format!("of-{id}")), format!("content of {id}"))?;
        self.run(&["umount", id]).map(drop)
    }

    /// The layer holds what [`Root::layer`] wrote as `of`.
    pub(crate) fn holds(&self, id: &str, of: &str) -> Result<()> {
        let tree = self.line(&["mount", id])?;
        let content = fs::read_to_string(Path::new(&tree).join(format!("of-{of}")));
        self.run(&["umount", id])?;
        ensure!(content? == format!("content of {of}"), "layer {id} has changed");
        Ok(())
    }

    /// Puts the root to rest; its pool's metadata is whole, and nothing of it is in the kernel.
    pub(crate) fn stop(&self) -> Result<()> {
        self.run(&["stop"])?;
        let devices = harness::run("dmsetup", ["ls"])?.stdout_text();
        let prefix = self.prefix("docker")?;
        ensure!(!devices.contains(&prefix), "after stop: {devices}");
        let metadata = self.path.join("devicemapper/metadata");
        if metadata.exists() {
            harness::run("thin_check", [metadata])?;
        }
        Ok(())
    }

    pub(crate) fn record(&self, id: &str) -> PathBuf {
        self.path.join("metadata").join(id)
    }

    /// A record's number.
    pub(crate) fn number(&self, id: &str, key: &str) -> Result<u64> {
        let record: Value = serde_json::from_slice(&fs::read(self.record(id))?)?;
        record[key].as_u64().with_context(|| format!("{id} has no {key}"))
    }

    /// The prefix of this root's names in device-mapper.
    pub(crate) fn prefix(&self, family: &str) -> Result<String> {
        let found = fs::metadata(&self.path)?;
        let (dev, inode) = (found.dev(), found.ino());
        let major = (dev >> 8) & 0xfff;
        let minor = (dev & 0xff) | ((dev >> 12) & 0xf_ff00);
        Ok(format!("{family}-{major}:{minor}-{inode}"))
    }

    /// The thin ids in the pool, by its own metadata. The pool has to be inactive.
    pub(crate) fn thin_ids(&self) -> Result<Vec<u64>> {
        let metadata = self.path.join("devicemapper/metadata");
        let list = harness::run(
            "thin_ls",
            ["--no-headers", "--format", "DEV", metadata.to_str().context("no UTF-8")?],
        )?;
        list.stdout_text().split_whitespace().map(|id| Ok(id.parse()?)).collect()
    }
}

/// What a folder holds, by path.
pub(crate) type Contents = BTreeMap<PathBuf, Entry>;

/// A file, a folder or a link.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its kind and permissions.
    mode: u32,
    owner: (u32, u32),
    links: u64,
    /// Of a file.
    length: u64,
    /// Of a file's bytes, or of a link's target.
    checksum: u64,
}

/// A folder and all that is in it; of the lock's text, which says who asked last, nothing.
pub(crate) fn contents(folder: &Path) -> Result<Contents> {
    let mut found = BTreeMap::new();
    let mut paths = vec![folder.to_owned()];
    while let Some(path) = paths.pop() {
        let facts = fs::symlink_metadata(&path)?;
        let (length, checksum) = if facts.is_dir() {
            for entry in fs::read_dir(&path)? {
                paths.push(entry?.path());
            }
            (0, 0)
        } else if facts.is_symlink() {
            let mut sum = DefaultHasher::new();
            sum.write(fs::read_link(&path)?.as_os_str().as_encoded_bytes());
            (0, sum.finish())
        } else if path.ends_with("thinlayer/lock") {
            (0, 0)
        } else {
            (facts.len(), checksum(&path)?)
        };
        let (mode, owner) = (facts.mode(), (facts.uid(), facts.gid()));
        found.insert(path, Entry { mode, owner, links: facts.nlink(), length, checksum });
    }
    Ok(found)
}

/// Of all blocks that are not zero, with their places: most of a pool's files is holes, which are not read.
fn checksum(path: &Path) -> Result<u64> {
    static ZERO: [u8; 64 << 10] = [0; 64 << 10];
    let (mut file, mut block, mut place) = (fs::File::open(path)?, ZERO, 0_u64);
    let mut sum = DefaultHasher::new();
    loop {
        if place.is_multiple_of(1 << 20) {
            match lseek(&file, i64::try_from(place)?, Whence::SeekData) {
                // Blocks have the same places whether what is before them is a hole or not.
                Ok(data) => place = u64::try_from(data)? >> 20 << 20,
                Err(Errno::ENXIO) => return Ok(sum.finish()),
                Err(Errno::EINVAL) => {}
                Err(error) => return Err(error.into()),
            }
            file.seek(SeekFrom::Start(place))?;
        }
        let length = file.read(&mut block)?;
        if length == 0 {
            return Ok(sum.finish());
        }
        if block[..length] != ZERO[..length] {
            sum.write_u64(place);
            sum.write(&block[..length]);
        }
        place += length as u64;
    }
}

pub(crate) fn unchanged(before: &Contents, after: &Contents) -> Result<()> {
    ensure!(!before.is_empty(), "there is nothing to compare");
    let changed: Vec<_> =
        before.keys().chain(after.keys()).filter(|path| before.get(*path) != after.get(*path)).collect();
    ensure!(changed.is_empty(), "these have changed: {changed:?}");
    Ok(())
}

/// A folder that is a file system of its own, unmounted when dropped.
pub(crate) struct Disk {
    pub(crate) path: PathBuf,
    _device: harness::LoopFile,
}

impl Disk {
    pub(crate) fn new(name: &str, bytes: u64) -> Result<Self> {
        let device = harness::LoopFile::new(name, bytes)?;
        let node = device.device().to_str().context("no UTF-8")?.to_owned();
        harness::run("mkfs.ext4", ["-q", "-m", "0", &node])?;
        let path = scratch_dir()?.join(format!("disk-{name}"));
        fs::create_dir_all(&path)?;
        harness::run("mount", [Path::new(&node), &path])?;
        Ok(Self { path, _device: device })
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _unmounted = harness::try_run("umount", [&self.path]);
    }
}

/// A thin pool as an administrator makes one, removed when dropped.
pub(crate) struct GivenPool {
    pub(crate) name: String,
    pub(crate) data: harness::LoopFile,
    pub(crate) metadata: harness::LoopFile,
}

impl GivenPool {
    pub(crate) fn new(name: &str, data_mib: u64) -> Result<Self> {
        let data = harness::LoopFile::new(&format!("{name}-data"), data_mib << 20)?;
        let metadata = harness::LoopFile::new(&format!("{name}-metadata"), 4 << 20)?;
        let pool = Self { name: name.to_owned(), data, metadata };
        pool.make(data_mib << 20)?;
        Ok(pool)
    }

    pub(crate) fn make(&self, bytes: u64) -> Result<()> {
        let table = format!(
            "0 {} thin-pool {} {} 128 0 1 skip_block_zeroing",
            bytes / 512,
            self.metadata.device().display(),
            self.data.device().display()
        );
        harness::run("dmsetup", ["create", &self.name, "--table", &table]).map(drop)
    }

    pub(crate) fn remove(&self) -> Result<()> {
        harness::run("dmsetup", ["remove", "--retry", &self.name]).map(drop)
    }

    pub(crate) fn option(&self) -> String {
        format!("dm.thinpooldev=/dev/mapper/{}", self.name)
    }
}

impl Drop for GivenPool {
    fn drop(&mut self) {
        let _removed = harness::try_run("dmsetup", ["remove", "--retry", &self.name]);
    }
}
