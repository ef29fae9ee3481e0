//! What the store writes: the intent, records, the device set.

use crate::files::{OURS, QUARANTINE, WITHOUT_DEVICE, device_set_path, record_path, transaction_path};
use crate::store::{Writer, not_taken, undamaged};
use crate::transaction::{self, Intent, TRANSACTION_JSON_MAX_BYTES, TransactionFile, padded};
use crate::{
    DeviceId, DeviceSet, Error, ErrorKind, LayerId, Mode, OpenTransaction, Operation, OperationKind, Record,
    Result, Store,
};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Store {
    fn writable(&self, action: &'static str) -> Result<()> {
        match self.mode {
            Mode::ReadWrite => Ok(()),
            Mode::ReadOnly => Err(Error::ReadOnly { action }),
        }
    }

    /// Writes down what is about to be done: one durable write, in place. Then come the messages to the pool, the records, `set_transaction_id`, and
    /// [`Store::close`].
    ///
    /// Each thin id of a creation must be proven free in the pool before (8.2 C24).
    ///
    /// # Errors
    /// A transaction is open; the recovery is not finished; the operations contradict the records or do not fit; the disk failed.
    pub fn begin(&self, operations: &[Operation]) -> Result<OpenTransaction> {
        self.writable("begin a transaction")?;
        let mut writer = self.writer.lock();
        let id = {
            let tables = self.tables.read();
            if self.transaction_open.load(Ordering::Acquire)
                && let TransactionFile::Intent(intent) = &tables.transaction
            {
                return Err(Error::TransactionOpen { open: intent.id });
            }
            self.check_operations(operations)?;
            tables.pool.and_then(|pool| pool.checked_add(1)).ok_or(Error::NotRecovered)?
        };
        let text = transaction::to_json(id, operations)?;
        for operation in operations {
            writer.settle(&operation.layer)?;
        }
        write_transaction(&mut writer, &text)?;
        self.tables.write().transaction = TransactionFile::Intent(Intent::of(id, operations));
        self.transaction_open.store(true, Ordering::Release);
        let open = Arc::clone(&self.transaction_open);
        Ok(OpenTransaction { id, operations: operations.to_vec(), open })
    }

    fn check_operations(&self, operations: &[Operation]) -> Result<()> {
        let tables = self.tables.read();
        let (mut layers, mut devices) = (BTreeSet::new(), BTreeSet::new());
        for Operation { kind, layer, device_id } in operations {
            undamaged(&tables, layer)?;
            not_taken(&tables, layer, *device_id)?;
            let record = tables.get(layer);
            if !layers.insert(layer) || (*kind == OperationKind::Create && record.is_some_and(|r| !r.deleted))
            {
                return Err(Error::Exists { layer: layer.clone() });
            }
            if !devices.insert(device_id) {
                let holder = "another operation of this transaction".to_owned();
                return Err(Error::DeviceTaken { device_id: *device_id, layer: layer.clone(), holder });
            }
            if let Some(record) = record
                && *kind == OperationKind::Delete
                && record.device_id != *device_id
            {
                let (layer, device_id) = (layer.clone(), *device_id);
                return Err(Error::OtherDevice { layer, device_id, recorded: record.device_id });
            }
        }
        Ok(())
    }

    /// After the steps that [`crate::decide`] named are done: writes that nothing is open at the pool's id.
    ///
    /// # Errors
    /// The disk failed.
    pub fn finish_recovery(&self, pool: u64) -> Result<()> {
        self.writable("finish the recovery")?;
        let mut writer = self.writer.lock();
        write_transaction(&mut writer, &Intent::closed_json(pool))?;
        let mut tables = self.tables.write();
        tables.transaction = TransactionFile::Intent(Intent::closed(pool));
        tables.pool = Some(pool);
        Ok(())
    }

    /// Writes a layer's record, new or changed: one durable write. It is there whole or as it was before, whatever happens.
    ///
    /// # Errors
    /// [`ErrorKind::NoSpace`] on a full disk; another layer has that device; the layer's record is damaged; the disk failed. When only the last
    /// sync failed, the record is there, but perhaps not after a crash.
    pub fn put(&self, layer: &LayerId, record: &Record) -> Result<()> {
        self.writable("write a record")?;
        let mut writer = self.writer.lock();
        let old = {
            let tables = self.tables.read();
            undamaged(&tables, layer)?;
            let old = tables.get(layer).cloned();
            if old.as_ref().is_none_or(|old| old.device_id != record.device_id) {
                not_taken(&tables, layer, record.device_id)?;
            }
            old
        };
        if let Some(old) = old.filter(|old| old.deleted && old.device_id != record.device_id) {
            // A removed layer still stands under this name: its record must not be lost with its device.
            if self.move_on(&mut writer, layer, &old)? == *layer {
                return Err(Error::io("rename", &record_path(layer), io::ErrorKind::StorageFull.into()));
            }
        }
        writer.settle(layer)?;
        writer.files.replace(&record_path(layer), record.to_json().as_bytes())?;
        let synced = writer.sync();
        self.tables.write().insert(layer.clone(), record.clone());
        synced
    }

    /// Removes a layer's record; one that is not there is no error. Its thin id is free again. Works on a full disk.
    ///
    /// # Errors
    /// Its record is damaged; the disk failed. When only the sync failed, the record is gone, but perhaps back after a crash.
    pub fn remove(&self, layer: &LayerId) -> Result<()> {
        self.writable("remove a record")?;
        let mut writer = self.writer.lock();
        undamaged(&self.tables.read(), layer)?;
        let path = record_path(layer);
        match writer.files.disk.remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("remove", &path, error));
            }
            _ => {}
        }
        // Also when it was gone already: the removal before may not be durable.
        let synced = writer.sync();
        self.tables.write().remove(layer);
        synced
    }

    /// Removes a layer whose device goes later: its record is marked and gets a new id, which is returned; the old one is free.
    ///
    /// One durable write, the mark: from there on the layer is gone for good. A crash before the new name is durable leaves a marked record under the old id, which
    /// the next start renames; [`Store::put`] under the old id and [`Store::begin`] for the new one wait for it. Works on a full disk; should the new name find no
    /// room there, the old id is returned, and is freed when it is wanted.
    ///
    /// # Errors
    /// There is no such layer, its record is damaged, or the disk failed.
    pub fn retire(&self, layer: &LayerId) -> Result<LayerId> {
        self.writable("remove a layer")?;
        let mut writer = self.writer.lock();
        let mut record = {
            let tables = self.tables.read();
            match tables.get(layer) {
                Some(record) => Record::clone(record),
                None => {
                    undamaged(&tables, layer)?;
                    return Err(Error::NotFound { layer: layer.clone() });
                }
            }
        };
        if !record.deleted {
            record = mark_deleted(&mut writer, layer, &record)?;
            self.tables.write().insert(layer.clone(), record.clone());
        }
        self.move_on(&mut writer, layer, &record)
    }

    /// Gives a removed layer's record a new id, durable after [`Writer::settle`] of either; the old id if the disk is too full for that.
    fn move_on(&self, writer: &mut Writer, from: &LayerId, record: &Record) -> Result<LayerId> {
        let to = LayerId::opaque()?;
        let path = record_path(from);
        let moved = writer.files.disk.rename(&path, &record_path(&to));
        match moved.map_err(|error| Error::io("rename", &path, error)) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NoSpace => return Ok(from.clone()),
            Err(error) => return Err(error),
        }
        writer.moved.extend([from.clone(), to.clone()]);
        let mut tables = self.tables.write();
        tables.insert(to.clone(), record.clone());
        tables.remove(from);
        Ok(to)
    }

    /// Moves the record of a layer whose device is gone out of the way, to `thinlayer/quarantine/without-device/`. Its id and its thin id are free then.
    /// Returns where it is, relative to the root.
    ///
    /// # Errors
    /// There is no such layer, its record is damaged, or the disk failed.
    pub fn set_aside_without_device(&self, layer: &LayerId) -> Result<PathBuf> {
        self.writable("set a record aside")?;
        let writer = self.writer.lock();
        {
            let tables = self.tables.read();
            undamaged(&tables, layer)?;
            if tables.get(layer).is_none() {
                return Err(Error::NotFound { layer: layer.clone() });
            }
        }
        let disk = &writer.files.disk;
        let folder = Path::new(WITHOUT_DEVICE);
        let taken = |error: io::Error| Error::io("set aside a record in", folder, error);
        disk.make_folder(folder).map_err(taken)?;
        for above in [QUARANTINE, OURS, ""] {
            writer.files.sync(above)?;
        }
        let entries = disk.list(folder).map_err(taken)?;
        let is_there = |name: &str| entries.iter().any(|entry| entry.name.to_str() == Some(name));
        let name = (1_u64..)
            .map(|number| format!("{}.{number}", layer.file_name()))
            .find(|name| !is_there(name))
            .unwrap_or_default();
        let to = folder.join(name);
        let path = record_path(layer);
        disk.rename(&path, &to).map_err(|error| Error::io("rename", &path, error))?;
        // The new name first, so that no crash leaves the record without one.
        writer.files.sync(WITHOUT_DEVICE)?;
        let synced = writer.files.sync_metadata();
        self.tables.write().remove(layer);
        synced.map(|()| to)
    }

    /// Writes a record for a device that has none, so that it is deleted later. Returns its id.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub fn keep_for_deletion(
        &self,
        device_id: DeviceId,
        size_bytes: u64,
        transaction_id: u64,
    ) -> Result<LayerId> {
        let layer = LayerId::opaque()?;
        let record = Record { deleted: true, ..Record::new(device_id, size_bytes, transaction_id) };
        self.put(&layer, &record)?;
        Ok(layer)
    }

    /// Writes what is known of the base, and the last id handed out (the store's own: that of `set` is not looked at).
    ///
    /// # Errors
    /// The disk failed.
    pub fn save_device_set(&self, set: &DeviceSet) -> Result<()> {
        self.writable("write the device set")?;
        let mut writer = self.writer.lock();
        let next_device_id = self.tables.read().ids.last();
        let set = DeviceSet { next_device_id, ..set.clone() };
        writer.files.replace(&device_set_path(), set.to_json().as_bytes())?;
        let synced = writer.sync();
        let mut tables = self.tables.write();
        tables.base_uuid = set.base_uuid;
        tables.base_filesystem = set.base_filesystem;
        synced
    }
}

