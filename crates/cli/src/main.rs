//! `thinlayer`: container layers as snapshots in a device-mapper thin pool, on the command line.
//!
//! The program parses, calls the driver (or the process that owns the root) and renders; what it does to layers is in `thinlayer-graphdriver`.
#![forbid(unsafe_code)]

mod adopt;
mod args;
mod backend;
mod config;
mod console;
mod control;
mod execute;
mod facts;
mod failure;
mod notify;
mod progress;
mod render;
mod request;
mod run;
mod serve;
mod service;
mod signals;

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(run::run(std::env::args_os().collect()))
}
