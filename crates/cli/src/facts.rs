//! Layers, status and checks as JSON shows them and as they travel between `serve` and the other commands.
//!
//! Every field is a promise of `docs/json.md`.

use crate::failure::one_line;
use crate::render::time::rfc3339;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use thinlayer_graphdriver::{CheckReport, Growable, LayerInfo, Outcome, Parent, Reading, Status};

/// A path: text, or an array of bytes where it is not UTF-8.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum PathText {
    /// UTF-8.
    Text(String),
    /// Anything else.
    Bytes(Vec<u8>),
}

impl PathText {
    /// The path itself.
    pub(crate) fn to_path(&self) -> PathBuf {
        match self {
            Self::Text(text) => text.into(),
            Self::Bytes(bytes) => OsString::from_vec(bytes.clone()).into(),
        }
    }

    /// For people: without what could move a terminal's cursor.
    pub(crate) fn shown(&self) -> String {
        one_line(&self.to_path().display().to_string())
    }
}

impl From<&Path> for PathText {
    fn from(path: &Path) -> Self {
        let text: &OsStr = path.as_os_str();
        text.to_str()
            .map_or_else(|| Self::Bytes(text.as_bytes().to_vec()), |text| Self::Text(text.to_owned()))
    }
}

/// What is known of a layer's parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ParentState {
    /// The layer was made empty.
    None,
    /// It was made as a copy of the layer in `parent`.
    Layer,
    /// The record does not say: Docker's do not.
    Unknown,
}

/// One layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerFacts {
    /// Its id.
    pub(crate) id: String,
    /// Its parent's id, if it has one that is known.
    pub(crate) parent: Option<String>,
    /// What is known of the parent.
    pub(crate) parent_state: ParentState,
    /// Bytes.
    pub(crate) size: u64,
    /// `ext4` or `xfs`, where known.
    pub(crate) filesystem: Option<String>,
    /// RFC 3339 in UTC, where known.
    pub(crate) created: Option<String>,
    /// Where its tree is, while it is mounted.
    pub(crate) mounted_at: Option<PathText>,
    /// How many use it.
    pub(crate) uses: u32,
    /// The thin device's number in the pool.
    pub(crate) device_id: u32,
    /// The device-mapper name.
    pub(crate) device_name: String,
    /// The pool's transaction under which it was made.
    pub(crate) transaction_id: u64,
    /// What clients wrote on it.
    pub(crate) labels: BTreeMap<String, String>,
}

impl From<&LayerInfo> for LayerFacts {
    fn from(layer: &LayerInfo) -> Self {
        let (parent, parent_state) = match &layer.parent {
            Parent::None => (None, ParentState::None),
            Parent::Layer(id) => (Some(id.to_string()), ParentState::Layer),
            Parent::Unknown => (None, ParentState::Unknown),
        };
        Self {
            id: layer.id.to_string(),
            parent,
            parent_state,
            size: layer.size.0,
            filesystem: layer.filesystem.clone(),
            created: layer.created.map(rfc3339),
            mounted_at: layer.mounted_at.as_deref().map(PathText::from),
            uses: layer.uses,
            device_id: layer.device_id,
            device_name: layer.device_name.clone(),
            transaction_id: layer.transaction_id,
            labels: layer.record.extra.as_ref().map(|extra| extra.labels.clone()).unwrap_or_default(),
        }
    }
}

/// Room, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Room {
    /// In use.
    pub(crate) used: u64,
    /// In all.
    pub(crate) total: u64,
    /// What can still be had.
    pub(crate) available: u64,
}

/// Can one of the pool's devices become larger by itself?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GrowableFacts {
    /// It can, this moment.
    pub(crate) possible: bool,
    /// Why not.
    pub(crate) why_not: Option<String>,
}

impl From<Growable> for GrowableFacts {
    fn from(growable: Growable) -> Self {
        Self { possible: growable.possible, why_not: growable.why_not.map(|text| one_line(&text)) }
    }
}

