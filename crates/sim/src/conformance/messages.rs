//! Messages to a pool.

use super::bench::{Bench, MIB, pool_status, thin_line};
use super::{Outcome, ensure, list, refused, same};
use nix::errno::Errno;
use thinlayer_dm::{Access, Kind, Sectors};

list! {
    "create_thin of a taken id is refused with EEXIST" => create_thin,
    "create_snap of nothing is ENODATA, onto a taken id EEXIST" => create_snap,
    "create_snap of an id from itself tells free ids from taken ones" => probe,
    "delete of nothing is ENODATA" => delete,
    "delete of an id that some table names is refused, in use or not" => delete_busy,
    "set_transaction_id is compare and set" => transaction_id,
    "ids of more than 24 bits are refused" => large_ids,
    "unknown and malformed messages are refused" => malformed,
    "a metadata snapshot is held once" => metadata_snapshot,
    "messages reach the pool at any of its sectors, and not past its end" => sectors,
}

fn create_thin(b: &Bench<'_>) -> Outcome {
    let pool = b.pool(64 * MIB, "1 skip_block_zeroing")?;
    same!(b.message(&pool, "create_thin 0")?, None, "the answer");
    b.message(&pool, "create_thin 16777215")?;
    let error = b.message(&pool, "create_thin 0").map(|_| ()).err();
    same!(error.and_then(|e| e.errno()), Some(Errno::EEXIST), "the errno");
    Ok(())
}

fn create_snap(b: &Bench<'_>) -> Outcome {
    let pool = b.pool(64 * MIB, "1 skip_block_zeroing")?;
    b.message(&pool, "create_thin 1")?;
    let error = b.message(&pool, "create_snap 3 2").map(|_| ()).err();
    same!(error.and_then(|e| e.errno()), Some(Errno::ENODATA), "a snapshot of nothing");
    refused!(b.message(&pool, "delete 3"), Kind::NotFound, "what it left");
    b.message(&pool, "create_snap 2 1")?;
    refused!(b.message(&pool, "create_snap 2 1"), Kind::Exists, "the same again");
    refused!(b.message(&pool, "create_snap 2 9"), Kind::Exists, "a taken id, from nothing");
    b.message(&pool, "delete 1")?;
    b.message(&pool, "create_snap 1 2")?;
    Ok(())
}

fn probe(b: &Bench<'_>) -> Outcome {
    let pool = b.pool(64 * MIB, "1 skip_block_zeroing")?;
    b.message(&pool, "create_thin 5")?;
    let before = pool_status(b, &pool.name)?;
    refused!(b.message(&pool, "create_snap 5 5"), Kind::Exists, "a taken one");
    let error = b.message(&pool, "create_snap 6 6").map(|_| ()).err();
    same!(error.and_then(|e| e.errno()), Some(Errno::ENODATA), "a free one");
    let after = pool_status(b, &pool.name)?;
    same!((after.metadata, after.data), (before.metadata, before.data), "use after the probes");
    Ok(())
}

fn delete(b: &Bench<'_>) -> Outcome {
    let pool = b.pool(64 * MIB, "1 skip_block_zeroing")?;
    let error = b.message(&pool, "delete 1").map(|_| ()).err();
    same!(error.and_then(|e| e.errno()), Some(Errno::ENODATA), "the errno");
    b.message(&pool, "create_thin 1")?;
    b.message(&pool, "delete 1")?;
    refused!(b.message(&pool, "delete 1"), Kind::NotFound, "a second time");
    Ok(())
}

fn delete_busy(b: &Bench<'_>) -> Outcome {
    let pool = b.pool(64 * MIB, "1 skip_block_zeroing")?;
    let thin = b.new_thin(&pool, 1, MIB)?;
    refused!(b.message(&pool, "delete 1"), Kind::Busy, "with a live table");
    b.remove(&thin.name)?;
    b.dm().create(&thin.name, None)?;
    b.dm().load((&thin.name).into(), &[thin_line(&pool, 1, MIB)], Access::ReadWrite)?;
    refused!(b.message(&pool, "delete 1"), Kind::Busy, "with a table that is not in use");
    b.dm().clear((&thin.name).into())?;
    b.message(&pool, "delete 1")?;
    Ok(())
}

fn transaction_id(b: &Bench<'_>) -> Outcome {
    let pool = b.pool(64 * MIB, "1 skip_block_zeroing")?;
    refused!(b.message(&pool, "set_transaction_id 1 2"), Kind::Invalid, "a wrong current id");
    b.message(&pool, "set_transaction_id 0 9")?;
    same!(pool_status(b, &pool.name)?.transaction_id, 9, "the id");
    refused!(b.message(&pool, "set_transaction_id 0 1"), Kind::Invalid, "a stale current id");
    b.message(&pool, "set_transaction_id 9 3")?;
    b.message(&pool, "set_transaction_id 3 3")?;
    same!(pool_status(b, &pool.name)?.transaction_id, 3, "the id after going back");
    Ok(())
}

fn large_ids(b: &Bench<'_>) -> Outcome {
    let pool = b.pool(64 * MIB, "1 skip_block_zeroing")?;
    b.message(&pool, "create_thin 1")?;
    for message in
        ["create_thin 16777216", "create_snap 16777216 1", "create_snap 2 16777216", "delete 16777216"]
    {
        refused!(b.message(&pool, message), Kind::Invalid, "{message}");
    }
    Ok(())
}

fn malformed(b: &Bench<'_>) -> Outcome {
    let pool = b.pool(64 * MIB, "1 skip_block_zeroing")?;
    for message in [
        "hello",
        "create_thin",
        "create_thin 1 2",
        "create_thin x",
        "create_thin -1",
        "create_snap 1",
        "delete",
        "set_transaction_id 0",
        "set_transaction_id 0 x",
        "release_metadata_snap now",
    ] {
        refused!(b.message(&pool, message), Kind::Invalid, "{message}");
    }
    b.message(&pool, "create_thin  1")?;
    Ok(())
}

fn metadata_snapshot(b: &Bench<'_>) -> Outcome {
    let pool = b.pool(64 * MIB, "1 skip_block_zeroing")?;
    refused!(b.message(&pool, "release_metadata_snap"), Kind::Invalid, "releasing what is not held");
    b.message(&pool, "reserve_metadata_snap")?;
    let held = pool_status(b, &pool.name)?.held_root;
    ensure!(held.parse::<u64>().is_ok_and(|block| block > 0), "held root {held}");
    refused!(b.message(&pool, "reserve_metadata_snap"), Kind::Busy, "a second one");
    b.message(&pool, "create_thin 1")?;
    b.message(&pool, "release_metadata_snap")?;
    same!(pool_status(b, &pool.name)?.held_root, "-", "held root after the release");
    Ok(())
}

fn sectors(b: &Bench<'_>) -> Outcome {
    let pool = b.pool(64 * MIB, "1 skip_block_zeroing")?;
    b.dm().message((&pool.name).into(), Sectors(77), "create_thin 1")?;
    let end = 64 * MIB / 512;
    refused!(b.dm().message((&pool.name).into(), Sectors(end), "create_thin 2"), Kind::Invalid, "at the end");
    Ok(())
}
