//! What an extended header says about the entry behind it.

use crate::acl;
use crate::entry::{Extent, Timestamp, Xattr};
use crate::error::{Error, ErrorKind, Result};
use crate::header::text;
use crate::pax::{self, Records};
use crate::sparse;

/// This crate's own records: an attribute that a directory of the lower layers has and the new one has not.
pub(crate) const REMOVED_XATTR: &[u8] = b"THINLAYER.xattr.removed.";
/// star's, and everybody's since.
pub(crate) const XATTR: &[u8] = b"SCHILY.xattr.";
const ACTION: &str = "read the stream";

/// Everything that headers before an entry's own can say.
#[derive(Debug, Default)]
pub(crate) struct Extended {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<u64>,
    pub(crate) gid: Option<u64>,
    pub(crate) mtime: Option<Timestamp>,
    pub(crate) xattrs: Vec<Xattr>,
    pub(crate) removed_xattrs: Vec<Vec<u8>>,
    pub(crate) acls_by_name: Vec<Vec<u8>>,
    pub(crate) sparse: Option<Sparse>,
    /// GNU's own long names, which come in entries of their own.
    pub(crate) long_path: Option<Vec<u8>>,
    pub(crate) long_link: Option<Vec<u8>>,
    /// An extended header was read.
    pub(crate) pax: bool,
}

/// The records of GNU's sparse forms.
#[derive(Debug, Default)]
pub(crate) struct Sparse {
    pub(crate) major: Option<u64>,
    pub(crate) minor: Option<u64>,
    pub(crate) size: Option<u64>,
    pub(crate) extents: Vec<Extent>,
    offset: Option<u64>,
    list: bool,
}

pub(crate) fn malformed(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Malformed, ACTION, why)
}

impl Extended {
    /// Takes in the records of a header of type `x`.
    pub(crate) fn records(&mut self, payload: &[u8]) -> Result<()> {
        if std::mem::replace(&mut self.pax, true) {
            return Err(malformed(
                "two extended headers before one entry: readers do not agree on which counts",
            ));
        }
        for record in Records::new(payload) {
            let (key, value) =
                record.map_err(|fault| malformed(format!("in an extended header, {fault}")))?;
            self.record(key, value)?;
        }
        if self.sparse.as_ref().is_some_and(|sparse| sparse.offset.is_some()) {
            return Err(malformed("an extended header's last sparse offset has no length"));
        }
        Ok(())
    }

    /// A record without a value takes an earlier one back (POSIX).
    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let is_set = !value.is_empty();
        let number = |what| {
            let number = pax::decimal(value)
                .ok_or_else(|| malformed(format!("an extended header's {what} is no number")));
            is_set.then_some(number).transpose()
        };
        match key {
            b"path" | b"GNU.sparse.name" => self.path = is_set.then(|| name(value)).transpose()?,
            b"linkpath" => self.link = is_set.then(|| name(value)).transpose()?,
            b"size" => self.size = number("size")?,
            b"uid" => self.uid = number("uid")?,
            b"gid" => self.gid = number("gid")?,
            b"mtime" => {
                let time =
                    || pax::time(value).ok_or_else(|| malformed("an extended header's mtime is no time"));
                self.mtime = is_set.then(time).transpose()?;
            }
            b"RHT.security.selinux" => self.xattr(b"security.selinux".to_vec(), value.to_vec())?,
            b"SCHILY.acl.access" | b"SCHILY.acl.default" => {
                let attribute = if key.ends_with(b"access") { acl::ACCESS } else { acl::DEFAULT };
                match acl::from_text(value) {
                    Ok(value) => self.xattr(attribute.to_vec(), value)?,
                    Err(acl::Fault::NoNumber) => self.acls_by_name.push(attribute.to_vec()),
                    Err(fault) => return Err(malformed(format!("in an ACL, {fault}"))),
                }
            }
            _ => return self.prefixed(key, value),
        }
        Ok(())
    }

    fn prefixed(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        if let Some(name) = key.strip_prefix(XATTR) {
            self.xattr(pax::decode_name(name), value.to_vec())
        } else if let Some(name) = key.strip_prefix(REMOVED_XATTR) {
            self.removed_xattrs.push(checked_xattr_name(pax::decode_name(name))?);
            Ok(())
        } else if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
            self.sparse.get_or_insert_default().record(key, value)
        } else {
            // atime, ctime, names of users, comments, and what others keep for themselves.
            Ok(())
        }
    }

    /// The last of two with the same name counts.
    fn xattr(&mut self, name: Vec<u8>, value: Vec<u8>) -> Result<()> {
        let name = checked_xattr_name(name)?;
        self.xattrs.retain(|known| known.name != name);
        self.xattrs.push(Xattr { name, value });
        Ok(())
    }

    /// GNU's `L`: the next entry's name.
    pub(crate) fn long_path(&mut self, payload: &[u8]) -> Result<()> {
        match self.long_path.replace(text(payload).to_vec()) {
            None => Ok(()),
            Some(_) => Err(malformed("two long names before one entry")),
        }
    }

    /// GNU's `K`: the next entry's link.
    pub(crate) fn long_link(&mut self, payload: &[u8]) -> Result<()> {
        match self.long_link.replace(text(payload).to_vec()) {
            None => Ok(()),
            Some(_) => Err(malformed("two long link names before one entry")),
        }
    }

    /// Was there any header before the entry's own?
    pub(crate) fn is_empty(&self) -> bool {
        !self.pax && self.long_path.is_none() && self.long_link.is_none()
    }
}

