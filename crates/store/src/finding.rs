//! What opening a store found out of order: [`Finding`].

use crate::{DeviceId, LayerId};
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

/// Something out of order that did not stop the start, and what was done about it. Paths are relative to the root.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finding {
    /// A record that is no record.
    DamagedRecord {
        /// The layer.
        layer: LayerId,
        /// What is wrong with it.
        why: String,
        /// Where it is now.
        now_at: PathBuf,
    },
    /// A file in `metadata/` whose name no layer can have.
    UnusableName {
        /// The name.
        name: OsString,
        /// The thin device that it names, if it is a record; it is never given out or deleted.
        device_id: Option<DeviceId>,
    },
    /// Several records name one device; none of them may delete it.
    DuplicateDeviceId {
        /// The device.
        device_id: DeviceId,
        /// Whose records.
        layers: Vec<LayerId>,
    },
    /// A folder in `metadata/`, which stops Docker's start, but not ours.
    Folder {
        /// Which.
        path: PathBuf,
    },
    /// What an interrupted write of Docker's left.
    DockerTemporary {
        /// Which.
        path: PathBuf,
    },
    /// What an interrupted write of ours left.
    OwnTemporary {
        /// Which.
        path: PathBuf,
        /// It was removed.
        removed: bool,
    },
    /// The transaction file says nothing readable, so what was open is not known.
    MalformedTransaction {
        /// What is wrong with it.
        why: String,
        /// Where a copy of it is; `None` if none could be made.
        copied_to: Option<PathBuf>,
    },
    /// The transaction file has no room of its own yet, because the disk is full: creating and removing need space until there is some.
    TransactionNotPreallocated,
    /// The device-set file is no such file; the base's UUID and type are unknown now.
    DamagedDeviceSet {
        /// What is wrong with it.
        why: String,
        /// Where it is now.
        now_at: PathBuf,
    },
    /// Records came out of Docker's one old file.
    Migrated {
        /// How many.
        records: usize,
    },
    /// One record in Docker's old file is no record.
    DamagedLegacyRecord {
        /// Its id, as it stands there.
        id: String,
        /// What is wrong with it.
        why: String,
        /// Where it is now.
        now_at: PathBuf,
    },
    /// A removed layer's record got a new name, so that its id is free; the device goes later.
    RenamedDeleted {
        /// Its id before.
        from: LayerId,
        /// Its id now.
        to: LayerId,
    },
    /// A file or folder could not be looked at or put in order; it is as it was.
    Untouched {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

impl Finding {
    /// It needs somebody's attention; the others only say what was put in order.
    pub fn is_problem(&self) -> bool {
        !matches!(
            self,
            Self::DockerTemporary { .. }
                | Self::OwnTemporary { .. }
                | Self::Migrated { .. }
                | Self::RenamedDeleted { .. }
        )
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DamagedRecord { layer, why, now_at } => {
                write!(f, "the record of layer {layer} is damaged ({why}); it is in {}", now_at.display())
            }
            Self::UnusableName { name, device_id: Some(id) } => {
                write!(f, "metadata/{} is no name for a layer; its thin device {id} is left alone", name.display())
            }
            Self::UnusableName { name, device_id: None } => {
                write!(f, "metadata/{} is no name for a layer and no record; it is left alone", name.display())
            }
            Self::DuplicateDeviceId { device_id, layers } => {
                let layers: Vec<String> = layers.iter().map(ToString::to_string).collect();
                write!(
                    f,
                    "thin device {device_id} is named by {} records ({}); it will not be deleted: find out whose it is and move the other records away",
                    layers.len(),
                    layers.join(", ")
                )
            }
            Self::Folder { path } => {
                write!(f, "{} is a folder, which stops Docker's start: move it away", path.display())
            }
            Self::DockerTemporary { path } => {
                write!(f, "{} is left from an interrupted write of Docker's; it may be deleted", path.display())
            }
            Self::OwnTemporary { path, removed } => {
                let done = if *removed { "was removed" } else { "goes at the next start" };
                write!(f, "{} was left from an interrupted write and {done}", path.display())
            }
            Self::MalformedTransaction { why, copied_to } => {
                write!(
                    f,
                    "metadata/transaction-metadata is damaged ({why}): what was under way, if anything, is not known; `check` finds devices without a record"
                )?;
                match copied_to {
                    Some(path) => write!(f, "; a copy is in {}", path.display()),
                    None => Ok(()),
                }
            }
            Self::TransactionNotPreallocated => f.write_str(
                "the disk is full and metadata/transaction-metadata has no room of its own yet: free some space before creating or removing layers",
            ),
            Self::DamagedDeviceSet { why, now_at } => write!(
                f,
                "metadata/deviceset-metadata is damaged ({why}), so the base's UUID is unknown; it is in {}",
                now_at.display()
            ),
            Self::Migrated { records } => {
                write!(f, "{records} records were taken out of Docker's old file devicemapper/json")
            }
            Self::DamagedLegacyRecord { id, why, now_at } => write!(
                f,
                "the record {} in Docker's old file is damaged ({why}); it is in {}",
                id.escape_debug(),
                now_at.display()
            ),
            Self::RenamedDeleted { from, to } => {
                write!(f, "the removed layer {from} is now called {to} until its device is deleted")
            }
            Self::Untouched { path, why } => write!(f, "{} is left as it is: {why}", path.display()),
        }
    }
}
