//! LVM's pool filled to the brim by four writers: with room in its group it grows, without it says that it is full; nothing hangs for ever,
//! nothing that was synced is lost.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{eventually, run};
use serde_json::Value;
use thinlayer_dm::{Control, DmName, Flush};
use thinlayer_thin::{Health, Pool, ThinId, Trouble};

use crate::disk::Disk;
use crate::fixture::{Root, Serve};
use crate::writers::{Writers, Written, nobody_hangs, verify};

const MIB: u64 = 1 << 20;
const LAYERS: [&str; 4] = ["w0", "w1", "w2", "w3"];
/// After growths that failed the watcher waits up to a minute for the next try.
const PATIENCE: Duration = Duration::from_secs(150);
/// The kernel lets writers of a full pool wait for a minute; what each of them then writes of its own may wait as well.
const WRITING: Duration = Duration::from_secs(240);

/// The root, its pool on the disk, and a `serve`. The disk goes last.
struct Brim {
    serve: Serve,
    root: Root,
    _disk: Disk,
}

impl Brim {
    /// LVM's own watcher is off, so that what happens is thinlayer's doing.
    fn new(size: u64, percent: u64) -> Result<Self> {
        let disk = Disk::new("disk", size)?;
        let mut options = crate::root::small(&[
            disk.option(),
            format!("dm.thinp_percent={percent}"),
            "dm.thinp_metapercent=2".into(),
        ]);
        options.push("dm.basesize=128M".into());
        let root = Root::with(&harness::scratch_dir()?.join("root"), options)?;
        let serve = root.serve_with(&["--log-level", "info"])?;
        root.quiet(&["create", "victim"])?;
        run("lvchange", ["--monitor", "n", "docker/thinpool"])?;
        Ok(Self { serve, root, _disk: disk })
    }

    fn status(&self) -> Result<Value> {
        self.root.json(&["status"])
    }

    fn total(&self, side: &str) -> Result<u64> {
        let status = self.status()?;
        status[side]["total"].as_u64().with_context(|| format!("no total: {status}"))
    }

    fn until(&self, what: &str, is: impl Fn(&Value) -> bool) -> Result<Value> {
        eventually(what, PATIENCE, || {
            let status = self.status()?;
            Ok(if is(&status) { Ok(status) } else { Err(status.to_string()) })
        })
    }

    fn mounted(&self, ids: &[&str]) -> Result<Vec<PathBuf>> {
        ids.iter().map(|id| Ok(PathBuf::from(self.root.run(&["mount", id])?.trim_end()))).collect()
    }

    fn given_back(&self, ids: &[&str]) -> Result<()> {
        ids.iter().try_for_each(|id| self.root.quiet(&["umount", id]))
    }

    fn made(&self) -> Result<Vec<PathBuf>> {
        LAYERS.iter().try_for_each(|id| self.root.quiet(&["create", id]))?;
        self.mounted(&LAYERS)
    }

    /// Everything is given back and mounted again, and holds what was acknowledged.
    fn verify_again(&self, files: &[usize]) -> Result<Vec<PathBuf>> {
        self.given_back(&LAYERS)?;
        let trees = self.mounted(&LAYERS)?;
        verify(&trees, files)?;
        Ok(trees)
    }

    /// The same after a stop, when LVM has had the pool down. The log.
    fn end(mut self, files: &[usize]) -> Result<String> {
        self.given_back(&LAYERS)?;
        self.root.check()?;
        self.root.quiet(&["stop"])?;
        let output = self.serve.running.end_with("TERM")?;
        ensure!(output.status.code() == Some(0), "serve ended badly: {output:?}");
        crate::disk::deactivate()?;
        let trees = self.mounted(&LAYERS)?;
        verify(&trees, files)?;
        self.given_back(&LAYERS)?;
        self.root.check()?;
        self.root.quiet(&["stop"])?;
        Ok(output.stderr_text())
    }
}

/// Somebody else takes what the group has.
fn fill_group() -> Result<()> {
    let words = ["--yes", "--wipesignatures", "n", "--extents", "100%FREE", "--name", "filler", "docker"];
    run("lvcreate", words).map(drop)
}

/// Thin ids far from the driver's.
fn foreign(number: u32) -> Result<ThinId> {
    ThinId::new(100_000 + number).context("no thin id")
}

/// Makes empty thin devices, each of which takes metadata, until there is no more. How many.
fn use_metadata(pool: &Pool) -> Result<u32> {
    for number in 0..4000 {
        let made = pool.create_thin(foreign(number)?);
        if pool.status(Flush::No)?.health() == Health::Trouble(Trouble::OutOfMetadata) {
            return Ok(number + 1);
        }
        made?;
    }
    anyhow::bail!("4000 thin devices are not enough: {}", pool.status(Flush::No)?)
}

fn has_spare() -> Result<bool> {
    Ok(run("lvs", ["--all", "--noheadings", "-o", "lv_name", "docker"])?.stdout_text().contains("_pmspare"))
}

