use super::*;
use crate::{Kind, LayerId, Layout};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// The example of specification 1.3.
const EXAMPLE: &str =
    r#"{"device_id":17,"size":10737418240,"transaction_id":23,"initialized":false,"deleted":false}"#;
/// The example of specification 1.4.
const BASE: &str =
    r#"{"device_id":1,"size":10737418240,"transaction_id":1,"initialized":true,"deleted":false}"#;

fn parse(text: &str) -> Record {
    Record::parse(text.as_bytes()).unwrap()
}

fn why(text: &str) -> String {
    Record::parse(text.as_bytes()).unwrap_err().to_string()
}

#[test]
fn the_examples_of_the_specification_are_read_and_written_byte_for_byte() {
    let record = parse(EXAMPLE);
    assert_eq!(record, Record::new(DeviceId::new(17).unwrap(), 10 << 30, 23));
    assert_eq!(record.to_json(), EXAMPLE);
    let base = parse(BASE);
    assert!(base.initialized && !base.deleted);
    assert_eq!(base.to_json(), BASE);
}

#[test]
fn reading_follows_gos_rules() {
    assert_eq!(parse("{}"), Record::new(DeviceId::default(), 0, 0));
    assert_eq!(parse(r#"{"Device_ID":3,"SIZE":4,"extra":[1,{"size":9}]}"#).size_bytes, 4);
    assert_eq!(parse(r#"{"device_id":3,"DEVICE_ID":4}"#).device_id.get(), 4, "the last one wins");
    assert_eq!(parse(r#"{"device_id":3,"device_id":null}"#).device_id.get(), 3, "null leaves it");
    assert_eq!(parse("\n { \"device_id\" : 16777215 }\n").device_id, DeviceId::MAX);
    assert!(parse(r#"{"device_id":1,"deleted":true}"#).deleted);
}

#[test]
fn what_is_damaged_says_why() {
    assert_eq!(why(""), "it is empty");
    assert_eq!(why("null"), "it is null");
    assert_eq!(why(&EXAMPLE[..40]), "it ends too early");
    assert_eq!(why(r#"{"device_id":16777216}"#), "device_id 16777216 is no 24-bit number");
    assert_eq!(why(r#"{"device_id":-1}"#), "device_id -1 is no 24-bit number");
    assert_eq!(why(r#"{"size":-1}"#), "size is -1, not a whole number from 0 to 2^64-1");
    assert_eq!(why(r#"{"deleted":1}"#), "deleted is 1, not true or false");
    assert_eq!(why(r#"{"size":"10G"}"#), "size is a string, not a number");
    assert!(Record::parse(&[0; 4096]).is_err());
}

fn full() -> Record {
    let extra = Extra {
        parent: Some(LayerId::base()),
        layout: Layout::Fsroot,
        filesystem: Some("ext4".into()),
        kind: Some(Kind::Active),
        key: Some(b"k8s.io/1/a b".to_vec()),
        name: Some(vec![0xff, 0xfe]),
        labels: BTreeMap::from([("containerd.io/gc.root".into(), "1".into())]),
        created_ns: Some(1_700_000_000_123_456_789),
        updated_ns: Some(1_700_000_001_000_000_000),
        hidden: true,
        grow_pending: true,
        ..Extra::default()
    };
    Record { extra: Some(extra), ..parse(EXAMPLE) }
}

#[test]
fn the_extra_key_comes_last_and_holds_everything_of_ours() {
    let text = full().to_json();
    let ours = concat!(
        r#","thinlayer":{"version":1,"parent":"","layout":"fsroot","filesystem":"ext4","kind":"active","#,
        r#""key":"k8s.io/1/a b","name_base64":"//4=","labels":{"containerd.io/gc.root":"1"},"#,
        r#""created_ns":1700000000123456789,"updated_ns":1700000001000000000,"hidden":true,"grow_pending":true}}"#
    );
    assert_eq!(text, format!("{}{ours}", &EXAMPLE[..EXAMPLE.len() - 1]));
    assert_eq!(parse(&text), full());
    assert!(full().is_hidden());
    let plain = Record { extra: Some(Extra::default()), ..parse(EXAMPLE) };
    assert!(plain.to_json().ends_with(r#","thinlayer":{"version":1,"layout":"rootfs"}}"#));
}

#[test]
fn what_a_later_version_wrote_is_kept() {
    let ours = r#"{"version":2,"layout":"sideways","kind":"lazy","labels":{"a":1},"new":{"x":[1]}}"#;
    let mut record = parse(&format!(r#"{{"device_id":1,"thinlayer":{ours}}}"#));
    let extra = record.extra.as_mut().unwrap();
    assert_eq!((extra.version, &extra.layout), (2, &Layout::Other("sideways".into())));
    assert_eq!(extra.kind, Some(Kind::Other("lazy".into())));
    assert!(extra.labels.is_empty(), "a label that is no text cannot be used");
    extra.hidden = true;
    let text = record.to_json();
    for kept in [r#""version":2"#, r#""layout":"sideways""#, r#""labels":{"a":1}"#, r#""new":{"x":[1]}"#] {
        assert!(text.contains(kept), "{text}");
    }
    assert_eq!(parse(&text), record);
}

#[test]
fn an_unreadable_extra_key_does_not_cost_the_layer() {
    for ours in ["7", "null", "[]", "\"x\""] {
        let record = parse(&format!(r#"{{"device_id":5,"thinlayer":{ours}}}"#));
        assert_eq!((record.device_id.get(), record.extra), (5, None));
    }
    assert_eq!(parse(r#"{"thinlayer":{"parent":"a/b","created_ns":-1}}"#).extra.unwrap().parent, None);
}

fn extra() -> impl Strategy<Value = Extra> {
    let texts = (
        proptest::option::of("[a-z0-9]{0,12}"),
        proptest::option::of(".{0,8}"),
        proptest::option::of(proptest::collection::vec(any::<u8>(), 0..12)),
        proptest::option::of(proptest::collection::vec(any::<u8>(), 0..12)),
        proptest::collection::btree_map(".{0,6}", ".{0,6}", 0..3),
    );
    let rest = (any::<Option<u64>>(), any::<Option<u64>>(), any::<bool>(), any::<bool>(), 0..4, ".{0,8}");
    (texts, rest).prop_map(|(texts, rest)| {
        let (parent, filesystem, key, name, labels) = texts;
        let (created_ns, updated_ns, hidden, grow_pending, kind, word) = rest;
        let word = word.as_str();
        let (layout, kind) = match kind {
            0 => (Layout::Rootfs, None),
            1 => (Layout::Fsroot, Some(Kind::View)),
            2 => (Layout::from(word), Some(Kind::Committed)),
            _ => (Layout::Rootfs, Some(Kind::from(word))),
        };
        let parent = parent.map(|id| LayerId::stored(&id).unwrap());
        let unknown = serde_json::Map::from_iter([(format!("x-{word}"), serde_json::json!([word]))]);
        Extra {
            parent,
            layout,
            filesystem,
            kind,
            key,
            name,
            labels,
            created_ns,
            updated_ns,
            hidden,
            grow_pending,
            unknown,
            ..Extra::default()
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn records_round_trip(
        number in 0u32..=0xff_ffff, size_bytes: u64, transaction_id: u64, initialized: bool, deleted: bool,
        extra in proptest::option::of(extra())
    ) {
        let device_id = DeviceId::new(number).unwrap();
        let record = Record { device_id, size_bytes, transaction_id, initialized, deleted, extra };
        let text = record.to_json();
        prop_assert!(!text.contains('\n'));
        prop_assert_eq!(Record::parse(text.as_bytes()).unwrap(), record);
    }

    #[test]
    fn any_bytes_are_a_record_or_damaged(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(record) = Record::parse(&bytes) {
            prop_assert_eq!(Record::parse(record.to_json().as_bytes()).unwrap(), record);
        }
    }

    #[test]
    fn a_changed_record_is_a_record_or_damaged(at in any::<prop::sample::Index>(), byte: u8) {
        let mut bytes = full().to_json().into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(record) = Record::parse(&bytes) {
            prop_assert_eq!(Record::parse(record.to_json().as_bytes()).unwrap(), record);
        }
    }

    /// Go's rules by a second way: serde's tree, in which the last of equal keys has won.
    #[test]
    fn it_reads_what_a_reference_reads(
        members in proptest::collection::vec((0usize..9, prop_oneof![
            Just("null".to_owned()), Just("true".to_owned()), Just("\"x\"".to_owned()), Just("1.5".to_owned()),
            any::<i64>().prop_map(|n| n.to_string()), any::<u64>().prop_map(|n| n.to_string()), (0u32..99).prop_map(|n| n.to_string()),
        ]), 0..6)
    ) {
        const KEYS: [&str; 9] = ["device_id", "Device_Id", "size", "SIZE", "transaction_id", "initialized", "DELETED", "other", ""];
        let text: Vec<String> = members.iter().map(|(key, value)| format!("{:?}:{value}", KEYS[*key])).collect();
        let text = format!("{{{}}}", text.join(","));
        let mut wanted = Some(Record::new(DeviceId::default(), 0, 0));
        let mut device_id = 0i64;
        for (key, value) in &members {
            let value: serde_json::Value = serde_json::from_str(value).unwrap();
            let Some(record) = &mut wanted else { break };
            if value.is_null() { continue }
            let good = match KEYS[*key].to_lowercase().as_str() {
                "device_id" => value.as_i64().map(|n| device_id = n),
                "size" => value.as_u64().map(|n| record.size_bytes = n),
                "transaction_id" => value.as_u64().map(|n| record.transaction_id = n),
                "initialized" => value.as_bool().map(|b| record.initialized = b),
                "deleted" => value.as_bool().map(|b| record.deleted = b),
                _ => Some(()),
            };
            if good.is_none() { wanted = None }
        }
        let id = u32::try_from(device_id).ok().and_then(DeviceId::new);
        let wanted = wanted.zip(id).map(|(record, device_id)| Record { device_id, ..record });
        prop_assert_eq!(Record::parse(text.as_bytes()).ok(), wanted);
    }
}
