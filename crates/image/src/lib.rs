//! Container images as files: OCI layouts, `docker save` archives and Docker's own image store, read and written.

mod compression;
mod config;
mod digest;
mod docker;
mod documents;
mod error;
mod folder;
mod image;
mod json;
mod layer;
mod names;
mod platform;
mod read_ahead;
mod record;
mod slice;
mod source;
mod tar_header;
mod tar_index;
mod write;

pub use compression::{Compression, Decompressed};
pub use config::{Addition, new_config};
pub use digest::{Digest, Hasher, VerifyingReader, chain_ids};
pub use docker::{DockerContainer, DockerFinding, DockerImage, DockerLayer, DockerStore, Listed};
pub use error::{Error, ErrorKind, Result};
pub use image::{Image, StoredManifest};
pub use layer::{Layer, LayerStream};
pub use names::Name;
pub use platform::Platform;
pub use read_ahead::ReadAhead;
pub use record::{Assembler, Split, SplitOptions, Splitter, Tree, TreeFolder, changed_files};
pub use source::{ReadOptions, Source};
pub use write::{ArchiveWriter, LayoutWriter, NewImage, WrittenImage, WrittenLayer};
