//! What is sent to the kernel: a command, the device it is for, flags, and the data behind the header.

use crate::device_mapper::{Target, Version};
use crate::error::{Error, Result};
use crate::generated as g;
use crate::name::{DeviceNumber, DeviceRef};
use crate::sys::ioctl::HEADER_BYTES;
use crate::units::Sectors;
use nix::errno::Errno;
use std::mem::offset_of;

/// Where the answers that carry data start; most fit it.
const ANSWER_BYTES: usize = 16 * 1024;

/// The largest buffer: over a million targets with short parameters. The kernel would take more, but nothing real needs it.
pub(crate) const MAX_BUFFER_BYTES: usize = 128 * 1024 * 1024;

bitflags::bitflags! {
    /// The header's flags, those of them that are sent or looked at.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct Flags: u32 {
        const READ_ONLY = g::DM_READONLY_FLAG;
        const SUSPEND = g::DM_SUSPEND_FLAG;
        const STATUS_TABLE = g::DM_STATUS_TABLE_FLAG;
        const LIVE_PRESENT = g::DM_ACTIVE_PRESENT_FLAG;
        const INACTIVE_PRESENT = g::DM_INACTIVE_PRESENT_FLAG;
        const BUFFER_FULL = g::DM_BUFFER_FULL_FLAG;
        const SKIP_LOCKFS = g::DM_SKIP_LOCKFS_FLAG;
        const NO_FLUSH = g::DM_NOFLUSH_FLAG;
        const QUERY_INACTIVE = g::DM_QUERY_INACTIVE_TABLE_FLAG;
        const UEVENT_GENERATED = g::DM_UEVENT_GENERATED_FLAG;
        const UUID = g::DM_UUID_FLAG;
        const DATA_OUT = g::DM_DATA_OUT_FLAG;
        const DEFERRED_REMOVE = g::DM_DEFERRED_REMOVE;
        const _ = !0;
    }
}

/// The commands that this crate sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Version,
    ListDevices,
    Create,
    Remove,
    Rename,
    Suspend,
    Info,
    Load,
    Clear,
    Deps,
    Status,
    ListVersions,
    Message,
    ArmPoll,
    TargetVersion,
}

impl Command {
    /// The name in the kernel's header.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Version => "DM_VERSION",
            Self::ListDevices => "DM_LIST_DEVICES",
            Self::Create => "DM_DEV_CREATE",
            Self::Remove => "DM_DEV_REMOVE",
            Self::Rename => "DM_DEV_RENAME",
            Self::Suspend => "DM_DEV_SUSPEND",
            Self::Info => "DM_DEV_STATUS",
            Self::Load => "DM_TABLE_LOAD",
            Self::Clear => "DM_TABLE_CLEAR",
            Self::Deps => "DM_TABLE_DEPS",
            Self::Status => "DM_TABLE_STATUS",
            Self::ListVersions => "DM_LIST_VERSIONS",
            Self::Message => "DM_TARGET_MSG",
            Self::ArmPoll => "DM_DEV_ARM_POLL",
            Self::TargetVersion => "DM_GET_TARGET_VERSION",
        }
    }

    /// The number that goes into the request code.
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::Version => g::DM_VERSION_CMD,
            Self::ListDevices => g::DM_LIST_DEVICES_CMD,
            Self::Create => g::DM_DEV_CREATE_CMD,
            Self::Remove => g::DM_DEV_REMOVE_CMD,
            Self::Rename => g::DM_DEV_RENAME_CMD,
            Self::Suspend => g::DM_DEV_SUSPEND_CMD,
            Self::Info => g::DM_DEV_STATUS_CMD,
            Self::Load => g::DM_TABLE_LOAD_CMD,
            Self::Clear => g::DM_TABLE_CLEAR_CMD,
            Self::Deps => g::DM_TABLE_DEPS_CMD,
            Self::Status => g::DM_TABLE_STATUS_CMD,
            Self::ListVersions => g::DM_LIST_VERSIONS_CMD,
            Self::Message => g::DM_TARGET_MSG_CMD,
            Self::ArmPoll => g::DM_DEV_ARM_POLL_CMD,
            Self::TargetVersion => g::DM_GET_TARGET_VERSION_CMD,
        }
    }

    /// The oldest interface that has the command. Flags may need a newer one: see [`Request::needs`].
    fn since(self) -> Version {
        let minor = match self {
            Self::ListVersions => 1,
            Self::Message => 2,
            Self::ArmPoll => 37,
            Self::TargetVersion => 41,
            _ => 0,
        };
        Version(g::DM_VERSION_MAJOR, minor, 0)
    }

    /// Does the kernel answer with data behind the header? Only then may it ask for a larger buffer, and only then is asking
    /// again harmless (but for a message, see [`crate::Control`]).
    pub(crate) fn answers_data(self) -> bool {
        matches!(
            self,
            Self::ListDevices
                | Self::Deps
                | Self::Status
                | Self::ListVersions
                | Self::Message
                | Self::TargetVersion
        )
    }
}

