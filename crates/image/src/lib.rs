//! Container images as files, for programs that take images in and give them out: OCI layouts, `docker save` archives and Docker's own image store. Every digest and size is
//! checked while it streams, and a layer's tar can be taken apart and given back byte for byte, so that an image that came in goes out with the same id.
//!
//! It touches files only: no kernel interface, no network, no registry. What a layer's tar becomes (a tree, a block device) is its caller's matter.
//!
//! | to | use |
//! | --- | --- |
//! | read images from a folder, an archive or a pipe | [`Source::open`], [`Source::from_stream`], [`Source::images`], [`Source::image`] |
//! | read a layer's tar, checked | [`Layer::open`], [`Layer::open_ahead`]: decompressing, hashing and the caller's work overlap |
//! | remember a tar while it is unpacked | [`Splitter`], whose record has the form of Docker's `tar-split.json.gz` |
//! | give the tar back | [`Assembler`], from the record and the tree ([`TreeFolder`], or a closure) |
//! | write an OCI layout | [`LayoutWriter`] |
//! | write an archive for `docker load` | [`ArchiveWriter`] |
//! | make a config for new layers | [`new_config`] |
//! | read a Docker data root that no Docker opens any more | [`DockerStore`] |
//! | name things | [`Digest`], [`chain_ids`], [`Name`], [`Platform`] |
//!
//! ```text
//! Source ─► Image ─► Layer::open_ahead ─► Splitter ─► (unpack)          in
//!                                             └─► record
//! record + tree ─► Assembler ─► LayoutWriter / ArchiveWriter::layer ─► image ─► finish      out
//! ```
//!
//! # Example
//! ```
//! use std::io::Read;
//! use thinlayer_image::{Assembler, Compression, LayoutWriter, NewImage, ReadOptions, Source, SplitOptions, Splitter, TreeFolder};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let place = tempfile::tempdir()?;
//! # let (from, to, tree) = (place.path().join("from"), place.path().join("to"), place.path().join("tree"));
//! # std::fs::create_dir(&tree)?;
//! # let mut writer = LayoutWriter::create(&from)?;
//! # let layer = writer.layer(&[0; 1024][..], Compression::Gzip, None)?;
//! # let platform = thinlayer_image::Platform::host();
//! # let added = thinlayer_image::Addition { diff_id: layer.diff_id, created: std::time::UNIX_EPOCH, created_by: "test".into(), comment: String::new() };
//! # let config = thinlayer_image::new_config(None, &platform, None, &[added])?;
//! # writer.image(&NewImage { names: &["web:1".parse()?], config: &config, layers: &[layer], manifest: None })?;
//! # writer.finish()?;
//! let image = Source::open(&from, ReadOptions::default())?.image("web:1")?;
//! let mut writer = LayoutWriter::create(&to)?;
//! let mut layers = Vec::new();
//! for layer in &image.layers {
//!     // In: the tar goes by, to whoever unpacks it into the tree; its record stays.
//!     let mut tar = Splitter::new(layer.open_ahead()?, Vec::new(), SplitOptions::default());
//!     std::io::copy(&mut tar, &mut std::io::sink())?;
//!     let (split, record) = tar.finish()?;
//!     assert!(split.embed.is_empty());
//!
//!     // Out: the same tar again, which is checked against the layer's diff id.
//!     let tar = Assembler::new(&record[..], TreeFolder::open(&tree)?, Some(layer.diff_id))?;
//!     layers.push(writer.layer(tar, Compression::None, Some(layer.diff_id))?);
//! }
//! let name = "web:1".parse()?;
//! let written = writer.image(&NewImage { names: &[name], config: &image.config, layers: &layers, manifest: None })?;
//! writer.finish()?;
//! assert_eq!(written.id, image.id);
//! # Ok(())
//! # }
//! ```
//!
//! # What is trusted
//! Nothing that a source says. Blobs are found by their digest, files in archives by their names in a table; nothing is unpacked under a name that a source gives, symbolic links in folders are not followed, and
//! documents, lists, layers and archives have limits ([`ReadOptions`], `docs/images.md`). Bytes that were read before the end of a stream are unchecked: who unpacks them throws
//! the result away on an error.
//!
//! # Errors in streams
//! Streams give [`std::io::Error`]; [`Error::from_stream`] takes this crate's error out of it, which names the image, the layer and the digest.

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
