//! What pools and thin devices say of themselves: [`PoolState`], [`PoolStatus`] and [`ThinStatus`].

use crate::error::{ParseError, Trouble};
use crate::quantity::{DataBlocks, MetaBlocks, TransactionId, number};
use crate::table::{Discard, POOL_TARGET, THIN_TARGET, Words};
use std::fmt;
use std::str::FromStr;
use thinlayer_dm::{Sectors, Target};

/// The state of a pool: its figures, or the word that stands in their place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PoolState {
    /// It works, maybe with restrictions.
    Running(PoolStatus),
    /// The kernel gave up on it. Only taking it down helps.
    Fail,
    /// The kernel could not read its own figures.
    Error,
}

/// What a pool can still do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Everything.
    ReadWrite,
    /// No changes. Also shown when it is out of metadata space.
    ReadOnly,
    /// No new data blocks; what is there can be read, overwritten where it is not shared, and deleted.
    OutOfDataSpace,
}

/// What happens to a write that needs a new block when there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoSpace {
    /// It fails at once.
    Error,
    /// It waits for space, for as long as the module parameter `no_space_timeout` says (60 seconds), and then fails.
    Queue,
}

/// The figures of a pool. `Display` writes and `FromStr` reads the status line's parameters.
///
/// Older kernels stop after an earlier field; what they do not say is `None`.
///
/// # References
/// Specification section 5.4; the kernel's `thin-provisioning.rst`, "Status".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolStatus {
    /// The counter of the pool's user.
    pub transaction_id: TransactionId,
    /// Metadata blocks in use. The kernel counts a reserve of its own as used: up to 4096 blocks, a tenth of small devices.
    pub used_metadata: MetaBlocks,
    /// All metadata blocks.
    pub total_metadata: MetaBlocks,
    /// Data blocks in use.
    pub used_data: DataBlocks,
    /// All data blocks.
    pub total_data: DataBlocks,
    /// Where the metadata snapshot starts, if one is held.
    pub held_metadata_root: Option<MetaBlocks>,
    /// What it can still do.
    pub mode: Option<Mode>,
    /// What it does with discards: not always what the table asked for, as the data device may not be able to.
    pub discard: Option<Discard>,
    /// What happens to writes when it is full.
    pub no_space: Option<NoSpace>,
    /// The metadata may be damaged; the kernel loads the pool read-only until `thin_check` or `thin_repair` has cleared that.
    pub needs_check: Option<bool>,
    /// The kernel raises an event when no more than this many metadata blocks are free.
    pub metadata_low_water: Option<MetaBlocks>,
    /// Words after these, as they were: none on the kernels of today.
    pub rest: Vec<String>,
}

/// How a pool is, in one word: the most serious that applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Health {
    /// All is well.
    Good,
    /// It has trouble of this kind.
    Trouble(Trouble),
}

impl PoolStatus {
    /// Data blocks that are free.
    pub fn free_data(&self) -> DataBlocks {
        DataBlocks(self.total_data.0.saturating_sub(self.used_data.0))
    }

    /// Metadata blocks that are free, without the kernel's reserve.
    pub fn free_metadata(&self) -> MetaBlocks {
        MetaBlocks(self.total_metadata.0.saturating_sub(self.used_metadata.0))
    }

    /// How much of the data device is used, in percent; 100 for one without blocks.
    pub fn data_percent(&self) -> f64 {
        percent(self.used_data.0, self.total_data.0)
    }

    /// How much of the metadata device is used, in percent; 100 for one without blocks.
    pub fn metadata_percent(&self) -> f64 {
        percent(self.used_metadata.0, self.total_metadata.0)
    }

