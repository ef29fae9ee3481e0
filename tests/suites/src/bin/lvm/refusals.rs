//! Devices that somebody needs, and machines that lack what is needed.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::run;
use thinlayer_graphdriver::Machine;
use thinlayer_provision::Result as LvmResult;
use thinlayer_provision::lvm::{Finished, Programs};

use crate::disk::{Disk, SIZE, portrait};
use crate::root::{folder, open, open_with, small};

/// Small, since all of it is compared.
const HELD: u64 = 16 << 20;

struct Case {
    name: &'static str,
    /// Words of the error.
    words: &'static str,
    /// `dm.directlvm_device_force` makes no difference.
    always: bool,
    fill: fn(&Disk) -> Result<()>,
}

fn tool(program: &str, words: &[&str], disk: &Disk) -> Result<()> {
    let node = disk.node.display().to_string();
    run(program, words.iter().copied().chain([node.as_str()])).map(drop)
}

fn put(disk: &Disk, at: u64, bytes: &[u8]) -> Result<()> {
    let mut device = fs::File::options().write(true).open(&disk.node)?;
    device.seek(SeekFrom::Start(at))?;
    device.write_all(bytes)?;
    Ok(device.sync_all()?)
}

/// One partition of Linux's type from sector 2048 on.
fn partition_table(disk: &Disk) -> Result<()> {
    let mut sector = [0_u8; 512];
    sector[446 + 4] = 0x83;
    sector[446 + 8..446 + 12].copy_from_slice(&2048_u32.to_le_bytes());
    sector[446 + 12..446 + 16].copy_from_slice(&16_384_u32.to_le_bytes());
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    put(disk, 0, &sector)?;
    // blkid sees it too, or the test shows nothing.
    let probed = run("blkid", [Path::new("--probe"), &disk.node])?.stdout_text();
    ensure!(probed.contains("PTTYPE=\"dos\""), "blkid says {probed}");
    Ok(())
}

const CASES: &[Case] = &[
    Case { name: "ext4", words: "holds ext4", always: false, fill: |disk| tool("mkfs.ext4", &["-q"], disk) },
    Case { name: "swap", words: "holds swap", always: false, fill: |disk| tool("mkswap", &[], disk) },
    Case { name: "partitions", words: "holds dos", always: true, fill: partition_table },
    Case {
        name: "volume",
        words: "holds LVM2_member",
        always: false,
        fill: |disk| tool("pvcreate", &[], disk),
    },
    Case {
        name: "group",
        words: "belongs to volume group theirs",
        always: true,
        fill: |disk| tool("vgcreate", &["theirs"], disk),
    },
];

/// Nothing of a set-up in a root.
fn untouched(root: &Path) -> Result<()> {
    for name in ["setup-config.json", "thinlayer/direct-lvm.json", "devicemapper"] {
        ensure!(!root.join(name).exists(), "{name} was made");
    }
    Ok(())
}

pub(crate) fn held_devices() -> Result<()> {
    let root = folder("root")?;
    let force = "dm.directlvm_device_force=true".to_owned();
    for case in CASES {
        let disk = Disk::new(case.name, HELD)?;
        (case.fill)(&disk)?;
        refused(&root, &disk, &[disk.option()], case)?;
        if case.always {
            refused(&root, &disk, &[disk.option(), force.clone()], case)?;
        }
        if case.name == "group" {
            run("vgremove", ["theirs"])?;
        }
    }
    in_use(&root)?;
    // A group of that name on another disk.
    let (theirs, disk) = (Disk::new("theirs", HELD)?, Disk::new("ours", SIZE)?);
    tool("vgcreate", &["docker"], &theirs)?;
    let error = open(&root, &small(&[disk.option()])).err().context("a second group docker was made")?;
    ensure!(format!("{error:#}").contains("volume group docker already"), "{error:#}");
    untouched(&root)?;
    run("vgremove", ["docker"])?;
    // Too small for the parts that were asked for.
    let error = open(&root, &small(&[theirs_again(&theirs)?.option(), force.clone()])).err();
    let error = format!("{:#}", error.context("a disk of 16 MiB was taken")?);
    ensure!(error.contains("404 MiB"), "{error}");
    untouched(&root)?;
    // With force a file system is no reason.
    tool("mkfs.ext4", &["-q"], &disk)?;
    let driver = open(&root, &small(&[disk.option(), force]))?;
    ensure!(portrait()?.contains("thin-pool"), "there is no pool");
    driver.layer("layer", "new")?;
    driver.stop()
}

/// The same disk, wiped.
fn theirs_again(disk: &Disk) -> Result<&Disk> {
    run("pvremove", [&disk.node])?;
    Ok(disk)
}

fn refused(root: &Path, disk: &Disk, options: &[String], case: &Case) -> Result<()> {
    let before = disk.content()?;
    let error = open(root, &small(options)).err().with_context(|| format!("{} was taken", case.name))?;
    let error = format!("{error:#}");
    ensure!(error.contains(case.words), "{}: {error}", case.name);
    ensure!(error.contains("nothing was changed"), "{}: {error}", case.name);
    ensure!(disk.content()? == before, "{} was written to", case.name);
    untouched(root)
}

/// Mounted, and below another device.
fn in_use(root: &Path) -> Result<()> {
    let disk = Disk::new("used", HELD)?;
    let node = disk.node.display().to_string();
    run("dmsetup", ["create", "tlt-on-top", "--table", &format!("0 2048 linear {node} 0")])?;
    let before = disk.content()?;
    let error = open(root, &small(&[disk.option(), "dm.directlvm_device_force=true".into()])).err();
    harness::wait_for_udev()?;
    run("dmsetup", ["remove", "--retry", "tlt-on-top"])?;
    let error = format!("{:#}", error.context("a device in use was taken")?);
    ensure!(error.contains("tlt-on-top"), "{error}");
    ensure!(disk.content()? == before, "a device in use was written to");
    untouched(root)
}

/// The machine's programs, but for some.
#[derive(Debug)]
struct Without {
    inner: Arc<dyn Programs>,
    missing: &'static [&'static str],
}

impl Programs for Without {
    fn find(&self, program: &str) -> Option<PathBuf> {
        if self.missing.contains(&program) { None } else { self.inner.find(program) }
    }

    fn run(&self, program: &str, arguments: &[&str], deadline: Duration) -> LvmResult<Finished> {
        self.inner.run(program, arguments, deadline)
    }

    fn write_profile(&self, name: &str, content: &str) -> LvmResult<()> {
        self.inner.write_profile(name, content)
    }
}

pub(crate) fn missing_tools() -> Result<()> {
    let disk = Disk::new("disk", HELD)?;
    let before = disk.content()?;
    let root = folder("root")?;
    for (missing, words) in [
        (&["thin_check"][..], "thin_check cannot be found; install thin-provisioning-tools"),
        (&["lvcreate", "lvconvert"], "lvcreate, lvconvert cannot be found; install lvm2"),
    ] {
        let error = open_with(&root, &small(&[disk.option()]), |machine| Machine {
            programs: Arc::new(Without { inner: machine.programs.clone(), missing }),
            ..machine
        })
        .err();
        let error = format!("{:#}", error.context("it went on without its tools")?);
        ensure!(error.contains(words), "{error}");
    }
    ensure!(disk.content()? == before, "the disk was written to");
    untouched(&root)
}
