//! Thin devices: tables, status, snapshots, discards.

use super::bench::{Bench, MIB, line, pool_status, thin_line};
use super::{Failure, Outcome, ensure, list, refused, same};
use thinlayer_dm::{Access, Bytes, DmName, Kind, Sectors, Suspend};
use thinlayer_filesystem::{Detected, Kind as FsKind};

list! {
    "a thin device's table comes back as the pool's number and the id" => table_text,
    "a new thin device maps nothing" => empty_status,
    "a thin table without device, pool or sense is refused" => bad_tables,
    "each thin device has the pool open once" => opens,
    "a snapshot has its origin's content and then goes its own way" => snapshot,
    "a snapshot shares blocks until one of both writes" => sharing,
    "a snapshot of a mounted and suspended origin is consistent" => suspended_origin,
    "a snapshot of a snapshot outlives both of those before it" => chain,
    "a thin device grows by a reload" => grow,
    "a discarded thin device is empty and its blocks are free" => discard,
    "an id may be open twice" => twice,
    "a pool that ignores discards does not discard" => no_discard,
    "a write to a thin device takes blocks, and a delete gives them back" => accounting,
}

const SIZE: u64 = 32 * MIB;

fn mapped(b: &Bench<'_>, name: &DmName) -> Result<u64, Failure> {
    let text = b.status(name)?;
    let first = text.split(' ').next().and_then(|w| w.parse().ok());
    first.ok_or_else(|| Failure::new(format!("thin status {text:?}")))
}

fn table_text(b: &Bench<'_>) -> Outcome {
    let pool = b.pool(64 * MIB, "1 skip_block_zeroing")?;
    let thin = b.new_thin(&pool, 3, SIZE)?;
    same!(b.table(&thin.name)?, thin_line(&pool, 3, SIZE), "the table");
    same!(b.dm().deps((&thin.name).into())?, vec![pool.info.number], "what it stands on");
    same!(b.backing().inspect(&b.node(&thin)?)?.size, Bytes(SIZE), "its size");
    b.message(&pool, "create_thin 4")?;
    let by_path = line(0, 2048, "thin", &format!("{} 4", b.node(&pool.info)?.display()));
    let thin = b.device("by-path", &[by_path])?;
    same!(b.table(&thin.name)?.params, format!("{} 4", pool.info.number), "the table given by path");
    Ok(())
}

fn empty_status(b: &Bench<'_>) -> Outcome {
    let pool = b.pool(64 * MIB, "1 skip_block_zeroing")?;
    let thin = b.new_thin(&pool, 1, SIZE)?;
    same!(b.status(&thin.name)?, "0 -", "the status");
    b.mkfs(&thin, FsKind::Ext4)?;
    let text = b.status(&thin.name)?;
    let words: Vec<u64> = text.split(' ').filter_map(|w| w.parse().ok()).collect();
    let [mapped, highest] = words.as_slice() else { return Err(Failure::new(format!("status {text:?}"))) };
    ensure!(*mapped > 0 && mapped % 128 == 0, "mapped sectors in {text:?}");
    ensure!(*highest < SIZE / 512 && (highest + 1) % 128 == 0, "highest sector in {text:?}");
    Ok(())
}

fn bad_tables(b: &Bench<'_>) -> Outcome {
    let pool = b.pool(64 * MIB, "1 skip_block_zeroing")?;
    let zero = b.zero("zero", 2048)?;
    b.message(&pool, "create_thin 1")?;
    let name = b.name("thin")?;
    b.dm().create(&name, None)?;
    let p = pool.info.number;
    let load =
        |params: String| b.dm().load((&name).into(), &[line(0, 2048, "thin", &params)], Access::ReadWrite);
    refused!(load(format!("{p} 2")), Kind::NotFound, "an id that the pool does not have");
    refused!(load(format!("{} 1", zero.number)), Kind::Invalid, "a device that is no pool");
    refused!(load(format!("{} 1", pool.data.number)), Kind::Invalid, "a device of another kind");
    refused!(load(format!("{p}")), Kind::Invalid, "no id");
    refused!(load(format!("{p} x")), Kind::Invalid, "an id that is no number");
    refused!(load(format!("{p} 16777216")), Kind::Invalid, "an id that is too large");
    Ok(())
}

