use super::*;
use crate::error::ErrorKind;
use crate::fake::Fake;
use crate::superblock::PoolFacts;
use std::path::PathBuf;

const DATA: &str = "/dev/vg/data";
const METADATA: &str = "/dev/vg/metadata";

fn device(minor: u32, size: u64) -> BlockDevice {
    BlockDevice {
        number: DeviceNumber { major: 8, minor },
        size: Bytes(size),
        read_only: false,
        signature: None,
        users: Vec::new(),
    }
}

/// Two blank devices, after a change to each.
fn world(data: impl FnOnce(&mut BlockDevice), metadata: impl FnOnce(&mut BlockDevice)) -> Fake {
    let fake = Fake::new(0);
    let mut one = device(1, 1 << 30);
    data(&mut one);
    fake.add_device(DATA, one);
    let mut two = device(2, 2 << 20);
    metadata(&mut two);
    fake.add_device(METADATA, two);
    fake
}

fn same(_: &mut BlockDevice) {}

fn signed(signature: &str) -> impl FnOnce(&mut BlockDevice) {
    move |device| device.signature = Some(signature.to_owned())
}

fn check(fake: &Fake, fresh: bool) -> Result<Pair> {
    validate_pair(fake, Path::new(DATA), Path::new(METADATA), fresh)
}

/// The error's kind and text, and that it names a device first.
fn refused(fake: &Fake, purpose: Purpose) -> (ErrorKind, String) {
    let error = validate_pair_for(fake, Path::new(DATA), Path::new(METADATA), purpose).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(DATA) || text.contains(METADATA), "{text}");
    assert!(!text.contains('\n'), "{text}");
    (error.kind(), text)
}

#[test]
fn blank_devices_serve() {
    let fake = world(same, same);
    for fresh in [true, false] {
        let pair = check(&fake, fresh).unwrap();
        assert!(pair.blank);
        assert_eq!((pair.data.number.minor, pair.metadata.number.minor), (1, 2));
    }
    let (kind, text) = refused(&fake, Purpose::ReadOnly);
    assert!(kind == ErrorKind::Invalid && text.contains("holds no pool"), "{text}");
}

#[test]
fn one_device_twice_names_both_options() {
    let fake = world(same, |metadata| metadata.number.minor = 1);
    let (kind, text) = refused(&fake, Purpose::New);
    assert_eq!(kind, ErrorKind::Invalid);
    assert!(text.contains("dm.datadev") && text.contains("dm.metadatadev") && text.contains("8:1"), "{text}");
}

