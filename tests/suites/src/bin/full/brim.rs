//! Data: growth possible and impossible, and a host that is full.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::eventually;
use serde_json::Value;

use crate::fixture::{PATIENCE, Root, Serve};
use crate::host::{Host, MIB, dmsetup};
use crate::writers::{Writers, Written, nobody_hangs, verify};

const LAYERS: [&str; 4] = ["w0", "w1", "w2", "w3"];

fn options(filesystem: &str, data: &str) -> Vec<String> {
    [
        &format!("dm.loopdatasize={data}"),
        "dm.loopmetadatasize=8M",
        "dm.basesize=320M",
        &format!("dm.fs={filesystem}"),
    ]
    .map(str::to_owned)
    .to_vec()
}

/// Starts `serve` with a log that says what grows.
fn serve(root: &Root) -> Result<Serve> {
    root.serve_with(&["--log-level", "info"])
}

fn mounted(root: &Root, ids: &[&str]) -> Result<Vec<PathBuf>> {
    ids.iter().map(|id| Ok(PathBuf::from(root.run(&["mount", id])?.trim_end()))).collect()
}

fn made(root: &Root, ids: &[&str]) -> Result<Vec<PathBuf>> {
    ids.iter().try_for_each(|id| root.quiet(&["create", id]))?;
    mounted(root, ids)
}

pub(crate) fn status(root: &Root) -> Result<Value> {
    root.json(&["status"])
}

pub(crate) fn pool_name(root: &Root) -> Result<String> {
    Ok(status(root)?["pool_name"].as_str().context("no pool name")?.to_owned())
}

pub(crate) fn total(status: &Value, side: &str) -> Result<u64> {
    status[side]["total"].as_u64().with_context(|| format!("no total: {status}"))
}

fn acknowledged(written: &[Written]) -> Vec<usize> {
    written.iter().map(|written| written.acknowledged).collect()
}

/// Waits until `status` is as wanted.
pub(crate) fn until(root: &Root, what: &str, is: impl Fn(&Value) -> bool) -> Result<Value> {
    eventually(what, PATIENCE, || {
        let status = status(root)?;
        Ok(if is(&status) { Ok(status) } else { Err(status.to_string()) })
    })
}

/// Everything is given back and mounted again, and holds what was acknowledged.
fn verify_again(root: &Root, ids: &[&str], files: &[usize]) -> Result<Vec<PathBuf>> {
    for id in ids {
        root.quiet(&["umount", id])?;
    }
    let trees = mounted(root, ids)?;
    verify(&trees, files)?;
    Ok(trees)
}

/// After a whole stop: the metadata is whole, and all is there.
fn verify_after_stop(root: &Root, mut serve: Serve, ids: &[&str], files: &[usize]) -> Result<String> {
    root.check()?;
    root.stop_and_check()?;
    let output = serve.running.end_with("TERM")?;
    ensure!(output.status.code() == Some(0), "serve ended badly: {output:?}");
    let trees = mounted(root, ids)?;
    verify(&trees, files)?;
    for id in ids {
        root.quiet(&["umount", id])?;
    }
    root.stop_and_check()?;
    Ok(output.stderr_text())
}

pub(crate) fn grows(filesystem: &str) -> Result<()> {
    let root = Root::with(&harness::scratch_dir()?.join("root"), options(filesystem, "96M"))?;
    let serve = serve(&root)?;
    let trees = made(&root, &LAYERS)?;
    let before = total(&status(&root)?, "data")?;
    let written = Writers::start(&trees, 0, 30).join(Duration::from_secs(150))?;
    println!("{written:?}");
    ensure!(written.iter().all(|w| w.error.is_none() && w.acknowledged == 30), "{written:?}");
    nobody_hangs()?;
    let after = status(&root)?;
    ensure!(after["condition"] == "good" && after["trouble"].is_null(), "{after}");
    let now = total(&after, "data")?;
    ensure!(before == 96 * MIB && now > 120 * MIB, "from {before} to {now}");
    let table = dmsetup("table", &pool_name(&root)?)?;
    let words: Vec<&str> = table.split_whitespace().collect();
    let blocks = now / 65536;
    ensure!(words[6] == (blocks / 5).to_string() && words[1] == (now / 512).to_string(), "{table}");
    let files = acknowledged(&written);
    verify_again(&root, &LAYERS, &files)?;
    for id in LAYERS {
        root.quiet(&["umount", id])?;
    }
    let log = verify_after_stop(&root, serve, &LAYERS, &files)?;
    println!("{log}");
    let grown = log.lines().filter(|line| line.contains("its data has grown")).count();
    ensure!((1..=6).contains(&grown), "the log tells of {grown} growths");
    Ok(())
}

