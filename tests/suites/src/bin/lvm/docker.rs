//! dockerd's own driver and this one on the same direct-lvm pool, one after the other.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::{eventually, run, scratch_dir};
use thinlayer_graphdriver::LayerId;

use crate::disk::{Disk, SIZE, uuid};
use crate::root::{folder, open, small};

const SOCKET: &str = "unix:///run/docker-lvm.sock";
const CONTAINERD: &str = "/run/containerd-lvm.sock";
const PATIENCE: Duration = Duration::from_secs(120);

/// dockerd with Debian's devicemapper driver.
struct Dockerd {
    child: Child,
    /// A child of its own: dockerd gives one of its making 15 s to start.
    containerd: Child,
    log: PathBuf,
}

impl Dockerd {
    fn start(data: &Path, options: &[String]) -> Result<Self> {
        let log = scratch_dir()?.join("dockerd.log");
        let output = File::options().create(true).append(true).open(&log)?;
        let _stale = fs::remove_file(CONTAINERD);
        let containerd = Command::new("containerd")
            .arg("--root")
            .arg(scratch_dir()?.join("containerd"))
            .args(["--state", "/run/containerd-lvm", "--address", CONTAINERD])
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output.try_clone()?)
            .spawn()
            .context("cannot start containerd")?;
        // Killed with this value, also if dockerd does not start.
        let mut containerd = Killed(Some(containerd));
        eventually("containerd's socket", PATIENCE, || {
            Ok(if Path::new(CONTAINERD).exists() { Ok(()) } else { Err("it is not there".to_owned()) })
        })?;
        let mut command = Command::new("dockerd");
        command.arg("--data-root").arg(data).args([
            "--containerd",
            CONTAINERD,
            "--exec-root=/run/docker-lvm",
            "--pidfile=/run/docker-lvm.pid",
            "--storage-driver=devicemapper",
            "--bridge=none",
            "--iptables=false",
            "--host",
            SOCKET,
        ]);
        for option in options {
            command.args(["--storage-opt", option]);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .context("cannot start dockerd")?;
        let containerd = containerd.0.take().context("containerd is gone")?;
        let mut this = Self { child, containerd, log };
        eventually("dockerd to answer", PATIENCE, || {
            if let Some(status) = this.child.try_wait()? {
                bail!("dockerd ended: {status}\n{}", this.said());
            }
            Ok(this.client(&["version"]).map(drop).map_err(|error| format!("{error}\n{}", this.said())))
        })?;
        Ok(this)
    }

    fn said(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    fn client(&self, words: &[&str]) -> Result<String> {
        Ok(run("docker", ["--host", SOCKET].iter().chain(words))?.stdout_text())
    }

    fn pool(&self) -> Result<String> {
        let info = self.client(&["info"])?;
        let line = info.lines().find_map(|line| line.trim().strip_prefix("Pool Name: "));
        Ok(line.with_context(|| format!("no pool in {info}"))?.to_owned())
    }

    fn stop(mut self) -> Result<()> {
        run("kill", ["-TERM", &self.child.id().to_string()])?;
        let status =
            eventually("dockerd to end", PATIENCE, || Ok(self.child.try_wait()?.ok_or_else(|| self.said())))?;
        ensure!(status.success(), "dockerd ended badly: {status}\n{}", self.said());
        run("kill", ["-TERM", &self.containerd.id().to_string()])?;
        eventually("containerd to end", PATIENCE, || {
            Ok(self.containerd.try_wait()?.map(drop).ok_or_else(|| self.said()))
        })
    }
}

/// A process that ends with this value.
struct Killed(Option<Child>);

impl Drop for Killed {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _killed = child.kill();
            let _collected = child.wait();
        }
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        for child in [&mut self.child, &mut self.containerd] {
            let _killed = child.kill();
            let _collected = child.wait();
        }
    }
}

