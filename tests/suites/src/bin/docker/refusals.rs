//! What must not be opened is refused before anything is loaded or written.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use harness::{LoopFile, scratch_dir};

use crate::fixture::{Root, options};
use crate::found::{Found, rows};

/// While dockerd runs, looking is all that is allowed.
pub(crate) fn running_dockerd(root: &Root) -> Result<()> {
    let before = Found::at(&root.path)?;
    let layers = root.ids()?;
    ensure!(!layers.is_empty(), "ls shows nothing beside a running dockerd");
    let id = layers.first().context("no layer")?;
    for words in [vec!["create", "new"], vec!["rm", id], vec!["mount", id], vec!["stop"]] {
        let words = [vec!["--wait", "0"], words].concat();
        let said = root.refused(&words, 5)?;
        ensure!(said.contains("dockerd"), "{words:?}: {said}");
    }
    before.unchanged(&root.path, "beside a running dockerd")
}

/// Another loop device on the data file: two pools on one file would break both.
pub(crate) fn second_loop_device(root: &Root) -> Result<()> {
    for file in ["data", "metadata"] {
        let file = root.path.join("devicemapper").join(file);
        let shown = harness::run("losetup", ["--find".as_ref(), "--show".as_ref(), file.as_os_str()])?;
        let device = shown.stdout_text();
        let before = Found::at(&root.path)?;
        let refused = root.refused(&["create", "new"], 5);
        let unchanged = before.unchanged(&root.path, "with a second loop device");
        harness::run("losetup", ["--detach", &device])?;
        let said = refused?;
        ensure!(said.contains(&device), "the device is not named: {said}");
        unchanged?;
    }
    Ok(())
}

/// A pool of this root's name that stands on other files.
pub(crate) fn foreign_pool_of_this_name(root: &Root) -> Result<()> {
    // The name is the kernel's word for this root; a start of the root tells it.
    let name = crate::found::row(&rows(root)?, "Pool Name")?.to_owned();
    root.stop_and_check()?;
    let (data, metadata) =
        (LoopFile::new("other-data", 64 << 20)?, LoopFile::new("other-metadata", 4 << 20)?);
    let table = format!(
        "0 131072 thin-pool {} {} 128 0 1 skip_block_zeroing",
        metadata.device().display(),
        data.device().display()
    );
    harness::run("dmsetup", ["create", &name, "--table", &table])?;
    let before = Found::at(&root.path)?;
    let output = root.try_run(&["create", "new"])?;
    let unchanged = before.unchanged(&root.path, "with a foreign pool of its name");
    harness::run("dmsetup", ["remove", "--retry", &name])?;
    ensure!(!output.status.success(), "it was taken: {output:?}");
    ensure!(output.stderr_text().lines().count() == 1, "not one line: {output:?}");
    unchanged
}

/// The pool of another root, named by an option.
pub(crate) fn pool_of_another_root(root: &Root) -> Result<()> {
    let other = Root::with(&scratch_dir()?.join("other"), options("ext4"))?;
    other.quiet(&["create", "theirs"])?;
    let pool = crate::found::row(&rows(&other)?, "Pool Name")?.to_owned();
    let (before, before_there) = (Found::at(&root.path)?, Found::at(&other.path)?);
    let transaction = crate::found::transaction_id(&pool)?;
    let option = format!("dm.thinpooldev={pool}");
    let output = root.try_run(&["--storage-opt", &option, "create", "new"])?;
    ensure!(!output.status.success(), "it was taken: {output:?}");
    before.unchanged(&root.path, "with another root's pool, here")?;
    before_there.unchanged(&other.path, "with another root's pool, there")?;
    ensure!(crate::found::transaction_id(&pool)? == transaction, "the other root's pool was changed");
    other.quiet(&["rm", "theirs"])?;
    other.stop_and_check()?;
    fs::remove_dir_all(Path::new(&other.path))?;
    Ok(())
}
