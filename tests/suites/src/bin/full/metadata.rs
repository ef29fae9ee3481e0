//! Metadata: growth at the threshold, and the reserve when nothing else helps.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::eventually;
use thinlayer_dm::{Control, DmName, Flush};
use thinlayer_thin::{Health, Pool, ThinId, Trouble};

use crate::brim::{pool_name, status, total, until};
use crate::fixture::{PATIENCE, Root};
use crate::host::{Host, MIB};
use crate::writers::nobody_hangs;

/// Thin ids far from the driver's.
const FOREIGN: u32 = 100_000;

fn options() -> Vec<String> {
    // Whole devices are not discarded, so that a removal is a message.
    ["dm.loopdatasize=300M", "dm.loopmetadatasize=4M", "dm.basesize=64M", "dm.fs=ext4", "dm.blkdiscard=false"]
        .map(str::to_owned)
        .to_vec()
}

fn pool(root: &Root) -> Result<Pool> {
    let name = DmName::new(pool_name(root)?)?;
    Pool::open(Arc::new(Control::open()?), &name)?.context("the pool is not active")
}

/// Makes empty thin devices, each of which takes metadata, until `done`.
fn use_metadata(pool: &Pool, done: impl Fn(&thinlayer_thin::PoolStatus) -> bool) -> Result<u32> {
    for number in 0..4000 {
        let id = ThinId::new(FOREIGN + number).context("no thin id")?;
        let made = pool.create_thin(id);
        let state = pool.status(Flush::No)?;
        let status = state.running().with_context(|| format!("the pool is {state}"))?;
        if done(status) {
            return Ok(number + 1);
        }
        made?;
    }
    bail!("4000 thin devices are not enough: {}", pool.status(Flush::No)?)
}

fn is_out(status: &thinlayer_thin::PoolStatus) -> bool {
    status.health() == Health::Trouble(Trouble::OutOfMetadata)
}

pub(crate) fn removal(through_serve: bool) -> Result<()> {
    let host = Host::new(128 * MIB)?;
    let root = Root::with(&host.folder.join("root"), options())?;
    let mut serve = if through_serve { Some(root.serve()?) } else { None };
    for id in ["kept", "victim", "another"] {
        root.quiet(&["create", id])?;
        let tree = root.run(&["mount", id])?;
        let file = Path::new(tree.trim_end()).join("file");
        fs::write(&file, id)?;
        fs::File::open(&file)?.sync_all()?;
        root.quiet(&["umount", id])?;
    }
    let reserve = root.path.join("thinlayer/metadata-reserve");
    ensure!(fs::metadata(&reserve)?.len() == 4 * MIB, "no reserve");
    let before = total(&status(&root)?, "metadata")?;
    // To the last block: neither the metadata nor anything else can grow.
    host.fill_but(0)?;
    let pool = pool(&root)?;
    let made = use_metadata(&pool, is_out)?;
    println!("out of metadata after {made} devices: {}", pool.status(Flush::No)?);
    let full = until(&root, "metadata to be called full", |s| s["condition"] == "out-of-metadata")?;
    let trouble = full["trouble"].as_str().context("no trouble")?;
    ensure!(trouble.contains("pool grow --metadata"), "{trouble}");
    ensure!(total(&full, "metadata")? == before, "it grew on a full host: {full}");
    let said = root.refused(&["create", "more"], 6)?;
    ensure!(said.contains("metadata"), "{said}");
    ensure!(reserve.exists(), "the reserve went to a create");

    root.quiet(&["rm", "victim"])?;
    ensure!(!root.ids()?.contains("victim"), "the victim is still there");
    let now = status(&root)?;
    let grown = total(&now, "metadata")?;
    ensure!(grown > before && grown <= before + 4 * MIB, "metadata went from {before} to {grown}");
    ensure!(!reserve.exists(), "the reserve is there, and was given to the pool");
    // With it, others can go too.
    root.quiet(&["rm", "another"])?;
    nobody_hangs()?;

    // Room on the host brings the reserve back, and the pool goes on.
    host.clear()?;
    for number in 0..made {
        pool.delete(ThinId::new(FOREIGN + number).context("no thin id")?)?;
    }
    root.quiet(&["create", "after"])?;
    eventually("the reserve to be there again", PATIENCE, || {
        let length = fs::metadata(&reserve).map_or(0, |file| file.len());
        Ok(if length >= 4 * MIB { Ok(()) } else { Err(format!("it has {length} bytes")) })
    })?;
    let tree = root.run(&["mount", "kept"])?;
    ensure!(fs::read(Path::new(tree.trim_end()).join("file"))? == b"kept", "another layer was harmed");
    root.quiet(&["umount", "kept"])?;
    root.check()?;
    root.stop_and_check()?;
    if let Some(serve) = &mut serve {
        serve.terminate()?;
    }
    drop(root);
    Ok(())
}

pub(crate) fn grows() -> Result<()> {
    let mut serve;
    let root = Root::with(&harness::scratch_dir()?.join("root"), options())?;
    root.quiet(&["create", "first"])?;
    let before = total(&status(&root)?, "metadata")?;
    ensure!(before == 4 * MIB, "{before}");
    let low = |status: &thinlayer_thin::PoolStatus| status.free_metadata().0 * 5 <= status.total_metadata.0;
    // By itself nothing happens without an owner; the next create grows it first.
    let made = use_metadata(&pool(&root)?, low)?;
    ensure!(total(&status(&root)?, "metadata")? == before, "who has grown it?");
    root.quiet(&["create", "second"])?;
    let once = total(&status(&root)?, "metadata")?;
    ensure!(once > before, "the create did not grow it");
    // With an owner it does as soon as the kernel tells, or a second later.
    serve = root.serve()?;
    let pool = pool(&root)?;
    for number in made..4000 {
        pool.create_thin(ThinId::new(FOREIGN + number).context("no thin id")?)?;
        let state = pool.status(Flush::No)?;
        if state.running().is_some_and(low) {
            break;
        }
    }
    until(&root, "the metadata to grow", |s| total(s, "metadata").is_ok_and(|total| total > once))?;
    let now = status(&root)?;
    ensure!(now["condition"] == "good", "{now}");
    harness::run("true", [""; 0])?;
    serve.terminate()?;
    root.quiet(&["create", "third"])?;
    std::thread::sleep(Duration::from_millis(10));
    root.stop_and_check()
}
