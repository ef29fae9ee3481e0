//! A pool that is LVM's: set up on one device (direct-lvm, section 2.6 of the specification), activated, and known to be nobody else's.

use crate::driver::Notice;
use crate::error::{Error, Result};
use crate::machine::{Family, Machine};
use crate::options::Options;
use crate::pool::Started;
use std::io;
use std::path::Path;
use std::sync::Arc;
use thinlayer_dm::DmName;
use thinlayer_provision::lvm::{
    self, PoolFacts, PoolVolume, RootFiles, SetupConfig, Workshop, forget_journal, set_up,
};
use thinlayer_store::{Disk, LayerId, Store};
use thinlayer_thin::Pool;

/// The root's disk as a set-up wants it.
#[derive(Debug)]
struct Files<'a>(&'a Arc<dyn Disk>);

impl Files<'_> {
    fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new(""));
        // Docker takes names that begin so for its own leftovers, and skips them.
        let temporary = folder.join(".tmp-thinlayer-lvm");
        if !folder.as_os_str().is_empty() {
            self.0.make_folder(folder)?;
            self.0.sync_folder(Path::new(""))?;
        }
        self.0.write(&temporary, content)?;
        self.0.sync_file(&temporary)?;
        self.0.rename(&temporary, path)?;
        self.0.sync_folder(folder)
    }
}

