//! Pools: making, finding, changing, growing, watching, taking down.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::{Test, test};
use thinlayer_dm::{Access, Control, DeviceMapper, Flush, Sectors, Suspend};
use thinlayer_thin::{
    DataBlocks, Difference, Discard, Error, Features, GROWING, Kind, MetaBlocks, Mode, NoSpace, Patience,
    Pool, PoolChange, PoolTable, TransactionId, Watcher,
};

use crate::rig::{
    MIB, Rig, block_size, deactivate, dmsetup, enlarge, figures, fill, name, refused, remove, sectors, thin,
};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("a new pool is what dmsetup sees", new_pool),
        test("every feature is in the table as dmsetup prints it", features),
        test("a pool that the kernel refuses leaves nothing behind", refusals),
        test("only a pool is opened as one", wrong_devices),
        test("an interrupted making is recognised and removed", unfinished),
        test("a reload changes what can be changed and refuses the rest", reload),
        test("a pool whose new table was refused at resume comes back", refused_at_resume),
        test("data and metadata grow while devices are in use", growth),
        test("a pool in use is not removed, and says who uses it", pool_in_use),
        test("the watcher tells what passes a mark", watching),
    ]
}

fn new_pool() -> Result<()> {
    let rig = Rig::usual()?;
    let pool = rig.create()?;
    let line = dmsetup(["table", rig.name.as_str()])?;
    ensure!(line == rig.table.to_string(), "dmsetup prints {line}, the table is {}", rig.table);
    ensure!(line.ends_with("128 32768 1 skip_block_zeroing"), "{line}");
    ensure!(pool.table()? == rig.table);

    let status = figures(&pool)?;
    let theirs = dmsetup(["status", "--noflush", rig.name.as_str()])?;
    let ours = format!("0 {} thin-pool {status}", rig.table.len.0);
    ensure!(theirs == ours, "dmsetup prints {theirs}, we {ours}");
    ensure!(status.total_data == DataBlocks(1024) && status.used_data == DataBlocks(0), "{status:?}");
    ensure!(status.total_metadata == MetaBlocks(2048), "{status:?}");
    ensure!(status.transaction_id == TransactionId(0) && status.held_metadata_root.is_none());
    ensure!(status.mode == Some(Mode::ReadWrite) && status.no_space == Some(NoSpace::Queue));
    ensure!(status.needs_check == Some(false) && status.rest.is_empty());
    ensure!(status.metadata_low_water == Some(MetaBlocks(512)), "{status:?}");
    pool.ensure_writable()?;

    let again = Pool::open(Arc::<Control>::clone(&rig.dm), &rig.name)?.context("it is not found")?;
    ensure!(again.number() == pool.number());
    refused("a second one", rig.create_as(&rig.table), Kind::Exists, &["tlt-pool", "exists already"])?;
    rig.close(&pool)?;
    ensure!(Pool::open(Arc::<Control>::clone(&rig.dm), &rig.name)?.is_none());
    Ok(())
}

fn features() -> Result<()> {
    let rig = Rig::usual()?;
    rig.close(&rig.create()?)?;
    for discard in [Discard::Passdown, Discard::NoPassdown, Discard::Ignore] {
        for flags in 0..8 {
            let features = Features {
                zero_new_blocks: flags & 1 != 0,
                read_only: flags & 2 != 0,
                error_if_no_space: flags & 4 != 0,
                discard,
                other: Vec::new(),
            };
            let table = PoolTable { features, low_water: DataBlocks(flags), ..rig.table.clone() };
            let pool = rig.create_as(&table)?;
            let line = dmsetup(["table", rig.name.as_str()])?;
            ensure!(line == table.to_string(), "dmsetup prints {line}, the table is {table}");
            ensure!(pool.table()? == table);
            let status = figures(&pool)?;
            let ro = (status.mode == Some(Mode::ReadOnly)) == table.features.read_only;
            let full = (status.no_space == Some(NoSpace::Error)) == table.features.error_if_no_space;
            ensure!(ro && full, "{table} shows {status}");
            if discard != Discard::Passdown {
                ensure!(status.discard == Some(discard), "{table} shows {status}");
            }
            remove(&pool)?;
        }
    }
    rig.check()
}

