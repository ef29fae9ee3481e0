//! `--read-only`: a root that is at rest, damaged or full, is looked at, and not a byte of it changes.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::fixture::{Disk, GivenPool, Root, contents, small_root, unchanged};

/// A root as a power cut leaves it: `b` mounted, with a journal that was not replayed and a file that was unlinked while open.
fn crashed(name: &str, filesystem: &str) -> Result<Root> {
    let root = small_root(&format!("{name}-made"), filesystem)?;
    root.layer("a", None)?;
    root.layer("b", Some("a"))?;
    let tree = root.line(&["mount", "b"])?;
    let tree = Path::new(&tree);
    let orphan = fs::File::create(tree.join("orphan"))?;
    orphan.set_len(100_000)?;
    fs::write(tree.join("late"), "late")?;
    fs::remove_file(tree.join("orphan"))?;
    // Everything is on the disk, and nothing was unmounted.
    for path in [tree, root.path.as_path()] {
        harness::run("sync", [Path::new("-f"), path])?;
    }
    let copy = small_root(name, filesystem)?;
    harness::run("cp", [Path::new("-a"), Path::new("--sparse=always"), &root.path, &copy.path])?;
    let _ = fs::remove_dir_all(copy.path.join("mnt"));
    drop(orphan);
    root.run(&["umount", "b"])?;
    root.stop()?;
    Ok(copy)
}

/// Nothing of the root is in the kernel.
pub(crate) fn gone(root: &Root) -> Result<()> {
    let devices = harness::run("dmsetup", ["ls"])?.stdout_text();
    ensure!(!devices.contains(&root.prefix("docker")?), "still there: {devices}");
    let loops = harness::run("losetup", ["--list", "--noheadings", "--output", "BACK-FILE"])?.stdout_text();
    ensure!(!loops.contains(&*root.path.to_string_lossy()), "still attached: {loops}");
    Ok(())
}

/// Looks at everything there is to see.
pub(crate) fn look(root: &Root) -> Result<()> {
    ensure!(root.run(&["--read-only", "ls"])?.contains('b'), "ls does not show b");
    root.run(&["--read-only", "inspect", "b"])?;
    let status = root.json(&["--read-only", "status"])?;
    ensure!(status["layers"] == 2, "{status}");
    gone(root)?;
    // Interrupted or damaged, it says so; it does not fail.
    let report = root.try_run(&["--read-only", "check"])?;
    ensure!(report.status.code().is_some_and(|code| code < 2), "{report:?}");
    gone(root)
}

pub(crate) fn at_rest(filesystem: &str) -> Result<()> {
    let root = crashed("root", filesystem)?;
    let before = contents(&root.path)?;
    look(&root)?;
    let tree = root.line(&["--read-only", "mount", "b"])?;
    let tree = Path::new(&tree);
    ensure!(fs::read_to_string(tree.join("of-a"))? == "content of a", "a's file has changed");
    ensure!(fs::write(tree.join("new"), "x").is_err(), "the tree can be written");
    ensure!(root.line(&["--read-only", "mount", "b"])? == tree.to_string_lossy(), "another place");
    look_while_mounted(&root)?;
    // Somebody who wants to write is told.
    let said = root.refused(&["create", "c"], 5)?;
    ensure!(said.contains("--read-only") && said.contains('b'), "{said}");
    unchanged(&before, &contents(&root.path)?).context("while b is mounted")?;
    root.run(&["--read-only", "umount", "b"])?;
    gone(&root)?;
    root.run(&["--read-only", "mount", "a"])?;
    root.run(&["--read-only", "stop"])?;
    gone(&root)?;
    unchanged(&before, &contents(&root.path)?)?;
    for words in [&["--read-only", "create", "c"][..], &["--read-only", "rm", "b"], &["--read-only", "serve"]]
    {
        root.refused(words, 2)?;
    }
    // A read-only pool that a killed command left is no obstacle.
    root.run(&["--read-only", "mount", "a"])?;
    let place = root.json(&["--read-only", "mount", "a"])?;
    let place = place["path"].as_str().context("no path")?.to_owned();
    harness::run("umount", [Path::new(&place).parent().context("no parent")?])?;
    root.layer("c", Some("b"))?;
    root.holds("c", "a")?;
    root.check()?;
    root.stop()
}

fn look_while_mounted(root: &Root) -> Result<()> {
    let status = root.json(&["--read-only", "status"])?;
    ensure!(status["trouble"].is_null(), "a pool that was asked to be read-only is no trouble: {status}");
    root.run(&["--read-only", "check"]).map(drop)
}

