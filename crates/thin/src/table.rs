//! The table lines of pools and thin devices: [`PoolTable`] and [`ThinTable`].

use crate::error::ParseError;
use crate::quantity::{BlockSize, DataBlocks, ThinId, number};
use std::fmt;
use std::str::{FromStr, SplitWhitespace};
use thinlayer_dm::{DeviceNumber, Sectors, Target};

/// The target type of a pool.
pub const POOL_TARGET: &str = "thin-pool";
/// The target type of a thin device.
pub const THIN_TARGET: &str = "thin";

/// A device in a table: by number, as the kernel always prints it, or by path, as it also takes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BackingDevice {
    /// `major:minor`.
    Number(DeviceNumber),
    /// An absolute path.
    Path(DevicePath),
}

/// An absolute path that can stand in a table: no white space, no backslash.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DevicePath(Box<str>);

impl DevicePath {
    /// Checks the text and takes it.
    ///
    /// # Errors
    /// [`ParseError`] if it is not absolute or holds white space or a backslash, which tables cannot carry.
    pub fn new(text: impl Into<String>) -> Result<Self, ParseError> {
        let text = text.into();
        if !text.starts_with('/') {
            return Err(ParseError::new("device path", text, "it is not absolute"));
        }
        if text.chars().any(|c| c.is_whitespace() || c.is_control() || c == '\\') {
            return Err(ParseError::new("device path", text, "it holds white space or a backslash"));
        }
        Ok(Self(text.into_boxed_str()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<DeviceNumber> for BackingDevice {
    fn from(number: DeviceNumber) -> Self {
        Self::Number(number)
    }
}

impl From<DevicePath> for BackingDevice {
    fn from(path: DevicePath) -> Self {
        Self::Path(path)
    }
}

impl fmt::Display for BackingDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Path(path) => f.write_str(path.as_str()),
        }
    }
}

impl FromStr for BackingDevice {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if text.starts_with('/') {
            return DevicePath::new(text).map(Self::Path);
        }
        let bad = || ParseError::new("device", text, "it is neither MAJOR:MINOR nor an absolute path");
        let (major, minor) = text.split_once(':').ok_or_else(bad)?;
        let part = |digits| number::<u32>("device number", digits).map_err(|_| bad());
        Ok(Self::Number(DeviceNumber { major: part(major)?, minor: part(minor)? }))
    }
}

/// What a pool does with discards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Discard {
    /// Frees the blocks and passes the discard on to the data device.
    #[default]
    Passdown,
    /// Frees the blocks only.
    NoPassdown,
    /// Ignores them.
    Ignore,
}

/// The optional behaviour of a pool. The default is the kernel's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Features {
    /// Overwrite a new block with zeros before it can be read (`false` is `skip_block_zeroing`).
    pub zero_new_blocks: bool,
    /// What happens to discards. The kernel clears passing down by itself where the data device cannot do it.
    pub discard: Discard,
    /// No changes to metadata or data.
    pub read_only: bool,
    /// Writes that need a new block fail at once when there is none, instead of waiting for one.
    pub error_if_no_space: bool,
    /// Words that this crate does not know, as they were.
    pub other: Vec<String>,
}

impl Default for Features {
    fn default() -> Self {
        Self {
            zero_new_blocks: true,
            discard: Discard::Passdown,
            read_only: false,
            error_if_no_space: false,
            other: Vec::new(),
        }
    }
}

const SKIP_BLOCK_ZEROING: &str = "skip_block_zeroing";
const IGNORE_DISCARD: &str = "ignore_discard";
const NO_DISCARD_PASSDOWN: &str = "no_discard_passdown";
const READ_ONLY: &str = "read_only";
const ERROR_IF_NO_SPACE: &str = "error_if_no_space";

impl Features {
    /// The words of the table, in the order in which the kernel prints them.
    fn words(&self) -> impl Iterator<Item = &str> {
        let discard = match self.discard {
            Discard::Passdown => None,
            Discard::NoPassdown => Some(NO_DISCARD_PASSDOWN),
            Discard::Ignore => Some(IGNORE_DISCARD),
        };
        [
            (!self.zero_new_blocks).then_some(SKIP_BLOCK_ZEROING),
            discard,
            self.read_only.then_some(READ_ONLY),
            self.error_if_no_space.then_some(ERROR_IF_NO_SPACE),
        ]
        .into_iter()
        .flatten()
        .chain(self.other.iter().map(String::as_str))
    }

