//! An OCI layout as a folder.
//!
//! # References
//! OCI image specification, `image-layout.md`, `manifest.md`; `annotations.md` for the names.

use super::{NewImage, WrittenImage, WrittenLayer};
use crate::compression::{Compression, Compressor, Decompressed};
use crate::digest::{Digest, Hasher, VerifyingReader};
use crate::documents::{CONFIG, Config, INDEX, MANIFEST, Manifest};
use crate::error::{Error, Result};
use crate::json::{parse, read_limited};
use crate::layer::Layer;
use crate::platform::Platform;
use crate::source::{MOST_JSON, blob_name};
use serde::Serialize;
use serde_json::{Value, json};
use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

const BUFFER: usize = 256 << 10;
const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// Writes an OCI layout into a folder, which may already hold one: its other images stay.
///
/// Blobs are written under a temporary name and renamed when their digest is known; the index is replaced last, by [`LayoutWriter::finish`]. What is
/// interrupted leaves blobs that no index names, and never an index that names what is not there.
#[derive(Debug)]
pub struct LayoutWriter {
    folder: PathBuf,
    entries: Vec<Value>,
    durable: bool,
    pub(super) images: Vec<Saved>,
}

/// What an archive's own lists need of an image.
#[derive(Debug)]
pub(super) struct Saved {
    pub(super) config: Digest,
    pub(super) names: Vec<crate::Name>,
    pub(super) layers: Vec<Digest>,
}

#[derive(Serialize)]
struct DescriptorOut<'a> {
    #[serde(rename = "mediaType")]
    media_type: &'a str,
    digest: Digest,
    size: u64,
}

#[derive(Serialize)]
struct ManifestOut<'a> {
    #[serde(rename = "schemaVersion")]
    schema_version: u32,
    #[serde(rename = "mediaType")]
    media_type: &'a str,
    config: DescriptorOut<'a>,
    layers: Vec<DescriptorOut<'a>>,
}

impl LayoutWriter {
    /// Makes the folder, or goes on with the layout that is there.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the folder holds something else, [`Error::Damaged`] if its index cannot be read, and those of the disk.
    pub fn create(folder: &Path) -> Result<Self> {
        let mut writer = Self::begin(folder)?;
        writer.durable = true;
        let index = folder.join("index.json");
        if index.try_exists().map_err(|error| Error::io("look at", &index, error))? {
            let file = File::open(&index).map_err(|error| Error::io("open", &index, error))?;
            let what = index.display().to_string();
            let mut old: Value = parse(&read_limited(file, &what, MOST_JSON)?, &what)?;
            match old.get_mut("manifests").map(Value::take) {
                Some(Value::Array(entries)) => writer.entries = entries,
                _ => return Err(Error::damaged(what, "it lists no manifests")),
            }
        }
        Ok(writer)
    }

