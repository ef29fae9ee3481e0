//! The thin-pool target: tables, growth, modes, what lasts.

use super::bench::{BLOCK, Bench, MIB, line, pool_line, pool_status, remove_later, thin_line};
use super::{Failure, Outcome, ensure, list, refused, same};
use thinlayer_dm::{Access, Bytes, Kind, Removal, Removed, Slot, Suspend};
use thinlayer_provision::{Allocation, AttachOptions};

list! {
    "a new pool is empty, and its status has all words" => new_pool,
    "a pool's table comes back with numbers, and features in the kernel's order" => table_text,
    "a pool without features says so" => no_features,
    "whether a pool discards is settled when it is made" => ignored_discards,
    "bad pool tables are refused" => bad_tables,
    "a pool takes a whole device and is always writable" => whole_and_writable,
    "a read-only pool on fresh metadata is refused" => read_only_fresh,
    "a read-only pool takes no messages" => read_only,
    "another block size than the metadata's is refused" => block_size,
    "metadata that is something else is refused" => foreign_metadata,
    "one metadata device serves one pool" => metadata_twice,
    "a pool's devices cannot be exchanged by a reload" => exchange,
    "a pool's table cannot be replaced by another target" => immutable,
    "devices and transaction id outlast the pool's removal" => lasting,
    "a pool whose data became smaller is not resumed, and can be mended" => shrunk,
    "a pool grows with its data device" => grow_data,
    "a pool grows with its metadata device" => grow_metadata,
    "a pool under a thin device is not removed, but can be put off" => busy_pool,
    "loop devices clear themselves when the pool goes" => autoclear,
    "a thin table on a pool that is suspended, or was never resumed, is refused" => unbound_pool,
    "a full pool says so, and works again after a removal" => full,
    "a full pool grows in a reload that also changes its mark and what writers get" => full_grows,
    "the low-water mark is an event, once" => low_water,
    "a pool that is suspended still takes messages" => suspended,
}

const DATA: u64 = 64 * MIB;

fn new_pool(b: &Bench<'_>) -> Outcome {
    let pool = b.pool(DATA, "1 skip_block_zeroing")?;
    let text = b.status(&pool.name)?;
    ensure!(text.ends_with(' '), "no space at the end of {text:?}");
    let status = pool_status(b, &pool.name)?;
    same!(status.transaction_id, 0, "transaction id");
    same!(status.data, (0, DATA / 512 / BLOCK), "data blocks");
    same!(status.metadata.1, 16 * MIB / 4096, "metadata blocks");
    ensure!(status.metadata.0 > 0 && status.metadata.0 < status.metadata.1, "{status:?}");
    same!((status.held_root.as_str(), status.mode.as_str()), ("-", "rw"), "held root and mode");
    same!(status.no_space, "queue_if_no_space", "what happens without space");
    ensure!(status.discard.ends_with("discard_passdown"), "{status:?}");
    same!(status.needs_check, "-", "needs_check");
    same!(pool.info.target_count, 1, "targets");
    let mut deps = vec![pool.metadata.number, pool.data.number];
    let mut found = b.dm().deps((&pool.name).into())?;
    deps.sort_unstable();
    found.sort_unstable();
    same!(found, deps, "what it stands on");
    Ok(())
}

fn table_text(b: &Bench<'_>) -> Outcome {
    let pool = b.pool(DATA, "3 error_if_no_space no_discard_passdown skip_block_zeroing")?;
    let expected = format!(
        "{} {} {BLOCK} 0 3 skip_block_zeroing no_discard_passdown error_if_no_space ",
        pool.metadata.number, pool.data.number
    );
    same!(b.table(&pool.name)?, line(0, DATA / 512, "thin-pool", &expected), "the table");
    let status = pool_status(b, &pool.name)?;
    same!(status.discard, "no_discard_passdown", "discards in the status");
    same!(status.no_space, "error_if_no_space", "no space in the status");
    Ok(())
}

fn no_features(b: &Bench<'_>) -> Outcome {
    let pool = b.pool(DATA, "")?;
    let expected = format!("{} {} {BLOCK} 0 0 ", pool.metadata.number, pool.data.number);
    same!(b.table(&pool.name)?.params, expected, "the table");
    let table = [pool_line(&pool.metadata, &pool.data, 2 * BLOCK, 7, "1 error_if_no_space")];
    b.dm().load((&pool.name).into(), &table, Access::ReadWrite)?;
    // The block size is the pool's, whatever a later table says.
    let expected = format!("{} {} {BLOCK} 7 1 error_if_no_space ", pool.metadata.number, pool.data.number);
    let next = b.dm().table((&pool.name).into(), Slot::Inactive)?.1;
    same!(next.first().map(|t| t.params.clone()), Some(expected), "the next table");
    same!(pool_status(b, &pool.name)?.no_space, "queue_if_no_space", "what is in use");
    b.dm().resume((&pool.name).into(), Suspend::default())?;
    same!(pool_status(b, &pool.name)?.no_space, "error_if_no_space", "what is in use after the resume");
    Ok(())
}

