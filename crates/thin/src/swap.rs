//! Making a device, and giving a device another table, so that a failure leaves what was there before.

use crate::device::forget_node;
use crate::error::{Error, Result};
use thinlayer_dm::{
    Access, DeviceMapper, DeviceNumber, DmName, Info, Kind, Removal, Suspend, Target, Version,
};

/// The interface that knows deferred removal.
const DEFERRED_REMOVAL: Version = Version(4, 27, 0);

/// Create, load, resume; undone in reverse if a step fails.
pub(crate) fn build(
    dm: &dyn DeviceMapper,
    op: &'static str,
    name: &DmName,
    target: &Target,
    access: Access,
) -> Result<Info> {
    let created = dm.create(name, None).map_err(|source| Error::call(op, name, source))?;
    let made = dm
        .load(name.into(), std::slice::from_ref(target), access)
        .and_then(|_| dm.resume(name.into(), Suspend::default()));
    made.map_err(|source| undo_build(dm, name, created.number, refused(op, name, target, source)))
}

/// Removes what was just made, after an error that is kept.
pub(crate) fn undo_build(dm: &dyn DeviceMapper, name: &DmName, number: DeviceNumber, first: Error) -> Error {
    // udev may be looking at it this moment; it then goes when udev closes it, and nobody has to wait here.
    let how = if dm.version() >= DEFERRED_REMOVAL { Removal::Deferred } else { Removal::Now };
    match dm.remove(name.into(), how) {
        Ok(_) => {
            forget_node(dm, name, number);
            first
        }
        Err(undo) => Error::NotUndone { first: Box::new(first), left: name.clone(), undo: Box::new(undo) },
    }
}

/// Load and resume; the old table is put back if the kernel refuses the new one.
pub(crate) fn swap(
    dm: &dyn DeviceMapper,
    op: &'static str,
    name: &DmName,
    old: &Target,
    new: &Target,
    access: Access,
    how: Suspend,
) -> Result<()> {
    dm.load(name.into(), std::slice::from_ref(new), access)
        .map_err(|source| refused(op, name, new, source))?;
    let Err(source) = dm.resume(name.into(), how) else { return Ok(()) };
    let first = refused(op, name, new, source);
    // The kernel may have refused before it suspended the device, before it took the new table, or after.
    match dm.info(name.into()) {
        Ok(Some(info)) if !info.suspended => match dm.clear(name.into()) {
            Ok(_) => Err(first),
            Err(undo) => {
                Err(Error::NotUndone { first: Box::new(first), left: name.clone(), undo: Box::new(undo) })
            }
        },
        _ => {
            let restored = dm
                .load(name.into(), std::slice::from_ref(old), access)
                .and_then(|_| dm.resume(name.into(), how));
            match restored {
                Ok(_) => Err(first),
                Err(source) => Err(Error::LeftSuspended {
                    device: name.clone(),
                    first: Some(Box::new(first)),
                    source: Box::new(source),
                }),
            }
        }
    }
}

fn refused(op: &'static str, name: &DmName, target: &Target, source: thinlayer_dm::Error) -> Error {
    match source.kind() {
        Kind::Permission | Kind::Absent => Error::call(op, name, source),
        _ => Error::TableRefused {
            op,
            device: name.clone(),
            table: format!("{} {} {} {}", target.start.0, target.len.0, target.kind, target.params),
            source: Box::new(source),
        },
    }
}

/// The one target of a device of ours.
pub(crate) fn only_target<'a>(
    device: &DmName,
    wanted: &'static str,
    targets: &'a [Target],
) -> Result<&'a Target> {
    match targets {
        [] => Err(Error::Unfinished { device: device.clone() }),
        [target] if target.kind == wanted => Ok(target),
        others => {
            let kinds: Vec<&str> = others.iter().map(|target| target.kind.as_str()).collect();
            Err(Error::WrongTarget { device: device.clone(), wanted, found: kinds.join(", ") })
        }
    }
}
