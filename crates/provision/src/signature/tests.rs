use super::*;
use proptest::prelude::*;

const SIZE: usize = 4 << 20;

fn of(device: &[u8]) -> Option<&'static str> {
    let window = usize::try_from(HEAD_BYTES).unwrap().min(device.len());
    recognise(&Ends {
        head: &device[..window],
        tail: &device[device.len() - window..],
        size: device.len() as u64,
    })
}

fn device() -> Vec<u8> {
    vec![0; SIZE]
}

fn put(device: &mut [u8], at: usize, bytes: &[u8]) {
    device[at..at + bytes.len()].copy_from_slice(bytes);
}

fn with(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut device = device();
    put(&mut device, at, bytes);
    device
}

pub(crate) fn thin_superblock() -> Vec<u8> {
    let mut block = vec![0; 4096];
    put(&mut block, 32, &27_022_010_u64.to_le_bytes());
    put(&mut block, 40, &2_u32.to_le_bytes());
    let sum = !crc32c(&block[4..]) ^ 160_774;
    put(&mut block, 0, &sum.to_le_bytes());
    block
}

#[test]
fn an_empty_device_has_nothing() {
    assert_eq!(of(&device()), None);
    assert_eq!(of(&[]), None);
    assert_eq!(of(&[0; 100]), None);
}

#[test]
fn garbage_in_the_first_block_is_told() {
    assert_eq!(of(&with(4095, b"x")), Some(UNRECOGNISED));
    assert_eq!(of(&with(4096, b"x")), None);
    assert_eq!(of(&[0, 0, 1]), Some(UNRECOGNISED));
}

#[test]
fn every_magic_is_found_at_each_of_its_places() {
    for magic in MAGICS {
        for at in magic.offsets {
            assert_eq!(of(&with(*at, magic.bytes)), Some(magic.name), "at {at}");
            // One bit off is something else.
            let mut bytes = magic.bytes.to_vec();
            bytes[0] ^= 0x80;
            assert_ne!(of(&with(*at, &bytes)), Some(magic.name), "at {at}");
        }
    }
}

#[test]
fn a_thin_pool_is_known_by_its_checksum() {
    let mut device = device();
    put(&mut device, 0, &thin_superblock());
    assert_eq!(of(&device), Some(THIN_POOL));
    device[2000] ^= 1;
    assert_eq!(of(&device), Some(THIN_POOL_DAMAGED));
    // What an earlier use left further back does not hide it.
    device[2000] ^= 1;
    put(&mut device, (64 << 10) + 64, b"_BHRfS_M");
    assert_eq!(of(&device), Some(THIN_POOL));
}

#[test]
fn lvm_labels_stand_in_the_first_four_sectors() {
    let mut label = b"LABELONE".to_vec();
    label.resize(24, 0);
    label.extend(b"LVM2 001");
    for sector in 0..4 {
        assert_eq!(of(&with(sector * 512, &label)), Some("LVM2_member"));
    }
    assert_eq!(of(&with(4 * 512, &label)), Some(UNRECOGNISED));
    assert_eq!(of(&with(512, b"LABELONE")), Some(UNRECOGNISED));
}

#[test]
fn raid_members_at_the_beginning_and_near_the_end() {
    let mut one = 0xa92b_4efc_u32.to_le_bytes().to_vec();
    one.extend(1_u32.to_le_bytes());
    let mut old = 0xa92b_4efc_u32.to_le_bytes().to_vec();
    old.extend([0; 4]);
    for (at, bytes) in [(0, &one), (4096, &one), (SIZE - 8192, &one), (SIZE - 0x1_0000, &old)] {
        assert_eq!(of(&with(at, bytes)), Some("linux_raid_member"), "at {at}");
    }
    // A size that is a multiple of nothing.
    let mut odd = vec![0; SIZE + 512 * 5];
    let at = ((odd.len() / 512 - 16) & !7) * 512;
    put(&mut odd, at, &one);
    assert_eq!(of(&odd), Some("linux_raid_member"));
}

fn ext(compat: u32, incompat: u32, ro_compat: u32) -> Vec<u8> {
    let mut device = device();
    put(&mut device, 1024, &16_u32.to_le_bytes());
    put(&mut device, 1028, &4096_u32.to_le_bytes());
    put(&mut device, 1024 + 0x38, &0xef53_u16.to_le_bytes());
    put(&mut device, 1024 + 0x5c, &compat.to_le_bytes());
    put(&mut device, 1024 + 0x60, &incompat.to_le_bytes());
    put(&mut device, 1024 + 0x64, &ro_compat.to_le_bytes());
    device
}

