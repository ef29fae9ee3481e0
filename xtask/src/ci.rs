//! `cargo xtask ci`: what CI runs, by running it.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::paths;

pub(crate) fn run() -> Result<ExitCode> {
    let script = paths::workspace().join(".ci/run");
    let status = Command::new("bash")
        .arg(&script)
        .current_dir(paths::workspace())
        .status()
        .with_context(|| format!("cannot start {}", script.display()))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(crate::BROKEN);
    Ok(ExitCode::from(code))
}
