//! What a check found, and what a repair did about it.

use std::fmt;
use std::path::PathBuf;
use thinlayer_dm::{DeviceNumber, DmName};
use thinlayer_store::{DeviceId, LayerId};
use thinlayer_thin::MetaBlocks;

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckFinding {
    /// Its class, for programs: `pool-trouble`, `open-transaction`, ...
    pub kind: &'static str,
    /// What it is about: a layer, a device, a file.
    pub subject: String,
    /// What is wrong and what to do, for people.
    pub text: String,
    /// What a repair does about it; `None` where that is left to people.
    pub(crate) mend: Option<Mend>,
}

impl CheckFinding {
    /// What [`crate::Driver::repair`] would do about it, in words; `None` where that is left to people.
    pub fn mend(&self) -> Option<String> {
        self.mend.as_ref().map(ToString::to_string)
    }
}

/// What a repair can do. `Display` says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mend {
    /// An interrupted transaction is settled, as each start does it.
    Settle,
    /// An interrupted growth is completed.
    Grow(LayerId),
    /// A loop device on a file of this root that nobody uses is detached.
    Detach(DeviceNumber, PathBuf),
    /// An active device of this root that nobody uses is deactivated.
    Deactivate(DmName),
    /// An empty folder in the folder of mount points is removed.
    RemoveFolder(LayerId),
    /// Uses of a layer that is not mounted are forgotten.
    ForgetUses(LayerId),
    /// A record without a device is moved to quarantine.
    SetAside(LayerId, DeviceId),
    /// A thin device that no record names gets a record, so that it can be looked at and removed: the records may be an old copy, and it a layer.
    Recover {
        device_id: DeviceId,
        /// Bytes.
        size: u64,
        /// In which the device was made.
        transaction_id: u64,
    },
    /// A metadata snapshot of ours is released.
    Release(MetaBlocks),
}

impl fmt::Display for Mend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settle => f.write_str("finish or undo the interrupted operation"),
            Self::Grow(id) => write!(f, "grow the file system of layer {id} to the size of its device"),
            Self::Detach(_, node) => write!(f, "detach {}", node.display()),
            Self::Deactivate(name) => write!(f, "deactivate {name}"),
            Self::RemoveFolder(id) => write!(f, "remove the empty mount folder of {id}"),
            Self::ForgetUses(id) => write!(f, "forget the uses of layer {id}"),
            Self::SetAside(id, device_id) => {
                write!(
                    f,
                    "move the record of layer {id} (thin device {device_id}) to thinlayer/quarantine/without-device"
                )
            }
            Self::Recover { device_id, .. } => {
                write!(f, "make layer recovered-{device_id} of thin device {device_id}")
            }
            Self::Release(root) => write!(f, "release the metadata snapshot at block {}", root.0),
        }
    }
}

/// One step of a repair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// What it is about.
    pub subject: String,
    /// What was done, would be done, or why it could not be done; one line.
    pub text: String,
    /// How it went.
    pub outcome: Outcome,
}

/// How a step of a repair went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done.
    Done,
    /// It failed; nothing was changed by it.
    Failed,
    /// It was only to be told (`--dry-run`).
    Planned,
}

/// Where the pool's own metadata was read for a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// On the metadata device or file of a pool that is not active.
    Offline,
    /// Through a metadata snapshot of the active pool.
    Snapshot,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Nothing in here: store, pool and kernel agree.
    pub findings: Vec<CheckFinding>,
    /// What a repair did; empty for a check alone.
    pub repairs: Vec<Repair>,
    /// Records that were looked at.
    pub records: usize,
    /// Active devices that were looked at.
    pub devices: usize,
    /// Mounts that were looked at.
    pub mounts: usize,
    /// Removed layers whose blocks are still in the pool: a normal state, which ends by itself.
    pub deferred: usize,
    /// How the pool's own metadata was read; `None`: it was not.
    pub reading: Option<Reading>,
    /// Thin devices in the pool's metadata; `None`: it was not read.
    pub thin_devices: Option<usize>,
    /// Ids of thin devices that no record names, in a pool that others may use too: theirs, or left over. No finding.
    pub unnamed: Vec<u32>,
    /// The pool is such that nothing should be done on it before somebody has looked at it.
    pub(crate) hopeless: bool,
}

impl CheckReport {
    pub(crate) fn found(&mut self, kind: &'static str, subject: impl ToString, text: impl Into<String>) {
        self.findings.push(CheckFinding {
            kind,
            subject: subject.to_string(),
            text: text.into(),
            mend: None,
        });
    }

    pub(crate) fn mendable(
        &mut self,
        kind: &'static str,
        subject: impl ToString,
        text: impl Into<String>,
        mend: Mend,
    ) {
        self.found(kind, subject, text);
        if let Some(finding) = self.findings.last_mut() {
            finding.mend = Some(mend);
        }
    }

    pub(crate) fn has(&self, kind: &str) -> bool {
        self.findings.iter().any(|finding| finding.kind == kind)
    }

    /// The same with what a repair would do.
    #[must_use]
    pub fn planned(mut self) -> Self {
        let planned = |finding: &CheckFinding| {
            Some(Repair {
                subject: finding.subject.clone(),
                text: finding.mend()?,
                outcome: Outcome::Planned,
            })
        };
        self.repairs = self.findings.iter().filter_map(planned).collect();
        if self.deferred > 0 {
            self.repairs.push(Repair {
                subject: "removed layers".into(),
                text: format!("give back the blocks of {}", self.deferred),
                outcome: Outcome::Planned,
            });
        }
        self
    }
}
