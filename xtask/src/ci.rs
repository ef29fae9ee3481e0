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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// Stands for cargo: one of its commands ends with a code of the test's choice.
    const CARGO: &str = "#!/bin/sh\n[ \"$*\" != \"$ENDS\" ] || exit \"$WITH\"\n\
                         [ \"$*\" != \"xtask test\" ] || echo \"3 passed, 0 failed, 1 skipped\"\n";

    #[test]
    fn what_is_red_and_what_is_broken_have_their_codes() {
        let folder = std::env::temp_dir().join(format!("xtask-ci-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        for (name, text) in [("cargo", CARGO), ("cc", "#!/bin/sh\n")] {
            std::fs::write(folder.join(name), text).unwrap();
            std::fs::set_permissions(folder.join(name), std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
        let run = |ends: &str, with: &str| {
            let output = Command::new("bash")
                .arg(paths::workspace().join(".ci/run"))
                .env("PATH", &path)
                .env("ENDS", ends)
                .env("WITH", with)
                .output()
                .unwrap();
            let said = String::from_utf8(output.stdout).unwrap();
            (output.status.code(), said.lines().last().unwrap_or_default().to_owned())
        };
        assert_eq!(run("", "0"), (Some(0), "3 passed, 0 failed".to_owned()));
        for (ends, with, code) in [
            ("fmt --all --check", "1", 1),
            ("clippy --workspace --all-targets -- -D warnings", "101", 1),
            ("xtask codegen --check", "1", 1),
            // No network, for instance.
            ("xtask codegen --check", "3", 3),
            ("xtask test", "3", 3),
        ] {
            assert_eq!(run(ends, with).0, Some(code), "{ends}");
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}
