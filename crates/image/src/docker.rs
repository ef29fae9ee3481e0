//! Docker's own image store, read: the images, layers and containers of a data root that perhaps no Docker can start any more.
//!
//! Nothing is written. Entries that are damaged are told, each with its file, and left out; the rest is given. What a layer's *files* are is in the storage driver's folder,
//! under the layer's [`DockerLayer::cache_id`], and not this crate's matter.
//!
//! ```text
//! ROOT/image/DRIVER/repositories.json                 names
//!                   imagedb/content/sha256/ID         configs
//!                   layerdb/sha256/CHAIN/             cache-id, diff, parent, size, tar-split.json.gz
//!                   layerdb/mounts/CONTAINER/         mount-id, init-id, parent
//! ROOT/containers/CONTAINER/config.v2.json            name, image, command
//! ```

mod containers;
mod images;
mod layers;

pub use containers::DockerContainer;
pub use images::DockerImage;
pub use layers::DockerLayer;

use crate::digest::{Digest, clipped};
use crate::error::{Error, Result};
use crate::folder::Folder;
use crate::json::read_limited;
use crate::source::MOST_JSON;
use std::path::{Path, PathBuf};

/// Bytes of the small files that hold one id or number.
const MOST_LINE: u64 = 1024;

/// An entry that is left out, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DockerFinding {
    /// The entry, below the data root.
    pub path: PathBuf,
    /// What is wrong with it, in one line.
    pub why: String,
}

/// What was found, and what had to be left out.
#[derive(Clone, Debug)]
pub struct Listed<T> {
    /// What is there, sorted.
    pub items: Vec<T>,
    /// What is damaged.
    pub findings: Vec<DockerFinding>,
}

/// The image store that Docker kept for one storage driver.
#[derive(Debug)]
pub struct DockerStore {
    root: PathBuf,
    driver: String,
    /// `image/DRIVER`.
    folder: Folder,
}

impl DockerStore {
    /// The storage drivers that a data root has an image store for, sorted.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn drivers(root: &Path) -> Result<Vec<String>> {
        list(&root.join("image"))
    }

    /// Opens the store of a storage driver, like `devicemapper`.
    ///
    /// # Errors
    /// [`Error::NoImageStore`] if there is none, and those of the disk.
    pub fn open(root: &Path, driver: &str) -> Result<Self> {
        let available = Self::drivers(root)?;
        if !available.iter().any(|known| known == driver) {
            return Err(Error::NoImageStore { root: root.to_owned(), driver: clipped(driver), available });
        }
        let folder = Folder::open_root(&root.join("image").join(driver))?;
        Ok(Self { root: root.to_owned(), driver: driver.to_owned(), folder })
    }

    /// The storage driver.
    pub fn driver(&self) -> &str {
        &self.driver
    }

    /// A file's path below the data root, for findings.
    fn below_root(&self, name: &str) -> PathBuf {
        Path::new("image").join(&self.driver).join(name)
    }

    fn finding(&self, name: &str, error: &Error) -> DockerFinding {
        DockerFinding { path: self.below_root(name), why: error.to_string() }
    }

    fn document(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.folder.open(name)?.map(|file| read_limited(file, name, MOST_JSON)).transpose()
    }

    /// A file that holds one id or number; `None` if there is none.
    fn line(&self, name: &str) -> Result<Option<String>> {
        let Some(file) = self.folder.open(name)? else { return Ok(None) };
        let bytes = read_limited(file, name, MOST_LINE)?;
        let text = std::str::from_utf8(&bytes).unwrap_or_default().trim();
        if text.is_empty() {
            return Err(Error::damaged(name, "it is empty, or no text"));
        }
        Ok(Some(text.to_owned()))
    }

    fn digest(&self, name: &str) -> Result<Option<Digest>> {
        self.line(name)?.map(|text| text.parse()).transpose()
    }

    /// The name of a driver's layer: what Docker makes is hexadecimal digits, or a container's id with `-init`.
    fn layer_name(&self, name: &str) -> Result<Option<String>> {
        let Some(text) = self.line(name)? else { return Ok(None) };
        let fine = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if text.len() > 128 || !text.bytes().all(fine) {
            return Err(Error::damaged(name, "it names no layer"));
        }
        Ok(Some(text))
    }
}

/// What a folder holds, sorted; nothing if it is not there. Names that are not UTF-8 are nobody's here.
fn list(folder: &Path) -> Result<Vec<String>> {
    let failed = |error| Error::io("list", folder, error);
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        if let Ok(name) = entry.map_err(failed)?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// The one item that a name or an id, or the beginning of an id, means.
fn find<T: Clone>(
    what: &'static str,
    wanted: &str,
    items: &[T],
    called: impl Fn(&T) -> bool,
    hex_id: impl Fn(&T) -> String,
    shown: impl Fn(&T) -> String,
) -> Result<T> {
    if let Some(item) = items.iter().find(|item| called(item)) {
        return Ok(item.clone());
    }
    let digits = wanted.strip_prefix("sha256:").unwrap_or(wanted);
    let hex = digits.len() >= 4 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut by_id = items.iter().filter(|item| hex && hex_id(item).starts_with(digits));
    match (by_id.next(), by_id.next()) {
        (Some(item), None) => Ok(item.clone()),
        (Some(_), Some(_)) => Err(Error::Invalid {
            what: format!("several {what}s have an id that begins with {digits}"),
            remedy: "give more of it",
        }),
        _ => Err(Error::NoSuchImage { name: clipped(wanted), available: items.iter().map(shown).collect() }),
    }
}
