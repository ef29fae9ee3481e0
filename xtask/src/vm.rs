//! `cargo xtask vm`, `demo`, `bench` and `soak`: one command or a shell in the VM.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use harness::protocol::Work;

use crate::guest::Configuration;
use crate::kernel::Line;
use crate::paths;
use crate::qemu::{Accel, Init};
use crate::report::Passthrough;
use crate::results::Ledger;
use crate::session::Session;
use crate::suites::{self, Program, Wanted};

/// How the VM is to be.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Machine {
    /// The guest's kernel.
    #[arg(long, value_enum, default_value = "6.1")]
    kernel: Line,
    /// Without udev in the guest.
    #[arg(long, conflicts_with = "init")]
    no_udev: bool,
    /// Process 1 of the guest.
    #[arg(long, value_enum, default_value = "agent")]
    init: Init,
    /// How guest code is executed; without this, by KVM if a trial boot proves it.
    #[arg(long, value_enum)]
    accel: Option<Accel>,
    /// Keeps the scratch disk for the next run with this option.
    #[arg(long)]
    keep: bool,
    /// Seconds that the whole boot may take.
    #[arg(long, default_value_t = 3600)]
    deadline: u64,
}

impl Machine {
    fn configuration(&self) -> Configuration {
        Configuration { kernel: self.kernel, udev: !self.no_udev, init: self.init }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    machine: Machine,
    /// A shell in the VM; also without a command.
    #[arg(long, conflicts_with = "command")]
    shell: bool,
    /// The command, such as `thinlayer --help`, `dmsetup version` or `suites/dm --list`.
    #[arg(last = true)]
    command: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DemoArguments {
    #[command(flatten)]
    machine: Machine,
    /// Passed on to the demo.
    #[arg(last = true)]
    arguments: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct BenchArguments {
    #[command(flatten)]
    machine: Machine,
    /// Fails if a measurement is out of its bounds.
    #[arg(long)]
    check: bool,
    /// Passed on to the benches.
    #[arg(last = true)]
    arguments: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let machine = &arguments.machine;
    let names = suites::names()?;
    // For `suites/NAME` only that suite must build; a shell brings all of them.
    let suites: Vec<String> = match arguments.command.first() {
        Some(first) => {
            let named = first.strip_prefix("suites/").unwrap_or(first);
            names.into_iter().filter(|name| name == named).collect()
        }
        None => names,
    };
    let needs_program = arguments.command.first().is_some_and(|first| first == "thinlayer");
    let program = if needs_program { Program::Needed } else { Program::Welcome };
    let suites_that_build = arguments.command.is_empty();
    let wanted = Wanted { suites, suites_that_build, program, ..Wanted::default() };
    let built = suites::build(&wanted)?;
    let session = Session::open(&built, machine.accel, machine.keep, 1)?;
    let code = if arguments.shell || arguments.command.is_empty() {
        session.guest(machine.configuration())?.shell()?
    } else {
        command(&session, machine, arguments.command.clone())?
    };
    Ok(ExitCode::from(code))
}

pub(crate) fn demo(arguments: &DemoArguments) -> Result<ExitCode> {
    let machine = &arguments.machine;
    let wanted = Wanted { suites: vec!["demo".to_owned()], ..Wanted::default() };
    let built = suites::build(&wanted)?;
    let session = Session::open(&built, machine.accel, machine.keep, 1)?;
    let words = [vec!["demo".to_owned()], arguments.arguments.clone()].concat();
    Ok(ExitCode::from(command(&session, machine, words)?))
}

pub(crate) fn bench(arguments: &BenchArguments) -> Result<ExitCode> {
    let machine = &arguments.machine;
    let wanted = Wanted { bench: true, release: true, ..Wanted::default() };
    let built = suites::build(&wanted)?;
    let session = Session::open(&built, machine.accel, machine.keep, 1)?;
    let mut words = vec!["bench".to_owned()];
    words.extend(arguments.check.then(|| "--check".to_owned()));
    words.extend(arguments.arguments.iter().cloned());
    Ok(ExitCode::from(command(&session, machine, words)?))
}

fn command(session: &Session, machine: &Machine, words: Vec<String>) -> Result<u8> {
    let sink = Passthrough { files: paths::workspace().join("target/bench") };
    let mut ledger = Ledger::new(Vec::new(), Box::new(sink));
    session.guest(machine.configuration())?.run(
        &|_| Work::Command { words: words.clone() },
        &[],
        &mut ledger,
        Duration::from_secs(machine.deadline),
    )
}

/// What of this process's environment the guest's programs see.
pub(crate) fn environment() -> Vec<(String, String)> {
    std::env::vars()
        .filter(|(name, _)| {
            name.starts_with("THINLAYER_") || name.starts_with("PROPTEST_") || name.starts_with("RUST_LOG")
        })
        .collect()
}
