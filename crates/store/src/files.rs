//! Where the store's files are, and how they are replaced and set aside.

use crate::layer_id::{DEVICE_SET, TRANSACTION};
use crate::transaction::{TRANSACTION_FILE_BYTES, padded};
use crate::{Disk, Error, LayerId, Result};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) const METADATA: &str = "metadata";
pub(crate) const OURS: &str = "thinlayer";
pub(crate) const QUARANTINE: &str = "thinlayer/quarantine";
/// Records of layers whose device is gone: kept to look at, and nothing hangs on them.
pub(crate) const WITHOUT_DEVICE: &str = "thinlayer/quarantine/without-device";
pub(crate) const LEGACY_FOLDER: &str = "devicemapper";
pub(crate) const LEGACY: &str = "devicemapper/json";
pub(crate) const LEGACY_MIGRATED: &str = "devicemapper/json.migrated";
/// How our own temporary files begin; Docker's begin with `.tmp` too, so it skips ours.
pub(crate) const OWN_TEMPORARY: &str = ".tmp-thinlayer-";
pub(crate) const TEMPORARY: &str = ".tmp";

pub(crate) fn record_path(layer: &LayerId) -> PathBuf {
    Path::new(METADATA).join(layer.file_name())
}

pub(crate) fn device_set_path() -> PathBuf {
    Path::new(METADATA).join(DEVICE_SET)
}

pub(crate) fn transaction_path() -> PathBuf {
    Path::new(METADATA).join(TRANSACTION)
}

/// The layer whose record a quarantined file was, from its name `<file name>.<number>`.
pub(crate) fn quarantined_layer(name: &str) -> Option<(LayerId, u64)> {
    let (file_name, number) = name.rsplit_once('.')?;
    Some((LayerId::found(file_name).ok()?, number.parse().ok()?))
}

/// The disk, and the name of the next temporary file.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) disk: Arc<dyn Disk>,
    temporaries: u64,
}

impl Files {
    pub(crate) fn new(disk: Arc<dyn Disk>) -> Self {
        Self { disk, temporaries: 0 }
    }

    /// A file's content, if there is such a file.
    pub(crate) fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        match self.disk.read(path) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gives a file in `metadata/` new content in one step; durable after [`Files::sync_metadata`].
    pub(crate) fn replace(&mut self, path: &Path, content: &[u8]) -> Result<()> {
        self.temporaries += 1;
        let temporary = Path::new(METADATA).join(format!("{OWN_TEMPORARY}{}", self.temporaries));
        let written = self
            .disk
            .write(&temporary, content)
            .and_then(|()| self.disk.sync_file(&temporary))
            .and_then(|()| self.disk.rename(&temporary, path));
        written.map_err(|error| {
            // On a full disk the temporary file must not take the last blocks; if it stays, the next start removes it.
            if let Err(again) = self.disk.remove(&temporary)
                && again.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %temporary.display(), error = %again, "cannot remove a temporary file");
            }
            Error::io("write", path, error)
        })
    }

    pub(crate) fn sync_metadata(&self) -> Result<()> {
        self.sync(METADATA)
    }

    pub(crate) fn sync(&self, folder: &str) -> Result<()> {
        let folder = Path::new(folder);
        self.disk.sync_folder(folder).map_err(|error| Error::io("sync folder", folder, error))
    }

    /// Makes the transaction file as long as it stays, with this text.
    pub(crate) fn preallocate(&mut self, text: &str) -> Result<()> {
        self.replace(&transaction_path(), &padded(text, TRANSACTION_FILE_BYTES))?;
        self.sync_metadata()
    }

    /// Moves a file into quarantine, under a name that nothing has there.
    pub(crate) fn set_aside(&self, path: &Path, file_name: &str) -> io::Result<PathBuf> {
        let aside = self.quarantine_path(file_name)?;
        self.disk.rename(path, &aside)?;
        // The new name first, so that no crash leaves the file without one.
        self.disk.sync_folder(Path::new(QUARANTINE))?;
        self.disk.sync_folder(path.parent().unwrap_or(Path::new("")))?;
        Ok(aside)
    }

    /// Puts a copy into quarantine, unless there is one with this content.
    pub(crate) fn copy_aside(&self, file_name: &str, content: &[u8]) -> io::Result<PathBuf> {
        for path in self.copies(file_name)?.into_iter().map(|(_, path)| path) {
            if self.disk.read(&path)? == content {
                return Ok(path);
            }
        }
        let aside = self.quarantine_path(file_name)?;
        self.disk.write(&aside, content)?;
        self.disk.sync_file(&aside)?;
        self.disk.sync_folder(Path::new(QUARANTINE))?;
        Ok(aside)
    }

    /// What quarantine holds of a file.
    fn copies(&self, file_name: &str) -> io::Result<Vec<(u64, PathBuf)>> {
        let entries = match self.disk.list(Path::new(QUARANTINE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let number_of = |name: &str| name.strip_prefix(file_name)?.strip_prefix('.')?.parse().ok();
        let copy = |name: &str| Some((number_of(name)?, Path::new(QUARANTINE).join(name)));
        Ok(entries.iter().filter(|entry| !entry.is_dir).filter_map(|e| copy(e.name.to_str()?)).collect())
    }

    fn quarantine_path(&self, file_name: &str) -> io::Result<PathBuf> {
        self.disk.make_folder(Path::new(QUARANTINE))?;
        self.disk.sync_folder(Path::new(OURS))?;
        self.disk.sync_folder(Path::new(""))?;
        let last = self.copies(file_name)?.into_iter().map(|(number, _)| number).max().unwrap_or(0);
        Ok(Path::new(QUARANTINE).join(format!("{file_name}.{}", last.saturating_add(1))))
    }
}
