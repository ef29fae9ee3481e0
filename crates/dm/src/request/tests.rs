use super::{Command, Flags, Request, encode_dev};
use crate::decode::{self, Header, decode_dev};
use crate::device_mapper::{Target, Version};
use crate::error::Kind;
use crate::name::{DeviceNumber, DeviceRef, DmName, DmUuid};
use crate::sys::ioctl::{Buffer, HEADER_BYTES};
use crate::units::Sectors;
use proptest::prelude::*;

fn encoded(request: &Request<'_>) -> Vec<u8> {
    let mut buffer = Buffer::new(request.first_buffer_bytes().unwrap());
    request.encode(buffer.as_bytes_mut());
    buffer.as_bytes().to_vec()
}

fn target(start: u64, len: u64, kind: &str, params: &str) -> Target {
    Target { start: Sectors(start), len: Sectors(len), kind: kind.into(), params: params.into() }
}

#[test]
fn exactly_one_way_to_say_the_device_is_filled_in() {
    let name = DmName::new("pool").unwrap();
    let uuid = DmUuid::new("u-1").unwrap();
    let number = DeviceNumber { major: 253, minor: 300 };
    let info = |device| {
        let buffer = encoded(&Request::on(Command::Info, device).unwrap());
        Header::decode(&buffer).unwrap().info()
    };
    let by_name = info(DeviceRef::Name(&name));
    assert_eq!((by_name.name, by_name.uuid, by_name.number), (name.clone(), None, DeviceNumber::default()));
    let by_uuid = info(DeviceRef::Uuid(&uuid));
    assert_eq!((by_uuid.uuid, by_uuid.number), (Some(uuid.clone()), DeviceNumber::default()));
    let by_number = info(DeviceRef::Number(number));
    assert_eq!((by_number.uuid, by_number.number), (None, number));
}

#[test]
fn the_longest_name_and_uuid_fit_with_their_nul() {
    let name = DmName::new("n".repeat(127)).unwrap();
    let uuid = DmUuid::new("u".repeat(128)).unwrap();
    let request = Request::on(Command::Create, (&name).into()).unwrap().new_uuid(uuid.as_str());
    let info = Header::decode(&encoded(&request)).unwrap().info();
    assert_eq!((info.name, info.uuid), (name, Some(uuid)));
}

#[test]
fn numbers_that_the_kernel_cannot_hold_name_no_other_device() {
    for number in [DeviceNumber { major: 4096, minor: 0 }, DeviceNumber { major: 253, minor: 1 << 20 }] {
        let error = Request::on(Command::Remove, number.into()).unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
    }
}

#[test]
fn flags_raise_the_version_that_is_asked_for() {
    let name = DmName::new("a").unwrap();
    let request = Request::on(Command::Remove, (&name).into()).unwrap();
    assert_eq!(request.needs(), Version(4, 0, 0));
    let request = request.flags(Flags::DEFERRED_REMOVE).since(27);
    let header = Header::decode(&encoded(&request)).unwrap();
    assert_eq!(header.version, Version(4, 27, 0));
    assert!(header.flags.contains(Flags::DEFERRED_REMOVE));
    // A command's own version is not lowered.
    assert_eq!(Request::new(Command::ArmPoll).since(5).needs(), Version(4, 37, 0));
}

#[test]
fn what_the_kernel_would_cut_off_is_refused() {
    let name = DmName::new("a").unwrap();
    let load =
        |target: Target| Request::on(Command::Load, (&name).into()).unwrap().table(&[target]).map(drop);
    assert!(load(target(0, 1, "a-type-of-15-by", "")).is_ok());
    for kind in ["", "a-type-of-16-byt", "with space", "nul\0", "ü"] {
        assert_eq!(load(target(0, 1, kind, "")).unwrap_err().kind(), Kind::Invalid, "{kind:?}");
    }
    assert_eq!(load(target(0, 1, "zero", "a\0b")).unwrap_err().kind(), Kind::Invalid);
    for text in ["", "delete\0 1"] {
        let message = Request::on(Command::Message, (&name).into()).unwrap().message(Sectors(0), text);
        assert_eq!(message.unwrap_err().kind(), Kind::Invalid);
    }
}

#[test]
fn errors_name_command_message_and_device() {
    let name = DmName::new("pool").unwrap();
    let request =
        Request::on(Command::Message, (&name).into()).unwrap().message(Sectors(0), "delete 7").unwrap();
    let error = request.error(nix::errno::Errno::ENODATA);
    assert_eq!(error.kind(), Kind::NotFound);
    let text = error.to_string();
    assert!(text.contains("DM_TARGET_MSG \"delete 7\" on pool") && text.contains("ENODATA"), "{text}");
}

#[test]
fn a_table_over_the_limit_is_an_error_and_no_allocation() {
    let name = DmName::new("a").unwrap();
    let long = target(0, 1, "zero", &"x".repeat(super::MAX_BUFFER_BYTES));
    let request = Request::on(Command::Load, (&name).into()).unwrap().table(&[long]).unwrap();
    assert_eq!(request.first_buffer_bytes().unwrap_err().errno(), Some(nix::errno::Errno::E2BIG));
}

/// `DM_TABLE_LOAD` counts `next` from each record, `DM_TABLE_STATUS` from the first: the kernel's own header says so.
fn as_status(mut buffer: Vec<u8>, records: usize) -> Vec<u8> {
    let next_in_record = std::mem::offset_of!(crate::generated::dm_target_spec, next);
    let mut at = HEADER_BYTES;
    for _ in 0..records {
        let field = at + next_in_record..at + next_in_record + 4;
        let step = u32::from_ne_bytes(buffer[field.clone()].try_into().unwrap());
        at += step as usize;
        let from_first = u32::try_from(at - HEADER_BYTES).unwrap();
        buffer[field].copy_from_slice(&from_first.to_ne_bytes());
    }
    let size = std::mem::offset_of!(crate::generated::dm_ioctl, data_size);
    let len = u32::try_from(buffer.len()).unwrap();
    buffer[size..size + 4].copy_from_slice(&len.to_ne_bytes());
    buffer
}

fn any_target() -> impl Strategy<Value = Target> {
    (any::<u64>(), any::<u64>(), "[!-~]{1,15}", "[ -~]{0,200}").prop_map(|(start, len, kind, params)| {
        Target { start: Sectors(start), len: Sectors(len), kind, params }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn tables_round_trip(table in prop::collection::vec(any_target(), 0..20)) {
        let name = DmName::new("a").unwrap();
        let request = Request::on(Command::Load, (&name).into()).unwrap().table(&table).unwrap();
        let buffer = as_status(encoded(&request), table.len());
        let header = Header::decode(&buffer).unwrap();
        prop_assert_eq!(header.target_count as usize, table.len());
        prop_assert_eq!(decode::targets(&header, &buffer).unwrap(), table);
    }

    #[test]
    fn numbers_round_trip(major in 0_u32..4096, minor in 0_u32..1 << 20) {
        let number = DeviceNumber { major, minor };
        prop_assert_eq!(decode_dev(encode_dev(number).unwrap()), number);
    }
}
