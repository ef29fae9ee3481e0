//! Mount options as in fstab, split into what the kernel takes as flags and what the file system takes as parameters.
//!
//! Words mean what they mean to mount(8); of two that contradict each other, the later one counts. A value with commas in it
//! stands in double quotes, such as `context="system_u:object_r:container_file_t:s0:c1,c2"`.
//!
//! ```
//! use thinlayer_filesystem::options::{MountFlags, MountOptions};
//!
//! let options = MountOptions::parse(["noatime,nodev", "discard", "logbsize=64k", "context=\"a:b:c:s0:c1,c2\""])?;
//! assert_eq!(options.flags, MountFlags::NO_ATIME | MountFlags::NO_DEV);
//! assert_eq!(options.get("context"), Some("a:b:c:s0:c1,c2"));
//! assert_eq!(options.data(), "discard,logbsize=64k,context=\"a:b:c:s0:c1,c2\"");
//! # Ok::<(), thinlayer_filesystem::options::InvalidOption>(())
//! ```

use bitflags::bitflags;
use nix::mount::MsFlags;
use std::fmt;
use std::str::FromStr;

bitflags! {
    /// What the kernel itself takes, apart from the file system's own parameters. `relatime` is the kernel's default and no flag here.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct MountFlags: u32 {
        /// `ro`: the mount and its superblock.
        const READ_ONLY = 1 << 0;
        /// `nosuid`
        const NO_SUID = 1 << 1;
        /// `nodev`
        const NO_DEV = 1 << 2;
        /// `noexec`
        const NO_EXEC = 1 << 3;
        /// `noatime`
        const NO_ATIME = 1 << 4;
        /// `strictatime`
        const STRICT_ATIME = 1 << 5;
        /// `nodiratime`
        const NO_DIR_ATIME = 1 << 6;
        /// `nosymfollow`
        const NO_SYMFOLLOW = 1 << 7;
        /// `sync`
        const SYNCHRONOUS = 1 << 8;
        /// `dirsync`
        const DIR_SYNC = 1 << 9;
        /// `mand`
        const MANDATORY_LOCKS = 1 << 10;
        /// `lazytime`
        const LAZY_TIME = 1 << 11;
        /// `silent`: fewer messages in the kernel log. Only mount(2) has it; the mount API has no way to ask for it.
        const SILENT = 1 << 12;
    }
}

/// A parameter of the file system or of a security module: `discard`, `logbsize=64k`, `context=...`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Parameter {
    /// Its name.
    pub key: String,
    /// Its value, without quotes; none for a flag.
    pub value: Option<String>,
}

/// Why an option cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("mount option `{option}` {reason}")]
pub struct InvalidOption {
    /// The option as it was given.
    pub option: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl InvalidOption {
    fn new(option: &str, reason: &'static str) -> Self {
        Self { option: option.to_owned(), reason }
    }
}

/// Mount options, taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// For the kernel.
    pub flags: MountFlags,
    /// For the file system, in the order given.
    pub parameters: Vec<Parameter>,
}

