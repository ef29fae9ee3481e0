//! Tests that are red on purpose, to see what the runner makes of them. Part of no run:
//! `cargo xtask test --suite misbehave` shows each, and exits with 1.

use std::fs;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use harness::{LoopFile, Set, scratch_dir, suite, test};

fn main() -> ExitCode {
    let short = Duration::from_secs(5);
    suite(
        "misbehave",
        Set::OnRequest,
        vec![
            test("fails with an error and its cause", fails),
            test("panics", || panic!("on purpose")),
            test("skips itself", || Err(harness::skip("on purpose"))),
            test("ends at once", || std::process::exit(42)),
            test("sleeps past its deadline", sleeps).deadline(short),
            test("leaves a daemon, a mount, a device and a loop", leaves),
            test("says more than is kept", says_much),
            test("blocks on a suspended device past its deadline", blocks).deadline(short),
            test("cannot be killed", cannot_be_killed).deadline(short),
            test("crashes the kernel", crashes),
            test("kills the agent", kills_the_agent),
            test("is still run after all of these, and passes", || Ok(())),
        ],
    )
    .main()
}

fn fails() -> Result<()> {
    println!("said before the failure");
    Err(anyhow::anyhow!("the cause")).context("the error")
}

fn sleeps() -> Result<()> {
    std::thread::sleep(Duration::from_secs(3600));
    Ok(())
}

fn leaves() -> Result<()> {
    Command::new("setsid").args(["sleep", "3600"]).stdout(Stdio::null()).spawn()?;
    let folder = scratch_dir()?.join("a mount");
    fs::create_dir(&folder)?;
    harness::run("mount", ["-t", "tmpfs", "none", &folder.to_string_lossy()])?;
    std::mem::forget(LoopFile::new("left", 1 << 20)?);
    harness::run("dmsetup", ["create", "left", "--table", "0 8 error"])?;
    Ok(())
}

fn says_much() -> Result<()> {
    for line in 0..20_000 {
        println!("line {line} of many");
    }
    bail!("after many lines")
}

/// Reads through a suspended device: blocked until it is resumed, which removal by force does.
fn blocks() -> Result<()> {
    harness::run("dmsetup", ["create", "stuck", "--table", "0 8 zero"])?;
    harness::wait_for_udev()?;
    harness::run("dmsetup", ["suspend", "stuck"])?;
    harness::run("dd", ["if=/dev/mapper/stuck", "of=/dev/null", "iflag=direct", "count=1"])?;
    Ok(())
}

/// A frozen file system over a suspended device under another: nothing that the sweep knows undoes it.
fn cannot_be_killed() -> Result<()> {
    let disk = LoopFile::new("frozen", 64 << 20)?;
    let node = disk.device().to_string_lossy().into_owned();
    harness::run("mkfs.ext4", ["-q", &node])?;
    let folder = scratch_dir()?.join("frozen.mount");
    fs::create_dir(&folder)?;
    harness::run("mount", [node.as_str(), &folder.to_string_lossy()])?;
    harness::run("fsfreeze", ["--freeze", &folder.to_string_lossy()])?;
    // Blocks in the kernel until somebody thaws.
    fs::write(folder.join("file"), "text")?;
    Ok(())
}

fn crashes() -> Result<()> {
    fs::write("/proc/sysrq-trigger", "c")?;
    Ok(())
}

fn kills_the_agent() -> Result<()> {
    harness::run("pkill", ["-KILL", "-f", "^/thinlayer/payload/agent run$"])?;
    sleeps()
}