fn refusals() -> Result<()> {
    let rig = Rig::usual()?;
    rig.close(&rig.create()?)?;
    let bad = [
        ("another block size", PoolTable { block_size: block_size(256)?, ..rig.table.clone() }),
        ("a longer data device", PoolTable { len: Sectors(rig.table.len.0 + 128), ..rig.table.clone() }),
        ("a device that is not there", PoolTable { data: "/dev/tlt-none".parse()?, ..rig.table.clone() }),
        ("an unknown feature", {
            let mut table = rig.table.clone();
            table.features.other.push("tlt_unknown".into());
            table
        }),
    ];
    for (what, table) in bad {
        let error = match rig.create_as(&table) {
            Ok(pool) => anyhow::bail!("{what}: {} was made", pool.name()),
            Err(error) => error,
        };
        println!("{what}: {error}");
        ensure!(matches!(error, Error::TableRefused { .. }), "{what}: {error:?}");
        ensure!(error.to_string().contains(&table.to_string()), "{what}: {error}");
        ensure!(dmsetup(["ls"])?.contains("No devices found"), "{what}: {}", dmsetup(["ls"])?);
    }
    // What is there is not formatted over.
    rig.check()
}

fn wrong_devices() -> Result<()> {
    let rig = Rig::usual()?;
    harness::run("dmsetup", ["create", "tlt-zero", "--table", "0 8 zero"])?;
    let open = |text: &str| -> Result<_> { Ok(Pool::open(Arc::<Control>::clone(&rig.dm), &name(text)?)) };
    refused("a device of zeroes", open("zero")?, Kind::Invalid, &["tlt-zero is no thin-pool", "zero"])?;
    ensure!(open("none")?.is_ok_and(|pool| pool.is_none()));
    harness::run("dmsetup", ["remove", "--retry", "tlt-zero"])?;

    // A thin device of another pool is not taken for ours.
    let pool = rig.create()?;
    let device = thin(&pool, 1, sectors(8))?;
    ensure!(pool.device(device.name())?.as_ref() == Some(&device));
    let (metadata, data) = (harness::LoopFile::new("m2", 4 * MIB)?, harness::LoopFile::new("d2", 16 * MIB)?);
    let (metadata_number, data_number) =
        (crate::rig::number(metadata.device())?, crate::rig::number(data.device())?);
    let table = PoolTable::new(metadata_number, data_number, sectors(16));
    let dm = Arc::<Control>::clone(&rig.dm);
    let other = Pool::create(dm, &name("other")?, &table, Access::ReadWrite)?;
    refused("another pool's", other.device(device.name()), Kind::Invalid, &["another pool"])?;
    refused("the pool itself", other.device(pool.name()), Kind::Invalid, &["no thin device but thin-pool"])?;
    remove(&other)?;
    deactivate(&pool, &device)?;
    rig.close(&pool)
}

fn unfinished() -> Result<()> {
    let rig = Rig::usual()?;
    rig.dm.create(&rig.name, None)?;
    let open = Pool::open(Arc::<Control>::clone(&rig.dm), &rig.name);
    refused("a device without a table", open, Kind::Unfinished, &["tlt-pool", "interrupted"])?;
    // A table that was loaded but never taken is no table either.
    rig.dm.load((&rig.name).into(), &[rig.table.target()], Access::ReadWrite)?;
    let open = Pool::open(Arc::<Control>::clone(&rig.dm), &rig.name);
    refused("a table not taken", open, Kind::Unfinished, &["tlt-pool"])?;
    ensure!(Pool::remove_unfinished(&*rig.dm, &rig.name)?);
    ensure!(!Pool::remove_unfinished(&*rig.dm, &rig.name)?);
    let pool = rig.create()?;
    refused("a pool", Pool::remove_unfinished(&*rig.dm, &rig.name), Kind::Invalid, &["with a table"])?;
    rig.close(&pool)
}

