//! Configs for images whose layers are new: made of a container, or by hand.
//!
//! # References
//! OCI image specification, `config.md`: `rootfs.diff_ids`, `history`.

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::json::parse;
use crate::platform::Platform;
use serde_json::{Map, Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

/// A layer that a new config has above those of its base.
#[derive(Clone, Debug)]
pub struct Addition {
    /// The digest of its uncompressed tar.
    pub diff_id: Digest,
    /// When it was made.
    pub created: SystemTime,
    /// What made it, like a command.
    pub created_by: String,
    /// Anything else; may be empty.
    pub comment: String,
}

/// The config of an image: what `base` says, and the additional layers on top. All members of the base stay, known or not. Without a base it is for `platform`,
/// and says nothing else.
///
/// `runtime` takes the place of the member `config`: command, environment and so on, as of the container that the layer was made of.
///
/// The same arguments give the same bytes.
///
/// # Errors
/// [`Error::Damaged`] if the base is no config.
pub fn new_config(
    base: Option<&[u8]>,
    platform: &Platform,
    runtime: Option<&Value>,
    additions: &[Addition],
) -> Result<Vec<u8>> {
    let mut config: Map<String, Value> = match base {
        Some(bytes) => {
            crate::documents::Config::parse(bytes, "the config of the base")?;
            parse(bytes, "the config of the base")?
        }
        None => {
            let mut config = Map::new();
            config.insert("architecture".into(), json!(platform.architecture));
            config.insert("os".into(), json!(platform.os));
            if !platform.variant.is_empty() {
                config.insert("variant".into(), json!(platform.variant));
            }
            config.insert("config".into(), json!({}));
            config.insert("rootfs".into(), json!({"type": "layers", "diff_ids": []}));
            config
        }
    };
    if let Some(runtime) = runtime {
        config.insert("config".into(), runtime.clone());
    }
    if let Some(last) = additions.last() {
        config.insert("created".into(), json!(rfc3339(last.created)));
    }
    let diff_ids = list(&mut config["rootfs"], "diff_ids")?;
    diff_ids.extend(additions.iter().map(|addition| json!(addition.diff_id)));
    let mut whole = Value::Object(config);
    let history = list(&mut whole, "history")?;
    for addition in additions {
        let mut entry = json!({"created": rfc3339(addition.created), "created_by": addition.created_by});
        if !addition.comment.is_empty() {
            entry["comment"] = json!(addition.comment);
        }
        history.push(entry);
    }
    serde_json::to_vec(&whole).map_err(|error| Error::Stream(error.into()))
}

/// A member that is a list, or missing, or `null`.
fn list<'a>(object: &'a mut Value, member: &str) -> Result<&'a mut Vec<Value>> {
    if object[member].is_null() {
        object[member] = json!([]);
    }
    object[member]
        .as_array_mut()
        .ok_or_else(|| Error::damaged("the config of the base", format!("its {member} is no list")))
}

/// As Go writes times: UTC, the fraction without zeros at its end.
fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Years that begin in March, in eras of 400 years, so that the leap day is a year's last.
    let day = days + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let shifted = (5 * day + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let day = day - (153 * shifted + 2) / 5 + 1;
    let year = era * 400 + year + u64::from(month <= 2);
    let fraction = match since.subsec_nanos() {
        0 => String::new(),
        nanoseconds => format!(".{nanoseconds:09}").trim_end_matches('0').to_owned(),
    };
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}{fraction}Z",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(seconds: u64, nanoseconds: u32) -> SystemTime {
        UNIX_EPOCH + Duration::new(seconds, nanoseconds)
    }

    /// The right side is what `date --utc --iso-8601=seconds --date=@…` says.
    #[test]
    fn times_are_as_go_writes_them() {
        for (seconds, nanoseconds, text) in [
            (0, 0, "1970-01-01T00:00:00Z"),
            (951_782_399, 0, "2000-02-28T23:59:59Z"),
            (951_782_400, 0, "2000-02-29T00:00:00Z"),
            (951_868_800, 0, "2000-03-01T00:00:00Z"),
            (1_700_000_000, 120_000_000, "2023-11-14T22:13:20.12Z"),
            (4_107_542_400, 1, "2100-03-01T00:00:00.000000001Z"),
            (4_107_542_399, 0, "2100-02-28T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(at(seconds, nanoseconds)), text);
        }
    }

    fn addition(bytes: &[u8]) -> Addition {
        Addition {
            diff_id: Digest::of(bytes),
            created: at(1, 0),
            created_by: "a".into(),
            comment: String::new(),
        }
    }

    #[test]
    fn a_config_from_nothing_is_one() {
        let platform: Platform = "linux/arm/v6".parse().unwrap();
        let bytes = new_config(None, &platform, None, &[addition(b"1")]).unwrap();
        let config = crate::documents::Config::parse(&bytes, "it").unwrap();
        assert_eq!((config.platform(), config.diff_ids()), (platform, &[Digest::of(b"1")][..]));
    }

    #[test]
    fn what_the_base_says_stays_and_the_layers_are_added() {
        let below = Digest::of(b"0");
        let base = format!(
            r#"{{"z":[1.50],"created":"x","config":{{"Cmd":["a"]}},"rootfs":{{"type":"layers","diff_ids":["{below}"]}},"history":[{{"n":1}}],"os":"linux"}}"#
        );
        let runtime = json!({"Cmd": ["b"]});
        let bytes = new_config(
            Some(base.as_bytes()),
            &Platform::host(),
            Some(&runtime),
            &[addition(b"1"), addition(b"2")],
        )
        .unwrap();
        let config: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"], json!([below, Digest::of(b"1"), Digest::of(b"2")]));
        assert_eq!(config["history"].as_array().unwrap().len(), 3);
        assert_eq!((&config["config"], &config["created"]), (&runtime, &json!("1970-01-01T00:00:01Z")));
        assert_eq!((&config["z"], &config["os"]), (&json!([1.5]), &json!("linux")));
    }

    #[test]
    fn a_base_that_is_none_is_refused() {
        for bad in ["", "[]", "{}", r#"{"rootfs":{"type":"layers"},"history":1}"#] {
            assert!(new_config(Some(bad.as_bytes()), &Platform::host(), None, &[]).is_err(), "{bad}");
        }
    }
}
