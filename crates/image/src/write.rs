//! Images written: an OCI layout as a folder, and an archive that is layout and `docker load`-able at once.

mod archive;
mod layout;

pub use archive::ArchiveWriter;
pub use layout::LayoutWriter;

use crate::digest::Digest;
use crate::names::Name;

/// A layer that was written, to be named by images.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WrittenLayer {
    /// The digest of its uncompressed tar.
    pub diff_id: Digest,
    /// The digest of the blob.
    pub digest: Digest,
    /// Bytes of the blob.
    pub size: u64,
    /// The blob's media type.
    pub media_type: String,
}

/// An image to be written.
#[derive(Clone, Debug)]
pub struct NewImage<'a> {
    /// Its names; it may have none.
    pub names: &'a [Name],
    /// The bytes of its config, whose digest is the image id. They name the diff ids of the layers.
    pub config: &'a [u8],
    /// Its layers, the lowest first.
    pub layers: &'a [WrittenLayer],
    /// The manifest that it had, to be kept byte for byte: only where every layer's blob is again the same.
    pub manifest: Option<&'a [u8]>,
}

/// An image that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WrittenImage {
    /// The image id: the digest of its config.
    pub id: Digest,
    /// The digest of its manifest.
    pub manifest: Digest,
}