/// A file system without a free byte, then one that cannot be written at all.
pub(crate) fn full() -> Result<()> {
    let root = crashed("root", "ext4")?;
    let disk = Disk::new("full", 160 << 20)?;
    let path = disk.path.join("root");
    harness::run("cp", [Path::new("-a"), Path::new("--sparse=always"), &root.path, &path])?;
    let full = Root::with(&path, root.options.clone())?;
    let shell = format!("dd if=/dev/zero of={}/filler bs=1M 2>/dev/null; sync -f {0}", disk.path.display());
    harness::try_run("sh", ["-c", &shell])?;
    let before = contents(&full.path)?;
    for read_only in [false, true] {
        if read_only {
            harness::run("mount", [Path::new("-o"), Path::new("remount,ro"), &disk.path])?;
        }
        look(&full)?;
        let tree = full.line(&["--read-only", "mount", "b"])?;
        ensure!(fs::read_to_string(Path::new(&tree).join("of-a"))? == "content of a", "a's file has changed");
        full.run(&["--read-only", "umount", "b"])?;
        gone(&full)?;
    }
    unchanged(&before, &contents(&full.path)?)?;
    drop(full);
    drop(disk);
    Ok(())
}

/// A record that is no record, and a pool that the kernel has marked.
pub(crate) fn damaged() -> Result<()> {
    let root = crashed("root", "ext4")?;
    let record = fs::read(root.record("a"))?;
    fs::write(root.record("a"), &record[..20])?;
    set_needs_check(&root.path.join("devicemapper/metadata"))?;
    let before = contents(&root.path)?;
    let said = root.said(&["--read-only", "ls"])?;
    ensure!(said.contains('a') && root.list()? == ["b"], "{said}");
    let status = root.json(&["--read-only", "status"])?;
    ensure!(status["trouble"].as_str().is_some_and(|text| text.contains("check")), "{status}");
    let report = root.try_run(&["--read-only", "check"])?;
    let found = report.stdout_text();
    ensure!(found.contains("needs-check") && found.contains("damaged-record"), "{report:?}");
    let tree = root.line(&["--read-only", "mount", "b"])?;
    ensure!(fs::read_to_string(Path::new(&tree).join("of-a"))? == "content of a", "a's file has changed");
    root.refused(&["--read-only", "mount", "a"], 7)?;
    root.run(&["--read-only", "umount", "b"])?;
    gone(&root)?;
    unchanged(&before, &contents(&root.path)?)
}

/// `THIN_METADATA_NEEDS_CHECK_FLAG` in the superblock, with its checksum.
fn set_needs_check(metadata: &Path) -> Result<()> {
    let file = fs::File::options().read(true).write(true).open(metadata)?;
    let mut block = [0; 4096];
    file.read_exact_at(&mut block, 0)?;
    block[4] |= 1;
    let mut sum = u32::MAX;
    for byte in &block[4..] {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = if sum & 1 == 1 { sum >> 1 ^ 0x82f6_3b78 } else { sum >> 1 };
        }
    }
    block[..4].copy_from_slice(&(sum ^ 160_774).to_le_bytes());
    Ok(file.write_all_at(&block, 0)?)
}

/// A pool that somebody else keeps up: thin devices alone are read-only.
pub(crate) fn given_pool() -> Result<()> {
    let pool = GivenPool::new("graph-looking", 96)?;
    let root = Root::with(
        &harness::scratch_dir()?.join("root"),
        vec![pool.option(), "dm.fs=ext4".into(), "dm.basesize=48M".into()],
    )?;
    root.layer("a", None)?;
    root.run(&["stop"])?;
    let before = contents(&root.path)?;
    let data = contents(pool.data.file().parent().context("no folder")?)?;
    let tree = root.line(&["--read-only", "mount", "a"])?;
    ensure!(fs::read_to_string(Path::new(&tree).join("of-a"))? == "content of a", "a's file has changed");
    let said = root.refused(&["mount", "a"], 5)?;
    ensure!(said.contains("--read-only"), "{said}");
    root.run(&["--read-only", "umount", "a"])?;
    unchanged(&before, &contents(&root.path)?)?;
    let file = pool.data.file();
    ensure!(
        contents(file.parent().context("no folder")?)?.get(file) == data.get(file),
        "the data has changed"
    );
    root.holds("a", "a")?;
    root.run(&["stop"]).map(drop)
}
