//! Direct-lvm: one empty device becomes volume group `docker` with the thin pool `thinpool` in it (section 2.6 of the specification).
//!
//! The steps are Docker's, and end in the same pool. Each is written to a journal before it is done, and each begins by asking LVM what
//! is there: killed at any point and run again, a set-up goes on where it was.

use super::config::{CONFIG_FILE, SetupConfig};
use super::device::{Candidate, identity, probe, serial};
use super::journal::{Journal, RootFiles, Step};
use super::pool::{DOCKER_GROUP, DOCKER_POOL, PoolFacts, PoolVolume, activate, grouped, look};
use super::report::{Row, report};
use super::{Programs, missing, must};
use crate::backing::{Backing, BlockDevice};
use crate::error::{Error, Result};
use crate::file::{errno, failed};
use std::path::{Path, PathBuf};
use std::time::Duration;
use thinlayer_dm::Bytes;

/// The pool's profile, without the ending of its file.
pub const PROFILE: &str = "docker-thinpool";
/// The metadata's volume, until it is part of the pool.
const METADATA: &str = "thinpoolmeta";
/// The pool's block.
const CHUNK: Bytes = Bytes(512 << 10);
/// What a set-up runs. `blkid` and `lsblk` are used where they are.
const TOOLS: &[&str] =
    &["pvcreate", "vgcreate", "lvcreate", "lvconvert", "lvchange", "pvs", "vgs", "lvs", "thin_check"];

/// What a set-up works on.
#[derive(Clone, Copy, Debug)]
pub struct Workshop<'a> {
    /// LVM's programs.
    pub programs: &'a dyn Programs,
    /// The machine's block devices.
    pub backing: &'a dyn Backing,
    /// The root.
    pub files: &'a dyn RootFiles,
    /// How long each of the programs may take. About twenty are run.
    pub deadline: Duration,
}

/// What [`set_up`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetUp {
    /// The pool, active.
    pub pool: PoolFacts,
    /// An earlier set-up was interrupted, and this one went on where that one was.
    pub resumed: bool,
}

/// What is stored of an earlier set-up; `None` if there was none, or it did not come to its end.
///
/// # Errors
/// [`crate::ErrorKind::Invalid`] if the file cannot be understood.
pub fn stored(files: &dyn RootFiles) -> Result<Option<SetupConfig>> {
    let path = Path::new(CONFIG_FILE);
    let content = files.read(path).map_err(|error| failed("read", path, errno(&error)))?;
    SetupConfig::parse(content.as_deref().unwrap_or_default()).map_err(|why| Error::Unfit {
        path: path.to_owned(),
        why: format!(
            "it says how this root's pool was set up, and cannot be read ({why}); put it right, or name the pool with dm.thinpooldev={DOCKER_GROUP}-{DOCKER_POOL} after moving it away"
        ),
    })
}

/// Removes the journal of a set-up that has come to its end, which a crash may have left.
///
/// # Errors
/// If it cannot be removed.
pub fn forget_journal(files: &dyn RootFiles) -> Result<()> {
    Journal::remove(files)
}

/// Makes the pool `docker/thinpool` on a device, or goes on with it, and stores how. The pool is active afterwards.
///
/// `force` skips the check for an existing file system, and nothing else. To be called only where [`stored`] says that nothing is.
///
/// # Errors
/// [`crate::ErrorKind::Unsupported`] if programs are missing; [`crate::ErrorKind::Invalid`] or [`crate::ErrorKind::Busy`] for a device that is not
/// free, and another configuration than an interrupted set-up had: nothing was written then. Otherwise what a program says; the next call goes on.
///
/// # Privileges
/// `CAP_SYS_ADMIN`.
pub fn set_up(on: Workshop<'_>, config: &SetupConfig, force: bool) -> Result<SetUp> {
    let absent: Vec<&str> =
        TOOLS.iter().copied().filter(|program| on.programs.find(program).is_none()).collect();
    if !absent.is_empty() {
        return Err(missing(&absent));
    }
    let begun = Journal::read(on.files)?;
    if let Some(journal) = &begun
        && !config.agrees_with(&journal.config)
    {
        return Err(Error::Unfit {
            path: PathBuf::from(&config.device),
            why: format!(
                "a set-up with {} was interrupted, and this one is asked for with {config}; repeat the first options to finish it, or to begin anew remove volume group {DOCKER_GROUP} (vgremove), the physical volume (pvremove) and {}",
                journal.config,
                super::JOURNAL_FILE
            ),
        });
    }
    let path = Path::new(&config.device);
    let device = on.backing.inspect(path)?;
    // LVM knows the device by its own name for it, not by any link.
    let node = path.canonicalize().unwrap_or_else(|_| path.to_owned()).to_string_lossy().into_owned();
    let work = Work { on, config, force, path, node, device };
    let resumed = begun.is_some();
    let (mut journal, volume) = match begun {
        Some(journal) => work.resume(journal)?,
        None => (work.begin()?, None),
    };
    let pool = work.finish(&mut journal, volume)?;
    Ok(SetUp { pool, resumed })
}