    /// For a folder of nobody else's, which is read again at once.
    pub(super) fn begin(folder: &Path) -> Result<Self> {
        let mine = |name: &str| matches!(name, "blobs" | "index.json" | "oci-layout");
        match fs::read_dir(folder) {
            Ok(found) => {
                for entry in found {
                    let entry = entry.map_err(|error| Error::io("list", folder, error))?;
                    let name = entry.file_name();
                    if !name.to_str().is_some_and(|name| mine(name) || name.starts_with('.')) {
                        return Err(Error::Invalid {
                            what: format!("{} holds something else than an OCI layout", folder.display()),
                            remedy: "give an empty folder, a layout or a new name",
                        });
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("list", folder, error)),
        }
        let blobs = folder.join("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(|error| Error::io("make", &blobs, error))?;
        Ok(Self { folder: folder.to_owned(), entries: Vec::new(), durable: false, images: Vec::new() })
    }

    /// Writes a layer from the stream of its uncompressed tar. With `expected` its diff id must be that one, or nothing is kept.
    ///
    /// # Errors
    /// [`Error::WrongDigest`], what the stream says, and those of the disk.
    pub fn layer(
        &mut self,
        tar: impl Read,
        compression: Compression,
        expected: Option<Digest>,
    ) -> Result<WrittenLayer> {
        let mut tar = VerifyingReader::new(tar, "the layer's tar", expected, None);
        let target = self.temporary()?;
        let path = target.path().to_owned();
        let failed = |error| Error::io("write", &path, error);
        let counted = Hashing { target: BufWriter::with_capacity(BUFFER, target), hasher: Hasher::new() };
        let mut compressor = Compressor::new(compression, counted).map_err(failed)?;
        copy(&mut tar, &mut compressor, &path)?;
        let mut counted = compressor.finish().map_err(failed)?;
        counted.target.flush().map_err(failed)?;
        let size = counted.hasher.bytes();
        let digest = counted.hasher.finish();
        let target = counted.target.into_inner().map_err(|error| failed(error.into_error()))?;
        self.keep(target, &digest)?;
        let media_type = compression.layer_media_type().to_owned();
        Ok(WrittenLayer { diff_id: tar.so_far(), digest, size, media_type })
    }

    /// Copies a layer as a source stores it, compressed or not: the blob keeps its digest. Both its digests are checked on the way.
    ///
    /// # Errors
    /// What is wrong with the layer, and those of the disk.
    pub fn copy(&mut self, layer: &Layer) -> Result<WrittenLayer> {
        let target = self.temporary()?;
        let path = target.path().to_owned();
        let mut stored = layer.open_stored()?;
        let mut counted = Hashing { target: BufWriter::with_capacity(BUFFER, target), hasher: Hasher::new() };
        copy(&mut stored, &mut counted, &path)?;
        counted.target.flush().map_err(|error| Error::io("write", &path, error))?;
        let size = counted.hasher.bytes();
        let digest = counted.hasher.finish();
        let target =
            counted.target.into_inner().map_err(|error| Error::io("write", &path, error.into_error()))?;
        // What was written is what is checked, though its source may change meanwhile.
        let written = File::open(&path).map_err(|error| Error::io("open", &path, error))?;
        let tar = Decompressed::new(written)?;
        let compression = tar.compression();
        let mut tar =
            VerifyingReader::new(tar, "the layer's tar", Some(layer.diff_id), None).limited(layer.limit);
        io::copy(&mut tar, &mut io::sink())
            .map_err(|error| Error::from_stream(error).within(&layer.place))?;
        self.keep(target, &digest)?;
        let media_type =
            layer.media_type.clone().unwrap_or_else(|| compression.layer_media_type().to_owned());
        Ok(WrittenLayer { diff_id: layer.diff_id, digest, size, media_type })
    }

    /// Writes config and manifest of an image whose layers are written, and enters it in the index, in place of entries with its names.
    ///
    /// # Errors
    /// [`Error::Invalid`] if config, layers and manifest do not fit together, and those of the disk.
    pub fn image(&mut self, image: &NewImage<'_>) -> Result<WrittenImage> {
        let config = Config::parse(image.config, "the config")?;
        if !config.diff_ids().iter().eq(image.layers.iter().map(|layer| &layer.diff_id)) {
            return Err(Error::Invalid {
                what: "the config does not name the layers that were written".into(),
                remedy: "give the layers in the order of its diff ids, or make a new config",
            });
        }
        let id = Digest::of(image.config);
        let new;
        let (bytes, media_type) = match image.manifest {
            Some(bytes) => (bytes, fitting(bytes, id, image.layers)?),
            None => {
                new = manifest(image, id)?;
                (new.as_slice(), MANIFEST[0].to_owned())
            }
        };
        self.blob(image.config)?;
        let digest = self.blob(bytes)?;
        let entry = json!({"mediaType": media_type, "digest": digest, "size": bytes.len(), "platform": platform(&config.platform())});
        let names: Vec<String> = image.names.iter().map(crate::Name::full).collect();
        self.entries.retain(|entry| {
            let annotations = &entry["annotations"];
            let called = annotations["io.containerd.image.name"].as_str();
            let nameless_twin =
                image.names.is_empty() && called.is_none() && entry["digest"] == json!(digest);
            !nameless_twin && !called.is_some_and(|called| names.iter().any(|name| name == called))
        });
        if image.names.is_empty() {
            self.entries.push(entry);
        } else {
            for name in image.names {
                let mut entry = entry.clone();
                entry["annotations"] = json!({
                    "io.containerd.image.name": name.full(),
                    "org.opencontainers.image.ref.name": name.tag(),
                });
                self.entries.push(entry);
            }
        }
        let layers = image.layers.iter().map(|layer| layer.digest).collect();
        self.images.push(Saved { config: id, names: image.names.to_vec(), layers });
        Ok(WrittenImage { id, manifest: digest })
    }

    /// Writes the index: from now on the images are there.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn finish(self) -> Result<()> {
        self.write_index()
    }

    pub(super) fn write_index(&self) -> Result<()> {
        self.file("oci-layout", LAYOUT)?;
        let index = json!({"schemaVersion": 2, "mediaType": INDEX[0], "manifests": self.entries});
        self.file("index.json", index.to_string().as_bytes())?;
        if self.durable {
            sync(&self.folder)?;
        }
        Ok(())
    }

    /// Puts a small file into its place, whole or not at all.
    pub(super) fn file(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.folder.join(name);
        let mut target = self.temporary()?;
        target.write_all(bytes).map_err(|error| Error::io("write", &path, error))?;
        self.persist(target, &path)
    }

    fn blob(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        self.file(&blob_name(&digest), bytes)?;
        Ok(digest)
    }

    fn temporary(&self) -> Result<NamedTempFile> {
        let folder = self.folder.join("blobs/sha256");
        tempfile::Builder::new()
            .prefix(".tmp-thinlayer-")
            .permissions(Permissions::from_mode(0o644))
            .tempfile_in(&folder)
            .map_err(|error| Error::io("make a temporary file in", &folder, error))
    }

    fn keep(&self, target: NamedTempFile, digest: &Digest) -> Result<()> {
        self.persist(target, &self.folder.join(blob_name(digest)))
    }

    fn persist(&self, target: NamedTempFile, path: &Path) -> Result<()> {
        if self.durable {
            target.as_file().sync_data().map_err(|error| Error::io("write", path, error))?;
        }
        target.persist(path).map_err(|error| Error::io("rename a temporary file to", path, error.error))?;
        match path.parent() {
            Some(folder) if self.durable => sync(folder),
            _ => Ok(()),
        }
    }
}

fn sync(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| Error::io("sync", folder, error))
}

/// Copies a stream of the caller's, and tells its errors from those of the disk.
fn copy(stream: &mut impl Read, target: &mut impl Write, path: &Path) -> Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => target.write_all(&buffer[..read]).map_err(|error| Error::io("write", path, error))?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::from_stream(error)),
        }
    }
}

