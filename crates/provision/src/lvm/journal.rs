//! What a set-up is about to do, on disk before it does it: `ROOT/thinlayer/direct-lvm.json`.

use super::config::SetupConfig;
use crate::error::{Error, Result};
use crate::file::{errno, failed};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use std::path::Path;

/// Where it lies below a root.
pub const JOURNAL_FILE: &str = "thinlayer/direct-lvm.json";
const VERSION: u32 = 1;

/// The root's folder, as far as a set-up writes there.
pub trait RootFiles: fmt::Debug {
    /// A file's content; `None` if there is no such file.
    ///
    /// # Errors
    /// Any of the file system's.
    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>>;

    /// Gives a file new content in one step (mode 0600), and makes folders above it; durable when it returns.
    ///
    /// # Errors
    /// Any of the file system's; the file is then as it was.
    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()>;

    /// Removes a file, if there is one; durable when it returns.
    ///
    /// # Errors
    /// Any of the file system's.
    fn remove(&self, path: &Path) -> io::Result<()>;
}

/// The steps of a set-up, in their order. A step is in the journal before anything of it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Step {
    /// The device becomes a physical volume.
    PhysicalVolume,
    /// It becomes a volume group.
    VolumeGroup,
    /// The logical volume for data.
    Data,
    /// The logical volume for metadata.
    Metadata,
    /// Both become a pool.
    Convert,
    /// The pool gets its profile.
    Profile,
    /// `setup-config.json`.
    Config,
}

/// A disk, by what does not change while it is looked at again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    /// `major:minor`. Another one after a reboot is no other disk.
    pub(super) number: String,
    /// Size in bytes.
    pub(super) size: u64,
    /// Serial number or world-wide name, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) serial: Option<String>,
}

impl Identity {
    /// Can both be the same disk? Before a physical volume is on it nothing better tells.
    pub(super) fn may_be(&self, other: &Self) -> bool {
        self.size == other.size && self.serial == other.serial
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} bytes", self.number, self.size)?;
        self.serial.as_ref().map_or(Ok(()), |serial| write!(f, ", serial number {serial}"))
    }
}

/// A set-up that was begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Journal {
    pub(super) version: u32,
    /// What was asked for.
    pub(super) config: SetupConfig,
    /// The disk.
    pub(super) disk: Identity,
    /// The id of the physical volume: chosen before it is made, so that what carries it is ours.
    pub(super) physical_volume: String,
    /// The volume group's id, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) volume_group: Option<String>,
    /// The step that is under way.
    pub(super) step: Step,
}

impl Journal {
    pub(super) fn new(config: SetupConfig, disk: Identity, physical_volume: String) -> Self {
        Self {
            version: VERSION,
            config,
            disk,
            physical_volume,
            volume_group: None,
            step: Step::PhysicalVolume,
        }
    }

    pub(super) fn read(files: &dyn RootFiles) -> Result<Option<Self>> {
        let path = Path::new(JOURNAL_FILE);
        let content = files.read(path).map_err(|error| failed("read", path, errno(&error)))?;
        let Some(content) = content.filter(|content| !content.is_empty()) else { return Ok(None) };
        let unfit = |why: String| Error::Unfit { path: path.to_owned(), why };
        let journal: Self = serde_json::from_slice(&content).map_err(|error| {
            unfit(format!("the journal of an interrupted direct-lvm set-up cannot be read ({error}); nothing was changed; look at the volume group docker, remove what is left of it, then this file"))
        })?;
        if journal.version != VERSION {
            return Err(unfit(format!(
                "the journal of an interrupted direct-lvm set-up has version {}, and this thinlayer knows {VERSION}; finish it with the one that began it",
                journal.version
            )));
        }
        Ok(Some(journal))
    }

    pub(super) fn write(&self, files: &dyn RootFiles) -> Result<()> {
        let path = Path::new(JOURNAL_FILE);
        let mut content = serde_json::to_vec_pretty(self).unwrap_or_default();
        content.push(b'\n');
        files.replace(path, &content).map_err(|error| failed("write", path, errno(&error)))
    }

    pub(super) fn remove(files: &dyn RootFiles) -> Result<()> {
        let path = Path::new(JOURNAL_FILE);
        files.remove(path).map_err(|error| failed("remove", path, errno(&error)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_survives_its_file() {
        let disk = Identity { number: "8:16".into(), size: 1 << 40, serial: Some("S3R1AL".into()) };
        let journal = Journal {
            volume_group: Some("yKVqeC".into()),
            step: Step::Convert,
            ..Journal::new(SetupConfig::default(), disk.clone(), "uBJfwU".into())
        };
        let text = serde_json::to_string(&journal).unwrap();
        assert!(text.contains("\"convert\"") && text.contains("8:16"), "{text}");
        assert_eq!(serde_json::from_str::<Journal>(&text).unwrap(), journal);
        assert!(disk.may_be(&Identity { number: "8:32".into(), ..disk.clone() }));
        assert!(!disk.may_be(&Identity { serial: None, ..disk.clone() }));
        assert!(!disk.may_be(&Identity { size: 1, ..disk.clone() }));
    }
}
