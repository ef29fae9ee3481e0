//! [`Control`]: the kernel's device-mapper, through its control node.

use crate::decode::{self, Header};
use crate::device_mapper::{
    Access, DeviceMapper, Events, Flush, Info, ListedDevice, Removal, Removed, Slot, Suspend, Target,
    TargetVersion, Version,
};
use crate::error::{Error, Result};
use crate::event::ControlEvents;
use crate::generated as g;
use crate::name::{DeviceNumber, DeviceRef, DmName, DmUuid};
use crate::node::Nodes;
use crate::request::{Command, Flags, MAX_BUFFER_BYTES, Request};
use crate::sys::ioctl::{self, Buffer};
use crate::udev::UdevFlags;
use crate::units::Sectors;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The control node.
pub(crate) const CONTROL_PATH: &str = "/dev/mapper/control";

/// The message that every device understands, whatever its targets.
const CANCEL_DEFERRED_REMOVE: &str = "@cancel_deferred_remove";

/// The kernel's device-mapper, through `/dev/mapper/control`.
///
/// Each method of [`DeviceMapper`] is one ioctl; the exceptions say so. It may be shared by threads: the kernel does the locking.
///
/// An answer that does not fit the buffer is asked for again with twice the room, up to 128 MiB. That repeats the command, which
/// only reads; a *message* with an answer of more than 16 KiB is sent again too, which matters to messages that read and reset
/// (`@stats_print_clear`). A call that a signal interrupts is made again.
///
/// # Privileges
/// `CAP_SYS_ADMIN`, from [`Control::open`] on.
///
/// # References
/// `include/uapi/linux/dm-ioctl.h` of the kernel. A copy is in this crate's `headers/`.
#[derive(Debug)]
pub struct Control {
    fd: OwnedFd,
    version: Version,
    nodes: Nodes,
    udev_flags: UdevFlags,
}

/// Header and records of one answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) header: Header,
    buffer: Buffer,
}

impl Answer {
    /// Did the kernel send a uevent that carries the cookie?
    pub(crate) fn uevent(&self) -> bool {
        self.header.flags.contains(Flags::UEVENT_GENERATED)
    }
}

impl Control {
    /// Opens the control node and agrees on a version. One ioctl.
    ///
    /// # Errors
    /// [`Error::Control`]: [`crate::Kind::Absent`] where the kernel has no device-mapper, [`crate::Kind::Permission`] without
    /// privileges. [`Error::Version`] where the kernel speaks another interface than 4.
    pub fn open() -> Result<Self> {
        Self::open_at(CONTROL_PATH)
    }

    pub(crate) fn open_at(path: &'static str) -> Result<Self> {
        let fd = open_control(path)?;
        let mut control = Self {
            fd,
            version: Version(g::DM_VERSION_MAJOR, 0, 0),
            nodes: Nodes::standard(),
            udev_flags: UdevFlags::empty(),
        };
        let answer = control.call(&Request::new(Command::Version)).map_err(|error| match error.errno() {
            Some(errno) => Error::Control { path, errno, advice: advice(errno) },
            None => error,
        })?;
        let needed = Version(g::DM_VERSION_MAJOR, 0, 0);
        if answer.header.version.0 != needed.0 {
            return Err(Error::Version { found: answer.header.version, needed });
        }
        control.version = answer.header.version;
        tracing::debug!(version = %control.version, "device-mapper opened");
        Ok(control)
    }

    /// Sends these flags to udev's rules with every resume, removal and rename. No flags by default. No ioctl.
    ///
    /// They say what the rules shall leave undone, for instance not to probe a device for what is on it.
    /// This needs no cookie, and nothing waits.
    pub fn with_udev_flags(mut self, flags: UdevFlags) -> Self {
        self.udev_flags = flags;
        self
    }

