//! The program that runs in the VM: first as the initramfs's `/init`, then as process 1 (or as a unit of
//! systemd's), and for each test as the wrapper that puts it into a control group.
//!
//! | started as | does |
//! | --- | --- |
//! | `/init` | loads the modules of the first disk, mounts the disks, goes on as one of the next two |
//! | `agent pid1` | mounts what an init mounts, starts `agent run`, reaps orphans |
//! | `agent run` | reads the plan, does its work, reports, powers off |
//! | `agent enter GROUP WORD...` | becomes the command, in a session and a control group of its own |

mod channel;
mod command;
mod disks;
mod early;
mod group;
mod kernel_log;
mod pid1;
mod run;
mod tests_run;

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    let started_as = words.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
    let role = words.get(1).map(|word| word.to_string_lossy().into_owned());
    let result = match role.as_deref() {
        _ if started_as == "/init" => early::boot(),
        Some("pid1") => pid1::be(),
        Some("run") => run::be(),
        Some("enter") => group::enter(&words[2..]),
        _ => Err(anyhow::anyhow!("agent: this program runs in the VM; see docs/vm-tests.md")),
    };
    match result {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("thinlayer agent: {error:#}");
            if std::process::id() == 1 {
                // Process 1 must not return: the kernel would panic and hide the message.
                power_off();
            }
            ExitCode::from(127)
        }
    }
}

/// Writes back what is cached and turns the machine off.
fn power_off() {
    nix::unistd::sync();
    let Err(error) = nix::sys::reboot::reboot(nix::sys::reboot::RebootMode::RB_POWER_OFF);
    eprintln!("thinlayer agent: cannot power off: {error}");
}
