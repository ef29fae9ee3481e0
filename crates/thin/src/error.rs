//! What went wrong with a pool or a thin device, on which one, and what to do about it.

use crate::quantity::{BlockSize, ThinId, TransactionId};
use std::fmt;
use std::time::Duration;
use thinlayer_dm::{DmName, Sectors};

/// The result of an operation on a pool.
pub type Result<T> = std::result::Result<T, Error>;

/// A table line, a status line, a message or a number that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot read the {what} {text:?}: {why}")]
pub struct ParseError {
    /// What it should have been.
    pub what: &'static str,
    /// The text as it was.
    pub text: String,
    /// What is wrong with it.
    pub why: String,
}

impl ParseError {
    pub(crate) fn new(what: &'static str, text: impl Into<String>, why: impl Into<String>) -> Self {
        Self { what, text: text.into(), why: why.into() }
    }
}

/// Who keeps a device or a thin id from being removed, as far as device-mapper knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holders {
    /// How many have the device open; `None` if that could not be seen.
    pub open_count: Option<u32>,
    /// Device-mapper devices whose tables stand on it (the first few).
    pub devices: Vec<DmName>,
}

impl fmt::Display for Holders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.devices.iter().map(DmName::as_str).collect();
        match (names.as_slice(), self.open_count) {
            ([], None | Some(0)) => f.write_str("something uses it for a moment; try again"),
            ([], Some(count)) => {
                write!(
                    f,
                    "it is open {count} times: unmount it, and close it in programs and other namespaces"
                )
            }
            (names, _) => write!(f, "deactivate what stands on it first: {}", names.join(", ")),
        }
    }
}

