//! Owners of kernel state: a device that goes, and a suspension that ends, when its owner is dropped.
//!
//! Every owner has an explicit end that gives back the error ([`DeviceGuard::close`], [`SuspendGuard::resume`]).
//! `Drop` is for the paths where another error is already on its way: it undoes and logs, and never hides the first error.
//! Owners that are held in one scope are dropped in reverse order, which is the order that device-mapper needs.

use crate::device_mapper::{Access, DeviceMapper, Info, Removal, Removed, Suspend, Target};
use crate::error::{Kind, Result};
use crate::name::{DeviceNumber, DeviceRef, DmName, DmUuid};
use std::time::{Duration, Instant};

/// How long a guard tries again while the device is busy: udev may be looking at it right after it was made.
pub const DEFAULT_PATIENCE: Duration = Duration::from_secs(2);

/// First pause between two tries of a removal; each next one is twice as long, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// Removes a device, and tries again for at most `patience` while it is busy.
///
/// udev opens a new or changed device for a moment to look at it, so that a removal right after is answered with EBUSY now and then.
/// With a patience of zero this is one plain [`DeviceMapper::remove`]. Sleeps between tries: hold no lock that others need.
///
/// # Errors
/// As [`DeviceMapper::remove`]; [`Kind::Busy`] when the patience is over and something still has the device open.
pub fn remove_within<D>(dm: &D, device: DeviceRef<'_>, patience: Duration) -> Result<Removed>
where
    D: DeviceMapper + ?Sized,
{
    let deadline = Instant::now() + patience;
    let mut pause = FIRST_PAUSE;
    loop {
        match dm.remove(device, Removal::Now) {
            Err(error) if error.kind() == Kind::Busy => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(error);
                }
                std::thread::sleep(pause.min(left));
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            other => return other,
        }
    }
}

/// Makes a device, loads its table and takes it into use: create, load, resume. Three ioctls.
///
/// If a step fails, what was made is removed again and the error of that step is given back.
///
/// # Errors
/// As [`DeviceMapper::create`], [`DeviceMapper::load`] and [`DeviceMapper::resume`].
///
/// # Examples
/// ```no_run
/// use thinlayer_dm::{Access, Control, DmName, Sectors, Target, activate};
/// # fn main() -> Result<(), thinlayer_dm::Error> {
/// let control = Control::open()?;
/// let zero = Target { start: Sectors(0), len: Sectors(2048), kind: "zero".into(), params: String::new() };
/// let device = activate(&control, &DmName::new("example")?, None, &[zero], Access::ReadWrite)?;
/// println!("made {}", device.number());
/// device.close()?; // or device.keep()
/// # Ok(())
/// # }
/// ```
pub fn activate<D: DeviceMapper>(
    dm: D,
    name: &DmName,
    uuid: Option<&DmUuid>,
    table: &[Target],
    access: Access,
) -> Result<DeviceGuard<D>> {
    let mut guard = DeviceGuard::create(dm, name, uuid)?;
    guard.dm.load(name.into(), table, access)?;
    guard.info = guard.dm.resume(name.into(), Suspend::default())?;
    Ok(guard)
}

/// Owns a device: it is removed when the guard is dropped, unless [`DeviceGuard::keep`] was called.
///
/// `D` is anything that is a [`DeviceMapper`]: `&dyn DeviceMapper`, `Arc<dyn DeviceMapper>`, `&Control`.
#[derive(Debug)]
#[must_use = "the device is removed when the guard is dropped"]
pub struct DeviceGuard<D: DeviceMapper> {
    dm: D,
    info: Info,
    patience: Duration,
    armed: bool,
}

impl<D: DeviceMapper> DeviceGuard<D> {
    /// Makes a device without a table, and owns it. One ioctl.
    ///
    /// # Errors
    /// As [`DeviceMapper::create`].
    pub fn create(dm: D, name: &DmName, uuid: Option<&DmUuid>) -> Result<Self> {
        let info = dm.create(name, uuid)?;
        Ok(Self::adopt(dm, info))
    }

    /// Takes over a device that is there already. No ioctl.
    pub fn adopt(dm: D, info: Info) -> Self {
        Self { dm, info, patience: DEFAULT_PATIENCE, armed: true }
    }

    /// How long the removal tries again while the device is busy; [`DEFAULT_PATIENCE`] if never called, zero for one try.
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The device's name.
    pub fn name(&self) -> &DmName {
        &self.info.name
    }

    /// The device's number.
    pub fn number(&self) -> DeviceNumber {
        self.info.number
    }

    /// What the kernel last said of the device through this guard.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Gives the device up without removing it.
    pub fn keep(mut self) -> Info {
        self.armed = false;
        self.info.clone()
    }

    /// Removes the device now, and its name under `/dev/mapper`.
    ///
    /// # Errors
    /// As [`remove_within`]. The device is then left as it is, and nobody owns it any more.
    pub fn close(mut self) -> Result<Removed> {
        self.armed = false;
        self.remove()
    }

    fn remove(&self) -> Result<Removed> {
        // The UUID, where there is one, cannot have been taken over by another device in between.
        let device = self.info.uuid.as_ref().map_or(DeviceRef::Name(&self.info.name), DeviceRef::Uuid);
        let removed = remove_within(&self.dm, device, self.patience)?;
        // The device is gone, which is what was asked for; a name that stays is replaced when a device of that name is made.
        if let Err(error) = self.dm.forget_node(&self.info.name, self.info.number) {
            tracing::warn!(device = %self.info.name, %error, "the device is gone, its name under /dev/mapper stays");
        }
        Ok(removed)
    }
}

impl<D: DeviceMapper> Drop for DeviceGuard<D> {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        if let Err(error) = self.remove() {
            tracing::error!(device = %self.info.name, %error, "a device that is no longer wanted could not be removed");
        }
    }
}

/// Owns a suspension: the device is resumed when the guard is dropped.
#[derive(Debug)]
#[must_use = "the device is resumed when the guard is dropped"]
pub struct SuspendGuard<D: DeviceMapper> {
    dm: D,
    name: DmName,
    how: Suspend,
    armed: bool,
}

impl<D: DeviceMapper> SuspendGuard<D> {
    /// Suspends the device. One ioctl, which may take as long as the I/O under way does.
    ///
    /// # Errors
    /// As [`DeviceMapper::suspend`]; the device is not suspended then.
    pub fn suspend(dm: D, name: &DmName, how: Suspend) -> Result<Self> {
        dm.suspend(name.into(), how)?;
        Ok(Self { dm, name: name.clone(), how, armed: true })
    }

    /// The device's name.
    pub fn name(&self) -> &DmName {
        &self.name
    }

    /// Resumes the device now, with the table that was loaded meanwhile, if there is one. One ioctl.
    ///
    /// # Errors
    /// As [`DeviceMapper::resume`]. The device is then left suspended, and nobody owns that any more.
    pub fn resume(mut self) -> Result<Info> {
        self.armed = false;
        self.dm.resume((&self.name).into(), self.how)
    }

    /// Leaves the device suspended.
    pub fn keep(mut self) {
        self.armed = false;
    }
}

impl<D: DeviceMapper> Drop for SuspendGuard<D> {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        if let Err(error) = self.dm.resume((&self.name).into(), self.how) {
            tracing::error!(device = %self.name, %error, "a suspended device could not be resumed");
        }
    }
}

#[cfg(test)]
mod tests;
