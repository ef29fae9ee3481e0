//! dockerd's own driver and this one on the same direct-lvm pool, one after the other.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use harness::{run, scratch_dir};
use suites::dockerd::Docker;
use suites::engine::Engine;
use thinlayer_graphdriver::LayerId;

use crate::disk::{Disk, SIZE, uuid};
use crate::root::{folder, open, small};

/// An image of one file.
fn image(docker: &Docker) -> Result<()> {
    let folder = folder("image")?;
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("hello"), "from docker")?;
    let tar = scratch_dir()?.join("image.tar");
    run("tar", ["-C".as_ref(), folder.as_os_str(), "-cf".as_ref(), tar.as_os_str(), "hello".as_ref()])?;
    docker.run(&["import", &tar.display().to_string(), "hello:latest"]).map(drop)
}

fn images(docker: &Docker) -> Result<String> {
    docker.run(&["images", "--format", "{{.Repository}}:{{.Tag}}"])
}

/// The layers of Docker's image, as this driver sees them: one, with one file.
fn look_at_layers(root: &Path, options: &[String], more: &str) -> Result<()> {
    let driver = open(root, options)?;
    // Docker leaves these rows empty (I18).
    let rows = driver.driver.status()?.rows;
    for side in ["Data", "Metadata"] {
        let node = format!("/dev/mapper/docker-thinpool_t{}", if side == "Data" { "data" } else { "meta" });
        let wanted = (format!("{side} file"), node);
        ensure!(rows.contains(&wanted), "{wanted:?} is not in {rows:?}");
    }
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
    let options = small(&[disk.option()]);
    let mut docker = Docker::new(options.clone())?;
    let root = docker.home();
    fs::create_dir_all(&docker.data)?;
    let driver = open(&root, &options)?;
    driver.layer("ours", "ours")?;
    driver.driver.remove(&LayerId::given("ours")?)?;
    driver.stop()?;
    let (group, config) = (uuid("vgs", "vg_uuid")?, fs::read(root.join("setup-config.json"))?);

    docker.start()?;
    let rows = docker.rows()?;
    ensure!(rows.contains(&("Pool Name".into(), "docker-thinpool".into())), "another pool: {rows:?}");
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
    let options = small(&[disk.option()]);
    let mut docker = Docker::new(options.clone())?;
    docker.start()?;
    image(&docker)?;
    docker.stop()?;
    let group = uuid("vgs", "vg_uuid")?;

    // With its options and without: setup-config.json is enough.
    let root = docker.home();
    look_at_layers(&root, &options, "first")?;
    crate::disk::deactivate()?;
    look_at_layers(&root, &small(&[]), "second")?;
    ensure!(uuid("vgs", "vg_uuid")? == group, "the volume group was made anew");

    docker.start()?;
    ensure!(images(&docker)? == "hello:latest", "its images are {}", images(&docker)?);
    let made = docker.run(&["create", "hello:latest", "/hello"])?;
    docker.run(&["cp", &format!("{made}:/hello"), &scratch_dir()?.join("copied").display().to_string()])?;
    ensure!(
        fs::read_to_string(scratch_dir()?.join("copied"))? == "from docker",
        "the container holds something else"
    );
    docker.run(&["rm", &made])?;
    docker.run(&["rmi", "hello:latest"])?;
    docker.stop()
}