    fn take(&mut self, word: &str) {
        match word {
            SKIP_BLOCK_ZEROING => self.zero_new_blocks = false,
            // A pool may have been told both; the second word then changes nothing, but it is in the line.
            IGNORE_DISCARD => {
                if self.discard == Discard::NoPassdown {
                    self.other.push(NO_DISCARD_PASSDOWN.into());
                }
                self.discard = Discard::Ignore;
            }
            NO_DISCARD_PASSDOWN if self.discard == Discard::Ignore => self.other.push(word.into()),
            NO_DISCARD_PASSDOWN => self.discard = Discard::NoPassdown,
            READ_ONLY => self.read_only = true,
            ERROR_IF_NO_SPACE => self.error_if_no_space = true,
            other => self.other.push(other.into()),
        }
    }
}

/// A pool's table: one line, of one target.
///
/// `Display` writes and `FromStr` reads the whole line, as `dmsetup table` has it.
///
/// # References
/// Specification sections 2.4 and 5.3; the kernel's `thin-provisioning.rst`, "thin-pool target, Constructor".
///
/// # Examples
/// ```
/// use thinlayer_dm::{DeviceNumber, Sectors};
/// use thinlayer_thin::PoolTable;
///
/// let metadata = DeviceNumber { major: 7, minor: 0 };
/// let data = DeviceNumber { major: 7, minor: 1 };
/// let table = PoolTable::new(metadata, data, Sectors(209_715_200));
/// assert_eq!(table.to_string(), "0 209715200 thin-pool 7:0 7:1 128 32768 1 skip_block_zeroing");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolTable {
    /// Where the mappings are kept.
    pub metadata: BackingDevice,
    /// Where the blocks are.
    pub data: BackingDevice,
    /// Length of the data device.
    pub len: Sectors,
    /// Size of the data blocks.
    pub block_size: BlockSize,
    /// The kernel raises an event when no more than this many data blocks are free.
    pub low_water: DataBlocks,
    /// The optional behaviour.
    pub features: Features,
    /// Words after the features, as they were: none on the kernels of today.
    pub rest: Vec<String>,
}

impl PoolTable {
    /// The low-water mark of [`PoolTable::new`].
    pub const DEFAULT_LOW_WATER: DataBlocks = DataBlocks(32_768);

    /// The table as Docker's driver makes it: blocks of 64 KiB, not zeroed, and a low-water mark of 32,768 of them.
    ///
    /// Blocks that are not zeroed are for devices that only file systems use: a raw reader sees what others deleted.
    pub fn new(metadata: impl Into<BackingDevice>, data: impl Into<BackingDevice>, len: Sectors) -> Self {
        Self {
            metadata: metadata.into(),
            data: data.into(),
            len,
            block_size: BlockSize::MIN,
            low_water: Self::DEFAULT_LOW_WATER,
            features: Features { zero_new_blocks: false, ..Features::default() },
            rest: Vec::new(),
        }
    }

    /// The parameters of the target: the line without start, length and type.
    pub fn params(&self) -> String {
        let features: Vec<&str> = self.features.words().collect();
        let mut text = format!(
            "{} {} {} {} {}",
            self.metadata,
            self.data,
            self.block_size.sectors().0,
            self.low_water.0,
            features.len()
        );
        for word in features.into_iter().chain(self.rest.iter().map(String::as_str)) {
            text.push(' ');
            text.push_str(word);
        }
        text
    }

    /// The line as device-mapper takes it.
    pub fn target(&self) -> Target {
        Target { start: Sectors(0), len: self.len, kind: POOL_TARGET.into(), params: self.params() }
    }

    /// From the line that device-mapper gave.
    ///
    /// # Errors
    /// [`ParseError`] if it is no `thin-pool`, does not start at 0, or misses a word.
    pub fn from_target(target: &Target) -> Result<Self, ParseError> {
        const WHAT: &str = "thin-pool table";
        check_target(WHAT, POOL_TARGET, target)?;
        let mut words = Words::of(WHAT, &target.params);
        let metadata = words.next("metadata device")?.parse()?;
        let data = words.next("data device")?.parse()?;
        let sectors = number(WHAT, words.next("block size")?)?;
        let block_size = BlockSize::new(Sectors(sectors))
            .map_err(|error| ParseError::new(WHAT, &target.params, error.to_string()))?;
        let low_water = DataBlocks(number(WHAT, words.next("low-water mark")?)?);
        let mut features = Features::default();
        if let Some(count) = words.optional() {
            for _ in 0..number::<u32>(WHAT, count)? {
                features.take(words.next("feature")?);
            }
        }
        Ok(Self { metadata, data, len: target.len, block_size, low_water, features, rest: words.rest() })
    }
}