#[test]
fn a_missing_device_is_a_mistake_of_the_option_that_names_it() {
    let (kind, text) = refused(&Fake::new(0), Purpose::New);
    assert!(kind == ErrorKind::Invalid && text.contains("dm.datadev"), "{text}");
    for purpose in [Purpose::New, Purpose::Existing] {
        let error = validate_metadata(&Fake::new(0), Path::new(METADATA), purpose).unwrap_err();
        assert!(
            error.kind() == ErrorKind::Invalid && error.to_string().contains("dm.metadatadev"),
            "{error}"
        );
    }
    let error = validate_data(&Fake::new(0), Path::new(DATA), Purpose::Existing).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[test]
fn a_device_in_use_names_its_users() {
    let busy = |device: &mut BlockDevice| device.users = vec!["mounted on /a".into(), "swap".into()];
    for (fake, option) in [(world(busy, same), "dm.datadev"), (world(same, busy), "dm.metadatadev")] {
        for purpose in [Purpose::New, Purpose::Existing, Purpose::ReadOnly] {
            if option == "dm.datadev" && purpose == Purpose::ReadOnly {
                continue; // the blank metadata device is told first
            }
            let (kind, text) = refused(&fake, purpose);
            assert_eq!(kind, ErrorKind::Busy);
            assert!(text.contains("mounted on /a, swap") && text.contains(option), "{text}");
        }
    }
}

#[test]
fn sizes_have_a_least() {
    let small_data = world(|data| data.size = Bytes(65535), same);
    let (kind, text) = refused(&small_data, Purpose::New);
    assert!(
        kind == ErrorKind::Invalid && text.contains("65535 bytes") && text.contains("dm.datadev"),
        "{text}"
    );
    let small_metadata = world(same, |metadata| metadata.size = Bytes((2 << 20) - 1));
    let (kind, text) = refused(&small_metadata, Purpose::New);
    assert!(kind == ErrorKind::Invalid && text.contains("dm.metadatadev"), "{text}");
}

#[test]
fn a_device_that_refuses_writes_serves_reading_only() {
    let fake = world(|data| data.read_only = true, signed(THIN_POOL));
    let (kind, text) = refused(&fake, Purpose::Existing);
    assert!(kind == ErrorKind::Invalid && text.contains("refuses writes"), "{text}");
    let pair = validate_pair_for(&fake, Path::new(DATA), Path::new(METADATA), Purpose::ReadOnly).unwrap();
    assert!(!pair.blank);
}

#[test]
fn a_pool_s_metadata_is_kept_for_the_root_that_had_it() {
    let pool = |transaction_id, used_blocks| {
        Superblock::Pool(PoolFacts {
            transaction_id,
            data_block: Bytes(65536),
            data_blocks: 16384,
            used_blocks,
            metadata_blocks: 1024,
            needs_check: false,
        })
    };
    // Behind an existing pool the data device shows whatever a layer has in its first block.
    let fake = world(signed("ext4"), signed(THIN_POOL));
    assert!(!check(&fake, false).unwrap().blank);
    for used in [pool(1, 0), pool(0, 1)] {
        fake.add_superblock(METADATA, used);
        let (kind, text) = refused(&fake, Purpose::New);
        assert_eq!(kind, ErrorKind::Invalid);
        assert!(text.contains("metadata of another thin pool"), "{text}");
        assert!(text.contains("dd if=/dev/zero of=/dev/vg/metadata bs=4096 count=1"), "{text}");
    }
}

/// A first start that was cut off leaves a pool that holds nothing.
#[test]
fn a_pool_that_was_never_used_is_taken() {
    let empty = PoolFacts {
        transaction_id: 0,
        data_block: Bytes(65536),
        data_blocks: 16384,
        used_blocks: 0,
        metadata_blocks: 1024,
        needs_check: false,
    };
    let fake = world(same, signed(THIN_POOL));
    fake.add_superblock(METADATA, Superblock::Pool(empty));
    assert!(!check(&fake, true).unwrap().blank);
    // Not so the data device: nothing was written to it.
    let fake = world(signed("ext4"), signed(THIN_POOL));
    fake.add_superblock(METADATA, Superblock::Pool(empty));
    assert!(check(&fake, true).is_err());
}

#[test]
fn what_somebody_may_want_is_not_written_over() {
    for fresh in [true, false] {
        let error = check(&world(signed("xfs"), same), fresh).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("it holds xfs") && text.contains("wipefs --all /dev/vg/data"), "{text}");

        for (signature, word) in [
            ("LVM2_member", "wipefs --all /dev/vg/metadata, then zero its first 4 KiB"),
            (UNRECOGNISED, "neither a pool's metadata nor zeros"),
            (THIN_POOL_DAMAGED, "thin_check /dev/vg/metadata"),
        ] {
            let error = check(&world(same, signed(signature)), fresh).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            let text = error.to_string();
            assert!(text.contains(word), "{text}");
            assert!(text.contains("dd if=/dev/zero of=/dev/vg/metadata bs=4096 count=1"), "{text}");
            assert!(text.contains("dm.metadatadev"), "{text}");
        }
    }
    // Old bytes without a meaning are no reason to refuse a data device.
    assert!(check(&world(signed(UNRECOGNISED), same), true).is_ok());
    // Metadata of a pool on the data side is somebody's pool.
    assert!(check(&world(signed(THIN_POOL), same), true).is_err());
}

#[test]
fn one_side_alone_is_checked_the_same_way() {
    let fake = world(signed("gpt"), signed(THIN_POOL));
    assert!(validate_data(&fake, Path::new(DATA), Purpose::New).is_err());
    assert!(validate_data(&fake, Path::new(DATA), Purpose::Existing).is_ok());
    let (device, blank) = validate_metadata(&fake, Path::new(METADATA), Purpose::Existing).unwrap();
    assert!(!blank && device.number.minor == 2);
    assert!(validate_metadata(&fake, Path::new(METADATA), Purpose::New).is_err());
}

#[test]
fn an_active_pool_stands_on_what_was_given() {
    let fake = world(|data| data.users = vec!["device-mapper device pool".into()], same);
    let number = DeviceNumber { major: 8, minor: 1 };
    assert!(validate_active(&fake, Path::new(DATA), Side::Data, number).is_ok());
    let error =
        validate_active(&fake, Path::new(DATA), Side::Data, DeviceNumber { major: 7, minor: 1 }).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.to_string().contains("data device is 7:1"), "{error}");
}

#[test]
fn a_pool_s_name_may_be_a_path() {
    for value in ["docker-thinpool", "/dev/mapper/docker-thinpool"] {
        assert_eq!(PoolName::new(value).unwrap().to_string(), "docker-thinpool");
    }
    let long = "x".repeat(128);
    for value in ["", "/dev/mapper/", "/dev/vg/pool", "/dev/dm-3", "a b", "/dev/mapper//dev/mapper/x", &long]
    {
        let error = PoolName::new(value).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("dm.thinpooldev"), "{error}");
        assert_eq!(
            PathBuf::from(value),
            match error {
                Error::Unfit { path, .. } => path,
                error => panic!("{error:?}"),
            }
        );
    }
}
