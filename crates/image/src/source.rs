//! A file, folder or stream that holds images: what kind is it, and which images are there?

mod archive;
mod layout;
mod spool;

use crate::compression::Compression;
use crate::digest::{Digest, VerifyingReader};
use crate::documents::Descriptor;
use crate::error::{Error, Result};
use crate::folder::Folder;
use crate::image::Image;
use crate::json::read_limited;
use crate::platform::Platform;
use crate::slice::Slice;
use crate::tar_index::TarIndex;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of a JSON document at most: more than registries take.
pub(crate) const MOST_JSON: u64 = 8 << 20;
const INDEX: &str = "index.json";
const MANIFEST: &str = "manifest.json";

/// How a source is read.
#[derive(Clone, Debug)]
pub struct ReadOptions {
    /// The platform that is wanted of images for several; `None` is this machine's, and takes an image that is only for one as it is.
    pub platform: Option<Platform>,
    /// Bytes that one layer may have when it is decompressed. Default: 1 TiB.
    pub layer_limit: u64,
    /// Bytes that an archive may have which has to be spooled, since it is compressed or comes through a pipe. Default: 64 GiB.
    pub spool_limit: u64,
    /// The folder for the spooled archive, a file without a name. Default: the system's folder for temporary files.
    pub spool_folder: PathBuf,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self {
            platform: None,
            layer_limit: 1 << 40,
            spool_limit: 64 << 30,
            spool_folder: std::env::temp_dir(),
        }
    }
}

/// Where the files of a source are.
#[derive(Debug)]
pub(crate) enum Storage {
    Folder(Folder),
    Archive(TarIndex),
}

impl Storage {
    pub(crate) fn open(&self, name: &str) -> Result<Option<Slice>> {
        match self {
            Self::Folder(folder) => folder.open(name),
            Self::Archive(index) => index.open(name),
        }
    }

    /// A small file as a whole.
    pub(crate) fn document(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.open(name)?.map(|slice| read_limited(slice, name, MOST_JSON)).transpose()
    }

    /// A small blob, checked.
    pub(crate) fn blob(&self, what: &'static str, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let named = format!("{what} {}", descriptor.digest);
        if descriptor.size > MOST_JSON {
            return Err(Error::too_large(named, MOST_JSON));
        }
        let Some(slice) = self.open(&blob_name(&descriptor.digest))? else {
            return Err(Error::Missing { what: named });
        };
        let verified = VerifyingReader::new(slice, what, Some(descriptor.digest), Some(descriptor.size));
        read_limited(verified, &named, MOST_JSON)
    }
}

/// Where a layout keeps a blob (OCI image specification, `image-layout.md`).
pub(crate) fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// A source of images: an OCI layout as folder or archive, or what `docker save` wrote, by any version since 1.10. An archive may be compressed as a whole.
///
/// An archive in a file is read where it lies; one that is compressed or comes through a pipe is first spooled to a file without a name, up to
/// [`ReadOptions::spool_limit`]. Nothing is unpacked by its name. In memory are the headers' names, up to 16 MiB of them, and the documents of the images asked for, each up to 8 MiB.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    storage: Arc<Storage>,
    options: ReadOptions,
}

impl Source {
    /// Opens a folder or a file.
    ///
    /// # Errors
    /// [`Error::NotAnImage`], [`Error::Damaged`], [`Error::Unsupported`], [`Error::TooLarge`], and those of the disk.
    pub fn open(path: &Path, options: ReadOptions) -> Result<Self> {
        let failed = |error| Error::io("open", path, error);
        if std::fs::metadata(path).map_err(failed)?.is_dir() {
            let storage = Storage::Folder(Folder::open_root(path)?);
            return Self::new(path, storage, options);
        }
        // A pipe is waited for by the read that follows, which can be interrupted.
        let mut file =
            OpenOptions::new().read(true).custom_flags(nix::libc::O_NOCTTY).open(path).map_err(failed)?;
        let mut first = Vec::new();
        if !file.metadata().map_err(failed)?.is_file() {
            return Self::from_stream(file, path, options);
        }
        (&mut file).take(6).read_to_end(&mut first).map_err(failed)?;
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        match Compression::detect(&first).map_err(|error| error.within(path.display().to_string()))? {
            Compression::None => Self::of_archive(path, file, options),
            _ => Self::from_stream(file, path, options),
        }
    }

