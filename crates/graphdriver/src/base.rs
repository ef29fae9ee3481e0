//! The base device: an empty file system that every layer without parent is a copy of (section 2.7 of the specification).

use crate::deadline::within;
use crate::driver::{Driver, Notice};
use crate::error::{Error, Result};
use crate::identity::Known;
use crate::machine::Machine;
use crate::mounts::kind_named;
use crate::options::{DEFAULT_BASE_SIZE, Options};
use crate::progress::Event;
use crate::reserve::Reservation;
use crate::size::human_size;
use crate::transaction::Origin;
use thinlayer_dm::{Bytes, Flush};
use thinlayer_filesystem::{Detected, Kind, MakeOptions};
use thinlayer_store::{DeviceSet, ErrorKind, Extra, LayerId, Record};
use thinlayer_thin::ThinDevice;

/// `dm.fs`, else xfs where it can be made and mounted, else ext4.
///
/// # Errors
/// If neither can be made here, such as where mkfs is missing.
pub(crate) fn choose_filesystem(
    machine: &Machine,
    options: &Options,
    notices: &mut Vec<Notice>,
) -> Result<Kind> {
    let filesystems = &machine.filesystems;
    if let Some(kind) = options.filesystem {
        filesystems.usable(kind)?;
        return Ok(kind);
    }
    match filesystems.usable(Kind::Xfs) {
        Ok(()) => Ok(Kind::Xfs),
        Err(error) => {
            notices.push(Notice::warning(format!("the base gets ext4, as xfs cannot be used here: {error}")));
            filesystems.usable(Kind::Ext4)?;
            Ok(Kind::Ext4)
        }
    }
}

/// What a pool that is this root's has shown of its base.
#[derive(Debug, Default)]
pub(crate) struct Verified {
    /// The base's file system was not grown to its device, although the record says so.
    pub(crate) short: bool,
    /// What was not known of the base before, to be saved.
    pub(crate) device_set: Option<DeviceSet>,
}

