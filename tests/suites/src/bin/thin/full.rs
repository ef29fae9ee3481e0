//! Pools without space.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::{Test, test};
use thinlayer_dm::{Flush, Removal};
use thinlayer_thin::{DataBlocks, Deleted, GROWING, Health, Kind, Mode, Patience, PoolTable, Trouble};

use crate::rig::{MIB, Rig, deactivate, enlarge, figures, fill, id, patience, refused, sectors, thin};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("a full pool that answers with errors refuses writes, deletes, and grows", with_errors),
        test("a full pool that queues holds writers until it has grown", with_queue),
        test("writers of a full pool get an error when it is told to stop queueing", stop_queueing),
        test("a pool out of metadata says so, and works again after growing", out_of_metadata)
            .deadline(Duration::from_secs(240)),
    ]
}

fn with_errors() -> Result<()> {
    let rig = Rig::new(4 * MIB, 16 * MIB)?;
    let mut table: PoolTable = rig.table.clone();
    table.features.error_if_no_space = true;
    let pool = rig.create_as(&table)?;
    pool.create_thin(id(9)?)?;
    let device = thin(&pool, 1, sectors(64))?;
    let error = fill(device.node(), 0, 300, 1).err();
    println!("writing 300 blocks into 256: {error:?}");
    ensure!(error.is_some(), "300 blocks went into 256");
    let status = figures(&pool)?;
    ensure!(status.mode == Some(Mode::OutOfDataSpace), "{status}");
    ensure!(status.health() == Health::Trouble(Trouble::OutOfData) && status.free_data() == DataBlocks(0));
    // Messages work: that is how space comes back.
    pool.ensure_writable()?;
    ensure!(pool.delete(id(9)?)? == Deleted::Deleted);
    pool.create_thin(id(10)?)?;

    enlarge(&rig.data, 32 * MIB)?;
    let grown = pool.grow_data(sectors(32))?;
    ensure!(grown.to == DataBlocks(512), "{grown:?}");
    ensure!(figures(&pool)?.mode == Some(Mode::ReadWrite), "{}", figures(&pool)?);
    fill(device.node(), 256, 50, 2)?;
    deactivate(&pool, &device)?;
    ensure!(pool.delete(id(1)?)? == Deleted::Deleted);
    ensure!(figures(&pool)?.used_data == DataBlocks(0));
    rig.close(&pool)
}

/// A pool of 256 blocks that is full, with a writer that waits for more.
fn full_with_writer(
    rig: &Rig,
) -> Result<(thinlayer_thin::Pool, thinlayer_thin::ThinDevice, std::thread::JoinHandle<std::io::Result<()>>)>
{
    let pool = rig.create()?;
    let device = thin(&pool, 1, sectors(64))?;
    let node = device.node().to_owned();
    let writer = std::thread::spawn(move || fill(&node, 0, 300, 1));
    harness::eventually("the pool to be full", Duration::from_secs(60), || {
        let state = pool.status(Flush::No)?;
        Ok(match state.health() {
            Health::Trouble(Trouble::OutOfData) => Ok(()),
            _ => Err(state.to_string()),
        })
    })?;
    std::thread::sleep(Duration::from_millis(300));
    ensure!(!writer.is_finished(), "the writer did not wait");
    Ok((pool, device, writer))
}

fn with_queue() -> Result<()> {
    let rig = Rig::new(4 * MIB, 16 * MIB)?;
    let (pool, device, writer) = full_with_writer(&rig)?;
    // A look does not wait for the writer, and neither does a removal that cannot succeed.
    let tried = pool.deactivate(&device, Removal::Now, Patience::none());
    refused("a device that is written", tried, Kind::Busy, &["tlt-thin-1"])?;
    enlarge(&rig.data, 32 * MIB)?;
    pool.grow_data(sectors(32))?;
    writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
    let status = figures(&pool)?;
    ensure!(status.mode == Some(Mode::ReadWrite) && status.used_data == DataBlocks(300), "{status}");
    ensure!(crate::rig::peek(device.node(), 299)? == 1);
    deactivate(&pool, &device)?;
    rig.close(&pool)
}

fn stop_queueing() -> Result<()> {
    let rig = Rig::new(4 * MIB, 16 * MIB)?;
    let (pool, device, writer) = full_with_writer(&rig)?;
    let mut table: PoolTable = rig.table.clone();
    table.features.error_if_no_space = true;
    pool.reload(&table, GROWING)?;
    let written = writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))?;
    println!("the writer got {written:?}");
    ensure!(written.is_err(), "300 blocks went into 256");
    pool.reload(&rig.table, GROWING)?;
    ensure!(pool.table()? == rig.table);
    let removed = pool.deactivate(&device, Removal::Now, patience())?;
    ensure!(removed == thinlayer_dm::Removed::Gone, "{removed:?}");
    rig.close(&pool)
}

fn out_of_metadata() -> Result<()> {
    let rig = Rig::new(2 * MIB, 16 * MIB)?;
    let pool = rig.create()?;
    let mut made = 0;
    let error = loop {
        ensure!(made < 3000, "3000 thin devices in 2 MiB of metadata: {}", figures(&pool)?);
        match pool.create_thin(id(made)?) {
            Ok(()) => made += 1,
            Err(error) => break error,
        }
    };
    println!("after {made} devices: {error}; {}", pool.status(Flush::No)?);
    refused("one more", Err::<(), _>(error), Kind::NoSpace, &["tlt-pool", "grow its metadata device"])?;
    enlarge(&rig.metadata, 8 * MIB)?;
    let grown = pool.grow_metadata()?;
    ensure!(grown.from.0 == 512 && grown.to.0 == 2048, "{grown:?}");
    println!("grown: {}", pool.status(Flush::No)?);
    pool.ensure_writable()?;
    pool.create_thin(id(made)?)?;
    ensure!(pool.delete(id(0)?)? == Deleted::Deleted);
    rig.close(&pool)
}
