//! A thin pool of LVM's: its name, what LVM knows of it, and making it a device.

use super::report::{Row, report};
use super::{Programs, must};
use crate::error::{Error, Result};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;
use thinlayer_dm::{Bytes, DmName, DmUuid};

/// The volume group that direct-lvm makes.
pub const DOCKER_GROUP: &str = "docker";
/// The pool in it.
pub const DOCKER_POOL: &str = "thinpool";
/// The volume group that direct-lvm of containers/storage (Podman, Buildah) makes; the pool in it has Docker's name.
const STORAGE_GROUP: &str = "storage";

/// How the UUID of every device of LVM's begins.
const UUID_PREFIX: &str = "LVM-";
/// LVM writes its ids in groups of so many characters.
const UUID_GROUPS: [usize; 7] = [6, 4, 4, 4, 4, 4, 6];
/// Characters of an id.
const UUID_CHARACTERS: usize = 32;

/// A logical volume that is a thin pool, by its volume group's name and its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolVolume {
    group: String,
    volume: String,
}

impl PoolVolume {
    /// Checks both names: letters, digits and `+_.-`, no leading hyphen, as LVM has it.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`].
    pub fn new(group: impl Into<String>, volume: impl Into<String>) -> Result<Self> {
        let (group, volume) = (group.into(), volume.into());
        if is_name(&group) && is_name(&volume) {
            return Ok(Self { group, volume });
        }
        Err(Error::Unfit {
            path: PathBuf::from(format!("{group}/{volume}")),
            why: "this is no name of a logical volume: GROUP/VOLUME of letters, digits and +_.- is".into(),
        })
    }

    /// The pool that direct-lvm makes: `docker/thinpool`.
    pub fn docker() -> Self {
        Self { group: DOCKER_GROUP.to_owned(), volume: DOCKER_POOL.to_owned() }
    }

    /// The pool that direct-lvm of containers/storage makes: `storage/thinpool`.
    pub fn storage() -> Self {
        Self { group: STORAGE_GROUP.to_owned(), volume: DOCKER_POOL.to_owned() }
    }

    /// The volume whose device would have this name; LVM doubles hyphens within names and puts one between them.
    pub fn of_device(name: &DmName) -> Option<Self> {
        let name = name.as_str();
        let mut at = 0;
        while let Some(found) = name[at..].find('-') {
            let hyphen = at + found;
            if name[hyphen + 1..].starts_with('-') {
                at = hyphen + 2;
                continue;
            }
            let volume = &name[hyphen + 1..];
            let plain = volume.replace("--", "");
            if plain.contains('-') {
                return None;
            }
            return Self::new(name[..hyphen].replace("--", "-"), volume.replace("--", "-")).ok();
        }
        None
    }

    /// The volume group's name.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// The logical volume's name.
    pub fn volume(&self) -> &str {
        &self.volume
    }

    /// The name of its device-mapper device.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] if the names are too long for one.
    pub fn device_name(&self) -> Result<DmName> {
        let name = format!("{}-{}", self.group.replace('-', "--"), self.volume.replace('-', "--"));
        DmName::new(name).map_err(|error| self.unfit(error.to_string()))
    }

    pub(super) fn unfit(&self, why: impl Into<String>) -> Error {
        Error::Unfit { path: PathBuf::from("/dev").join(&self.group).join(&self.volume), why: why.into() }
    }
}

impl fmt::Display for PoolVolume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.group, self.volume)
    }
}

fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"+_.-".contains(&byte);
    !text.is_empty() && !text.starts_with('-') && text.bytes().all(allowed) && text != "." && text != ".."
}

/// What LVM knows of a thin pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolFacts {
    /// Its name.
    pub volume: PoolVolume,
    /// The volume group's id, as LVM writes it.
    pub group_uuid: String,
    /// The volume's id.
    pub uuid: String,
    /// Its device is there.
    pub active: bool,
    /// Size of its data.
    pub data: Bytes,
    /// Size of its metadata.
    pub metadata: Bytes,
    /// Its block.
    pub chunk: Bytes,
    /// New blocks are zeroed.
    pub zero: bool,
    /// The metadata profile that it has; empty without one.
    pub profile: String,
    /// Thin volumes of LVM's own in it.
    pub thin_volumes: u64,
    /// The transaction id that LVM's metadata hold; the kernel's may be another.
    pub transaction_id: u64,
    /// dmeventd watches it: LVM extends it as its configuration or profile say, and nobody else needs to.
    pub monitored: bool,
}

const FIELDS: &[&str] = &[
    "vg_name",
    "vg_uuid",
    "lv_name",
    "lv_uuid",
    "lv_active",
    "lv_size",
    "lv_metadata_size",
    "lv_profile",
    "segtype",
    "chunk_size",
    "zero",
    "thin_count",
    "transaction_id",
    "seg_monitor",
];

