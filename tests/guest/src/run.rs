//! The agent proper: reads its plan, sets the guest up, does the work, powers off.

use std::convert::Infallible;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use harness::protocol::{Event, Plan, VERSION, Work};

use crate::channel::Channel;
use crate::{command, disks, kernel_log, tests_run};

/// Where programs are found: ours, the suites', the system's.
pub(crate) const PATH: &str = "/thinlayer/payload/bin:/thinlayer/payload/suites:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Never returns: the machine is off at the end.
pub(crate) fn be() -> Result<Infallible> {
    let channel = Channel::open()?;
    channel.beat();
    if let Err(error) = work(&channel) {
        channel.send(Event::Broken { reason: format!("{error:#}") });
    }
    channel.drain();
    crate::power_off();
    bail!("the machine is still on")
}

fn work(channel: &Channel) -> Result<()> {
    let plan = plan()?;
    watch(plan.deadline);
    set_up(&plan)?;
    let release =
        fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the kernel's release")?;
    channel.send(Event::Ready { version: VERSION, release: release.trim_end().to_owned() });
    match &plan.work {
        Work::Tests { tests } => tests_run::run(channel, &plan, tests),
        Work::Command { words } => command::run(channel, &plan, words),
        Work::Shell { rows, columns, term } => command::shell(channel, &plan, *rows, *columns, term),
    }
}

/// The plan is JSON at the start of a disk, filled up with zero bytes.
fn plan() -> Result<Plan> {
    let disk = disks::find("plan")?;
    let mut text = Vec::new();
    File::open(&disk)
        .and_then(|mut file| file.read_to_end(&mut text))
        .with_context(|| format!("cannot read the plan from {}", disk.display()))?;
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    let plan: Plan = serde_json::from_slice(&text[..end]).context("cannot read the plan")?;
    if plan.version != VERSION {
        bail!(
            "the plan is of version {}, this agent of {VERSION}: build both from the same sources",
            plan.version
        );
    }
    Ok(plan)
}

/// Just before the host gives up, the blocked tasks go to the console, which the host keeps.
fn watch(deadline: u64) {
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(deadline));
        kernel_log::dump_blocked_tasks();
    });
}

fn set_up(plan: &Plan) -> Result<()> {
    // With a deadline of its own for each step, since udev may wait for a device that never comes.
    quietly("modprobe", &["-a", "dm_mod", "dm_thin_pool", "dm_snapshot", "loop", "xfs", "overlay"])?;
    quietly("ip", &["link", "set", "lo", "up"])?;
    let systemd = Path::new("/run/systemd/system").is_dir();
    if plan.udev && !systemd {
        quietly("/lib/systemd/systemd-udevd", &["--daemon"])?;
        // Only the disks: going through all devices would load drivers that nobody uses, for seconds.
        quietly("udevadm", &["trigger", "--action=add", "--subsystem-match=block"])?;
    }
    if plan.udev {
        quietly("udevadm", &["settle", "--timeout=60"])?;
    }
    Ok(())
}

fn quietly(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .env("PATH", PATH)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {program}"))?;
    if !output.status.success() {
        bail!(
            "{program} {arguments:?}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    Ok(())
}

/// The environment of tests and commands, besides the plan's own.
pub(crate) fn environment(command: &mut Command, plan: &Plan, scratch: &Path) {
    command
        .env_clear()
        .env("PATH", PATH)
        .env("HOME", "/root")
        .env("LANG", "C.UTF-8")
        // Of panics, whose place says little; errors say what they are about.
        .env("RUST_BACKTRACE", "1")
        .env("RUST_LIB_BACKTRACE", "0")
        .env("THINLAYER_KERNEL", &plan.kernel)
        .env("THINLAYER_UDEV", if plan.udev { "1" } else { "0" })
        .env("THINLAYER_SCRATCH", scratch)
        .env("THINLAYER_RESULTS", RESULTS)
        .envs(plan.environment.iter().map(|(name, value)| (name, value)))
        .current_dir("/thinlayer");
}

/// Text files left here go to the host.
pub(crate) const RESULTS: &str = "/scratch/results";