/// One call, typed.
#[derive(Clone, Debug)]
pub(crate) struct Request<'a> {
    pub(crate) command: Command,
    device: Option<DeviceRef<'a>>,
    name: &'a str,
    uuid: &'a str,
    dev: u64,
    flags: Flags,
    /// The cookie with its flags, for commands that make uevents.
    event_nr: u32,
    target_count: u32,
    payload: Vec<u8>,
    /// A message's text, for errors.
    text: Option<&'a str>,
    needs: Version,
}

impl<'a> Request<'a> {
    /// A command that is for no device.
    pub(crate) fn new(command: Command) -> Self {
        Self {
            command,
            device: None,
            name: "",
            uuid: "",
            dev: 0,
            flags: Flags::empty(),
            event_nr: 0,
            target_count: 0,
            payload: Vec::new(),
            text: None,
            needs: command.since(),
        }
    }

    /// A command for a device. The kernel wants exactly one of name, UUID and number.
    pub(crate) fn on(command: Command, device: DeviceRef<'a>) -> Result<Self> {
        let mut request = Self { device: Some(device), ..Self::new(command) };
        match device {
            DeviceRef::Name(name) => request.name = name.as_str(),
            DeviceRef::Uuid(uuid) => request.uuid = uuid.as_str(),
            DeviceRef::Number(number) => {
                // What does not fit the kernel's encoding would name another device.
                request.dev = encode_dev(number).ok_or_else(|| request.error(Errno::ENXIO))?;
            }
        }
        Ok(request)
    }

    pub(crate) fn flags(mut self, flags: Flags) -> Self {
        self.flags |= flags;
        self
    }

    pub(crate) fn event_nr(mut self, event_nr: u32) -> Self {
        self.event_nr = event_nr;
        self
    }

    /// The oldest interface that serves, where flags need a newer one than the command.
    pub(crate) fn since(mut self, minor: u32) -> Self {
        self.needs = self.needs.max(Version(g::DM_VERSION_MAJOR, minor, 0));
        self
    }

    pub(crate) fn needs(&self) -> Version {
        self.needs
    }

    /// With the UUID that a new device gets.
    pub(crate) fn new_uuid(mut self, uuid: &'a str) -> Self {
        self.uuid = uuid;
        self
    }

    /// With the name of a target type in the header's name field.
    pub(crate) fn target_name(mut self, name: &'a str) -> Result<Self> {
        check_target_type(name)?;
        self.name = name;
        Ok(self)
    }

    /// With a text that ends in NUL: a new name or UUID.
    pub(crate) fn text_payload(mut self, text: &str) -> Self {
        self.payload = terminated(text);
        self
    }

    /// With a message for the target at `sector`.
    pub(crate) fn message(mut self, sector: Sectors, message: &'a str) -> Result<Self> {
        if message.is_empty() || message.contains('\0') {
            let why = "it is empty or holds a NUL byte";
            return Err(Error::Name { what: "target message", text: message.into(), why });
        }
        self.payload = sector.0.to_ne_bytes().to_vec();
        self.payload.extend(terminated(message));
        self.text = Some(message);
        Ok(self)
    }

    /// With a table.
    pub(crate) fn table(mut self, table: &[Target]) -> Result<Self> {
        self.target_count = u32::try_from(table.len()).map_err(|_| self.error(Errno::E2BIG))?;
        for target in table {
            let record = encode_target(target)?.ok_or_else(|| self.error(Errno::E2BIG))?;
            self.payload.extend(record);
        }
        Ok(self)
    }

    /// How long the first buffer is: header, payload, and room for the usual answer.
    pub(crate) fn first_buffer_bytes(&self) -> Result<usize> {
        let room = if self.command.answers_data() { ANSWER_BYTES } else { 0 };
        let bytes = HEADER_BYTES + self.payload.len().max(room);
        if bytes > MAX_BUFFER_BYTES {
            return Err(self.error(Errno::E2BIG));
        }
        Ok(bytes)
    }

