//! A device record, `metadata/<id>`: [`Record`] (specification 1.3 and 1.4).

use crate::DeviceId;
use crate::extra::{EXTRA_KEY, Extra};
use crate::go_json::{self, Malformed, Raw};

/// What is known of one thin device.
///
/// The first five are Docker's; [`Record::extra`] holds what thinlayer adds under one key, and is gone once Docker has rewritten the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its number in the pool.
    pub device_id: DeviceId,
    /// Its virtual size in bytes.
    pub size_bytes: u64,
    /// The pool's transaction id under which it was made.
    pub transaction_id: u64,
    /// For the base device: its file system was made. `false`, for ever, for all others.
    pub initialized: bool,
    /// The layer was removed, but its device is still to be deleted.
    pub deleted: bool,
    /// What thinlayer knows beyond that.
    pub extra: Option<Extra>,
}

/// Why a record cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(String);

impl From<Malformed> for ParseError {
    fn from(malformed: Malformed) -> Self {
        Self(malformed.0)
    }
}

impl Record {
    /// The record of a new device: not initialized, not deleted, nothing extra.
    pub fn new(device_id: DeviceId, size_bytes: u64, transaction_id: u64) -> Self {
        Self { device_id, size_bytes, transaction_id, initialized: false, deleted: false, extra: None }
    }

    /// Reads a record by Go's rules: keys without regard to case, unknown keys ignored, missing ones zero.
    ///
    /// # Errors
    /// Not such an object, `null`, or a thin id that no pool can have.
    pub fn parse(content: &[u8]) -> Result<Self, ParseError> {
        match go_json::document(content)? {
            Some(members) => Self::from_members(&members),
            None => Err(ParseError("it is null".to_owned())),
        }
    }

    pub(crate) fn from_members(members: &[(String, Raw<'_>)]) -> Result<Self, ParseError> {
        let mut device_id = 0;
        let mut record = Self::new(DeviceId::default(), 0, 0);
        for (key, value) in members {
            if go_json::matches(key, "device_id") {
                value.signed("device_id", &mut device_id)?;
            } else if go_json::matches(key, "size") {
                value.unsigned("size", &mut record.size_bytes)?;
            } else if go_json::matches(key, "transaction_id") {
                value.unsigned("transaction_id", &mut record.transaction_id)?;
            } else if go_json::matches(key, "initialized") {
                value.boolean("initialized", &mut record.initialized)?;
            } else if go_json::matches(key, "deleted") {
                value.boolean("deleted", &mut record.deleted)?;
            } else if key == EXTRA_KEY
                && let Raw::Object(text) = value
            {
                // What is not readable here must not cost the layer: Docker's five keys are enough to work with.
                record.extra = Extra::parse(text);
            }
        }
        record.device_id = device_id_in_range(device_id)?;
        Ok(record)
    }

    /// The record as it is written: compact, Docker's keys in Docker's order, then the extra key if there is one; no newline.
    pub fn to_json(&self) -> String {
        let Self { device_id, size_bytes, transaction_id, initialized, deleted, extra } = self;
        let mut text = format!(
            r#"{{"device_id":{device_id},"size":{size_bytes},"transaction_id":{transaction_id},"initialized":{initialized},"deleted":{deleted}"#
        );
        if let Some(extra) = extra {
            text.push_str(",\"");
            text.push_str(EXTRA_KEY);
            text.push_str("\":");
            text.push_str(&extra.to_json());
        }
        text.push('}');
        text
    }

    /// It is no layer that anybody asked for, but something that layers are made from.
    pub fn is_hidden(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| extra.hidden)
    }
}

/// A thin id out of a Go `int`.
pub(crate) fn device_id_in_range(number: i64) -> Result<DeviceId, Malformed> {
    u32::try_from(number)
        .ok()
        .and_then(DeviceId::new)
        .ok_or_else(|| Malformed(format!("device_id {number} is no 24-bit number")))
}

#[cfg(test)]
mod tests;