pub(crate) fn cannot_grow(filesystem: &str) -> Result<()> {
    let host = Host::new(256 * MIB)?;
    let root = Root::with(&host.folder.join("root"), options(filesystem, "112M"))?;
    let serve = serve(&root)?;
    root.quiet(&["create", "victim"])?;
    let victim = mounted(&root, &["victim"])?;
    let written = Writers::start(&victim, 0, 20).join(Duration::from_secs(60))?;
    ensure!(written[0].error.is_none(), "{written:?}");
    root.quiet(&["umount", "victim"])?;
    let trees = made(&root, &LAYERS)?;
    harness::run("sync", ["-f", host.folder.to_str().context("no UTF-8")?])?;
    // The host can hold the whole file, and next to nothing more.
    let allocated = allocated(&root)?;
    // The layers alone may have taken an xfs pool to its threshold already.
    let data = total(&status(&root)?, "data")?;
    host.fill_but(data - allocated + MIB / 2)?;

    let start = Instant::now();
    let written = Writers::start(&trees, 0, 60).join(Duration::from_secs(120))?;
    println!("after {:?}: {written:?}", start.elapsed());
    ensure!(
        written.iter().all(|w| w.error.is_some()),
        "four times 60 MiB went into {data} bytes: {written:?}"
    );
    // The kernel alone would have let them wait for a minute.
    ensure!(written.iter().all(|w| w.longest < Duration::from_secs(45)), "{written:?}");
    nobody_hangs()?;
    let files = acknowledged(&written);
    ensure!(files.iter().sum::<usize>() > 10, "{files:?}");
    let full = until(&root, "the pool to be called full", |s| s["condition"] == "out-of-data")?;
    println!("{full}");
    ensure!(total(&full, "data")? == data && full["growth"]["data"]["possible"] == false, "{full}");
    let trouble = full["trouble"].as_str().context("no trouble")?;
    ensure!(trouble.contains("pool grow --data") && trouble.contains("remove layers"), "{trouble}");
    let said = root.refused(&["create", "more"], 6)?;
    ensure!(said.contains("pool grow --data"), "{said}");
    let pool = pool_name(&root)?;
    ensure!(dmsetup("table", &pool)?.contains("error_if_no_space"), "{}", dmsetup("table", &pool)?);

    // Removing works, makes room, and writers may wait again.
    root.quiet(&["rm", "victim"])?;
    until(&root, "the victim's blocks to come back", |s| {
        s["deferred"] == 0 && s["condition"] != "out-of-data"
    })?;
    eventually("the pool's old table to be back", PATIENCE, || {
        let table = dmsetup("table", &pool)?;
        Ok(if table.contains("error_if_no_space") { Err(table) } else { Ok(()) })
    })?;
    // What was acknowledged is there, also through a new mount; and writing goes on.
    let trees = verify_again(&root, &LAYERS, &files)?;
    let first = *files.iter().max().context("no files")? + 100;
    let more = Writers::start(&trees, first, 1).join(Duration::from_secs(60))?;
    ensure!(more.iter().all(|w| w.error.is_none()), "{more:?}");

    // With room on the host the pool grows by itself.
    host.clear()?;
    let grown = until(&root, "the pool to grow", |s| total(s, "data").is_ok_and(|total| total > data))?;
    ensure!(grown["condition"] == "good", "{grown}");
    let more = Writers::start(&trees, first + 1, 4).join(Duration::from_secs(60))?;
    ensure!(more.iter().all(|w| w.error.is_none()), "{more:?}");
    for id in LAYERS {
        root.quiet(&["umount", id])?;
    }
    let log = verify_after_stop(&root, serve, &LAYERS, &files)?;
    println!("{log}");
    for (what, most) in [("it is out of data space", 2), ("writers get errors until there is room", 2)] {
        let said = log.lines().filter(|line| line.contains(what)).count();
        ensure!((1..=most).contains(&said), "{what:?} is said {said} times");
    }
    drop(root);
    Ok(())
}

pub(crate) fn host_full(filesystem: &str) -> Result<()> {
    let host = Host::new(256 * MIB)?;
    let root = Root::with(&host.folder.join("root"), options(filesystem, "2G"))?;
    let serve = serve(&root)?;
    root.quiet(&["create", "victim"])?;
    let ids = &LAYERS[..2];
    let trees = made(&root, ids)?;
    host.fill_but(24 * MIB)?;
    let written = Writers::start(&trees, 0, 60).join(Duration::from_secs(150))?;
    println!("{written:?}");
    ensure!(written.iter().all(|w| w.error.is_some()), "120 MiB went into 24: {written:?}");
    nobody_hangs()?;
    let files = acknowledged(&written);
    let low = until(&root, "the host to be called full", |s| s["condition"] == "low-host")?;
    let trouble = low["trouble"].as_str().context("no trouble")?;
    ensure!(trouble.contains("host file system") && trouble.contains("make room"), "{trouble}");
    let said = root.refused(&["create", "more"], 6)?;
    ensure!(said.contains("host file system"), "{said}");
    root.quiet(&["rm", "victim"])?;
    host.clear()?;
    let trees = verify_again(&root, ids, &files)?;
    let first = *files.iter().max().context("no files")? + 100;
    let more = Writers::start(&trees, first, 3).join(Duration::from_secs(60))?;
    ensure!(more.iter().all(|w| w.error.is_none()), "{more:?}");
    until(&root, "all to be well", |s| s["condition"] == "good" && s["deferred"] == 0)?;
    for id in ids {
        root.quiet(&["umount", id])?;
    }
    verify_after_stop(&root, serve, ids, &files)?;
    drop(root);
    Ok(())
}

/// What the data file takes on the host.
fn allocated(root: &Root) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(std::fs::metadata(root.path.join("devicemapper/data"))?.blocks() * 512)
}