impl RootFiles for Files<'_> {
    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        match self.0.read(path) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.write(path, content)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match self.0.remove(path) {
            Ok(()) => self.0.sync_folder(path.parent().unwrap_or(Path::new(""))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// With what the root's pool was set up by direct-lvm, if it was.
pub(crate) fn stored(machine: &Machine) -> Result<Option<SetupConfig>> {
    Ok(lvm::stored(&Files(&machine.disk))?)
}

/// The pool that direct-lvm makes for such roots. Podman gives its own another name than Docker.
pub(crate) fn volume(family: Family) -> PoolVolume {
    match family {
        Family::Docker => PoolVolume::docker(),
        Family::Containers => PoolVolume::storage(),
    }
}

/// The pool that a root with these options has, where it is LVM's by set-up: `docker-thinpool`, or Podman's `storage-thinpool`.
pub(crate) fn pool_name(machine: &Machine, options: &Options) -> Result<Option<DmName>> {
    if options.thin_pool.is_some() {
        return Ok(None);
    }
    if options.direct_lvm.device.is_empty() && stored(machine)?.is_none() {
        return Ok(None);
    }
    Ok(Some(volume(machine.root.family).device_name()?))
}

/// Brings up the pool of direct-lvm, and sets it up first if that is asked for. `None`: this root's pool is of another kind.
///
/// What is stored wins over options that were lost: such a root never gets a loop pool beside the one it has (C5).
pub(crate) fn start(
    machine: &Machine,
    options: &Options,
    store: &Store,
    notices: &mut Vec<Notice>,
) -> Result<Option<Started>> {
    let pool = volume(machine.root.family);
    let name = pool.device_name()?;
    let wanted = Some(&options.direct_lvm).filter(|config| !config.device.is_empty());
    match (wanted, stored(machine)?) {
        (None, None) => return Ok(None),
        (Some(wanted), Some(stored)) => {
            if !wanted.agrees_with(&stored) {
                return Err(Error::Invalid {
                    what: format!(
                        "this root's pool was set up with {stored}, and {wanted} is asked for; nothing was changed; give the first, or none of these options"
                    ),
                });
            }
            forget_journal(&Files(&machine.disk))?;
        }
        (None, Some(stored)) => {
            if let Some(given) = other_pool(options, &name) {
                return Err(Error::Invalid {
                    what: format!(
                        "this root's pool is {name}, set up with {stored} (setup-config.json), and {given} is asked for; nothing was changed; drop that option"
                    ),
                });
            }
            // Named as what it is: the ordinary way takes it from here.
            if options.thin_pool.is_some() {
                return Ok(None);
            }
            notices.push(Notice::info(format!(
                "the pool is {name}, as setup-config.json says; it was set up with {stored}, which is not among the options"
            )));
            forget_journal(&Files(&machine.disk))?;
        }
        (Some(_), None) if machine.root.family == Family::Containers => {
            return Err(Error::Unsupported {
                what: "direct-lvm for a root of containers/storage".into(),
                advice: "let Podman set its pool up, or make one and name it with dm.thinpooldev".into(),
            });
        }
        (Some(wanted), None) => make(machine, options, wanted, store, notices)?,
    }
    let found = match Pool::open(machine.dm.clone(), &name)? {
        Some(found) => found,
        None => activated(machine, &pool, &name)?,
    };
    check_lvm(machine, &name, notices)?;
    Ok(Some(Started {
        pool: found,
        made: false,
        ours: false,
        proven: false,
        direct_lvm: true,
        larger: false,
    }))
}

/// An option that names another pool than the one that is stored.
fn other_pool(options: &Options, name: &DmName) -> Option<String> {
    if let Some(pool) = options.thin_pool.as_ref().filter(|pool| *pool != name) {
        return Some(format!("dm.thinpooldev={pool}"));
    }
    if options.thin_pool.is_some() {
        return None;
    }
    let device = |option: &str, path: &Option<std::path::PathBuf>| {
        path.as_ref().map(|path| format!("{option}={}", path.display()))
    };
    device("dm.datadev", &options.data_device).or_else(|| device("dm.metadatadev", &options.metadata_device))
}

fn make(
    machine: &Machine,
    options: &Options,
    wanted: &SetupConfig,
    store: &Store,
    notices: &mut Vec<Notice>,
) -> Result<()> {
    let counts = store.counts();
    let known = store.record_even_deleted(&LayerId::base()).is_some()
        || counts.layers + counts.hidden + counts.deleted + counts.damaged > 0;
    if known {
        return Err(Error::Invalid {
            what: format!(
                "{} has layers in another pool, and dm.directlvm_device={} would make a new one; nothing was changed; drop the option, or begin with an empty root",
                machine.root.path.display(),
                wanted.device
            ),
        });
    }
    let files = Files(&machine.disk);
    let workshop = Workshop {
        programs: &*machine.programs,
        backing: &*machine.backing,
        files: &files,
        deadline: machine.deadlines.lvm,
    };
    let done = set_up(workshop, wanted, options.direct_lvm_force)?;
    notices.push(Notice::info(format!(
        "{} pool {} on {}: {} for data, {} for metadata",
        if done.resumed { "finished making" } else { "made" },
        done.pool.volume,
        wanted.device,
        done.pool.data,
        done.pool.metadata
    )));
    Ok(())
}

/// After a reboot a pool may not be there before somebody asks for it.
fn activated(machine: &Machine, pool: &PoolVolume, name: &DmName) -> Result<Pool> {
    let activated = lvm::activate(&*machine.programs, pool, machine.deadlines.lvm);
    activated.map_err(|error| match error.kind() {
        thinlayer_provision::ErrorKind::Busy => Error::from(error),
        thinlayer_provision::ErrorKind::Unsupported => Error::Unsupported {
            what: format!("activating pool {name} of this root ({error})"),
            advice: format!("or activate it by hand: lvchange --activate y {pool}"),
        },
        _ => Error::Invalid {
            what: format!("this root's pool {name} is not active, and LVM does not activate it: {error}; see that its disk is there (pvs)"),
        },
    })?;
    Pool::open(machine.dm.clone(), name)?.ok_or_else(|| Error::Invalid {
        what: format!("LVM has activated {pool}, and there is no device {name}; see lvs --all"),
    })
}

/// How to bring up a pool that was named and is not there: LVM may have it inactive.
pub(crate) fn how_to_activate(machine: &Machine, name: &DmName) -> Option<String> {
    let volume = PoolVolume::of_device(name)?;
    let known = lvm::look(&*machine.programs, &volume, machine.deadlines.lvm).ok()??;
    Some(format!("LVM has it, and it is not active: lvchange --activate y {}", known.volume))
}

/// Refuses a pool in which LVM counts transactions itself (I8). `None`: the pool is not LVM's, or LVM cannot be asked.
pub(crate) fn check_lvm(
    machine: &Machine,
    name: &DmName,
    notices: &mut Vec<Notice>,
) -> Result<Option<PoolFacts>> {
    let Some(uuid) = machine.dm.info(name.into())?.and_then(|info| info.uuid) else { return Ok(None) };
    if !lvm::is_lvm(&uuid) {
        return Ok(None);
    }
    match lvm::look_by_device(&*machine.programs, &uuid, machine.deadlines.lvm) {
        Ok(Some(facts)) => {
            facts.check_shared()?;
            Ok(Some(facts))
        }
        Ok(None) => {
            notices.push(Notice::warning(format!(
                "pool {name} is LVM's, and LVM does not show it (a filter?): whether LVM has thin volumes in it is not known"
            )));
            Ok(None)
        }
        Err(error) if error.kind() == thinlayer_provision::ErrorKind::Unsupported => {
            notices.push(Notice::warning(format!(
                "pool {name} is LVM's, and LVM cannot be asked whether it has thin volumes in it: {error}"
            )));
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_engine_has_its_own_pool() {
        let name = |family| volume(family).device_name().unwrap();
        assert_eq!(name(Family::Docker).as_str(), "docker-thinpool");
        assert_eq!(name(Family::Containers).as_str(), "storage-thinpool");
    }
}
