//! What the suites ask of Docker and of Podman alike.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Output, eventually, run, scratch_dir};

use crate::tree::{Tree, unpack};

/// How long an engine, or a container, may take to start or to end in a slow VM.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A container engine's command line.
pub trait Engine {
    /// Its program with the words that each call needs.
    ///
    /// # Errors
    /// If there is no scratch folder.
    fn command(&self) -> Result<Command>;

    /// What it has to say of a failure besides what its command line printed.
    fn log(&self) -> String {
        String::new()
    }

    /// Waits for what it still does when a command has ended.
    ///
    /// # Errors
    /// If that takes too long.
    fn settle(&self) -> Result<()> {
        Ok(())
    }

    /// Runs it to its end, whatever that is.
    ///
    /// # Errors
    /// If it cannot be started.
    fn try_run<S: AsRef<OsStr>>(&self, words: &[S]) -> Result<Output> {
        let mut command = self.command()?;
        let output = command.args(words).stdin(Stdio::null()).output();
        let output = output.with_context(|| format!("cannot start {}", command.get_program().display()))?;
        Ok(Output { status: output.status, stdout: output.stdout, stderr: output.stderr })
    }

    /// Runs it. What it printed.
    ///
    /// # Errors
    /// If it fails.
    fn run<S: AsRef<OsStr>>(&self, words: &[S]) -> Result<String> {
        let output = self.try_run(words)?;
        let shown: Vec<_> = words.iter().map(|word| word.as_ref().to_string_lossy().into_owned()).collect();
        ensure!(output.status.success(), "{} failed: {output:?}\n{}", shown.join(" "), self.log());
        self.settle()?;
        Ok(output.stdout_text())
    }

    /// A container with a shell's script, made (`create`), run to its end (`run`) or going on (`run -d`). Its id.
    ///
    /// # Errors
    /// If it cannot be made, or its script fails.
    fn container(&self, words: &[&str], image: &str, script: &str) -> Result<String> {
        let file = scratch_dir()?.join("cid");
        let _last = fs::remove_file(&file);
        let mut line: Vec<&OsStr> = words.iter().map(OsStr::new).collect();
        line.extend(["--network", "none", "--stop-signal", "KILL", "--cidfile"].map(OsStr::new));
        line.push(file.as_os_str());
        line.extend([image, "/bin/sh", "-c", script].map(OsStr::new));
        self.run(&line)?;
        Ok(fs::read_to_string(&file)?)
    }

    /// The tree that it exports of a container.
    ///
    /// # Errors
    /// If it cannot, or the tree cannot be read.
    fn export(&self, container: &str) -> Result<Tree> {
        let (tar, folder) = (scratch_dir()?.join("export.tar"), scratch_dir()?.join("export"));
        self.run(&["export".as_ref(), "--output".as_ref(), tar.as_os_str(), container.as_ref()])?;
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        unpack(&tar, &folder)?;
        Tree::read(&folder)
    }

    /// The process of a running container.
    ///
    /// # Errors
    /// If there is no such container.
    fn pid(&self, container: &str) -> Result<u32> {
        Ok(self.run(&["inspect", "--format", "{{.State.Pid}}", container])?.parse()?)
    }
}

/// `kill -9` of what supervises a container, and then of the container with this process: what a crash leaves, nothing is unmounted.
///
/// # Errors
/// If the container does not run, or does not end.
pub fn kill_container(process: u32) -> Result<()> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let supervisor = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)).context("no parent")?;
    ensure!(supervisor != "1", "the container has no supervisor");
    run("sh", ["-c", &format!("kill -KILL {supervisor} {process}")])?;
    eventually("the container to end", PATIENCE, || {
        let there = Path::new(&format!("/proc/{process}/root/usr")).exists();
        Ok(if there { Err("it runs".to_owned()) } else { Ok(()) })
    })
}
