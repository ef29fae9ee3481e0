//! The machine starts again.

use std::fs;

use anyhow::{Context, Result, bail, ensure};
use harness::{power_cut, run, scratch_dir};

use crate::disk::{Disk, SIZE, deactivate};
use crate::root::{folder, open, small};

/// The kernel's idea of the pool's transaction id.
fn transaction_id() -> Result<u64> {
    let status = run("dmsetup", ["status", "--noflush", "docker-thinpool"])?.stdout_text();
    status.split(' ').nth(3).and_then(|word| word.parse().ok()).with_context(|| format!("no id in {status}"))
}

/// I8: LVM's metadata say 0, and the kernel's something else.
pub(crate) fn reboot() -> Result<()> {
    let root = folder("root")?;
    match harness::phase().as_str() {
        "start" => {
            let disk = Disk::new("disk", SIZE)?;
            let driver = open(&root, &small(&[disk.option()]))?;
            for id in ["one", "two", "three"] {
                driver.layer(id, id)?;
            }
            ensure!(transaction_id()? >= 4, "the transaction id is {}", transaction_id()?);
            // No clean-up: a machine that loses its power does none.
            power_cut("look")
        }
        "look" => {
            let disk = Disk::again(&scratch_dir()?.join("disk"))?;
            let active =
                || Ok::<_, anyhow::Error>(run("dmsetup", ["ls"])?.stdout_text().contains("docker-thinpool"));
            // LVM by itself: its rules for udev do it when the disk comes, and otherwise the system's start does.
            harness::wait_for_udev()?;
            run("vgchange", ["--activate", "y", "docker"])?;
            ensure!(active()?, "LVM did not activate the pool");
            let id = transaction_id()?;
            ensure!(id >= 4, "the transaction id is {id}");
            let lvms = run("lvs", ["--noheadings", "-o", "transaction_id", "docker/thinpool"])?.stdout_text();
            ensure!(lvms.trim() == "0", "LVM's transaction id is {lvms}");
            deactivate()?;
            ensure!(!active()?, "the pool is still active");
            // And by the driver, whose options were lost with the unit file.
            let driver = open(&root, &small(&[]))?;
            for id in ["one", "two", "three"] {
                ensure!(driver.content(id)? == id, "layer {id} holds something else");
            }
            driver.layer("four", "four")?;
            driver.stop()?;
            deactivate()?;
            let metadata = folder("metadata")?;
            // The pool's metadata by themselves, which only an inactive pool shows.
            run("lvchange", ["--activate", "y", "--yes", "docker/thinpool_tmeta"])?;
            let checked = run("thin_check", ["/dev/docker/thinpool_tmeta"]);
            run("lvchange", ["--activate", "n", "docker/thinpool_tmeta"])?;
            checked?;
            drop(disk);
            let _unused = fs::remove_file(metadata);
            Ok(())
        }
        other => bail!("no phase {other}"),
    }
}