/// How the pool grows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GrowthFacts {
    /// It grows by itself at all.
    pub(crate) automatic: bool,
    /// From so many percent in use on.
    pub(crate) threshold: u8,
    /// By so many percent of its size.
    pub(crate) percent: u8,
    /// Its data.
    pub(crate) data: GrowableFacts,
    /// Its metadata.
    pub(crate) metadata: GrowableFacts,
    /// Bytes kept beside the metadata for removals.
    pub(crate) metadata_reserve: u64,
}

/// The pool's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StatusFacts {
    /// Docker's rows.
    pub(crate) rows: Vec<(String, String)>,
    /// The pool's name.
    pub(crate) pool_name: String,
    /// The pool's block, in bytes.
    pub(crate) block_size: u64,
    /// Room for data.
    pub(crate) data: Room,
    /// Room for metadata.
    pub(crate) metadata: Room,
    /// The pool's transaction id.
    pub(crate) transaction_id: u64,
    /// What is wrong with the pool and what to do.
    pub(crate) trouble: Option<String>,
    /// The same in one word.
    pub(crate) condition: String,
    /// How the pool grows.
    pub(crate) growth: GrowthFacts,
    /// Layers, without the base.
    pub(crate) layers: usize,
    /// Removed layers whose blocks are still in the pool.
    pub(crate) deferred: usize,
    /// The base's file system.
    pub(crate) filesystem: String,
    /// The pool is on loop devices.
    pub(crate) loop_backed: bool,
}

impl From<Status> for StatusFacts {
    fn from(status: Status) -> Self {
        Self {
            rows: status.rows,
            pool_name: status.pool_name,
            block_size: status.block_size.0,
            data: Room {
                used: status.data_used.0,
                total: status.data_total.0,
                available: status.data_available.0,
            },
            metadata: Room {
                used: status.metadata_used.0,
                total: status.metadata_total.0,
                available: status.metadata_total.0.saturating_sub(status.metadata_used.0),
            },
            transaction_id: status.transaction_id,
            trouble: status.trouble.map(|text| one_line(&text)),
            condition: status.condition.as_str().to_owned(),
            growth: GrowthFacts {
                automatic: status.extend.is_on(),
                threshold: status.extend.threshold,
                percent: status.extend.percent,
                data: status.data_growth.into(),
                metadata: status.metadata_growth.into(),
                metadata_reserve: status.metadata_reserve.0,
            },
            layers: status.layers,
            deferred: status.deferred,
            filesystem: status.filesystem,
            loop_backed: status.loop_backed,
        }
    }
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FindingFacts {
    /// Its class.
    pub(crate) kind: String,
    /// What it is about.
    pub(crate) subject: String,
    /// What is wrong and what to do.
    pub(crate) text: String,
    /// What `check --repair` does about it, if anything.
    pub(crate) mend: Option<String>,
}

/// How a step of a repair went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RepairOutcome {
    /// It is done.
    Done,
    /// It failed.
    Failed,
    /// It would be done without `--dry-run`.
    Planned,
}

/// One step of a repair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RepairFacts {
    /// What it is about.
    pub(crate) subject: String,
    /// What was done.
    pub(crate) text: String,
    /// How it went.
    pub(crate) outcome: RepairOutcome,
}

/// How many of each were looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LookedAt {
    /// Records.
    pub(crate) records: usize,
    /// Active devices.
    pub(crate) devices: usize,
    /// Mounts.
    pub(crate) mounts: usize,
    /// Thin devices in the pool's own metadata, if that was read.
    pub(crate) thin_devices: Option<usize>,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CheckFacts {
    /// Empty: all agree.
    pub(crate) findings: Vec<FindingFacts>,
    /// What a repair did, or would do.
    pub(crate) repairs: Vec<RepairFacts>,
    /// Removed layers whose blocks are still in the pool, which is normal.
    pub(crate) deferred: usize,
    /// Thin devices that no record names, in a pool that others may use too.
    pub(crate) unnamed_thin_devices: Vec<u32>,
    /// How the pool's own metadata was read: `offline`, `snapshot`, or not.
    pub(crate) metadata: Option<String>,
    /// How much was compared.
    pub(crate) looked_at: LookedAt,
}

