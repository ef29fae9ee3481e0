//! `metadata/deviceset-metadata`: [`DeviceSet`] (specification 1.5).

use crate::DeviceId;
use crate::go_json::{self, Malformed};

/// What is known of the device set as a whole. A missing file is the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceSet {
    /// The last thin id handed out. Stale after a crash, which harms nobody: used ids are known from the records.
    pub next_device_id: DeviceId,
    /// The UUID of the base device's file system; empty if not yet known.
    pub base_uuid: String,
    /// `ext4` or `xfs`; empty in directories of old versions.
    pub base_filesystem: String,
}

impl DeviceSet {
    /// What such a file says; `None` if it is malformed.
    pub fn read(content: &[u8]) -> Option<Self> {
        Self::parse(content).ok()
    }

    /// Reads the file by Go's rules.
    pub(crate) fn parse(content: &[u8]) -> Result<Self, Malformed> {
        let mut set = Self::default();
        let mut next = 0;
        for (key, value) in go_json::document(content)?.unwrap_or_default() {
            if go_json::matches(&key, "next_device_id") {
                value.signed("next_device_id", &mut next)?;
            } else if go_json::matches(&key, "basedeviceuuid") {
                value.string("BaseDeviceUUID", &mut set.base_uuid)?;
            } else if go_json::matches(&key, "basedevicefilesystem") {
                value.string("BaseDeviceFilesystem", &mut set.base_filesystem)?;
            }
        }
        // Docker counts on from any number and cuts it to 24 bits.
        let cut = u32::try_from(next & i64::from(DeviceId::MAX.get())).unwrap_or(0);
        set.next_device_id = DeviceId::new(cut).unwrap_or_default();
        Ok(set)
    }

    /// The file as Docker writes it.
    pub(crate) fn to_json(&self) -> String {
        let mut text = format!(r#"{{"next_device_id":{},"BaseDeviceUUID":"#, self.next_device_id);
        go_json::push_string(&mut text, &self.base_uuid);
        text.push_str(",\"BaseDeviceFilesystem\":");
        go_json::push_string(&mut text, &self.base_filesystem);
        text.push('}');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EXAMPLE: &str = r#"{"next_device_id":1,"BaseDeviceUUID":"5f1f0a52-6a3d-4d2b-9b9b-3e0c7b6d2a11","BaseDeviceFilesystem":"xfs"}"#;

    #[test]
    fn the_example_of_the_specification_is_read_and_written_byte_for_byte() {
        let set = DeviceSet::parse(EXAMPLE.as_bytes()).unwrap();
        assert_eq!(set.next_device_id.get(), 1);
        assert_eq!(set.base_uuid, "5f1f0a52-6a3d-4d2b-9b9b-3e0c7b6d2a11");
        assert_eq!(set.base_filesystem, "xfs");
        assert_eq!(set.to_json(), EXAMPLE);
    }

    #[test]
    fn old_and_odd_files() {
        let of = |text: &str| DeviceSet::parse(text.as_bytes());
        assert_eq!(of(r#"{"next_device_id":7}"#).unwrap().next_device_id.get(), 7);
        assert_eq!(of("{}").unwrap(), DeviceSet::default());
        assert_eq!(of("null").unwrap(), DeviceSet::default());
        assert_eq!(of(r#"{"NEXT_DEVICE_ID":16777217}"#).unwrap().next_device_id.get(), 1);
        for bad in ["", "{", "7", r#"{"next_device_id":"7"}"#, r#"{"BaseDeviceUUID":7}"#] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn it_round_trips(next in 0u32..=0xff_ffff, base_uuid in ".*", base_filesystem in ".*") {
            let set = DeviceSet { next_device_id: DeviceId::new(next).unwrap(), base_uuid, base_filesystem };
            prop_assert_eq!(DeviceSet::parse(set.to_json().as_bytes()).unwrap(), set);
        }
    }
}
