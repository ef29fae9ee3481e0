//! The pool that belongs to a root (I9): another one is refused before a byte is written.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Result, ensure};
use harness::{LoopFile, scratch_dir};

use crate::fixture::{Disk, GivenPool, Root, options, small_root};

/// What every refusal of a changed pool names: old, new, and what to do.
fn names(said: &str, parts: &[&str]) -> Result<()> {
    for part in parts {
        ensure!(said.contains(part), "{part} is not in: {said}");
    }
    Ok(())
}

fn with(root: &Root, items: &[&str]) -> Result<Root> {
    let mut options = root.options.clone();
    options.extend(items.iter().map(ToString::to_string));
    Root::with(&root.path, options)
}

/// A loop root that is given other pools, and gets its own files back changed.
pub(crate) fn loop_root() -> Result<()> {
    let root = small_root("root", "ext4")?;
    root.layer("a", None)?;
    root.stop()?;
    let pool = GivenPool::new("graph-foreign", 32)?;
    let (data, metadata) = (LoopFile::new("data", 128 << 20)?, LoopFile::new("metadata", 4 << 20)?);
    let devices = [
        format!("dm.datadev={}", data.device().display()),
        format!("dm.metadatadev={}", metadata.device().display()),
    ];
    for remembered in [true, false] {
        if !remembered {
            // As Docker leaves a root: the files themselves have to say it.
            fs::remove_file(root.path.join("thinlayer/pool.json"))?;
        }
        let said = with(&root, &[&pool.option()])?.refused_untouched(&["create", "b"], 2)?;
        names(&said, &["graph-foreign", "nothing was changed"])?;
        let said = with(&root, &[&devices[0], &devices[1]])?.refused_untouched(&["create", "b"], 2)?;
        names(&said, &["dm.datadev", "nothing was changed"])?;
    }
    let status = harness::run("dmsetup", ["status", "graph-foreign"])?.stdout_text();
    ensure!(status.contains(" 0/512 "), "something is in the other pool: {status}");
    drop(pool);

    // A data file that was cut short, then blank metadata: the kernel would make a new pool of it.
    let files = root.path.join("devicemapper");
    let file = fs::File::options().write(true).open(files.join("data"))?;
    file.set_len(64 << 20)?;
    let said = root_as_found(&root)?.refused_untouched(&["create", "b"], 2)?;
    names(&said, &["67.11MB", "100.7MB", "cut short"])?;
    file.set_len(96 << 20)?;
    let metadata = fs::File::options().read(true).write(true).open(files.join("metadata"))?;
    let mut first = [0; 4096];
    metadata.read_exact_at(&mut first, 0)?;
    metadata.write_all_at(&[0; 4096], 0)?;
    let said = root.refused_untouched(&["create", "b"], 2)?;
    names(&said, &["holds no pool", "nothing was changed"])?;
    // Damaged is not blank.
    let mut damaged = first;
    damaged[100] ^= 0xff;
    metadata.write_all_at(&damaged, 0)?;
    let said = root.refused_untouched(&["create", "b"], 7)?;
    names(&said, &["damaged", "thin_repair"])?;
    metadata.write_all_at(&first, 0)?;
    root.holds("a", "a")?;
    root.check()?;
    root.stop()
}

/// The root without options of sizes, as one opens what is there.
fn root_as_found(root: &Root) -> Result<Root> {
    Root::with(&root.path, Vec::new())
}

/// A root on a given pool whose options get lost, and whose disk is made anew.
pub(crate) fn given_pool() -> Result<()> {
    let pool = GivenPool::new("graph-given", 96)?;
    let path = scratch_dir()?.join("root");
    let root = Root::with(&path, vec![pool.option(), "dm.fs=ext4".into(), "dm.basesize=48M".into()])?;
    root.layer("a", None)?;
    root.run(&["stop"])?;
    // The unit file is lost.
    for remembered in [true, false] {
        let bare = root_as_found(&root)?;
        if remembered {
            let said = bare.refused_untouched(&["create", "b"], 2)?;
            names(&said, &["graph-given", "unit file", "100.7MB"])?;
        } else {
            let kept = fs::read(path.join("thinlayer/pool.json"))?;
            fs::remove_file(path.join("thinlayer/pool.json"))?;
            bare.refused_untouched(&["create", "b"], 9)?;
            fs::write(path.join("thinlayer/pool.json"), kept)?;
        }
        ensure!(!path.join("devicemapper").exists(), "a loop pool was made");
    }
    // The pool is not there: it is named.
    pool.remove()?;
    let said = root.refused_untouched(&["create", "b"], 2)?;
    names(&said, &["graph-given", "activate"])?;
    // Made anew, smaller, then of the old size, on metadata that was wiped. The old metadata is kept for the end.
    let metadata = pool.metadata.device().to_path_buf();
    let kept = scratch_dir()?.join("kept");
    let copy = |from: &Path, to: &Path| {
        let (from, to) = (format!("if={}", from.display()), format!("of={}", to.display()));
        harness::run("dd", [from.as_str(), &to, "bs=1M", "count=4", "conv=fsync,notrunc", "status=none"])
            .map(drop)
    };
    copy(&metadata, &kept)?;
    copy(Path::new("/dev/zero"), &metadata)?;
    pool.make(64 << 20)?;
    let said = root.refused_untouched(&["create", "b"], 2)?;
    names(&said, &["67.11MB", "100.7MB", "made anew"])?;
    pool.remove()?;
    copy(Path::new("/dev/zero"), &metadata)?;
    pool.make(96 << 20)?;
    let said = root.refused_untouched(&["create", "b"], 2)?;
    names(&said, &["graph-given", "not the pool of root"])?;
    pool.remove()?;
    copy(&kept, &metadata)?;
    pool.make(96 << 20)?;
    root.holds("a", "a")?;
    root.check()?;
    root.run(&["stop"]).map(drop)
}

