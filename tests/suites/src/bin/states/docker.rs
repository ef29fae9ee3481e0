//! What Docker's driver leaves on disk: its records byte for byte, its pool by hand.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::fixture::Root;

pub(crate) const DEVICE_SET: &str = "deviceset-metadata";
pub(crate) const TRANSACTION: &str = "transaction-metadata";

/// A record as it is.
pub(crate) fn record(root: &Root, id: &str) -> Result<Value> {
    Ok(serde_json::from_slice(&fs::read(root.record(id))?)?)
}

/// A record in Docker's words.
pub(crate) fn docker_record(device_id: u64, size: u64, transaction_id: u64, initialized: bool) -> String {
    format!(
        r#"{{"device_id":{device_id},"size":{size},"transaction_id":{transaction_id},"initialized":{initialized},"deleted":false}}"#
    )
}

/// Takes away what only we write, so that the root is one that Docker made. It has to be at rest.
pub(crate) fn as_docker_leaves_it(root: &Root) -> Result<()> {
    for entry in fs::read_dir(root.path.join("metadata"))? {
        let path = entry?.path();
        let name = path.file_name().context("no name")?.to_string_lossy().into_owned();
        if name == DEVICE_SET || name.starts_with('.') {
            continue;
        }
        let old: Value = serde_json::from_slice(&fs::read(&path)?)?;
        let number = |key: &str| old[key].as_u64().with_context(|| format!("{name} has no {key}"));
        let text = if name == TRANSACTION {
            let id = number("open_transaction_id")?;
            let hash = old["device_hash"].as_str().unwrap_or_default();
            format!(
                r#"{{"open_transaction_id":{id},"device_hash":"{hash}","device_id":{}}}"#,
                number("device_id")?
            )
        } else {
            docker_record(
                number("device_id")?,
                number("size")?,
                number("transaction_id")?,
                old["initialized"] == true,
            )
        };
        fs::write(path, text)?;
    }
    let ours = root.path.join("thinlayer");
    if ours.exists() {
        fs::remove_dir_all(ours)?;
    }
    Ok(())
}

/// A root's loop pool, brought up by hand under the name that Docker gives it.
pub(crate) struct HandPool {
    name: String,
    loops: Vec<PathBuf>,
}

impl HandPool {
    pub(crate) fn up(root: &Root) -> Result<Self> {
        let attach = |file: &str| -> Result<PathBuf> {
            let path = root.path.join("devicemapper").join(file);
            let shown = harness::run("losetup", [Path::new("--find"), Path::new("--show"), &path])?;
            Ok(shown.stdout_text().into())
        };
        let loops = vec![attach("metadata")?, attach("data")?];
        let sectors = fs::metadata(root.path.join("devicemapper/data"))?.len() / 512;
        let name = format!("{}-pool", root.prefix("docker")?);
        let table = format!(
            "0 {sectors} thin-pool {} {} 128 32768 1 skip_block_zeroing",
            loops[0].display(),
            loops[1].display()
        );
        let pool = Self { name, loops };
        harness::run("dmsetup", ["create", &pool.name, "--table", &table])?;
        // Without udev nobody else makes its node.
        harness::run("dmsetup", ["mknodes", &pool.name])?;
        Ok(pool)
    }

    pub(crate) fn message(&self, message: &str) -> Result<()> {
        harness::run("dmsetup", ["message", &self.name, "0", message]).map(drop)
    }

    /// The pool's transaction id.
    pub(crate) fn transaction_id(&self) -> Result<u64> {
        let status = harness::run("dmsetup", ["status", &self.name])?.stdout_text();
        Ok(status.split_whitespace().nth(3).context("no status")?.parse()?)
    }

    /// Activates a thin device of the pool.
    pub(crate) fn activate(&self, name: &str, bytes: u64, id: u64) -> Result<PathBuf> {
        let table = format!("0 {} thin /dev/mapper/{} {id}", bytes / 512, self.name);
        harness::run("dmsetup", ["create", name, "--table", &table])?;
        harness::run("dmsetup", ["mknodes", name])?;
        Ok(Path::new("/dev/mapper").join(name))
    }

    /// Everything stays up, as when dockerd is killed; the loop devices go with the pool.
    pub(crate) fn leave(mut self) -> Result<()> {
        // A device that is in use frees itself at its last close.
        std::mem::take(&mut self.loops)
            .iter()
            .try_for_each(|device| harness::run("losetup", [Path::new("--detach"), device]).map(drop))
    }
}

impl Drop for HandPool {
    fn drop(&mut self) {
        if self.loops.is_empty() {
            return;
        }
        let _removed = harness::try_run("dmsetup", ["remove", "--retry", &self.name]);
        for device in &self.loops {
            let _detached = harness::try_run("losetup", [Path::new("--detach"), device]);
        }
    }
}
