//! Process 1 where systemd is not: mounts, the agent, and orphans.

use std::convert::Infallible;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use nix::sys::wait::{WaitStatus, wait};

use crate::early::file_system;

/// Never returns: when the agent ends, so does the machine.
pub(crate) fn be() -> Result<Infallible> {
    for (kind, target) in [
        ("devpts", "/dev/pts"),
        ("tmpfs", "/dev/shm"),
        ("tmpfs", "/tmp"),
        ("cgroup2", "/sys/fs/cgroup"),
        ("debugfs", "/sys/kernel/debug"),
        ("tracefs", "/sys/kernel/tracing"),
        ("mqueue", "/dev/mqueue"),
    ] {
        file_system(kind, target)?;
    }
    fs::create_dir_all("/run/lock")?;
    // What a program started in a container manager's place may expect from its parent group.
    fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+cpu +cpuset +io +memory +pids")
        .context("cannot hand out the control groups' controllers")?;
    // While there is a group with controllers, the kernel has their branches in its code. With each test's group coming and going it would patch itself
    // each time, which QEMU's translator does not always survive.
    fs::create_dir("/sys/fs/cgroup/kept").context("cannot make a control group")?;
    nix::unistd::sethostname("thinlayer").context("cannot set the host name")?;

    let agent =
        Command::new("/thinlayer/payload/agent").arg("run").spawn().context("cannot start the agent")?;
    loop {
        match wait() {
            Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _))
                if u32::try_from(pid.as_raw()) == Ok(agent.id()) =>
            {
                eprintln!("thinlayer agent: ended without turning the machine off");
                crate::power_off();
            }
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error).context("cannot wait for processes"),
        }
    }
}
