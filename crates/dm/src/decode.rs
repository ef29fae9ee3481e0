//! What the kernel answers: the header and the records behind it, read with every offset checked.
//!
//! The buffers come from a kernel, but nothing here relies on it: any bytes give a value or an error, never a panic.

use crate::device_mapper::{Info, ListedDevice, Target, TargetVersion, Version};
use crate::generated as g;
use crate::name::{DeviceNumber, DmName, DmUuid, NAME_MAX_BYTES};
use crate::request::Flags;
use crate::sys::ioctl::HEADER_BYTES;
use crate::units::Sectors;
use std::fmt::Write as _;
use std::mem::offset_of;

/// Why an answer cannot be read.
pub(crate) type Why = String;
type Decoded<T> = std::result::Result<T, Why>;

/// The interface that added event numbers to the device list.
const LIST_EVENT_MINOR: u32 = 37;
/// The interface that added UUIDs to the device list.
pub(crate) const LIST_UUID_MINOR: u32 = 44;

/// Bytes with a name for errors, read by offset.
#[derive(Clone, Copy)]
struct Bytes<'a> {
    bytes: &'a [u8],
    what: &'static str,
}

impl<'a> Bytes<'a> {
    fn array<const N: usize>(self, at: usize) -> Decoded<[u8; N]> {
        at.checked_add(N)
            .and_then(|end| self.bytes.get(at..end))
            .and_then(|slice| slice.try_into().ok())
            .ok_or_else(|| {
                format!("the {} ends at byte {}, inside a field at byte {at}", self.what, self.bytes.len())
            })
    }

    fn u32(self, at: usize) -> Decoded<u32> {
        self.array(at).map(u32::from_ne_bytes)
    }

    fn u64(self, at: usize) -> Decoded<u64> {
        self.array(at).map(u64::from_ne_bytes)
    }

    /// The bytes from `at` to the NUL that ends them, which lies before `end`.
    fn text(self, at: usize, end: usize) -> Decoded<&'a [u8]> {
        let field = self.bytes.get(at..end.min(self.bytes.len()));
        let text = field
            .and_then(|field| field.split(|&byte| byte == 0).next().filter(|text| text.len() < field.len()));
        text.ok_or_else(|| format!("the text at byte {at} of the {} has no end", self.what))
    }
}

/// A field of the header that holds text.
fn field(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// The header of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) version: Version,
    data_size: usize,
    data_start: usize,
    pub(crate) target_count: u32,
    open_count: u32,
    pub(crate) flags: Flags,
    event_nr: u32,
    dev: u64,
    name: Vec<u8>,
    uuid: Vec<u8>,
}

impl Header {
    /// Reads it from the start of a buffer.
    pub(crate) fn decode(buffer: &[u8]) -> Decoded<Self> {
        let bytes = Bytes { bytes: buffer, what: "header" };
        let version = offset_of!(g::dm_ioctl, version);
        let name: [u8; g::DM_NAME_LEN as usize] = bytes.array(offset_of!(g::dm_ioctl, name))?;
        let uuid: [u8; g::DM_UUID_LEN as usize] = bytes.array(offset_of!(g::dm_ioctl, uuid))?;
        let open_count = i32::from_ne_bytes(bytes.array(offset_of!(g::dm_ioctl, open_count))?);
        Ok(Self {
            version: Version(bytes.u32(version)?, bytes.u32(version + 4)?, bytes.u32(version + 8)?),
            data_size: bytes.u32(offset_of!(g::dm_ioctl, data_size))? as usize,
            data_start: bytes.u32(offset_of!(g::dm_ioctl, data_start))? as usize,
            target_count: bytes.u32(offset_of!(g::dm_ioctl, target_count))?,
            open_count: u32::try_from(open_count).unwrap_or(0),
            flags: Flags::from_bits_retain(bytes.u32(offset_of!(g::dm_ioctl, flags))?),
            event_nr: bytes.u32(offset_of!(g::dm_ioctl, event_nr))?,
            dev: bytes.u64(offset_of!(g::dm_ioctl, dev))?,
            name: field(&name).to_vec(),
            uuid: field(&uuid).to_vec(),
        })
    }

