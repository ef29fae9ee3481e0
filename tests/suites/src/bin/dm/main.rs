//! `thinlayer-dm` on the real kernel, with `dmsetup` as the second opinion.

mod events;
mod lifecycle;
#[expect(dead_code, reason = "an example has a main of its own")]
#[path = "../../../../../crates/dm/examples/list.rs"]
mod list_example;
mod nodes;
mod tables;
mod udev;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Set, suite};
use thinlayer_dm::{
    Access, Control, DeviceGuard, DeviceMapper, DeviceRef, DmName, Info, Kind, Removed, Sectors, Target,
    activate, remove_within,
};

fn main() -> ExitCode {
    let tests = [lifecycle::tests(), tables::tests(), events::tests(), nodes::tests(), udev::tests()];
    suite("dm", Set::Everywhere, tests.into_iter().flatten().collect()).main()
}

/// How long udev may keep a device open that is to go.
const PATIENCE: Duration = Duration::from_secs(20);

fn name(text: &str) -> Result<DmName> {
    Ok(DmName::new(format!("tlt-{text}"))?)
}

fn target(start: u64, len: u64, kind: &str, params: impl Into<String>) -> Target {
    Target { start: Sectors(start), len: Sectors(len), kind: kind.into(), params: params.into() }
}

fn zero(sectors: u64) -> Vec<Target> {
    vec![target(0, sectors, "zero", "")]
}

/// A device of zeroes that goes with its guard.
fn make<'a>(dm: &'a Control, device: &DmName) -> Result<DeviceGuard<&'a Control>> {
    let guard = activate(dm, device, None, &zero(2048), Access::ReadWrite)?;
    // What udev does with a new device shall not get into the way of what is tried here.
    harness::wait_for_udev()?;
    Ok(guard.with_patience(PATIENCE))
}

fn remove(dm: &Control, device: DeviceRef<'_>) -> Result<()> {
    let removed = remove_within(dm, device, PATIENCE)?;
    ensure!(removed == Removed::Gone, "{device} is {removed:?}");
    Ok(())
}

fn info(dm: &Control, device: &DmName) -> Result<Info> {
    dm.info(device.into())?.with_context(|| format!("{device} is not there"))
}

/// What `dmsetup` says, without blanks at the ends of lines.
fn dmsetup<const N: usize>(arguments: [&str; N]) -> Result<String> {
    let text = harness::run("dmsetup", arguments)?.stdout_text();
    Ok(text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n"))
}

/// Lines as `dmsetup table` and `dmsetup status` print them.
fn lines(targets: &[Target]) -> String {
    let line =
        |t: &Target| format!("{} {} {} {}", t.start.0, t.len.0, t.kind, t.params).trim_end().to_owned();
    targets.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The call must fail, in this way.
fn refused<T: std::fmt::Debug>(what: &str, result: thinlayer_dm::Result<T>, kind: Kind) -> Result<()> {
    let error = match result {
        Ok(value) => anyhow::bail!("{what} succeeded: {value:?}"),
        Err(error) => error,
    };
    println!("{what}: {error}");
    ensure!(error.kind() == kind, "{what} is {:?}, not {kind:?}: {error}", error.kind());
    ensure!(!error.to_string().contains('\n'), "{what}: more than one line: {error}");
    Ok(())
}
