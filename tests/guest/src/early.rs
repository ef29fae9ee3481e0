//! The initramfs: from the kernel's hand-over to the real root file system.

use std::convert::Infallible;
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};

use crate::disks;

const ROOT: &str = "/root";
const UNIT: &str = "\
[Unit]
Description=thinlayer test agent
After=basic.target

[Service]
Type=exec
ExecStart=/thinlayer/payload/agent run
StandardOutput=journal+console
StandardError=journal+console
KillMode=process
Delegate=yes
TasksMax=infinity
";

/// Never returns: becomes the next stage, or powers off after a trial.
pub(crate) fn boot() -> Result<Infallible> {
    file_system("devtmpfs", "/dev")?;
    file_system("proc", "/proc")?;
    file_system("sysfs", "/sys")?;
    let words = fs::read_to_string("/proc/cmdline").context("cannot read the kernel's command line")?;
    let words: Vec<&str> = words.split_whitespace().collect();
    if words.contains(&"thinlayer.trial") {
        // The host looks for this line to know that this accelerator works.
        fs::write("/dev/console", "thinlayer trial boot works\n")?;
        crate::power_off();
    }
    load_modules()?;

    disk("root", ROOT, MsFlags::empty())?;
    disk("payload", "/root/thinlayer/payload", MsFlags::MS_RDONLY)?;
    disk("scratch", "/root/scratch", MsFlags::empty())?;
    file_system("tmpfs", "/root/run")?;
    let systemd = words.contains(&"thinlayer.init=systemd");
    if systemd {
        let units = Path::new("/root/run/systemd/system");
        let wants = units.join("multi-user.target.wants");
        fs::create_dir_all(&wants)?;
        fs::write(units.join("thinlayer-agent.service"), UNIT)?;
        symlink("../thinlayer-agent.service", wants.join("thinlayer-agent.service"))?;
        // The console is the person's shell's, or nobody's.
        symlink("/dev/null", units.join("serial-getty@ttyS0.service"))?;
    }
    for folder in ["/dev", "/proc", "/sys"] {
        let target = format!("{ROOT}{folder}");
        mount(Some(folder), target.as_str(), None::<&str>, MsFlags::MS_MOVE, None::<&str>)
            .with_context(|| format!("cannot move {folder}"))?;
    }
    std::env::set_current_dir(ROOT)?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>).context("cannot move the root")?;
    nix::unistd::chroot(".").context("cannot enter the root")?;
    std::env::set_current_dir("/")?;

    let mut next = if systemd {
        Command::new("/lib/systemd/systemd")
    } else {
        let mut agent = Command::new("/thinlayer/payload/agent");
        agent.arg("pid1");
        agent
    };
    next.env_clear().env("PATH", crate::run::PATH).env("HOME", "/root");
    let error = next.exec();
    Err(error).with_context(|| format!("cannot start {}", next.get_program().to_string_lossy()))
}

/// The host put the modules here uncompressed, named in the order in which they must be loaded.
fn load_modules() -> Result<()> {
    let mut modules: Vec<_> = fs::read_dir("/modules")
        .context("cannot list /modules")?
        .collect::<Result<Vec<_>, _>>()?
        .into_iter()
        .map(|entry| entry.path())
        .collect();
    modules.sort();
    for module in modules {
        let image = fs::read(&module)?;
        match nix::kmod::init_module(&image, c"") {
            Ok(()) | Err(nix::Error::EEXIST) => {}
            Err(error) => return Err(error).with_context(|| format!("cannot load {}", module.display())),
        }
    }
    Ok(())
}

fn disk(serial: &str, target: &str, flags: MsFlags) -> Result<()> {
    let node = disks::find(serial)?;
    fs::create_dir_all(target).with_context(|| format!("cannot make {target}"))?;
    mount(Some(&node), target, Some("ext4"), flags, None::<&str>)
        .with_context(|| format!("cannot mount the {serial} disk {} on {target}", node.display()))
}

/// Mounts a kernel file system where it belongs, making the folder.
pub(crate) fn file_system(kind: &str, target: &str) -> Result<()> {
    fs::create_dir_all(target).with_context(|| format!("cannot make {target}"))?;
    match mount(Some(kind), target, Some(kind), MsFlags::empty(), None::<&str>) {
        Ok(()) | Err(nix::Error::EBUSY) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot mount {kind} on {target}")),
    }
}