    /// The version of one target type, whose module the kernel loads if it can (`DM_GET_TARGET_VERSION`, interface 4.41 and
    /// newer); `None` if there is no such target.
    ///
    /// # Errors
    /// [`crate::Kind::Unsupported`] on older kernels, [`crate::Kind::Invalid`] if `target` cannot be a target's name.
    pub fn target_version(&self, target: &str) -> Result<Option<TargetVersion>> {
        let request = Request::new(Command::TargetVersion).target_name(target)?;
        match self.call(&request) {
            Ok(answer) => {
                let versions = decode::versions(&answer.header, answer.buffer.as_bytes());
                Ok(versions
                    .map_err(|why| request.malformed(why))?
                    .into_iter()
                    .find(|found| found.name == target))
            }
            Err(error) if error.errno() == Some(Errno::EINVAL) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The one funnel: every ioctl of this crate passes here.
    pub(crate) fn call(&self, request: &Request<'_>) -> Result<Answer> {
        call(self.fd.as_fd(), self.version, request)
    }

    fn records<T>(
        &self,
        request: &Request<'_>,
        decode: impl FnOnce(&Header, &[u8]) -> std::result::Result<T, decode::Why>,
    ) -> Result<(Info, T)> {
        let answer = self.call(request)?;
        let records =
            decode(&answer.header, answer.buffer.as_bytes()).map_err(|why| request.malformed(why))?;
        Ok((answer.header.info(), records))
    }

    /// Removes, with a cookie and flags for udev.
    pub(crate) fn remove_with(
        &self,
        device: DeviceRef<'_>,
        when: Removal,
        event_nr: u32,
    ) -> Result<(Removed, bool)> {
        let mut request = Request::on(Command::Remove, device)?.event_nr(event_nr);
        if when == Removal::Deferred {
            request = request.flags(Flags::DEFERRED_REMOVE).since(27);
        }
        match self.call(&request) {
            Ok(answer) if answer.header.flags.contains(Flags::DEFERRED_REMOVE) => {
                Ok((Removed::Scheduled, answer.uevent()))
            }
            Ok(answer) => Ok((Removed::Gone, answer.uevent())),
            Err(error) if error.errno() == Some(Errno::ENXIO) => Ok((Removed::Absent, false)),
            Err(error) => Err(error),
        }
    }

    /// Resumes, with a cookie and flags for udev.
    pub(crate) fn resume_with(
        &self,
        device: DeviceRef<'_>,
        how: Suspend,
        event_nr: u32,
    ) -> Result<(Info, bool)> {
        let request = Request::on(Command::Suspend, device)?.flags(suspend_flags(how)).event_nr(event_nr);
        let answer = self.call(&request)?;
        Ok((answer.header.info(), answer.uevent()))
    }

    /// Renames, with a cookie and flags for udev.
    pub(crate) fn rename_with(&self, device: &DmName, to: &DmName, event_nr: u32) -> Result<(Info, bool)> {
        let request =
            Request::on(Command::Rename, device.into())?.text_payload(to.as_str()).event_nr(event_nr);
        let answer = self.call(&request)?;
        // The header still has the name by which the device was found.
        Ok((Info { name: to.clone(), ..answer.header.info() }, answer.uevent()))
    }

    fn info_after(&self, request: &Request<'_>) -> Result<Info> {
        Ok(self.call(request)?.header.info())
    }
}

/// One command, with growing buffers. The descriptor is the control node's.
pub(crate) fn call(
    fd: std::os::fd::BorrowedFd<'_>,
    interface: Version,
    request: &Request<'_>,
) -> Result<Answer> {
    if interface < request.needs() {
        return Err(Error::Version { found: interface, needed: request.needs() });
    }
    let mut bytes = request.first_buffer_bytes()?;
    loop {
        let mut buffer = Buffer::new(bytes);
        request.encode(buffer.as_bytes_mut());
        let result = ioctl::submit(fd, request.command.number(), &mut buffer);
        tracing::trace!(
            command = request.command_text(),
            device = request.device_text(),
            bytes,
            errno = result.err().map(tracing::field::debug),
            "ioctl"
        );
        match result {
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(request.error(errno)),
            Ok(()) => {}
        }
        let header = Header::decode(buffer.as_bytes()).map_err(|why| request.malformed(why))?;
        if !(header.flags.contains(Flags::BUFFER_FULL) && request.command.answers_data()) {
            return Ok(Answer { header, buffer });
        }
        if bytes >= MAX_BUFFER_BYTES {
            return Err(request.malformed(format!("it is longer than {MAX_BUFFER_BYTES} bytes")));
        }
        bytes = bytes.saturating_mul(2).min(MAX_BUFFER_BYTES);
    }
}

/// Opens the control node; closed on exec.
pub(crate) fn open_control(path: &'static str) -> Result<OwnedFd> {
    open(path, OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()).map_err(|errno| Error::Control {
        path,
        errno,
        advice: advice(errno),
    })
}

fn advice(errno: Errno) -> &'static str {
    match errno {
        Errno::EACCES | Errno::EPERM => "run it as root (CAP_SYS_ADMIN is needed)",
        Errno::ENOENT | Errno::ENXIO | Errno::ENODEV if kernel_has_it(Path::new("/proc/misc")) => {
            "this kernel has device-mapper, but its control node is not here: a container must be given it, \
             another /dev needs a node with the numbers that /proc/misc shows"
        }
        Errno::ENOENT | Errno::ENXIO | Errno::ENODEV => {
            "no device-mapper in this kernel; load dm_mod (modprobe dm_mod), or use a kernel that has it"
        }
        Errno::ENOTTY => "it is not device-mapper's control node",
        Errno::EINVAL => "the kernel speaks another major version of the interface than 4",
        _ => "look at the node and the kernel's log",
    }
}

/// Does the list of the kernel's misc devices have device-mapper's control?
fn kernel_has_it(misc: &Path) -> bool {
    std::fs::read_to_string(misc)
        .is_ok_and(|text| text.lines().any(|line| line.split_whitespace().nth(1) == Some("device-mapper")))
}

fn suspend_flags(how: Suspend) -> Flags {
    let mut flags = Flags::empty();
    flags.set(Flags::SKIP_LOCKFS, !how.freeze);
    flags.set(Flags::NO_FLUSH, !how.flush);
    flags
}

impl DeviceMapper for Control {
    fn version(&self) -> Version {
        self.version
    }

