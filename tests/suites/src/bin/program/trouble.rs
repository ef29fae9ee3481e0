//! Full disks, damaged roots and commands that make no sense.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use harness::scratch_dir;
use serde_json::Value;

use crate::disk::{Mounted, fill, small_disk};
use crate::fixture::{Root, options};

pub(crate) fn full_disk() -> Result<()> {
    let (disk, _device) = small_disk(192 << 20)?;
    let root = Root::with(&disk.0.join("root"), options("ext4"))?;
    root.quiet(&["create", "a"])?;
    root.quiet(&["create", "b"])?;
    let filler = fill(&disk.0)?;

    // New layers need room for their records and say that there is none; the layers that are there can be seen and removed.
    let mut refused = 0;
    for n in 0..200 {
        let id = format!("more-{n}");
        let output = root.try_run(&["create", id.as_str()])?;
        if !output.status.success() {
            ensure!(output.status.code() == Some(6), "not 6: {output:?}");
            ensure!(
                output.stderr_text().lines().filter(|line| !line.contains("warning:")).count() == 1,
                "{output:?}"
            );
            refused += 1;
            break;
        }
    }
    ensure!(refused == 1, "the disk never filled up");
    let before = root.ids()?;
    ensure!(before.contains("a") && before.contains("b"), "ls shows {before:?}");
    root.run(&["status"])?;
    root.quiet(&["rm", "b"])?;
    ensure!(!root.ids()?.contains("b"), "b is still there");

    // A root as Docker leaves it, with no room to say who owns it now: commands find their way to `serve` all the same.
    let lock = root.path.join("thinlayer/lock");
    let mut rounds = 0;
    let mut serve = loop {
        fs::remove_file(&lock)?;
        fill(&disk.0)?;
        let mut serve = root.serve()?;
        if fs::read_to_string(&lock)?.trim().is_empty() {
            break serve;
        }
        // ext4 has given back something since, that was removed before: it is taken as well.
        serve.terminate()?;
        rounds += 1;
        ensure!(rounds < 10, "there was room in {} each time", lock.display());
    };
    root.quiet(&["rm", "a"])?;
    ensure!(!root.ids()?.contains("a"), "a is still there");
    serve.terminate()?;

    fs::remove_dir_all(filler)?;
    root.quiet(&["create", "after"])?;
    let tree = root.run(&["mount", "after"])?;
    fs::write(Path::new(tree.trim_end()).join("file"), "x")?;
    root.quiet(&["umount", "after"])?;
    root.check()?;
    let layers = root.ids()?.len();
    root.stop_and_check()?;
    ensure!(
        root.devices_in_pool()? == layers + 1,
        "{} devices for {layers} layers and the base",
        root.devices_in_pool()?
    );
    drop(root);
    Ok(())
}

pub(crate) fn disk_full_from_the_start() -> Result<()> {
    let (disk, _device) = small_disk(192 << 20)?;
    let filler = fill(&disk.0)?;
    let root = Root::with(&disk.0.join("root"), options("ext4"))?;
    let said = root.refused(&["create", "a"], 6)?;
    ensure!(said.contains("space") && said.contains("root"), "it does not say what is full: {said}");
    fs::remove_dir_all(filler)?;
    // What the failed start left does not keep the next one.
    let output = root.try_run(&["create", "a"])?;
    ensure!(output.status.success(), "{output:?}");
    root.check()?;
    root.stop_and_check()?;
    drop(root);
    Ok(())
}

