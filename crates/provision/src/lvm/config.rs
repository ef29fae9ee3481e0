//! `setup-config.json`: with what Docker's driver, or this one, set a pool up (section 1.7 of the specification).

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;
use std::path::Path;

/// Where it lies below a root.
pub const CONFIG_FILE: &str = "setup-config.json";

/// What an operator asked of direct-lvm, as it was given: 0 stands for what was not given, and its default is not kept.
///
/// Field order and names are those of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SetupConfig {
    /// `dm.directlvm_device`.
    pub device: String,
    /// `dm.thinp_percent`: the part of the volume group that is data; 95 if 0.
    pub thinp_percent: u64,
    /// `dm.thinp_metapercent`: the part that is metadata; 1 if 0.
    pub thinp_meta_percent: u64,
    /// `dm.thinp_autoextend_percent`: by how much LVM extends the pool; 20 if 0.
    pub auto_extend_percent: u64,
    /// `dm.thinp_autoextend_threshold`: from what use on; 80 if 0, and 100 for never.
    pub auto_extend_threshold: u64,
}

fn or(given: u64, default: u64) -> u64 {
    if given == 0 { default } else { given }
}

impl SetupConfig {
    /// Data in percent of the volume group.
    pub fn data_percent(&self) -> u64 {
        or(self.thinp_percent, 95)
    }

    /// Metadata in percent of the volume group.
    pub fn metadata_percent(&self) -> u64 {
        or(self.thinp_meta_percent, 1)
    }

    /// LVM's profile for the pool, byte for byte as Docker writes it.
    pub fn profile(&self) -> String {
        format!(
            "activation{{\nthin_pool_autoextend_threshold={}\nthin_pool_autoextend_percent={}\n}}",
            or(self.auto_extend_threshold, 80),
            or(self.auto_extend_percent, 20)
        )
    }

    /// Reads the file's content. `None`: nothing was set up (no content, or no value in it).
    ///
    /// Keys may be in any case, unknown ones do not matter, and `null` is as nothing: so Go reads them.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn parse(content: &[u8]) -> Result<Option<Self>, String> {
        if content.is_empty() {
            return Ok(None);
        }
        let parsed: Value = serde_json::from_slice(content).map_err(|error| error.to_string())?;
        let object = match parsed {
            Value::Null => return Ok(None),
            Value::Object(object) => object,
            _ => return Err("it is no JSON object".into()),
        };
        let mut config = Self::default();
        for (key, value) in &object {
            if value.is_null() {
                continue;
            }
            let number =
                || value.as_u64().ok_or_else(|| format!("{key} is {value}, and should be a whole number"));
            match key.to_ascii_lowercase().as_str() {
                "device" => {
                    let text =
                        value.as_str().ok_or_else(|| format!("{key} is {value}, and should be a text"))?;
                    text.clone_into(&mut config.device);
                }
                "thinppercent" => config.thinp_percent = number()?,
                "thinpmetapercent" => config.thinp_meta_percent = number()?,
                "autoextendpercent" => config.auto_extend_percent = number()?,
                "autoextendthreshold" => config.auto_extend_threshold = number()?,
                _ => {}
            }
        }
        Ok((config != Self::default()).then_some(config))
    }

    /// The file's content as Docker writes it.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string(self).unwrap_or_default();
        // Go writes these so; none of them stands outside of a text.
        for (character, escaped) in [
            ('<', "\\u003c"),
            ('>', "\\u003e"),
            ('&', "\\u0026"),
            ('\u{2028}', "\\u2028"),
            ('\u{2029}', "\\u2029"),
        ] {
            text = text.replace(character, escaped);
        }
        text
    }

    /// Is this what is stored? A device may be named by another path of the same node.
    pub fn agrees_with(&self, stored: &Self) -> bool {
        let same_device = self.device == stored.device
            || matches!((real(&self.device), real(&stored.device)), (Some(one), Some(other)) if one == other);
        same_device && Self { device: stored.device.clone(), ..self.clone() } == *stored
    }
}

