//! Layers in use: get mounts a layer or counts one more use, put counts one less or unmounts it.

use crate::check::mounted_layers;
use crate::deadline::within;
use crate::driver::Driver;
use crate::error::{Error, Result};
use crate::layer::PutBack;
use crate::names::TREE;
use crate::reserve::Reservation;
use crate::resize::stops_short;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thinlayer_dm::{DeviceNumber, Removal};
use thinlayer_filesystem::{Detected, Filesystems, Kind, MountRequest, Mounted, Unmount, Unmounted};
use thinlayer_store::{LayerId, Record};
use thinlayer_thin::ThinDevice;

/// Mode of `mnt`, of mount points and of `rootfs`.
const FOLDER_MODE: u32 = 0o755;

/// A mount that goes unless it is kept.
type LayerMount = Mounted<Arc<dyn Filesystems>>;

impl Driver {
    /// Mounts a layer, or counts one more use of it, and gives the path of its tree. `label`: the SELinux context of everything in it.
    ///
    /// Costs create, load, resume and one mount; nothing that is durable. A second get only counts.
    ///
    /// # Errors
    /// [`crate::Kind::NotFound`]; the kernel's words about a mount that fails. The device is not left active then.
    pub fn get(&self, id: &LayerId, label: Option<&str>) -> Result<PathBuf> {
        self.get_layer(id, label).map_err(|error| error.on(id))
    }

    fn get_layer(&self, id: &LayerId, label: Option<&str>) -> Result<PathBuf> {
        if id.is_base() {
            return Err(Error::Invalid { what: "the base is no layer; make a layer on it".into() });
        }
        self.ensure_sound()?;
        let reserved = self.reservations.reserve(id, self.deadlines.layer)?;
        let uses = self.uses.get(id);
        if uses > 0 {
            if self.has_tree(id, &reserved)? {
                self.uses.set(id, uses.saturating_add(1))?;
                return Ok(self.names.tree(id));
            }
            if mounted_layers(&self.machine, &self.names)?.contains_key(id) {
                // An owner was killed right after the mount: nobody has its tree yet.
                self.unmount_layer(id, Unmount::Now, &reserved)?;
            } else {
                tracing::warn!(layer = %id, "somebody else unmounted it; it is mounted again");
            }
        }
        let record = self.record(id)?;
        let device = self.activate(id, &record, &reserved)?;
        let mounted = self.mount_layer(id, &record, &device, label, &reserved);
        let finished = mounted.and_then(|(mounted, kind)| {
            let (mounted, grown) = self.prepare_tree(id, &record, &device, kind, mounted, &reserved)?;
            match self.write_down_mount(id, &record, grown) {
                Ok(()) => {
                    mounted.keep();
                    Ok(())
                }
                Err(error) => Err(error.and_undo(self.undo_mount(mounted, &reserved))),
            }
        });
        match finished {
            Ok(()) => {}
            // The call goes on and keeps the layer and its device.
            Err(error @ Error::Deadline { .. }) => return Err(error),
            Err(error) => {
                let target = self.names.mount_point(id);
                let removed = self.machine.filesystems.remove_dir(&target).map(drop).map_err(Error::from);
                return Err(error.and_undo(removed).and_undo(self.drop_device(id)));
            }
        }
        tracing::debug!(layer = %id, device = %device.number(), "mounted");
        Ok(self.names.tree(id))
    }

    /// The mount itself, at the layer's mount point.
    fn mount_layer(
        &self,
        id: &LayerId,
        record: &Record,
        device: &ThinDevice,
        label: Option<&str>,
        reserved: &Reservation,
    ) -> Result<(LayerMount, Kind)> {
        let kind = self.layer_filesystem(record, device, reserved)?;
        let filesystems = self.machine.filesystems.clone();
        let target = self.names.mount_point(id);
        let owner = self.machine.root.owner;
        filesystems.make_dir(self.names.mounts(), FOLDER_MODE, owner)?;
        filesystems.make_dir(&target, FOLDER_MODE, owner)?;
        let request = MountRequest {
            device: device.node().to_owned(),
            target,
            kind,
            read_only: false,
            no_recovery: false,
            options: self.options.mount_options.clone(),
            label: label.map(str::to_owned),
        };
        let what = || format!("mount of device {}", device.name());
        let mounted = within(&*self.machine.clock, what, self.deadlines.mount, reserved, move || {
            Ok(Mounted::mount(filesystems, &request)?)
        })?;
        Ok((mounted, kind))
    }

