//! The other direction: a root that thinlayer made, on which dockerd starts with an empty image store.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use harness::scratch_dir;
use suites::dockerd::Docker;
use suites::engine::Engine;
use suites::tree::{Tree, image_tar, unpack};

use crate::fixture::{Root, options};

pub(crate) fn taken() -> Result<()> {
    let tar = image_tar(&scratch_dir()?)?;
    let mut docker = Docker::new(options("xfs"))?;
    fs::create_dir_all(docker.home())?;
    // As the daemon's root belongs to a container's root where users are remapped.
    let remapped = (165_536, 165_537);
    nix::unistd::chown(&docker.home(), Some(remapped.0.into()), Some(remapped.1.into()))?;
    let root = Root::with(&docker.home(), options("xfs"))?;
    root.quiet(&["create", "lower"])?;
    let mount = |id: &str| anyhow::Ok(PathBuf::from(root.run(&["mount", id])?.trim_end()));
    let tree = mount("lower")?;
    for folder in [tree.clone(), docker.home(), docker.home().join("mnt")] {
        let facts = fs::metadata(&folder)?;
        ensure!((facts.uid(), facts.gid()) == remapped, "{} has another owner: {facts:?}", folder.display());
    }
    unpack(&tar, &tree)?;
    root.quiet(&["umount", "lower"])?;
    root.quiet(&["create", "--parent", "lower", "upper"])?;
    fs::write(mount("upper")?.join("made-by"), "thinlayer")?;
    root.quiet(&["umount", "upper"])?;
    root.quiet(&["create", "--size", "400M", "sized"])?;
    let read = |id: &str| {
        let tree = Tree::read(&mount(id)?);
        root.quiet(&["umount", id])?;
        tree
    };
    let (lower, upper) = (read("lower")?, read("upper")?);
    let facts = root.json(&["ls"])?;
    root.stop_and_check()?;

    docker.start()?;
    docker.run(&["import".as_ref(), tar.as_os_str(), "image".as_ref()])?;
    let container = docker.container(&["run"], "image", "cat /etc/hello; echo theirs > /made")?;
    let gone = docker.container(&["create"], "image", "true")?;
    docker.run(&["rm", &gone])?;
    let theirs = docker.all_layers()?;
    docker.stop()?;

    let ours: BTreeSet<String> = ["lower", "upper", "sized"].map(str::to_owned).into();
    let ids = root.ids()?;
    ensure!(ids == &ours | &theirs, "ls: {ids:?}");
    root.check()?;
    lower.same(&read("lower")?, "our lower layer before and after dockerd")?;
    upper.same(&read("upper")?, "our upper layer before and after dockerd")?;
    // Docker rewrites no record of ours here, so their size and parent are still known.
    for layer in root.json(&["ls"])?.as_array().context("ls shows no array")? {
        let known = facts.as_array().and_then(|all| all.iter().find(|other| other["id"] == layer["id"]));
        ensure!(known.is_none_or(|known| known == layer), "a layer was {known:?} and is {layer}");
    }
    let theirs = docker.layers_of(&container)?.0;
    ensure!(read(&theirs)?.text("made").as_deref() == Some("theirs\n"), "the container's layer changed");
    root.quiet(&["rm", "upper"])?;
    root.stop_and_check()?;

    // Both go on: their container runs after our removal.
    docker.start()?;
    let said = docker.run(&["start", "-a", &container])?;
    ensure!(said == "hello", "the container says {said:?}");
    docker.stop()?;
    lower.same(&read("lower")?, "our lower layer at the end")?;
    root.check()?;
    root.stop_and_check()
}
