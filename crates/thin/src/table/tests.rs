use super::*;
use proptest::prelude::*;

fn device() -> impl Strategy<Value = BackingDevice> {
    prop_oneof![
        (0u32..4096, 0u32..(1 << 20))
            .prop_map(|(major, minor)| BackingDevice::Number(DeviceNumber { major, minor })),
        "/dev/[a-z0-9:_-]{1,20}".prop_map(|path| BackingDevice::Path(DevicePath::new(path).unwrap())),
    ]
}

fn features() -> impl Strategy<Value = Features> {
    let discard = prop_oneof![Just(Discard::Passdown), Just(Discard::NoPassdown), Just(Discard::Ignore)];
    let other = prop::collection::vec("x_[a-z_]{1,12}", 0..3);
    (any::<[bool; 3]>(), discard, other).prop_map(|(flags, discard, other)| Features {
        zero_new_blocks: flags[0],
        discard,
        read_only: flags[1],
        error_if_no_space: flags[2],
        other,
    })
}

fn pool_table() -> impl Strategy<Value = PoolTable> {
    let block_size = (1u64..=16_384).prop_map(|n| BlockSize::new(Sectors(n * 128)).unwrap());
    let rest = prop::collection::vec("[a-z0-9]{1,8}", 0..2);
    (device(), device(), any::<u64>(), block_size, any::<u64>(), features(), rest).prop_map(
        |(metadata, data, len, block_size, low_water, features, rest)| PoolTable {
            metadata,
            data,
            len: Sectors(len),
            block_size,
            low_water: DataBlocks(low_water),
            features,
            rest,
        },
    )
}

fn thin_table() -> impl Strategy<Value = ThinTable> {
    (device(), 0..=ThinId::MAX.get(), prop::option::of(device()), any::<u64>()).prop_map(
        |(pool, id, origin, len)| ThinTable { pool, id: ThinId::new(id).unwrap(), origin, len: Sectors(len) },
    )
}

proptest! {
    #[test]
    fn pool_tables_are_read_back(table in pool_table()) {
        prop_assert_eq!(&table.to_string().parse::<PoolTable>().unwrap(), &table);
        prop_assert_eq!(&PoolTable::from_target(&table.target()).unwrap(), &table);
    }

    #[test]
    fn thin_tables_are_read_back(table in thin_table()) {
        prop_assert_eq!(&table.to_string().parse::<ThinTable>().unwrap(), &table);
        prop_assert_eq!(&ThinTable::from_target(&table.target()).unwrap(), &table);
    }

    /// Cut off anywhere, a line is an error or another table, and never a panic.
    #[test]
    fn cut_lines_are_read_or_refused(table in pool_table(), words in 0usize..14) {
        let text = table.to_string();
        let cut: Vec<&str> = text.split(' ').take(words).collect();
        let read = cut.join(" ").parse::<PoolTable>();
        prop_assert!(words >= 7 || read.is_err(), "{read:?}");
    }

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,80}") {
        if let Ok(table) = text.parse::<PoolTable>() {
            prop_assert_eq!(table.to_string().parse::<PoolTable>().unwrap(), table);
        }
        if let Ok(table) = text.parse::<ThinTable>() {
            prop_assert_eq!(table.to_string().parse::<ThinTable>().unwrap(), table);
        }
    }
}

#[test]
fn features_come_in_the_kernels_order() {
    let line = "0 2097152 thin-pool 7:0 7:1 256 100 4 skip_block_zeroing no_discard_passdown read_only error_if_no_space";
    let table: PoolTable = line.parse().unwrap();
    assert_eq!(table.to_string(), line);
    let shuffled = "0 2097152 thin-pool 7:0 7:1 256 100 4 error_if_no_space read_only no_discard_passdown skip_block_zeroing";
    assert_eq!(shuffled.parse::<PoolTable>().unwrap(), table);
    assert_eq!(
        table.features,
        Features {
            zero_new_blocks: false,
            discard: Discard::NoPassdown,
            read_only: true,
            error_if_no_space: true,
            other: Vec::new()
        }
    );
}

#[test]
fn both_discard_words_are_kept() {
    for line in [
        "0 1 thin-pool 7:0 7:1 128 0 2 ignore_discard no_discard_passdown",
        "0 1 thin-pool 7:0 7:1 128 0 2 no_discard_passdown ignore_discard",
    ] {
        let table: PoolTable = line.parse().unwrap();
        assert_eq!(table.features.discard, Discard::Ignore);
        assert_eq!(table.to_string(), "0 1 thin-pool 7:0 7:1 128 0 2 ignore_discard no_discard_passdown");
    }
}

#[test]
fn what_the_kernel_prints_is_read() {
    // With the trailing space that the kernel leaves, and without features.
    let table: PoolTable = "0 409600 thin-pool 7:1 7:0 128 32768 0 ".parse().unwrap();
    assert_eq!(table.features, Features::default());
    // A line as it may be written by hand, without the count.
    assert_eq!("0 409600 thin-pool 7:1 7:0 128 32768".parse::<PoolTable>().unwrap(), table);
    let thin: ThinTable = "0 2097152 thin 253:0 7".parse().unwrap();
    assert_eq!(
        thin,
        ThinTable::new(DeviceNumber { major: 253, minor: 0 }, ThinId::new(7).unwrap(), Sectors(2_097_152))
    );
    let with_origin: ThinTable = "0 2097152 thin 253:0 7 8:16".parse().unwrap();
    assert_eq!(with_origin.origin, Some(DeviceNumber { major: 8, minor: 16 }.into()));
}

#[test]
fn a_bad_line_is_refused_with_its_reason() {
    for (line, reason) in [
        ("", "start is missing"),
        ("0 8 thin-pool", "metadata device is missing"),
        ("0 8 thin-pool 7:0 7:1 128", "low-water mark is missing"),
        ("0 8 thin-pool 7:0 7:1 128 0 2 read_only", "feature is missing"),
        ("0 8 thin-pool 7:0 7:1 100 0", "multiple of 64 KiB"),
        ("0 8 thin-pool 7:0 loop1 128 0", "neither MAJOR:MINOR nor an absolute path"),
        ("0 8 thin-pool 7:0 7:+1 128 0", "neither MAJOR:MINOR nor an absolute path"),
        ("1 8 thin-pool 7:0 7:1 128 0", "does not start at 0"),
        ("0 8 linear 7:0 0", "no thin-pool"),
        ("0 x thin-pool 7:0 7:1 128 0", "not a decimal number"),
    ] {
        let error = line.parse::<PoolTable>().unwrap_err().to_string();
        assert!(error.contains(reason), "{line:?}: {error}");
    }
    for line in ["0 8 thin 253:0", "0 8 thin 253:0 16777216", "0 8 thin 253:0 1 8:0 9", "0 8 error"] {
        assert!(line.parse::<ThinTable>().is_err(), "{line:?}");
    }
}

#[test]
fn paths_that_a_table_cannot_carry_are_refused() {
    for bad in ["", "dev/loop0", "/dev/a b", "/dev/a\tb", "/dev/a\\b", "/dev/a\nb"] {
        assert!(DevicePath::new(bad).is_err(), "{bad:?}");
    }
}