    fn target_versions(&self) -> Result<Vec<TargetVersion>> {
        self.records(&Request::new(Command::ListVersions), decode::versions).map(|(_, versions)| versions)
    }

    /// Devices that others made with names which [`DmName`] does not allow are listed with those bytes as `\xNN`: call them by number.
    fn devices(&self) -> Result<Vec<ListedDevice>> {
        let mut request = Request::new(Command::ListDevices);
        if self.version.1 >= decode::LIST_UUID_MINOR {
            // The kernel lists UUIDs only to those who ask.
            request = request.flags(Flags::UUID);
        }
        let decode = |header: &Header, buffer: &[u8]| decode::devices(header, buffer, self.version);
        self.records(&request, decode).map(|(_, devices)| devices)
    }

    fn create(&self, name: &DmName, uuid: Option<&DmUuid>) -> Result<Info> {
        let request = Request::on(Command::Create, name.into())?.new_uuid(uuid.map_or("", DmUuid::as_str));
        self.info_after(&request)
    }

    fn remove(&self, device: DeviceRef<'_>, when: Removal) -> Result<Removed> {
        self.remove_with(device, when, self.udev_flags.without_cookie()).map(|(removed, _)| removed)
    }

    fn cancel_deferred_removal(&self, device: DeviceRef<'_>) -> Result<()> {
        let request =
            Request::on(Command::Message, device)?.message(Sectors(0), CANCEL_DEFERRED_REMOVE)?.since(27);
        self.call(&request).map(drop)
    }

    /// The kernel's answer does not tell the UUID: [`Info::uuid`] is `None` here, also for a device that has one.
    fn rename(&self, device: &DmName, to: &DmName) -> Result<Info> {
        self.rename_with(device, to, self.udev_flags.without_cookie()).map(|(info, _)| info)
    }

    fn set_uuid(&self, device: &DmName, uuid: &DmUuid) -> Result<Info> {
        let request = Request::on(Command::Rename, device.into())?
            .flags(Flags::UUID)
            .since(19)
            .text_payload(uuid.as_str())
            .event_nr(self.udev_flags.without_cookie());
        let info = self.info_after(&request)?;
        Ok(Info { uuid: Some(uuid.clone()), ..info })
    }

    fn suspend(&self, device: DeviceRef<'_>, how: Suspend) -> Result<Info> {
        self.info_after(&Request::on(Command::Suspend, device)?.flags(Flags::SUSPEND | suspend_flags(how)))
    }

    fn resume(&self, device: DeviceRef<'_>, how: Suspend) -> Result<Info> {
        self.resume_with(device, how, self.udev_flags.without_cookie()).map(|(info, _)| info)
    }