fn reload() -> Result<()> {
    let rig = Rig::usual()?;
    let pool = rig.create()?;
    let device = thin(&pool, 1, sectors(8))?;
    fill(device.node(), 0, 4, 7)?;
    ensure!(pool.check_compatible(&rig.table)?.is_empty());

    let mut wanted = rig.table.clone();
    wanted.low_water = DataBlocks(100);
    wanted.features.error_if_no_space = true;
    let differences = pool.check_compatible(&wanted)?;
    ensure!(differences.len() == 2, "{differences:?}");
    ensure!(
        differences[0] == Difference::LowWater { active: DataBlocks(32_768), wanted: DataBlocks(100) },
        "{differences:?}"
    );
    pool.reload(&wanted, GROWING)?;
    ensure!(dmsetup(["table", rig.name.as_str()])? == wanted.to_string());
    ensure!(figures(&pool)?.no_space == Some(NoSpace::Error));
    pool.reload(&rig.table, Suspend::default())?;
    ensure!(pool.table()? == rig.table);

    let other = PoolTable { block_size: block_size(256)?, ..rig.table.clone() };
    refused("another block size", pool.reload(&other, GROWING), Kind::Mismatch, &["64 KiB and not 128 KiB"])?;
    let other = PoolTable { data: rig.table.metadata.clone(), ..rig.table.clone() };
    refused("another device", pool.reload(&other, GROWING), Kind::Mismatch, &["for its data"])?;
    let shorter = PoolTable { len: sectors(32), ..rig.table.clone() };
    refused("a shorter pool", pool.reload(&shorter, GROWING), Kind::Invalid, &["cannot shrink"])?;
    let longer = PoolTable { len: sectors(65), ..rig.table.clone() };
    refused("a longer pool", pool.reload(&longer, GROWING), Kind::Invalid, &["refuses the table"])?;

    ensure!(pool.table()? == rig.table && !rig.dm.info((&rig.name).into())?.context("gone")?.suspended);
    fill(device.node(), 4, 4, 8)?;
    deactivate(&pool, &device)?;
    rig.close(&pool)
}

/// What the kernel does when a target refuses as it is taken into use: the crate's way back rests on this.
fn refused_at_resume() -> Result<()> {
    let rig = Rig::usual()?;
    let pool = rig.create()?;
    let device = thin(&pool, 1, sectors(8))?;
    fill(device.node(), 0, 4, 7)?;
    let shorter = PoolTable { len: sectors(32), ..rig.table.clone() };
    let pool_ref = (&rig.name).into();
    rig.dm.load(pool_ref, &[shorter.target()], Access::ReadWrite)?;
    let resumed = rig.dm.resume(pool_ref, GROWING);
    ensure!(resumed.is_err(), "the kernel took a shorter pool");
    let info = rig.dm.info(pool_ref)?.context("the pool is gone")?;
    println!("after {resumed:?}: {info:?}");
    ensure!(info.suspended, "the pool is not suspended");
    ensure!(pool.table()? == shorter, "the shorter table is not in use: {}", pool.table()?);
    pool.reload(&rig.table, GROWING)?;
    ensure!(pool.table()? == rig.table && !rig.dm.info(pool_ref)?.context("gone")?.suspended);
    fill(device.node(), 4, 4, 8)?;
    deactivate(&pool, &device)?;
    rig.close(&pool)
}

