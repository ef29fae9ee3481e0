//! The names of layers: [`LayerId`].

use std::fmt;
use std::sync::Arc;

/// The file name of the base device's record, and how people see the empty id.
pub(crate) const BASE: &str = "base";
/// The device-set file; no layer can have this name.
pub(crate) const DEVICE_SET: &str = "deviceset-metadata";
/// The transaction file; no layer can have this name.
pub(crate) const TRANSACTION: &str = "transaction-metadata";
const MIGRATED: &str = ".migrated";
/// The longest id that is accepted from people: `docker-MAJ:MIN-INO-` and this fit the 127 bytes of a device-mapper name.
pub const GIVEN_MAX_BYTES: usize = 80;
const FILE_NAME_MAX_BYTES: usize = 255;

/// A layer's id. It is the name of its record, of its mount folder and the end of its device's name (specification 1.2).
///
/// The base device has Docker's empty id; its file is `base`, and so it is printed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayerId(Arc<str>);

/// Which rule an id breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidLayerId {
    /// It has no bytes.
    #[error("a layer id must not be empty: give 1 to {GIVEN_MAX_BYTES} characters")]
    Empty,
    /// It has too many bytes.
    #[error("a layer id of {bytes} bytes is too long: at most {max}")]
    TooLong {
        /// How many it has.
        bytes: usize,
        /// How many it may have.
        max: usize,
    },
    /// It has a character that is not allowed.
    #[error("layer id `{}` holds {character:?}: use letters, digits and #+.:=@_-", id.escape_debug())]
    Character {
        /// The id.
        id: String,
        /// The first such character.
        character: char,
    },
    /// It begins with a dot.
    #[error("layer id `{}` begins with a dot, which Docker skips: choose another", id.escape_debug())]
    LeadingDot {
        /// The id.
        id: String,
    },
    /// It ends like a file that Docker skips.
    #[error("layer id `{}` ends in {MIGRATED}, which Docker skips: choose another", id.escape_debug())]
    Migrated {
        /// The id.
        id: String,
    },
    /// It is the name of something else.
    #[error("layer id `{id}` is reserved: choose another")]
    Reserved {
        /// The id.
        id: String,
    },
}

impl LayerId {
    /// The base device: Docker's empty id.
    pub fn base() -> Self {
        Self(Arc::from(""))
    }

    /// An id that a person or a program gives to a new layer: 1 to 80 bytes of `[0-9A-Za-z#+.:=@_-]`, no leading dot, none of the reserved names.
    ///
    /// To look up what an old root holds, use [`LayerId::found`], which accepts more.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn given(id: &str) -> Result<Self, InvalidLayerId> {
        if id.len() > GIVEN_MAX_BYTES {
            return Err(InvalidLayerId::TooLong { bytes: id.len(), max: GIVEN_MAX_BYTES });
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || "#+.:=@_-".contains(c);
        if let Some(character) = id.chars().find(|c| !allowed(*c)) {
            return Err(InvalidLayerId::Character { id: id.to_owned(), character });
        }
        if id == BASE {
            return Err(InvalidLayerId::Reserved { id: id.to_owned() });
        }
        Self::found(id)
    }

