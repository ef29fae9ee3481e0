//! How the pool is, in one word for programs and one line for people, with what to do about it.

use crate::error::Error;
use crate::growth::{LEAST_HOST, part};
use crate::site::{Blocked, Ground, Plan, Site, figures};
use crate::size::human_size;
use thinlayer_dm::Bytes;
use thinlayer_provision::loop_pool::Side;
use thinlayer_provision::lvm::{self, PoolVolume};
use thinlayer_thin::{BackingDevice, Health, PoolState, PoolStatus, PoolTable, Trouble};

/// The pool's condition: the most serious that applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Condition {
    /// All is well, or what is low grows by itself.
    Good,
    /// Data is used up to the threshold and cannot grow.
    LowData,
    /// Metadata is used up to the threshold and cannot grow.
    LowMetadata,
    /// The host file system below a sparse data file has less left than is to be kept free.
    LowHost,
    /// No data block is free.
    OutOfData,
    /// No metadata block is free: the kernel refuses messages.
    OutOfMetadata,
    /// The kernel lets nothing be changed.
    ReadOnly,
    /// The kernel marked the metadata as possibly damaged.
    NeedsCheck,
    /// The kernel gave up on the pool.
    Failed,
}

impl Condition {
    /// The word for programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::LowData => "low-data",
            Self::LowMetadata => "low-metadata",
            Self::LowHost => "low-host",
            Self::OutOfData => "out-of-data",
            Self::OutOfMetadata => "out-of-metadata",
            Self::ReadOnly => "read-only",
            Self::NeedsCheck => "needs-check",
            Self::Failed => "failed",
        }
    }

    /// In this condition the pool takes no change until somebody has mended it.
    pub(crate) fn is_ailing(self) -> bool {
        matches!(self, Self::ReadOnly | Self::NeedsCheck | Self::Failed)
    }

    /// It works, and will not for ever.
    pub(crate) fn is_low(self) -> bool {
        matches!(self, Self::LowData | Self::LowMetadata | Self::LowHost)
    }

    fn of(state: &PoolState) -> Self {
        match state.health() {
            // Right after a reload the kernel has not noticed yet.
            Health::Good if state.running().is_some_and(is_full) => Self::OutOfData,
            Health::Good => Self::Good,
            Health::Trouble(Trouble::OutOfData) => Self::OutOfData,
            Health::Trouble(Trouble::OutOfMetadata) => Self::OutOfMetadata,
            Health::Trouble(Trouble::ReadOnly) => Self::ReadOnly,
            Health::Trouble(Trouble::NeedsCheck) => Self::NeedsCheck,
            Health::Trouble(_) => Self::Failed,
        }
    }
}

fn is_full(status: &PoolStatus) -> bool {
    status.total_data.0 > 0 && status.free_data().0 == 0
}

/// A condition and what to say about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) condition: Condition,
    /// One line; empty if all is well.
    pub(crate) text: String,
}

impl Finding {
    /// As an error, for what cannot be done in this condition.
    pub(crate) fn into_error(self, pool: &thinlayer_dm::DmName) -> Error {
        let what = format!("pool {pool}: {}", self.text);
        if self.condition.is_ailing() { Error::NeedsCheck { what } } else { Error::NoSpace { what } }
    }
}