fn ignored_discards(b: &Bench<'_>) -> Outcome {
    let pool = b.pool(DATA, "1 ignore_discard")?;
    same!(pool_status(b, &pool.name)?.discard, "ignore_discard", "discards in the status");
    let table = [pool_line(&pool.metadata, &pool.data, BLOCK, 0, "")];
    refused!(
        b.dm().load((&pool.name).into(), &table, Access::ReadWrite),
        Kind::Invalid,
        "a table that changes it"
    );
    Ok(())
}

fn bad_tables(b: &Bench<'_>) -> Outcome {
    let (metadata, data) = (b.attached("metadata", 16 * MIB)?, b.attached("data", DATA)?);
    let name = b.name("pool")?;
    b.dm().create(&name, None)?;
    let (m, d) = (metadata.number, data.number);
    for params in [
        format!("{m} {d} {BLOCK}"),
        format!("{m} {d} 64 0"),
        format!("{m} {d} 192 0"),
        format!("{m} {d} 4194304 0"),
        format!("{m} {d} {BLOCK} x"),
        format!("{m} {d} {BLOCK} 0 1 no_such_feature"),
        format!("{m} {d} {BLOCK} 0 9 skip_block_zeroing"),
        format!("{m} {d} {BLOCK} 0 2 skip_block_zeroing"),
    ] {
        let result =
            b.dm().load((&name).into(), &[line(0, DATA / 512, "thin-pool", &params)], Access::ReadWrite);
        refused!(result, Kind::Invalid, "{params}");
    }
    let past = line(0, DATA / 512 + BLOCK, "thin-pool", &format!("{m} {d} {BLOCK} 0"));
    refused!(
        b.dm().load((&name).into(), &[past], Access::ReadWrite),
        Kind::Invalid,
        "more than the data device has"
    );
    let nobody = line(0, DATA / 512, "thin-pool", &format!("{m} 240:77 {BLOCK} 0"));
    refused!(b.dm().load((&name).into(), &[nobody], Access::ReadWrite), Kind::NotFound, "no data device");
    Ok(())
}

fn whole_and_writable(b: &Bench<'_>) -> Outcome {
    let (metadata, data) = (b.attached("metadata", 16 * MIB)?, b.attached("data", DATA)?);
    let name = b.name("pool")?;
    b.dm().create(&name, None)?;
    let pool = pool_line(&metadata, &data, BLOCK, 0, "1 skip_block_zeroing");
    let two = [pool.clone(), line(DATA / 512, 8, "zero", "")];
    refused!(b.dm().load((&name).into(), &two, Access::ReadWrite), Kind::Invalid, "a second target");
    refused!(b.dm().load((&name).into(), &[pool], Access::ReadOnly), Kind::Invalid, "a read-only table");
    Ok(())
}

fn read_only_fresh(b: &Bench<'_>) -> Outcome {
    let (metadata, data) = (b.attached("metadata", 16 * MIB)?, b.attached("data", DATA)?);
    let name = b.name("pool")?;
    b.dm().create(&name, None)?;
    let table = [pool_line(&metadata, &data, BLOCK, 0, "1 read_only")];
    refused!(b.dm().load((&name).into(), &table, Access::ReadWrite), Kind::Permission, "the table");
    Ok(())
}

fn read_only(b: &Bench<'_>) -> Outcome {
    let pool = b.pool(DATA, "1 skip_block_zeroing")?;
    b.message(&pool, "create_thin 1")?;
    let table = [pool_line(&pool.metadata, &pool.data, BLOCK, 0, "2 skip_block_zeroing read_only")];
    b.dm().load((&pool.name).into(), &table, Access::ReadWrite)?;
    b.dm().resume((&pool.name).into(), Suspend::default())?;
    same!(pool_status(b, &pool.name)?.mode, "ro", "its mode");
    for message in ["create_thin 2", "delete 1", "set_transaction_id 0 1", "create_snap 2 1"] {
        refused!(b.message(&pool, message), Kind::Unsupported, "{message}");
    }
    b.thin(&pool, 1, 16 * MIB)?;
    Ok(())
}