fn opens(b: &Bench<'_>) -> Outcome {
    let pool = b.pool(64 * MIB, "1 skip_block_zeroing")?;
    b.opened(&pool.name, 0)?;
    let one = b.new_thin(&pool, 1, SIZE)?;
    b.new_thin(&pool, 2, SIZE)?;
    b.opened(&pool.name, 2)?;
    b.dm().load((&one.name).into(), &[thin_line(&pool, 1, SIZE)], Access::ReadWrite)?;
    b.opened(&pool.name, 2)?;
    b.dm().resume((&one.name).into(), Suspend::default())?;
    b.opened(&pool.name, 2)?;
    b.remove(&one.name)?;
    b.opened(&pool.name, 1)
}

/// A thin device 1 with a file system and a file.
fn origin(b: &Bench<'_>) -> Result<(super::bench::Pool, thinlayer_dm::Info), Failure> {
    let pool = b.pool(128 * MIB, "1 skip_block_zeroing")?;
    let thin = b.new_thin(&pool, 1, SIZE)?;
    b.mkfs(&thin, FsKind::Ext4)?;
    let target = b.mount(&thin, "one")?;
    b.lab.write(&target.join("file"), b"first")?;
    b.unmount(&target)?;
    Ok((pool, thin))
}

/// A snapshot 2 of the active origin 1.
fn snap(b: &Bench<'_>, pool: &super::bench::Pool, origin: &thinlayer_dm::Info) -> Outcome {
    b.dm().suspend((&origin.name).into(), Suspend::default())?;
    b.message(pool, "create_snap 2 1")?;
    b.dm().resume((&origin.name).into(), Suspend::default())?;
    Ok(())
}

fn snapshot(b: &Bench<'_>) -> Outcome {
    let (pool, first) = origin(b)?;
    snap(b, &pool, &first)?;
    let second = b.thin(&pool, 2, SIZE)?;
    let (Detected::Known { uuid: one, .. }, Detected::Known { uuid: two, .. }) =
        (b.fs().detect(&b.node(&first)?)?, b.fs().detect(&b.node(&second)?)?)
    else {
        return Err(Failure::new("no file systems"));
    };
    same!(two, one, "the snapshot's uuid");
    let (one, two) = (b.mount(&first, "one")?, b.mount(&second, "two")?);
    same!(b.lab.read(&two.join("file"))?, Some(b"first".to_vec()), "in the snapshot");
    b.lab.write(&two.join("file"), b"second")?;
    b.lab.write(&one.join("other"), b"mine")?;
    same!(b.lab.read(&one.join("file"))?, Some(b"first".to_vec()), "in the origin");
    same!(b.lab.read(&two.join("other"))?, None, "the origin's new file in the snapshot");
    for target in [&one, &two] {
        b.unmount(target)?;
    }
    let two = b.mount(&second, "two")?;
    same!(b.lab.read(&two.join("file"))?, Some(b"second".to_vec()), "in the snapshot, mounted again");
    Ok(())
}

fn sharing(b: &Bench<'_>) -> Outcome {
    let (pool, first) = origin(b)?;
    let before = pool_status(b, &pool.name)?.data.0;
    ensure!(before > 0, "nothing is used");
    snap(b, &pool, &first)?;
    same!(pool_status(b, &pool.name)?.data.0, before, "blocks in use after the snapshot");
    let second = b.thin(&pool, 2, SIZE)?;
    let target = b.mount(&second, "two")?;
    b.lab.write(&target.join("file"), b"second")?;
    b.unmount(&target)?;
    let both = pool_status(b, &pool.name)?.data.0;
    ensure!(both > before && both < 2 * before + 16, "{before} blocks, with a changed snapshot {both}");
    b.remove(&second.name)?;
    b.message(&pool, "delete 2")?;
    same!(pool_status(b, &pool.name)?.data.0, before, "blocks in use after its removal");
    Ok(())
}

fn suspended_origin(b: &Bench<'_>) -> Outcome {
    let (pool, first) = origin(b)?;
    let one = b.mount(&first, "one")?;
    // Not synced by its writer: freezing does it.
    b.lab.write(&one.join("late"), b"late")?;
    b.dm().suspend((&first.name).into(), Suspend::default())?;
    b.message(&pool, "create_snap 2 1")?;
    b.dm().resume((&first.name).into(), Suspend::default())?;
    b.lab.write(&one.join("later"), b"later")?;
    b.unmount(&one)?;
    let second = b.thin(&pool, 2, SIZE)?;
    let two = b.mount(&second, "two")?;
    same!(b.lab.read(&two.join("late"))?, Some(b"late".to_vec()), "what was written before the suspend");
    same!(b.lab.read(&two.join("later"))?, None, "what was written after it");
    Ok(())
}