pub(crate) fn read_only_root() -> Result<()> {
    let root = Root::new("root", "ext4")?;
    root.quiet(&["create", "a"])?;
    root.stop_and_check()?;
    let at = scratch_dir()?.join("read-only");
    let mounted = Mounted::new(&["--bind", root.path.to_str().context("no UTF-8")?], at)?;
    harness::run("mount", ["-o", "remount,bind,ro", mounted.0.to_str().context("no UTF-8")?])?;
    let view = Root::with(&mounted.0, root.options.clone())?;
    ensure!(view.ids()?.iter().eq(["a"]), "ls shows {:?}", view.ids()?);
    view.run(&["tree"])?;
    view.run(&["inspect", "a"])?;
    view.run(&["exists", "a"])?;
    let said = view.refused(&["create", "b"], 9)?;
    ensure!(said.contains("read-only"), "{said}");
    view.refused(&["rm", "a"], 9)?;
    // What writes nothing anyway is allowed; what would is refused before it begins.
    view.run(&["--read-only", "ls"])?;
    view.refused(&["--read-only", "create", "b"], 2)?;
    view.run(&["--read-only", "status"])?;
    drop(view);
    drop(mounted);

    root.quiet(&["create", "b"])?;
    root.run(&["--read-only", "status"])?;
    root.run(&["--read-only", "check"])?;
    root.stop_and_check()
}

pub(crate) fn damaged_records() -> Result<()> {
    let root = Root::new("root", "ext4")?;
    for id in ["a", "b", "c"] {
        root.quiet(&["create", id])?;
    }
    root.stop_and_check()?;
    let metadata = root.path.join("metadata");
    let record = fs::read(metadata.join("b"))?;
    fs::write(metadata.join("b"), &record[..record.len() / 2])?;
    fs::write(metadata.join("notes from an operator"), "remember the milk")?;
    fs::write(metadata.join(".hidden"), "")?;
    fs::create_dir(metadata.join("folder"))?;

    let output = root.try_run(&["ls"])?;
    ensure!(output.status.success() && output.stderr_text().contains('b'), "{output:?}");
    let output = root.try_run(&["create", "d"])?;
    ensure!(output.status.success(), "one bad record stops the start: {output:?}");
    ensure!(root.ids()?.iter().eq(["a", "c", "d"]), "ls shows {:?}", root.ids()?);
    // Set aside, not lost.
    let quarantine: Vec<_> =
        fs::read_dir(root.path.join("thinlayer/quarantine"))?.collect::<std::io::Result<_>>()?;
    let kept = quarantine.iter().any(|entry| {
        fs::read(entry.path()).is_ok_and(|content| record.starts_with(&content) && !content.is_empty())
    });
    ensure!(kept, "the damaged record is not in quarantine: {quarantine:?}");
    for words in [&["mount", "b"][..], &["rm", "b"], &["inspect", "b"]] {
        let said = root.refused(words, 7)?;
        ensure!(said.contains('b'), "{said}");
    }
    for id in ["a", "c"] {
        root.run(&["mount", id])?;
        root.quiet(&["umount", id])?;
    }
    let report = root.try_run(&["check"])?;
    for kind in ["damaged-record", "foreign-folder"] {
        ensure!(
            report.status.code() == Some(1) && report.stdout_text().contains(kind),
            "no {kind}: {report:?}"
        );
    }
    root.quiet(&["rm", "a"])?;
    fs::remove_dir(metadata.join("folder"))?;
    root.stop_and_check()?;
    // The device of the damaged record is nobody's to delete: base, b, c, d.
    ensure!(root.devices_in_pool()? == 4, "{} devices are in the pool", root.devices_in_pool()?);
    Ok(())
}

pub(crate) fn missing_loop_file() -> Result<()> {
    let root = Root::new("root", "ext4")?;
    root.quiet(&["create", "a"])?;
    root.stop_and_check()?;
    for name in ["data", "metadata"] {
        let file = root.path.join("devicemapper").join(name);
        let away = scratch_dir()?.join("away");
        fs::rename(&file, &away)?;
        let output = root.try_run(&["mount", "a"])?;
        ensure!(
            output.status.code().is_some_and(|code| code >= 3) && output.stdout.is_empty(),
            "{name}: {output:?}"
        );
        ensure!(output.stderr_text().contains(name), "{name}: {output:?}");
        ensure!(!file.exists(), "{name} was made anew: what the old one held would be lost");
        fs::rename(&away, &file)?;
        let tree = root.run(&["mount", "a"])?;
        ensure!(Path::new(tree.trim_end()).is_dir(), "{tree} is no folder");
        root.quiet(&["umount", "a"])?;
        root.check()?;
        root.stop_and_check()?;
    }
    Ok(())
}

