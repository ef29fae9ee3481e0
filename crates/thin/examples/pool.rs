//! Prints the state of a thin pool in words.
//!
//! Run as root: `cargo run -p thinlayer-thin --example pool NAME`

use std::process::ExitCode;
use std::sync::Arc;

use thinlayer_dm::{Bytes, Control, DmName, Flush};
use thinlayer_thin::{Health, Pool, PoolState, PoolTable};

fn main() -> ExitCode {
    let Some(name) = std::env::args().nth(1) else {
        eprintln!("usage: pool NAME");
        return ExitCode::from(2);
    };
    match show(&name) {
        Ok(Health::Good) => ExitCode::SUCCESS,
        Ok(Health::Trouble(trouble)) => {
            eprintln!("pool {name}: {trouble}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("pool: {error}");
            ExitCode::FAILURE
        }
    }
}

pub(crate) fn show(name: &str) -> Result<Health, Box<dyn std::error::Error>> {
    let name = DmName::new(name)?;
    let Some(pool) = Pool::open(Arc::new(Control::open()?), &name)? else {
        return Err(format!("there is no device {name}").into());
    };
    let table = pool.table()?;
    println!("{name} ({})", pool.number());
    println!("  data      {} in blocks of {}", table.data, table.block_size);
    println!("  metadata  {}", table.metadata);
    let state = pool.status(Flush::No)?;
    if let PoolState::Running(status) = &state {
        print_figures(&table, status);
    }
    Ok(state.health())
}

fn print_figures(table: &PoolTable, status: &thinlayer_thin::PoolStatus) {
    let data = |blocks: thinlayer_thin::DataBlocks| kib(blocks.to_bytes(table.block_size));
    let metadata = |blocks: thinlayer_thin::MetaBlocks| kib(blocks.to_bytes());
    println!(
        "  data      {} of {} used ({:.1} %), {} free",
        data(status.used_data),
        data(status.total_data),
        status.data_percent(),
        data(status.free_data())
    );
    println!(
        "  metadata  {} of {} used ({:.1} %), {} free",
        metadata(status.used_metadata),
        metadata(status.total_metadata),
        status.metadata_percent(),
        metadata(status.free_metadata())
    );
    println!("  low water {} ({})", data(table.low_water), table.low_water);
    println!("  transaction id {}", status.transaction_id);
    if let Some(root) = status.held_metadata_root {
        println!("  a metadata snapshot is held at block {}", root.0);
    }
}

fn kib(bytes: Option<Bytes>) -> String {
    bytes.map_or_else(|| "too much to say".into(), |bytes| format!("{} KiB", bytes.0 / 1024))
}
