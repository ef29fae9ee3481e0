//! `cargo xtask`: everything about this workspace that cargo does not do by itself.

mod codegen;
mod command;
mod install;
mod paths;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Tasks of the thinlayer workspace", version)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Writes the kernel bindings again with bindgen, or compares them.
    Codegen(codegen::Arguments),
}

fn main() -> std::process::ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.task {
        Task::Codegen(arguments) => codegen::run(arguments),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            std::process::ExitCode::from(BROKEN)
        }
    }
}

/// Exit code: the runner itself could not do its work, as opposed to red tests (1) and bad usage (2).
const BROKEN: u8 = 3;