/// Word, flags that it sets, flags that it clears.
type Word = (&'static str, MountFlags, MountFlags);

const NONE: MountFlags = MountFlags::empty();

/// In the order of rendering: for each flag, the word that sets it comes first.
const WORDS: &[Word] = &[
    ("ro", MountFlags::READ_ONLY, NONE),
    ("rw", NONE, MountFlags::READ_ONLY),
    ("nosuid", MountFlags::NO_SUID, NONE),
    ("suid", NONE, MountFlags::NO_SUID),
    ("nodev", MountFlags::NO_DEV, NONE),
    ("dev", NONE, MountFlags::NO_DEV),
    ("noexec", MountFlags::NO_EXEC, NONE),
    ("exec", NONE, MountFlags::NO_EXEC),
    ("noatime", MountFlags::NO_ATIME, MountFlags::STRICT_ATIME),
    ("atime", NONE, MountFlags::NO_ATIME),
    ("relatime", NONE, MountFlags::NO_ATIME.union(MountFlags::STRICT_ATIME)),
    ("norelatime", NONE, NONE),
    ("strictatime", MountFlags::STRICT_ATIME, MountFlags::NO_ATIME),
    ("nostrictatime", NONE, MountFlags::STRICT_ATIME),
    ("nodiratime", MountFlags::NO_DIR_ATIME, NONE),
    ("diratime", NONE, MountFlags::NO_DIR_ATIME),
    ("nosymfollow", MountFlags::NO_SYMFOLLOW, NONE),
    ("symfollow", NONE, MountFlags::NO_SYMFOLLOW),
    ("sync", MountFlags::SYNCHRONOUS, NONE),
    ("async", NONE, MountFlags::SYNCHRONOUS),
    ("dirsync", MountFlags::DIR_SYNC, NONE),
    ("mand", MountFlags::MANDATORY_LOCKS, NONE),
    ("nomand", NONE, MountFlags::MANDATORY_LOCKS),
    ("lazytime", MountFlags::LAZY_TIME, NONE),
    ("nolazytime", NONE, MountFlags::LAZY_TIME),
    ("silent", MountFlags::SILENT, NONE),
    ("loud", NONE, MountFlags::SILENT),
    ("defaults", NONE, NONE),
    // For mount(8) and systemd, not for the kernel.
    ("auto", NONE, NONE),
    ("noauto", NONE, NONE),
    ("nofail", NONE, NONE),
    ("_netdev", NONE, NONE),
];

/// They change a mount that is there already, so they cannot be part of a new one.
const NOT_HERE: &[&str] = &[
    "remount",
    "bind",
    "rbind",
    "move",
    "shared",
    "rshared",
    "private",
    "rprivate",
    "slave",
    "rslave",
    "unbindable",
    "runbindable",
];

impl MountOptions {
    /// Takes words apart, each of which may hold several options with commas between them. Empty ones are passed over.
    ///
    /// # Errors
    /// If an option cannot be part of a new mount (`remount`, `bind`, ...), or its quotes are wrong. Parameters that the file system does
    /// not know are found by the kernel, not here.
    pub fn parse<I>(words: I) -> Result<Self, InvalidOption>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let mut options = Self::default();
        for word in words {
            for option in split(word.as_ref())? {
                options.add(option)?;
            }
        }
        Ok(options)
    }

    fn add(&mut self, option: &str) -> Result<(), InvalidOption> {
        if option.is_empty() || option.starts_with("x-") || option.starts_with("X-") {
            return Ok(());
        }
        if let Some((_, set, clear)) = WORDS.iter().find(|(word, ..)| *word == option) {
            self.flags.remove(*clear);
            self.flags.insert(*set);
            return Ok(());
        }
        if NOT_HERE.contains(&option) {
            return Err(InvalidOption::new(
                option,
                "changes an existing mount and cannot be part of a new one",
            ));
        }
        let (key, value) = match option.split_once('=') {
            Some(("comment", _)) => return Ok(()),
            Some((key, value)) => (key, Some(unquote(value))),
            None => (option, None),
        };
        self.set(key, value)
    }

    /// Adds a parameter after the others. The value is taken as it is, without quotes.
    ///
    /// # Errors
    /// If the name is empty or a character cannot be passed on (a double quote, NUL, a comma or `=` in the name).
    pub fn set(&mut self, key: &str, value: Option<&str>) -> Result<(), InvalidOption> {
        let whole = || match value {
            Some(value) => format!("{key}={value}"),
            None => key.to_owned(),
        };
        let refuse = |reason| Err(InvalidOption { option: whole(), reason });
        if key.is_empty() {
            return refuse("has no name");
        }
        if key.contains([',', '=']) {
            return refuse("has a comma or an equals sign in its name");
        }
        if key.contains('"') || value.is_some_and(|value| value.contains('"')) {
            return refuse("has a double quote in the wrong place: only a whole value may stand in quotes");
        }
        if key.contains('\0') || value.is_some_and(|value| value.contains('\0')) {
            return refuse("has a NUL in it");
        }
        self.parameters.push(Parameter { key: key.to_owned(), value: value.map(str::to_owned) });
        Ok(())
    }

    /// Is there a parameter of this name?
    pub fn has(&self, key: &str) -> bool {
        self.parameters.iter().any(|parameter| parameter.key == key)
    }

    /// The value of the last parameter of this name that has one.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.parameters.iter().rev().find(|parameter| parameter.key == key)?.value.as_deref()
    }

    /// The parameters as mount(2) takes them: joined by commas, values with commas in quotes.
    pub fn data(&self) -> String {
        let words: Vec<_> = self.parameters.iter().map(ToString::to_string).collect();
        words.join(",")
    }

    /// The flags that a superblock has, by the names that `fsconfig` gives them.
    pub fn superblock_words(&self) -> impl Iterator<Item = &'static str> + use<> {
        let flags = self.flags;
        [
            (MountFlags::READ_ONLY, "ro"),
            (MountFlags::SYNCHRONOUS, "sync"),
            (MountFlags::DIR_SYNC, "dirsync"),
            (MountFlags::MANDATORY_LOCKS, "mand"),
            (MountFlags::LAZY_TIME, "lazytime"),
        ]
        .into_iter()
        .filter_map(move |(flag, word)| flags.contains(flag).then_some(word))
    }

    /// The flags that a mount has, as the `MOUNT_ATTR_*` bits of `linux/mount.h`.
    pub fn attributes(&self) -> u32 {
        [
            (MountFlags::READ_ONLY, 0x0000_0001),
            (MountFlags::NO_SUID, 0x0000_0002),
            (MountFlags::NO_DEV, 0x0000_0004),
            (MountFlags::NO_EXEC, 0x0000_0008),
            (MountFlags::NO_ATIME, 0x0000_0010),
            (MountFlags::STRICT_ATIME, 0x0000_0020),
            (MountFlags::NO_DIR_ATIME, 0x0000_0080),
            (MountFlags::NO_SYMFOLLOW, 0x0020_0000),
        ]
        .into_iter()
        .filter(|(flag, _)| self.flags.contains(*flag))
        .fold(0, |bits, (_, bit)| bits | bit)
    }

    /// All flags, as mount(2) takes them.
    pub(crate) fn ms_flags(&self) -> MsFlags {
        // MS_NOSYMFOLLOW and MS_LAZYTIME are younger than nix's list for some C libraries.
        let no_symfollow = MsFlags::from_bits_retain(0x100);
        let lazy_time = MsFlags::from_bits_retain(1 << 25);
        [
            (MountFlags::READ_ONLY, MsFlags::MS_RDONLY),
            (MountFlags::NO_SUID, MsFlags::MS_NOSUID),
            (MountFlags::NO_DEV, MsFlags::MS_NODEV),
            (MountFlags::NO_EXEC, MsFlags::MS_NOEXEC),
            (MountFlags::NO_ATIME, MsFlags::MS_NOATIME),
            (MountFlags::STRICT_ATIME, MsFlags::MS_STRICTATIME),
            (MountFlags::NO_DIR_ATIME, MsFlags::MS_NODIRATIME),
            (MountFlags::NO_SYMFOLLOW, no_symfollow),
            (MountFlags::SYNCHRONOUS, MsFlags::MS_SYNCHRONOUS),
            (MountFlags::DIR_SYNC, MsFlags::MS_DIRSYNC),
            (MountFlags::MANDATORY_LOCKS, MsFlags::MS_MANDLOCK),
            (MountFlags::LAZY_TIME, lazy_time),
            (MountFlags::SILENT, MsFlags::MS_SILENT),
        ]
        .into_iter()
        .filter(|(flag, _)| self.flags.contains(*flag))
        .fold(MsFlags::empty(), |bits, (_, bit)| bits | bit)
    }
}

