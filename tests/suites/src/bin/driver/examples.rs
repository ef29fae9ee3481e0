//! The crates' examples, as they stand, on the real kernel.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Result, anyhow, ensure};
use harness::LoopFile;
use thinlayer_dm::Sectors;

#[expect(dead_code, reason = "an example has a main of its own")]
#[path = "../../../../../crates/graphdriver/examples/layer.rs"]
mod layer;
#[expect(dead_code, reason = "an example has a main of its own")]
#[path = "../../../../../crates/filesystem/examples/life.rs"]
mod life;
#[expect(dead_code, reason = "an example has a main of its own")]
#[path = "../../../../../crates/provision/examples/pair.rs"]
mod pair;
#[expect(dead_code, reason = "an example has a main of its own")]
#[path = "../../../../../crates/thin/examples/snapshot.rs"]
mod snapshot;
#[expect(dead_code, reason = "an example has a main of its own")]
#[path = "../../../../../crates/dm/examples/window.rs"]
mod window;

fn worked<T>(outcome: Result<T, Box<dyn std::error::Error>>) -> Result<T> {
    outcome.map_err(|error| anyhow!("{error}"))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

pub(crate) fn device_mapper() -> Result<()> {
    let disk = LoopFile::new("disk", 1 << 20)?;
    let device = File::options().write(true).open(disk.device())?;
    device.write_all_at(b"seen through it.", 8 * 512)?;
    // A mapping does not see the device's page cache, which a close writes back only if nobody else (udev) has it open.
    device.sync_all()?;
    drop(device);
    let seen = worked(window::window(text(disk.device()), Sectors(8), Sectors(64)))?;
    ensure!(seen == b"seen through it.", "{seen:?}");
    let beyond = window::window(text(disk.device()), Sectors(2040), Sectors(64));
    ensure!(beyond.is_err(), "a window beyond the device's end");
    Ok(())
}

/// The devices of the one are the other's.
pub(crate) fn pool() -> Result<()> {
    let pair = worked(pair::run(&harness::scratch_dir()?.join("pair")))?;
    let (data, metadata) = (&pair.data.attachment.node, &pair.metadata.attachment.node);
    worked(snapshot::run(text(data), text(metadata)))?;
    harness::run("thin_check", [metadata])?;
    let Err(again) = snapshot::run(text(data), text(metadata)) else {
        anyhow::bail!("the pool was made anew")
    };
    // What the first run left in the pool.
    ensure!(again.to_string().contains("exists already"), "{again}");
    Ok(())
}

pub(crate) fn file_system() -> Result<()> {
    let disk = LoopFile::new("disk", 400 << 20)?;
    let folder = harness::scratch_dir()?.join("mnt");
    fs::create_dir(&folder)?;
    worked(life::run(disk.device(), &folder))?;
    harness::run("xfs_repair", [Path::new("-n"), disk.device()])?;
    ensure!(life::run(disk.device(), &folder).is_err(), "a file system was made on top of another");
    Ok(())
}

pub(crate) fn layers() -> Result<()> {
    worked(layer::run(&harness::scratch_dir()?.join("layers")))
}
