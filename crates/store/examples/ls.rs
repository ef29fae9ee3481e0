//! Prints the records of a graph directory, Docker's or thinlayer's, without changing anything in it.
//!
//! `cargo run -p thinlayer-store --example ls -- /var/lib/docker/devicemapper`

use std::error::Error;
use std::sync::Arc;
use thinlayer_store::{Folder, Mode, Store};

fn main() -> Result<(), Box<dyn Error>> {
    let root = std::env::args_os().nth(1).ok_or("usage: ls ROOT")?;
    let (store, findings) = Store::open(Arc::new(Folder::open(root)?), Mode::ReadOnly)?;

    println!("{:>8}  {:>14}  {:>11}  {:<6}  LAYER", "DEVICE", "BYTES", "TRANSACTION", "STATE");
    let removed = store.pending_deletion();
    for (layer, record) in store.layers().iter().chain(&removed) {
        let state = match (record.deleted, record.is_hidden()) {
            (true, _) => "gone",
            (false, true) => "hidden",
            (false, false) => "",
        };
        println!(
            "{:>8}  {:>14}  {:>11}  {state:<6}  {layer}",
            record.device_id, record.size_bytes, record.transaction_id
        );
    }
    let set = store.device_set();
    if !set.base_uuid.is_empty() {
        println!("base file system: {} {}", set.base_filesystem, set.base_uuid);
    }
    for finding in findings {
        eprintln!("note: {finding}");
    }
    Ok(())
}
