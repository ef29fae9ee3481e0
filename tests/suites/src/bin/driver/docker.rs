//! The cases of Docker's own driver tests, section 7.1 of the specification.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use thinlayer_graphdriver::{Bytes, Removed, Unmount};

use crate::fixture::{Fixture, options};

const MIB: u64 = 1 << 20;

/// The options of the fixture with other sizes of the two files.
fn sized(filesystem: &str, data_mib: u64, metadata_mib: u64) -> Vec<String> {
    let mut options = options(filesystem);
    options.retain(|option| !option.starts_with("dm.loop"));
    options.push(format!("dm.loopdatasize={data_mib}M"));
    options.push(format!("dm.loopmetadatasize={metadata_mib}M"));
    options
}

fn expect_totals(fixture: &Fixture, data_mib: u64, metadata_mib: u64) -> Result<()> {
    let status = fixture.status()?;
    let totals = (status.data_total, status.metadata_total);
    ensure!(
        totals == (Bytes(data_mib * MIB), Bytes(metadata_mib * MIB)),
        "the totals are {totals:?}, not {data_mib} and {metadata_mib} MiB"
    );
    Ok(())
}

pub(crate) fn loop_files_never_shrink(filesystem: &str) -> Result<()> {
    let mut fixture = Fixture::with("sizes", sized(filesystem, 300, 200))?;
    expect_totals(&fixture, 300, 200)?;
    fixture.stop()?;
    fixture.options = sized(filesystem, 290, 190);
    fixture.open()?;
    expect_totals(&fixture, 300, 200)?;
    fixture.finish()
}

pub(crate) fn loop_files_grow(filesystem: &str) -> Result<()> {
    let mut fixture = Fixture::with("sizes", sized(filesystem, 300, 200))?;
    let id = fixture.layer("kept", None)?;
    fixture.within(&id, |tree| Ok(fs::write(tree.join("file"), "kept")?))?;
    fixture.stop()?;
    fixture.options = sized(filesystem, 310, 210);
    fixture.open()?;
    expect_totals(&fixture, 310, 210)?;
    // Also under a pool that was left active, where Docker's driver would not look (C20).
    fixture.close();
    fixture.options = sized(filesystem, 320, 220);
    fixture.open()?;
    expect_totals(&fixture, 320, 220)?;
    fixture.within(&id, |tree| {
        ensure!(fs::read(tree.join("file"))? == b"kept", "the layer changed");
        Ok(())
    })?;
    fixture.remove(&id)?;
    fixture.finish()
}

/// After a pass of the worker nothing is locked.
pub(crate) fn the_worker_leaves_no_lock(filesystem: &str) -> Result<()> {
    let fixture = Fixture::new(filesystem)?;
    let id = fixture.layer("gone", None)?;
    ensure!(fixture.remove(&id)? == Removed::Deferred, "discard is on, so the removal is deferred");
    ensure!(fixture.deferred() == 1, "{} removals are deferred", fixture.deferred());
    fixture.work_off()?;
    ensure!(fixture.deferred() == 0, "the worker left {}", fixture.deferred());
    let start = Instant::now();
    fixture.layer("next", None)?;
    ensure!(start.elapsed() < Duration::from_secs(5), "a create took {:?}", start.elapsed());
    fixture.finish()
}

/// A mount that leaked into another mount namespace does not keep Put from succeeding.
pub(crate) fn mounts_that_leak_are_put(filesystem: &str) -> Result<()> {
    let mut options = options(filesystem);
    options.push("dm.use_deferred_removal=false".into());
    options.push("dm.use_deferred_deletion=false".into());
    let fixture = Fixture::with("leak", options)?;
    let id = fixture.layer("leaked", None)?;
    let tree = fixture.get(&id, None)?;
    // A process in a mount namespace of its own has a copy of the mount.
    let mut other = std::process::Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", "echo ready; exec sleep 600"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .context("cannot start unshare")?;
    let mut line = String::new();
    let stdout = other.stdout.take().context("no pipe")?;
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line)?;
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", other.id()))?;
    let put = fixture.put(&id, Unmount::Now);
    other.kill()?;
    other.wait()?;
    ensure!(
        mounts.contains("leaked"),
        "the other namespace has no copy of the mount; the test shows nothing"
    );
    put.context("put failed")?;
    ensure!(!tree.exists(), "the tree is still there");
    fixture.remove(&id)?;
    fixture.finish()
}
