//! Prints what is in the metadata of a pool that is not active, and whether it agrees with itself: `metadata DEVICE-OR-FILE`.

use std::path::Path;
use thinlayer_thin::metadata::Metadata;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("name a metadata device or a file with its content")?;
    let metadata = Metadata::open(Path::new(&path))?;
    let superblock = metadata.superblock();
    println!(
        "transaction {}, blocks of {}, clock {}, needs check: {}",
        superblock.transaction_id, superblock.block_size, superblock.time, superblock.needs_check
    );
    for usage in metadata.usage()? {
        let details = usage.details;
        println!(
            "{}: {} mapped, {} exclusive, {} shared, made in transaction {}",
            details.id, details.mapped.0, usage.exclusive.0, usage.shared.0, details.transaction_id
        );
        for run in metadata.runs(details.id)? {
            let run = run?;
            println!("  {} + {} -> {} (clock {})", run.start, run.len, run.data, run.time);
        }
    }
    let report = metadata.check();
    report.faults.iter().for_each(|fault| println!("{fault}"));
    println!("{} devices, {} faults", report.devices, report.faults.len() as u64 + report.more);
    Ok(())
}