/// A failed operation on a pool or a thin device.
///
/// Callers branch on [`Error::kind`]; people read the text, which is one line: what, on which device, why, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Device-mapper refused a step, and there is no better word for it below.
    #[error("cannot {op} {device}: {source}")]
    DeviceMapper {
        /// What was to be done.
        op: &'static str,
        /// The pool or the device.
        device: DmName,
        /// What device-mapper said.
        #[source]
        source: Box<thinlayer_dm::Error>,
    },
    /// A name is taken by another device.
    #[error("cannot {op} {device}: a device of that name exists already; use it, or remove it first")]
    NameTaken {
        /// What was to be done.
        op: &'static str,
        /// The name.
        device: DmName,
        /// What device-mapper said.
        #[source]
        source: Box<thinlayer_dm::Error>,
    },
    /// There is no such device.
    #[error("cannot {op} {device}: there is no such device; activate it first")]
    NoSuchDevice {
        /// What was to be done.
        op: &'static str,
        /// The name.
        device: DmName,
        /// What device-mapper said.
        #[source]
        source: Box<thinlayer_dm::Error>,
    },
    /// The device is something else.
    #[error("{device} is no {wanted} device but {found}; choose another name, or remove that device")]
    WrongTarget {
        /// The device.
        device: DmName,
        /// The target that it should have: `thin-pool` or `thin`.
        wanted: &'static str,
        /// What its table holds, or which pool or thin id it stands for.
        found: String,
    },
    /// The device has no table in use: whoever was making it was interrupted.
    #[error("{device} has no table: making it was interrupted; remove it and make it again")]
    Unfinished {
        /// The device.
        device: DmName,
    },
    /// The kernel's answer, or a value, cannot be understood.
    #[error("{device}: {source}")]
    Malformed {
        /// The device.
        device: DmName,
        /// What cannot be read.
        #[source]
        source: ParseError,
    },
    /// The kernel refuses a table, when it is loaded or when it is taken into use.
    #[error(
        "cannot {op} {device}: the kernel refuses the table `{table}` ({source}); its log says why: a device that is missing, too small or in \
         use, another block size, or damaged metadata"
    )]
    TableRefused {
        /// What was to be done.
        op: &'static str,
        /// The pool or the device.
        device: DmName,
        /// The table's line.
        table: String,
        /// What device-mapper said.
        #[source]
        source: Box<thinlayer_dm::Error>,
    },
    /// In use: by mounts, programs, or other tables.
    #[error("cannot {op} {device}: it is busy{}: {holders}", after(.waited))]
    Busy {
        /// What was to be done, with the thin id where one is meant.
        op: String,
        /// The device or the pool.
        device: DmName,
        /// How long the operation tried again; zero for a single try.
        waited: Duration,
        /// Who holds it.
        holders: Holders,
        /// What device-mapper said.
        #[source]
        source: Box<thinlayer_dm::Error>,
    },
    /// The thin id exists already.
    #[error("thin id {id} exists already in pool {pool}; choose another")]
    IdTaken {
        /// The pool.
        pool: DmName,
        /// The id.
        id: ThinId,
        /// What device-mapper said.
        #[source]
        source: Box<thinlayer_dm::Error>,
    },
    /// There is no such thin id.
    #[error("pool {pool} has no thin id {id}; is it the right pool?")]
    NoSuchId {
        /// The pool.
        pool: DmName,
        /// The id.
        id: ThinId,
        /// What device-mapper said.
        #[source]
        source: Box<thinlayer_dm::Error>,
    },
    /// The pool's transaction id is not what the caller thinks.
    #[error(
        "the transaction id of pool {pool} is {} and not {expected}: somebody else works on the pool, or its records are older or newer than it",
        known(.actual)
    )]
    TransactionIdMismatch {
        /// The pool.
        pool: DmName,
        /// What the caller thought it was.
        expected: TransactionId,
        /// What it is, if that could be seen.
        actual: Option<TransactionId>,
        /// What device-mapper said.
        #[source]
        source: Box<thinlayer_dm::Error>,
    },
    /// Somebody holds a metadata snapshot already.
    #[error("pool {pool} has a metadata snapshot already; wait for who made it, or release it")]
    MetadataSnapHeld {
        /// The pool.
        pool: DmName,
        /// What device-mapper said.
        #[source]
        source: Box<thinlayer_dm::Error>,
    },
    /// Nobody holds a metadata snapshot.
    #[error("pool {pool} has no metadata snapshot to release")]
    NoMetadataSnap {
        /// The pool.
        pool: DmName,
        /// What device-mapper said.
        #[source]
        source: Box<thinlayer_dm::Error>,
    },
    /// The pool's metadata cannot be read.
    #[error(transparent)]
    Metadata(#[from] crate::metadata::Error),
    /// The pool's state does not allow it.
    #[error("cannot {op} pool {pool}: {trouble}")]
    PoolTrouble {
        /// What was to be done.
        op: String,
        /// The pool.
        pool: DmName,
        /// Its state, and so the reason.
        trouble: Trouble,
        /// What device-mapper said, where a call was refused.
        #[source]
        source: Option<Box<thinlayer_dm::Error>>,
    },
    /// The block size that is asked for is not the pool's.
    #[error(
        "pool {pool} has a block size of {active} and not {wanted}; it is fixed when a pool is made: ask for {active}, or make a new pool"
    )]
    BlockSizeMismatch {
        /// The pool.
        pool: DmName,
        /// What it has.
        active: BlockSize,
        /// What was asked for.
        wanted: BlockSize,
    },
    /// The pool stands on other devices than the ones asked for.
    #[error(
        "pool {pool} uses {active} for its {role} and not {wanted}; it belongs to somebody else, or the devices were set up again while it was active"
    )]
    OtherDevice {
        /// The pool.
        pool: DmName,
        /// `data` or `metadata`.
        role: &'static str,
        /// What it has.
        active: String,
        /// What was asked for.
        wanted: String,
    },
    /// Pools and thin devices only grow.
    #[error("{device} has {active} and cannot shrink to {wanted}")]
    Shrink {
        /// The pool or the device.
        device: DmName,
        /// Its length.
        active: Sectors,
        /// The length asked for.
        wanted: Sectors,
    },
    /// A device was suspended and could not be resumed: whoever writes to it hangs until somebody resumes it.
    #[error(
        "{device} is left suspended, as resuming it failed ({source}): run `dmsetup resume {device}`{}",
        before(.first)
    )]
    LeftSuspended {
        /// The device.
        device: DmName,
        /// What failed before, in between. `None`: the work itself was done.
        first: Option<Box<Error>>,
        /// What device-mapper said to the resume.
        #[source]
        source: Box<thinlayer_dm::Error>,
    },
    /// A step failed, and then also the undoing of what came before it.
    #[error("{first}; and {left} is left behind, as undoing failed: {undo}")]
    NotUndone {
        /// The first failure.
        #[source]
        first: Box<Error>,
        /// What is left.
        left: DmName,
        /// The failure of the undoing.
        undo: Box<thinlayer_dm::Error>,
    },
}

/// A state of a pool in which it refuses work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Trouble {
    /// The kernel marked the metadata as possibly damaged.
    NeedsCheck,
    /// No free metadata block is left.
    OutOfMetadata,
    /// No free data block is left.
    OutOfData,
    /// It was loaded read-only, or the kernel made it so after an error.
    ReadOnly,
    /// The kernel gave up on it.
    Failed,
    /// It refused although its state looks good.
    Unknown,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NeedsCheck => {
                "its metadata needs a check; take the pool down, run thin_check on the metadata device, and thin_repair if that finds \
                 damage (for a pool of LVM: lvconvert --repair)"
            }
            Self::OutOfMetadata => "it is out of metadata space; grow its metadata device",
            Self::OutOfData => "it is out of data space; grow its data device, or remove layers",
            Self::ReadOnly => {
                "it is read-only; if it was not loaded so, the kernel's log says why: reload it after mending the cause"
            }
            Self::Failed => {
                "the kernel has failed it; take it down, see the kernel's log, and run thin_check on the metadata device"
            }
            Self::Unknown => "it refuses, although its status shows no reason; see the kernel's log",
        })
    }
}

