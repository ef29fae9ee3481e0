//! What thinlayer keeps in a record beyond Docker's keys: [`Extra`].

use crate::{LayerId, base64};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The one key of ours in Docker's files.
pub(crate) const EXTRA_KEY: &str = "thinlayer";
/// The version of the extra key's content that this crate writes.
pub const EXTRA_VERSION: u32 = 1;

/// Where a layer's tree lies in its file system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Layout {
    /// In the folder `rootfs`, as Docker has it.
    #[default]
    Rootfs,
    /// At the root of the file system, as containerd has it.
    Fsroot,
    /// A word that a later version wrote.
    Other(String),
}

/// What a snapshotter's client asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// A writable snapshot, found under its key.
    Active,
    /// A read-only one, found under its key.
    View,
    /// A committed one, found under its name.
    Committed,
    /// A word that a later version wrote.
    Other(String),
}

/// What thinlayer knows of a layer beyond Docker's five keys. Each part may be missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extra {
    /// The version of what follows; [`EXTRA_VERSION`] unless a later version wrote it.
    pub version: u32,
    /// What it is a snapshot of; the base for a layer without parent. `None`: not known.
    pub parent: Option<LayerId>,
    /// Where its tree lies.
    pub layout: Layout,
    /// The type of its file system, `ext4` or `xfs`.
    pub filesystem: Option<String>,
    /// What a snapshotter's client asked for.
    pub kind: Option<Kind>,
    /// The client's key of an active snapshot or a view: any bytes.
    pub key: Option<Vec<u8>>,
    /// The client's name of a committed snapshot: any bytes.
    pub name: Option<Vec<u8>>,
    /// The client's labels.
    pub labels: BTreeMap<String, String>,
    /// When it was made: nanoseconds since 1970-01-01 00:00 UTC.
    pub created_ns: Option<u64>,
    /// When its record last changed on somebody's request: nanoseconds since 1970-01-01 00:00 UTC.
    pub updated_ns: Option<u64>,
    /// Nobody asked for it; layers are made from it.
    pub hidden: bool,
    /// The device has the record's size, its file system not yet.
    pub grow_pending: bool,
    /// What this version does not know; written back as it was.
    pub unknown: Map<String, Value>,
}

impl Default for Extra {
    fn default() -> Self {
        Self {
            version: EXTRA_VERSION,
            parent: None,
            layout: Layout::default(),
            filesystem: None,
            kind: None,
            key: None,
            name: None,
            labels: BTreeMap::new(),
            created_ns: None,
            updated_ns: None,
            hidden: false,
            grow_pending: false,
            unknown: Map::new(),
        }
    }
}

impl Layout {
    fn word(&self) -> &str {
        match self {
            Self::Rootfs => "rootfs",
            Self::Fsroot => "fsroot",
            Self::Other(word) => word,
        }
    }
}

impl Kind {
    fn word(&self) -> &str {
        match self {
            Self::Active => "active",
            Self::View => "view",
            Self::Committed => "committed",
            Self::Other(word) => word,
        }
    }
}

impl From<&str> for Layout {
    fn from(word: &str) -> Self {
        match word {
            "rootfs" => Self::Rootfs,
            "fsroot" => Self::Fsroot,
            other => Self::Other(other.to_owned()),
        }
    }
}

impl From<&str> for Kind {
    fn from(word: &str) -> Self {
        match word {
            "active" => Self::Active,
            "view" => Self::View,
            "committed" => Self::Committed,
            other => Self::Other(other.to_owned()),
        }
    }
}

/// Takes a member out if `read` can make something of it; what it cannot read stays where it is.
fn take<T>(members: &mut Map<String, Value>, key: &str, read: impl FnOnce(&Value) -> Option<T>) -> Option<T> {
    let value = read(members.get(key)?)?;
    members.shift_remove(key);
    Some(value)
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn labels(value: &Value) -> Option<BTreeMap<String, String>> {
    value.as_object()?.iter().map(|(key, value)| Some((key.clone(), text(value)?))).collect()
}

/// Bytes under `key` as text, or under `key_base64` where they are no UTF-8.
fn take_bytes(members: &mut Map<String, Value>, key: &str) -> Option<Vec<u8>> {
    take(members, key, text)
        .map(String::into_bytes)
        .or_else(|| take(members, &format!("{key}_base64"), |value| base64::decode(value.as_str()?)))
}

fn put(members: &mut Map<String, Value>, key: &str, value: Option<Value>) {
    if let Some(value) = value {
        members.insert(key.to_owned(), value);
    }
}

fn put_bytes(members: &mut Map<String, Value>, key: &str, bytes: Option<&[u8]>) {
    let Some(bytes) = bytes else { return };
    match std::str::from_utf8(bytes) {
        Ok(text) => put(members, key, Some(text.into())),
        Err(_) => put(members, &format!("{key}_base64"), Some(base64::encode(bytes).into())),
    }
}

impl Extra {
    /// `None` if it is no object that serde can read.
    pub(crate) fn parse(content: &[u8]) -> Option<Self> {
        let mut members: Map<String, Value> = serde_json::from_str(&String::from_utf8_lossy(content)).ok()?;
        let members = &mut members;
        Some(Self {
            version: take(members, "version", |value| value.as_u64()?.try_into().ok())
                .unwrap_or(EXTRA_VERSION),
            parent: take(members, "parent", |value| LayerId::stored(value.as_str()?).ok()),
            layout: take(members, "layout", |value| value.as_str().map(Layout::from)).unwrap_or_default(),
            filesystem: take(members, "filesystem", text),
            kind: take(members, "kind", |value| value.as_str().map(Kind::from)),
            key: take_bytes(members, "key"),
            name: take_bytes(members, "name"),
            labels: take(members, "labels", labels).unwrap_or_default(),
            created_ns: take(members, "created_ns", Value::as_u64),
            updated_ns: take(members, "updated_ns", Value::as_u64),
            hidden: take(members, "hidden", Value::as_bool).unwrap_or_default(),
            grow_pending: take(members, "grow_pending", Value::as_bool).unwrap_or_default(),
            unknown: std::mem::take(members),
        })
    }

    pub(crate) fn to_json(&self) -> String {
        let mut members = Map::new();
        put(&mut members, "version", Some(self.version.into()));
        put(&mut members, "parent", self.parent.as_ref().map(|parent| parent.as_str().into()));
        put(&mut members, "layout", Some(self.layout.word().into()));
        put(&mut members, "filesystem", self.filesystem.as_deref().map(Value::from));
        put(&mut members, "kind", self.kind.as_ref().map(|kind| kind.word().into()));
        put_bytes(&mut members, "key", self.key.as_deref());
        put_bytes(&mut members, "name", self.name.as_deref());
        let labels = || self.labels.iter().map(|(key, value)| (key.clone(), value.as_str().into())).collect();
        put(&mut members, "labels", (!self.labels.is_empty()).then(|| Value::Object(labels())));
        put(&mut members, "created_ns", self.created_ns.map(Value::from));
        put(&mut members, "updated_ns", self.updated_ns.map(Value::from));
        put(&mut members, "hidden", self.hidden.then_some(Value::Bool(true)));
        put(&mut members, "grow_pending", self.grow_pending.then_some(Value::Bool(true)));
        for (key, value) in &self.unknown {
            // A member that could not be read gives way to one that was set since.
            members.entry(key.clone()).or_insert_with(|| value.clone());
        }
        Value::Object(members).to_string()
    }
}
