//! What went wrong with an image.

use crate::digest::{Digest, clipped};
use crate::platform::Platform;
use std::io;
use std::path::{Path, PathBuf};

/// The result of an operation on images.
pub type Result<T> = std::result::Result<T, Error>;

/// A failed operation. The text is one line: where, what, why, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Where it went wrong: which image, which layer.
    #[error("{place}: {error}")]
    In {
        /// The image, the layer or the file.
        place: String,
        /// What it was.
        #[source]
        error: Box<Error>,
    },
    /// Not a digest of the one kind that is used.
    #[error(
        "'{text}' is no digest: `sha256:` and 64 small hexadecimal digits are expected; make the image again if a tool wrote this"
    )]
    InvalidDigest {
        /// What stands there.
        text: String,
    },
    /// A stream's bytes are others.
    #[error("{what} {expected} is damaged: its content has the digest {found}; get or save the image again")]
    WrongDigest {
        /// What was read.
        what: &'static str,
        /// What was expected.
        expected: Digest,
        /// What it is.
        found: Digest,
    },
    /// A stream is longer or shorter than it should be.
    #[error(
        "{what}{} is damaged: it has {} bytes, {expected} are expected; get or save the image again",
        named(digest),
        counted(expected, found)
    )]
    WrongSize {
        /// What was read.
        what: &'static str,
        /// Bytes that were expected.
        expected: u64,
        /// Bytes that were read until it was clear.
        found: u64,
        /// Its digest, where one is known.
        digest: Option<Digest>,
    },
    /// The source lacks something that it names.
    #[error("{what} is missing: get or save the image again, with all of its layers")]
    Missing {
        /// What is missing.
        what: String,
    },
    /// Something holds what it must not.
    #[error("{what} is damaged ({why}): get or save the image again")]
    Damaged {
        /// What.
        what: String,
        /// Why.
        why: String,
    },
    /// More than a limit allows.
    #[error(
        "{what} is larger than the {limit} {unit} that are allowed: give it a larger limit if it is to be trusted"
    )]
    TooLarge {
        /// What.
        what: String,
        /// The limit.
        limit: u64,
        /// What the limit counts.
        unit: &'static str,
    },
    /// Something that is right, but not for us.
    #[error("{what} is not supported: {remedy}")]
    Unsupported {
        /// What.
        what: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The source holds no image.
    #[error("{} holds no image ({why}): an OCI layout or the output of `docker save` is expected", path.display())]
    NotAnImage {
        /// The source.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// The source has no such image or container.
    #[error("there is no '{name}': there are {}", listed(available))]
    NoSuchImage {
        /// What was asked for.
        name: String,
        /// What there is.
        available: Vec<String>,
    },
    /// A data root without an image store of that driver's.
    #[error("{} has no image store of Docker's for storage driver {driver}: {}; is it Docker's data root?", root.display(), stores(available))]
    NoImageStore {
        /// The data root.
        root: PathBuf,
        /// The storage driver.
        driver: String,
        /// The drivers that it has one for.
        available: Vec<String>,
    },
    /// The image was not made for this platform.
    #[error("it is not for platform {wanted}: ask for one of {}", listed(available))]
    NoSuchPlatform {
        /// What was asked for.
        wanted: Platform,
        /// What there is.
        available: Vec<Platform>,
    },
    /// Not a name for an image.
    #[error("'{name}' is no name for an image ({why}): names are like example.org/group/name:tag")]
    InvalidName {
        /// What stands there.
        name: String,
        /// Why not.
        why: &'static str,
    },
    /// A file of the tree is not what it was when the layer was unpacked.
    #[error(
        "file {path} has changed since the layer was unpacked ({why}): the layer's tar cannot be given back byte for byte; export it as a new layer instead"
    )]
    Changed {
        /// The file.
        path: String,
        /// How.
        why: String,
    },
    /// A record of a layer's tar that cannot be used.
    #[error("the record of the layer's tar is damaged ({why}): export it as a new layer instead")]
    DamagedRecord {
        /// Why.
        why: String,
    },
    /// What the caller gave does not fit together.
    #[error("{what}: {remedy}")]
    Invalid {
        /// What.
        what: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The disk is full.
    #[error("cannot {action} {}: no space is left there; free some or choose another folder", path.display())]
    NoSpace {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the disk answered.
        source: io::Error,
    },
    /// The disk failed, or forbids it.
    #[error("cannot {action} {}: {source}; {}", path.display(), remedy(source))]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the disk answered.
        source: io::Error,
    },
    /// A stream of the caller's failed.
    #[error("cannot read or write the stream: {0}; look at where it comes from or goes to")]
    Stream(io::Error),
}

/// What a caller may want to tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No such image, platform or file.
    NotFound,
    /// The content is not what it should be.
    Damaged,
    /// A limit was reached.
    TooLarge,
    /// Right, but not for us.
    Unsupported,
    /// A file changed since its layer was unpacked.
    Changed,
    /// The request cannot be right.
    Invalid,
    /// A file system is full.
    NoSpace,
    /// Not allowed for this user.
    Permission,
    /// The disk failed.
    Io,
}