    /// How the pool is.
    pub fn health(&self) -> Health {
        let trouble = match self.mode {
            _ if self.needs_check == Some(true) => Trouble::NeedsCheck,
            // The kernel shows both with the same word.
            Some(Mode::ReadOnly) if self.free_metadata() == MetaBlocks(0) => Trouble::OutOfMetadata,
            Some(Mode::ReadOnly) => Trouble::ReadOnly,
            Some(Mode::OutOfDataSpace) => Trouble::OutOfData,
            Some(Mode::ReadWrite) | None => return Health::Good,
        };
        Health::Trouble(trouble)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn percent(used: u64, total: u64) -> f64 {
    if total == 0 { 100.0 } else { used as f64 * 100.0 / total as f64 }
}

impl PoolState {
    /// From the line that device-mapper gave.
    ///
    /// # Errors
    /// [`ParseError`] if it is no `thin-pool`, or a word is missing or cannot be read.
    pub fn from_target(target: &Target) -> Result<Self, ParseError> {
        check_kind("thin-pool status", POOL_TARGET, target)?;
        target.params.parse()
    }

    /// The figures, if there are any.
    pub fn running(&self) -> Option<&PoolStatus> {
        match self {
            Self::Running(status) => Some(status),
            Self::Fail | Self::Error => None,
        }
    }

    /// How the pool is.
    pub fn health(&self) -> Health {
        match self {
            Self::Running(status) => status.health(),
            Self::Fail | Self::Error => Health::Trouble(Trouble::Failed),
        }
    }
}

impl fmt::Display for PoolState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running(status) => status.fmt(f),
            Self::Fail => f.write_str("Fail"),
            Self::Error => f.write_str("Error"),
        }
    }
}

impl FromStr for PoolState {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text.trim() {
            "Fail" => Ok(Self::Fail),
            "Error" => Ok(Self::Error),
            _ => text.parse().map(Self::Running),
        }
    }
}

impl fmt::Display for PoolStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}/{} {}/{} ",
            self.transaction_id.0,
            self.used_metadata.0,
            self.total_metadata.0,
            self.used_data.0,
            self.total_data.0
        )?;
        match self.held_metadata_root {
            Some(root) => write!(f, "{}", root.0)?,
            None => f.write_str("-")?,
        }
        let fields = [
            self.mode.map(|mode| match mode {
                Mode::ReadWrite => "rw",
                Mode::ReadOnly => "ro",
                Mode::OutOfDataSpace => "out_of_data_space",
            }),
            self.discard.map(|discard| match discard {
                Discard::Passdown => "discard_passdown",
                Discard::NoPassdown => "no_discard_passdown",
                Discard::Ignore => "ignore_discard",
            }),
            self.no_space.map(|no_space| match no_space {
                NoSpace::Error => "error_if_no_space",
                NoSpace::Queue => "queue_if_no_space",
            }),
            self.needs_check.map(|needed| if needed { "needs_check" } else { "-" }),
        ];
        for word in fields.into_iter().flatten() {
            write!(f, " {word}")?;
        }
        if let Some(low_water) = self.metadata_low_water {
            write!(f, " {}", low_water.0)?;
        }
        self.rest.iter().try_for_each(|word| write!(f, " {word}"))
    }
}

impl FromStr for PoolStatus {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        const WHAT: &str = "thin-pool status";
        let mut words = Words::of(WHAT, text);
        let transaction_id = words.next("transaction id")?.parse()?;
        let (used, total) = pair(WHAT, words.next("metadata use")?)?;
        let (used_metadata, total_metadata) = (MetaBlocks(used), MetaBlocks(total));
        let (used, total) = pair(WHAT, words.next("data use")?)?;
        let (used_data, total_data) = (DataBlocks(used), DataBlocks(total));
        let held_metadata_root = match words.optional() {
            None | Some("-") => None,
            Some(root) => Some(MetaBlocks(number(WHAT, root)?)),
        };
        let mode = known(&mut words, "mode", |word| match word {
            "rw" => Some(Mode::ReadWrite),
            "ro" => Some(Mode::ReadOnly),
            "out_of_data_space" => Some(Mode::OutOfDataSpace),
            _ => None,
        })?;
        let discard = known(&mut words, "discard mode", |word| match word {
            "discard_passdown" => Some(Discard::Passdown),
            "no_discard_passdown" => Some(Discard::NoPassdown),
            "ignore_discard" => Some(Discard::Ignore),
            _ => None,
        })?;
        let no_space = known(&mut words, "no-space mode", |word| match word {
            "error_if_no_space" => Some(NoSpace::Error),
            "queue_if_no_space" => Some(NoSpace::Queue),
            _ => None,
        })?;
        let needs_check = known(&mut words, "needs-check mark", |word| match word {
            "needs_check" => Some(true),
            "-" => Some(false),
            _ => None,
        })?;
        let metadata_low_water = words.optional().map(|word| number(WHAT, word)).transpose()?.map(MetaBlocks);
        Ok(Self {
            transaction_id,
            used_metadata,
            total_metadata,
            used_data,
            total_data,
            held_metadata_root,
            mode,
            discard,
            no_space,
            needs_check,
            metadata_low_water,
            rest: words.rest(),
        })
    }
}

