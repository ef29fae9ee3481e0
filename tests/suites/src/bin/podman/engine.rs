//! Podman from Debian's package: a program that starts, does one thing and ends; containers go on under `conmon`.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use harness::scratch_dir;
use serde_json::Value;
use suites::engine::Engine;

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
}