fn block_size(b: &Bench<'_>) -> Outcome {
    let pool = b.pool(DATA, "1 skip_block_zeroing")?;
    let other = [pool_line(&pool.metadata, &pool.data, 2 * BLOCK, 0, "1 skip_block_zeroing")];
    b.remove(&pool.name)?;
    b.dm().create(&pool.name, None)?;
    refused!(b.dm().load((&pool.name).into(), &other, Access::ReadWrite), Kind::Invalid, "the table");
    Ok(())
}

fn foreign_metadata(b: &Bench<'_>) -> Outcome {
    let (metadata, data) = (b.attached("metadata", 16 * MIB)?, b.attached("data", DATA)?);
    b.mkfs_at(&metadata.node, thinlayer_filesystem::Kind::Ext4)?;
    let name = b.name("pool")?;
    b.dm().create(&name, None)?;
    let table = [pool_line(&metadata, &data, BLOCK, 0, "1 skip_block_zeroing")];
    let loaded = b.dm().load((&name).into(), &table, Access::ReadWrite);
    ensure!(loaded.is_err(), "the pool was made over a file system: {loaded:?}");
    Ok(())
}

fn metadata_twice(b: &Bench<'_>) -> Outcome {
    let pool = b.pool(DATA, "1 skip_block_zeroing")?;
    let data = b.attached("more", DATA)?;
    let name = b.name("second")?;
    b.dm().create(&name, None)?;
    let table = [pool_line(&pool.metadata, &data, BLOCK, 0, "1 skip_block_zeroing")];
    refused!(b.dm().load((&name).into(), &table, Access::ReadWrite), Kind::Busy, "a second pool");
    Ok(())
}

fn exchange(b: &Bench<'_>) -> Outcome {
    let pool = b.pool(DATA, "1 skip_block_zeroing")?;
    let other = b.attached("more", DATA)?;
    for (metadata, data) in [(&pool.metadata, &other), (&other, &pool.data)] {
        let table = [pool_line(metadata, data, BLOCK, 0, "1 skip_block_zeroing")];
        let kind = if data.number == other.number { Kind::Busy } else { Kind::Invalid };
        refused!(b.dm().load((&pool.name).into(), &table, Access::ReadWrite), kind, "{table:?}");
    }
    Ok(())
}

fn immutable(b: &Bench<'_>) -> Outcome {
    let pool = b.pool(DATA, "1 skip_block_zeroing")?;
    let result = b.dm().load((&pool.name).into(), &[line(0, 8, "zero", "")], Access::ReadWrite);
    refused!(result, Kind::Invalid, "a zero target");
    Ok(())
}

fn lasting(b: &Bench<'_>) -> Outcome {
    let pool = b.pool(DATA, "1 skip_block_zeroing")?;
    b.message(&pool, "create_thin 7")?;
    b.message(&pool, "set_transaction_id 0 41")?;
    b.remove(&pool.name)?;
    let again = b.pool_on(pool.metadata, pool.data, "1 skip_block_zeroing")?;
    same!(pool_status(b, &again.name)?.transaction_id, 41, "transaction id");
    refused!(b.message(&again, "create_thin 7"), Kind::Exists, "the device");
    Ok(())
}

fn shrunk(b: &Bench<'_>) -> Outcome {
    let pool = b.pool(DATA, "1 skip_block_zeroing")?;
    let whole = pool_line(&pool.metadata, &pool.data, BLOCK, 0, "1 skip_block_zeroing");
    let less = line(0, DATA / 1024, "thin-pool", &whole.params);
    b.dm().load((&pool.name).into(), &[less], Access::ReadWrite)?;
    refused!(b.dm().resume((&pool.name).into(), Suspend::default()), Kind::Invalid, "the resume");
    let info = b.info(&pool.name)?;
    ensure!(info.suspended && info.live_table, "after it: {info:?}");
    b.dm().load((&pool.name).into(), &[whole], Access::ReadWrite)?;
    ensure!(!b.dm().resume((&pool.name).into(), Suspend::default())?.suspended, "it stays suspended");
    b.message(&pool, "create_thin 1")?;
    Ok(())
}