impl Writer {
    /// Makes the names in `metadata/` durable.
    fn sync(&mut self) -> Result<()> {
        self.files.sync_metadata()?;
        self.moved.clear();
        Ok(())
    }

    /// Makes a record's name durable, if it was moved: what is built on it must not reach the disk before it, as nothing orders the two.
    fn settle(&mut self, layer: &LayerId) -> Result<()> {
        if self.moved.contains(layer) { self.sync() } else { Ok(()) }
    }
}

/// One sector in place; the whole file once, if it has no room of its own yet.
fn write_transaction(writer: &mut Writer, text: &str) -> Result<()> {
    if writer.transaction_ready {
        let path = transaction_path();
        let sector = padded(text, TRANSACTION_JSON_MAX_BYTES);
        return writer
            .files
            .disk
            .overwrite(&path, &sector)
            .map_err(|error| Error::io("overwrite", &path, error));
    }
    writer.files.preallocate(text)?;
    writer.transaction_ready = true;
    Ok(())
}

/// Sets `deleted` in a record, durably. In place where its text allows: `false` becomes ` true` within the first sector, which needs no space and
/// does not depend on the order in which renames reach the disk.
fn mark_deleted(writer: &mut Writer, layer: &LayerId, record: &Record) -> Result<Record> {
    let path = record_path(layer);
    let content = writer.files.disk.read(&path).map_err(|error| Error::io("read", &path, error))?;
    let sector = content.len().min(TRANSACTION_JSON_MAX_BYTES);
    let wanted = Record { deleted: true, ..record.clone() };
    let in_place = |writer: &Writer, bytes: &[u8]| {
        writer.files.disk.overwrite(&path, bytes).map_err(|error| Error::io("overwrite", &path, error))
    };
    if let Some(patched) = patched(&content, sector)
        && Record::parse(&patched).is_ok_and(|read| read == wanted)
    {
        in_place(writer, &patched[..sector])?;
        return Ok(wanted);
    }
    let text = wanted.to_json();
    match writer.files.replace(&path, text.as_bytes()) {
        // Durable before the rename that follows, as nothing orders the two.
        Ok(()) => writer.sync().map(|()| wanted),
        Err(error) if error.kind() == ErrorKind::NoSpace && content.len() == sector => {
            // What a removed layer's record must still say is short enough for where any record was.
            let bare = Record { extra: None, ..wanted };
            let short = bare.to_json().replace(r#""initialized":false,"#, "");
            if short.len() > sector {
                return Err(error);
            }
            in_place(writer, &padded(&short, sector))?;
            Ok(bare)
        }
        Err(error) => Err(error),
    }
}

fn patched(content: &[u8], sector: usize) -> Option<Vec<u8>> {
    const BEFORE: &[u8] = br#""deleted":false"#;
    const AFTER: &[u8] = br#""deleted": true"#;
    let at = content.get(..sector)?.windows(BEFORE.len()).position(|window| window == BEFORE)?;
    let mut patched = content.to_vec();
    patched[at..at + AFTER.len()].copy_from_slice(AFTER);
    Some(patched)
}

#[cfg(test)]
mod tests;
