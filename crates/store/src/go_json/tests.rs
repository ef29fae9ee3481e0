use super::*;
use proptest::prelude::*;
use serde::de::IgnoredAny;

fn one(text: &str) -> Raw<'_> {
    document(text.as_bytes()).unwrap().unwrap().pop().unwrap().1
}

#[test]
fn members_come_in_order_with_duplicates() {
    let text = br#" { "a" : 1 , "A":[1,{"x":[]}], "":null,"a":{"b":"}"} } "#;
    let members = document(text).unwrap().unwrap();
    let keys: Vec<&str> = members.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, ["a", "A", "", "a"]);
    assert_eq!(members[1].1, Raw::Array(br#"[1,{"x":[]}]"#));
    assert_eq!(members[3].1, Raw::Object(br#"{"b":"}"}"#));
}

#[test]
fn what_is_no_object_says_why() {
    let why = |text: &str| document(text.as_bytes()).unwrap_err().0;
    assert_eq!(why(""), "it is empty");
    assert_eq!(why(" \n"), "it is blank");
    assert_eq!(why("[]"), "it holds an array, not an object");
    assert_eq!(why(r#"{"a":1"#), "it ends too early");
    assert_eq!(why("{} x"), "byte 3 is 'x' after the end");
    assert_eq!(document(b"null").unwrap(), None);
}

#[test]
fn numbers_are_whole() {
    let mut signed = 7;
    one(r#"{"a":-0}"#).signed("a", &mut signed).unwrap();
    assert_eq!(signed, 0);
    one(r#"{"a":null}"#).signed("a", &mut signed).unwrap();
    assert_eq!(signed, 0, "null changes nothing");
    let mut unsigned = 0;
    one(r#"{"a":18446744073709551615}"#).unsigned("a", &mut unsigned).unwrap();
    assert_eq!(unsigned, u64::MAX);
    for bad in ["1.0", "1e3", "-1", "18446744073709551616", "\"1\"", "true", "{}"] {
        let text = format!(r#"{{"a":{bad}}}"#);
        assert!(one(&text).unsigned("a", &mut unsigned).is_err(), "{bad}");
    }
}

#[test]
fn keys_fold_as_go_folds_them() {
    assert!(matches("DEVICE_ID", "device_id"));
    assert!(matches("\u{17f}ize", "size"));
    assert!(matches("\u{212a}", "k"));
    assert!(!matches("device-id", "device_id"));
    assert!(!matches("size ", "size"));
    assert!(!matches("s\u{130}ze", "size"));
}

#[test]
fn strings_are_mended_as_go_mends_them() {
    let text = |json: &str| match one(&format!("{{\"a\":{json}}}")) {
        Raw::String(text) => text,
        other => panic!("{other:?}"),
    };
    assert_eq!(text(r#""\ud83d\ude00""#), "😀");
    assert_eq!(text(r#""\ud83dx""#), "\u{fffd}x");
    assert_eq!(text(r#""\ud83d\u0041""#), "\u{fffd}A");
    assert_eq!(text(r#""\ude00""#), "\u{fffd}");
    assert_eq!(text(r#""\/\b\f\n\r\t\"\\""#), "/\u{8}\u{c}\n\r\t\"\\");
    let broken = document(b"{\"a\":\"\xff\"}").unwrap().unwrap();
    assert_eq!(broken[0].1, Raw::String("\u{fffd}".into()));
}

#[test]
fn strings_are_written_as_go_writes_them() {
    let mut out = String::new();
    push_string(&mut out, "a<b>&\"\\\n\u{1}\u{2028}é");
    assert_eq!(out, r#""a\u003cb\u003e\u0026\"\\\n\u0001\u2028é""#);
}

#[test]
fn deep_nesting_ends_without_a_stack_overflow() {
    let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
    assert!(document(nested(9_000).as_bytes()).is_ok());
    assert!(document(nested(200_000).as_bytes()).is_err());
    assert!(document("{\"a\":".repeat(200_000).as_bytes()).is_err());
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::Value;
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((".{0,6}", inner), 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// What serde takes for a JSON text, without converting anything; the reference for syntax.
fn is_json(bytes: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(bytes).is_ok()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn any_object_is_cut_as_serde_cuts_it(members in proptest::collection::vec((".{0,6}", json()), 0..5), pretty: bool) {
        let value = serde_json::Value::Object(members.into_iter().collect());
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
        let found = document(text.as_bytes()).unwrap().unwrap();
        let wanted = value.as_object().unwrap();
        prop_assert_eq!(found.len(), wanted.len());
        for ((key, raw), (wanted_key, wanted)) in found.iter().zip(wanted) {
            prop_assert_eq!(key, wanted_key);
            match raw {
                Raw::Null => prop_assert!(wanted.is_null()),
                Raw::Bool(value) => prop_assert_eq!(Some(*value), wanted.as_bool()),
                Raw::String(text) => prop_assert_eq!(Some(text.as_str()), wanted.as_str()),
                Raw::Number(text) => prop_assert_eq!(*text, wanted.to_string()),Raw::Object(text) | Raw::Array(text) => {
                    let text = std::str::from_utf8(text).unwrap();
                    let whole = serde_json::to_string_pretty(wanted).unwrap().replace(['\n', ' '], "");
                    prop_assert_eq!(text.replace(['\n', ' '], ""), whole);
                }
            }
        }
    }

    #[test]
    fn a_changed_text_is_json_for_both_or_neither(value in json(), at in any::<prop::sample::Index>(), byte: u8, cut: bool) {
        let mut text = serde_json::to_vec(&serde_json::json!({ "a": value, "b": [] })).unwrap();
        let at = at.index(text.len());
        if cut { text.truncate(at) } else { text[at] = byte }
        let objects = is_json(&text) && text.trim_ascii_start().first() == Some(&b'{');
        prop_assert_eq!(document(&text).is_ok(), objects, "{}", String::from_utf8_lossy(&text));
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        prop_assert!(document(&bytes).is_err() || is_json(&bytes));
    }

    #[test]
    fn written_strings_are_read_back(text in ".*") {
        let mut out = String::new();
        push_string(&mut out, &text);
        prop_assert_eq!(&serde_json::from_str::<String>(&out).unwrap(), &text);
        let object = format!("{{\"a\":{out}}}");
        prop_assert_eq!(one(&object), Raw::String(text));
    }
}