    /// Is what is counted really mounted? Somebody else may have unmounted it, or an unmount ended after its deadline.
    fn has_tree(&self, id: &LayerId, reserved: &Reservation) -> Result<bool> {
        let filesystems = self.machine.filesystems.clone();
        let target = self.names.mount_point(id);
        let what = || format!("looking into {}", self.names.mount_point(id).display());
        // The folder is in the mounted file system; the mount point below it is empty.
        within(&*self.machine.clock, what, self.deadlines.mount, reserved, move || {
            Ok(filesystems.dirs(&target)?.iter().any(|dir| dir == TREE))
        })
    }

    /// What a fresh mount needs before it is handed out. The mount goes with the call: whatever fails, or passes its deadline, unmounts at its end.
    ///
    /// The second value: whether the file system was grown, if that was still to be done.
    fn prepare_tree(
        &self,
        id: &LayerId,
        record: &Record,
        device: &ThinDevice,
        kind: Kind,
        mounted: LayerMount,
        reserved: &Reservation,
    ) -> Result<(LayerMount, Option<thinlayer_filesystem::Result<()>>)> {
        let pending = record.extra.as_ref().is_some_and(|extra| extra.grow_pending);
        // Docker may have failed to grow the file system, and its record cannot say.
        let dockers = record.extra.is_none().then_some(record.size_bytes);
        let filesystems = self.machine.filesystems.clone();
        let (mount_point, tree) = (self.names.mount_point(id), self.names.tree(id));
        let (node, text) = (device.node().to_owned(), id.as_str().to_owned());
        let owner = self.machine.root.owner;
        let (number, retries) = (device.number(), self.options.xfs_nospace_retries);
        let what = || format!("preparing the tree on device {}", device.name());
        within(&*self.machine.clock, what, self.deadlines.filesystem, reserved, move || {
            if kind == Kind::Xfs {
                limit_xfs_retries(&*filesystems, number, retries)?;
            }
            // One that is there is the layer's content, and so are its mode and its owner.
            if !filesystems.dirs(&mount_point)?.iter().any(|dir| dir == TREE) {
                filesystems.make_dir(&tree, FOLDER_MODE, owner)?;
            }
            filesystems.write_if_absent(&mount_point.join("id"), text.as_bytes())?;
            let short = match dockers {
                Some(size) => stops_short(&*filesystems, &node, size)?,
                None => false,
            };
            let grown = (pending || short).then(|| filesystems.grow(kind, &mount_point, &node));
            Ok((mounted, grown))
        })
    }

    /// The layer is counted as used once.
    fn write_down_mount(
        &self,
        id: &LayerId,
        record: &Record,
        grown: Option<thinlayer_filesystem::Result<()>>,
    ) -> Result<()> {
        match grown {
            Some(Ok(())) => self.put_grown(id, record)?,
            // Its content matters more than its size, and the mark stays.
            Some(Err(error)) => {
                tracing::warn!(layer = %id, %error, "its file system is smaller than its device; the next mount tries to grow it again")
            }
            None => {}
        }
        self.uses.set(id, 1)
    }

    /// Takes back a mount that was not handed out.
    fn undo_mount(&self, mounted: LayerMount, reserved: &Reservation) -> Result<()> {
        let what = format!("umount of {}", mounted.target().display());
        within(
            &*self.machine.clock,
            || what,
            self.deadlines.unmount,
            reserved,
            move || {
                drop(mounted);
                Ok(())
            },
        )
    }

    /// What is on a layer: its record knows; where Docker wrote the record, one read tells.
    pub(crate) fn layer_filesystem(
        &self,
        record: &Record,
        device: &ThinDevice,
        reserved: &Reservation,
    ) -> Result<Kind> {
        let known = record.extra.as_ref().and_then(|extra| extra.filesystem.as_deref()).and_then(kind_named);
        if let Some(kind) = known {
            return Ok(kind);
        }
        usable_kind(self.detect(device, reserved)?, device.node())
    }

    /// One read of a device's first blocks. It waits as long as the pool does not answer, so it has a deadline.
    pub(crate) fn detect(&self, device: &ThinDevice, reserved: &Reservation) -> Result<Detected> {
        let filesystems = self.machine.filesystems.clone();
        let node = device.node().to_owned();
        let what = || format!("reading the superblock on device {}", device.name());
        within(&*self.machine.clock, what, self.deadlines.mount, reserved, move || {
            Ok(filesystems.detect(&node)?)
        })
    }

