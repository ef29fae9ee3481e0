//! A file system's life on a device: made, mounted, written to, frozen, grown, unmounted, found again.
//!
//! Run as root, with a device of 400 MiB or more that holds nothing, and a folder:
//! `cargo run -p thinlayer-filesystem --example life -- DEVICE FOLDER`

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use thinlayer_filesystem::{
    Detected, Filesystems, Frozen, Kind, MakeOptions, MountRequest, Mounted, System, Unmount,
};

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [device, folder] = arguments.as_slice() else {
        eprintln!("usage: life DEVICE FOLDER");
        return ExitCode::from(2);
    };
    match run(Path::new(device), Path::new(folder)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("life: {error}");
            ExitCode::FAILURE
        }
    }
}

pub(crate) fn run(device: &Path, folder: &Path) -> Result<(), Failure> {
    let system = System::new();
    if system.detect(device)? != Detected::Nothing {
        return Err(format!("{} holds something already", device.display()).into());
    }
    let kind = Kind::Xfs;
    system.usable(kind)?;
    // Smaller than the device, so that there is room to grow.
    let args = vec!["-d".to_owned(), "size=320m".to_owned()];
    let options = MakeOptions { kind, args, deadline: Duration::from_secs(120) };
    // The only call that starts a program.
    system.make(device, &options, &|elapsed| println!("mkfs has run for {elapsed:?}"))?;
    println!("{} holds {:?}", device.display(), system.detect(device)?);

    let request = MountRequest {
        device: device.to_owned(),
        target: folder.to_owned(),
        kind,
        read_only: false,
        no_recovery: false,
        options: vec!["noatime".to_owned()],
        label: None,
    };
    let mut mounted = Mounted::mount(&system, &request)?; // unmounted when it is dropped
    std::fs::write(mounted.target().join("hello"), "world")?;
    let before = system.free_bytes(mounted.target())?;
    system.grow(kind, mounted.target(), device)?;
    let after = system.free_bytes(mounted.target())?;
    println!("{before} bytes were free, and {after} are after growing");
    if after <= before {
        return Err("it did not grow: the device has no more room".into());
    }
    // Consistent on the device and without writers, as for a snapshot of what is below it.
    Frozen::freeze(&system, mounted.target())?.thaw()?;
    mounted.unmount(Unmount::Now)?;

    let again = Mounted::mount(&system, &MountRequest { read_only: true, ..request })?;
    println!(
        "after another mount the file says {:?}",
        std::fs::read_to_string(again.target().join("hello"))?
    );
    Ok(())
}
