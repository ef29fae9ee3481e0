//! udev cookies: waiting until udev's rules are done with a device, as libdevmapper does it.
//!
//! A cookie is a SysV semaphore whose number travels with the uevent. When udev's rules are through they run
//! `dmsetup udevcomplete`, which counts it down. No method of [`crate::DeviceMapper`] waits for udev, and nothing in this project
//! needs to: this is for callers whose next step looks for udev's links. Every wait has a deadline, and a
//! semaphore is removed whatever happens.

use crate::control::Control;
use crate::device_mapper::{Info, Removal, Removed, Suspend};
use crate::error::{Error, Result};
use crate::name::{DeviceRef, DmName};
use crate::sys::semaphore::Semaphore;
use nix::errno::Errno;
use std::cell::Cell;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

/// The upper half of each cookie semaphore's key, by which libdevmapper and `dmsetup udevcookies` know them.
pub const COOKIE_MAGIC: u16 = 0x0d4d;

/// Where a running udev listens.
const UDEV_CONTROL: &str = "/run/udev/control";

/// How many keys are tried before giving up: taken ones are rare among 65535.
const KEY_TRIES: usize = 1000;

bitflags::bitflags! {
    /// What udev's rules shall leave undone for a uevent. They travel in the upper half of the cookie.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct UdevFlags: u16 {
        /// No links under `/dev/mapper`.
        const DISABLE_DM_RULES = 0x0001;
        /// No rules of subsystems, such as LVM.
        const DISABLE_SUBSYSTEM_RULES = 0x0002;
        /// No links under `/dev/disk`, no look at what is on the device.
        const DISABLE_DISK_RULES = 0x0004;
        /// No other rules at all.
        const DISABLE_OTHER_RULES = 0x0008;
        /// Links of this device give way to those of others.
        const LOW_PRIORITY = 0x0010;
        /// libdevmapper's own nodes are not made either.
        const DISABLE_LIBRARY_FALLBACK = 0x0020;
        /// The event comes from a device-mapper call, not from a trigger. Sent with each cookie.
        const PRIMARY_SOURCE = 0x0040;
    }
}

impl UdevFlags {
    /// As the kernel passes them on where there is no cookie. Nothing at all for no flags: then the event has no cookie variable.
    pub(crate) fn without_cookie(self) -> u32 {
        if self.is_empty() { 0 } else { u32::from((self | Self::PRIMARY_SOURCE).bits()) << 16 }
    }
}

/// Does udev run, so that waiting for it makes sense?
///
/// True where `/run/udev/control` is. A process in another IPC namespace than udev's never gets an answer, and waits until its deadline.
pub fn udev_runs() -> bool {
    Path::new(UDEV_CONTROL).exists()
}

/// One cookie: the operations that are counted by it.
///
/// Made by [`Control::with_udev_cookie`]. Where udev does not run it counts nothing, and the operations are plain ones.
#[derive(Debug)]
pub struct UdevCookie<'a> {
    control: &'a Control,
    counter: Option<Counter>,
}

/// The semaphore behind a cookie, and its owner.
#[derive(Debug)]
struct Counter {
    semaphore: Semaphore,
    /// The lower half of the key, never 0.
    base: u16,
    removed: Cell<bool>,
}

impl UdevCookie<'_> {
    /// [`crate::DeviceMapper::remove`], counted.
    ///
    /// # Errors
    /// As the method, and [`Error::Cookie`].
    pub fn remove(&self, device: DeviceRef<'_>, when: Removal, flags: UdevFlags) -> Result<Removed> {
        self.counted(flags, |event_nr| self.control.remove_with(device, when, event_nr))
    }

    /// [`crate::DeviceMapper::resume`], counted.
    ///
    /// # Errors
    /// As the method, and [`Error::Cookie`].
    pub fn resume(&self, device: DeviceRef<'_>, how: Suspend, flags: UdevFlags) -> Result<Info> {
        self.counted(flags, |event_nr| self.control.resume_with(device, how, event_nr))
    }

    /// [`crate::DeviceMapper::rename`], counted.
    ///
    /// # Errors
    /// As the method, and [`Error::Cookie`].
    pub fn rename(&self, device: &DmName, to: &DmName, flags: UdevFlags) -> Result<Info> {
        self.counted(flags, |event_nr| self.control.rename_with(device, to, event_nr))
    }

    /// Counts up, acts, and counts down again if no uevent carries the cookie.
    fn counted<T>(&self, flags: UdevFlags, act: impl FnOnce(u32) -> Result<(T, bool)>) -> Result<T> {
        let flags = flags | UdevFlags::PRIMARY_SOURCE;
        let Some(counter) = &self.counter else {
            return act(u32::from(flags.bits()) << 16).map(|(done, _)| done);
        };
        counter.add(1)?;
        let result = act(u32::from(flags.bits()) << 16 | u32::from(counter.base));
        if !matches!(result, Ok((_, true))) {
            let back = counter.add(-1);
            if result.is_ok() {
                back?;
            } else if let Err(error) = back {
                tracing::warn!(%error, "a udev cookie could not be counted down after a failed call");
            }
        }
        result.map(|(done, _)| done)
    }
}