impl From<CheckReport> for CheckFacts {
    fn from(report: CheckReport) -> Self {
        let looked_at = LookedAt {
            records: report.records,
            devices: report.devices,
            mounts: report.mounts,
            thin_devices: report.thin_devices,
        };
        let repairs = report
            .repairs
            .into_iter()
            .map(|repair| RepairFacts {
                subject: one_line(&repair.subject),
                text: one_line(&repair.text),
                outcome: match repair.outcome {
                    Outcome::Done => RepairOutcome::Done,
                    Outcome::Failed => RepairOutcome::Failed,
                    Outcome::Planned => RepairOutcome::Planned,
                },
            })
            .collect();
        let metadata = report.reading.map(|reading| match reading {
            Reading::Offline => "offline".to_owned(),
            Reading::Snapshot => "snapshot".to_owned(),
        });
        let findings = report
            .findings
            .into_iter()
            .map(|finding| FindingFacts {
                mend: finding.mend().map(|text| one_line(&text)),
                kind: finding.kind.to_owned(),
                subject: one_line(&finding.subject),
                text: one_line(&finding.text),
            })
            .collect();
        Self {
            findings,
            repairs,
            deferred: report.deferred,
            unnamed_thin_devices: report.unnamed,
            metadata,
            looked_at,
        }
    }
}

#[cfg(test)]
pub(crate) mod samples {
    //! Facts for tests.

    use super::*;

    /// A layer on a parent, or with an unknown one for `?`, or with none.
    pub(crate) fn layer(id: &str, parent: Option<&str>) -> LayerFacts {
        let (parent, parent_state) = match parent {
            None => (None, ParentState::None),
            Some("?") => (None, ParentState::Unknown),
            Some(parent) => (Some(parent.to_owned()), ParentState::Layer),
        };
        LayerFacts {
            id: id.to_owned(),
            parent,
            parent_state,
            size: 10 << 30,
            filesystem: Some("ext4".to_owned()),
            created: Some("2025-01-31T12:00:00Z".to_owned()),
            mounted_at: None,
            uses: 0,
            device_id: 7,
            device_name: format!("docker-253:1-4711-{id}"),
            transaction_id: 12,
            labels: BTreeMap::new(),
        }
    }

    /// A healthy pool.
    pub(crate) fn status() -> StatusFacts {
        StatusFacts {
            rows: vec![
                ("Pool Name".into(), "docker-253:1-4711-pool".into()),
                ("Pool Blocksize".into(), "65.54kB".into()),
            ],
            pool_name: "docker-253:1-4711-pool".into(),
            block_size: 65_536,
            data: Room { used: 1, total: 3, available: 2 },
            metadata: Room { used: 1, total: 3, available: 2 },
            transaction_id: 4,
            trouble: None,
            condition: "good".into(),
            growth: GrowthFacts {
                automatic: true,
                threshold: 80,
                percent: 20,
                data: GrowableFacts { possible: true, why_not: None },
                metadata: GrowableFacts { possible: true, why_not: None },
                metadata_reserve: 4 << 20,
            },
            layers: 3,
            deferred: 0,
            filesystem: "ext4".into(),
            loop_backed: true,
        }
    }

    /// One finding.
    pub(crate) fn check() -> CheckFacts {
        CheckFacts {
            findings: vec![FindingFacts {
                kind: "orphan-device".into(),
                subject: "docker-x".into(),
                text: "it is active".into(),
                mend: Some("deactivate docker-x".into()),
            }],
            repairs: vec![RepairFacts {
                subject: "docker-x".into(),
                text: "deactivate docker-x".into(),
                outcome: RepairOutcome::Planned,
            }],
            deferred: 0,
            unnamed_thin_devices: vec![],
            metadata: Some("snapshot".into()),
            looked_at: LookedAt { records: 2, devices: 1, mounts: 0, thin_devices: Some(2) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_survive_json_whatever_their_bytes() {
        for bytes in [b"/a/b".to_vec(), b"/a/\xff\xfe".to_vec(), "/größe".as_bytes().to_vec()] {
            let path = PathBuf::from(OsString::from_vec(bytes));
            let text = serde_json::to_string(&PathText::from(path.as_path())).unwrap();
            assert_eq!(serde_json::from_str::<PathText>(&text).unwrap().to_path(), path, "{text}");
        }
    }
}
