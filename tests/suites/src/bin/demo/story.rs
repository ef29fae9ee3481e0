//! Telling: headings, sentences, commands with what they printed.

use std::ffi::OsStr;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

/// What is told, step by step.
pub(crate) struct Story {
    chapter: u32,
    start: Instant,
}

impl Story {
    pub(crate) fn begin(title: &str) -> Self {
        println!("\n{title}\n{}", "=".repeat(title.chars().count()));
        Self { chapter: 0, start: Instant::now() }
    }

    /// A new chapter.
    pub(crate) fn chapter(&mut self, title: &str) {
        self.chapter += 1;
        let heading = format!("{}. {title}", self.chapter);
        println!("\n{heading}\n{}", "-".repeat(heading.chars().count()));
    }

    /// A sentence.
    pub(crate) fn tell(&self, text: &str) {
        for line in text.lines() {
            println!("  {}", line.trim());
        }
    }

    /// What was proven.
    pub(crate) fn proven(&self, text: &str) {
        println!("  ✓ {text}");
    }

    pub(crate) fn end(&self, text: &str) {
        println!("\n{text} ({:.0} s)", self.start.elapsed().as_secs_f64());
    }

    /// Runs a command that must succeed, shows it and what it printed, and gives that back.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, program: &str, arguments: &[S]) -> Result<String> {
        self.show(program, arguments);
        let (ok, text) = quietly(program, arguments)?;
        for line in text.lines() {
            println!("      {line}");
        }
        ensure!(ok, "{program} failed, see above");
        Ok(text)
    }

    /// Runs a command that must fail with this exit code, and shows what it said.
    pub(crate) fn fails(&self, code: i32, program: &str, arguments: &[&str]) -> Result<String> {
        self.show(program, arguments);
        let output = Command::new(program).args(arguments).stdin(Stdio::null()).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        for line in said.lines() {
            println!("      {line}");
        }
        println!("      (exit code {})", output.status.code().unwrap_or(-1));
        ensure!(output.status.code() == Some(code), "exit code {code} was expected");
        Ok(said)
    }

    fn show<S: AsRef<OsStr>>(&self, program: &str, arguments: &[S]) {
        let mut line = format!("    $ {program}");
        for argument in arguments {
            let argument = argument.as_ref().to_string_lossy();
            let quoted = argument.is_empty()
                || argument.contains(|c: char| c.is_whitespace() || "\"'$&|;<>()*".contains(c));
            line.push(' ');
            line.push_str(&if quoted { format!("'{argument}'") } else { argument.into_owned() });
        }
        println!("{line}");
        // So that the line stands there while a slow command works.
        let _ = std::io::stdout().flush();
    }
}

/// Runs a command without a word: did it succeed, and what did it print?
pub(crate) fn quietly<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> Result<(bool, String)> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {program}"))?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    Ok((output.status.success(), text))
}

/// As [`quietly`], for a command that must succeed.
pub(crate) fn must<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> Result<String> {
    match quietly(program, arguments)? {
        (true, text) => Ok(text),
        (false, text) => bail!("{program} failed: {}", text.trim()),
    }
}