impl PoolFacts {
    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            // Volumes that LVM made for itself stand in brackets; a pool may be one (below a cache, for one).
            volume: PoolVolume::new(row.text("vg_name"), row.text("lv_name").trim_matches(['[', ']']))?,
            group_uuid: row.text("vg_uuid").to_owned(),
            uuid: row.text("lv_uuid").to_owned(),
            active: row.text("lv_active").starts_with("active"),
            data: row.bytes("lv_size")?,
            metadata: row.bytes("lv_metadata_size")?,
            chunk: row.bytes("chunk_size")?,
            zero: row.text("zero") == "zero",
            profile: row.text("lv_profile").to_owned(),
            thin_volumes: row.number("thin_count")?,
            transaction_id: row.number("transaction_id")?,
            monitored: row.text("seg_monitor") == "monitored",
        })
    }

    /// Is this the pool behind a device with this UUID?
    pub fn is_device(&self, uuid: &DmUuid) -> bool {
        ids(uuid).is_some_and(|(group, volume)| group == self.group_uuid && volume == self.uuid)
    }

    /// May somebody else keep thin devices in it and move its transaction id, as a graph driver does?
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] where LVM has thin volumes in it, or had: it then counts transactions itself, and refuses to
    /// activate a pool whose number somebody else has moved.
    pub fn check_shared(&self) -> Result<()> {
        const ADVICE: &str = "give thinlayer a thin pool of its own: lvcreate --type thin-pool";
        let Self { volume, thin_volumes, transaction_id, .. } = self;
        if *thin_volumes > 0 {
            let has = if *thin_volumes == 1 { "a thin volume" } else { "thin volumes" };
            return Err(volume.unfit(format!(
                "LVM keeps {has} of its own ({thin_volumes}) in this pool and counts its transactions, so layers beside them would break both; {ADVICE}"
            )));
        }
        if *transaction_id > 0 {
            return Err(volume.unfit(format!(
                "LVM has had thin volumes in this pool and expects transaction id {transaction_id}; layers would move it, and LVM would not activate the pool again; {ADVICE}"
            )));
        }
        Ok(())
    }
}

/// Both ids in the UUID of a device of LVM's, as LVM writes them: the volume group's and the volume's. `None`: it is not LVM's.
fn ids(uuid: &DmUuid) -> Option<(String, String)> {
    let text = uuid.as_str().strip_prefix(UUID_PREFIX)?;
    let (ids, rest) = text.split_at_checked(2 * UUID_CHARACTERS)?;
    let alphanumeric = ids.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if !alphanumeric || !(rest.is_empty() || rest.starts_with('-')) {
        return None;
    }
    let (group, volume) = ids.split_at(UUID_CHARACTERS);
    Some((grouped(group), grouped(volume)))
}

/// Is a device with this UUID one of LVM's?
pub fn is_lvm(uuid: &DmUuid) -> bool {
    ids(uuid).is_some()
}

/// An id as LVM writes it.
pub(super) fn grouped(id: &str) -> String {
    let mut rest = id;
    let mut parts = Vec::with_capacity(UUID_GROUPS.len());
    for length in UUID_GROUPS {
        let (part, after) = rest.split_at_checked(length).unwrap_or((rest, ""));
        parts.push(part);
        rest = after;
    }
    parts.join("-")
}

/// What LVM knows of a pool by its name; `None` if it knows no such volume.
///
/// # Errors
/// [`crate::ErrorKind::Invalid`] if the volume is no thin pool; otherwise what `lvs` says.
pub fn look(programs: &dyn Programs, pool: &PoolVolume, deadline: Duration) -> Result<Option<PoolFacts>> {
    let select = format!("vg_name=\"{}\" && lv_name=\"{}\"", pool.group, pool.volume);
    find(programs, &select, deadline)
}

/// What LVM knows of the pool behind a device, by the device's UUID; `None` if the device is not LVM's, or LVM does not see it.
///
/// # Errors
/// As [`look`].
pub fn look_by_device(
    programs: &dyn Programs,
    uuid: &DmUuid,
    deadline: Duration,
) -> Result<Option<PoolFacts>> {
    let Some((group, volume)) = ids(uuid) else { return Ok(None) };
    find(programs, &format!("vg_uuid=\"{group}\" && lv_uuid=\"{volume}\""), deadline)
}

fn find(programs: &dyn Programs, select: &str, deadline: Duration) -> Result<Option<PoolFacts>> {
    let rows = report(programs, "lvs", FIELDS, Some(select), deadline)?;
    let Some(row) = rows.first() else { return Ok(None) };
    let facts = PoolFacts::from_row(row)?;
    match row.text("segtype") {
        "thin-pool" => Ok(Some(facts)),
        other => {
            Err(facts.volume.unfit(format!("this is a logical volume of type {other}, and no thin pool")))
        }
    }
}

/// Makes a pool's device, which after a reboot may not be there yet. Nothing happens to one that is active.
///
/// # Errors
/// What LVM says.
pub fn activate(programs: &dyn Programs, pool: &PoolVolume, deadline: Duration) -> Result<()> {
    must(programs, "lvchange", &["--activate", "y", &pool.to_string()], deadline).map(drop)
}

#[cfg(test)]
mod tests;
