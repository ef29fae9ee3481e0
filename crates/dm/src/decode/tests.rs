use super::{Header, deps, devices, escaped, message, targets, versions};
use crate::device_mapper::{ListedDevice, Target, TargetVersion, Version};
use crate::generated as g;
use crate::name::{DeviceNumber, DmName, DmUuid, NAME_MAX_BYTES};
use crate::request::{Flags, encode_dev};
use crate::sys::ioctl::HEADER_BYTES;
use crate::units::Sectors;
use proptest::prelude::*;
use std::mem::offset_of;

const NEW: Version = Version(4, 47, 0);

/// An answer as a kernel lays it out.
fn answer(flags: Flags, target_count: u32, data: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0; HEADER_BYTES];
    let mut put = |at: usize, value: u32| buffer[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    put(offset_of!(g::dm_ioctl, data_size), u32::try_from(HEADER_BYTES + data.len()).unwrap());
    put(offset_of!(g::dm_ioctl, data_start), u32::try_from(HEADER_BYTES).unwrap());
    put(offset_of!(g::dm_ioctl, target_count), target_count);
    put(offset_of!(g::dm_ioctl, flags), flags.bits());
    buffer.extend(data);
    buffer
}

fn header(buffer: &[u8]) -> Header {
    Header::decode(buffer).unwrap()
}

fn pad(data: &mut Vec<u8>) {
    data.resize(data.len().next_multiple_of(8), 0);
}

/// Number, name, events, UUID. Names and UUIDs are bytes, since the kernel's may be anything.
type Listed<'a> = (u64, &'a [u8], u32, Option<&'a [u8]>);

