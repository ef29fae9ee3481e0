//! Lists the loop devices in use: `cargo run -p thinlayer-provision --example loops` (as root).

use thinlayer_provision::{Backing, Result, System};

fn main() -> Result<()> {
    let loops = System::new().loops()?;
    if loops.is_empty() {
        println!("no loop device is in use");
    }
    for device in loops {
        let mut traits = Vec::new();
        for (has, word) in [
            (device.autoclear, "autoclear"),
            (device.direct_io, "direct I/O"),
            (device.read_only, "read-only"),
        ] {
            if has {
                traits.push(word);
            }
        }
        println!(
            "{} ({}) {} inode {} {}",
            device.node.display(),
            device.number,
            device.file.display(),
            device.inode,
            traits.join(", ")
        );
    }
    Ok(())
}
