//! Running the tools that tests use as oracles.

use std::ffi::OsStr;
use std::fmt;
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};

/// What a program left.
#[derive(Clone, PartialEq, Eq)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Standard output as text, without the last line's end.
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }

    /// Standard error as text, without the last line's end.
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).trim_end().to_owned()
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}\nstdout: {}\nstderr: {}", self.status, self.stdout_text(), self.stderr_text())
    }
}

/// Runs a program to its end; an exit code other than 0 is an error that carries what the program said.
pub fn run<I, S>(program: &str, arguments: I) -> Result<Output>
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut command = Command::new(program);
    command.args(arguments);
    let output = collect(&mut command)?;
    if !output.status.success() {
        bail!("`{}` failed: {output:?}", show(&command));
    }
    Ok(output)
}

/// Runs a program to its end, whatever its exit code.
pub fn try_run<I, S>(program: &str, arguments: I) -> Result<Output>
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    collect(Command::new(program).args(arguments))
}

fn collect(command: &mut Command) -> Result<Output> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{}`", show(command)))?;
    Ok(Output { status: output.status, stdout: output.stdout, stderr: output.stderr })
}

fn show(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_carries_what_the_program_said() {
        let error = run("sh", ["-c", "echo out; echo why >&2; exit 3"]).unwrap_err().to_string();
        for part in ["sh -c", "exit status: 3", "out", "why"] {
            assert!(error.contains(part), "{part} is not in {error}");
        }
    }
}
