//! `metadata/transaction-metadata`: the intent of the open transaction (specification 1.6).

use crate::go_json::{self, Malformed, Raw};
use crate::record::device_id_in_range;
use crate::{DeviceId, Error, LayerId, Result};
use serde::Deserialize;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// How long the file is, from when it is made: allocated once, so that a full disk cannot stop a removal.
pub const TRANSACTION_FILE_BYTES: usize = 4096;
/// What one write changes: a sector, which a disk writes whole or not at all.
pub const TRANSACTION_JSON_MAX_BYTES: usize = 512;
const EXTRA_KEY: &str = "thinlayer";
const EXTRA_VERSION: u32 = 1;

/// What an operation does with its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OperationKind {
    /// It makes the device and the record.
    Create,
    /// It deletes the device and the record.
    Delete,
}

impl OperationKind {
    fn word(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Delete => "delete",
        }
    }
}

impl fmt::Display for OperationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// One change to the pool and to one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// What is done.
    pub kind: OperationKind,
    /// To which layer.
    pub layer: LayerId,
    /// With which thin device. For a creation it must be proven free.
    pub device_id: DeviceId,
}

impl Operation {
    /// The creation of a layer.
    pub fn create(layer: LayerId, device_id: DeviceId) -> Self {
        Self { kind: OperationKind::Create, layer, device_id }
    }

    /// The deletion of a layer.
    pub fn delete(layer: LayerId, device_id: DeviceId) -> Self {
        Self { kind: OperationKind::Delete, layer, device_id }
    }
}

/// A transaction whose intent is on disk. Close it with [`crate::Store::close`] once the pool has its id.
///
/// Dropped without that, it counts as given up: its effects must have been undone, as the next one overwrites its intent. If they could not be,
/// [`crate::Store::recovery`] with the pool's id still tells what is left to do.
#[derive(Debug)]
#[must_use = "close it when the pool has its id"]
pub struct OpenTransaction {
    pub(crate) id: u64,
    pub(crate) operations: Vec<Operation>,
    pub(crate) open: Arc<AtomicBool>,
}

impl OpenTransaction {
    /// Its id: what the pool's id becomes (`set_transaction_id` from [`OpenTransaction::pool_id`] to this), and what goes into new records.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The pool's id before it.
    pub fn pool_id(&self) -> u64 {
        self.id - 1
    }

    /// What it does.
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }
}

impl Drop for OpenTransaction {
    fn drop(&mut self) {
        self.open.store(false, Ordering::Release);
    }
}

/// What an intent says about its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum IntentKind {
    /// Ours: the kind was written down.
    Known(OperationKind),
    /// Docker's, which does not write it down.
    Unknown,
    /// A word or version that a later thinlayer wrote.
    Newer(String),
}

/// One operation as the file has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Intended {
    pub(crate) kind: IntentKind,
    pub(crate) layer: LayerId,
    pub(crate) device_id: DeviceId,
}

/// A transaction as the file has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Intent {
    pub(crate) id: u64,
    pub(crate) operations: Vec<Intended>,
}

/// The state of the transaction file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TransactionFile {
    /// There is none, or none that says anything: nothing is open.
    Nothing,
    Intent(Intent),
    /// Nobody knows what it said.
    Malformed,
}

#[derive(Deserialize)]
struct ExtraPart {
    version: u32,
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    more: Vec<MorePart>,
}

#[derive(Deserialize)]
struct MorePart {
    kind: String,
    device_hash: String,
    device_id: i64,
}

fn kind_of(word: &str, version: u32) -> IntentKind {
    match word {
        _ if version > EXTRA_VERSION => IntentKind::Newer(format!("{word} (version {version})")),
        "create" => IntentKind::Known(OperationKind::Create),
        "delete" => IntentKind::Known(OperationKind::Delete),
        other => IntentKind::Newer(other.to_owned()),
    }
}

fn layer_of(hash: &str) -> std::result::Result<LayerId, Malformed> {
    LayerId::stored(hash).map_err(|error| Malformed(format!("device_hash: {error}")))
}

impl Intent {
    /// What a file says once a recovery is finished: no operation. What Docker would undo, if the pool went back by one, is nothing.
    pub(crate) fn closed(id: u64) -> Self {
        Self { id, operations: Vec::new() }
    }