    /// Gives back one use of a layer. At the last one it is unmounted and its device goes.
    ///
    /// With [`Unmount::Lazy`] a mount that is in use disappears from sight now and goes at its last user's end, as with Docker.
    ///
    /// # Errors
    /// [`crate::Kind::Busy`] if it is in use and `when` is [`Unmount::Now`]: its use count stays. Also if the device stays open elsewhere and its removal may
    /// not be deferred: the layer is unmounted then. [`crate::Kind::NotFound`].
    pub fn put(&self, id: &LayerId, when: Unmount) -> Result<PutBack> {
        self.put_layer(id, when, false).map_err(|error| error.on(id))
    }

    /// Gives back all uses of a layer.
    ///
    /// # Errors
    /// As [`Driver::put`].
    pub fn put_all(&self, id: &LayerId, when: Unmount) -> Result<PutBack> {
        self.put_layer(id, when, true).map_err(|error| error.on(id))
    }

    fn put_layer(&self, id: &LayerId, when: Unmount, all: bool) -> Result<PutBack> {
        let reserved = self.reservations.reserve(id, self.deadlines.layer)?;
        let uses = self.uses.get(id);
        if uses > 1 && !all {
            self.uses.set(id, uses - 1)?;
            return Ok(PutBack::StillUsed(uses - 1));
        }
        if uses == 0 {
            self.record(id)?;
        }
        let unmounted = self.unmount_layer(id, when, &reserved)?;
        let removal = if self.options.defers_removal() { Removal::Deferred } else { Removal::Now };
        self.deactivate(id, removal)?;
        tracing::debug!(layer = %id, "unmounted");
        Ok(match unmounted {
            Unmounted::Done => PutBack::Unmounted,
            Unmounted::NotMounted => PutBack::NotMounted,
        })
    }

    /// Unmounts a layer and removes its mount point, which detaches copies of the mount in other namespaces.
    fn unmount_layer(&self, id: &LayerId, when: Unmount, reserved: &Reservation) -> Result<Unmounted> {
        let target = self.names.mount_point(id);
        let filesystems = self.machine.filesystems.clone();
        let job = {
            let target = target.clone();
            move || Ok(filesystems.unmount(&target, when)?)
        };
        let what = || format!("umount of {}", target.display());
        let unmounted = within(&*self.machine.clock, what, self.deadlines.unmount, reserved, job);
        let unmounted = unmounted.map_err(|error| match error {
            Error::Filesystem(error) if error.kind() == thinlayer_filesystem::ErrorKind::Busy => Error::Busy {
                what: format!("mount {}", target.display()),
                why: "a program has a file open or its working folder in it; end it and try again (fuser -vm names it)".into(),
            },
            other => other,
        })?;
        self.uses.set(id, 0)?;
        if let Err(error) = self.machine.filesystems.remove_dir(&target) {
            tracing::warn!(%error, "the mount point stays");
        }
        Ok(unmounted)
    }
}

/// On a full pool xfs would try for ever, and nobody could end the writer.
pub(crate) fn limit_xfs_retries(
    filesystems: &dyn Filesystems,
    device: DeviceNumber,
    asked: Option<u64>,
) -> Result<()> {
    match filesystems.set_xfs_retries((device.major, device.minor), asked.unwrap_or(0)) {
        // Nobody asked for it, and old kernels have no such knob.
        Err(error) if asked.is_none() => {
            tracing::warn!(%error, "xfs may hang on a full pool");
            Ok(())
        }
        other => Ok(other?),
    }
}

/// A file system that layers can have.
fn usable_kind(detected: Detected, node: &Path) -> Result<Kind> {
    match detected {
        Detected::Known { kind, .. } => Ok(kind),
        Detected::Foreign(name) => Err(Error::Unsupported {
            what: format!("the file system {name} on {}", node.display()),
            advice: "only ext4 and xfs are; copy its content elsewhere with other tools".into(),
        }),
        Detected::Nothing => Err(Error::NeedsCheck {
            what: format!(
                "there is no file system on {}; `thinlayer check` compares store and pool",
                node.display()
            ),
        }),
    }
}

/// What is on a layer: its record knows; where Docker wrote the record, one read tells. The read may hang where the pool does.
pub(crate) fn detect_filesystem(filesystems: &dyn Filesystems, record: &Record, node: &Path) -> Result<Kind> {
    let known = record.extra.as_ref().and_then(|extra| extra.filesystem.as_deref()).and_then(kind_named);
    match known {
        Some(kind) => Ok(kind),
        None => usable_kind(filesystems.detect(node)?, node),
    }
}

/// A kind by its name in records.
pub(crate) fn kind_named(name: &str) -> Option<Kind> {
    match name {
        "ext4" => Some(Kind::Ext4),
        "xfs" => Some(Kind::Xfs),
        _ => None,
    }
}
