//! The measurements that need a kernel with device-mapper: `cargo xtask bench` runs this program in the VM.
//!
//! * What a layer's whole life costs, next to the bare ioctls and mounts that nobody can do without (the floor): one client, then eight.
//! * How much memory the owner of a root with many layers takes.
//!
//! Both sides of a comparison run in turns, on the same disk, so that whatever else the machine does hits both alike.
//! With `--check` the exit code says whether the goals hold.

mod calls;
mod clients;
mod cycle;
mod floor;
mod latency;
mod memory;
mod parties;
mod picture;
mod report;
mod samples;
mod table;
mod terms;
mod timed;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};

use crate::report::Report;

/// A part of the measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// A layer's whole life with one client, beside the floor.
    Latency,
    /// The same with many clients at once.
    Clients,
    /// Where the driver's time goes, call by call.
    Calls,
    /// The memory of a root's owner.
    Memory,
}

/// Measures the driver against the bare kernel calls.
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Arguments {
    /// Fail if a goal is missed.
    #[arg(long)]
    check: bool,
    /// Only these parts; all without it.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// How many rounds; in each round every side takes its turn.
    #[arg(long, default_value_t = 28, value_parser = clap::value_parser!(u32).range(2..))]
    rounds: u32,
    /// How many cycles each side's turn has.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    cycles: u32,
    /// How many clients at once.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..100))]
    clients: u32,
    /// How many layers the root has whose owner's memory is measured.
    #[arg(long, default_value_t = 1000)]
    layers: u32,
    /// Makes layers in this root and holds it open until standard input ends: the process whose memory is measured.
    #[arg(long, hide = true, value_name = "ROOT")]
    own: Option<PathBuf>,
}

impl Arguments {
    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::from(3)
        }
    }
}

/// `true`: all is well, or nobody asked.
fn run(arguments: &Arguments) -> Result<bool> {
    if let Some(root) = &arguments.own {
        memory::own(root, arguments.layers)?;
        return Ok(true);
    }
    let scratch = harness::scratch_dir()?.join("bench");
    if scratch.exists() {
        std::fs::remove_dir_all(&scratch).with_context(|| format!("cannot empty {}", scratch.display()))?;
    }
    let mut report = Report::new();
    if [Part::Latency, Part::Clients, Part::Calls].into_iter().any(|part| arguments.wants(part)) {
        let mut parties = parties::Parties::open(&scratch)?;
        report.terms = Some(parties.compare_terms()?);
        if arguments.wants(Part::Latency) {
            let latency = latency::measure(&parties, arguments.rounds, arguments.cycles)?;
            print!("{}", latency.text());
            report.latency = Some(latency);
        }
        if arguments.wants(Part::Clients) {
            let clients = clients::measure(&parties, arguments.clients, arguments.rounds.div_ceil(8))?;
            print!("{}", clients.text());
            report.clients = Some(clients);
        }
        if arguments.wants(Part::Calls) {
            parties = parties.reopen_timed()?;
            report.calls = calls::measure(&parties)?;
            report.calls.iter().for_each(|calls| print!("{}", calls.text()));
        }
        parties.close()?;
    }
    if arguments.wants(Part::Memory) {
        let memory = memory::measure(&scratch.join("memory"), arguments.layers)?;
        print!("{}", memory.text());
        report.memory = Some(memory);
    }
    print!("{}", report.verdicts());
    report.write(&harness::results_dir()?)?;
    Ok(!arguments.check || report.goals_hold())
}

/// One line about what happens now, written in one piece: the VM's channel mixes what comes in several.
fn say(text: &str) {
    use std::io::Write;
    // Nobody to hear it is no reason to stop.
    let _unheard = std::io::stderr().write_all(format!("bench: {text}\n").as_bytes());
}
