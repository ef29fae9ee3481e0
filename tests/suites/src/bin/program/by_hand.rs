//! What somebody did by hand to a layer's device or mount point, with the real tools: `check` finds it, and touches nothing that is in use.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::checking::{clean, dmsetup, expect, layer, made, outcomes, pool, report};
use crate::fixture::Root;

/// A pool's number: without udev it has no node.
fn number(pool: &str) -> Result<String> {
    let words = ["info", "--columns", "--noheadings", "--separator", ":", "-o", "major,minor", pool];
    Ok(dmsetup(&words)?.trim().to_owned())
}

/// A layer's device, made by hand with this table, and away again at the end.
struct ByHand {
    name: String,
}

impl ByHand {
    fn new(root: &Root, id: &str, table: &str) -> Result<Self> {
        let name = layer(root, id, "device_name")?;
        dmsetup(&["create", &name, "--table", table])?;
        harness::wait_for_udev()?;
        Ok(Self { name })
    }
}

impl Drop for ByHand {
    fn drop(&mut self) {
        let _gone = dmsetup(&["remove", "--retry", &self.name]);
    }
}

pub(crate) fn devices() -> Result<()> {
    let root = made("root")?;
    let other = made("other")?;
    let (ours, theirs) = (number(&pool(&root)?)?, number(&pool(&other)?)?);
    let sectors = layer(&root, "a", "size")?.parse::<u64>()? / 512;
    let thin = |id: &str| layer(&root, id, "device_id");
    {
        let a = ByHand::new(&root, "a", &format!("0 {sectors} thin {ours} {}", thin("b")?))?;
        let b = ByHand::new(&root, "b", &format!("0 {} thin {ours} {}", sectors / 2, thin("b")?))?;
        let c = ByHand::new(&root, "c", &format!("0 {sectors} zero"))?;
        let expected = [
            ("wrong-device", &*a.name),
            ("wrong-size", &*b.name),
            ("wrong-table", &*c.name),
            ("idle-device", &*a.name),
            ("idle-device", &*b.name),
            ("idle-device", &*c.name),
        ];
        expect(&report(&root, &[])?, &expected)?;
    }
    {
        let a = ByHand::new(&root, "a", &format!("0 {sectors} thin {theirs} {}", thin("a")?))?;
        expect(&report(&root, &[])?, &[("wrong-pool", &a.name), ("idle-device", &a.name)])?;
        // Nobody uses it, and it stands for nothing that it could lose.
        expect(&report(&root, &["--repair"])?, &[])?;
        ensure!(!dmsetup(&["ls"])?.contains(&*a.name), "it is still there");
    }
    clean(&root, "snapshot")?;
    clean(&other, "snapshot")?;
    other.quiet(&["stop"])?;

    // In use, and held back.
    let tree = PathBuf::from(root.run(&["mount", "a"])?.trim_end());
    let name = layer(&root, "a", "device_name")?;
    dmsetup(&["suspend", &name])?;
    let held_back = report(&root, &[]);
    dmsetup(&["resume", &name])?;
    expect(&held_back?, &[("suspended-device", &name)])?;
    ensure!(fs::read(tree.join("file"))?.len() == 1 << 20, "the layer is not whole");

    // Somebody else's file system over a layer's, and at the place of one that is not mounted.
    let (over, stray) = (root.path.join("mnt/a"), root.path.join("mnt/c"));
    fs::create_dir_all(&stray)?;
    for place in [&over, &stray] {
        harness::run("mount", ["-t".as_ref(), "tmpfs".as_ref(), "none".as_ref(), place.as_os_str()])?;
    }
    let looked = report(&root, &["--repair"]);
    for place in [&over, &stray] {
        harness::run("umount", [place])?;
    }
    expect(&looked?, &[("wrong-mount", "a"), ("stray-mount", "c")])?;
    ensure!(fs::read(tree.join("file"))?.len() == 1 << 20, "the layer is not whole");
    root.quiet(&["umount", "a"])?;
    clean(&root, "snapshot")?;
    root.stop_and_check()
}

/// A growth that was cut off is told at rest, and finished by a repair.
pub(crate) fn growth() -> Result<()> {
    let root = made("root")?;
    root.stop_and_check()?;
    let path = root.path.join("metadata/c");
    let mut record: Value = serde_json::from_slice(&fs::read(&path)?)?;
    let larger = record["size"].as_u64().context("no size")? + (64 << 20);
    record["size"] = larger.into();
    record["thinlayer"]["grow_pending"] = true.into();
    fs::write(&path, record.to_string())?;
    let before = report(&root, &[])?;
    expect(&before, &[("grow-pending", "c")])?;
    let repaired = report(&root, &["--repair"])?;
    expect(&repaired, &[])?;
    outcomes(&repaired, "done", 1)?;
    let tree = root.run(&["mount", "c"])?;
    let size = nix::sys::statvfs::statvfs(tree.trim_end())?;
    let bytes = size.blocks() * size.fragment_size();
    ensure!(bytes > larger - (64 << 20), "the file system has {bytes} bytes");
    root.quiet(&["umount", "c"])?;
    root.stop_and_check()
}
