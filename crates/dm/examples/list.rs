//! Prints the device-mapper devices with tables and status, like a small `dmsetup info`, `table` and `status` in one.
//!
//! Run as root: `cargo run -p thinlayer-dm --example list [NAME]...`

use std::process::ExitCode;

use thinlayer_dm::{Control, DeviceMapper, DmName, Error, Flush, Info, Kind, Slot, Target};

fn main() -> ExitCode {
    match list(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("list: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints those of these names, or all if there are none.
pub(crate) fn list(names: impl Iterator<Item = String>) -> Result<(), Error> {
    let wanted = names.map(DmName::new).collect::<Result<Vec<_>, _>>()?;
    let dm = Control::open()?;
    let targets: Vec<String> = dm
        .target_versions()?
        .into_iter()
        .map(|target| format!("{} {}", target.name, target.version))
        .collect();
    println!("device-mapper {}; {}", dm.version(), targets.join(", "));
    for listed in dm.devices()? {
        if !wanted.is_empty() && !wanted.contains(&listed.name) {
            continue;
        }
        // By number: a name that somebody else made may not be one that can be sent back. Gone by now is no error.
        let Some(info) = dm.info(listed.number.into())? else { continue };
        match print_device(&dm, &info) {
            Err(error) if error.kind() == Kind::NotFound => println!("  gone meanwhile"),
            printed => printed?,
        }
    }
    Ok(())
}

fn print_device(dm: &Control, info: &Info) -> Result<(), Error> {
    println!("\n{} ({})", info.name, info.number);
    if let Some(uuid) = &info.uuid {
        println!("  uuid    {uuid}");
    }
    println!("  state   {}", state(info));
    println!("  opened  {} times, {} events", info.open_count, info.event_nr);
    let device = info.number.into();
    for on in dm.deps(device)? {
        println!("  on      {on}");
    }
    print_lines("table", &dm.table(device, Slot::Live)?.1);
    print_lines("loaded", &dm.table(device, Slot::Inactive)?.1);
    print_lines("status", &dm.status(device, Flush::No)?.1);
    Ok(())
}

fn state(info: &Info) -> String {
    let words = [
        (info.suspended, "suspended"),
        (!info.suspended, "active"),
        (info.read_only, "read-only"),
        (!info.live_table, "without a table"),
        (info.inactive_table, "table loaded"),
        (info.deferred_remove, "goes at its last close"),
    ];
    let words: Vec<&str> = words.into_iter().filter_map(|(is, word)| is.then_some(word)).collect();
    words.join(", ")
}

fn print_lines(what: &str, targets: &[Target]) {
    for Target { start, len, kind, params } in targets {
        println!("  {what:<7} {} {} {kind} {params}", start.0, len.0);
    }
}