/// An image of one file.
fn image(docker: &Dockerd) -> Result<()> {
    let folder = folder("image")?;
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("hello"), "from docker")?;
    let tar = scratch_dir()?.join("image.tar");
    run("tar", ["-C".as_ref(), folder.as_os_str(), "-cf".as_ref(), tar.as_os_str(), "hello".as_ref()])?;
    docker.client(&["import", &tar.display().to_string(), "hello:latest"]).map(drop)
}

fn images(docker: &Dockerd) -> Result<String> {
    docker.client(&["images", "--format", "{{.Repository}}:{{.Tag}}"])
}

/// The layers of Docker's image, as this driver sees them: one, with one file.
fn look_at_layers(root: &Path, options: &[String], more: &str) -> Result<()> {
    let driver = open(root, options)?;
    let layers = driver.driver.layers()?;
    let theirs: Vec<&LayerId> =
        layers.iter().map(|layer| &layer.id).filter(|id| id.as_str().len() == 64).collect();
    ensure!(theirs.len() == 1, "the layers are {layers:?}");
    let tree = driver.driver.get(theirs[0], None)?;
    let content = fs::read_to_string(tree.join("hello"));
    driver.driver.put(theirs[0], thinlayer_graphdriver::Unmount::Now)?;
    ensure!(content? == "from docker", "the image holds something else");
    driver.layer(more, more)?;
    driver.driver.remove(&LayerId::given(more)?)?;
    driver.stop()
}

pub(crate) fn dockerd_takes_ours() -> Result<()> {
    let disk = Disk::new("disk", SIZE)?;
    let data = folder("docker")?;
    fs::create_dir_all(&data)?;
    let root = data.join("devicemapper");
    let options = small(&[disk.option()]);
    let driver = open(&root, &options)?;
    driver.layer("ours", "ours")?;
    driver.driver.remove(&LayerId::given("ours")?)?;
    driver.stop()?;
    let (group, config) = (uuid("vgs", "vg_uuid")?, fs::read(root.join("setup-config.json"))?);

    let docker = Dockerd::start(&data, &options)?;
    ensure!(docker.pool()? == "docker-thinpool", "its pool is {}", docker.pool()?);
    ensure!(images(&docker)?.is_empty(), "it has images: {}", images(&docker)?);
    image(&docker)?;
    ensure!(images(&docker)? == "hello:latest", "its images are {}", images(&docker)?);
    docker.stop()?;
    ensure!(uuid("vgs", "vg_uuid")? == group, "dockerd made the volume group anew");
    ensure!(fs::read(root.join("setup-config.json"))? == config, "dockerd wrote setup-config.json anew");

    look_at_layers(&root, &options, "more")
}

pub(crate) fn we_take_dockerds() -> Result<()> {
    let disk = Disk::new("disk", SIZE)?;
    let data = folder("docker")?;
    let options = small(&[disk.option()]);
    let docker = Dockerd::start(&data, &options)?;
    image(&docker)?;
    docker.stop()?;
    let group = uuid("vgs", "vg_uuid")?;

    // With its options and without: setup-config.json is enough.
    let root = data.join("devicemapper");
    look_at_layers(&root, &options, "first")?;
    crate::disk::deactivate()?;
    look_at_layers(&root, &small(&[]), "second")?;
    ensure!(uuid("vgs", "vg_uuid")? == group, "the volume group was made anew");

    let docker = Dockerd::start(&data, &options)?;
    ensure!(images(&docker)? == "hello:latest", "its images are {}", images(&docker)?);
    let made = docker.client(&["create", "hello:latest", "/hello"])?;
    docker.client(&[
        "cp",
        &format!("{made}:/hello"),
        &scratch_dir()?.join("copied").display().to_string(),
    ])?;
    ensure!(
        fs::read_to_string(scratch_dir()?.join("copied"))? == "from docker",
        "the container holds something else"
    );
    docker.client(&["rm", &made])?;
    docker.client(&["rmi", "hello:latest"])?;
    docker.stop()
}