    /// The text of [`Intent::closed`].
    pub(crate) fn closed_json(id: u64) -> String {
        format!(
            r#"{{"open_transaction_id":{id},"device_hash":".closed","device_id":{},"{EXTRA_KEY}":{{"version":{EXTRA_VERSION},"kind":"none"}}}}"#,
            DeviceId::MAX
        )
    }

    pub(crate) fn of(id: u64, operations: &[Operation]) -> Self {
        let intended = |operation: &Operation| Intended {
            kind: IntentKind::Known(operation.kind),
            layer: operation.layer.clone(),
            device_id: operation.device_id,
        };
        Self { id, operations: operations.iter().map(intended).collect() }
    }

    pub(crate) fn parse(content: &[u8]) -> std::result::Result<Self, Malformed> {
        let (mut id, mut device_id, mut hash, mut extra) = (0, 0, String::new(), None);
        for (key, value) in go_json::document(content)?.unwrap_or_default() {
            if go_json::matches(&key, "open_transaction_id") {
                value.unsigned("open_transaction_id", &mut id)?;
            } else if go_json::matches(&key, "device_hash") {
                value.string("device_hash", &mut hash)?;
            } else if go_json::matches(&key, "device_id") {
                value.signed("device_id", &mut device_id)?;
            } else if key == EXTRA_KEY
                && let Raw::Object(text) = value
            {
                let part: ExtraPart = serde_json::from_slice(text)
                    .map_err(|error| Malformed(format!("its key {EXTRA_KEY} is not readable: {error}")))?;
                extra = Some(part);
            }
        }
        if extra.as_ref().is_some_and(|part| part.kind.as_deref() == Some("none")) {
            return Ok(Self::closed(id));
        }
        let (kind, more) = match extra {
            Some(ExtraPart { version, kind, more }) => {
                let kind = kind.map_or(IntentKind::Unknown, |word| kind_of(&word, version));
                (kind, more.into_iter().map(move |part| (version, part)).collect())
            }
            None => (IntentKind::Unknown, Vec::new()),
        };
        let first = Intended { kind, layer: layer_of(&hash)?, device_id: device_id_in_range(device_id)? };
        let mut operations = vec![first];
        for (version, MorePart { kind, device_hash, device_id }) in more {
            let (layer, device_id) = (layer_of(&device_hash)?, device_id_in_range(device_id)?);
            operations.push(Intended { kind: kind_of(&kind, version), layer, device_id });
        }
        Ok(Self { id, operations })
    }
}

impl TransactionFile {
    pub(crate) fn parse(content: &[u8]) -> std::result::Result<Self, Malformed> {
        // What preallocation leaves where nothing was known: a file of ours that says nothing yet.
        if content.len() == TRANSACTION_FILE_BYTES && content.iter().all(|byte| *byte == b' ') {
            return Ok(Self::Nothing);
        }
        Intent::parse(content).map(Self::Intent)
    }
}

/// The text of a transaction, in Docker's three keys and one of ours.
///
/// # Errors
/// It does not fit one sector.
pub(crate) fn to_json(id: u64, operations: &[Operation]) -> Result<String> {
    let mut text = format!(r#"{{"open_transaction_id":{id},"device_hash":"#);
    let Some((first, more)) = operations.split_first() else { return Err(Error::EmptyTransaction) };
    go_json::push_string(&mut text, first.layer.as_str());
    let Operation { kind, device_id, .. } = first;
    text += &format!(r#","device_id":{device_id},"{EXTRA_KEY}":{{"version":{EXTRA_VERSION},"kind":"{kind}""#);
    for (index, Operation { kind, layer, device_id }) in more.iter().enumerate() {
        text += if index == 0 { r#","more":["# } else { "," };
        text += &format!(r#"{{"kind":"{kind}","device_hash":"#);
        go_json::push_string(&mut text, layer.as_str());
        text += &format!(r#","device_id":{device_id}}}"#);
    }
    text += if more.is_empty() { "}}" } else { "]}}" };
    if text.len() >= TRANSACTION_JSON_MAX_BYTES {
        return Err(Error::TransactionTooLong {
            operations: operations.len(),
            bytes: text.len(),
            max: TRANSACTION_JSON_MAX_BYTES - 1,
        });
    }
    Ok(text)
}

/// A text with spaces up to a length.
pub(crate) fn padded(text: &str, length: usize) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize(length.max(bytes.len()), b' ');
    bytes
}

#[cfg(test)]
mod tests;