    /// The part of the buffer that holds the answer's records; empty if there are none.
    fn data<'a>(&self, buffer: &'a [u8]) -> Bytes<'a> {
        let end = self.data_size.min(buffer.len());
        let bytes = if self.data_start < HEADER_BYTES {
            &[]
        } else {
            buffer.get(self.data_start..end).unwrap_or_default()
        };
        Bytes { bytes, what: "answer" }
    }

    /// State and counts of the device.
    pub(crate) fn info(&self) -> Info {
        let has = |flag| self.flags.contains(flag);
        Info {
            name: device_name(&self.name),
            uuid: device_uuid(&self.uuid),
            number: decode_dev(self.dev),
            open_count: self.open_count,
            target_count: self.target_count,
            event_nr: self.event_nr,
            suspended: has(Flags::SUSPEND),
            read_only: has(Flags::READ_ONLY),
            live_table: has(Flags::LIVE_PRESENT),
            inactive_table: has(Flags::INACTIVE_PRESENT),
            deferred_remove: has(Flags::DEFERRED_REMOVE),
        }
    }
}

/// The answer of `DM_LIST_DEVICES`.
pub(crate) fn devices(header: &Header, buffer: &[u8], interface: Version) -> Decoded<Vec<ListedDevice>> {
    let data = header.data(buffer);
    let mut devices = Vec::new();
    // A list that is empty is one record without a number, or nothing at all.
    if data.bytes.is_empty() || data.u64(offset_of!(g::dm_name_list, dev))? == 0 {
        return Ok(devices);
    }
    let mut at = 0;
    loop {
        let dev = data.u64(at + offset_of!(g::dm_name_list, dev))?;
        let next = data.u32(at + offset_of!(g::dm_name_list, next))?;
        let end = if next == 0 { data.bytes.len() } else { step(data, at, next, NAME_RECORD_BYTES)? };
        let name_at = at + offset_of!(g::dm_name_list, name);
        let name = data.text(name_at, end)?;
        let mut device =
            ListedDevice { name: device_name(name), uuid: None, number: decode_dev(dev), event_nr: None };
        if interface.1 >= LIST_EVENT_MINOR {
            // The kernel aligns addresses; its buffer and the data in it begin at multiples of 8.
            let after = (header.data_start + name_at + name.len() + 1).next_multiple_of(RECORD_ALIGN)
                - header.data_start;
            device.event_nr = Some(data.u32(after)?);
            if interface.1 >= LIST_UUID_MINOR && data.u32(after + 4)? & g::DM_NAME_LIST_FLAG_HAS_UUID != 0 {
                device.uuid = device_uuid(data.text(after + 8, end)?);
            }
        }
        devices.push(device);
        if next == 0 {
            return Ok(devices);
        }
        at = end;
    }
}

const NAME_RECORD_BYTES: usize = offset_of!(g::dm_name_list, name) + 1;
const RECORD_ALIGN: usize = 8;

/// Where the next record starts: `next` bytes after this one, past this one's fixed part, inside the data. So every walk ends.
fn step(data: Bytes<'_>, at: usize, next: u32, least: usize) -> Decoded<usize> {
    let next = next as usize;
    at.checked_add(next)
        .filter(|&to| next >= least && to <= data.bytes.len())
        .ok_or_else(|| format!("the record at byte {at} says that the next one is {next} bytes on"))
}

/// The answer of `DM_LIST_VERSIONS` and of `DM_GET_TARGET_VERSION`.
pub(crate) fn versions(header: &Header, buffer: &[u8]) -> Decoded<Vec<TargetVersion>> {
    let data = header.data(buffer);
    let mut versions = Vec::new();
    let mut at = 0;
    while !data.bytes.is_empty() {
        let next = data.u32(at + offset_of!(g::dm_target_versions, next))?;
        let version = at + offset_of!(g::dm_target_versions, version);
        let name_at = at + offset_of!(g::dm_target_versions, name);
        let end = if next == 0 {
            data.bytes.len()
        } else {
            step(data, at, next, size_of::<g::dm_target_versions>())?
        };
        versions.push(TargetVersion {
            name: String::from_utf8_lossy(data.text(name_at, end)?).into_owned(),
            version: Version(data.u32(version)?, data.u32(version + 4)?, data.u32(version + 8)?),
        });
        if next == 0 {
            break;
        }
        at = end;
    }
    Ok(versions)
}

