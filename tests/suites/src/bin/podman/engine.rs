//! Podman from Debian's package: a program that starts, does one thing and ends; containers go on under `conmon`.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use harness::{eventually, scratch_dir};
use serde_json::Value;
use suites::engine::{Engine, PATIENCE};

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
}

/// The programs that run, by their process ids. One that has ended and was not collected is not among them.
fn running() -> Result<BTreeMap<u32, PathBuf>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Ok(program) = fs::read_link(entry.path().join("exe")) {
            found.insert(pid, program);
        }
    }
    Ok(found)
}

impl Engine for Podman {
    fn command(&self) -> Result<Command> {
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
        command.arg(&self.graph);
        for option in &self.options {
            command.arg("--storage-opt").arg(option);
        }
        Ok(command)
    }

    /// When a container ends, its supervisor starts a `podman container cleanup`. Two processes of Podman at the same time move the pool's transaction id
    /// behind each other's back, and it was seen that a pending deletion was forgotten over it: what thinlayer then finds is chance.
    fn settle(&self) -> Result<()> {
        eventually("Podman's clean-up to end", PATIENCE, || {
            let running = running()?;
            let of = |program: &'static str| running.iter().filter(move |(_, exe)| exe.ends_with(program));
            let container_lives = |supervisor: u32| {
                let path = format!("/proc/{supervisor}/task/{supervisor}/children");
                let children = fs::read_to_string(path).unwrap_or_default();
                children.split_whitespace().any(|pid| pid.parse().is_ok_and(|pid| running.contains_key(&pid)))
            };
            let left: Vec<u32> = of("bin/podman")
                .chain(of("bin/conmon").filter(|(supervisor, _)| !container_lives(**supervisor)))
                .map(|(pid, _)| *pid)
                .collect();
            Ok(if left.is_empty() { Ok(()) } else { Err(format!("processes {left:?} go on")) })
        })
    }
}
