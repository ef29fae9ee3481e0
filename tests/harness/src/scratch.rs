//! Files for tests, on the disk that survives power cuts.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The test's own folder on the scratch disk (ext4, many GiB): empty when a test starts, and left as it is by a
/// power cut.
pub fn scratch_dir() -> Result<PathBuf> {
    let folder = std::env::var_os("THINLAYER_SCRATCH").context(
        "THINLAYER_SCRATCH is not set: tests that need a disk run in the VM, see docs/vm-tests.md",
    )?;
    let folder = PathBuf::from(folder);
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

/// Text files left here by `cargo xtask bench` or `vm` come back to the host.
pub fn results_dir() -> Result<PathBuf> {
    let folder = PathBuf::from(
        std::env::var_os("THINLAYER_RESULTS")
            .context("THINLAYER_RESULTS is not set: not started by the agent")?,
    );
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

/// A new sparse file of this size.
pub fn sparse_file(path: &Path, bytes: u64) -> Result<()> {
    let file = File::create_new(path).with_context(|| format!("cannot make {}", path.display()))?;
    file.set_len(bytes).with_context(|| format!("cannot make {} {bytes} bytes long", path.display()))?;
    Ok(())
}

/// A loop device on a new sparse file, made with `losetup` (an oracle: the crates have their own way). Detached
/// and deleted when it is dropped.
#[derive(Debug)]
pub struct LoopFile {
    file: PathBuf,
    device: PathBuf,
}

impl LoopFile {
    /// A loop device of this size, on a file of this name in [`scratch_dir`].
    pub fn new(name: &str, bytes: u64) -> Result<Self> {
        let file = scratch_dir()?.join(name);
        sparse_file(&file, bytes)?;
        let file_text = file.to_str().context("the scratch folder's path is not UTF-8")?;
        let shown = crate::run("losetup", ["--find", "--show", file_text])?;
        Ok(Self { file, device: PathBuf::from(shown.stdout_text()) })
    }

    /// The loop device's node.
    pub fn device(&self) -> &Path {
        &self.device
    }

    /// The file behind it.
    pub fn file(&self) -> &Path {
        &self.file
    }
}

impl Drop for LoopFile {
    fn drop(&mut self) {
        // A test that fails leaves its device busy; the agent sweeps after it.
        let _detached = crate::try_run("losetup", [Path::new("--detach"), self.device.as_path()]);
        let _deleted = std::fs::remove_file(&self.file);
    }
}
