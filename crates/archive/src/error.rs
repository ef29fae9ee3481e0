//! What went wrong with a stream or a tree.

use nix::errno::Errno;
use std::fmt::{self, Write};
use std::io;

/// The result of an archive operation.
pub type Result<T> = std::result::Result<T, Error>;

/// A failed operation: what, on which entry, why. One line; the names in it come from the stream or the tree, with everything
/// escaped that a terminal could obey, and cut where they are long.
#[derive(Debug, thiserror::Error)]
pub struct Error {
    /// What was tried, such as `apply` or `compare`.
    pub action: &'static str,
    /// The entry's name as the stream or the tree has it; empty where no entry was known.
    pub entry: Vec<u8>,
    /// Why, and what to do.
    pub why: String,
    /// What a caller may want to tell apart.
    pub kind: ErrorKind,
    /// Where in the unpacked stream the entry's header begins, in bytes; only of errors of a stream that is read.
    pub offset: Option<u64>,
    /// What the kernel or the stream's source said.
    #[source]
    pub source: Option<io::Error>,
}

/// What a caller may want to tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The stream is no tar, or breaks its rules.
    Malformed,
    /// The stream ends before its end.
    Truncated,
    /// The entry would reach outside the tree, or is a name that no layer may hold.
    Refused,
    /// More than the caller or this crate allows: bytes, name lengths, records.
    Limit,
    /// A form that this crate does not read, or that the file system does not keep.
    Unsupported,
    /// The tree changed while it was read.
    Changed,
    /// ENOENT.
    NotFound,
    /// ENOSPC, EDQUOT.
    NoSpace,
    /// EROFS.
    ReadOnly,
    /// EPERM, EACCES.
    Permission,
    /// Any other failure of the kernel, the stream's source or its target.
    Io,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}", self.action)?;
        if !self.entry.is_empty() {
            write!(f, " \"{}\"", shown(&self.entry))?;
        }
        write!(f, ": {}", self.why)?;
        if let Some(source) = &self.source {
            write!(f, ": {source}")?;
        }
        match self.offset {
            Some(offset) => write!(f, " (at byte {offset} of the stream)"),
            None => Ok(()),
        }
    }
}

/// A name for people: printable ASCII and UTF-8 as it is, everything else escaped, at most about 200 characters.
pub(crate) fn shown(name: &[u8]) -> String {
    const LONGEST: usize = 200;
    let mut text = String::new();
    for chunk in name.get(..LONGEST).unwrap_or(name).utf8_chunks() {
        for letter in chunk.valid().chars() {
            // Format characters could turn a line's direction round.
            let plain = !letter.is_control()
                && !matches!(letter, '"' | '\\' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
            if plain {
                text.push(letter);
            } else {
                text.extend(letter.escape_default());
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    if name.len() > LONGEST {
        let _ = write!(text, "… ({} bytes)", name.len());
    }
    text
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, action: &'static str, why: impl Into<String>) -> Self {
        Self { action, entry: Vec::new(), why: why.into(), kind, offset: None, source: None }
    }

    /// A system call on an entry failed.
    pub(crate) fn system(action: &'static str, entry: &[u8], why: impl Into<String>, errno: Errno) -> Self {
        Self {
            action,
            entry: entry.to_vec(),
            why: why.into(),
            kind: kind_of(errno),
            offset: None,
            source: Some(errno.into()),
        }
    }

    /// The stream's source or target failed.
    pub(crate) fn io(action: &'static str, why: impl Into<String>, error: io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::UnexpectedEof => ErrorKind::Truncated,
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => ErrorKind::Malformed,
            _ => error.raw_os_error().map_or(ErrorKind::Io, |number| kind_of(Errno::from_raw(number))),
        };
        Self { action, entry: Vec::new(), why: why.into(), kind, offset: None, source: Some(error) }
    }

    /// The same, of this entry, unless it names one already.
    #[must_use]
    pub(crate) fn of(mut self, entry: &[u8]) -> Self {
        if self.entry.is_empty() {
            self.entry = entry.to_vec();
        }
        self
    }

    /// The same, of the entry whose header begins here.
    #[must_use]
    pub(crate) fn at(mut self, offset: u64) -> Self {
        self.offset.get_or_insert(offset);
        self
    }

    /// The class of the failure.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

fn kind_of(errno: Errno) -> ErrorKind {
    match errno {
        Errno::ENOENT => ErrorKind::NotFound,
        Errno::ENOSPC | Errno::EDQUOT => ErrorKind::NoSpace,
        Errno::EROFS => ErrorKind::ReadOnly,
        Errno::EPERM | Errno::EACCES => ErrorKind::Permission,
        Errno::EOPNOTSUPP | Errno::ENOSYS => ErrorKind::Unsupported,
        Errno::EXDEV => ErrorKind::Refused,
        Errno::ENAMETOOLONG | Errno::EFBIG | Errno::EMLINK => ErrorKind::Limit,
        _ => ErrorKind::Io,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_with_what_where_why() {
        let error =
            Error::new(ErrorKind::Refused, "apply", "the name climbs out of the tree").of(b"../x").at(512);
        assert_eq!(
            error.to_string(),
            "cannot apply \"../x\": the name climbs out of the tree (at byte 512 of the stream)"
        );
        let error = Error::system("compare", b"etc", "it cannot be opened", Errno::EACCES);
        assert_eq!(
            error.to_string(),
            "cannot compare \"etc\": it cannot be opened: Permission denied (os error 13)"
        );
        assert_eq!(error.kind(), ErrorKind::Permission);
    }

    #[test]
    fn names_cannot_speak_to_the_terminal() {
        assert_eq!(shown(b"a\n\x1b[2J\xff\"\xe2\x80\xae"), "a\\n\\u{1b}[2J\\xff\\\"\\u{202e}");
        assert_eq!(shown("größe".as_bytes()), "größe");
    }

    #[test]
    fn a_long_name_is_cut() {
        let text = shown(&[b'a'; 4000]);
        assert!(text.len() < 250 && text.ends_with("… (4000 bytes)"), "{text}");
    }

    #[test]
    fn the_first_entry_and_place_stay() {
        let error = Error::new(ErrorKind::Limit, "apply", "x").of(b"a").of(b"b").at(1).at(2);
        assert_eq!((error.entry.as_slice(), error.offset), (b"a".as_slice(), Some(1)));
    }
}