    /// Spools a stream: an archive from a pipe, compressed or not. `name` is for messages.
    ///
    /// # Errors
    /// As of [`Source::open`].
    pub fn from_stream(stream: impl Read, name: &Path, options: ReadOptions) -> Result<Self> {
        let file = spool::spool(stream, name, &options)?;
        Self::of_archive(name, file, options)
    }

    fn of_archive(path: &Path, file: File, options: ReadOptions) -> Result<Self> {
        Self::new(path, Storage::Archive(TarIndex::read(path, file)?), options)
    }

    fn new(path: &Path, storage: Storage, options: ReadOptions) -> Result<Self> {
        let not = |why: &str| Err(Error::NotAnImage { path: path.to_owned(), why: why.into() });
        if storage.open(INDEX)?.is_none() && storage.open(MANIFEST)?.is_none() {
            if storage.open("repositories")?.is_some() {
                return not("it was written by Docker before 1.10: load and save it again with a newer one");
            }
            return not("neither index.json nor manifest.json is there");
        }
        Ok(Self { path: path.to_owned(), storage: Arc::new(storage), options })
    }

    /// All images, in the source's order, each for the platform that is wanted. An image whose layers are not all there is an error.
    ///
    /// # Errors
    /// What is wrong with the first image that is damaged, missing in part, or not for the platform.
    pub fn images(&self) -> Result<Vec<Image>> {
        self.read(None)
    }

    /// The one image of that name, or of that image id. Other images of the source may be damaged.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`]; what is wrong with the image.
    pub fn image(&self, name: &str) -> Result<Image> {
        match self.read(Some(name))?.into_iter().next() {
            Some(image) => Ok(image),
            None => Err(Error::NoSuchImage { name: crate::digest::clipped(name), available: self.names()? }),
        }
    }

    /// The names of all images, without reading further.
    ///
    /// # Errors
    /// What is wrong with the source's own lists.
    pub fn names(&self) -> Result<Vec<String>> {
        let mut names: Vec<String> = Vec::new();
        if let Some(bytes) = self.storage.document(INDEX)? {
            names.extend(layout::groups(&bytes)?.into_iter().flat_map(|group| group.names));
        }
        if let Some(bytes) = self.storage.document(MANIFEST)? {
            for saved in archive::list(&bytes)? {
                names.extend(archive::names(&saved)?);
            }
        }
        names.sort();
        names.dedup();
        Ok(names)
    }

    fn read(&self, wanted: Option<&str>) -> Result<Vec<Image>> {
        let context = |error: Error| error.within(self.path.display().to_string());
        let saved = match self.storage.document(MANIFEST).map_err(context)? {
            Some(bytes) => archive::list(&bytes).map_err(context)?,
            None => Vec::new(),
        };
        let mut images = match self.storage.document(INDEX).map_err(context)? {
            Some(bytes) => {
                layout::read(&self.storage, &self.options, &bytes, &saved, wanted).map_err(context)?
            }
            None => Vec::new(),
        };
        archive::add(&self.storage, &self.options, &saved, wanted, &mut images).map_err(context)?;
        Ok(images)
    }
}

/// Is an image so called meant? `debian` means `debian:latest`, and `docker.io/library/debian:latest` the same.
pub(crate) fn is_called(names: &[String], wanted: &str) -> bool {
    let written_out = |name: &str| name.parse::<crate::Name>().map(|name| name.full()).ok();
    names.iter().any(|name| name == wanted)
        || written_out(wanted)
            .is_some_and(|full| names.iter().any(|name| written_out(name).as_ref() == Some(&full)))
}
