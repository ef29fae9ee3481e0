//! `inspect`: everything that is known of one layer.

use super::ls::parent;
use super::{ABSENT, UNKNOWN, json};
use crate::facts::{LayerFacts, PathText};
use crate::failure::one_line;
use serde::Serialize;
use thinlayer_graphdriver::{Bytes, human_size};

/// The facts together with what `docker inspect` shows of the layer, under Docker's names and, like Docker's, as text.
#[derive(Debug, Serialize)]
struct Inspected<'a> {
    #[serde(flatten)]
    facts: &'a LayerFacts,
    #[serde(rename = "DeviceId")]
    device_id: String,
    #[serde(rename = "DeviceSize")]
    device_size: String,
    #[serde(rename = "DeviceName")]
    device_name: &'a str,
}

/// One object.
pub(crate) fn as_json(facts: &LayerFacts) -> String {
    json(&Inspected {
        facts,
        device_id: facts.device_id.to_string(),
        device_size: facts.size.to_string(),
        device_name: &facts.device_name,
    })
}

/// One `Key: value` line for each fact.
pub(crate) fn text(facts: &LayerFacts) -> String {
    let unknown = || UNKNOWN.to_owned();
    let mut rows = vec![
        ("Id", one_line(&facts.id)),
        ("Parent", parent(facts)),
        ("Size", format!("{} ({} bytes)", human_size(Bytes(facts.size)), facts.size)),
        ("Filesystem", facts.filesystem.clone().unwrap_or_else(unknown)),
        ("Created", facts.created.clone().unwrap_or_else(unknown)),
        ("Mounted", facts.mounted_at.as_ref().map_or_else(|| ABSENT.to_owned(), PathText::shown)),
        ("Uses", facts.uses.to_string()),
        ("TransactionId", facts.transaction_id.to_string()),
        ("DeviceId", facts.device_id.to_string()),
        ("DeviceSize", facts.size.to_string()),
        ("DeviceName", one_line(&facts.device_name)),
    ];
    for (key, value) in &facts.labels {
        rows.push(("Label", one_line(&format!("{key}={value}"))));
    }
    rows.into_iter().map(|(key, value)| format!("{key}: {value}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::samples::layer;

    #[test]
    fn docker_finds_its_own_words() {
        let mut facts = layer("web", Some("base1"));
        facts.labels.insert("a".into(), "b\nc".into());
        let value: serde_json::Value = serde_json::from_str(&as_json(&facts)).unwrap();
        assert_eq!(value["DeviceId"], "7");
        assert_eq!(value["DeviceSize"], "10737418240");
        assert_eq!(value["DeviceName"], "docker-253:1-4711-web");
        let text = text(&facts);
        assert!(
            text.contains("Parent: base1\n")
                && text.contains("DeviceId: 7\n")
                && text.contains("Label: a=b c\n"),
            "{text}"
        );
        assert!(text.contains("Size: 10.74GB (10737418240 bytes)\n"), "{text}");
    }
}