impl Counter {
    fn create() -> Result<Self> {
        let random = RandomState::new();
        for attempt in 0..KEY_TRIES {
            let [low, high, ..] = random.hash_one(attempt).to_ne_bytes();
            let base = u16::from_ne_bytes([low, high]);
            if base == 0 {
                continue;
            }
            match Semaphore::create(key(base)) {
                Ok(semaphore) => {
                    let counter = Self { semaphore, base, removed: Cell::new(false) };
                    // 1 is our own hold, given up when the wait begins: operations may come and go before that.
                    semaphore.set(1).map_err(|errno| counter.error("semctl(SETVAL)", errno))?;
                    return Ok(counter);
                }
                Err(Errno::EEXIST) => {}
                Err(errno) => return Err(cookie_error("semget", base, errno)),
            }
        }
        Err(cookie_error("semget", 0, Errno::EEXIST))
    }

    fn add(&self, delta: i16) -> Result<()> {
        self.semaphore.add(delta).map_err(|errno| self.error("semop", errno))
    }

    /// Gives up our own hold and waits until udev has given up the others.
    fn wait(&self, patience: Duration) -> Result<()> {
        self.add(-1)?;
        let began = Instant::now();
        loop {
            match self.semaphore.wait_zero(patience.saturating_sub(began.elapsed())) {
                Ok(()) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    let (what, device) = ("udev's rules", format!("cookie {:#010x}", key(self.base)));
                    return Err(Error::Deadline { what, device, waited: began.elapsed() });
                }
                // An operator who takes the semaphore away (`dmsetup udevcomplete_all`) wants the wait to end.
                Err(Errno::EIDRM | Errno::EINVAL) => {
                    tracing::warn!(cookie = %format_args!("{:#010x}", key(self.base)), "a udev cookie was taken away");
                    self.removed.set(true);
                    return Ok(());
                }
                Err(errno) => return Err(self.error("semtimedop", errno)),
            }
        }
    }

    fn error(&self, call: &'static str, errno: Errno) -> Error {
        cookie_error(call, self.base, errno)
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        if self.removed.get() {
            return;
        }
        if let Err(errno) = self.semaphore.remove() {
            let error = self.error("semctl(IPC_RMID)", errno);
            tracing::error!(%error, "a udev cookie stays behind");
        }
    }
}

fn key(base: u16) -> libc::key_t {
    libc::key_t::from_ne_bytes((u32::from(COOKIE_MAGIC) << 16 | u32::from(base)).to_ne_bytes())
}

fn cookie_error(call: &'static str, base: u16, errno: Errno) -> Error {
    let advice = match errno {
        Errno::ENOSPC => "; no semaphores are left: `dmsetup udevcookies` lists those of device-mapper",
        Errno::ENOSYS => "; this kernel has no SysV semaphores",
        _ => "",
    };
    Error::Cookie { call, cookie: u32::from(COOKIE_MAGIC) << 16 | u32::from(base), errno, advice }
}

impl Control {
    /// Runs operations under one cookie, then waits until udev's rules are done with all of them, at most `patience`.
    ///
    /// Where udev does not run ([`udev_runs`]) nothing is waited for. If `act` fails its error is given back
    /// at once, without a wait. In each case the semaphore is gone afterwards.
    ///
    /// # Errors
    /// What `act` says; [`Error::Deadline`] if udev is not done in time (the operations are); [`Error::Cookie`].
    ///
    /// # Examples
    /// ```no_run
    /// use std::time::Duration;
    /// use thinlayer_dm::{Control, DmName, Suspend, UdevFlags};
    /// # fn main() -> Result<(), thinlayer_dm::Error> {
    /// let control = Control::open()?;
    /// let (a, b) = (DmName::new("a")?, DmName::new("b")?);
    /// control.with_udev_cookie(Duration::from_secs(10), |cookie| {
    ///     cookie.resume((&a).into(), Suspend::default(), UdevFlags::empty())?;
    ///     cookie.resume((&b).into(), Suspend::default(), UdevFlags::empty())
    /// })?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_udev_cookie<T>(
        &self,
        patience: Duration,
        act: impl FnOnce(&UdevCookie<'_>) -> Result<T>,
    ) -> Result<T> {
        let counter = if udev_runs() { Some(Counter::create()?) } else { None };
        let cookie = UdevCookie { control: self, counter };
        let done = act(&cookie)?;
        if let Some(counter) = &cookie.counter {
            counter.wait(patience)?;
        }
        Ok(done)
    }

