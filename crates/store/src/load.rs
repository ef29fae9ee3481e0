//! Opening a store: the old file, the records, the device set, the transaction (specification 1.2, 1.9 and 2.5).

use crate::files::{
    Files, LEGACY, LEGACY_FOLDER, LEGACY_MIGRATED, METADATA, OWN_TEMPORARY, QUARANTINE, TEMPORARY,
    device_set_path, quarantined_layer, record_path, transaction_path,
};
use crate::go_json::{self, Malformed, Raw};
use crate::layer_id::{DEVICE_SET, TRANSACTION};
use crate::tables::{Damage, Tables};
use crate::transaction::{TRANSACTION_FILE_BYTES, TRANSACTION_JSON_MAX_BYTES, TransactionFile};
use crate::{DeviceSet, Entry, Error, ErrorKind, Finding, LayerId, Mode, Record, Result};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// The quarantine name of a record out of Docker's old file whose id no layer can have; the dot keeps it from being taken for a layer's.
const NAMELESS_LEGACY: &str = ".legacy-record";

#[derive(Debug)]
pub(crate) struct Loader {
    pub(crate) files: Files,
    pub(crate) tables: Tables,
    pub(crate) findings: Vec<Finding>,
    /// The transaction file can be overwritten in place.
    pub(crate) transaction_ready: bool,
    mode: Mode,
}

impl Loader {
    pub(crate) fn run(files: Files, mode: Mode) -> Result<Self> {
        let tables = Tables::new();
        let mut loader = Self { files, tables, findings: Vec::new(), transaction_ready: false, mode };
        if loader.writes() {
            let folder = Path::new(METADATA);
            loader.files.disk.make_folder(folder).map_err(|error| Error::io("make folder", folder, error))?;
            loader.files.sync("")?;
            // What a killed owner renamed or removed is seen now, but would perhaps not be after a power cut: nothing may be built on it before.
            loader.files.sync_metadata()?;
        }
        let legacy = loader.legacy()?;
        loader.quarantined();
        loader.scan()?;
        for (layer, record) in legacy {
            loader.tables.insert(layer, record);
        }
        loader.device_set()?;
        loader.transaction()?;
        for (device_id, layers) in loader.tables.duplicates() {
            loader.findings.push(Finding::DuplicateDeviceId { device_id, layers });
        }
        if loader.writes() {
            loader.rename_deleted()?;
        }
        Ok(loader)
    }

    fn writes(&self) -> bool {
        self.mode == Mode::ReadWrite
    }