fn pair(what: &'static str, word: &str) -> Result<(u64, u64), ParseError> {
    let (used, total) =
        word.split_once('/').ok_or_else(|| ParseError::new(what, word, "it is not USED/TOTAL"))?;
    Ok((number(what, used)?, number(what, total)?))
}

/// The next word's meaning; `None` if the line ends before it.
fn known<T>(
    words: &mut Words<'_>,
    name: &str,
    meaning: impl FnOnce(&str) -> Option<T>,
) -> Result<Option<T>, ParseError> {
    let Some(word) = words.optional() else { return Ok(None) };
    match meaning(word) {
        Some(value) => Ok(Some(value)),
        None => Err(words.error(format!("{word:?} is no {name}"))),
    }
}

/// What a thin device says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ThinStatus {
    /// It works.
    Mapped {
        /// Sectors that have blocks in the pool, its own and shared ones.
        mapped: Sectors,
        /// The last sector that has a block; `None` if none has.
        highest: Option<Sectors>,
    },
    /// The kernel gave up on its pool.
    Fail,
    /// The kernel could not read its own figures.
    Error,
    /// Its thin id is not open in the pool.
    NotLoaded,
}

impl ThinStatus {
    /// From the line that device-mapper gave.
    ///
    /// # Errors
    /// [`ParseError`] if it is no `thin`, or a word is missing or cannot be read.
    pub fn from_target(target: &Target) -> Result<Self, ParseError> {
        check_kind("thin status", THIN_TARGET, target)?;
        target.params.parse()
    }
}

impl fmt::Display for ThinStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mapped { mapped, highest: Some(highest) } => write!(f, "{} {}", mapped.0, highest.0),
            Self::Mapped { mapped, highest: None } => write!(f, "{} -", mapped.0),
            Self::Fail => f.write_str("Fail"),
            Self::Error => f.write_str("Error"),
            Self::NotLoaded => f.write_str("-"),
        }
    }
}

impl FromStr for ThinStatus {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        const WHAT: &str = "thin status";
        let mut words = Words::of(WHAT, text);
        let first = words.next("count of mapped sectors")?;
        let second = words.optional();
        match (first, second) {
            ("Fail", None) => Ok(Self::Fail),
            ("Error", None) => Ok(Self::Error),
            ("-", None) => Ok(Self::NotLoaded),
            (_, None) => Err(words.error("the highest mapped sector is missing")),
            (mapped, Some(highest)) => {
                let highest = if highest == "-" { None } else { Some(Sectors(number(WHAT, highest)?)) };
                Ok(Self::Mapped { mapped: Sectors(number(WHAT, mapped)?), highest })
            }
        }
    }
}

fn check_kind(what: &'static str, kind: &str, target: &Target) -> Result<(), ParseError> {
    if target.kind == kind {
        Ok(())
    } else {
        Err(ParseError::new(what, &target.kind, format!("the target is no {kind}")))
    }
}

#[cfg(test)]
mod tests;