fn real(path: &str) -> Option<std::path::PathBuf> {
    Path::new(path).canonicalize().ok()
}

impl fmt::Display for SetupConfig {
    /// As options; what was not given is not shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dm.directlvm_device={}", self.device)?;
        for (option, value) in [
            ("dm.thinp_percent", self.thinp_percent),
            ("dm.thinp_metapercent", self.thinp_meta_percent),
            ("dm.thinp_autoextend_threshold", self.auto_extend_threshold),
            ("dm.thinp_autoextend_percent", self.auto_extend_percent),
        ] {
            if value != 0 {
                write!(f, " {option}={value}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn config(device: &str) -> SetupConfig {
        SetupConfig { device: device.into(), ..SetupConfig::default() }
    }

    #[test]
    fn the_file_is_dockers_byte_for_byte() {
        let docker = r#"{"Device":"/dev/loop0","ThinpPercent":0,"ThinpMetaPercent":0,"AutoExtendPercent":0,"AutoExtendThreshold":0}"#;
        assert_eq!(config("/dev/loop0").to_json(), docker);
        assert_eq!(SetupConfig::parse(docker.as_bytes()), Ok(Some(config("/dev/loop0"))));
        assert!(config("/dev/<&>").to_json().contains(r"/dev/\u003c\u0026\u003e"));
    }

    #[test]
    fn nothing_stored_is_no_config_and_what_cannot_be_read_is_an_error() {
        for nothing in ["", "{}", "null", r#"{"Device":"","ThinpPercent":null}"#] {
            assert_eq!(SetupConfig::parse(nothing.as_bytes()), Ok(None), "{nothing}");
        }
        for bad in ["{", "[]", r#"{"Device":3}"#, r#"{"ThinpPercent":"95"}"#, r#"{"ThinpPercent":-1}"#] {
            assert!(SetupConfig::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        let lenient = r#"{"device":"/dev/sdb","THINPPERCENT":90,"other":[1]}"#;
        let read = SetupConfig::parse(lenient.as_bytes()).unwrap().unwrap();
        assert_eq!((read.device.as_str(), read.data_percent(), read.metadata_percent()), ("/dev/sdb", 90, 1));
    }

    #[test]
    fn the_profile_is_dockers_byte_for_byte() {
        assert_eq!(
            config("/dev/sdb").profile(),
            "activation{\nthin_pool_autoextend_threshold=80\nthin_pool_autoextend_percent=20\n}"
        );
    }

    #[test]
    fn another_path_of_the_device_is_the_same_config() {
        let folder = tempfile::tempdir().unwrap();
        let (disk, link) = (folder.path().join("disk"), folder.path().join("link"));
        std::fs::write(&disk, "").unwrap();
        std::os::unix::fs::symlink(&disk, &link).unwrap();
        let (disk, link) = (config(disk.to_str().unwrap()), config(link.to_str().unwrap()));
        assert!(link.agrees_with(&disk) && disk.agrees_with(&disk));
        assert!(!config("/dev/other").agrees_with(&disk));
        assert!(!SetupConfig { thinp_percent: 90, thinp_meta_percent: 1, ..link }.agrees_with(&disk));
        // A device that is gone is still what was configured.
        assert!(config("/dev/gone").agrees_with(&config("/dev/gone")));
    }

    proptest! {
        #[test]
        fn any_config_survives_its_file(device in "/[ -~\u{2028}é]{0,20}", numbers in proptest::array::uniform4(0..=100_u64)) {
            let [thinp_percent, thinp_meta_percent, auto_extend_percent, auto_extend_threshold] = numbers;
            let config = SetupConfig { device, thinp_percent, thinp_meta_percent, auto_extend_percent, auto_extend_threshold };
            prop_assert_eq!(SetupConfig::parse(config.to_json().as_bytes()), Ok(Some(config)));
        }

        #[test]
        fn any_content_is_read_or_refused(content in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = SetupConfig::parse(&content);
        }
    }
}
