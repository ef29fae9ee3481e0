//! A pool whose metadata needs a check.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::brim::until;
use crate::fixture::Root;
use crate::host::dmsetup;

/// The mark, as a kernel leaves it on the disk.
fn mark(metadata: &Path) -> Result<()> {
    let metadata = metadata.to_str().context("no UTF-8")?;
    let dump = harness::run("thin_dump", [metadata])?.stdout_text();
    ensure!(dump.contains("flags=\"0\""), "{dump}");
    let xml = harness::scratch_dir()?.join("marked.xml");
    fs::write(&xml, dump.replace("flags=\"0\"", "flags=\"1\""))?;
    harness::run("thin_restore", ["-i", &xml.to_string_lossy(), "-o", metadata])?;
    Ok(())
}

fn sums(root: &Root) -> Result<String> {
    let files = ["data", "metadata"].map(|file| root.path.join("devicemapper").join(file));
    let mut all = harness::run("sha256sum", &files)?.stdout_text();
    for entry in fs::read_dir(root.path.join("metadata"))? {
        let path = entry?.path();
        all += &harness::run("sha256sum", [&path])?.stdout_text();
    }
    Ok(all)
}

/// The commands that a message names, in its order.
fn commands(message: &str) -> Vec<&str> {
    message.split('`').skip(1).step_by(2).collect()
}

pub(crate) fn needs_check() -> Result<()> {
    let options = ["dm.loopdatasize=96M", "dm.loopmetadatasize=8M", "dm.basesize=64M", "dm.fs=ext4"];
    let root = Root::with(&harness::scratch_dir()?.join("root"), options.map(str::to_owned).to_vec())?;
    root.quiet(&["create", "a"])?;
    let tree = root.run(&["mount", "a"])?;
    fs::write(Path::new(tree.trim_end()).join("file"), "kept")?;
    root.quiet(&["umount", "a"])?;
    root.stop_and_check()?;
    mark(&root.path.join("devicemapper/metadata"))?;
    let before = sums(&root)?;

    // What writes is refused with code 7, alone and through serve; what only looks works; nothing changes.
    let mut message = String::new();
    for through_serve in [false, true] {
        let mut serve = if through_serve { Some(root.serve()?) } else { None };
        for words in [
            &["create", "b"][..],
            &["rm", "a"],
            &["mount", "a"],
            &["resize", "a", "128M"],
            &["pool", "grow", "--data", "+64M"],
        ] {
            message = root.refused(words, 7)?;
            ensure!(message.contains("needs a check") && message.contains("thin_check"), "{message}");
        }
        ensure!(root.ids()?.len() == 1, "ls shows {:?}", root.ids()?);
        root.run(&["inspect", "a"])?;
        root.run(&["exists", "a"])?;
        let status = until(&root, "the mark to be told", |s| s["condition"] == "needs-check")?;
        ensure!(status["trouble"].as_str().is_some_and(|text| text.contains("thin_repair")), "{status}");
        let check = root.try_run(&["check"])?;
        ensure!(check.status.code() == Some(1) && check.stdout_text().contains("pool-trouble"), "{check:?}");
        let pool = status["pool_name"].as_str().context("no pool name")?;
        ensure!(dmsetup("status", pool)?.contains("needs_check"), "{}", dmsetup("status", pool)?);
        root.quiet(&["stop"])?;
        if let Some(serve) = &mut serve {
            serve.terminate()?;
        }
        ensure!(sums(&root)? == before, "something was written");
    }

    // The message's own words mend it.
    let all = commands(&message);
    println!("{message}\n{all:?}");
    ensure!(all.len() == 3 && all[0].ends_with(" stop") && all[2].starts_with("thin_repair"), "{all:?}");
    harness::run("sh", ["-c", all[0]])?;
    harness::run("sh", ["-c", all[1]])?;
    root.quiet(&["create", "b"])?;
    let tree = root.run(&["mount", "a"])?;
    ensure!(fs::read(Path::new(tree.trim_end()).join("file"))? == b"kept", "the layer lost its file");
    root.quiet(&["umount", "a"])?;
    root.check()?;
    root.stop_and_check()
}