pub(crate) fn pool_of_another_root() -> Result<()> {
    let root = Root::new("root", "ext4")?;
    root.quiet(&["create", "a"])?;
    let before = root.json(&["status"])?;
    let pool = before["pool_name"].as_str().context("no name")?;
    let other =
        Root::with(&scratch_dir()?.join("other"), vec![format!("dm.thinpooldev=/dev/mapper/{pool}")])?;
    let output = other.try_run(&["create", "b"])?;
    ensure!(
        !output.status.success() && output.stdout.is_empty(),
        "another root's pool was taken: {output:?}"
    );
    ensure!(output.stderr_text().contains(pool), "it does not name the pool: {output:?}");
    let after = root.json(&["status"])?;
    ensure!(after["transaction_id"] == before["transaction_id"], "the pool was worked on");
    root.check()?;
    root.run(&["mount", "a"])?;
    root.quiet(&["umount", "a"])?;
    root.stop_and_check()?;

    // The other way round: the files of another root under this root's records.
    let third = Root::new("third", "ext4")?;
    for id in ["x", "y", "z"] {
        third.quiet(&["create", id])?;
    }
    third.stop_and_check()?;
    let folder = |root: &Root| root.path.join("devicemapper");
    let away = scratch_dir()?.join("away");
    fs::rename(folder(&root), &away)?;
    fs::rename(folder(&third), folder(&root))?;
    let output = root.try_run(&["create", "b"])?;
    ensure!(!output.status.success(), "files of another root were taken: {output:?}");
    fs::rename(folder(&root), folder(&third))?;
    fs::rename(&away, folder(&root))?;
    root.quiet(&["create", "b"])?;
    third.quiet(&["create", "b"])?;
    root.check()?;
    third.check()?;
    root.quiet(&["stop"])?;
    third.stop_and_check()?;
    root.thin_check()
}

/// A machine without device-mapper: no control node, and the kernel does not list it.
const HIDE: &str = "mount -t tmpfs none /dev/mapper && mount --bind \"$0\" /proc/misc && exec \"$@\"";

pub(crate) fn without_device_mapper() -> Result<()> {
    let misc = scratch_dir()?.join("misc");
    let listed = fs::read_to_string("/proc/misc")?;
    let others: Vec<&str> = listed.lines().filter(|line| !line.contains("device-mapper")).collect();
    ensure!(others.len() < listed.lines().count(), "the kernel does not list device-mapper: {listed}");
    fs::write(&misc, others.join("\n") + "\n")?;
    let root = Root::new("root", "ext4")?;
    let hidden = |words: &[&str]| -> Result<harness::Output> {
        let command = root.command(words)?;
        let script = [OsStr::new("--mount"), "sh".as_ref(), "-c".as_ref(), HIDE.as_ref(), misc.as_os_str()];
        let words = script.into_iter().chain([command.get_program()]).chain(command.get_args());
        harness::try_run("unshare", words)
    };
    let unsupported = |words: &[&str]| -> Result<()> {
        let output = hidden(words)?;
        let said = output.stderr_text();
        ensure!(output.status.code() == Some(8) && output.stdout.is_empty(), "{words:?}: {output:?}");
        ensure!(
            said.lines().count() == 1 && said.contains("no device-mapper in this kernel"),
            "{words:?}: {said}"
        );
        Ok(())
    };
    for words in [&["create", "x"][..], &["serve"]] {
        unsupported(words)?;
        ensure!(!root.path.exists(), "{words:?} has made the root");
    }
    let said = hidden(&["--json", "create", "x"])?.stderr_text();
    ensure!(said.lines().last().is_some_and(|line| line.contains("\"unsupported\"")), "{said}");

    root.quiet(&["create", "a"])?;
    root.stop_and_check()?;
    let words: [&[&str]; 7] = [
        &["create", "x"],
        &["mount", "a"],
        &["rm", "a"],
        &["resize", "a", "1G"],
        &["serve"],
        &["stop"],
        &["status"],
    ];
    words.iter().try_for_each(|words| unsupported(words))?;
    // What only reads records and the pool's metadata file needs none.
    for words in [&["ls"][..], &["tree"], &["inspect", "a"], &["exists", "a"], &["check"]] {
        let output = hidden(words)?;
        ensure!(output.status.success(), "{words:?}: {output:?}");
    }
    let report: Value = serde_json::from_slice(&hidden(&["--json", "check"])?.stdout)?;
    ensure!(report["metadata"] == "offline" && report["looked_at"]["thin_devices"] == 2, "{report:#}");
    ensure!(root.ids()?.iter().eq(["a"]), "ls shows {:?}", root.ids()?);
    root.check()?;
    root.stop_and_check()
}