/// What a caller may want to tell apart without reading text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// In use.
    Busy,
    /// No such pool, device or thin id.
    NotFound,
    /// The name or the thin id is taken.
    Exists,
    /// Out of data space or of metadata space.
    NoSpace,
    /// The pool's metadata needs a check.
    NeedsCheck,
    /// The pool is read-only.
    ReadOnly,
    /// The kernel has failed the pool.
    Failed,
    /// An argument or a table that the kernel refuses, or a device that is something else.
    Invalid,
    /// A device without a table, from an interrupted making.
    Unfinished,
    /// Transaction id, block size or devices are not the expected ones.
    Mismatch,
    /// A device is left suspended.
    Suspended,
    /// Not permitted.
    Permission,
    /// The kernel cannot do it, or the pool refuses without a visible reason.
    Unsupported,
    /// No device-mapper in this kernel.
    Absent,
    /// A deadline passed.
    Deadline,
    /// Anything else.
    Other,
}

impl Error {
    /// The class of the failure.
    pub fn kind(&self) -> Kind {
        match self {
            Self::DeviceMapper { source, .. } | Self::TableRefused { source, .. } => of_dm(source),
            Self::NameTaken { .. } | Self::IdTaken { .. } => Kind::Exists,
            Self::NoSuchDevice { .. } | Self::NoSuchId { .. } => Kind::NotFound,
            Self::WrongTarget { .. } | Self::Shrink { .. } | Self::NoMetadataSnap { .. } => Kind::Invalid,
            Self::Unfinished { .. } => Kind::Unfinished,
            Self::Malformed { .. } => Kind::Other,
            Self::Busy { .. } | Self::MetadataSnapHeld { .. } => Kind::Busy,
            Self::TransactionIdMismatch { .. }
            | Self::BlockSizeMismatch { .. }
            | Self::OtherDevice { .. } => Kind::Mismatch,
            Self::PoolTrouble { trouble, .. } => match trouble {
                Trouble::NeedsCheck => Kind::NeedsCheck,
                Trouble::OutOfMetadata | Trouble::OutOfData => Kind::NoSpace,
                Trouble::ReadOnly => Kind::ReadOnly,
                Trouble::Failed => Kind::Failed,
                Trouble::Unknown => Kind::Unsupported,
            },
            Self::LeftSuspended { .. } => Kind::Suspended,
            Self::NotUndone { first, .. } => first.kind(),
            Self::Metadata(error) => match error.kind() {
                crate::metadata::Kind::Damaged => Kind::NeedsCheck,
                crate::metadata::Kind::NoPool => Kind::Invalid,
                crate::metadata::Kind::NotFound => Kind::NotFound,
                crate::metadata::Kind::Io => Kind::Other,
            },
        }
    }

    /// What device-mapper said, where a call was refused.
    pub fn device_mapper(&self) -> Option<&thinlayer_dm::Error> {
        match self {
            Self::DeviceMapper { source, .. }
            | Self::TableRefused { source, .. }
            | Self::NameTaken { source, .. }
            | Self::NoSuchDevice { source, .. }
            | Self::Busy { source, .. }
            | Self::IdTaken { source, .. }
            | Self::NoSuchId { source, .. }
            | Self::TransactionIdMismatch { source, .. }
            | Self::MetadataSnapHeld { source, .. }
            | Self::NoMetadataSnap { source, .. }
            | Self::LeftSuspended { source, .. } => Some(source),
            Self::PoolTrouble { source, .. } => source.as_deref(),
            Self::NotUndone { first, .. } => first.device_mapper(),
            _ => None,
        }
    }

    /// A refusal of a call that names a device, with the words for the usual reasons.
    pub(crate) fn call(op: &'static str, device: &DmName, source: thinlayer_dm::Error) -> Self {
        let device = device.clone();
        let source = Box::new(source);
        match source.kind() {
            thinlayer_dm::Kind::Exists => Self::NameTaken { op, device, source },
            thinlayer_dm::Kind::NotFound => Self::NoSuchDevice { op, device, source },
            _ => Self::DeviceMapper { op, device, source },
        }
    }

    pub(crate) fn malformed(device: &DmName, source: ParseError) -> Self {
        Self::Malformed { device: device.clone(), source }
    }
}

fn of_dm(error: &thinlayer_dm::Error) -> Kind {
    match error.kind() {
        thinlayer_dm::Kind::Busy => Kind::Busy,
        thinlayer_dm::Kind::NotFound => Kind::NotFound,
        thinlayer_dm::Kind::Exists => Kind::Exists,
        thinlayer_dm::Kind::NoSpace => Kind::NoSpace,
        thinlayer_dm::Kind::Permission => Kind::Permission,
        thinlayer_dm::Kind::Invalid => Kind::Invalid,
        thinlayer_dm::Kind::Unsupported => Kind::Unsupported,
        thinlayer_dm::Kind::Absent => Kind::Absent,
        thinlayer_dm::Kind::Deadline => Kind::Deadline,
        _ => Kind::Other,
    }
}

fn after(waited: &Duration) -> String {
    if waited.is_zero() { String::new() } else { format!(" after {:.1} s", waited.as_secs_f64()) }
}

fn known(id: &Option<TransactionId>) -> String {
    id.map_or_else(|| "another".into(), |id| id.to_string())
}

fn before(first: &Option<Box<Error>>) -> String {
    first.as_ref().map_or_else(String::new, |first| format!("; before that: {first}"))
}