struct Work<'a> {
    on: Workshop<'a>,
    config: &'a SetupConfig,
    force: bool,
    path: &'a Path,
    node: String,
    device: BlockDevice,
}

/// A physical volume that LVM sees.
#[derive(Clone, Debug)]
struct PhysicalVolume {
    uuid: String,
    group: String,
    number: String,
    name: String,
}

impl Work<'_> {
    /// Looks at a device that no set-up was begun on, and writes nothing but the journal.
    fn begin(&self) -> Result<Journal> {
        self.check_free()?;
        let id = random_id()?;
        let serial = serial(self.on.programs, &self.node, self.on.deadline);
        let journal = Journal::new(self.config.clone(), identity(&self.device, serial), id);
        journal.write(self.on.files)?;
        Ok(journal)
    }

    /// Finds the disk of a set-up that was begun, and the physical volume on it if that was made.
    fn resume(&self, mut journal: Journal) -> Result<(Journal, Option<PhysicalVolume>)> {
        let seen = self.physical_volumes()?;
        if let Some(ours) = seen.into_iter().find(|volume| volume.uuid == journal.physical_volume) {
            if ours.number == self.device.number.to_string() {
                return Ok((journal, Some(ours)));
            }
            return Err(self.unfit(format!(
                "an interrupted set-up was begun on a disk that is {} ({}) now, and this is {}; name that one (dm.directlvm_device)",
                ours.name, ours.number, self.device.number
            )));
        }
        let serial = serial(self.on.programs, &self.node, self.on.deadline);
        let now = identity(&self.device, serial);
        if journal.step > Step::PhysicalVolume {
            return Err(self.unfit(format!(
                "an interrupted set-up had made physical volume {} on {}, and LVM does not see it any more; bring that disk back, or to begin anew remove {}",
                journal.physical_volume,
                journal.disk,
                super::JOURNAL_FILE
            )));
        }
        if !now.may_be(&journal.disk) {
            return Err(self.unfit(format!(
                "an interrupted set-up was begun on {}, and this is {now}; bring that disk back, or to begin anew remove {}",
                journal.disk,
                super::JOURNAL_FILE
            )));
        }
        // Nothing of ours is on it, so it must be as free as at the beginning.
        if let Err(error) = self.check_free() {
            // But for the program of a killed set-up, which may have been at work until now.
            let ours = self.our_volume(&journal)?;
            return if ours.is_some() { Ok((journal, ours)) } else { Err(error) };
        }
        journal.disk = now;
        journal.write(self.on.files)?;
        Ok((journal, None))
    }

    fn check_free(&self) -> Result<()> {
        let seen = self.physical_volumes()?;
        let here = seen.iter().find(|volume| volume.number == self.device.number.to_string());
        let probed = probe(self.on.programs, &self.node, self.on.deadline)?;
        let candidate = Candidate {
            path: self.path,
            device: &self.device,
            group: here.map(|volume| volume.group.as_str()),
            probed: probed.as_deref(),
        };
        candidate.check(self.force)?;
        candidate.check_room(self.config)?;
        match self.groups()?.first() {
            None => Ok(()),
            Some(_) => Err(self.group_taken()),
        }
    }

    fn group_taken(&self) -> Error {
        self.unfit(format!(
            "there is a volume group {DOCKER_GROUP} already, on another device, and nothing was changed; rename it (vgrename {DOCKER_GROUP} NAME), or if its pool is the one that is wanted, name it: dm.thinpooldev={DOCKER_GROUP}-{DOCKER_POOL}"
        ))
    }

    /// All steps that are not done yet.
    fn finish(&self, journal: &mut Journal, volume: Option<PhysicalVolume>) -> Result<PoolFacts> {
        let group = match volume {
            Some(volume) => volume.group,
            None => {
                self.enter(journal, Step::PhysicalVolume)?;
                self.make(
                    "pvcreate",
                    &["-f", "--uuid", &journal.physical_volume, "--norestorefile", &self.node],
                    || Ok(self.our_volume(journal)?.is_some()),
                )?;
                String::new()
            }
        };
        self.volume_group(journal, &group)?;
        let there = self.volumes()?;
        if there.iter().any(is_pool) {
            self.made_by_us(journal, Step::Convert, DOCKER_POOL)?;
        } else {
            self.pool(journal, &there)?;
        }
        let pool = self.profile(journal)?;
        self.enter(journal, Step::Config)?;
        let path = Path::new(CONFIG_FILE);
        self.on
            .files
            .replace(path, self.config.to_json().as_bytes())
            .map_err(|error| failed("write", path, errno(&error)))?;
        Journal::remove(self.on.files)?;
        Ok(pool)
    }

    /// Writes what is about to be done.
    fn enter(&self, journal: &mut Journal, step: Step) -> Result<()> {
        if journal.step >= step {
            return Ok(());
        }
        journal.step = step;
        journal.write(self.on.files)
    }

    fn our_volume(&self, journal: &Journal) -> Result<Option<PhysicalVolume>> {
        Ok(self.physical_volumes()?.into_iter().find(|volume| volume.uuid == journal.physical_volume))
    }

    fn volume_group(&self, journal: &mut Journal, found: &str) -> Result<()> {
        match found {
            "" => {
                if !self.groups()?.is_empty() {
                    return Err(self.group_taken());
                }
                self.enter(journal, Step::VolumeGroup)?;
                self.make("vgcreate", &[DOCKER_GROUP, &self.node], || {
                    Ok(self.our_volume(journal)?.is_some_and(|volume| volume.group == DOCKER_GROUP))
                })?;
            }
            DOCKER_GROUP if journal.step >= Step::VolumeGroup => {}
            other => {
                return Err(self.unfit(format!(
                    "somebody else has put it into volume group {other} while direct-lvm was being set up; take it out again (vgremove {other}), or to begin anew remove {}",
                    super::JOURNAL_FILE
                )));
            }
        }
        let uuid = self.groups()?.first().map(|row| row.text("vg_uuid").to_owned()).unwrap_or_default();
        match &journal.volume_group {
            Some(known) if *known != uuid => Err(self.unfit(format!(
                "volume group {DOCKER_GROUP} is another one ({uuid}) than the interrupted set-up had made ({known}); to begin anew remove {}",
                super::JOURNAL_FILE
            ))),
            Some(_) => Ok(()),
            None => {
                journal.volume_group = Some(uuid);
                Ok(())
            }
        }
    }

    /// The two volumes become a pool.
    fn pool(&self, journal: &mut Journal, there: &[Row]) -> Result<()> {
        let has = |name: &str| there.iter().any(|row| row.text("lv_name") == name);
        for (step, name, percent) in [
            (Step::Data, DOCKER_POOL, self.config.data_percent()),
            (Step::Metadata, METADATA, self.config.metadata_percent()),
        ] {
            if has(name) {
                self.made_by_us(journal, step, name)?;
                continue;
            }
            self.enter(journal, step)?;
            let extents = format!("{percent}%VG");
            self.make(
                "lvcreate",
                &["--yes", "--wipesignatures", "y", "-n", name, DOCKER_GROUP, "--extents", &extents],
                || Ok(self.volumes()?.iter().any(|row| row.text("lv_name") == name)),
            )?;
        }
        self.enter(journal, Step::Convert)?;
        let (pool, metadata) = (PoolVolume::docker().to_string(), format!("{DOCKER_GROUP}/{METADATA}"));
        self.make(
            "lvconvert",
            &["-y", "--zero", "n", "-c", "512K", "--thinpool", &pool, "--poolmetadata", &metadata],
            || Ok(self.volumes()?.iter().any(is_pool)),
        )
    }

    /// A volume whose step was never begun is somebody else's.
    fn made_by_us(&self, journal: &Journal, step: Step, name: &str) -> Result<()> {
        if journal.step >= step {
            return Ok(());
        }
        Err(self.unfit(format!(
            "somebody else has made volume {DOCKER_GROUP}/{name} while direct-lvm was being set up; remove it (lvremove {DOCKER_GROUP}/{name}) and start again"
        )))
    }

    /// The profile, and the pool as it should be.
    fn profile(&self, journal: &mut Journal) -> Result<PoolFacts> {
        let pool = PoolVolume::docker();
        let found = || {
            look(self.on.programs, &pool, self.on.deadline)?
                .ok_or_else(|| pool.unfit("LVM does not show it after making it; see lvs --all"))
        };
        let facts = found()?;
        if facts.chunk != CHUNK || facts.zero || facts.thin_volumes > 0 || facts.transaction_id > 0 {
            return Err(pool.unfit(format!(
                "this is not the pool that direct-lvm makes: block {}, zeroing {}, {} thin volumes, transaction id {}; nothing more was changed",
                facts.chunk, facts.zero, facts.thin_volumes, facts.transaction_id
            )));
        }
        self.enter(journal, Step::Profile)?;
        self.on.programs.write_profile(PROFILE, &self.config.profile())?;
        if facts.profile != PROFILE {
            self.must("lvchange", &["--metadataprofile", PROFILE, &pool.to_string()])?;
        }
        if !facts.active {
            activate(self.on.programs, &pool, self.on.deadline)?;
        }
        if facts.profile == PROFILE && facts.active {
            return Ok(facts);
        }
        found()
    }

    fn physical_volumes(&self) -> Result<Vec<PhysicalVolume>> {
        const FIELDS: &[&str] = &["pv_name", "pv_uuid", "vg_name", "pv_major", "pv_minor"];
        let rows = report(self.on.programs, "pvs", FIELDS, None, self.on.deadline)?;
        let volume = |row: &Row| PhysicalVolume {
            uuid: row.text("pv_uuid").to_owned(),
            group: row.text("vg_name").to_owned(),
            number: format!("{}:{}", row.text("pv_major"), row.text("pv_minor")),
            name: row.text("pv_name").to_owned(),
        };
        Ok(rows.iter().map(volume).collect())
    }

    /// The volume groups of the name that direct-lvm uses.
    fn groups(&self) -> Result<Vec<Row>> {
        let select = format!("vg_name=\"{DOCKER_GROUP}\"");
        report(self.on.programs, "vgs", &["vg_name", "vg_uuid"], Some(&select), self.on.deadline)
    }

    fn volumes(&self) -> Result<Vec<Row>> {
        let select = format!("vg_name=\"{DOCKER_GROUP}\"");
        report(self.on.programs, "lvs", &["lv_name", "segtype"], Some(&select), self.on.deadline)
    }

    /// Runs a program that makes something. The one of a killed set-up may still be at work, and make it first: that serves as well.
    fn make(&self, program: &str, arguments: &[&str], is_there: impl Fn() -> Result<bool>) -> Result<()> {
        match self.must(program, arguments) {
            Err(refused @ Error::Program { .. }) => {
                if is_there()? {
                    Ok(())
                } else {
                    Err(refused)
                }
            }
            done => done,
        }
    }

    fn must(&self, program: &str, arguments: &[&str]) -> Result<()> {
        must(self.on.programs, program, arguments, self.on.deadline).map(drop)
    }

    fn unfit(&self, why: String) -> Error {
        Error::Unfit { path: self.path.to_owned(), why }
    }
}

/// Is this volume the pool already?
fn is_pool(row: &Row) -> bool {
    row.text("lv_name") == DOCKER_POOL && row.text("segtype") == "thin-pool"
}

/// A new id in LVM's form.
fn random_id() -> Result<String> {
    const CHARACTERS: &[u8; 62] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| Error::Unfit {
        path: "/dev/urandom".into(),
        why: format!("the kernel gives no random numbers: {error}"),
    })?;
    // A little more weight on the first characters does no harm.
    let id: String =
        bytes.iter().map(|byte| char::from(CHARACTERS[usize::from(*byte) % CHARACTERS.len()])).collect();
    Ok(grouped(&id))
}

#[cfg(test)]
mod tests;
