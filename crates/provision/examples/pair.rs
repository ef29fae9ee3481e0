//! The two devices of a pool as files in a folder, on loop devices for as long as the program runs; then one of them as a given device.
//!
//! Run as root: `cargo run -p thinlayer-provision --example pair -- FOLDER`

use std::path::Path;
use std::process::ExitCode;

use thinlayer_dm::Bytes;
use thinlayer_provision::given::{Purpose, validate_pair_for};
use thinlayer_provision::loop_pool::{LoopPair, Sizes, ensure_pair};
use thinlayer_provision::{Backing, System};

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1) else {
        eprintln!(
            "usage: pair FOLDER\n\nMakes FOLDER/devicemapper/data and metadata, if they are not there."
        );
        return ExitCode::from(2);
    };
    match run(Path::new(&folder)) {
        Ok(_pair) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pair: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The pair. Both devices are free again when it is dropped, and nobody else has them open.
pub(crate) fn run(folder: &Path) -> Result<LoopPair, Failure> {
    std::fs::create_dir_all(folder.join("devicemapper"))?;
    let system = System::new();
    // The data file is sparse, the metadata file has all its blocks. What is there stays, and never shrinks.
    let sizes = Sizes { data: Bytes(1 << 30), metadata: Bytes(4 << 20) };
    let pair = ensure_pair(&system, folder, sizes)?;
    for (what, side) in [("data", &pair.data), ("metadata", &pair.metadata)] {
        let attachment = &side.attachment;
        println!(
            "{what}: {} ({}), {} bytes, direct I/O: {}",
            attachment.node.display(),
            attachment.number,
            attachment.size.0,
            attachment.direct_io
        );
    }
    let held = system.loops()?.into_iter().find(|held| held.number == pair.data.attachment.number);
    println!("the kernel says: {}", held.ok_or("the device is not in use")?.file.display());

    // Devices that somebody names are looked at before anything is written: size, what is on them, who uses them.
    let (data, metadata) = (&pair.data.attachment.node, &pair.metadata.attachment.node);
    let given = validate_pair_for(&system, data, metadata, Purpose::New)?;
    println!(
        "fit for a new pool: {} and {} (blank: {})",
        given.data.number, given.metadata.number, given.blank
    );
    match validate_pair_for(&system, data, data, Purpose::New) {
        Ok(_) => Err("one device was taken for two".into()),
        Err(error) => {
            println!("not fit: {error}");
            Ok(pair)
        }
    }
}