impl FromStr for MountOptions {
    type Err = InvalidOption;

    fn from_str(text: &str) -> Result<Self, InvalidOption> {
        Self::parse([text])
    }
}

impl fmt::Display for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            None => f.write_str(&self.key),
            Some(value) if value.contains(',') => write!(f, "{}=\"{value}\"", self.key),
            Some(value) => write!(f, "{}={value}", self.key),
        }
    }
}

/// As behind `mount -o`: flags first, then parameters. `defaults` if there is nothing to say.
impl fmt::Display for MountOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = WORDS
            .iter()
            .filter(|(_, set, _)| !set.is_empty() && self.flags.contains(*set))
            .map(|(word, ..)| (*word).to_owned());
        let words: Vec<String> = flags.chain(self.parameters.iter().map(ToString::to_string)).collect();
        if words.is_empty() { f.write_str("defaults") } else { f.write_str(&words.join(",")) }
    }
}

/// At the commas that are not in quotes.
fn split(word: &str) -> Result<Vec<&str>, InvalidOption> {
    let mut parts = Vec::new();
    let mut quoted = false;
    let mut start = 0;
    for (position, character) in word.char_indices() {
        match character {
            '"' => quoted = !quoted,
            ',' if !quoted => {
                parts.push(&word[start..position]);
                start = position + 1;
            }
            _ => {}
        }
    }
    if quoted {
        return Err(InvalidOption::new(word, "has a double quote that is not closed"));
    }
    parts.push(&word[start..]);
    Ok(parts)
}

fn unquote(value: &str) -> &str {
    value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value)
}

#[cfg(test)]
mod tests;
