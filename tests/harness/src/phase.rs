//! Power cuts: a test is a match on its phase.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::protocol::{REPORT, Report};

/// The phase that this process is to run: the one the last [`power_cut`] named, or `start`.
///
/// ```no_run
/// fn what_was_synced_survives() -> anyhow::Result<()> {
///     match harness::phase().as_str() {
///         "start" => {
///             // ... write and sync ...
///             harness::power_cut("look")
///         }
///         "look" => Ok(()), // ... is it there? ...
///         other => anyhow::bail!("no phase {other}"),
///     }
/// }
/// ```
pub fn phase() -> String {
    std::env::var("THINLAYER_PHASE").unwrap_or_else(|_| "start".to_owned())
}

/// Cuts the VM's power: the host kills it and boots it again on the same scratch disk, and the test starts again
/// with [`phase`] answering `next`. Returns only if that did not happen.
///
/// Everything else starts anew: the guest's memory is gone, the root file system is as it was made, and only
/// what reached [`crate::scratch_dir`] is left.
pub fn power_cut(next: &str) -> Result<()> {
    if std::env::var_os(REPORT).is_none() {
        bail!("a power cut needs the runner: start this test with `cargo xtask test`");
    }
    send(&Report::PowerCut { phase: next.to_owned() }).context("cannot ask for the power to be cut")?;
    std::thread::sleep(Duration::from_secs(60));
    bail!("asked for the power to be cut, and 60 s later it is still on")
}

/// Tells the agent, or where there is none the terminal.
pub(crate) fn report(report: &Report) {
    if let Err(error) = send(report) {
        eprintln!("cannot reach the agent: {error:#}\n{report:?}");
    }
}

fn send(report: &Report) -> Result<()> {
    let Some(socket) = std::env::var_os(REPORT) else {
        println!("{report:?}");
        return Ok(());
    };
    let mut text = serde_json::to_string(report)?;
    if text.len() > LIMIT {
        let short = match report {
            Report::Fail { reason } => Report::Fail { reason: reason.chars().take(LIMIT / 8).collect() },
            other => other.clone(),
        };
        text = serde_json::to_string(&short)?;
    }
    let datagram = UnixDatagram::unbound()?;
    datagram.set_write_timeout(Some(Duration::from_secs(5)))?;
    datagram.send_to(text.as_bytes(), &socket)?;
    Ok(())
}

/// Datagrams are limited by the socket's buffer.
const LIMIT: usize = 32 * 1024;