fn growth() -> Result<()> {
    let rig = Rig::usual()?;
    let pool = rig.create()?;
    let device = thin(&pool, 1, sectors(32))?;
    fill(device.node(), 0, 16, 1)?;

    let same = pool.grow_data(rig.table.len)?;
    ensure!(!same.changed(), "{same:?}");
    enlarge(&rig.data, 96 * MIB)?;
    let grown = pool.grow_data(sectors(96))?;
    ensure!(grown.from == DataBlocks(1024) && grown.to == DataBlocks(1536), "{grown:?}");
    ensure!(figures(&pool)?.total_data == DataBlocks(1536));
    ensure!(pool.table()?.len == sectors(96));
    refused("a smaller size", pool.grow_data(sectors(64)), Kind::Invalid, &["cannot shrink"])?;

    let same = pool.grow_metadata()?;
    ensure!(!same.changed(), "{same:?}");
    enlarge(&rig.metadata, 12 * MIB)?;
    let grown = pool.grow_metadata()?;
    ensure!(grown.from == MetaBlocks(2048) && grown.to == MetaBlocks(3072), "{grown:?}");
    ensure!(figures(&pool)?.total_metadata == MetaBlocks(3072));

    fill(device.node(), 16, 16, 2)?;
    deactivate(&pool, &device)?;
    rig.close(&pool)?;
    // The size is in the metadata: the pool comes back with it.
    let pool = rig.create_as(&PoolTable { len: sectors(96), ..rig.table.clone() })?;
    let status = figures(&pool)?;
    ensure!(status.total_data == DataBlocks(1536) && status.used_data == DataBlocks(32), "{status}");
    rig.close(&pool)
}

fn pool_in_use() -> Result<()> {
    let rig = Rig::usual()?;
    let pool = rig.create()?;
    let device = thin(&pool, 1, sectors(8))?;
    let start = Instant::now();
    let words = ["remove pool tlt-pool: it is busy", "tlt-thin-1"];
    refused("a pool in use", pool.remove(Patience::none()), Kind::Busy, &words)?;
    ensure!(start.elapsed() < Duration::from_secs(5), "that took {:?}", start.elapsed());

    pool.suspend(Suspend::default())?;
    ensure!(rig.dm.info((&rig.name).into())?.context("gone")?.suspended);
    pool.resume()?;
    ensure!(!rig.dm.info((&rig.name).into())?.context("gone")?.suspended);
    deactivate(&pool, &device)?;
    rig.close(&pool)?;
    refused("a pool that is gone", pool.status(Flush::No), Kind::NotFound, &["tlt-pool"])?;
    Ok(())
}

fn watching() -> Result<()> {
    let rig = Rig::usual()?;
    let table = PoolTable { low_water: DataBlocks(900), ..rig.table.clone() };
    let pool = rig.create_as(&table)?;
    let device = thin(&pool, 1, sectors(64))?;
    let mut watcher = Watcher::new(&pool)?;
    ensure!(watcher.wait(Duration::ZERO)?.is_empty());

    let node = device.node().to_owned();
    let writer = std::thread::spawn(move || fill(&node, 0, 200, 1));
    let changes = until_changed(&mut watcher)?;
    let low = changes.iter().any(
        |change| matches!(change, PoolChange::DataLow { free, low_water: DataBlocks(900) } if free.0 <= 900),
    );
    ensure!(low, "the watcher saw {changes:?}");
    writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;

    enlarge(&rig.data, 96 * MIB)?;
    pool.grow_data(sectors(96))?;
    let changes = until_changed(&mut watcher)?;
    let size = PoolChange::DataSize { from: DataBlocks(1024), to: DataBlocks(1536) };
    ensure!(changes.contains(&size), "the watcher saw {changes:?}");
    deactivate(&pool, &device)?;
    rig.close(&pool)
}

/// Events of other devices wake the watcher, too.
fn until_changed(watcher: &mut Watcher) -> Result<Vec<PoolChange>> {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(60) {
        let changes = watcher.wait(Duration::from_secs(10))?;
        if !changes.is_empty() {
            return Ok(changes);
        }
    }
    anyhow::bail!("the watcher saw nothing for a minute; the state is {:?}", watcher.state())
}
