//! Messages: each one, each of its errors, and the probe.

use anyhow::{Context, Result, ensure};
use harness::{Test, test};
use thinlayer_dm::{DeviceMapper, Sectors};
use thinlayer_thin::{Deleted, Error, Kind, MetaBlocks, Pool, PoolTable, Probe, ThinId, TransactionId};

use crate::rig::{Rig, activate, deactivate, figures, fill, id, refused, sectors, thin};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("thin ids are made, snapshotted and deleted, and errors tell apart why not", thin_ids),
        test("thin ids have 24 bits", limits),
        test("the transaction id moves only from what it is", transaction_id),
        test("a metadata snapshot is held once, and its root is in the status", metadata_snapshot),
        test("a probe tells free from taken and changes nothing", probe),
        test("a read-only pool takes no message and says so", read_only),
    ]
}

fn thin_ids() -> Result<()> {
    let rig = Rig::usual()?;
    let pool = rig.create()?;
    pool.create_thin(id(1)?)?;
    refused("the same id", pool.create_thin(id(1)?), Kind::Exists, &["thin id 1", "tlt-pool"])?;
    pool.create_snap(id(2)?, id(1)?)?;
    refused("the same id by snapshot", pool.create_snap(id(2)?, id(1)?), Kind::Exists, &["thin id 2"])?;
    refused("a snapshot of nothing", pool.create_snap(id(3)?, id(99)?), Kind::NotFound, &["no thin id 99"])?;

    let device = activate(&pool, 2, sectors(8))?;
    let words = ["delete thin id 2", "tlt-thin-2"];
    refused("an active id", pool.delete(id(2)?), Kind::Busy, &words)?;
    deactivate(&pool, &device)?;
    ensure!(pool.delete(id(2)?)? == Deleted::Deleted);
    ensure!(pool.delete(id(2)?)? == Deleted::WasAbsent);
    let name = crate::rig::name("absent")?;
    let absent = pool.activate(&name, id(2)?, sectors(8), thinlayer_dm::Access::ReadWrite);
    refused("activating a deleted id", absent, Kind::NotFound, &["no thin id 2"])?;
    ensure!(rig.dm.info((&name).into())?.is_none(), "a device was left behind");
    rig.close(&pool)?;
    let dump = rig.dump()?;
    ensure!(dump.matches("<device ").count() == 1 && dump.contains("dev_id=\"1\""), "{dump}");
    Ok(())
}

fn limits() -> Result<()> {
    let rig = Rig::usual()?;
    let pool = rig.create()?;
    for number in [0, 0x00ff_ffff] {
        let device = thin(&pool, number, sectors(8))?;
        fill(device.node(), 0, 1, 1)?;
        deactivate(&pool, &device)?;
    }
    ensure!(ThinId::new(0x0100_0000).is_none(), "the type takes 25 bits");
    for message in ["create_thin 16777216", "create_thin", "create_snap 5", "delete 1 2", "tlt_nonsense"] {
        let sent = rig.dm.message((&rig.name).into(), Sectors(0), message);
        let error = sent.err().with_context(|| format!("the kernel took {message}"))?;
        ensure!(error.kind() == thinlayer_dm::Kind::Invalid, "{message}: {error}");
        ensure!(message.parse::<thinlayer_thin::Message>().is_err(), "we take {message}");
    }
    rig.close(&pool)?;
    let dump = rig.dump()?;
    ensure!(dump.contains("dev_id=\"0\"") && dump.contains("dev_id=\"16777215\""), "{dump}");
    Ok(())
}

fn transaction_id() -> Result<()> {
    let rig = Rig::usual()?;
    let pool = rig.create()?;
    let (zero, one, last) = (TransactionId(0), TransactionId(1), TransactionId(u64::MAX));
    pool.set_transaction_id(zero, one)?;
    let words = ["tlt-pool is 1 and not 0"];
    let error = refused("from another", pool.set_transaction_id(zero, one), Kind::Mismatch, &words)?;
    ensure!(matches!(error, Error::TransactionIdMismatch { actual: Some(TransactionId(1)), .. }));
    pool.set_transaction_id(one, last)?;
    ensure!(figures(&pool)?.transaction_id == last);
    rig.close(&pool)?;
    let pool = rig.create()?;
    ensure!(figures(&pool)?.transaction_id == last, "it is not on the disk");
    rig.close(&pool)
}