fn grow_data(b: &Bench<'_>) -> Outcome {
    let pool = b.pool(DATA, "1 skip_block_zeroing")?;
    b.backing().ensure_file(&b.path("data"), Bytes(2 * DATA), Allocation::Sparse)?;
    same!(b.backing().refresh_size(pool.data.number)?, Bytes(2 * DATA), "the loop device's size");
    same!(pool_status(b, &pool.name)?.data.1, DATA / 512 / BLOCK, "blocks before the reload");
    let params = b.table(&pool.name)?.params;
    b.dm().load((&pool.name).into(), &[line(0, 2 * DATA / 512, "thin-pool", &params)], Access::ReadWrite)?;
    b.dm().resume((&pool.name).into(), Suspend { freeze: false, flush: false })?;
    same!(pool_status(b, &pool.name)?.data.1, 2 * DATA / 512 / BLOCK, "blocks after it");
    Ok(())
}

fn grow_metadata(b: &Bench<'_>) -> Outcome {
    let pool = b.pool(DATA, "1 skip_block_zeroing")?;
    b.backing().ensure_file(&b.path("metadata"), Bytes(32 * MIB), Allocation::Full)?;
    b.backing().refresh_size(pool.metadata.number)?;
    b.dm().load((&pool.name).into(), &[b.table(&pool.name)?], Access::ReadWrite)?;
    b.dm().resume((&pool.name).into(), Suspend::default())?;
    same!(pool_status(b, &pool.name)?.metadata.1, 32 * MIB / 4096, "metadata blocks");
    Ok(())
}

fn busy_pool(b: &Bench<'_>) -> Outcome {
    let pool = b.pool(DATA, "1 skip_block_zeroing")?;
    let thin = b.new_thin(&pool, 1, 16 * MIB)?;
    b.opened(&pool.name, 1)?;
    refused!(b.dm().remove((&pool.name).into(), Removal::Now), Kind::Busy, "removal");
    same!(remove_later(b, &pool.name)?, Removed::Scheduled, "a removal later");
    b.message(&pool, "create_thin 2")?;
    b.remove(&thin.name)?;
    b.eventually("the pool goes", || Ok(b.dm().info((&pool.name).into())?.is_none()))?;
    b.dm().forget_node(&pool.name, pool.info.number)?;
    Ok(())
}

fn autoclear(b: &Bench<'_>) -> Outcome {
    let pool = b.pool(DATA, "1 skip_block_zeroing")?;
    let numbers = [pool.metadata.number, pool.data.number];
    let (name, files) = (pool.name.clone(), [b.path("metadata"), b.path("data")]);
    drop(pool);
    let held = || -> Result<usize, Failure> {
        Ok(b.backing()
            .loops()?
            .iter()
            .filter(|l| numbers.contains(&l.number) && files.contains(&l.file))
            .count())
    };
    std::thread::sleep(std::time::Duration::from_millis(50));
    same!(held()?, 2, "loop devices under the pool");
    b.remove(&name)?;
    b.eventually("the loop devices clear themselves", || Ok(held()? == 0))
}

fn unbound_pool(b: &Bench<'_>) -> Outcome {
    let (metadata, data) = (b.attached("metadata", 16 * MIB)?, b.attached("data", DATA)?);
    let pool = b.pool_on(metadata, data, "1 skip_block_zeroing")?;
    b.message(&pool, "create_thin 1")?;
    b.remove(&pool.name)?;
    let info = b.dm().create(&pool.name, None)?;
    let table = [pool_line(&pool.metadata, &pool.data, BLOCK, 0, "1 skip_block_zeroing")];
    b.dm().load((&pool.name).into(), &table, Access::ReadWrite)?;
    refused!(b.message(&pool, "create_thin 2"), Kind::Invalid, "a message before the resume");
    let name = b.name("thin")?;
    b.dm().create(&name, None)?;
    let thin = [line(0, 2048, "thin", &format!("{} 1", info.number))];
    refused!(
        b.dm().load((&name).into(), &thin, Access::ReadWrite),
        Kind::Invalid,
        "a table before the resume"
    );
    b.dm().resume((&pool.name).into(), Suspend::default())?;
    b.dm().suspend((&pool.name).into(), Suspend::default())?;
    refused!(
        b.dm().load((&name).into(), &thin, Access::ReadWrite),
        Kind::Invalid,
        "a table while it is suspended"
    );
    b.dm().resume((&pool.name).into(), Suspend::default())?;
    b.dm().load((&name).into(), &thin, Access::ReadWrite)?;
    Ok(())
}