fn name_list(list: &[Listed<'_>], minor: u32) -> Vec<u8> {
    let mut data = Vec::new();
    for (index, (dev, name, event_nr, uuid)) in list.iter().enumerate() {
        let start = data.len();
        data.extend(dev.to_ne_bytes());
        data.extend([0; 4]);
        data.extend(*name);
        data.push(0);
        pad(&mut data);
        if minor >= 37 {
            data.extend(event_nr.to_ne_bytes());
        }
        if minor >= 44 {
            data.extend(if uuid.is_some() { 1_u32 } else { 2 }.to_ne_bytes());
            if let Some(uuid) = uuid {
                data.extend(*uuid);
                data.push(0);
            }
        }
        pad(&mut data);
        if index + 1 < list.len() {
            let next = u32::try_from(data.len() - start).unwrap();
            data[start + 8..start + 12].copy_from_slice(&next.to_ne_bytes());
        }
    }
    answer(Flags::empty(), 0, &data)
}

fn status(table: &[Target]) -> Vec<u8> {
    let mut data = Vec::new();
    for target in table {
        let start = data.len();
        data.extend(target.start.0.to_ne_bytes());
        data.extend(target.len.0.to_ne_bytes());
        data.extend([0; 8]);
        let mut kind = target.kind.clone().into_bytes();
        kind.resize(16, 0);
        data.extend(kind);
        data.extend(target.params.bytes());
        data.push(0);
        pad(&mut data);
        let next = u32::try_from(data.len()).unwrap();
        data[start + 20..start + 24].copy_from_slice(&next.to_ne_bytes());
    }
    answer(Flags::empty(), u32::try_from(table.len()).unwrap(), &data)
}

#[test]
fn an_empty_list_is_empty() {
    let buffer = answer(Flags::empty(), 0, &[0; 16]);
    assert_eq!(devices(&header(&buffer), &buffer, NEW), Ok(vec![]));
    let buffer = answer(Flags::empty(), 0, &[]);
    assert_eq!(devices(&header(&buffer), &buffer, NEW), Ok(vec![]));
}

#[test]
fn lists_of_all_ages() {
    let number = DeviceNumber { major: 253, minor: 1 };
    let dev = encode_dev(number).unwrap();
    for (minor, event_nr, uuid) in [(36, None, None), (40, Some(7), None), (44, Some(7), Some("u-1"))] {
        let buffer =
            name_list(&[(dev, b"one", 7, Some(b"u-1")), (dev, b"a-longer-name", 7, Some(b"u-1"))], minor);
        let list = devices(&header(&buffer), &buffer, Version(4, minor, 0)).unwrap();
        let expected = |name: &str| ListedDevice {
            name: DmName::new(name).unwrap(),
            uuid: uuid.map(|text| DmUuid::new(text).unwrap()),
            number,
            event_nr,
        };
        assert_eq!(list, [expected("one"), expected("a-longer-name")], "interface 4.{minor}");
    }
}

#[test]
fn names_made_by_others_do_not_spoil_the_list() {
    let dev = encode_dev(DeviceNumber { major: 253, minor: 1 }).unwrap();
    let names: [&[u8]; 6] = [b"my disk", b"ours", b"\"q\" \xff", b"", b"control", &[b' '; 127]];
    let records: Vec<_> = names.iter().map(|name| (dev, *name, 0, None)).collect();
    let buffer = name_list(&records, 47);
    let list = devices(&header(&buffer), &buffer, NEW).unwrap();
    let shown: Vec<&str> = list.iter().map(|device| device.name.as_str()).collect();
    assert_eq!(shown[..5], ["my\\x20disk", "ours", "\"q\"\\x20\\xff", "\\x", "\\x63ontrol"]);
    assert_eq!(shown[5], "\\x20".repeat(31));
}

#[test]
fn the_last_targets_padding_may_be_missing() {
    let table = [Target { start: Sectors(0), len: Sectors(8), kind: "zero".into(), params: String::new() }];
    let mut buffer = status(&table);
    // The kernel's data_size ends right behind the NUL.
    buffer.truncate(HEADER_BYTES + 41);
    assert_eq!(targets(&header(&buffer), &buffer).unwrap(), table);
}

#[test]
fn walks_that_would_not_end_are_errors() {
    let dev = encode_dev(DeviceNumber { major: 253, minor: 1 }).unwrap();
    let mut buffer = name_list(&[(dev, b"a", 0, None), (dev, b"b", 0, None)], 47);
    for next in [1_u32, 8, 12, u32::MAX] {
        buffer[HEADER_BYTES + 8..HEADER_BYTES + 12].copy_from_slice(&next.to_ne_bytes());
        assert!(devices(&header(&buffer), &buffer, NEW).is_err(), "{next}");
    }
    let target = Target { start: Sectors(0), len: Sectors(8), kind: "zero".into(), params: String::new() };
    let mut buffer = status(&[target.clone(), target]);
    for next in [0_u32, 40, u32::MAX] {
        buffer[HEADER_BYTES + 20..HEADER_BYTES + 24].copy_from_slice(&next.to_ne_bytes());
        assert!(targets(&header(&buffer), &buffer).is_err(), "{next}");
    }
}

#[test]
fn a_target_count_beyond_the_data_is_an_error() {
    let mut buffer = status(&[]);
    let at = offset_of!(g::dm_ioctl, target_count);
    buffer[at..at + 4].copy_from_slice(&u32::MAX.to_ne_bytes());
    assert!(targets(&header(&buffer), &buffer).is_err());
}

#[test]
fn deps_within_the_data_only() {
    let number = DeviceNumber { major: 7, minor: 3 };
    let mut data = 1_u32.to_ne_bytes().to_vec();
    data.extend([0; 4]);
    data.extend(encode_dev(number).unwrap().to_ne_bytes());
    let buffer = answer(Flags::empty(), 0, &data);
    assert_eq!(deps(&header(&buffer), &buffer), Ok(vec![number]));
    data[0..4].copy_from_slice(&2_u32.to_ne_bytes());
    let buffer = answer(Flags::empty(), 0, &data);
    assert!(deps(&header(&buffer), &buffer).is_err());
}

#[test]
fn versions_of_targets() {
    let mut data = Vec::new();
    for (next, name) in [(24_u32, "zero"), (0, "thin-pool")] {
        data.extend(next.to_ne_bytes());
        for part in [1_u32, 22, 0] {
            data.extend(part.to_ne_bytes());
        }
        data.extend(name.bytes());
        data.push(0);
        pad(&mut data);
    }
    let buffer = answer(Flags::empty(), 0, &data);
    let version = Version(1, 22, 0);
    let expected = ["zero", "thin-pool"].map(|name| TargetVersion { name: name.into(), version });
    assert_eq!(versions(&header(&buffer), &buffer).unwrap(), expected);
}

#[test]
fn messages_answer_only_with_the_flag() {
    let buffer = answer(Flags::empty(), 0, b"left over\0");
    assert_eq!(message(&header(&buffer), &buffer), Ok(None));
    let buffer = answer(Flags::DATA_OUT, 0, b"42\0");
    assert_eq!(message(&header(&buffer), &buffer), Ok(Some("42".into())));
    let buffer = answer(Flags::DATA_OUT, 0, b"no end");
    assert!(message(&header(&buffer), &buffer).is_err());
}

fn decode_everything(buffer: &[u8], minor: u32) {
    let Ok(header) = Header::decode(buffer) else { return };
    let info = header.info();
    assert!(DmName::new(info.name.as_str()).is_ok());
    if let Ok(list) = devices(&header, buffer, Version(4, minor, 0)) {
        assert!(list.iter().all(|device| DmName::new(device.name.as_str()).is_ok()));
    }
    // No walk gives more than the buffer could hold.
    assert!(targets(&header, buffer).map_or(0, |list| list.len()) <= buffer.len() / 41);
    assert!(versions(&header, buffer).map_or(0, |list| list.len()) <= buffer.len() / 16);
    assert!(deps(&header, buffer).map_or(0, |list| list.len()) <= buffer.len() / 8);
    message(&header, buffer).ok();
}

fn any_target() -> impl Strategy<Value = Target> {
    (any::<u64>(), any::<u64>(), "[a-z-]{1,15}", "[ -~]{0,80}").prop_map(|(start, len, kind, params)| {
        Target { start: Sectors(start), len: Sectors(len), kind, params }
    })
}

type Record = (u64, Vec<u8>, u32, Option<Vec<u8>>);

fn any_record() -> impl Strategy<Value = Record> {
    let text = |max| prop::collection::vec(1_u8..=255, 1..max);
    (1..=u64::from(u32::MAX), text(128), any::<u32>(), prop::option::of(text(129)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_survived(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        start in 0_u32..600, size in 0_u32..600, count in any::<u32>(), flags in any::<u32>(), minor in 30_u32..50,
    ) {
        decode_everything(&bytes, minor);
        let mut buffer = answer(Flags::from_bits_retain(flags), count, &bytes);
        decode_everything(&buffer, minor);
        let at = offset_of!(g::dm_ioctl, data_size);
        buffer[at..at + 4].copy_from_slice(&size.to_ne_bytes());
        let at = offset_of!(g::dm_ioctl, data_start);
        buffer[at..at + 4].copy_from_slice(&start.to_ne_bytes());
        decode_everything(&buffer, minor);
    }

    #[test]
    fn damaged_answers_are_survived(
        table in prop::collection::vec(any_target(), 0..8),
        records in prop::collection::vec(any_record(), 0..8),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let borrowed: Vec<_> = records.iter().map(|(d, n, e, u)| (*d, &n[..], *e, u.as_deref())).collect();
        for mut buffer in [status(&table), name_list(&borrowed, 47)] {
            for (at, value) in &damage {
                let at = at.index(buffer.len());
                buffer[at] = *value;
            }
            decode_everything(&buffer, 47);
            buffer.truncate(cut.index(buffer.len()));
            decode_everything(&buffer, 47);
        }
    }

    #[test]
    fn statuses_round_trip(table in prop::collection::vec(any_target(), 0..12)) {
        let buffer = status(&table);
        prop_assert_eq!(targets(&header(&buffer), &buffer).unwrap(), table);
    }

    #[test]
    fn lists_keep_every_device(records in prop::collection::vec(any_record(), 1..8), minor in 36_u32..48) {
        let borrowed: Vec<_> = records.iter().map(|(d, n, e, u)| (*d, &n[..], *e, u.as_deref())).collect();
        let buffer = name_list(&borrowed, minor);
        let list = devices(&header(&buffer), &buffer, Version(4, minor, 0)).unwrap();
        prop_assert_eq!(list.len(), records.len());
        for (device, record) in list.iter().zip(&records) {
            prop_assert_eq!(encode_dev(device.number), Some(record.0));
            prop_assert_eq!(device.event_nr, (minor >= 37).then_some(record.2));
            prop_assert_eq!(device.uuid.is_some(), minor >= 44 && record.3.is_some());
        }
    }

    #[test]
    fn escaping_gives_a_valid_name_and_leaves_valid_ones_alone(bytes in prop::collection::vec(1_u8..=255, 0..140)) {
        let text = escaped(&bytes, NAME_MAX_BYTES);
        prop_assert!(DmName::new(&*text).is_ok());
        if let Some(valid) = String::from_utf8(bytes).ok().filter(|text| DmName::new(&**text).is_ok()) {
            prop_assert_eq!(text, valid);
        }
    }
}
