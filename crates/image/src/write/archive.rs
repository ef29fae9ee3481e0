//! An archive for `docker load`, which is an OCI layout, too.
//!
//! # References
//! Docker's image specification v1.2 for `manifest.json` and `repositories`; OCI image specification, `image-layout.md`.

use super::{LayoutWriter, NewImage, WrittenImage, WrittenLayer};
use crate::compression::Compression;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layer::Layer;
use crate::source::blob_name;
use crate::tar_header::{BLOCK, header, padding};
use serde_json::{Map, Value, json};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;
use tempfile::TempDir;

/// Writes an archive that `docker load`, `podman load`, skopeo and this crate read: `manifest.json` and `repositories` for Docker, and an OCI layout, as
/// Docker 25 and later write them. The same images give the same bytes: names are sorted, times are 0, the owner is root.
///
/// A tar names each file's size before its content and Docker's readers look for the lists by name, so blobs are first put into a folder, which takes as much room as
/// the archive.
#[derive(Debug)]
pub struct ArchiveWriter {
    layout: LayoutWriter,
    folder: TempDir,
}

impl ArchiveWriter {
    /// Collects the blobs in a new folder in `spool`, which goes with the writer.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn new(spool: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("thinlayer-export-")
            .tempdir_in(spool)
            .map_err(|error| Error::io("make a temporary folder in", spool, error))?;
        Ok(Self { layout: LayoutWriter::begin(folder.path())?, folder })
    }

    /// As [`LayoutWriter::layer`].
    ///
    /// # Errors
    /// As there.
    pub fn layer(
        &mut self,
        tar: impl Read,
        compression: Compression,
        expected: Option<Digest>,
    ) -> Result<WrittenLayer> {
        self.layout.layer(tar, compression, expected)
    }

    /// As [`LayoutWriter::copy`].
    ///
    /// # Errors
    /// As there.
    pub fn copy(&mut self, layer: &Layer) -> Result<WrittenLayer> {
        self.layout.copy(layer)
    }

    /// As [`LayoutWriter::image`].
    ///
    /// # Errors
    /// As there.
    pub fn image(&mut self, image: &NewImage<'_>) -> Result<WrittenImage> {
        self.layout.image(image)
    }

    /// Writes the archive.
    ///
    /// # Errors
    /// [`Error::Stream`] if the target fails, and those of the disk.
    pub fn finish(self, mut target: impl Write) -> Result<()> {
        self.layout.write_index()?;
        let mut saved = Vec::new();
        let mut repositories = Map::new();
        for image in &self.layout.images {
            let tags: Vec<String> = image.names.iter().map(ToString::to_string).collect();
            let layers: Vec<String> = image.layers.iter().map(blob_name).collect();
            let tags = if tags.is_empty() { Value::Null } else { json!(tags) };
            saved.push(json!({"Config": blob_name(&image.config), "RepoTags": tags, "Layers": layers}));
            for (name, top) in image.names.iter().zip(image.layers.last().into_iter().cycle()) {
                let tags = repositories.entry(name.repository()).or_insert_with(|| json!({}));
                tags[name.tag()] = json!(top.hex());
            }
        }
        repositories.sort_keys();
        self.layout.file("manifest.json", Value::from(saved).to_string().as_bytes())?;
        self.layout.file("repositories", Value::from(repositories).to_string().as_bytes())?;
        self.pack(&mut target)?;
        target.flush().map_err(Error::from_stream)
    }

    fn pack(&self, target: &mut impl Write) -> Result<()> {
        for folder in ["blobs/", "blobs/sha256/"] {
            target.write_all(&header(folder, 0, true)).map_err(Error::from_stream)?;
        }
        let blobs = self.folder.path().join("blobs/sha256");
        let mut names = Vec::new();
        for entry in fs::read_dir(&blobs).map_err(|error| Error::io("list", &blobs, error))? {
            let entry = entry.map_err(|error| Error::io("list", &blobs, error))?;
            names.push(format!("blobs/sha256/{}", entry.file_name().to_string_lossy()));
        }
        names.sort();
        names.extend(["index.json", "manifest.json", "oci-layout", "repositories"].map(str::to_owned));
        for name in names {
            self.pack_file(&name, target)?;
        }
        target.write_all(&[0; 2 * BLOCK]).map_err(Error::from_stream)
    }

    fn pack_file(&self, name: &str, target: &mut impl Write) -> Result<()> {
        let path = self.folder.path().join(name);
        let failed = |error| Error::io("read", &path, error);
        let file = File::open(&path).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        target.write_all(&header(name, size, false)).map_err(Error::from_stream)?;
        let copied = io::copy(&mut file.take(size), target).map_err(Error::from_stream)?;
        if copied != size {
            return Err(Error::WrongSize {
                what: "a temporary file",
                expected: size,
                found: copied,
                digest: None,
            });
        }
        let rest = usize::try_from(padding(size)).unwrap_or_default();
        target.write_all(&[0; BLOCK][..rest]).map_err(Error::from_stream)
    }
}
