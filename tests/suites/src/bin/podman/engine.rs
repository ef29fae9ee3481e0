//! Podman from Debian's package: a program that starts, does one thing and ends; containers go on under `conmon`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Output, eventually, scratch_dir};
use serde_json::Value;

use crate::tree::{Tree, unpack};

const PATIENCE: Duration = Duration::from_secs(60);
const RUN: &str = "/run/podman-test";

/// A graph root, and how Podman is to be called for it.
pub(crate) struct Podman {
    pub(crate) graph: PathBuf,
    options: Vec<String>,
}

impl Podman {
    /// A graph root in the test's folder.
    pub(crate) fn new(options: Vec<String>) -> Result<Self> {
        Ok(Self { graph: scratch_dir()?.join("graph"), options })
    }

    /// The folder that is thinlayer's root.
    pub(crate) fn home(&self) -> PathBuf {
        self.graph.join("devicemapper")
    }

    /// Runs it; it has to succeed. What it printed.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, words: &[S]) -> Result<String> {
        let output = self.try_run(words)?;
        let shown: Vec<_> = words.iter().map(|word| word.as_ref().to_string_lossy().into_owned()).collect();
        ensure!(output.status.success(), "podman {} failed: {output:?}", shown.join(" "));
        Ok(output.stdout_text())
    }

    pub(crate) fn try_run<S: AsRef<OsStr>>(&self, words: &[S]) -> Result<Output> {
        let mut command = self.command()?;
        let output = command.args(words).output().context("cannot start podman")?;
        Ok(Output { status: output.status, stdout: output.stdout, stderr: output.stderr })
    }

    pub(crate) fn command(&self) -> Result<Command> {
        // By its path, since this suite has the same name.
        let mut command = Command::new("/usr/bin/podman");
        command.args(["--log-level", "error", "--cgroup-manager", "cgroupfs", "--runtime", "runc"]);
        command.args([
            "--events-backend",
            "none",
            "--storage-driver",
            "devicemapper",
            "--runroot",
            RUN,
            "--root",
        ]);
        command.arg(&self.graph).stdin(Stdio::null());
        for option in &self.options {
            command.arg("--storage-opt").arg(option);
        }
        Ok(command)
    }

    /// A container with a shell's script; its id.
    pub(crate) fn container(&self, words: &[&str], image: &str, script: &str) -> Result<String> {
        let file = scratch_dir()?.join("cid");
        let _last = fs::remove_file(&file);
        let mut line: Vec<&OsStr> = words.iter().map(OsStr::new).collect();
        line.extend(["--network", "none", "--stop-signal", "KILL", "--cidfile"].map(OsStr::new));
        line.extend([file.as_os_str()]);
        line.extend([image, "/bin/sh", "-c", script].map(OsStr::new));
        self.run(&line)?;
        Ok(fs::read_to_string(&file)?)
    }

    /// The storage driver's rows of `podman info`, which have no order.
    pub(crate) fn rows(&self) -> Result<BTreeMap<String, String>> {
        let text = self.run(&["info", "--format", "{{json .Store.GraphStatus}}"])?;
        serde_json::from_str(&text).with_context(|| format!("no rows: {text}"))
    }

    fn list(&self, of: &str) -> Result<Vec<Value>> {
        let path = self.graph.join(format!("devicemapper-{of}/{of}.json"));
        Ok(serde_json::from_slice(&fs::read(&path).with_context(|| format!("no {}", path.display()))?)?)
    }

    /// The layer of a container or an image.
    pub(crate) fn layer_of(&self, of: &str, id: &str) -> Result<String> {
        let list = self.list(of)?;
        let found = list.iter().find(|one| one["id"] == id).and_then(|one| one["layer"].as_str());
        Ok(found.with_context(|| format!("{of} {id} has no layer"))?.to_owned())
    }

    /// All layers that it knows.
    pub(crate) fn all_layers(&self) -> Result<std::collections::BTreeSet<String>> {
        let list = self.list("layers")?;
        list.iter().map(|one| Ok(one["id"].as_str().context("a layer without id")?.to_owned())).collect()
    }

    /// What it exports of a container.
    pub(crate) fn export(&self, container: &str) -> Result<Tree> {
        let (tar, folder) = (scratch_dir()?.join("export.tar"), scratch_dir()?.join("export"));
        self.run(&["export".as_ref(), "--output".as_ref(), tar.as_os_str(), container.as_ref()])?;
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        unpack(&tar, &folder)?;
        Tree::read(&folder)
    }

    /// The process of a running container.
    pub(crate) fn pid(&self, container: &str) -> Result<u32> {
        Ok(self.run(&["inspect", "--format", "{{.State.Pid}}", container])?.parse()?)
    }
}

/// `kill -9` of a container's supervisor and then of the container: what a crash leaves, nothing is unmounted.
pub(crate) fn kill(container: u32) -> Result<()> {
    let stat = fs::read_to_string(format!("/proc/{container}/stat"))?;
    let supervisor = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)).context("no parent")?;
    ensure!(supervisor != "1", "the container has no supervisor");
    harness::run("sh", ["-c", &format!("kill -KILL {supervisor} {container}")])?;
    eventually("the container to end", PATIENCE, || {
        let there = Path::new(&format!("/proc/{container}/root/usr")).exists();
        Ok(if there { Err("it runs".to_owned()) } else { Ok(()) })
    })
}
