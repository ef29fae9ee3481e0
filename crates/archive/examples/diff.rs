//! Writes the layer that makes one directory of another, or all of one directory, to standard output.
//!
//! `cargo run --release -p thinlayer-archive --example diff -- [OLD] NEW > layer.tar`

use std::error::Error;
use thinlayer_archive::{DiffOptions, Tree, diff};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let (old, new) = match arguments.as_slice() {
        [new] => (None, new),
        [old, new] => (Some(Tree::open(old)?), new),
        _ => return Err("usage: diff [OLD] NEW > layer.tar".into()),
    };
    let done = diff(old.as_ref(), &Tree::open(new)?, std::io::stdout(), &DiffOptions::default())?;
    eprintln!("{} entries, {} bytes", done.entries, done.bytes);
    if done.sockets > 0 {
        eprintln!("note: {} sockets were left out: no layer holds them", done.sockets);
    }
    Ok(())
}
