//! The runner's own suite: is the VM what the tests are told it is?

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::{LoopFile, Set, scratch_dir, suite, test};

fn main() -> ExitCode {
    suite(
        "selftest",
        Set::Everywhere,
        vec![
            test("the kernel is the one asked for", kernel),
            test("device-mapper and its thin targets are there", device_mapper),
            test("udev runs if and only if it should", udev),
            test("udev makes the link of a new device", udev_link).needs_udev(),
            test("the scratch disk is empty, large and takes files", scratch),
            test("a loop device works and goes", loops),
            test("synced files survive a power cut", power_cut).deadline(Duration::from_secs(180)),
            test("the Debian root file system is there", debian),
        ],
    )
    .main()
}

fn kernel() -> Result<()> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let line = harness::kernel();
    ensure!(release.starts_with(&format!("{line}.")), "this is kernel {release}, not {line}");
    Ok(())
}

fn device_mapper() -> Result<()> {
    let targets = harness::run("dmsetup", ["targets"])?.stdout_text();
    for target in ["thin-pool", "thin", "linear", "snapshot"] {
        ensure!(targets.lines().any(|line| line.starts_with(target)), "no target {target} in:\n{targets}");
    }
    Ok(())
}

fn udev() -> Result<()> {
    let listens = Path::new("/run/udev/control").exists();
    ensure!(listens == harness::udev_runs(), "udev listens: {listens}; it should: {}", harness::udev_runs());
    Ok(())
}

fn udev_link() -> Result<()> {
    harness::run("dmsetup", ["create", "selftest-link", "--table", "0 8 error"])?;
    harness::wait_for_udev()?;
    let target = fs::read_link("/dev/mapper/selftest-link").context("no link of udev's")?;
    ensure!(target.starts_with(".."), "the link leads to {}", target.display());
    harness::run("dmsetup", ["remove", "selftest-link"])?;
    Ok(())
}

fn scratch() -> Result<()> {
    let folder = scratch_dir()?;
    ensure!(fs::read_dir(&folder)?.next().is_none(), "{} is not empty", folder.display());
    let kind = harness::run("stat", ["-f", "-c", "%T", "/scratch"])?.stdout_text();
    ensure!(kind.contains("ext"), "the scratch disk holds {kind}");
    let free = harness::run("df", ["--output=avail", "-B1G", "/scratch"])?.stdout_text();
    let free: u64 = free.lines().last().unwrap_or_default().trim().parse()?;
    ensure!(free >= 16, "only {free} GiB are free");
    fs::write(folder.join("file"), "text")?;
    Ok(())
}

fn loops() -> Result<()> {
    let device = LoopFile::new("disk", 64 << 20)?;
    harness::run("mkfs.ext4", [Path::new("-q"), device.device()])?;
    let kind = harness::run("blkid", ["-o", "value", "-s", "TYPE", &device.device().to_string_lossy()])?;
    ensure!(kind.stdout_text() == "ext4", "blkid says {kind:?}");
    Ok(())
}

fn power_cut() -> Result<()> {
    let file = scratch_dir()?.join("synced");
    match harness::phase().as_str() {
        "start" => {
            let mut made = fs::File::create(&file)?;
            made.write_all(b"still here")?;
            made.sync_all()?;
            fs::File::open(scratch_dir()?)?.sync_all()?;
            fs::write("/run/selftest", "")?;
            harness::power_cut("after one cut")
        }
        "after one cut" => {
            ensure!(fs::read(&file)? == b"still here", "the file has changed");
            ensure!(!Path::new("/run/selftest").exists(), "the guest was not booted anew");
            harness::power_cut("after two cuts")
        }
        "after two cuts" => {
            ensure!(fs::read(&file)? == b"still here", "the file has changed");
            Ok(())
        }
        other => bail!("no phase {other}"),
    }
}

fn debian() -> Result<()> {
    let names =
        harness::run("tar", ["-tf", "/thinlayer/debian-rootfs.tar", "./usr/bin/dpkg", "./usr/bin/env"])?;
    ensure!(names.stdout_text().lines().count() == 2, "{names:?}");
    Ok(())
}