    /// Moves a bad file away, where that is allowed and possible. Says where it is then.
    fn set_aside(&self, path: &Path, file_name: &str) -> PathBuf {
        if !self.writes() {
            return path.to_owned();
        }
        self.files.set_aside(path, file_name).unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "cannot move a damaged file into quarantine");
            path.to_owned()
        })
    }

    /// Docker's one old file becomes records. The rename comes last, so that a crash only means doing it again.
    fn legacy(&mut self) -> Result<BTreeMap<LayerId, Record>> {
        let path = Path::new(LEGACY);
        let content = match self.files.read(path) {
            Ok(None) => return Ok(BTreeMap::new()),
            Ok(Some(content)) => content,
            Err(error) => return Err(Error::io("read", path, error)),
        };
        let damaged = |Malformed(why)| Error::DamagedFile { path: path.to_owned(), why };
        let mut records = BTreeMap::new();
        for (key, value) in go_json::document(&content).map_err(damaged)?.unwrap_or_default() {
            if !go_json::matches(&key, "devices") {
                continue;
            }
            let devices = match value {
                Raw::Null => continue,
                Raw::Object(text) => go_json::members(text).map_err(damaged)?,
                _ => return Err(damaged(Malformed("Devices is no object".to_owned()))),
            };
            for (id, value) in devices {
                match legacy_record(&id, &value) {
                    Ok((layer, record)) => {
                        records.insert(layer, record);
                    }
                    Err(why) => self.damaged_legacy(id, &value, why),
                }
            }
        }
        if self.writes() {
            for (layer, record) in &records {
                self.files.replace(&record_path(layer), record.to_json().as_bytes())?;
            }
            self.files.sync_metadata()?;
            let migrated = Path::new(LEGACY_MIGRATED);
            self.files.disk.rename(path, migrated).map_err(|error| Error::io("rename", path, error))?;
            self.files.sync(LEGACY_FOLDER)?;
        }
        self.findings.push(Finding::Migrated { records: records.len() });
        Ok(records)
    }

    fn damaged_legacy(&mut self, id: String, value: &Raw<'_>, why: String) {
        let name = LayerId::stored(&id).map_or(NAMELESS_LEGACY.to_owned(), |id| id.file_name().to_owned());
        let content = match value {
            Raw::Object(text) | Raw::Array(text) => text.to_vec(),
            other => format!("{other:?}").into_bytes(),
        };
        let mut now_at = PathBuf::from(LEGACY);
        if self.writes() {
            match self.files.copy_aside(&name, &content) {
                Ok(path) => now_at = path,
                // The old file is kept, under its new name.
                Err(_) => now_at = PathBuf::from(LEGACY_MIGRATED),
            }
        }
        if let Ok(layer) = LayerId::stored(&id) {
            self.tables.damaged.insert(layer, Damage { path: now_at.clone(), why: why.clone() });
        }
        self.findings.push(Finding::DamagedLegacyRecord { id, why, now_at });
    }

    /// Ids whose records were set aside at earlier starts; a good record found later ends that.
    fn quarantined(&mut self) {
        let folder = Path::new(QUARANTINE);
        let mut entries = match self.files.disk.list(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                let why = error.to_string();
                self.findings.push(Finding::Untouched { path: folder.to_owned(), why });
                return;
            }
        };
        entries.retain(|entry| !entry.is_dir);
        let mut newest: BTreeMap<LayerId, u64> = BTreeMap::new();
        for (layer, number) in entries.iter().filter_map(|entry| quarantined_layer(entry.name.to_str()?)) {
            let known = newest.entry(layer).or_default();
            *known = number.max(*known);
        }
        for (layer, number) in newest {
            let path = folder.join(format!("{}.{number}", layer.file_name()));
            let why = "set aside at an earlier start".to_owned();
            self.tables.damaged.entry(layer).or_insert(Damage { path, why });
        }
    }

    fn scan(&mut self) -> Result<()> {
        let folder = Path::new(METADATA);
        let mut entries = match self.files.disk.list(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::io("list", folder, error)),
        };
        entries.sort();
        for entry in entries {
            self.entry(entry);
        }
        Ok(())
    }

    fn entry(&mut self, Entry { name, is_dir }: Entry) {
        let path = Path::new(METADATA).join(&name);
        let text = name.to_string_lossy();
        if is_dir {
            self.findings.push(Finding::Folder { path });
        } else if text.starts_with(OWN_TEMPORARY) {
            let removed = self.writes() && self.files.disk.remove(&path).is_ok();
            self.findings.push(Finding::OwnTemporary { path, removed });
        } else if text.starts_with(TEMPORARY) {
            self.findings.push(Finding::DockerTemporary { path });
        } else if text.starts_with('.')
            || text.ends_with(".migrated")
            || text == DEVICE_SET
            || text == TRANSACTION
        {
            // Docker skips these too.
        } else if let Some(layer) = name.to_str().and_then(|name| LayerId::found(name).ok()) {
            self.record(layer, path);
        } else {
            let record = self.files.disk.read(&path).ok().and_then(|content| Record::parse(&content).ok());
            let device_id = record.map(|record| record.device_id);
            if let Some(device_id) = device_id {
                self.tables.nameless.insert(device_id);
                self.tables.ids.mark(device_id);
            }
            self.findings.push(Finding::UnusableName { name, device_id });
        }
    }

    fn record(&mut self, layer: LayerId, path: PathBuf) {
        let why = match self.files.disk.read(&path) {
            Ok(content) => match Record::parse(&content) {
                Ok(record) => {
                    self.tables.insert(layer, record);
                    return;
                }
                Err(error) => error.to_string(),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => error.to_string(),
            Err(error) => {
                // The file may be good and the disk bad: moving it would not help.
                let why = error.to_string();
                self.tables.damaged.insert(layer, Damage { path: path.clone(), why: why.clone() });
                self.findings.push(Finding::Untouched { path, why });
                return;
            }
        };
        let now_at = self.set_aside(&path, layer.file_name());
        self.tables.damaged.insert(layer.clone(), Damage { path: now_at.clone(), why: why.clone() });
        self.findings.push(Finding::DamagedRecord { layer, why, now_at });
    }

    fn device_set(&mut self) -> Result<()> {
        let path = device_set_path();
        let why = match self.files.read(&path) {
            Ok(None) => return Ok(()),
            Ok(Some(content)) => match DeviceSet::parse(&content) {
                Ok(set) => {
                    self.tables.ids.start_after(set.next_device_id);
                    self.tables.base_uuid = set.base_uuid;
                    self.tables.base_filesystem = set.base_filesystem;
                    return Ok(());
                }
                Err(Malformed(why)) => why,
            },
            Err(error) if error.kind() == io::ErrorKind::InvalidData => error.to_string(),
            Err(error) => return Err(Error::io("read", &path, error)),
        };
        let now_at = self.set_aside(&path, DEVICE_SET);
        self.findings.push(Finding::DamagedDeviceSet { why, now_at });
        Ok(())
    }

    fn transaction(&mut self) -> Result<()> {
        let path = transaction_path();
        if self.writes()
            && let Err(error) = self.files.disk.sync_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            // A killed owner's intent is acted on next, so it must not be lost after that.
            return Err(Error::io("sync", &path, error));
        }
        let (content, why) = match self.files.read(&path) {
            Ok(None) => (Vec::new(), None),
            Ok(Some(content)) => match TransactionFile::parse(&content) {
                Ok(file) => {
                    self.tables.transaction = file;
                    (content, None)
                }
                Err(Malformed(why)) => (content, Some(why)),
            },
            Err(error) if error.kind() == io::ErrorKind::InvalidData => (Vec::new(), Some(error.to_string())),
            Err(error) => return Err(Error::io("read", &path, error)),
        };
        if let Some(why) = why {
            // It stays as it is until the recovery is done, so that a crash before does not hide it.
            self.tables.transaction = TransactionFile::Malformed;
            let copied_to =
                if self.writes() { self.files.copy_aside(TRANSACTION, &content).ok() } else { None };
            self.findings.push(Finding::MalformedTransaction { why, copied_to });
            return Ok(());
        }
        self.transaction_ready = is_preallocated(&content);
        if self.transaction_ready || !self.writes() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&content);
        match self.files.preallocate(text.trim_ascii_end()) {
            Ok(()) => self.transaction_ready = text.trim_ascii_end().len() <= TRANSACTION_JSON_MAX_BYTES,
            Err(error) if error.kind() == ErrorKind::NoSpace => {
                self.findings.push(Finding::TransactionNotPreallocated);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Frees the ids of removed layers. Those that the open transaction names stay for the recovery to find.
    fn rename_deleted(&mut self) -> Result<()> {
        let named: Vec<LayerId> = match &self.tables.transaction {
            TransactionFile::Intent(intent) => intent.operations.iter().map(|op| op.layer.clone()).collect(),
            TransactionFile::Nothing | TransactionFile::Malformed => Vec::new(),
        };
        let leftover = |(layer, record): (&LayerId, &std::sync::Arc<Record>)| {
            let left = record.deleted && !layer.is_opaque() && !named.contains(layer);
            left.then(|| (layer.clone(), Record::clone(record)))
        };
        let leftovers: Vec<(LayerId, Record)> = self.tables.iter().filter_map(leftover).collect();
        if leftovers.is_empty() {
            return Ok(());
        }
        for (from, record) in leftovers {
            let to = LayerId::opaque()?;
            let path = record_path(&from);
            // The mark of a killed owner may not be durable yet, and the new name must not come without it.
            let synced = self.files.disk.sync_file(&path);
            match synced.and_then(|()| self.files.disk.rename(&path, &record_path(&to))) {
                Ok(()) => {
                    self.tables.insert(to.clone(), record);
                    self.tables.remove(&from);
                    self.findings.push(Finding::RenamedDeleted { from, to });
                }
                Err(error) => {
                    let why = error.to_string();
                    self.findings.push(Finding::Untouched { path: record_path(&from), why });
                }
            }
        }
        self.files.sync_metadata()
    }
}

/// It has its length, and nothing behind the sector that is overwritten.
fn is_preallocated(content: &[u8]) -> bool {
    content.len() >= TRANSACTION_FILE_BYTES
        && content[TRANSACTION_JSON_MAX_BYTES..].iter().all(|byte| *byte == b' ')
}

fn legacy_record(id: &str, value: &Raw<'_>) -> std::result::Result<(LayerId, Record), String> {
    let layer = LayerId::stored(id).map_err(|error| error.to_string())?;
    let Raw::Object(text) = value else { return Err("it is no object".to_owned()) };
    let members = go_json::members(text).map_err(|Malformed(why)| why)?;
    Ok((layer, Record::from_members(&members).map_err(|error| error.to_string())?))
}
