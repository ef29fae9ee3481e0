//! What can be wrong with metadata: [`Error`], which names the block.

use crate::quantity::{MetaBlocks, ThinId};
use std::fmt;
use std::io;

/// The result of reading metadata.
pub type Result<T> = std::result::Result<T, Error>;

/// What a block of metadata is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BlockKind {
    /// Block 0, and the copy of it that a metadata snapshot begins with.
    Superblock,
    /// A node of one of the B-trees.
    Node,
    /// A bitmap of a space map.
    Bitmap,
    /// The list of the metadata space map's bitmaps.
    Index,
}

impl BlockKind {
    /// What the kernel mixes into the checksum of such a block.
    pub(super) const fn mark(self) -> u32 {
        match self {
            Self::Superblock => 160_774,
            Self::Node => 121_107,
            Self::Bitmap => 240_779,
            Self::Index => 160_478,
        }
    }
}

impl fmt::Display for BlockKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Superblock => "the superblock",
            Self::Node => "a tree's node",
            Self::Bitmap => "a space map's bitmap",
            Self::Index => "the metadata space map's index",
        })
    }
}

/// Metadata that cannot be read. One line; [`Error::kind`] tells the classes apart.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The device cannot be opened or measured.
    #[error("cannot open the metadata {device}: {source}")]
    Open {
        /// The device or file.
        device: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A block cannot be read.
    #[error("cannot read metadata block {block} of {device}: {source}", block = .block.0)]
    Read {
        /// The device or file.
        device: String,
        /// Which block.
        block: MetaBlocks,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// There is no pool on it.
    #[error("{device} holds no pool's metadata: {why}")]
    NoPool {
        /// The device or file.
        device: String,
        /// How one sees that.
        why: String,
    },
    /// A pool of a kind that is not known here.
    #[error("the metadata {device} is of a kind that this version does not know: {why}")]
    Unknown {
        /// The device or file.
        device: String,
        /// What is not known.
        why: String,
    },
    /// A block holds what it must not.
    #[error("metadata block {block} of {device} ({kind}) is damaged: {what}; `thin_check {device}` tells more", block = .block.0)]
    Damaged {
        /// The device or file.
        device: String,
        /// Which block.
        block: MetaBlocks,
        /// What it should be.
        kind: BlockKind,
        /// What is wrong with it.
        what: String,
    },
    /// The pool has no metadata snapshot.
    #[error("the pool of {device} holds no metadata snapshot; reserve one first")]
    NoSnapshot {
        /// The device or file.
        device: String,
    },
    /// A metadata snapshot has no space maps.
    #[error(
        "{device} is read at its metadata snapshot, which has no space maps; take the pool down and read it then"
    )]
    NoSpaceMaps {
        /// The device or file.
        device: String,
    },
    /// There is no such thin device.
    #[error("the pool on {device} has no thin id {id}")]
    NoSuchId {
        /// The device or file.
        device: String,
        /// The id.
        id: ThinId,
    },
}

/// Classes of [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The system refused.
    Io,
    /// It is no pool, or one of a kind that is not known.
    NoPool,
    /// It is damaged.
    Damaged,
    /// What was asked for is not in it.
    NotFound,
}

impl Error {
    /// The class of the failure.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Open { .. } | Self::Read { .. } => Kind::Io,
            Self::NoPool { .. } | Self::Unknown { .. } => Kind::NoPool,
            Self::Damaged { .. } => Kind::Damaged,
            Self::NoSnapshot { .. } | Self::NoSpaceMaps { .. } | Self::NoSuchId { .. } => Kind::NotFound,
        }
    }
}