/// Full metadata in a full group: LVM's spare lets layers be removed.
pub(crate) fn metadata() -> Result<()> {
    let mut brim = Brim::new(400 * MIB, 40)?;
    brim.root.quiet(&["create", "kept"])?;
    let kept = brim.mounted(&["kept"])?;
    all_done(&Writers::start(&kept, 0, 2).join(WRITING)?)?;
    brim.given_back(&["kept"])?;
    fill_group()?;
    ensure!(has_spare()?, "LVM made no spare");
    let before = brim.total("metadata")?;
    let pool = Pool::open(Arc::new(Control::open()?), &DmName::new("docker-thinpool")?)?;
    let pool = pool.context("the pool is not active")?;
    let made = use_metadata(&pool)?;
    println!("out of metadata after {made} devices: {}", pool.status(Flush::No)?);
    let full = brim.until("metadata to be called full", |status| status["condition"] == "out-of-metadata")?;
    ensure!(full["trouble"].as_str().is_some_and(|text| text.contains("vgextend")), "{full}");
    let said = brim.root.refused(&["create", "more"], 6)?;
    ensure!(said.contains("metadata") && has_spare()?, "{said}");
    ensure!(brim.total("metadata")? == before, "it grew in a full group");

    brim.root.quiet(&["rm", "victim"])?;
    ensure!(!brim.root.ids()?.contains("victim"), "the victim is still there");
    // The worker comes for its blocks behind the answer.
    let relieved = brim.until("the metadata to get the spare", |status| {
        status["metadata"]["total"].as_u64().is_some_and(|total| total > before)
    });
    if let Err(error) = relieved {
        let log = brim.serve.running.end_with("TERM")?.stderr_text();
        return Err(error.context(format!("serve's log:\n{log}")));
    }
    ensure!(!has_spare()?, "it grew by something else");
    brim.until("the victim's blocks to come back", |status| status["deferred"] == 0)?;
    nobody_hangs()?;

    // With room again all goes on, and LVM has its spare back.
    run("lvremove", ["--yes", "docker/filler"])?;
    for number in 0..made {
        // The last one may not have been made.
        match pool.delete(foreign(number)?) {
            Err(error) if number + 1 < made => return Err(error.into()),
            _ => {}
        }
    }
    brim.root.quiet(&["create", "after"])?;
    brim.root.quiet(&["pool", "grow", "--metadata", "+4M"])?;
    ensure!(has_spare()?, "LVM made no spare again");
    let kept = brim.mounted(&["kept"])?;
    verify(&kept, &[2])?;
    brim.given_back(&["kept"])?;
    brim.root.check()?;
    brim.root.quiet(&["stop"])
}

fn acknowledged(written: &[Written]) -> Vec<usize> {
    written.iter().map(|written| written.acknowledged).collect()
}

fn all_done(written: &[Written]) -> Result<()> {
    println!("{written:?}");
    ensure!(written.iter().all(|writer| writer.error.is_none()), "{written:?}");
    nobody_hangs()
}

/// By thinlayer's watcher, and by LVM's.
pub(crate) fn grows() -> Result<()> {
    let brim = Brim::new(600 * MIB, 20)?;
    let before = brim.total("data")?;
    let trees = brim.made()?;
    all_done(&Writers::start(&trees, 0, 30).join(WRITING)?)?;
    let now = brim.until("the pool to be well", |status| status["condition"] == "good")?;
    let once = brim.total("data")?;
    ensure!(once > before && once > 130 * MIB, "from {before} to {once}: {now}");
    let trees = brim.verify_again(&[30; 4])?;

    run("lvchange", ["--monitor", "y", "docker/thinpool"])?;
    all_done(&Writers::start(&trees, 30, 20).join(WRITING)?)?;
    brim.until("the pool to be well", |status| status["condition"] == "good")?;
    let twice = brim.total("data")?;
    ensure!(twice > once, "LVM has not extended its pool: {once}, {twice}");
    let log = brim.end(&[50; 4])?;
    println!("{log}");
    ensure!(log.contains("its data has grown"), "who has grown it?");
    Ok(())
}

pub(crate) fn cannot_grow() -> Result<()> {
    let brim = Brim::new(400 * MIB, 40)?;
    let victim = brim.mounted(&["victim"])?;
    all_done(&Writers::start(&victim, 0, 20).join(WRITING)?)?;
    brim.given_back(&["victim"])?;
    let trees = brim.made()?;
    fill_group()?;
    let data = brim.total("data")?;
    let written = Writers::start(&trees, 0, 60).join(WRITING)?;
    println!("{written:?}");
    ensure!(written.iter().all(|writer| writer.error.is_some()), "four times 60 MiB went into {data} bytes");
    nobody_hangs()?;
    let files = acknowledged(&written);
    ensure!(files.iter().sum::<usize>() > 10, "{files:?}");
    let full = brim.until("the pool to be called full", |status| status["condition"] == "out-of-data")?;
    println!("{full}");
    ensure!(brim.total("data")? == data && full["growth"]["data"]["possible"] == false, "{full}");
    let trouble = full["trouble"].as_str().context("no trouble")?;
    ensure!(trouble.contains("remove layers") && trouble.contains("vgextend"), "{trouble}");
    let said = brim.root.refused(&["create", "more"], 6)?;
    ensure!(said.contains("vgextend"), "{said}");

    // Removing works, and makes room.
    brim.root.quiet(&["rm", "victim"])?;
    brim.until("the victim's blocks to come back", |status| status["condition"] != "out-of-data")?;
    let trees = brim.verify_again(&files)?;
    let first = *files.iter().max().context("no files")? + 100;
    all_done(&Writers::start(&trees, first, 1).join(WRITING)?)?;

    // With room in the group the pool grows by itself.
    run("lvremove", ["--yes", "docker/filler"])?;
    let grown = brim.until("the pool to grow", |status| {
        status["condition"] == "good" && status["data"]["total"].as_u64().is_some_and(|total| total > data)
    })?;
    println!("{grown}");
    all_done(&Writers::start(&trees, first + 1, 4).join(WRITING)?)?;
    let log = brim.end(&files)?;
    println!("{log}");
    let said = log.lines().filter(|line| line.contains("it is out of data space")).count();
    ensure!((1..=2).contains(&said), "that it is full is said {said} times");
    Ok(())
}