impl Sparse {
    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let number = || pax::decimal(value).ok_or_else(|| malformed("a sparse record is no number"));
        match key {
            b"major" => self.major = Some(number()?),
            b"minor" => self.minor = Some(number()?),
            b"size" | b"realsize" => self.size = Some(number()?),
            b"offset" => self.open(number()?)?,
            b"numbytes" => {
                let offset = self.offset.take().ok_or_else(|| malformed("a sparse length has no offset"))?;
                let length = number()?;
                self.list = true;
                sparse::push(&mut self.extents, offset, length)
                    .map_err(|fault| malformed(fault.to_string()))?;
            }
            b"map" => {
                self.list = true;
                self.extents.clear();
                sparse::push_list(&mut self.extents, value).map_err(|fault| malformed(fault.to_string()))?;
            }
            // numblocks says again what the pairs say.
            _ => {}
        }
        Ok(())
    }

    /// A run's offset waits for its length.
    fn open(&mut self, offset: u64) -> Result<()> {
        match self.offset.replace(offset) {
            None => Ok(()),
            Some(_) => Err(malformed("a sparse offset has no length")),
        }
    }

    /// Does the map stand before the data?
    pub(crate) fn in_data(&self) -> Result<bool> {
        match (self.major, self.minor) {
            (Some(1), Some(0)) if !self.list => Ok(true),
            (None | Some(0), _) => Ok(false),
            _ => Err(malformed("its sparse form is not known")),
        }
    }
}

/// A name from a record: of any bytes but NUL.
fn name(value: &[u8]) -> Result<Vec<u8>> {
    if value.contains(&0) {
        return Err(malformed("a name in an extended header holds a NUL"));
    }
    Ok(value.to_vec())
}

fn checked_xattr_name(name: Vec<u8>) -> Result<Vec<u8>> {
    if name.is_empty() || name.contains(&0) {
        return Err(malformed("an extended attribute's name is empty or holds a NUL"));
    }
    Ok(name)
}

/// A header of type `g` says something about all entries behind it. Layers' readers ignore it, other programs obey; so what would
/// make them see different trees is refused.
pub(crate) fn check_global(payload: &[u8]) -> Result<()> {
    for record in Records::new(payload) {
        let (key, _) = record.map_err(|fault| malformed(format!("in a global extended header, {fault}")))?;
        let is_per_entry = matches!(key, b"path" | b"linkpath" | b"size")
            || [XATTR, REMOVED_XATTR, b"GNU.sparse.", b"SCHILY.acl."]
                .iter()
                .any(|prefix| key.starts_with(prefix));
        if is_per_entry {
            return Err(malformed(format!(
                "a global extended header sets \"{}\" of all entries",
                crate::error::shown(key)
            )));
        }
    }
    Ok(())
}
