//! dockerd and containerd from Debian's packages, started and killed by the test itself.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::{eventually, scratch_dir};

use crate::engine::{Engine, PATIENCE, kill_container};

const EXEC: &str = "/run/docker-test";
const SOCKET: &str = "/run/docker-test.sock";
const CONTAINERD: &str = "/run/containerd-test.sock";

/// A data root and the daemons on it, which end with this value.
#[derive(Debug)]
pub struct Docker {
    /// The data root.
    pub data: PathBuf,
    options: Vec<String>,
    containerd: Option<Child>,
    dockerd: Option<Child>,
}

impl Docker {
    /// A data root in the test's folder, with these storage options.
    ///
    /// # Errors
    /// If there is no scratch folder.
    pub fn new(options: Vec<String>) -> Result<Self> {
        Ok(Self { data: scratch_dir()?.join("docker"), options, containerd: None, dockerd: None })
    }

    /// The folder that is thinlayer's root.
    pub fn home(&self) -> PathBuf {
        self.data.join("devicemapper")
    }

    /// Starts containerd, if it does not run, and dockerd, and waits until it answers.
    pub fn start(&mut self) -> Result<()> {
        if self.containerd.is_none() {
            let root = scratch_dir()?.join("containerd");
            let words = [
                OsStr::new("--root"),
                root.as_os_str(),
                OsStr::new("--state"),
                OsStr::new("/run/containerd-test"),
                OsStr::new("--address"),
                OsStr::new(CONTAINERD),
            ];
            self.containerd = Some(spawn("containerd", &words)?);
        }
        // A killed one leaves it, and its process id may be somebody else's by now.
        let _stale = fs::remove_file("/run/docker-test.pid");
        let mut words: Vec<&OsStr> = [
            "--containerd",
            CONTAINERD,
            "--exec-root",
            EXEC,
            "--pidfile",
            "/run/docker-test.pid",
            "--host",
            "unix:///run/docker-test.sock",
            "--storage-driver",
            "devicemapper",
            "--bridge=none",
            "--iptables=false",
            "--ip6tables=false",
            "--ip-forward=false",
            "--ip-masq=false",
            "--exec-opt",
            "native.cgroupdriver=cgroupfs",
            "--data-root",
        ]
        .map(OsStr::new)
        .to_vec();
        words.push(self.data.as_os_str());
        for option in &self.options {
            words.extend([OsStr::new("--storage-opt"), OsStr::new(option)]);
        }
        let mut dockerd = spawn("dockerd", &words)?;
        eventually("dockerd to answer", PATIENCE, || {
            if let Some(status) = dockerd.try_wait()? {
                bail!("dockerd ended: {status}\n{}", log("dockerd"));
            }
            Ok(ping().map_err(|error| format!("{error}\n{}", log("dockerd"))))
        })?;
        self.dockerd = Some(dockerd);
        Ok(())
    }

    /// Ends both in good order.
    pub fn stop(&mut self) -> Result<()> {
        for (name, child) in [("dockerd", self.dockerd.take()), ("containerd", self.containerd.take())] {
            let Some(mut child) = child else { continue };
            signal(child.id(), "TERM")?;
            let status = eventually(&format!("{name} to end"), PATIENCE, || {
                Ok(child.try_wait()?.ok_or_else(|| log(name)))
            })?;
            ensure!(status.success(), "{name} ended badly: {status}\n{}", log(name));
        }
        Ok(())
    }

    /// `kill -9` of dockerd alone: containerd and the containers go on.
    pub fn kill_dockerd(&mut self) -> Result<()> {
        kill(self.dockerd.take())
    }

    /// `kill -9` of dockerd, containerd, and the container with this process and what supervises it.
    pub fn kill_all(&mut self, container: u32) -> Result<()> {
        kill(self.dockerd.take())?;
        kill(self.containerd.take())?;
        kill_container(container)
    }

    /// The storage driver's rows of `docker info`.
    pub fn rows(&self) -> Result<Vec<(String, String)>> {
        let text = self.run(&["info", "--format", "{{json .DriverStatus}}"])?;
        serde_json::from_str(&text).with_context(|| format!("no rows: {text}"))
    }

    fn database(&self) -> PathBuf {
        self.data.join("image/devicemapper/layerdb")
    }

    /// The layer of a container, and the one below it.
    pub fn layers_of(&self, container: &str) -> Result<(String, String)> {
        let folder = self.database().join("mounts").join(container);
        Ok((fs::read_to_string(folder.join("mount-id"))?, fs::read_to_string(folder.join("init-id"))?))
    }

    /// The layers of images: the ids of those with a parent, and of those without.
    pub fn image_layers(&self) -> Result<(Vec<String>, Vec<String>)> {
        let mut layers = (Vec::new(), Vec::new());
        for chain in read_folder(&self.database().join("sha256"))? {
            let id = fs::read_to_string(chain.join("cache-id"))?;
            if chain.join("parent").exists() { layers.0.push(id) } else { layers.1.push(id) }
        }
        Ok(layers)
    }

    /// All layers that Docker knows.
    pub fn all_layers(&self) -> Result<BTreeSet<String>> {
        let (upper, lowest) = self.image_layers()?;
        let mut all: BTreeSet<String> = upper.into_iter().chain(lowest).collect();
        for mount in read_folder(&self.database().join("mounts"))? {
            for file in ["mount-id", "init-id"] {
                all.insert(fs::read_to_string(mount.join(file))?);
            }
        }
        Ok(all)
    }
}

impl Engine for Docker {
    fn command(&self) -> Result<Command> {
        // By its path, since a suite has the same name.
        let mut command = Command::new("/usr/bin/docker");
        command.arg("--host").arg(format!("unix://{SOCKET}"));
        Ok(command)
    }

    fn log(&self) -> String {
        log("dockerd")
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        for child in [self.dockerd.take(), self.containerd.take()] {
            let _killed = kill(child);
        }
        // A dockerd that was killed leaves its data root mounted on itself, and the next one takes it for the administrator's.
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        if mounts.contains(&format!(" {} ", self.data.display())) {
            let _unmounted = harness::try_run("umount", [OsStr::new("--lazy"), self.data.as_os_str()]);
        }
    }
}

fn read_folder(folder: &Path) -> Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries?.map(|entry| Ok(entry?.path())).collect(),
    }
}

fn spawn(name: &str, words: &[&OsStr]) -> Result<Child> {
    let log = File::options().create(true).append(true).open(log_path(name)?)?;
    let mut command = Command::new(name);
    command.args(words).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command.spawn().with_context(|| format!("cannot start {name}"))
}

fn log_path(name: &str) -> Result<PathBuf> {
    Ok(scratch_dir()?.join(format!("{name}.log")))
}

/// The end of a daemon's log.
fn log(name: &str) -> String {
    let text = log_path(name).and_then(|path| Ok(fs::read_to_string(path)?)).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

fn ping() -> std::result::Result<(), String> {
    let ask = || -> std::io::Result<String> {
        let mut socket = UnixStream::connect(SOCKET)?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        socket.write_all(b"GET /_ping HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        Ok(answer)
    };
    match ask() {
        Ok(answer) if answer.contains(" 200 OK") => Ok(()),
        Ok(answer) => Err(answer),
        Err(error) => Err(error.to_string()),
    }
}

fn signal(pid: u32, name: &str) -> Result<()> {
    harness::run("sh", ["-c", &format!("kill -{name} {pid}")]).map(drop)
}

fn kill(child: Option<Child>) -> Result<()> {
    if let Some(mut child) = child {
        child.kill()?;
        child.wait()?;
    }
    Ok(())
}