    /// Writes header and payload into a zeroed buffer of at least [`Self::first_buffer_bytes`]; the length goes in at the call.
    pub(crate) fn encode(&self, buffer: &mut [u8]) {
        let mut put = |at: usize, bytes: &[u8]| buffer[at..at + bytes.len()].copy_from_slice(bytes);
        let Version(major, minor, patch) = self.needs;
        let version = offset_of!(g::dm_ioctl, version);
        put(version, &major.to_ne_bytes());
        put(version + 4, &minor.to_ne_bytes());
        put(version + 8, &patch.to_ne_bytes());
        put(offset_of!(g::dm_ioctl, data_start), &HEADER_START.to_ne_bytes());
        put(offset_of!(g::dm_ioctl, target_count), &self.target_count.to_ne_bytes());
        put(offset_of!(g::dm_ioctl, flags), &self.flags.bits().to_ne_bytes());
        put(offset_of!(g::dm_ioctl, event_nr), &self.event_nr.to_ne_bytes());
        put(offset_of!(g::dm_ioctl, dev), &self.dev.to_ne_bytes());
        // Both are shorter than their fields: the types' own rules, and `check_target_type`.
        put(offset_of!(g::dm_ioctl, name), self.name.as_bytes());
        put(offset_of!(g::dm_ioctl, uuid), self.uuid.as_bytes());
        put(HEADER_BYTES, &self.payload);
    }

    /// The command as errors name it.
    pub(crate) fn command_text(&self) -> String {
        match self.text {
            Some(text) => format!("{} {text:?}", self.command.name()),
            None => self.command.name().into(),
        }
    }

    /// The device as errors name it.
    pub(crate) fn device_text(&self) -> String {
        match self.device {
            Some(device) => device.to_string(),
            None if self.name.is_empty() => "-".into(),
            None => self.name.into(),
        }
    }

    pub(crate) fn error(&self, errno: Errno) -> Error {
        Error::ioctl(self.command_text(), self.device_text(), errno)
    }

    pub(crate) fn malformed(&self, why: impl Into<String>) -> Error {
        Error::Malformed { command: self.command_text(), device: self.device_text(), why: why.into() }
    }
}

/// The payload begins where the header ends.
#[expect(clippy::cast_possible_truncation, reason = "a constant of a few hundred")]
const HEADER_START: u32 = HEADER_BYTES as u32;

const SPEC_BYTES: usize = size_of::<g::dm_target_spec>();
const SPEC_ALIGN: usize = align_of::<g::dm_target_spec>();

/// One record of a table: the spec, the parameters with their NUL, padding. `None` if it is too long for its own length field.
fn encode_target(target: &Target) -> Result<Option<Vec<u8>>> {
    check_target_type(&target.kind)?;
    if target.params.contains('\0') {
        let why = "a NUL byte would end them";
        return Err(Error::Name { what: "target parameters", text: target.params.clone(), why });
    }
    let len = (SPEC_BYTES + target.params.len() + 1).next_multiple_of(SPEC_ALIGN);
    let Ok(next) = u32::try_from(len) else { return Ok(None) };
    let mut record = vec![0; len];
    let mut put = |at: usize, bytes: &[u8]| record[at..at + bytes.len()].copy_from_slice(bytes);
    put(offset_of!(g::dm_target_spec, sector_start), &target.start.0.to_ne_bytes());
    put(offset_of!(g::dm_target_spec, length), &target.len.0.to_ne_bytes());
    put(offset_of!(g::dm_target_spec, next), &next.to_ne_bytes());
    put(offset_of!(g::dm_target_spec, target_type), target.kind.as_bytes());
    put(SPEC_BYTES, target.params.as_bytes());
    Ok(Some(record))
}

/// A target type fits its field with a NUL.
fn check_target_type(kind: &str) -> Result<()> {
    let max = g::DM_MAX_TYPE_NAME as usize - 1;
    if kind.is_empty() || kind.len() > max || !kind.bytes().all(|byte| byte.is_ascii_graphic()) {
        let why = "1 to 15 bytes of printable ASCII are allowed";
        return Err(Error::Name { what: "target type", text: kind.into(), why });
    }
    Ok(())
}

fn terminated(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

/// The kernel's `huge_encode_dev`; `None` if the number has more bits than the kernel's type (12 and 20).
pub(crate) fn encode_dev(number: DeviceNumber) -> Option<u64> {
    if number.major >= 1 << 12 || number.minor >= 1 << 20 {
        return None;
    }
    let (major, minor) = (u64::from(number.major), u64::from(number.minor));
    Some((minor & 0xff) | (major << 8) | ((minor & !0xff) << 12))
}

#[cfg(test)]
mod tests;