#[test]
fn the_extended_file_systems_differ_by_features() {
    assert_eq!(of(&ext(0x38, 0x2, 0x3)), Some("ext2"));
    assert_eq!(of(&ext(0x3c, 0x2, 0x3)), Some("ext3"));
    assert_eq!(of(&ext(0x3c, 0x2c2, 0x46b)), Some("ext4"));
    assert_eq!(of(&ext(0, 0x8, 0)), Some("jbd"));
    // Two bytes alone are not enough.
    assert_eq!(of(&with(1024 + 0x38, &0xef53_u16.to_le_bytes())), Some(UNRECOGNISED));
}

#[test]
fn a_zfs_label_is_known_by_an_uberblock() {
    assert_eq!(of(&with((128 << 10) + 5 * 1024, &0xba_b10c_u64.to_le_bytes())), Some("zfs_member"));
    assert_eq!(of(&with((128 << 10) + 1024, &0xba_b10c_u64.to_be_bytes())), Some("zfs_member"));
    assert_eq!(of(&with((128 << 10) + 100, &0xba_b10c_u64.to_le_bytes())), None);
}

fn gpt_at(block: usize, place: u64) -> Vec<u8> {
    let mut header = b"EFI PART\x00\x00\x01\x00".to_vec();
    header.extend(92_u32.to_le_bytes());
    header.resize(24, 0);
    header.extend(place.to_le_bytes());
    header.resize(92, 0);
    let sum = crc32(&header);
    put(&mut header, 16, &sum.to_le_bytes());
    header.resize(block, 0);
    header
}

#[test]
fn a_partition_table_or_its_copy() {
    for block in [512, 4096] {
        assert_eq!(of(&with(block, &gpt_at(block, 1))), Some("gpt"));
        let last = SIZE / block - 1;
        assert_eq!(of(&with(last * block, &gpt_at(block, last as u64))), Some("gpt"));
    }
    // At the wrong place, or garbled.
    assert_eq!(of(&with(512, &gpt_at(512, 2))), Some(UNRECOGNISED));
    let mut garbled = gpt_at(512, 1);
    garbled[60] = 1;
    assert_eq!(of(&with(512, &garbled)), Some(UNRECOGNISED));

    let mut old = with(510, &[0x55, 0xaa]);
    assert_eq!(of(&old), Some(UNRECOGNISED));
    put(&mut old, 446, &[0x80, 0, 2, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0]);
    assert_eq!(of(&old), Some("dos"));
    old[446 + 4] = 0xee;
    assert_eq!(of(&old), Some("PMBR"));
    old[446 + 16] = 7;
    assert_eq!(of(&old), Some(UNRECOGNISED));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_bytes_have_an_answer(
        length in 0_usize..300_000,
        patches in prop::collection::vec(
            (0_usize..300_000, prop::collection::vec(any::<u8>(), 1..80), prop::option::of(0..MAGICS.len())),
            0..8,
        ),
        tail in 0_usize..300_000,
        size in prop_oneof![any::<u64>(), 0_u64..300_000],
    ) {
        let mut bytes = vec![0; length];
        for (at, patch, magic) in patches {
            // Half of them at a place where it may mean something.
            let (at, patch) = match magic {
                Some(which) => (MAGICS[which].offsets[at % MAGICS[which].offsets.len()], MAGICS[which].bytes.to_vec()),
                None => (at, patch),
            };
            if at + patch.len() <= length {
                put(&mut bytes, at, &patch);
            }
        }
        let tail = &bytes[tail.min(length)..];
        let answer = recognise(&Ends { head: &bytes, tail, size });
        if answer.is_none() {
            prop_assert!(bytes[..length.min(4096)].iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn noise_has_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..1500), size in any::<u64>()) {
        let answer = recognise(&Ends { head: &bytes, tail: &bytes, size });
        prop_assert_eq!(answer.is_none(), bytes.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn headers_with_wild_fields_have_an_answer(words in prop::collection::vec(any::<u32>(), 128), size in 1_u64..9000) {
        let mut device = vec![0; 8192];
        for (to, word) in device[512..1024].chunks_mut(4).zip(&words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        put(&mut device, 512, b"EFI PART");
        put(&mut device, 536, &1_u64.to_le_bytes());
        let answer = recognise(&Ends { head: &device, tail: &device[4096..], size });
        prop_assert!(answer.is_some());
    }
}