/// A script takes code 3 for "that layer is gone already".
pub(crate) fn missing_beneath() -> Result<()> {
    let other = Root::with(&scratch_dir()?.join("other"), vec!["dm.datadev=/dev/nope".into()])?;
    let said = other.refused(&["create", "x"], 2)?;
    ensure!(said.contains("/dev/nope") && said.contains("dm.datadev"), "{said}");

    let root = Root::new("root", "ext4")?;
    root.quiet(&["create", "a"])?;
    let id = root.json(&["inspect", "a"])?["device_id"].to_string();
    let pool = root.json(&["status"])?["pool_name"].as_str().context("no name")?.to_owned();
    harness::run("dmsetup", ["message", &pool, "0", &format!("delete {id}")])?;
    let said = root.refused(&["mount", "a"], 7)?;
    ensure!(said.contains("layer a"), "{said}");
    root.refused(&["mount", "nobody"], 3)?;
    root.refused(&["rm", "nobody"], 3)?;
    root.quiet(&["rm", "a"])?;
    root.refused(&["rm", "a"], 3)?;
    root.stop_and_check()
}

pub(crate) fn nonsense() -> Result<()> {
    let root = Root::new("root", "ext4")?;
    root.quiet(&["create", "a"])?;
    let before = (root.ids()?, root.json(&["status"])?["transaction_id"].clone());
    let long = "x".repeat(300);
    for served in [false, true] {
        let serve = if served { Some(root.serve()?) } else { None };
        for words in [
            &["create", "a/b"][..],
            &["create", "base"],
            &["create", &long],
            &["create", ".hidden"],
            &["create", "x", "--size", "10Q"],
            &["create", "x", "--parent", "a/b"],
            &["create", "x", "--size", "1M"],
            &["create", "x", "--storage-opt", "dm.nonsense=1"],
            &["create", "x", "--storage-opt", "dm.basesize=10Q"],
            &["resize", "a", "10Q"],
            &["resize", "a", "1M"],
            &["rm", "base"],
            &["mount", "base"],
            &["umount", &long],
            &["inspect", "a/b"],
            &["frobnicate"],
            &["create"],
        ] {
            root.refused(words, 2).with_context(|| format!("{words:?}, serve: {served}"))?;
        }
        if let Some(mut serve) = serve {
            serve.terminate()?;
        }
    }
    ensure!(
        (root.ids()?, root.json(&["status"])?["transaction_id"].clone()) == before,
        "something has changed"
    );
    root.check()?;
    root.stop_and_check()
}

pub(crate) fn layers_in_use() -> Result<()> {
    let root = Root::new("root", "ext4")?;
    root.quiet(&["create", "a"])?;
    for served in [false, true] {
        let serve = if served { Some(root.serve()?) } else { None };
        let tree = root.run(&["mount", "a"])?;
        let file = fs::File::create(Path::new(tree.trim_end()).join("open"))?;
        let said = root.refused(&["umount", "a"], 5)?;
        ensure!(said.contains("fuser") || said.contains("open"), "{said}");
        root.refused(&["rm", "a"], 5)?;
        root.refused(&["stop"], 5)?;
        ensure!(root.json(&["inspect", "a"])?["uses"] == 1, "the use is not counted any more");
        drop(file);
        root.quiet(&["umount", "a"])?;
        let output = root.try_run(&["umount", "a"])?;
        ensure!(output.status.success() && output.stderr_text().contains("was not mounted"), "{output:?}");
        root.refused(&["umount", "nobody"], 3)?;
        if let Some(mut serve) = serve {
            serve.terminate()?;
        }
    }
    root.check()?;
    root.stop_and_check()
}
