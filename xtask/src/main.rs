//! `cargo xtask`: everything about this workspace that cargo does not do by itself.
//!
//! Exit codes: 0 all is well, 1 red tests or checks, 2 usage, 3 the runner itself is broken. `vm`, `demo` and
//! `bench` answer with the exit code of what they ran.

mod archive;
mod boot;
mod ci;
mod codegen;
mod command;
mod guest;
mod image;
mod initramfs;
mod install;
mod kernel;
mod paths;
mod qemu;
mod queue;
mod report;
mod results;
mod session;
mod suites;
mod test;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Tasks of the thinlayer workspace")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Runs all tests: unprivileged ones here, privileged ones in the VM.
    Test(test::Arguments),
    /// Runs a command in the VM, or a shell.
    Vm(vm::Arguments),
    /// Shows a container's whole life on real thin layers, in the VM.
    Demo(vm::DemoArguments),
    /// Measures, in the VM; results go to target/bench.
    Bench(vm::BenchArguments),
    /// Runs the VM's tests for many rounds.
    Soak(test::SoakArguments),
    /// Writes the kernel bindings again with bindgen, or compares them.
    Codegen(codegen::Arguments),
    /// Runs what CI runs, in the same order.
    Ci,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.task {
        Task::Test(arguments) => test::run(arguments),
        Task::Vm(arguments) => vm::run(arguments),
        Task::Demo(arguments) => vm::demo(arguments),
        Task::Bench(arguments) => vm::bench(arguments),
        Task::Soak(arguments) => test::soak(arguments),
        Task::Codegen(arguments) => codegen::run(arguments),
        Task::Ci => ci::run(),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(BROKEN)
        }
    }
}

/// Exit code: nothing could be done as asked.
const USAGE: u8 = 2;
/// Exit code: the runner itself could not do its work.
const BROKEN: u8 = 3;
