//! Prints what changed between two directories, as `docker diff` does.
//!
//! `cargo run -p thinlayer-archive --example changes -- [--docker] OLD NEW`

use std::error::Error;
use std::io::Write;
use thinlayer_archive::{CompareOptions, Tree, changes};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let docker = arguments.first().is_some_and(|first| first == "--docker");
    if docker {
        arguments.remove(0);
    }
    let [old, new] = arguments.as_slice() else { return Err("usage: changes [--docker] OLD NEW".into()) };
    let options = if docker { CompareOptions::docker() } else { CompareOptions::default() };
    let mut lines = Vec::new();
    changes(Some(&Tree::open(old)?), &Tree::open(new)?, &options, |change| {
        lines.push(change.to_string());
        Ok(())
    })?;
    let mut out = std::io::stdout().lock();
    for line in lines {
        writeln!(out, "{line}")?;
    }
    Ok(())
}