    /// An id as it stands in a root that somebody else wrote: any file name that the scan rules of specification 1.2 take for a record.
    ///
    /// `base` is the base device.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn found(file_name: &str) -> Result<Self, InvalidLayerId> {
        let id = || file_name.to_owned();
        if file_name.is_empty() {
            return Err(InvalidLayerId::Empty);
        }
        if file_name.len() > FILE_NAME_MAX_BYTES {
            return Err(InvalidLayerId::TooLong { bytes: file_name.len(), max: FILE_NAME_MAX_BYTES });
        }
        if let Some(character) = file_name.chars().find(|c| matches!(c, '/' | '\0')) {
            return Err(InvalidLayerId::Character { id: id(), character });
        }
        if file_name.starts_with('.') {
            return Err(InvalidLayerId::LeadingDot { id: id() });
        }
        if file_name.ends_with(MIGRATED) {
            return Err(InvalidLayerId::Migrated { id: id() });
        }
        if file_name == DEVICE_SET || file_name == TRANSACTION {
            return Err(InvalidLayerId::Reserved { id: id() });
        }
        if file_name == BASE {
            return Ok(Self::base());
        }
        Ok(Self(Arc::from(file_name)))
    }

    /// An id as Docker's files hold it: the empty string is the base device, and so is `base`.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn stored(hash: &str) -> Result<Self, InvalidLayerId> {
        if hash.is_empty() { Ok(Self::base()) } else { Self::found(hash) }
    }

    /// A new id that means nothing: 32 random hex digits.
    ///
    /// # Errors
    /// The kernel gives no random bytes.
    pub fn opaque() -> crate::Result<Self> {
        let mut random = [0u8; 16];
        getrandom::fill(&mut random).map_err(|source| crate::Error::Random { source: source.into() })?;
        let digits: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self(Arc::from(digits)))
    }

    /// It looks like an id made by [`LayerId::opaque`].
    pub fn is_opaque(&self) -> bool {
        self.0.len() == 32 && self.0.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    }

    /// The id as Docker's files and interface have it; empty for the base device.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// It is the base device.
    pub fn is_base(&self) -> bool {
        self.0.is_empty()
    }

    /// The name of its record in `metadata/`, of its folder in `mnt/`, and the end of its device's name.
    pub fn file_name(&self) -> &str {
        if self.is_base() { BASE } else { &self.0 }
    }
}

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.file_name())
    }
}

impl fmt::Debug for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LayerId({})", self.file_name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_ids_follow_the_rules() {
        for good in ["a", "0", "a.b", "x:y=z@1#2+3_4-5", &"f".repeat(80), "base2", "a.migrated.x"] {
            assert_eq!(LayerId::given(good).unwrap().as_str(), good);
        }
        assert_eq!(LayerId::given(""), Err(InvalidLayerId::Empty));
        assert_eq!(LayerId::given(&"f".repeat(300)), Err(InvalidLayerId::TooLong { bytes: 300, max: 80 }));
        for (bad, character) in [("a/b", '/'), ("a b", ' '), ("a\0", '\0'), ("é", 'é'), ("a\n", '\n')] {
            assert_eq!(LayerId::given(bad), Err(InvalidLayerId::Character { id: bad.into(), character }));
        }
        assert!(matches!(LayerId::given(".a"), Err(InvalidLayerId::LeadingDot { .. })));
        assert!(matches!(LayerId::given("a.migrated"), Err(InvalidLayerId::Migrated { .. })));
        for reserved in ["base", "deviceset-metadata", "transaction-metadata"] {
            assert_eq!(LayerId::given(reserved), Err(InvalidLayerId::Reserved { id: reserved.into() }));
        }
    }

    #[test]
    fn found_ids_are_file_names() {
        assert!(LayerId::found("base").unwrap().is_base());
        assert_eq!(LayerId::found("größe und so").unwrap().as_str(), "größe und so");
        assert_eq!(LayerId::found(&"x".repeat(255)).unwrap().as_str().len(), 255);
        for bad in ["", ".tmp1", "a/b", "a\0b", "json.migrated", DEVICE_SET, TRANSACTION, &"x".repeat(256)] {
            assert!(LayerId::found(bad).is_err(), "{bad}");
        }
        assert!(LayerId::stored("").unwrap().is_base());
    }

    #[test]
    fn the_base_prints_as_base() {
        assert_eq!(LayerId::base().to_string(), "base");
        assert_eq!(LayerId::base().as_str(), "");
        assert_eq!(LayerId::base().file_name(), "base");
    }

    #[test]
    fn opaque_ids_differ_and_are_valid() {
        let (a, b) = (LayerId::opaque().unwrap(), LayerId::opaque().unwrap());
        assert_ne!(a, b);
        assert!(a.is_opaque() && LayerId::given(a.as_str()).is_ok());
        assert!(!LayerId::given("abc").unwrap().is_opaque());
    }

    #[test]
    fn errors_are_one_line() {
        let error = LayerId::given("a\nb").unwrap_err().to_string();
        assert!(!error.contains('\n'), "{error}");
    }
}
