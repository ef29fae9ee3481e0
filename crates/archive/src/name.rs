//! What an entry's name asks for.

use crate::diff::WHITEOUT;
use crate::error::{Error, ErrorKind, Result};
use crate::tree::LONGEST_PATH;

const ACTION: &str = "apply";
/// Folders that a name may go down. Real layers stay below 100; the kernel takes 2047, for which a process may not have the descriptors.
pub(crate) const MOST_PARTS: usize = 512;
const OPAQUE: &[u8] = b".wh..wh..opq";
/// aufs kept its own files under such names at a layer's root.
const AUFS: &[u8] = b".wh..wh.";

/// A name without `.`, `..`, and slashes at its ends: the parent's path, which is empty for the root, and the name in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Name<'a> {
    pub(crate) parent: &'a [u8],
    pub(crate) last: &'a [u8],
}

/// What an entry of some name does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose<'a> {
    /// Describes the tree's root.
    Root,
    /// Makes a file.
    File(Name<'a>),
    /// Deletes one.
    Whiteout(Name<'a>),
    /// Deletes what lower layers have in the folder of this path.
    Opaque(&'a [u8]),
    /// aufs's own.
    Ignored,
}

fn refused(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Refused, ACTION, why)
}

/// Cleans a name; the root's is empty.
pub(crate) fn clean(raw: &[u8], absolute: bool) -> Result<Vec<u8>> {
    if raw.is_empty() {
        return Err(Error::new(ErrorKind::Malformed, ACTION, "an entry has no name"));
    }
    if raw.starts_with(b"/") && !absolute {
        return Err(refused("its name is absolute: names in a layer begin at the layer's root"));
    }
    let mut name = Vec::with_capacity(raw.len());
    for part in raw.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(refused("its name holds \"..\", which may lead out of the tree")),
            part => {
                if !name.is_empty() {
                    name.push(b'/');
                }
                name.extend_from_slice(part);
            }
        }
    }
    let parts = name.split(|byte| *byte == b'/').count();
    if parts > MOST_PARTS {
        return Err(Error::new(
            ErrorKind::Limit,
            ACTION,
            format!("its name goes {parts} folders deep, more than {MOST_PARTS}"),
        ));
    }
    if name.len() > LONGEST_PATH {
        let why = format!("its name has {} bytes, more than the kernel takes ({LONGEST_PATH})", name.len());
        return Err(Error::new(ErrorKind::Limit, ACTION, why));
    }
    Ok(name)
}

/// Splits a cleaned name that is not the root's.
pub(crate) fn split(name: &[u8]) -> Name<'_> {
    match name.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => Name { parent: &name[..slash], last: &name[slash + 1..] },
        None => Name { parent: b"", last: name },
    }
}

/// What a cleaned name asks for.
pub(crate) fn purpose(name: &[u8]) -> Result<Purpose<'_>> {
    if name.is_empty() {
        return Ok(Purpose::Root);
    }
    if name.starts_with(AUFS) && name != OPAQUE {
        return Ok(Purpose::Ignored);
    }
    let Name { parent, last } = split(name);
    if parent.split(|byte| *byte == b'/').any(|part| part.starts_with(WHITEOUT)) {
        return Err(refused("a folder in its name begins with \".wh.\", which means a deletion"));
    }
    if last == OPAQUE {
        return Ok(Purpose::Opaque(parent));
    }
    match last.strip_prefix(WHITEOUT) {
        None => Ok(Purpose::File(Name { parent, last })),
        Some(b"" | b"." | b"..") => Err(refused("it is a deletion of no name, or of a folder from within")),
        Some(last) => Ok(Purpose::Whiteout(Name { parent, last })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cleaned() {
        for (raw, name) in [
            ("./a//b/./c/", "a/b/c"),
            ("a", "a"),
            ("./", ""),
            (".", ""),
            ("a/...", "a/..."),
            ("..a/b..", "..a/b.."),
        ] {
            assert_eq!(clean(raw.as_bytes(), false).unwrap(), name.as_bytes(), "{raw}");
        }
        assert_eq!(clean(b"//a", true).unwrap(), b"a");
        assert_eq!(clean(b"/", true).unwrap(), b"");
        for raw in ["/a", "..", "../a", "a/..", "a/../b", "./../a", "/"] {
            assert_eq!(clean(raw.as_bytes(), false).unwrap_err().kind(), ErrorKind::Refused, "{raw}");
        }
        assert_eq!(clean(b"/../a", true).unwrap_err().kind(), ErrorKind::Refused);
        assert_eq!(clean(b"", false).unwrap_err().kind(), ErrorKind::Malformed);
        assert_eq!(clean("a/".repeat(MOST_PARTS).as_bytes(), false).unwrap().len(), 2 * MOST_PARTS - 1);
        assert_eq!(
            clean("a/".repeat(MOST_PARTS + 1).as_bytes(), false).unwrap_err().kind(),
            ErrorKind::Limit
        );
        assert_eq!(clean(&[b'a'; 4096], false).unwrap_err().kind(), ErrorKind::Limit);
    }

    #[test]
    fn purposes() {
        let name = |parent: &'static str, last: &'static str| Name {
            parent: parent.as_bytes(),
            last: last.as_bytes(),
        };
        assert_eq!(purpose(b"").unwrap(), Purpose::Root);
        assert_eq!(purpose(b"a/b").unwrap(), Purpose::File(name("a", "b")));
        assert_eq!(purpose(b"a/.wh.b").unwrap(), Purpose::Whiteout(name("a", "b")));
        assert_eq!(purpose(b".wh.b").unwrap(), Purpose::Whiteout(name("", "b")));
        assert_eq!(purpose(b"a/b/.wh..wh..opq").unwrap(), Purpose::Opaque(b"a/b"));
        assert_eq!(purpose(b".wh..wh..opq").unwrap(), Purpose::Opaque(b""));
        assert_eq!(purpose(b".wh..wh.plnk/1.2").unwrap(), Purpose::Ignored);
        assert_eq!(purpose(b"a/.wh..hidden").unwrap(), Purpose::Whiteout(name("a", ".hidden")));
        for refused in ["a/.wh.", ".wh..", "a/.wh...", ".wh.a/b", "b/.wh.a/b"] {
            assert_eq!(purpose(refused.as_bytes()).unwrap_err().kind(), ErrorKind::Refused, "{refused}");
        }
    }
}
