//! POSIX ACLs: the kernel's form in extended attributes, and the text that star, GNU tar and bsdtar put into extended headers.
//!
//! # References
//! `acl(5)`; `linux/posix_acl_xattr.h`.

/// The attribute that holds a file's ACL.
pub(crate) const ACCESS: &[u8] = b"system.posix_acl_access";
/// The attribute that holds the ACL that new files in a directory get.
pub(crate) const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const USER_OWNER: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OWNER: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;
const NO_ID: u32 = u32::MAX;
/// Bytes of the version, and of one entry.
const HEAD: usize = 4;
const ENTRY: usize = 8;

/// Why a text is no ACL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    #[error("an entry is not TAG:NAME:PERMISSIONS")]
    Shape,
    #[error("a user or group has no number")]
    NoNumber,
    #[error("permissions are not of r, w, x and -")]
    Permissions,
}

/// The kernel's form of a text like `user::rwx,user:anna:r-x:1000,group::r-x,mask::rwx,other::---`, in the kernel's order.
pub(crate) fn from_text(text: &[u8]) -> Result<Vec<u8>, Fault> {
    let mut entries = Vec::new();
    for entry in text.split(|byte| matches!(byte, b',' | b'\n')) {
        let entry = entry.split(|byte| *byte == b'#').next().unwrap_or_default().trim_ascii();
        if !entry.is_empty() {
            entries.push(entry_from_text(entry)?);
        }
    }
    entries.sort_unstable_by_key(|(tag, _, id)| (*tag, *id));
    let mut value = VERSION.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&permissions.to_le_bytes());
        value.extend_from_slice(&id.to_le_bytes());
    }
    Ok(value)
}

fn entry_from_text(entry: &[u8]) -> Result<(u16, u16, u32), Fault> {
    let parts: Vec<_> = entry.split(|byte| *byte == b':').collect();
    let (tag, name, permissions, number) = match parts[..] {
        [tag, name, permissions] => (tag, name, permissions, name),
        [tag, name, permissions, number] => (tag, name, permissions, number),
        // `other:r-x` and `mask:r-x`.
        [tag @ (b"other" | b"o" | b"mask" | b"m"), permissions] => (tag, &b""[..], permissions, &b""[..]),
        _ => return Err(Fault::Shape),
    };
    let tag = match (tag, name.is_empty()) {
        (b"user" | b"u", true) => USER_OWNER,
        (b"user" | b"u", false) => USER,
        (b"group" | b"g", true) => GROUP_OWNER,
        (b"group" | b"g", false) => GROUP,
        (b"mask" | b"m", true) => MASK,
        (b"other" | b"o", true) => OTHER,
        _ => return Err(Fault::Shape),
    };
    let id = match tag {
        USER | GROUP => {
            let id = crate::pax::decimal(number).and_then(|id| u32::try_from(id).ok());
            id.filter(|id| *id != NO_ID).ok_or(Fault::NoNumber)?
        }
        _ => NO_ID,
    };
    let mut bits = 0;
    for letter in permissions {
        bits |= match letter {
            b'r' => 4,
            b'w' => 2,
            b'x' => 1,
            b'-' => 0,
            _ => return Err(Fault::Permissions),
        };
    }
    Ok((tag, bits, id))
}

/// The same ACL with other users' and groups' numbers; `None` where one has none, or the value is no ACL.
pub(crate) fn map_ids(
    value: &[u8],
    uid: impl Fn(u32) -> Option<u32>,
    gid: impl Fn(u32) -> Option<u32>,
) -> Option<Vec<u8>> {
    let (head, entries) = value.split_at_checked(HEAD)?;
    if head != VERSION.to_le_bytes() || entries.len() % ENTRY != 0 {
        return None;
    }
    let mut mapped = value.to_vec();
    for entry in mapped[HEAD..].chunks_exact_mut(ENTRY) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        let id = match tag {
            USER => uid(id)?,
            GROUP => gid(id)?,
            _ => id,
        };
        entry[4..].copy_from_slice(&id.to_le_bytes());
    }
    Some(mapped)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut value = VERSION.to_le_bytes().to_vec();
        for (tag, permissions, id) in entries {
            value.extend_from_slice(&tag.to_le_bytes());
            value.extend_from_slice(&permissions.to_le_bytes());
            value.extend_from_slice(&id.to_le_bytes());
        }
        value
    }

    #[test]
    fn texts_of_star_and_gnu_tar() {
        let expected = value(&[
            (USER_OWNER, 7, NO_ID),
            (USER, 5, 1000),
            (GROUP_OWNER, 5, NO_ID),
            (MASK, 7, NO_ID),
            (OTHER, 0, NO_ID),
        ]);
        for text in [
            "user::rwx,user:anna:r-x:1000,group::r-x,mask::rwx,other::---",
            "user::rwx\nuser:1000:r-x\t#effective:r-x\ngroup::r-x\nmask::rwx\nother::---\n",
            "o:---,m:rwx,g::rx,u:1000:rx,u::rwx",
        ] {
            assert_eq!(from_text(text.as_bytes()), Ok(expected.clone()), "{text}");
        }
    }

    #[test]
    fn texts_that_say_nothing_sure_are_refused() {
        assert_eq!(from_text(b"user:anna:r-x"), Err(Fault::NoNumber));
        assert_eq!(from_text(b"user:anna:r-x:4294967295"), Err(Fault::NoNumber));
        assert_eq!(from_text(b"user::rwz"), Err(Fault::Permissions));
        assert_eq!(from_text(b"everyone::rwx"), Err(Fault::Shape));
        assert_eq!(from_text(b"mask:x:rwx"), Err(Fault::Shape));
        assert_eq!(from_text(b"user"), Err(Fault::Shape));
    }

    #[test]
    fn ids_are_mapped() {
        let acl = value(&[(USER_OWNER, 7, NO_ID), (USER, 5, 10), (GROUP, 4, 20)]);
        let mapped = map_ids(&acl, |uid| Some(uid + 1), |gid| Some(gid + 2));
        assert_eq!(mapped, Some(value(&[(USER_OWNER, 7, NO_ID), (USER, 5, 11), (GROUP, 4, 22)])));
        assert_eq!(map_ids(&acl, |_| None, Some), None);
        assert_eq!(map_ids(&acl[..7], Some, Some), None);
        assert_eq!(map_ids(b"", Some, Some), None);
    }
}
