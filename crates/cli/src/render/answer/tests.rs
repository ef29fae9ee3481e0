use super::*;
use crate::facts::samples;
use crate::failure::{Failure, FailureKind};
use crate::render::{ls, tree};
use crate::request::{LayerFailure, RemovedLayer};
use std::path::Path;

fn text(answer: &Answer, as_json: bool) -> String {
    String::from_utf8(output(answer, as_json)).unwrap()
}

fn mounted() -> Answer {
    Answer::Mounted { id: "web".into(), path: Path::new("/r/mnt/web/rootfs").into(), uses: 1 }
}

fn grown() -> Answer {
    let change = |from, to| crate::request::Change { from, to };
    Answer::Grown { data: change(1, 2), metadata: change(1, 1), notices: vec![] }
}

fn partly_removed() -> Answer {
    let failure = Failure::new(FailureKind::Busy, "layer web is busy");
    Answer::Removed {
        removed: vec![RemovedLayer { id: "db".into(), deferred: true }],
        failures: vec![LayerFailure { id: "web".into(), failure }],
    }
}

#[test]
fn mount_prints_the_path_alone_whatever_its_bytes() {
    assert_eq!(text(&mounted(), false), "/r/mnt/web/rootfs\n");
    let path = crate::facts::PathText::Bytes(b"/r\xff/x".to_vec());
    assert_eq!(output(&Answer::Mounted { id: "a".into(), path, uses: 1 }, false), b"/r\xff/x\n");
}

#[test]
fn commands_that_did_what_they_were_told_say_nothing() {
    let layer = samples::layer("web", None);
    for answer in [
        Answer::Created { layer: layer.clone() },
        Answer::Resized { layer },
        Answer::GivenBack { id: "web".into(), result: GivenBack::Unmounted, uses: 0 },
        Answer::Removed {
            removed: vec![RemovedLayer { id: "web".into(), deferred: true }],
            failures: vec![],
        },
        grown(),
        Answer::Stopped { was_active: true, notices: vec![] },
    ] {
        assert_eq!(text(&answer, false), "");
        assert!(warnings(&answer).is_empty());
        assert!(text(&answer, true).ends_with("}\n"));
    }
    let idle = Answer::GivenBack { id: "web".into(), result: GivenBack::NotMounted, uses: 0 };
    assert_eq!(
        (text(&idle, false), warnings(&idle)),
        (String::new(), vec!["layer web was not mounted".to_owned()])
    );
}

/// Names of keys and kinds of values, at every depth; of an array, those of its first value.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(members) => members.iter().map(|(key, value)| (key.clone(), shape(value))).collect(),
        Value::Array(values) => values.first().map(shape).into_iter().collect(),
        Value::Null => json!("null"),
        Value::Bool(_) => json!("boolean"),
        Value::Number(_) => json!("number"),
        Value::String(_) => json!("text"),
    }
}

/// The examples of a section of `docs/json.md`.
fn documented(section: &str) -> Vec<Value> {
    let page = include_str!("../../../../../docs/json.md");
    let start = page.find(&format!("\n## {section}\n")).unwrap_or_else(|| panic!("no section {section}"));
    let rest = &page[start + 1..];
    let end = rest.find("\n## ").unwrap_or(rest.len());
    rest[..end]
        .split("```json\n")
        .skip(1)
        .map(|block| {
            serde_json::from_str(block.split("```").next().unwrap())
                .unwrap_or_else(|e| panic!("{section}: {e}"))
        })
        .collect()
}

/// `docs/json.md` shows what the program prints: the same keys in the same order, and values of the same kinds.
#[test]
fn documented_shapes_are_the_real_ones() {
    let plain = samples::layer("web", Some("base1"));
    let mut used = plain.clone();
    used.mounted_at = Some(Path::new("/x").into());
    let removed = Answer::Removed {
        removed: vec![RemovedLayer { id: "web".into(), deferred: true }],
        failures: vec![],
    };
    let not_found = Failure::new(FailureKind::NotFound, "no layer web");
    let busy = Failure::new(FailureKind::Busy, "layer web is busy");
    let real = [
        ("ls", vec![json(&[used.clone()])]),
        ("tree", vec![tree::as_json(&[used])]),
        ("inspect", vec![inspect::as_json(&plain)]),
        ("exists", vec![r#"{"id": "web", "exists": true}"#.to_owned()]),
        ("mount", vec![text(&mounted(), true)]),
        (
            "umount",
            vec![text(&Answer::GivenBack { id: "web".into(), result: GivenBack::Unmounted, uses: 0 }, true)],
        ),
        ("rm", vec![text(&removed, true)]),
        ("status", vec![text(&Answer::Status { status: samples::status() }, true)]),
        ("check", vec![text(&Answer::Checked { report: samples::check() }, true)]),
        ("pool grow", vec![text(&grown(), true)]),
        ("stop", vec![text(&Answer::Stopped { was_active: true, notices: vec![] }, true)]),
        ("error", vec![error(&not_found, None), error(&busy, Some(&partly_removed()))]),
        ("create", vec![]),
        ("resize", vec![]),
    ];
    for (section, real) in real {
        let documented = documented(section);
        assert_eq!(documented.len(), real.len(), "{section}");
        for (documented, real) in documented.iter().zip(real) {
            let real: Value = serde_json::from_str(&real).unwrap();
            // As text, since the order of keys counts too.
            assert_eq!(shape(documented).to_string(), shape(&real).to_string(), "{section}");
        }
    }
    let layer = samples::layer("web", Some("base1"));
    for answer in [Answer::Created { layer: layer.clone() }, Answer::Resized { layer: layer.clone() }] {
        assert_eq!(text(&answer, true), inspect::as_json(&layer));
    }
    assert!(ls::text(&[layer]).starts_with("ID "));
}

#[test]
fn an_error_is_one_line_of_json() {
    for line in [error(&Failure::other("a\nb"), None), error(&Failure::other("x"), Some(&partly_removed()))] {
        assert!(!line.contains('\n'), "{line}");
    }
}