fn metadata_snapshot() -> Result<()> {
    let rig = Rig::usual()?;
    let pool = rig.create()?;
    pool.create_thin(id(1)?)?;
    refused("nothing to release", pool.release_metadata_snap(), Kind::Invalid, &["no metadata snapshot"])?;
    pool.reserve_metadata_snap()?;
    let root = figures(&pool)?.held_metadata_root.context("the status shows no held root")?;
    ensure!(root > MetaBlocks(0));
    refused("a second one", pool.reserve_metadata_snap(), Kind::Busy, &["snapshot already"])?;
    pool.create_thin(id(2)?)?;
    ensure!(figures(&pool)?.held_metadata_root == Some(root));
    let metadata = rig.metadata.device().to_str().context("path")?;
    let held = harness::run("thin_dump", ["--metadata-snap", metadata])?.stdout_text();
    ensure!(held.contains("dev_id=\"1\"") && !held.contains("dev_id=\"2\""), "{held}");
    pool.release_metadata_snap()?;
    ensure!(figures(&pool)?.held_metadata_root.is_none());
    rig.close(&pool)
}

fn probe() -> Result<()> {
    let rig = Rig::usual()?;
    let pool = rig.create()?;
    let device = thin(&pool, 7, sectors(8))?;
    fill(device.node(), 0, 8, 1)?;
    pool.create_thin(id(9)?)?;
    deactivate(&pool, &device)?;
    rig.close(&pool)?;
    let before = rig.dump()?;

    let pool = rig.create()?;
    let device = activate(&pool, 7, sectors(8))?;
    for _ in 0..20 {
        for (number, expected) in [
            (7, Probe::Taken),
            (9, Probe::Taken),
            (8, Probe::Free),
            (0, Probe::Free),
            (0x00ff_ffff, Probe::Free),
        ] {
            let answer = pool.probe(id(number)?)?;
            ensure!(answer == expected, "{number} is {answer:?}");
        }
    }
    deactivate(&pool, &device)?;
    rig.close(&pool)?;
    let after = rig.dump()?;
    ensure!(before == after, "before: {before}\nafter: {after}");
    Ok(())
}

fn read_only() -> Result<()> {
    let rig = Rig::usual()?;
    let pool = rig.create()?;
    let device = thin(&pool, 1, sectors(8))?;
    fill(device.node(), 0, 4, 5)?;
    deactivate(&pool, &device)?;
    rig.close(&pool)?;
    let before = rig.dump()?;

    let mut table: PoolTable = rig.table.clone();
    table.features.read_only = true;
    let pool = rig.create_as(&table)?;
    let no = |what: &str, result: thinlayer_thin::Result<()>| {
        refused(what, result, Kind::ReadOnly, &["tlt-pool", "it is read-only"]).map(drop)
    };
    no("create_thin", pool.create_thin(id(2)?))?;
    no("create_snap", pool.create_snap(id(2)?, id(1)?))?;
    no("delete", pool.delete(id(1)?).map(drop))?;
    no("set_transaction_id", pool.set_transaction_id(TransactionId(0), TransactionId(1)).map(drop))?;
    no("reserve_metadata_snap", pool.reserve_metadata_snap())?;
    no("probe", pool.probe(id(1)?).map(drop))?;
    no("ensure_writable", pool.ensure_writable().map(drop))?;
    let device = activate(&pool, 1, sectors(8))?;
    ensure!(crate::rig::peek(device.node(), 3)? == 5);
    ensure!(fill(device.node(), 50, 1, 1).is_err(), "a read-only pool took a write to a new block");
    deactivate(&pool, &device)?;
    rig.close(&pool)?;
    ensure!(rig.dump()? == before, "a read-only pool was changed");

    // And back, without taking it down.
    let pool: Pool = rig.create_as(&table)?;
    pool.reload(&rig.table, thinlayer_thin::GROWING)?;
    pool.ensure_writable()?;
    pool.create_thin(id(2)?)?;
    rig.close(&pool)
}