impl Error {
    /// The class of the failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::In { error, .. } => error.kind(),
            Self::InvalidDigest { .. }
            | Self::WrongDigest { .. }
            | Self::WrongSize { .. }
            | Self::Missing { .. }
            | Self::Damaged { .. }
            | Self::DamagedRecord { .. } => ErrorKind::Damaged,
            Self::TooLarge { .. } => ErrorKind::TooLarge,
            Self::Unsupported { .. } | Self::NotAnImage { .. } => ErrorKind::Unsupported,
            Self::NoSuchImage { .. } | Self::NoSuchPlatform { .. } | Self::NoImageStore { .. } => {
                ErrorKind::NotFound
            }
            Self::Changed { .. } => ErrorKind::Changed,
            Self::InvalidName { .. } | Self::Invalid { .. } => ErrorKind::Invalid,
            Self::NoSpace { .. } => ErrorKind::NoSpace,
            Self::Io { source, .. } | Self::Stream(source) => match source.kind() {
                io::ErrorKind::NotFound => ErrorKind::NotFound,
                io::ErrorKind::PermissionDenied => ErrorKind::Permission,
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
                _ => ErrorKind::Io,
            },
        }
    }

    /// The error that a stream of this crate gave as [`io::Error`]; any other one is the stream's own.
    pub fn from_stream(error: io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(error) => error,
            Err(error) => Self::Stream(error),
        }
    }

    pub(crate) fn within(self, place: impl Into<String>) -> Self {
        Self::In { place: place.into(), error: Box::new(self) }
    }

    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.downcast::<Self>() {
            Ok(error) => error,
            Err(source) => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    Self::NoSpace { action, path, source }
                }
                _ => Self::Io { action, path, source },
            },
        }
    }

    pub(crate) fn too_large(what: impl Into<String>, bytes: u64) -> Self {
        Self::TooLarge { what: what.into(), limit: bytes, unit: "bytes" }
    }

    pub(crate) fn damaged(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Damaged { what: what.into(), why: clipped_line(&why.into()) }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// One line, and not a long one: parsers quote what they read.
fn clipped_line(why: &str) -> String {
    why.chars().take(200).map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

fn named(digest: &Option<Digest>) -> String {
    digest.map(|digest| format!(" {digest}")).unwrap_or_default()
}

fn counted(expected: &u64, found: &u64) -> String {
    if found > expected { "more".to_owned() } else { found.to_string() }
}

fn stores(available: &[String]) -> String {
    if available.is_empty() {
        "there is none at all".to_owned()
    } else {
        format!("there is one for {}", listed(available))
    }
}

fn listed<T: ToString>(available: &[T]) -> String {
    const SHOWN: usize = 20;
    if available.is_empty() {
        return "none with a name".to_owned();
    }
    let mut names: Vec<String> =
        available.iter().take(SHOWN).map(|name| clipped(&name.to_string())).collect();
    if available.len() > SHOWN {
        names.push(format!("{} more", available.len() - SHOWN));
    }
    names.join(", ")
}

fn remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => "run as root",
        io::ErrorKind::NotFound => "is the path right?",
        io::ErrorKind::AlreadyExists => "choose another name or remove it first",
        io::ErrorKind::ReadOnlyFilesystem => "choose a folder on a writable file system",
        _ => "look at the kernel log and check its file system",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    #[test]
    fn kinds_follow_the_cause_through_places() {
        let io = |kind: io::ErrorKind| Error::io("write", Path::new("a"), kind.into());
        assert_eq!(io(io::ErrorKind::StorageFull).kind(), ErrorKind::NoSpace);
        assert_eq!(io(io::ErrorKind::PermissionDenied).kind(), ErrorKind::Permission);
        let inner = Error::Missing { what: "layer 2".into() };
        let outer = inner.within("image a:b");
        assert_eq!(outer.kind(), ErrorKind::Damaged);
        assert!(outer.source().is_some());
        assert_eq!(
            outer.to_string(),
            "image a:b: layer 2 is missing: get or save the image again, with all of its layers"
        );
    }

    #[test]
    fn a_stream_gives_back_the_error_that_was_put_into_it() {
        let error: io::Error = Error::Missing { what: "x".into() }.into();
        assert!(matches!(Error::from_stream(error), Error::Missing { .. }));
        assert!(matches!(Error::from_stream(io::ErrorKind::BrokenPipe.into()), Error::Stream(_)));
        let error: io::Error = Error::too_large("the layer", 7).into();
        assert_eq!(Error::io("read", Path::new("a"), error).kind(), ErrorKind::TooLarge);
    }

    #[test]
    fn what_others_wrote_stays_on_one_line() {
        assert!(!Error::damaged("x", "a\nb\u{1b}[1m").to_string().contains(['\n', '\u{1b}']));
        let error = Error::NoSuchImage { name: "a".into(), available: vec!["b\nc".into(); 100] };
        assert!(error.to_string().contains("80 more") && !error.to_string().contains('\n'));
    }
}