impl fmt::Display for PoolTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0 {} {POOL_TARGET} {}", self.len.0, self.params())
    }
}

impl FromStr for PoolTable {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Self::from_target(&line("thin-pool table", text)?)
    }
}

/// A thin device's table: one line, of one target.
///
/// `Display` writes and `FromStr` reads the whole line, as `dmsetup table` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThinTable {
    /// The pool.
    pub pool: BackingDevice,
    /// The device's number in the pool.
    pub id: ThinId,
    /// A device outside the pool that is read where the thin device has no block of its own.
    pub origin: Option<BackingDevice>,
    /// Length.
    pub len: Sectors,
}

impl ThinTable {
    /// The table of a thin device without external origin.
    pub fn new(pool: impl Into<BackingDevice>, id: ThinId, len: Sectors) -> Self {
        Self { pool: pool.into(), id, origin: None, len }
    }

    /// The parameters of the target: the line without start, length and type.
    pub fn params(&self) -> String {
        match &self.origin {
            Some(origin) => format!("{} {} {origin}", self.pool, self.id),
            None => format!("{} {}", self.pool, self.id),
        }
    }

    /// The line as device-mapper takes it.
    pub fn target(&self) -> Target {
        Target { start: Sectors(0), len: self.len, kind: THIN_TARGET.into(), params: self.params() }
    }

    /// From the line that device-mapper gave.
    ///
    /// # Errors
    /// [`ParseError`] if it is no `thin`, does not start at 0, or has too few or too many words.
    pub fn from_target(target: &Target) -> Result<Self, ParseError> {
        const WHAT: &str = "thin table";
        check_target(WHAT, THIN_TARGET, target)?;
        let mut words = Words::of(WHAT, &target.params);
        let pool = words.next("pool")?.parse()?;
        let id = words.next("thin id")?.parse()?;
        let origin = words.optional().map(str::parse).transpose()?;
        if words.optional().is_some() {
            return Err(ParseError::new(WHAT, &target.params, "there are words after the external origin"));
        }
        Ok(Self { pool, id, origin, len: target.len })
    }
}

impl fmt::Display for ThinTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0 {} {THIN_TARGET} {}", self.len.0, self.params())
    }
}

impl FromStr for ThinTable {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Self::from_target(&line("thin table", text)?)
    }
}

/// A whole line, `START LENGTH TYPE PARAMETERS`.
fn line(what: &'static str, text: &str) -> Result<Target, ParseError> {
    let mut words = Words::of(what, text);
    let start = Sectors(number(what, words.next("start")?)?);
    let len = Sectors(number(what, words.next("length")?)?);
    let kind = words.next("type")?.to_owned();
    Ok(Target { start, len, kind, params: words.rest().join(" ") })
}

fn check_target(what: &'static str, kind: &str, target: &Target) -> Result<(), ParseError> {
    if target.kind != kind {
        return Err(ParseError::new(what, &target.kind, format!("the target is no {kind}")));
    }
    if target.start != Sectors(0) {
        return Err(ParseError::new(what, target.start.to_string(), "the target does not start at 0"));
    }
    Ok(())
}

/// The words of a line, where a missing one is an error that says which.
pub(crate) struct Words<'a> {
    what: &'static str,
    text: &'a str,
    words: SplitWhitespace<'a>,
}

impl<'a> Words<'a> {
    pub(crate) fn of(what: &'static str, text: &'a str) -> Self {
        Self { what, text, words: text.split_whitespace() }
    }

    pub(crate) fn next(&mut self, name: &str) -> Result<&'a str, ParseError> {
        self.words
            .next()
            .ok_or_else(|| ParseError::new(self.what, self.text, format!("the {name} is missing")))
    }

    pub(crate) fn optional(&mut self) -> Option<&'a str> {
        self.words.next()
    }

    pub(crate) fn rest(self) -> Vec<String> {
        self.words.map(str::to_owned).collect()
    }

    pub(crate) fn error(&self, why: impl Into<String>) -> ParseError {
        ParseError::new(self.what, self.text, why)
    }
}

#[cfg(test)]
mod tests;