/// The answer of `DM_TABLE_DEPS`.
pub(crate) fn deps(header: &Header, buffer: &[u8]) -> Decoded<Vec<DeviceNumber>> {
    let data = header.data(buffer);
    // A device without a live table answers with no data.
    if data.bytes.is_empty() {
        return Ok(Vec::new());
    }
    let count = data.u32(offset_of!(g::dm_target_deps, count))? as usize;
    let first = offset_of!(g::dm_target_deps, dev);
    let room = data.bytes.len().saturating_sub(first) / size_of::<u64>();
    if count > room {
        return Err(format!("it announces {count} devices, and has room for {room}"));
    }
    (0..count).map(|index| data.u64(first + index * size_of::<u64>()).map(decode_dev)).collect()
}

/// The answer of `DM_TABLE_STATUS`.
pub(crate) fn targets(header: &Header, buffer: &[u8]) -> Decoded<Vec<Target>> {
    let data = header.data(buffer);
    let mut targets = Vec::new();
    let mut at = 0;
    for index in 0..header.target_count {
        let kind_at = at + offset_of!(g::dm_target_spec, target_type);
        let kind = data.text(kind_at, kind_at + g::DM_MAX_TYPE_NAME as usize)?;
        // The place of the next one is counted from the first, not from this one.
        let next = data.u32(at + offset_of!(g::dm_target_spec, next))? as usize;
        let params_at = at + size_of::<g::dm_target_spec>();
        // The last one's padding may lie past the end of what the kernel copies out.
        if next <= params_at {
            return Err(format!("target {index} at byte {at} says that it ends at byte {next}"));
        }
        targets.push(Target {
            start: Sectors(data.u64(at + offset_of!(g::dm_target_spec, sector_start))?),
            len: Sectors(data.u64(at + offset_of!(g::dm_target_spec, length))?),
            kind: String::from_utf8_lossy(kind).into_owned(),
            params: String::from_utf8_lossy(data.text(params_at, next)?).into_owned(),
        });
        at = next;
    }
    Ok(targets)
}

/// The answer of `DM_TARGET_MSG`, if the target gave one.
pub(crate) fn message(header: &Header, buffer: &[u8]) -> Decoded<Option<String>> {
    if !header.flags.contains(Flags::DATA_OUT) {
        return Ok(None);
    }
    let data = header.data(buffer);
    let text = data.text(0, data.bytes.len())?;
    Ok(Some(String::from_utf8_lossy(text).into_owned()))
}

/// The kernel's `huge_decode_dev`.
pub(crate) fn decode_dev(dev: u64) -> DeviceNumber {
    // The upper half of the field is unused: the kernel's own type has 32 bits.
    DeviceNumber::from_stat(dev & 0xffff_ffff)
}

/// A name as the kernel lists it.
///
/// The kernel accepts names that [`DmName`] does not: with spaces, quotes, or bytes that are no ASCII. Nothing of ours has such a
/// name, but a device of somebody else must not spoil the list, nor be missing from it. It is given with each such byte as
/// `\xNN`, the form in which libdevmapper shows it too, and cut to the length that a name may have. The kernel does not know it
/// under that form: call it by number.
fn device_name(bytes: &[u8]) -> DmName {
    DmName::from_kernel(escaped(bytes, NAME_MAX_BYTES))
}

/// A UUID as the kernel lists it, escaped in the same way; `None` if it is empty.
fn device_uuid(bytes: &[u8]) -> Option<DmUuid> {
    (!bytes.is_empty()).then(|| DmUuid::from_kernel(escaped(bytes, crate::name::UUID_MAX_BYTES)))
}

fn escaped(bytes: &[u8], max: usize) -> String {
    let plain = bytes.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'/');
    let reserved = bytes.is_empty() || matches!(bytes, b"." | b".." | b"control");
    if plain && !reserved && bytes.len() <= max {
        // ASCII, so nothing is lost.
        return String::from_utf8_lossy(bytes).into_owned();
    }
    let mut text = String::new();
    for (index, &byte) in bytes.iter().enumerate() {
        let before = text.len();
        if byte.is_ascii_graphic() && byte != b'/' && !(reserved && index == 0) {
            text.push(char::from(byte));
        } else if write!(text, "\\x{byte:02x}").is_err() {
            break; // Writing to a String does not fail.
        }
        if text.len() > max {
            text.truncate(before);
            break;
        }
    }
    if text.is_empty() { "\\x".into() } else { text }
}

#[cfg(test)]
mod tests;