    fn load(&self, device: DeviceRef<'_>, table: &[Target], access: Access) -> Result<Info> {
        let mut request = Request::on(Command::Load, device)?.table(table)?;
        if access == Access::ReadOnly {
            request = request.flags(Flags::READ_ONLY);
        }
        self.info_after(&request)
    }

    fn clear(&self, device: DeviceRef<'_>) -> Result<Info> {
        self.info_after(&Request::on(Command::Clear, device)?)
    }

    fn info(&self, device: DeviceRef<'_>) -> Result<Option<Info>> {
        match self.info_after(&Request::on(Command::Info, device)?) {
            Ok(info) => Ok(Some(info)),
            Err(error) if error.errno() == Some(Errno::ENXIO) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn table(&self, device: DeviceRef<'_>, slot: Slot) -> Result<(Info, Vec<Target>)> {
        let mut request = Request::on(Command::Status, device)?.flags(Flags::STATUS_TABLE);
        if slot == Slot::Inactive {
            request = request.flags(Flags::QUERY_INACTIVE).since(16);
        }
        let (info, targets) = self.records(&request, decode::targets)?;
        // Without an inactive table the kernel's answer is not to be looked at.
        let absent = slot == Slot::Inactive && !info.inactive_table;
        Ok((info, if absent { Vec::new() } else { targets }))
    }

    fn status(&self, device: DeviceRef<'_>, flush: Flush) -> Result<(Info, Vec<Target>)> {
        let mut request = Request::on(Command::Status, device)?;
        if flush == Flush::No {
            request = request.flags(Flags::NO_FLUSH);
        }
        self.records(&request, decode::targets)
    }

    fn deps(&self, device: DeviceRef<'_>) -> Result<Vec<DeviceNumber>> {
        self.records(&Request::on(Command::Deps, device)?, decode::deps).map(|(_, deps)| deps)
    }

    fn message(
        &self,
        device: DeviceRef<'_>,
        sector: Sectors,
        message: &str,
    ) -> Result<(Info, Option<String>)> {
        let request = Request::on(Command::Message, device)?.message(sector, message)?;
        self.records(&request, decode::message)
    }

    fn events(&self) -> Result<Box<dyn Events>> {
        Ok(Box::new(ControlEvents::open(self.version)?))
    }

    fn node(&self, name: &DmName, number: DeviceNumber) -> Result<PathBuf> {
        self.nodes.node(name, number)
    }

    fn forget_node(&self, name: &DmName, number: DeviceNumber) -> Result<()> {
        self.nodes.forget(name, number)
    }
}

#[cfg(test)]
mod tests {
    use super::{Control, call, kernel_has_it, open_control};
    use crate::device_mapper::Version;
    use crate::error::Kind;
    use crate::request::{Command, Request};
    use std::os::fd::AsFd;

    #[test]
    fn no_control_node_is_told_with_what_to_do() {
        let error = Control::open_at("/nonexistent/mapper/control").unwrap_err();
        assert_eq!(error.kind(), Kind::Absent);
        let text = error.to_string();
        assert!(text.starts_with("cannot open /nonexistent/mapper/control: ENOENT"), "{text}");
        assert!(text.contains("device-mapper"), "{text}");
    }

    #[test]
    fn another_device_is_not_taken_for_the_control_node() {
        let error = Control::open_at("/dev/null").unwrap_err();
        assert!(error.to_string().contains("not device-mapper's control node"), "{error}");
    }

    #[test]
    fn a_command_that_is_too_new_for_the_kernel_is_not_sent() {
        let null = open_control("/dev/null").unwrap();
        let error = call(null.as_fd(), Version(4, 36, 0), &Request::new(Command::ArmPoll)).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.to_string().contains("4.36.0 is too old; 4.37.0 or newer"), "{error}");
    }

    #[test]
    fn the_list_of_misc_devices_tells_a_missing_node_from_a_missing_module() {
        let folder = tempfile::tempdir().unwrap();
        let misc = folder.path().join("misc");
        assert!(!kernel_has_it(&misc));
        std::fs::write(&misc, "125 cpu_dma_latency\n236 device-mapper\n").unwrap();
        assert!(kernel_has_it(&misc));
        std::fs::write(&misc, "125 not-device-mapper\n").unwrap();
        assert!(!kernel_has_it(&misc));
    }
}
