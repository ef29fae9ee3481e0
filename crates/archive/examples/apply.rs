//! Unpacks a layer (tar, or tar in gzip or zstd) from standard input over a directory.
//!
//! `cargo run --release -p thinlayer-archive --example apply -- DIRECTORY < layer.tar.gz`

use std::error::Error;
use thinlayer_archive::{ApplyOptions, Tree, apply};

fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::args_os().nth(1).ok_or("usage: apply DIRECTORY < layer.tar.gz")?;
    let done = apply(&Tree::open(directory)?, std::io::stdin().lock(), &ApplyOptions::default())?;
    eprintln!("{} entries, {} bytes", done.entries, done.size);
    if done.skipped_xattrs > 0 {
        eprintln!(
            "note: {} extended attributes were left out: the file system refuses them",
            done.skipped_xattrs
        );
    }
    Ok(())
}
