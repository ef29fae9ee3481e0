//! Answers as text or JSON.

pub(crate) mod answer;
pub(crate) mod inspect;
pub(crate) mod ls;
pub(crate) mod status;
pub(crate) mod table;
pub(crate) mod time;
pub(crate) mod tree;

use serde::Serialize;

/// A value as JSON for people and programs.
pub(crate) fn json<T: Serialize>(value: &T) -> String {
    // Nothing of ours can fail to become JSON: no maps with keys that are no text, no failing implementations.
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

/// What stands for a fact that is not known.
pub(crate) const UNKNOWN: &str = "?";
/// What stands for something that is not there.
pub(crate) const ABSENT: &str = "-";
