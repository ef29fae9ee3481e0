//! Pools of LVM's that are named with `dm.thinpooldev`.

use anyhow::{Context, Result, ensure};
use harness::run;

use crate::disk::{Disk, deactivate};
use crate::root::{folder, open, small};

/// I8: whoever counts transactions in a pool is alone in it.
pub(crate) fn counted_pools_are_refused() -> Result<()> {
    let disk = Disk::new("disk", 512 << 20)?;
    run("vgcreate", ["my-group".as_ref(), disk.node.as_os_str()])?;
    run("lvcreate", ["--type", "thin-pool", "--size", "400M", "--name", "thin-pool", "my-group"])?;
    let option = "dm.thinpooldev=my--group-thin--pool".to_owned();
    let root = folder("root")?;

    // An empty one is taken, and LVM activates it later, whatever number it has.
    let driver = open(&root, &small(std::slice::from_ref(&option)))?;
    driver.layer("layer", "here")?;
    driver.stop()?;
    deactivate()?;
    run("vgchange", ["--activate", "y", "my-group"])?;
    let driver = open(&root, &small(std::slice::from_ref(&option)))?;
    ensure!(driver.content("layer")? == "here", "the layer is gone");
    driver.stop()?;
    deactivate()?;
    run("lvremove", ["--yes", "my-group/thin-pool"])?;

    // One with a thin volume of LVM's, and one that has had one.
    let root = folder("other")?;
    run("lvcreate", ["--type", "thin-pool", "--size", "400M", "--name", "thin-pool", "my-group"])?;
    run("lvcreate", ["--virtualsize", "64M", "--thinpool", "my-group/thin-pool", "--name", "theirs"])?;
    let said = |name: &str| -> Result<String> {
        let option = format!("dm.thinpooldev={name}");
        let error = open(&root, &small(&[option])).err().context("a pool of LVM's own was taken")?;
        ensure!(!root.join("metadata/base").exists(), "a base was made in it");
        Ok(format!("{error:#}"))
    };
    let error = said("my--group-thin--pool-tpool")?;
    ensure!(error.contains("thin volume") && error.contains("my-group/thin-pool"), "{error}");
    run("lvremove", ["--yes", "my-group/theirs"])?;
    deactivate()?;
    run("vgchange", ["--activate", "y", "my-group"])?;
    let error = said("my--group-thin--pool")?;
    ensure!(error.contains("transaction id") && error.contains("would not activate"), "{error}");
    deactivate()?;
    // How to bring up one that is not active.
    let error = said("my--group-thin--pool")?;
    ensure!(error.contains("lvchange --activate y my-group/thin-pool"), "{error}");
    let error = said("nobodys-pool")?;
    ensure!(error.contains("there is no thin pool nobodys-pool"), "{error}");
    run("vgremove", ["--force", "--yes", "my-group"]).map(drop)
}