/// Takes a digest of what is written.
struct Hashing<W> {
    target: W,
    hasher: Hasher,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.target.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.target.flush()
    }
}

fn platform(platform: &Platform) -> Value {
    serde_json::to_value(platform).unwrap_or_default()
}

fn manifest(image: &NewImage<'_>, id: Digest) -> Result<Vec<u8>> {
    let layers = image.layers.iter().map(|layer| DescriptorOut {
        media_type: &layer.media_type,
        digest: layer.digest,
        size: layer.size,
    });
    let config = DescriptorOut { media_type: CONFIG[0], digest: id, size: image.config.len() as u64 };
    let manifest =
        ManifestOut { schema_version: 2, media_type: MANIFEST[0], config, layers: layers.collect() };
    serde_json::to_vec(&manifest).map_err(|error| Error::Stream(error.into()))
}

/// The media type of a manifest that is kept, which must name exactly what was written.
fn fitting(bytes: &[u8], id: Digest, layers: &[WrittenLayer]) -> Result<String> {
    let manifest = Manifest::parse(bytes, "the manifest")?;
    let same = manifest.config.digest == id
        && manifest.layers.0.len() == layers.len()
        && manifest
            .layers
            .0
            .iter()
            .zip(layers)
            .all(|(named, written)| (named.digest, named.size) == (written.digest, written.size));
    if !same {
        return Err(Error::Invalid {
            what: "the manifest names other blobs than were written".into(),
            remedy: "copy the layers as they are stored, or leave the manifest out",
        });
    }
    let docker = manifest.config.media_type == CONFIG[1];
    let default = if docker { MANIFEST[1] } else { MANIFEST[0] };
    Ok(if manifest.media_type.is_empty() { default.to_owned() } else { manifest.media_type })
}
