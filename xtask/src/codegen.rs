//! `cargo xtask codegen`: the kernel bindings of `thinlayer-dm`.
//!
//! They are made from a committed copy of the kernel's header, so that the result does not depend on the
//! machine, and committed, so that users of the crate need neither bindgen nor libclang.

use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};

use crate::install::{self, Need};
use crate::{command, paths};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Writes nothing; exits with 1 if the committed file is not what bindgen makes of the header.
    #[arg(long)]
    check: bool,
}

const HEADER: &str = "crates/dm/headers/dm-ioctl.h";
const BINDINGS: &str = "crates/dm/src/generated.rs";

/// Not a member of the workspace, as its build needs more than anything else here.
const COMPARE: &str = "crates/dm/compare-sys/Cargo.toml";

const COMPARE_NEEDS: &[Need] = &[
    Need { present: || Path::new("/usr/include/libdevmapper.h").is_file(), package: "libdevmapper-dev" },
    Need { present: || install::program("pkg-config"), package: "pkg-config" },
    // libclang alone lacks the compiler's own headers, which libdevmapper's header includes.
    Need {
        present: || {
            std::env::var_os("LIBCLANG_PATH").is_some() || install::program("clang") || has_clang_headers()
        },
        package: "libclang-dev",
    },
];

fn has_clang_headers() -> bool {
    std::fs::read_dir("/usr/lib").is_ok_and(|entries| {
        entries.flatten().any(|entry| {
            entry.file_name().to_string_lossy().starts_with("llvm-")
                && entry.path().join("lib/clang").is_dir()
        })
    })
}

const PREAMBLE: &str = "\
// Made by `cargo xtask codegen` from crates/dm/headers/dm-ioctl.h. Do not edit.
#![allow(
    missing_docs,
    missing_debug_implementations,
    non_camel_case_types,
    unreachable_pub,
    unsafe_code,
    dead_code,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::undocumented_unsafe_blocks,
    reason = \"names and shapes are the kernel header's\"
)]

";

const NEEDS: &[Need] = &[
    Need {
        present: || {
            std::env::var_os("LIBCLANG_PATH").is_some()
                || install::library(
                    &["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"],
                    "libclang-",
                    "libclang-cpp",
                )
        },
        package: "libclang1",
    },
    Need { present: || Path::new("/usr/include/linux/types.h").is_file(), package: "linux-libc-dev" },
    Need {
        present: || {
            ["/usr/include/asm/types.h", "/usr/include/x86_64-linux-gnu/asm/types.h"]
                .iter()
                .any(|file| Path::new(file).is_file())
        },
        package: "linux-libc-dev",
    },
];

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let fresh = generate()?;
    let file = paths::workspace().join(BINDINGS);
    let committed = match std::fs::read_to_string(&file) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
    };
    let current = committed.as_deref() == Some(fresh.as_str());
    if arguments.check {
        if !current {
            eprintln!("xtask: {BINDINGS} is not what bindgen makes of {HEADER}; run `cargo xtask codegen`");
            return Ok(ExitCode::from(1));
        }
        println!("{BINDINGS} is current");
        return compare();
    } else if current {
        println!("{BINDINGS} was current already");
    } else {
        std::fs::write(&file, fresh).with_context(|| format!("cannot write {}", file.display()))?;
        println!("wrote {BINDINGS}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Holds the bindings against a second source: devicemapper-sys, which makes its own from this machine's headers.
fn compare() -> Result<ExitCode> {
    install::ensure(COMPARE_NEEDS)?;
    let status = command::cargo()
        .args(["test", "--quiet", "--locked", "--manifest-path", COMPARE, "--target-dir"])
        .arg(paths::workspace().join("target/compare-sys"))
        .status()
        .context("cannot start cargo")?;
    if !status.success() {
        eprintln!(
            "xtask: {BINDINGS} and devicemapper-sys do not agree (or it cannot be built here), see above"
        );
        return Ok(ExitCode::from(1));
    }
    Ok(ExitCode::SUCCESS)
}

fn generate() -> Result<String> {
    install::ensure(NEEDS)?;
    let bindings = command::output(
        command::cargo()
            .args(["run", "--quiet", "--package", "codegen", "--", HEADER])
            .stderr(Stdio::inherit()),
    )?;
    format(&[PREAMBLE.as_bytes(), &bindings].concat())
}

/// Formats as `cargo fmt` would, with the workspace's own settings.
fn format(source: &[u8]) -> Result<String> {
    let mut rustfmt = Command::new("rustfmt");
    rustfmt.args(["--edition", "2024", "--config-path"]).arg(paths::workspace());
    rustfmt.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child =
        rustfmt.spawn().context("cannot start rustfmt; `rustup component add rustfmt` brings it")?;
    child.stdin.take().context("rustfmt has no standard input")?.write_all(source)?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("rustfmt failed on the new bindings: {}", output.status);
    }
    Ok(String::from_utf8(output.stdout)?)
}
