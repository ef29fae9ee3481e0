//! What the host lacks comes from Debian's archive through apt-get, and nothing else is put onto the host.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::command;

/// Something the host must have: how to see that it is there, and the package that brings it.
#[derive(Debug)]
pub(crate) struct Need {
    /// True if the host has it.
    pub(crate) present: fn() -> bool,
    /// The Debian package.
    pub(crate) package: &'static str,
}

/// Installs what is missing, or says which line to run where this user may not.
pub(crate) fn ensure(needs: &[Need]) -> Result<()> {
    let packages: Vec<&str> =
        needs.iter().filter(|need| !(need.present)()).map(|need| need.package).collect();
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    let root = nix::unistd::geteuid().is_root();
    if !root || !program("apt-get") {
        bail!(
            "this needs packages that are not installed; run this line, then start again:\n\n    \
             sudo apt-get update && sudo apt-get install -y --no-install-recommends {list}\n"
        );
    }
    eprintln!("xtask: installing {list}");
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").args(["-qq", "-o", "DPkg::Lock::Timeout=300"]);
        command
    };
    command::output(apt().arg("update"))?;
    // Quietly: standard output may be a program's answer. What goes wrong is in the error.
    command::output(apt().args(["install", "-y", "--no-install-recommends"]).args(&packages))?;
    match needs.iter().find(|need| !(need.present)()) {
        Some(need) => bail!("{} is installed, but what it should bring is still not there", need.package),
        None => Ok(()),
    }
}

/// Whether a program is on the path, or in the folders that only root's path has.
pub(crate) fn program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| folder.join(name).is_file())
}

/// Whether one of these folders has a file whose name starts with `start`, but not with `without`.
pub(crate) fn library(folders: &[&str], start: &str, without: &str) -> bool {
    folders.iter().any(|folder| {
        std::fs::read_dir(Path::new(folder)).is_ok_and(|entries| {
            entries.flatten().any(|entry| {
                let name = entry.file_name();
                let name = name.to_string_lossy();
                name.starts_with(start) && !name.starts_with(without)
            })
        })
    })
}