/// Given devices: lost options, a smaller disk, another name for the same content.
pub(crate) fn given_devices() -> Result<()> {
    let (data, metadata) = (LoopFile::new("data", 96 << 20)?, LoopFile::new("metadata", 4 << 20)?);
    let small = LoopFile::new("small", 64 << 20)?;
    let option = |name: &str, file: &LoopFile| format!("dm.{name}={}", file.device().display());
    let common =
        || vec!["dm.fs=ext4".to_owned(), "dm.basesize=48M".to_owned(), "dm.blocksize=128K".to_owned()];
    let path = scratch_dir()?.join("root");
    let on = |data: &LoopFile, metadata: &LoopFile| {
        let mut options = common();
        options.extend([option("datadev", data), option("metadatadev", metadata)]);
        Root::with(&path, options)
    };
    let root = on(&data, &metadata)?;
    root.layer("a", None)?;
    root.stop()?;
    let said = root_as_found(&root)?.refused_untouched(&["create", "b"], 2)?;
    names(&said, &[&data.device().to_string_lossy(), &metadata.device().to_string_lossy(), "unit file"])?;
    let said = on(&small, &metadata)?.refused_untouched(&["create", "b"], 2)?;
    names(&said, &["67.11MB", "100.7MB"])?;
    // Block size by what the metadata says, where the option is lost, too.
    let mut options = root.options.clone();
    options.retain(|item| !item.starts_with("dm.blocksize"));
    let bare = Root::with(&path, options.clone())?;
    bare.holds("a", "a")?;
    bare.stop()?;
    options.push("dm.blocksize=64K".into());
    let said = Root::with(&path, options)?.refused_untouched(&["create", "b"], 2)?;
    names(&said, &["131072"])?;
    // The same content on another disk, as after the move to a larger one.
    let larger = LoopFile::new("larger", 112 << 20)?;
    harness::run(
        "dd",
        [
            format!("if={}", data.device().display()),
            format!("of={}", larger.device().display()),
            "bs=1M".into(),
            "conv=fsync,notrunc,sparse".into(),
            "status=none".into(),
        ],
    )?;
    let moved = on(&larger, &metadata)?;
    moved.holds("a", "a")?;
    moved.check()?;
    moved.stop()
}

/// A root restored from a backup on another file system: other device, other inodes, another prefix.
pub(crate) fn restored() -> Result<()> {
    for filesystem in ["ext4", "xfs"] {
        let root = small_root(&format!("root-{filesystem}"), filesystem)?;
        root.layer("a", None)?;
        root.layer("b", Some("a"))?;
        root.stop()?;
        let disk = Disk::new(&format!("restored-{filesystem}"), 256 << 20)?;
        let path = disk.path.join("devicemapper");
        harness::run("cp", [Path::new("-a"), Path::new("--sparse=always"), &root.path, &path])?;
        let restored = Root::with(&path, options(filesystem))?;
        ensure!(restored.prefix("docker")? != root.prefix("docker")?, "the prefix is the same");
        for (id, of) in [("a", "a"), ("b", "a"), ("b", "b")] {
            restored.holds(id, of)?;
        }
        restored.layer("c", Some("b"))?;
        restored.check()?;
        restored.stop()?;
        // The original is as it was, and another root's files under its records are refused.
        fs::rename(root.path.join("devicemapper"), root.path.join("away"))?;
        let other = small_root(&format!("other-{filesystem}"), filesystem)?;
        other.layer("x", None)?;
        other.stop()?;
        let (theirs, ours) = (other.path.join("devicemapper"), root.path.join("devicemapper"));
        harness::run("cp", [Path::new("-a"), Path::new("--sparse=always"), &theirs, &ours])?;
        let said = root.refused_untouched(&["create", "d"], 2)?;
        names(&said, &["UUID", "not the pool of root"])?;
        fs::remove_dir_all(&ours)?;
        fs::rename(root.path.join("away"), &ours)?;
        root.holds("b", "a")?;
        root.stop()?;
        drop((restored, other, root));
    }
    Ok(())
}