impl Driver {
    /// Sees that the pool is this root's, by its base, before anything is changed in either. `proven`: its backing files say so.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`] if it is another root's.
    pub(crate) fn verify_base(
        &self,
        proven: bool,
        known: &Known,
        notices: &mut Vec<Notice>,
    ) -> Result<Verified> {
        let base = LayerId::base();
        let reserved = self.reservations.reserve(&base, self.deadlines.layer)?;
        match self.store.lookup(&base) {
            Ok(record) if record.initialized => self.compare_base(&record, proven, known, &reserved, notices),
            Ok(_) => Ok(Verified::default()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Verified::default()),
            // No layer that is there needs it. Without its record only the backing files tell whose pool this is.
            Err(error) if self.owns_pool && !self.direct_lvm && self.options.is_on_own_files() => {
                notices.push(Notice::warning(format!("layers without a parent cannot be made: {error}")));
                Ok(Verified::default())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Makes the base where there is none or an unfinished one, and grows it where that is asked for, or was and failed (`short`).
    pub(crate) fn ensure_base(&self, short: bool, notices: &mut Vec<Notice>) -> Result<()> {
        let base = LayerId::base();
        let reserved = self.reservations.reserve(&base, self.deadlines.layer)?;
        match self.store.record_even_deleted(&base) {
            Some(record) if record.initialized && !record.deleted => {
                let grown = self.grow_base(&record, short, &reserved);
                match grown {
                    // What was asked for cannot be had; otherwise the layers that are there come first.
                    Err(error) if error.kind() != crate::Kind::Invalid => {
                        notices.push(Notice::warning(format!(
                            "the base could not be grown, the next start tries again: {error}"
                        )));
                        Ok(())
                    }
                    other => other,
                }
            }
            Some(record) => {
                notices.push(Notice::info(
                    "the base device was not finished by an earlier start; it is made anew",
                ));
                let kind = choose_filesystem(&self.machine, &self.options, notices)?;
                self.drop_device(&base)?;
                self.delete_device(&base, &record)?;
                self.make_base(kind, &reserved)
            }
            // Set aside, as was said. A base made anew would be another one than its layers know.
            None if self.store.lookup(&base).is_err_and(|error| error.kind() == ErrorKind::Damaged) => Ok(()),
            None => {
                self.refuse_used_pool()?;
                let kind = choose_filesystem(&self.machine, &self.options, notices)?;
                self.make_base(kind, &reserved)
            }
        }
    }

    /// A pool that holds data already is not ours to take if somebody gave it, and not to begin anew in if it is this root's and the records are gone.
    fn refuse_used_pool(&self) -> Result<()> {
        let state = self.pool.status(Flush::No)?;
        let Some(status) = state.running() else {
            return Err(self.site().judge(&state, None).into_error(self.pool.name()));
        };
        // A type is written down before the first base is finished: the root was here before, and was interrupted.
        let begun = self.base_filesystem().is_some();
        let empty = status.used_data.0 == 0;
        if self.owns_pool {
            let unfinished = begun && self.store.device_set().base_uuid.is_empty();
            if empty || unfinished {
                return Ok(());
            }
            return Err(Error::Root {
                path: self.machine.root.path.join("metadata"),
                why: format!(
                    "there is no record of the base, and pool {} holds {} blocks of data (transaction id {}): the records are gone; put metadata/ back \
                     from a copy, or, to begin anew without what the pool holds, move devicemapper/ away (or empty the pool's devices)",
                    self.pool.name(),
                    status.used_data.0,
                    status.transaction_id.0
                ),
            });
        }
        if begun || (empty && status.transaction_id.0 == 0) {
            return Ok(());
        }
        Err(Error::Invalid {
            what: format!(
                "pool {} is in use already ({} data blocks used, transaction id {}) and this root knows nothing of it: it belongs to another root; \
                 name an empty pool with dm.thinpooldev, or open the root that it belongs to",
                self.pool.name(),
                status.used_data.0,
                status.transaction_id.0
            ),
        })
    }

    fn make_base(&self, kind: Kind, reserved: &Reservation) -> Result<()> {
        let base = LayerId::base();
        let size = self.options.base_size.unwrap_or(DEFAULT_BASE_SIZE);
        let created = self.now_ns();
        let device_id = self.free_device_id()?;
        let wait = self.deadlines.transaction;
        let record = self.create_device(
            &base,
            device_id,
            Origin::Empty,
            wait,
            || Ok(()),
            |transaction_id| {
                let filesystem = Some(kind.as_str().to_owned());
                let extra = Extra { filesystem, created_ns: Some(created), ..Extra::default() };
                Record { extra: Some(extra), ..Record::new(device_id, size.0, transaction_id.0) }
            },
        )?;
        let device = self.activate(&base, &record, reserved)?;
        let made = self.fill_base(&record, kind, &device, reserved);
        // The call goes on and keeps the device.
        if let Err(error @ Error::Deadline { .. }) = made {
            return Err(error);
        }
        let closed = self.drop_device(&base);
        match made {
            Ok(()) => closed,
            Err(error) => Err(error.and_undo(closed)),
        }
    }

    fn fill_base(
        &self,
        record: &Record,
        kind: Kind,
        device: &ThinDevice,
        reserved: &Reservation,
    ) -> Result<()> {
        let mut set = self.store.device_set();
        kind.as_str().clone_into(&mut set.base_filesystem);
        self.store.save_device_set(&set)?;
        let what = format!("making {kind} on the base device ({})", human_size(Bytes(record.size_bytes)));
        let step = self.step(&what);
        let options =
            MakeOptions { kind, args: self.options.mkfs_args.clone(), deadline: self.deadlines.filesystem };
        // mkfs has a deadline of its own, and is killed then; what comes before and after it cannot be ended.
        let deadline = self.deadlines.filesystem + self.deadlines.mount;
        let job = {
            let (filesystems, progress) = (self.machine.filesystems.clone(), self.progress.clone());
            let (node, what) = (device.node().to_owned(), what.clone());
            move || {
                let alive = |elapsed| progress.event(Event::Alive { what: &what, elapsed });
                Ok(filesystems.make(&node, &options, &alive)?)
            }
        };
        let call = || format!("making {kind} on device {}", device.name());
        within(&*self.machine.clock, call, deadline, reserved, job)
            .map_err(|error| self.blame_full_host(error))?;
        drop(step);
        let Detected::Known { uuid, .. } = self.detect(device, reserved)? else {
            return Err(Error::NeedsCheck {
                what: format!("mkfs made no {kind} that can be recognised on {}", device.node().display()),
            });
        };
        self.store.put(&LayerId::base(), &Record { initialized: true, ..record.clone() })?;
        set.base_uuid = uuid;
        Ok(self.store.save_device_set(&set)?)
    }

    /// A full host file system below a sparse data file shows as I/O errors only.
    fn blame_full_host(&self, error: Error) -> Error {
        /// With less than this, hardly anything can be written.
        const FULL: u64 = 4 << 20;
        let root = &self.machine.root.path;
        let sparse = self.owns_pool && self.options.data_device.is_none();
        match self.machine.filesystems.free_bytes(root) {
            Ok(free) if sparse && free < FULL => Error::NoSpace {
                what: format!(
                    "the file system that holds {} is full: make room there and try again ({error})",
                    root.display()
                ),
            },
            _ => error,
        }
    }

    /// Does the pool hold the base that this root knows?
    fn compare_base(
        &self,
        record: &Record,
        proven: bool,
        known: &Known,
        reserved: &Reservation,
        notices: &mut Vec<Notice>,
    ) -> Result<Verified> {
        let mut set = self.store.device_set();
        if let (Some(wanted), Some(has)) = (self.options.filesystem, kind_named(&set.base_filesystem))
            && wanted != has
        {
            notices
                .push(Notice::warning(format!("dm.fs={wanted} is ignored: the base of this root is {has}")));
        }
        if proven && !set.base_uuid.is_empty() && !set.base_filesystem.is_empty() {
            return Ok(Verified::default());
        }
        let base = LayerId::base();
        let device = self.activate(&base, record, reserved).map_err(|error| match &error {
            // The kernel's answer to a table that names a thin id that the pool does not have.
            Error::Thin(thin)
                if thin.device_mapper().and_then(|error| error.errno())
                    == Some(nix::errno::Errno::ENODATA) =>
            {
                self.other_pool("it has no base device")
            }
            _ => error,
        })?;
        let detected = self.detect(&device, reserved);
        let detected = detected.and_then(|found| Ok((found, self.stops_short(record, &device, reserved)?)));
        // The call goes on and keeps the device.
        if let Err(error @ Error::Deadline { .. }) = detected {
            return Err(error);
        }
        let closed = self.drop_device(&base);
        let (detected, short) = match detected {
            Ok(detected) => detected,
            Err(error) => return Err(error.and_undo(closed)),
        };
        closed?;
        let (kind, uuid) = match detected {
            Detected::Known { kind, uuid } => (kind, uuid),
            Detected::Foreign(name) => {
                return Err(self
                    .other_pool(&format!("its base device holds {name}, which is not what this root made")));
            }
            Detected::Nothing => return Err(self.other_pool("its base device holds no file system")),
        };
        let remembered = known.remembered.as_ref().map_or("", |identity| identity.base_uuid.as_str());
        let wanted = if set.base_uuid.is_empty() { remembered } else { set.base_uuid.as_str() };
        if !wanted.is_empty() && wanted != uuid {
            return Err(
                self.other_pool(&format!("its base device has UUID {uuid}, and this root's has {wanted}"))
            );
        }
        let is_news = set.base_uuid != uuid || set.base_filesystem.is_empty();
        set.base_uuid = uuid;
        if set.base_filesystem.is_empty() {
            kind.as_str().clone_into(&mut set.base_filesystem);
        }
        Ok(Verified { short, device_set: is_news.then_some(set) })
    }

    fn other_pool(&self, why: &str) -> Error {
        Error::Invalid {
            what: format!(
                "pool {} is not the pool of root {}: {why}; look at dm.thinpooldev, dm.datadev, dm.metadatadev and the loop files",
                self.pool.name(),
                self.machine.root.path.display()
            ),
        }
    }

    /// Grows the base where `dm.basesize` asks for it. Layers that exist keep their size.
    fn grow_base(&self, record: &Record, short: bool, reserved: &Reservation) -> Result<()> {
        let base = LayerId::base();
        let pending = short || record.extra.as_ref().is_some_and(|extra| extra.grow_pending);
        let wanted = self.options.base_size.unwrap_or(Bytes(record.size_bytes));
        if wanted < Bytes(record.size_bytes) {
            return Err(Error::option(
                &format!("dm.basesize={}", wanted.0),
                &format!(
                    "the base has {} already and cannot shrink; drop the option or give a larger size",
                    human_size(Bytes(record.size_bytes))
                ),
            ));
        }
        if wanted == Bytes(record.size_bytes) && !pending {
            return Ok(());
        }
        // The mark makes a start after a crash, or after a failure, finish it (C25).
        let mut larger = record.clone();
        larger.size_bytes = wanted.0;
        larger.extra.get_or_insert_default().grow_pending = true;
        self.store.put(&base, &larger)?;
        self.drop_device(&base)?;
        self.grow_filesystem(&base, &larger, reserved)
    }
}
