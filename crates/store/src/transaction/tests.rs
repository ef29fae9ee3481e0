use super::*;
use crate::testing::{device, id};
use proptest::prelude::*;

fn parse(text: &str) -> Intent {
    Intent::parse(text.as_bytes()).unwrap()
}

#[test]
fn dockers_intent_is_read() {
    let intent = parse(r#"{"open_transaction_id":24,"device_hash":"3c5d","device_id":18}"#);
    let first = Intended { kind: IntentKind::Unknown, layer: id("3c5d"), device_id: device(18) };
    assert_eq!(intent, Intent { id: 24, operations: vec![first] });
    assert!(
        parse(r#"{"open_transaction_id":1,"device_hash":"","device_id":1}"#).operations[0].layer.is_base()
    );
}

#[test]
fn ours_begins_as_dockers_does() {
    let one = to_json(24, &[Operation::create(id("3c5d"), device(18))]).unwrap();
    assert_eq!(
        one,
        r#"{"open_transaction_id":24,"device_hash":"3c5d","device_id":18,"thinlayer":{"version":1,"kind":"create"}}"#
    );
    let operations = [
        Operation::delete(id("a"), device(5)),
        Operation::create(LayerId::base(), device(6)),
        Operation::delete(id("<&>"), device(7)),
    ];
    let several = to_json(7, &operations).unwrap();
    assert_eq!(
        several,
        concat!(
            r#"{"open_transaction_id":7,"device_hash":"a","device_id":5,"thinlayer":{"version":1,"kind":"delete","more":["#,
            r#"{"kind":"create","device_hash":"","device_id":6},"#,
            r#"{"kind":"delete","device_hash":"\u003c\u0026\u003e","device_id":7}]}}"#
        )
    );
    assert_eq!(parse(&several), Intent::of(7, &operations));
}

#[test]
fn one_sector_is_the_limit() {
    let long = |count: usize| {
        let operation = |n: usize| Operation::delete(id(&format!("{n:064}")), device(1));
        to_json(u64::MAX, &(0..count).map(operation).collect::<Vec<_>>())
    };
    assert!(long(3).unwrap().len() < 512);
    let error = long(5).unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::TooLong);
    assert!(matches!(error, Error::TransactionTooLong { operations: 5, max: 511, .. }));
    assert!(to_json(1, &[Operation::create(id(&"x".repeat(255)), DeviceId::MAX)]).is_ok());
    assert!(matches!(to_json(1, &[]), Err(Error::EmptyTransaction)));
}

#[test]
fn padding_is_no_content() {
    let text = to_json(2, &[Operation::create(id("a"), device(2))]).unwrap();
    let file = padded(&text, TRANSACTION_FILE_BYTES);
    assert_eq!(file.len(), 4096);
    assert_eq!(Intent::parse(&file).unwrap(), parse(&text));
    assert_eq!(TransactionFile::parse(&[b' '; 4096]), Ok(TransactionFile::Nothing));
    for malformed in [&[b' '; 4095][..], &[0; 4096], b"", b"{", b"[]"] {
        assert!(TransactionFile::parse(malformed).is_err());
    }
}

#[test]
fn a_finished_recovery_leaves_nothing_to_undo_for_docker_either() {
    let closed = parse(&Intent::closed_json(9));
    assert_eq!(closed, Intent::closed(9));
    // Docker sees a layer that cannot exist and the last thin id there is.
    assert!(
        Intent::closed_json(9)
            .starts_with(r#"{"open_transaction_id":9,"device_hash":".closed","device_id":16777215,"#)
    );
}

#[test]
fn what_a_later_version_wrote_is_not_guessed() {
    let later = |part: &str| {
        let text =
            format!(r#"{{"open_transaction_id":2,"device_hash":"a","device_id":2,"thinlayer":{part}}}"#);
        parse(&text).operations[0].kind.clone()
    };
    assert_eq!(later(r#"{"version":1,"kind":"move"}"#), IntentKind::Newer("move".into()));
    assert_eq!(later(r#"{"version":2,"kind":"create"}"#), IntentKind::Newer("create (version 2)".into()));
    assert_eq!(later(r#"{"version":1}"#), IntentKind::Unknown);
}

#[test]
fn what_names_nothing_usable_is_malformed() {
    for bad in [
        r#"{"device_id":16777216}"#,
        r#"{"device_id":-1}"#,
        r#"{"device_hash":"a/b"}"#,
        r#"{"open_transaction_id":-1}"#,
        r#"{"thinlayer":{"version":"1"}}"#,
        r#"{"thinlayer":{"version":1,"kind":"create","more":[{"kind":"delete"}]}}"#,
    ] {
        assert!(Intent::parse(bad.as_bytes()).is_err(), "{bad}");
    }
    assert_eq!(parse("null").id, 0);
}

proptest! {
    #[test]
    fn transactions_round_trip(transaction: u64, layers in proptest::collection::vec(("[!-.0-~]{1,24}", 0u32..=0xff_ffff, any::<bool>()), 1..4)) {
        let mut operations = Vec::new();
        for (layer, number, create) in layers {
            let Ok(layer) = LayerId::stored(&layer) else { continue };
            let kind = if create { OperationKind::Create } else { OperationKind::Delete };
            operations.push(Operation { kind, layer, device_id: device(number) });
        }
        prop_assume!(!operations.is_empty());
        match to_json(transaction, &operations) {
            Ok(text) => prop_assert_eq!(parse(&text), Intent::of(transaction, &operations)),
            Err(error) => prop_assert_eq!(error.kind(), crate::ErrorKind::TooLong),
        }
    }

    #[test]
    fn any_bytes_are_a_transaction_or_malformed(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        // Must not panic, and serde's reader must agree that it is JSON.
        if TransactionFile::parse(&bytes).is_ok() {
            prop_assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).is_ok());
        }
    }
}