impl Site<'_> {
    /// How the pool is. `table` serves the texts; what is not known of it is left out.
    pub(crate) fn judge(&self, state: &PoolState, table: Option<&PoolTable>) -> Finding {
        let mut condition = Condition::of(state);
        let mut blocked = None;
        if condition == Condition::ReadOnly && table.is_some_and(|table| table.features.read_only) {
            // It was asked for.
            return Finding { condition: Condition::Good, text: String::new() };
        }
        if condition == Condition::Good
            && let Some(status) = state.running()
        {
            for (side, low) in [(Side::Metadata, Condition::LowMetadata), (Side::Data, Condition::LowData)] {
                if condition == Condition::Good
                    && self.is_due(side, status)
                    && let Some(why) = self.blocked(side, status)
                {
                    (condition, blocked) = (low, Some(why));
                }
            }
            if condition == Condition::Good
                && let Some(host) = self.host_shortage(status)
            {
                return Finding { condition: Condition::LowHost, text: host };
            }
        }
        let text = self.text(condition, state.running(), table, blocked);
        Finding { condition, text }
    }

    /// Why a side cannot grow by itself; `None` if it can.
    pub(crate) fn blocked(&self, side: Side, status: &PoolStatus) -> Option<Blocked> {
        match self.plan(side, status) {
            Ok(Plan::To(_)) => None,
            Ok(Plan::Not(why)) => Some(why),
            // Whoever grows it says what is wrong.
            Err(error) => {
                tracing::debug!(%side, %error, "whether it can grow cannot be told");
                Some(Blocked::Host { free: Bytes(0) })
            }
        }
    }

    /// A sparse file promises more than the host may have. Of what pool and host can still give, `dm.min_free_space` is kept free.
    pub(crate) fn host_shortage(&self, status: &PoolStatus) -> Option<String> {
        if self.ground(Side::Data) != Ground::File || self.options.min_free_percent == 0 {
            return None;
        }
        let free_host = self.host_free(Side::Data).ok()?;
        let unit = self.unit(Side::Data);
        let free_pool = status.free_data().0.saturating_mul(unit);
        let used = status.used_data.0.saturating_mul(unit);
        let needed = part(used.saturating_add(free_pool.min(free_host.0)), self.options.min_free_percent)
            .max(LEAST_HOST);
        (free_host.0 < free_pool && free_host.0 < needed).then(|| {
            format!(
                "the host file system that holds {} has {} free, and {} are kept free for the layers ({}% by dm.min_free_space); make room there, or remove layers",
                Side::Data.path(self.root()).display(),
                human_size(free_host),
                human_size(Bytes(needed)),
                self.options.min_free_percent
            )
        })
    }

    fn text(
        &self,
        condition: Condition,
        status: Option<&PoolStatus>,
        table: Option<&PoolTable>,
        blocked: Option<Blocked>,
    ) -> String {
        let why = |side| blocked.clone().or_else(|| self.blocked(side, status?));
        match condition {
            Condition::Good | Condition::LowHost => String::new(),
            Condition::LowData => self.low(Side::Data, status, why(Side::Data)),
            Condition::LowMetadata => self.low(Side::Metadata, status, why(Side::Metadata)),
            Condition::OutOfData => {
                format!(
                    "it is out of data space; writers wait or get errors; {}",
                    self.more(Side::Data, why(Side::Data))
                )
            }
            Condition::OutOfMetadata => {
                format!(
                    "it is out of metadata space; writers get errors; {}",
                    self.more(Side::Metadata, why(Side::Metadata))
                )
            }
            Condition::ReadOnly => format!(
                "it is read-only; if it was not loaded so, the kernel's log says why: mend the cause, then {}, and the next command loads it again",
                self.take_down()
            ),
            Condition::NeedsCheck => {
                format!(
                    "its metadata needs a check, and nothing is written until then; {}",
                    self.repair(table)
                )
            }
            Condition::Failed => {
                format!("the kernel has failed it, and its log says why; {}", self.repair(table))
            }
        }
    }

    fn low(&self, side: Side, status: Option<&PoolStatus>, why: Option<Blocked>) -> String {
        let (used, total) = status.map_or((0, 0), |status| figures(side, status));
        let percent = u128::from(used) * 100 / u128::from(total.max(1));
        let because = why.as_ref().map_or_else(String::new, |why| format!(" ({why})"));
        format!(
            "{percent}% of its {side} are used, and it does not grow by itself{because}; {}",
            self.more(side, why)
        )
    }

    /// How to get more room for a side.
    pub(crate) fn more(&self, side: Side, why: Option<Blocked>) -> String {
        let grow = self.command(&format!("pool grow --{side} +SIZE"));
        match (self.ground(side), why) {
            (Ground::File, Some(Blocked::Host { .. })) => format!(
                "remove layers, or make room on the host file system that holds {}: `thinlayer serve` then grows it, or `{grow}` does",
                self.root().display()
            ),
            (Ground::File, Some(Blocked::Largest)) => "remove layers".into(),
            (Ground::File, _) => format!("remove layers, or grow it: `{grow}`"),
            (Ground::Given(path), _) => format!(
                "remove layers, or enlarge {} and then run `{}`",
                path.display(),
                self.command("pool grow")
            ),
            (Ground::Volume(volume), _) => {
                format!(
                    "remove layers, or give volume group {} more room (`vgextend`), or `{grow}`",
                    volume.group()
                )
            }
            (Ground::Others, _) => match self.logical_volume() {
                Some(volume) => {
                    let option = if side == Side::Data { "--size" } else { "--poolmetadatasize" };
                    format!("remove layers, or grow it: `lvextend {option} +SIZE {volume}`")
                }
                None => "remove layers, or grow it with the tool that made it".into(),
            },
        }
    }

    /// How to take the pool out of use.
    fn take_down(&self) -> String {
        let stop = format!("`{}`", self.command("stop"));
        match (self.ground(Side::Metadata), self.logical_volume()) {
            (Ground::Others | Ground::Volume(_), Some(volume)) => {
                format!("{stop} and `lvchange --activate n {volume}`")
            }
            (Ground::Others, None) => format!("{stop} and `dmsetup remove {}`", self.pool),
            _ => stop,
        }
    }

    /// How damaged metadata is looked at and mended.
    fn repair(&self, table: Option<&PoolTable>) -> String {
        let first = self.take_down();
        let path = match self.ground(Side::Metadata) {
            Ground::File => Side::Metadata.path(self.root()).display().to_string(),
            Ground::Given(path) => path.display().to_string(),
            Ground::Others | Ground::Volume(_) => {
                if let Some(volume) = self.logical_volume() {
                    return format!(
                        "{first}, then `lvconvert --repair {volume}` and `lvchange --activate y {volume}`"
                    );
                }
                match table.map(|table| &table.metadata) {
                    Some(BackingDevice::Number(number)) => format!("/dev/block/{number}"),
                    Some(BackingDevice::Path(path)) => path.as_str().to_owned(),
                    None => "METADATA".into(),
                }
            }
        };
        format!(
            "{first}, then `thin_check --clear-needs-check-flag {path}`; if that finds damage, `thin_repair -i {path} -o COPY` into an allocated file or \
             device of the same size, and put that in its place"
        )
    }

    /// A command line of this program for this root.
    pub(crate) fn command(&self, words: &str) -> String {
        format!("thinlayer --root {} {words}", self.root().display())
    }

    /// The volume group and name behind a device of LVM's, which doubles the hyphens in both.
    fn logical_volume(&self) -> Option<String> {
        let info = self.machine.dm.info(self.pool.into()).ok()??;
        info.uuid.filter(lvm::is_lvm)?;
        PoolVolume::of_device(self.pool).map(|volume| volume.to_string())
    }
}
