use super::*;
use proptest::prelude::*;

fn pool_status() -> impl Strategy<Value = PoolStatus> {
    let mode = prop_oneof![Just(Mode::ReadWrite), Just(Mode::ReadOnly), Just(Mode::OutOfDataSpace)];
    let discard = prop_oneof![Just(Discard::Passdown), Just(Discard::NoPassdown), Just(Discard::Ignore)];
    let no_space = prop_oneof![Just(NoSpace::Error), Just(NoSpace::Queue)];
    let rest = prop::collection::vec("[a-z0-9_]{1,9}", 0..3);
    ((any::<[u64; 6]>(), any::<bool>()), (mode, discard, no_space, any::<bool>()), (rest, 0usize..7))
        .prop_map(|((numbers, held), (mode, discard, no_space, needs_check), (rest, fields))| {
            let [transaction, used_metadata, total_metadata, used_data, total_data, other] = numbers;
            PoolStatus {
                transaction_id: TransactionId(transaction),
                used_metadata: MetaBlocks(used_metadata),
                total_metadata: MetaBlocks(total_metadata),
                used_data: DataBlocks(used_data),
                total_data: DataBlocks(total_data),
                held_metadata_root: held.then_some(MetaBlocks(other)),
                // A kernel that leaves a field out leaves out what follows, too.
                mode: (fields > 0).then_some(mode),
                discard: (fields > 1).then_some(discard),
                no_space: (fields > 2).then_some(no_space),
                needs_check: (fields > 3).then_some(needs_check),
                metadata_low_water: (fields > 4).then_some(MetaBlocks(other)),
                rest: if fields > 5 { rest } else { Vec::new() },
            }
        })
}

fn thin_status() -> impl Strategy<Value = ThinStatus> {
    prop_oneof![
        (any::<u64>(), prop::option::of(any::<u64>())).prop_map(|(mapped, highest)| ThinStatus::Mapped {
            mapped: Sectors(mapped),
            highest: highest.map(Sectors),
        }),
        Just(ThinStatus::Fail),
        Just(ThinStatus::Error),
        Just(ThinStatus::NotLoaded),
    ]
}

proptest! {
    #[test]
    fn pool_states_are_read_back(status in pool_status()) {
        let state = PoolState::Running(status);
        prop_assert_eq!(state.to_string().parse::<PoolState>().unwrap(), state);
    }

    #[test]
    fn thin_states_are_read_back(status in thin_status()) {
        prop_assert_eq!(status.to_string().parse::<ThinStatus>().unwrap(), status);
    }

    /// Figures never overflow, whatever a kernel prints.
    #[test]
    fn figures_are_safe(status in pool_status()) {
        prop_assert!(status.free_data() <= status.total_data);
        prop_assert!(status.free_metadata() <= status.total_metadata);
        prop_assert!(status.data_percent() >= 0.0 && status.metadata_percent() >= 0.0);
    }

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,80}", words in "[0-9/ -]{0,40}") {
        for text in [text, words] {
            if let Ok(state) = text.parse::<PoolState>() {
                prop_assert_eq!(state.to_string().parse::<PoolState>().unwrap(), state);
            }
            if let Ok(status) = text.parse::<ThinStatus>() {
                prop_assert_eq!(status.to_string().parse::<ThinStatus>().unwrap(), status);
            }
        }
    }
}

fn running(text: &str) -> PoolStatus {
    text.parse().unwrap()
}

#[test]
fn every_field_is_read() {
    let status = running("5 413/4096 12/1600 7 rw no_discard_passdown queue_if_no_space - 1024 ");
    assert_eq!(
        status,
        PoolStatus {
            transaction_id: TransactionId(5),
            used_metadata: MetaBlocks(413),
            total_metadata: MetaBlocks(4096),
            used_data: DataBlocks(12),
            total_data: DataBlocks(1600),
            held_metadata_root: Some(MetaBlocks(7)),
            mode: Some(Mode::ReadWrite),
            discard: Some(Discard::NoPassdown),
            no_space: Some(NoSpace::Queue),
            needs_check: Some(false),
            metadata_low_water: Some(MetaBlocks(1024)),
            rest: Vec::new(),
        }
    );
    assert_eq!((status.free_data(), status.free_metadata()), (DataBlocks(1588), MetaBlocks(3683)));
    assert!((status.data_percent() - 0.75).abs() < 1e-9);
    assert_eq!(status.health(), Health::Good);
}

#[test]
fn older_kernels_say_less() {
    let oldest = running("0 10/20 30/40");
    assert_eq!((oldest.held_metadata_root, oldest.mode, oldest.needs_check), (None, None, None));
    assert_eq!(oldest.health(), Health::Good);
    let old = running("0 10/20 30/40 - ro discard_passdown");
    assert_eq!((old.mode, old.no_space), (Some(Mode::ReadOnly), None));
    let newer = running("0 1/2 3/4 - rw discard_passdown queue_if_no_space - 9 brand new");
    assert_eq!(newer.rest, ["brand", "new"]);
}

#[test]
fn health_names_the_most_serious() {
    let tail = "discard_passdown queue_if_no_space";
    for (mode, expected) in [
        (format!("1/9 1/9 - rw {tail} - 1"), Health::Good),
        (format!("1/9 9/9 - out_of_data_space {tail} - 1"), Health::Trouble(Trouble::OutOfData)),
        (format!("1/9 1/9 - ro {tail} - 1"), Health::Trouble(Trouble::ReadOnly)),
        (format!("9/9 1/9 - ro {tail} - 1"), Health::Trouble(Trouble::OutOfMetadata)),
        (format!("9/9 9/9 - ro {tail} needs_check 1"), Health::Trouble(Trouble::NeedsCheck)),
    ] {
        let state: PoolState = format!("0 {mode}").parse().unwrap();
        assert_eq!(state.health(), expected, "{mode}");
    }
    for word in ["Fail", "Error", "Fail "] {
        let state: PoolState = word.parse().unwrap();
        assert_eq!(state.health(), Health::Trouble(Trouble::Failed));
        assert!(state.running().is_none());
    }
}

#[test]
fn a_bad_status_is_refused_with_its_reason() {
    for (text, reason) in [
        ("", "transaction id is missing"),
        ("5", "metadata use is missing"),
        ("5 1/2", "data use is missing"),
        ("5 12 1/2", "not USED/TOTAL"),
        ("5 1/2 3/4 x", "not a decimal number"),
        ("5 1/2 3/4 - up", "\"up\" is no mode"),
        ("5 1/2 3/4 - rw yes", "no discard mode"),
        ("5 1/2 3/4 - rw ignore_discard maybe", "no no-space mode"),
        ("5 1/2 3/4 - rw ignore_discard error_if_no_space no", "no needs-check mark"),
        ("99999999999999999999 1/2 3/4", "too large"),
    ] {
        let error = text.parse::<PoolState>().unwrap_err().to_string();
        assert!(error.contains(reason), "{text:?}: {error}");
    }
    for text in ["", "5", "x -", "5 y", "Fail 1"] {
        assert!(text.parse::<ThinStatus>().is_err(), "{text:?}");
    }
    let other = Target { start: Sectors(0), len: Sectors(8), kind: "linear".into(), params: String::new() };
    assert!(PoolState::from_target(&other).unwrap_err().to_string().contains("no thin-pool"));
    assert!(ThinStatus::from_target(&other).unwrap_err().to_string().contains("no thin"));
}