    /// [`crate::DeviceMapper::remove`], then waits for udev, at most `patience`.
    ///
    /// # Errors
    /// As [`Control::with_udev_cookie`].
    pub fn remove_synced(
        &self,
        device: DeviceRef<'_>,
        when: Removal,
        flags: UdevFlags,
        patience: Duration,
    ) -> Result<Removed> {
        self.with_udev_cookie(patience, |cookie| cookie.remove(device, when, flags))
    }

    /// [`crate::DeviceMapper::resume`], then waits for udev, at most `patience`.
    ///
    /// # Errors
    /// As [`Control::with_udev_cookie`].
    pub fn resume_synced(
        &self,
        device: DeviceRef<'_>,
        how: Suspend,
        flags: UdevFlags,
        patience: Duration,
    ) -> Result<Info> {
        self.with_udev_cookie(patience, |cookie| cookie.resume(device, how, flags))
    }

    /// [`crate::DeviceMapper::rename`], then waits for udev, at most `patience`.
    ///
    /// # Errors
    /// As [`Control::with_udev_cookie`].
    pub fn rename_synced(
        &self,
        device: &DmName,
        to: &DmName,
        flags: UdevFlags,
        patience: Duration,
    ) -> Result<Info> {
        self.with_udev_cookie(patience, |cookie| cookie.rename(device, to, flags))
    }
}

/// A cookie's semaphore, of this process or another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedCookie {
    /// The whole key, as `dmsetup udevcookies` shows it.
    pub key: u32,
    /// The semaphore set's id.
    pub id: i32,
    /// The last time anyone counted or made it.
    pub last_used: SystemTime,
}

/// The cookies that there are now, of all programs in this IPC namespace (`/proc/sysvipc/sem`).
///
/// # Errors
/// [`Error::Cookie`] if the list cannot be read.
pub fn cookies() -> Result<Vec<ListedCookie>> {
    let text = std::fs::read_to_string("/proc/sysvipc/sem").map_err(|error| {
        let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
        cookie_error("read /proc/sysvipc/sem", 0, errno)
    })?;
    Ok(parse(&text))
}

/// Removes cookies that nobody waits for and nobody has used for `age`; gives back those that it removed.
///
/// A program that is killed between its call and its wait leaves its semaphore behind, and there are only so many
/// (`kernel.sem`, 32000 as a rule; fewer on old kernels). A cookie on which a process waits is never taken. One that a live program
/// has counted up but does not wait for yet cannot be told from a stale one but by its age: choose one of minutes.
///
/// # Errors
/// [`Error::Cookie`]; those removed before stay removed.
pub fn reclaim_cookies(age: Duration) -> Result<Vec<ListedCookie>> {
    let now = SystemTime::now();
    let mut reclaimed = Vec::new();
    for cookie in cookies()? {
        // A time in the future means that the clock was set: not old.
        let old = now.duration_since(cookie.last_used).is_ok_and(|unused| unused >= age);
        let semaphore = Semaphore::from_id(cookie.id);
        let gone = |errno| matches!(errno, Errno::EINVAL | Errno::EIDRM);
        let [low, high, ..] = cookie.key.to_le_bytes();
        let base = u16::from_le_bytes([low, high]);
        if !old {
            continue;
        }
        match semaphore.waiters() {
            Ok(0) => {}
            Ok(_) => continue,
            Err(errno) if gone(errno) => continue,
            Err(errno) => return Err(cookie_error("semctl(GETZCNT)", base, errno)),
        }
        match semaphore.remove() {
            Ok(()) => reclaimed.push(cookie),
            Err(errno) if gone(errno) => {}
            Err(errno) => return Err(cookie_error("semctl(IPC_RMID)", base, errno)),
        }
    }
    Ok(reclaimed)
}

/// Columns: key semid perms nsems uid gid cuid cgid otime ctime. Sets of other kinds are left out.
fn parse(text: &str) -> Vec<ListedCookie> {
    text.lines().skip(1).filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<ListedCookie> {
    let columns: Vec<&str> = line.split_whitespace().collect();
    let [key, id, _perms, "1", _uid, _gid, _cuid, _cgid, otime, ctime] = columns[..] else { return None };
    let key = u32::from_ne_bytes(key.parse::<i32>().ok()?.to_ne_bytes());
    if key >> 16 != u32::from(COOKIE_MAGIC) {
        return None;
    }
    let last = otime.parse::<u64>().ok()?.max(ctime.parse().ok()?);
    let last_used = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(last))?;
    Some(ListedCookie { key, id: id.parse().ok()?, last_used })
}

#[cfg(test)]
mod tests;
