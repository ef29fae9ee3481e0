//! What is on a device or in an image file, and is it mounted somewhere?
//!
//! `cargo run -p thinlayer-filesystem --example detect -- /dev/vda disk.img`

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;
use thinlayer_filesystem::{Detected, Filesystems, Result, System};

fn show(system: &System, device: &Path) -> Result<()> {
    match system.detect(device)? {
        Detected::Known { kind, uuid } => println!("{}: {kind}, UUID {uuid}", device.display()),
        Detected::Foreign(name) => println!("{}: {name}, which is not handled here", device.display()),
        Detected::Nothing => println!("{}: nothing that is known", device.display()),
    }
    let Ok(status) = std::fs::metadata(device) else { return Ok(()) };
    // As glibc's major() and minor() do.
    let number = status.rdev();
    let major = (number >> 8) & 0xfff | (number >> 32) & !0xfff;
    let minor = number & 0xff | (number >> 12) & !0xff;
    for mount in system.mounts()? {
        if number != 0
            && (u64::from(mount.device.0), u64::from(mount.device.1)) == (major, minor & 0xffff_ffff)
        {
            let how = if mount.read_only { "read-only" } else { "read-write" };
            println!("  mounted {how} at {}", mount.target.display());
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    let system = System::new();
    let mut code = ExitCode::SUCCESS;
    for device in std::env::args_os().skip(1) {
        if let Err(error) = show(&system, Path::new(&device)) {
            eprintln!("{error}");
            code = ExitCode::FAILURE;
        }
    }
    code
}
