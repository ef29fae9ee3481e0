//! Makes a device out of a part of another one: a table is loaded, the device is read, and goes again.
//!
//! Run as root: `cargo run -p thinlayer-dm --example window -- DEVICE FIRST-SECTOR SECTORS`

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::process::ExitCode;

use thinlayer_dm::{Access, Control, DeviceMapper, DeviceNumber, DmName, Sectors, Target, activate};

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [device, first, sectors] = arguments.as_slice() else {
        eprintln!("usage: window DEVICE FIRST-SECTOR SECTORS");
        return ExitCode::from(2);
    };
    let shown = first
        .parse()
        .and_then(|first| Ok((first, sectors.parse()?)))
        .map_err(Failure::from)
        .and_then(|(first, sectors)| window(device, Sectors(first), Sectors(sectors)));
    match shown {
        Ok(start) => {
            println!("the window begins with {:?}", String::from_utf8_lossy(&start));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("window: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The first 16 bytes that are seen through a read-only window of so many sectors from this one on.
pub(crate) fn window(device: &str, first: Sectors, len: Sectors) -> Result<Vec<u8>, Failure> {
    let below = DeviceNumber::from_stat(std::fs::metadata(device)?.rdev());
    let dm = Control::open()?;
    let table = [Target {
        start: Sectors(0),
        len,
        kind: "linear".into(),
        // The kernel's Documentation/admin-guide/device-mapper/linear.rst.
        params: format!("{below} {}", first.0),
    }];
    // Create, load, resume. Whatever fails from here on, the guard removes the device.
    let window = activate(&dm, &DmName::new("example-window")?, None, &table, Access::ReadOnly)?;
    println!("{} ({}) shows {} sectors of {device}", window.name(), window.number(), len.0);
    // The node is there without waiting for udev.
    let node = dm.node(window.name(), window.number())?;
    let mut start = vec![0; 16];
    File::open(node)?.read_exact(&mut start)?;
    // Tried again for a while if udev looks into the device this moment.
    window.close()?;
    Ok(start)
}
