//! A pool on two devices, a thin device, a snapshot of it, and what each of them sees; then all of it goes again.
//!
//! Run as root, with devices that hold nothing: `cargo run -p thinlayer-thin --example snapshot -- DATA METADATA`

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use thinlayer_dm::{Access, Bytes, Control, DeviceNumber, DmName, Flush, Removal};
use thinlayer_thin::{Patience, Pool, PoolTable, SystemWait, ThinDevice, ThinId, TransactionId};

type Failure = Box<dyn std::error::Error>;

/// The size of a thin device says nothing of the room that it takes.
const SIZE: Bytes = Bytes(1 << 40);
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [data, metadata] = arguments.as_slice() else {
        eprintln!(
            "usage: snapshot DATA METADATA\n\nTwo block devices; METADATA begins with 4096 zero bytes. Both are written to."
        );
        return ExitCode::from(2);
    };
    match run(data, metadata) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("snapshot: {error}");
            ExitCode::FAILURE
        }
    }
}

pub(crate) fn run(data: &str, metadata: &str) -> Result<(), Failure> {
    // The kernel would take whatever is there for a pool's metadata.
    let mut start = [0; 4096];
    File::open(metadata)?.read_exact_at(&mut start, 0)?;
    if start != [0; 4096] {
        return Err(
            format!("{metadata} holds something; name a device that begins with 4096 zero bytes").into()
        );
    }
    let number =
        |device| -> Result<_, Failure> { Ok(DeviceNumber::from_stat(std::fs::metadata(device)?.rdev())) };
    let sectors = Bytes(std::io::Seek::seek(&mut File::open(data)?, std::io::SeekFrom::End(0))?).to_sectors();
    let table = PoolTable::new(number(metadata)?, number(data)?, sectors);
    let pool =
        Pool::create(Arc::new(Control::open()?), &DmName::new("example-pool")?, &table, Access::ReadWrite)?;
    println!("pool {} ({}) on {data} and {metadata}", pool.name(), pool.number());
    let told = tell_a_story(&pool);
    // Nothing of this crate undoes itself when it is dropped; also after a failure the example leaves nothing.
    let patience = Patience::new(PATIENCE, &SystemWait);
    for name in ["example-origin", "example-copy"] {
        pool.deactivate_by_name(&DmName::new(name)?, Removal::Now, patience)?;
    }
    pool.remove(patience)?;
    println!("all devices are gone; the pool's content is still on {data}");
    told
}

fn tell_a_story(pool: &Pool) -> Result<(), Failure> {
    let (origin_id, copy_id) = (thin_id(1)?, thin_id(2)?);
    pool.create_thin(origin_id)?;
    let origin =
        pool.activate(&DmName::new("example-origin")?, origin_id, SIZE.to_sectors(), Access::ReadWrite)?;
    write(&origin, b"from the origin")?;

    // The origin is active, so its writers are held back for the moment of the snapshot. Nothing is copied.
    pool.snapshot_of_active(&origin, copy_id)?;
    // The pool's user keeps a number in it, and moves it only if it is what he thinks.
    pool.set_transaction_id(TransactionId(0), TransactionId(1))?;
    let copy = pool.activate(&DmName::new("example-copy")?, copy_id, SIZE.to_sectors(), Access::ReadWrite)?;
    expect(&copy, b"from the origin")?;

    // From here on each goes its own way.
    write(&origin, b"written later..")?;
    expect(&copy, b"from the origin")?;
    let state = pool.status(Flush::No)?;
    let status = state.running().ok_or("the pool has failed")?;
    println!(
        "two devices of {} bytes take {} blocks of {} bytes; the transaction id is {}",
        SIZE.0,
        status.used_data.0,
        pool.table()?.block_size.bytes().0,
        status.transaction_id
    );
    let patience = Patience::new(PATIENCE, &SystemWait);
    pool.deactivate(&copy, Removal::Now, patience)?;
    pool.delete(copy_id)?;
    expect(&origin, b"written later..")
}

fn thin_id(number: u32) -> Result<ThinId, Failure> {
    ThinId::new(number).ok_or_else(|| format!("{number} is no thin id").into())
}

fn write(device: &ThinDevice, text: &[u8]) -> Result<(), Failure> {
    let file = File::options().write(true).open(device.node())?;
    file.write_all_at(text, 0)?;
    Ok(file.sync_all()?)
}

fn expect(device: &ThinDevice, text: &[u8]) -> Result<(), Failure> {
    let mut found = vec![0; text.len()];
    File::open(device.node())?.read_exact_at(&mut found, 0)?;
    println!("{} begins with {:?}", device.name(), String::from_utf8_lossy(&found));
    if found == text { Ok(()) } else { Err(format!("{} does not hold what it should", device.name()).into()) }
}
