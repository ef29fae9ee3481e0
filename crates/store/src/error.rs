//! What went wrong in the store.

use crate::{DeviceId, InvalidLayerId, LayerId};
use std::io;
use std::path::{Path, PathBuf};

/// The result of a store operation.
pub type Result<T> = std::result::Result<T, Error>;

/// A failed operation of the store. Paths are relative to the root.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such layer.
    #[error("there is no layer {layer}: `ls` shows what there is")]
    NotFound {
        /// The layer.
        layer: LayerId,
    },
    /// The id is in use.
    #[error("layer {layer} exists already: choose another id or remove it first")]
    Exists {
        /// The layer.
        layer: LayerId,
    },
    /// Its record could not be read and was set aside.
    #[error("the record of layer {layer} is damaged ({why}) and lies in {}: mend it and move it back to metadata/{}, or delete it to give the layer up", path.display(), layer.file_name())]
    Damaged {
        /// The layer.
        layer: LayerId,
        /// Where the damaged file is.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A file that the whole store needs is damaged.
    #[error("{} is damaged ({why}): mend it, or move it away if what it holds is not needed", path.display())]
    DamagedFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The store was opened for reading.
    #[error("cannot {action}: the store is open for reading only; open it without --read-only")]
    ReadOnly {
        /// What was tried.
        action: &'static str,
    },
    /// Not a valid id.
    #[error(transparent)]
    InvalidId(#[from] InvalidLayerId),
    /// The file system that holds the root is full.
    #[error("cannot {action} {}: no space on the file system of the root; free some there, removing layers still works", path.display())]
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
    /// The kernel gave no random bytes.
    #[error("cannot get random bytes for a new id: {source}; getrandom(2) must be allowed")]
    Random {
        /// What it answered.
        source: io::Error,
    },
    /// All 2^24 thin ids are in use.
    #[error("all 16777216 thin device ids of the pool are in use: remove layers")]
    IdsExhausted,
    /// Two records must not name one device.
    #[error(
        "thin device {device_id} belongs to {holder}, so it cannot be given to or deleted with {layer}: `check` shows both records"
    )]
    DeviceTaken {
        /// The device.
        device_id: DeviceId,
        /// For whom it was wanted.
        layer: LayerId,
        /// Whose it is.
        holder: String,
    },
    /// The operation contradicts the record.
    #[error("layer {layer} has thin device {recorded}, not {device_id}: read its record again")]
    OtherDevice {
        /// The layer.
        layer: LayerId,
        /// What the operation names.
        device_id: DeviceId,
        /// What the record names.
        recorded: DeviceId,
    },
    /// A transaction must name something.
    #[error("a transaction without operations cannot be written")]
    EmptyTransaction,
    /// The operations do not fit the one sector that arrives whole.
    #[error(
        "{operations} operations take {bytes} bytes in transaction-metadata, which holds {max}: use fewer in one transaction"
    )]
    TransactionTooLong {
        /// How many operations.
        operations: usize,
        /// How many bytes they take.
        bytes: usize,
        /// How many there are.
        max: usize,
    },
    /// One transaction is open at a time.
    #[error("transaction {open} is still open: close or drop it first")]
    TransactionOpen {
        /// The open one.
        open: u64,
    },
    /// The pool's transaction id is not known yet, or contradicts the store.
    #[error("the store does not know the pool's transaction id: finish the recovery first")]
    NotRecovered,
}

/// What a caller may want to tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No such layer.
    NotFound,
    /// The id is in use already.
    Exists,
    /// A transaction is open.
    Busy,
    /// The root's file system is full.
    NoSpace,
    /// The store, or the file system, is read-only.
    ReadOnly,
    /// A file does not hold what it should, or two records name one device.
    Damaged,
    /// The request cannot be right.
    Invalid,
    /// No thin id is left.
    Exhausted,
    /// More than one transaction can hold.
    TooLong,
    /// Not allowed for this user.
    Permission,
    /// The disk failed.
    Io,
}

impl Error {
    /// The class of the failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Exists { .. } => ErrorKind::Exists,
            Self::Damaged { .. } | Self::DamagedFile { .. } | Self::DeviceTaken { .. } => ErrorKind::Damaged,
            Self::ReadOnly { .. } => ErrorKind::ReadOnly,
            Self::NoSpace { .. } => ErrorKind::NoSpace,
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::ReadOnlyFilesystem => ErrorKind::ReadOnly,
                io::ErrorKind::PermissionDenied => ErrorKind::Permission,
                _ => ErrorKind::Io,
            },
            Self::Random { .. } => ErrorKind::Io,
            Self::IdsExhausted => ErrorKind::Exhausted,
            Self::TransactionTooLong { .. } => ErrorKind::TooLong,
            Self::TransactionOpen { .. } => ErrorKind::Busy,
            Self::InvalidId(_) | Self::OtherDevice { .. } | Self::EmptyTransaction | Self::NotRecovered => {
                ErrorKind::Invalid
            }
        }
    }

    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        if is_no_space(&source) {
            Self::NoSpace { action, path, source }
        } else {
            Self::Io { action, path, source }
        }
    }
}

pub(crate) fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => "run as root",
        io::ErrorKind::ReadOnlyFilesystem => "mount the root's file system writable, or use --read-only",
        io::ErrorKind::NotFound => "is this the right root?",
        _ => "look at the kernel log and check the file system of the root",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    #[test]
    fn kinds_follow_the_cause() {
        let io = |kind: io::ErrorKind| Error::io("write", Path::new("metadata/a"), kind.into());
        assert_eq!(io(io::ErrorKind::StorageFull).kind(), ErrorKind::NoSpace);
        assert_eq!(io(io::ErrorKind::QuotaExceeded).kind(), ErrorKind::NoSpace);
        assert_eq!(io(io::ErrorKind::ReadOnlyFilesystem).kind(), ErrorKind::ReadOnly);
        assert_eq!(io(io::ErrorKind::PermissionDenied).kind(), ErrorKind::Permission);
        assert_eq!(io(io::ErrorKind::Other).kind(), ErrorKind::Io);
        assert!(io(io::ErrorKind::Other).source().is_some());
    }

    #[test]
    fn texts_name_the_path_and_the_remedy() {
        let error = Error::Damaged {
            layer: LayerId::base(),
            path: PathBuf::from("thinlayer/quarantine/base.1"),
            why: "it is empty".into(),
        };
        let text = error.to_string();
        assert!(text.contains("thinlayer/quarantine/base.1") && text.contains("metadata/base"), "{text}");
        assert!(!text.contains('\n'));
    }
}