fn chain(b: &Bench<'_>) -> Outcome {
    let (pool, first) = origin(b)?;
    snap(b, &pool, &first)?;
    b.message(&pool, "create_snap 3 2")?;
    b.remove(&first.name)?;
    b.message(&pool, "delete 1")?;
    b.message(&pool, "delete 2")?;
    let third = b.thin(&pool, 3, SIZE)?;
    let target = b.mount(&third, "three")?;
    same!(b.lab.read(&target.join("file"))?, Some(b"first".to_vec()), "in the last one");
    Ok(())
}

fn grow(b: &Bench<'_>) -> Outcome {
    let (pool, first) = origin(b)?;
    let target = b.mount(&first, "one")?;
    let before = b.fs().free_bytes(&target)?;
    b.dm().load((&first.name).into(), &[thin_line(&pool, 1, 2 * SIZE)], Access::ReadWrite)?;
    b.dm().resume((&first.name).into(), Suspend::default())?;
    same!(b.table(&first.name)?.len, Sectors(2 * SIZE / 512), "its length");
    b.fs().grow(FsKind::Ext4, &target, &b.node(&first)?)?;
    let after = b.fs().free_bytes(&target)?;
    ensure!(after > before + SIZE / 2, "{before} bytes free before, {after} after");
    // Once more: it is as large as its device.
    b.fs().grow(FsKind::Ext4, &target, &b.node(&first)?)?;
    same!(b.lab.read(&target.join("file"))?, Some(b"first".to_vec()), "its file");
    Ok(())
}

fn discard(b: &Bench<'_>) -> Outcome {
    let (pool, first) = origin(b)?;
    snap(b, &pool, &first)?;
    b.message(&pool, "delete 2")?;
    ensure!(b.backing().discard(&b.node(&first)?, None, &|_, _| {})?, "it was not discarded");
    same!(mapped(b, &first.name)?, 0, "mapped sectors");
    b.eventually("all blocks are free", || Ok(pool_status(b, &pool.name)?.data.0 == 0))?;
    Ok(())
}

fn twice(b: &Bench<'_>) -> Outcome {
    let (pool, first) = origin(b)?;
    let again = b.device_as("again", &[thin_line(&pool, 1, SIZE)], Access::ReadOnly)?;
    ensure!(again.read_only, "{again:?}");
    b.remove(&first.name)?;
    refused!(b.message(&pool, "delete 1"), Kind::Busy, "delete with one of both left");
    b.remove(&again.name)?;
    b.message(&pool, "delete 1")?;
    Ok(())
}

fn no_discard(b: &Bench<'_>) -> Outcome {
    let pool = b.pool(64 * MIB, "2 skip_block_zeroing ignore_discard")?;
    let thin = b.new_thin(&pool, 1, SIZE)?;
    b.mkfs(&thin, FsKind::Ext4)?;
    let before = mapped(b, &thin.name)?;
    ensure!(!b.backing().discard(&b.node(&thin)?, None, &|_, _| {})?, "it says that it discarded");
    same!(mapped(b, &thin.name)?, before, "mapped sectors");
    Ok(())
}

fn accounting(b: &Bench<'_>) -> Outcome {
    let (pool, first) = origin(b)?;
    let before = pool_status(b, &pool.name)?.data.0;
    let target = b.mount(&first, "one")?;
    b.lab.write(&target.join("large"), &vec![7; 4 << 20])?;
    b.lab.sync(&target)?;
    let after = pool_status(b, &pool.name)?.data.0;
    ensure!(
        (before + 50..before + 90).contains(&after),
        "4 MiB of 64 KiB: {before} blocks before, {after} after"
    );
    b.unmount(&target)?;
    b.remove(&first.name)?;
    b.message(&pool, "delete 1")?;
    b.eventually("all blocks are free", || Ok(pool_status(b, &pool.name)?.data.0 == 0))?;
    Ok(())
}