fn full(b: &Bench<'_>) -> Outcome {
    let pool = b.pool(24 * MIB, "2 skip_block_zeroing error_if_no_space")?;
    let thin = b.new_thin(&pool, 1, 64 * MIB)?;
    b.mkfs(&thin, thinlayer_filesystem::Kind::Ext4)?;
    let target = b.mount(&thin, "mnt")?;
    b.lab.write(&target.join("large"), &vec![0x5a; 40 << 20]).unwrap_or_default();
    ensure!(b.lab.sync(&target).is_err(), "40 MiB went into a pool of 24");
    b.eventually("the pool is full", || Ok(pool_status(b, &pool.name)?.mode == "out_of_data_space"))?;
    b.fs().unmount(&target, thinlayer_filesystem::Unmount::Lazy)?;
    b.remove(&thin.name)?;
    b.message(&pool, "delete 1")?;
    b.eventually("the pool works again", || Ok(pool_status(b, &pool.name)?.mode == "rw"))?;
    same!(pool_status(b, &pool.name)?.data.0, 0, "blocks in use");
    Ok(())
}

fn full_grows(b: &Bench<'_>) -> Outcome {
    let pool = b.pool(24 * MIB, "2 skip_block_zeroing error_if_no_space")?;
    let thin = b.new_thin(&pool, 1, 64 * MIB)?;
    b.mkfs(&thin, thinlayer_filesystem::Kind::Ext4)?;
    let target = b.mount(&thin, "mnt")?;
    b.lab.write(&target.join("large"), &vec![0x5a; 40 << 20]).unwrap_or_default();
    ensure!(b.lab.sync(&target).is_err(), "40 MiB went into a pool of 24");
    b.eventually("the pool is full", || Ok(pool_status(b, &pool.name)?.mode == "out_of_data_space"))?;
    b.fs().unmount(&target, thinlayer_filesystem::Unmount::Lazy)?;
    b.backing().ensure_file(&b.path("data"), Bytes(96 * MIB), Allocation::Sparse)?;
    b.backing().refresh_size(pool.data.number)?;
    let wanted = pool_line(&pool.metadata, &pool.data, BLOCK, 100, "1 skip_block_zeroing");
    b.dm().load(
        (&pool.name).into(),
        &[line(0, 96 * MIB / 512, "thin-pool", &wanted.params)],
        Access::ReadWrite,
    )?;
    b.dm().resume((&pool.name).into(), Suspend { freeze: false, flush: false })?;
    let status = pool_status(b, &pool.name)?;
    same!((status.mode.as_str(), status.data.1), ("rw", 96 * MIB / 512 / BLOCK), "mode and size");
    same!(status.no_space, "queue_if_no_space", "what writers of a full pool get");
    ensure!(b.table(&pool.name)?.params.contains(" 100 1 skip_block_zeroing"), "{:?}", b.table(&pool.name)?);
    b.message(&pool, "create_thin 2")?;
    Ok(())
}

fn low_water(b: &Bench<'_>) -> Outcome {
    let (metadata, data) = (b.attached("metadata", 16 * MIB)?, b.attached("data", DATA)?);
    let mark = DATA / 512 / BLOCK - 8;
    let pool = b.device("pool", &[pool_line(&metadata, &data, BLOCK, mark, "1 skip_block_zeroing")])?;
    let pool = super::bench::Pool { name: pool.name.clone(), info: pool, metadata, data };
    let thin = b.new_thin(&pool, 1, 32 * MIB)?;
    same!(b.info(&pool.name)?.event_nr, pool.info.event_nr, "events before");
    b.mkfs(&thin, thinlayer_filesystem::Kind::Ext4)?;
    let target = b.mount(&thin, "mnt")?;
    b.lab.write(&target.join("file"), &vec![1; 2 << 20])?;
    b.lab.sync(&target)?;
    b.eventually("the event comes", || Ok(b.info(&pool.name)?.event_nr == pool.info.event_nr + 1))?;
    b.lab.write(&target.join("more"), &vec![1; 2 << 20])?;
    b.lab.sync(&target)?;
    same!(b.info(&pool.name)?.event_nr, pool.info.event_nr + 1, "events after more writes");
    Ok(())
}

fn suspended(b: &Bench<'_>) -> Outcome {
    let pool = b.pool(DATA, "1 skip_block_zeroing")?;
    b.dm().suspend((&pool.name).into(), Suspend::default())?;
    b.message(&pool, "create_thin 1")?;
    b.dm().resume((&pool.name).into(), Suspend::default())?;
    let name = b.name("thin")?;
    b.dm().create(&name, None)?;
    b.dm().load((&name).into(), &[thin_line(&pool, 1, MIB)], Access::ReadWrite)?;
    let _again = b.backing().attach(&b.file("other", MIB, Allocation::Sparse)?, AttachOptions::default())?;
    Ok(())
}
