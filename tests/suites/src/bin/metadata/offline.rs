//! The metadata of a pool that is not active.

use anyhow::{Result, ensure};
use harness::{Test, test};
use thinlayer_thin::metadata::{Kind, Metadata};

use crate::oracle::{agree, differences_agree};
use crate::rig::{Rig, figures, fill};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("a pool with snapshots, discards and large ids is read as the tools read it", the_tools_agree),
        test("an empty pool is one, and an empty device is none", empty),
    ]
}

fn the_tools_agree() -> Result<()> {
    let rig = Rig::new()?;
    let pool = rig.create()?;
    fill(&pool)?;
    let status = figures(&pool)?;
    rig.remove(&pool)?;
    harness::run("thin_check", [rig.metadata.device()])?;

    // The device, and the file behind it.
    for path in [rig.metadata.device(), rig.metadata.file()] {
        let metadata = Metadata::open(path)?;
        let report = metadata.check();
        ensure!(report.is_sound() && report.counts_compared, "{path:?}: {report:?}");
        ensure!(metadata.superblock().transaction_id == status.transaction_id);
        ensure!(metadata.superblock().held_root.is_none() && !metadata.superblock().needs_check);
        let data = metadata.data_space_map()?;
        ensure!((data.blocks(), data.allocated()) == (status.total_data.0, status.used_data.0));
        ensure!(metadata.metadata_space_map()?.blocks() == metadata.blocks().0);
    }
    let metadata = Metadata::open(rig.metadata.device())?;
    let dump = agree(&metadata, rig.metadata.device(), false)?;
    ensure!(dump.devices.len() == 21 && dump.devices[&1].mappings.len() > 700, "{}", dump.devices.len());
    ensure!(dump.devices[&9].mappings.is_empty());
    for (left, right) in [(1, 2), (1, 4), (4, 0x00ff_ffff), (9, 1), (0, 9), (20, 21)] {
        differences_agree(&metadata, rig.metadata.device(), &dump, left, right)?;
    }

    // And again, after the kernel has worked on it.
    let pool = rig.create()?;
    for number in [1, 2, 3] {
        pool.delete(crate::rig::id(number)?)?;
    }
    rig.remove(&pool)?;
    let metadata = Metadata::open(rig.metadata.device())?;
    ensure!(agree(&metadata, rig.metadata.device(), false)?.devices.len() == 18);
    ensure!(metadata.check().is_sound(), "{:?}", metadata.check());
    Ok(())
}

fn empty() -> Result<()> {
    let rig = Rig::new()?;
    let error = Metadata::open(rig.metadata.device()).err();
    let text = error.as_ref().map(ToString::to_string).unwrap_or_default();
    ensure!(error.is_some_and(|error| error.kind() == Kind::NoPool) && text.contains("empty"), "{text}");
    let pool = rig.create()?;
    rig.remove(&pool)?;
    let metadata = Metadata::open(rig.metadata.device())?;
    ensure!(agree(&metadata, rig.metadata.device(), false)?.devices.is_empty());
    let report = metadata.check();
    ensure!(report.is_sound() && report.counts_compared, "{report:?}");
    Ok(())
}
