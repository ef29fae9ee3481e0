//! Layers and their file systems grow; they never shrink.

use crate::deadline::within;
use crate::driver::{Driver, Notice};
use crate::error::{Error, Result};
use crate::mounts::limit_xfs_retries;
use crate::options::whole_sectors;
use crate::reserve::Reservation;
use crate::size::{checked_size, human_size};
use std::path::Path;
use thinlayer_dm::Bytes;
use thinlayer_filesystem::{Filesystems, Kind, MountRequest, with_temporary_mount};
use thinlayer_store::{LayerId, Record};
use thinlayer_thin::ThinDevice;

/// A file system may stop this short of its device's end: what is left is too little for one more of its groups.
const SLACK: u64 = 17 << 20;

/// Does the file system on a device of this size stop short of its end?
pub(crate) fn stops_short(
    filesystems: &dyn Filesystems,
    node: &Path,
    size: u64,
) -> thinlayer_filesystem::Result<bool> {
    Ok(filesystems.extent(node)?.is_some_and(|bytes| bytes.saturating_add(SLACK) < size))
}

impl Driver {
    /// Does a file system that Docker wrote down as grown stop short of its device? Docker saves a size before it grows, and does not try again (C25).
    pub(crate) fn stops_short(
        &self,
        record: &Record,
        device: &ThinDevice,
        reserved: &Reservation,
    ) -> Result<bool> {
        let filesystems = self.machine.filesystems.clone();
        let (node, size) = (device.node().to_owned(), record.size_bytes);
        let what = || format!("reading the superblock on device {}", device.name());
        within(&*self.machine.clock, what, self.deadlines.mount, reserved, move || {
            Ok(stops_short(&*filesystems, &node, size)?)
        })
    }

    /// Grows a layer and its file system, mounted or not. Equal to its size: nothing happens.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`] for a size below the layer's; [`crate::Kind::NotFound`].
    pub fn resize(&self, id: &LayerId, size: Bytes) -> Result<()> {
        self.resize_layer(id, size).map_err(|error| error.on(id))
    }

    fn resize_layer(&self, id: &LayerId, size: Bytes) -> Result<()> {
        if id.is_base() {
            return Err(Error::Invalid { what: "the base grows with dm.basesize, not by resize".into() });
        }
        self.ensure_sound()?;
        let reserved = self.reservations.reserve(id, self.deadlines.layer)?;
        let record = self.record(id)?;
        let size = whole_sectors(size).unwrap_or_default();
        let pending = record.extra.as_ref().is_some_and(|extra| extra.grow_pending);
        if size < Bytes(record.size_bytes) {
            return Err(Error::Invalid {
                what: format!(
                    "Container size cannot be smaller than {}; layers only grow",
                    human_size(Bytes(record.size_bytes))
                ),
            });
        }
        if size == Bytes(record.size_bytes) && !pending {
            return Ok(());
        }
        if size > Bytes(record.size_bytes) {
            checked_size(size).map_err(|what| Error::Invalid { what })?;
        }
        // First the record, with a mark: a device larger than its file system does no harm, the other way round it does not mount.
        let mut larger = Record::clone(&record);
        larger.size_bytes = size.0;
        larger.extra.get_or_insert_default().grow_pending = true;
        self.store.put(id, &larger)?;
        self.grow_filesystem(id, &larger, &reserved)
    }

    /// Completes what an owner was killed in the middle of, so that no layer is left between two sizes.
    pub(crate) fn finish_growth(&self, notices: &mut Vec<Notice>) {
        for (id, record) in self.store.layers() {
            let pending = record.extra.as_ref().is_some_and(|extra| extra.grow_pending);
            if id.is_base() || !pending {
                continue;
            }
            let grown = self
                .reservations
                .reserve(&id, self.deadlines.layer)
                .and_then(|reserved| self.grow_filesystem(&id, &record, &reserved));
            notices.push(match grown {
                Ok(()) => {
                    Notice::info(format!("the growth of layer {id} was interrupted and has been completed"))
                }
                Err(error) => Notice::warning(format!(
                    "layer {id} could not be grown, its next mount tries again: {error}"
                )),
            });
        }
    }

    /// Grows a layer's device and file system to the size in its record, and takes the mark off.
    pub(crate) fn grow_filesystem(
        &self,
        id: &LayerId,
        record: &Record,
        reserved: &Reservation,
    ) -> Result<()> {
        let was_active = self.active.get(id).is_some_and(|device| !device.leaving);
        let device = self.activate(id, record, reserved)?;
        let size = Bytes(record.size_bytes);
        let grown = self.grow_mounted(id, record, &device, reserved);
        match grown {
            Ok(()) if !was_active => self.drop_device(id)?,
            Ok(()) => {}
            // The call goes on and keeps the device.
            Err(error @ Error::Deadline { .. }) => return Err(error),
            Err(error) if was_active => return Err(error),
            Err(error) => return Err(error.and_undo(self.drop_device(id))),
        }
        tracing::debug!(layer = %id, device = %device.number(), %size, "grown");
        self.put_grown(id, record)
    }

    /// Grows the file system where it is mounted, or at a place of its own.
    fn grow_mounted(
        &self,
        id: &LayerId,
        record: &Record,
        device: &ThinDevice,
        reserved: &Reservation,
    ) -> Result<()> {
        let kind = self.layer_filesystem(record, device, reserved)?;
        let filesystems = self.machine.filesystems.clone();
        let mounted_at = (self.uses.get(id) > 0).then(|| self.names.mount_point(id));
        let runtime = self.machine.root.runtime.clone();
        let node = device.node().to_owned();
        let (number, retries) = (device.number(), self.options.xfs_nospace_retries);
        let request = MountRequest {
            device: node.clone(),
            // Not looked at: the temporary mount finds its own place.
            target: runtime.clone(),
            kind,
            read_only: false,
            no_recovery: false,
            options: self.options.mount_options.clone(),
            label: None,
        };
        let text = format!("growing layer {id} to {}", human_size(Bytes(record.size_bytes)));
        let _step = self.step(&text);
        let what = || format!("growing the file system on device {}", device.name());
        within(&*self.machine.clock, what, self.deadlines.filesystem, reserved, move || {
            let grown = match mounted_at {
                Some(mount_point) => filesystems.grow(kind, &mount_point, &node),
                None => {
                    return with_temporary_mount(&*filesystems, &request, &runtime, |mount_point| {
                        if kind == Kind::Xfs {
                            limit_xfs_retries(&*filesystems, number, retries)?;
                        }
                        Ok(filesystems.grow(kind, mount_point, &node)?)
                    });
                }
            };
            Ok(grown?)
        })
    }

    /// Writes down that the file system has its record's size.
    pub(crate) fn put_grown(&self, id: &LayerId, record: &Record) -> Result<()> {
        let mut done = record.clone();
        // One of Docker's stays as it is.
        if done.extra.is_none() {
            return Ok(());
        }
        if let Some(extra) = &mut done.extra {
            extra.grow_pending = false;
        }
        Ok(self.store.put(id, &done)?)
    }
}
