//! A folder's names, sorted by their bytes, in one piece of memory.

use crate::error::{Error, Result};
use nix::dir::Dir;
use std::ffi::CStr;
use std::os::fd::OwnedFd;

/// Names without `.` and `..`.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// One after the other, each with a NUL.
    text: Vec<u8>,
    /// Where each begins, in their order.
    starts: Vec<usize>,
}

impl Names {
    /// Reads a folder; its descriptor comes back, for what is done with the names.
    pub(crate) fn read(folder: OwnedFd, path: &[u8]) -> Result<(Self, Dir)> {
        let failed = |errno| Error::system("read the folder", path, "it cannot be read", errno);
        let mut folder = Dir::from_fd(folder).map_err(failed)?;
        let mut names = Self::default();
        for entry in folder.iter() {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes_with_nul();
            if name != b".\0" && name != b"..\0" {
                names.starts.push(names.text.len());
                names.text.extend_from_slice(name);
            }
        }
        let text = &names.text;
        // The NUL sorts before everything, as the end of a name does.
        names.starts.sort_unstable_by(|one, other| until_nul(text, *one).cmp(until_nul(text, *other)));
        Ok((names, folder))
    }

    pub(crate) fn get(&self, index: usize) -> Option<&CStr> {
        let start = *self.starts.get(index)?;
        CStr::from_bytes_until_nul(&self.text[start..]).ok()
    }
}

fn until_nul(text: &[u8], start: usize) -> &[u8] {
    CStr::from_bytes_until_nul(&text[start..]).map(CStr::to_bytes).unwrap_or_default()
}

/// A name in one or both of two folders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Old,
    New,
    Both,
}

/// Goes through two lists in the order of their names.
#[derive(Debug, Default)]
pub(crate) struct Merge {
    old: usize,
    new: usize,
}

impl Merge {
    pub(crate) fn next<'a>(&mut self, old: &'a Names, new: &'a Names) -> Option<(&'a CStr, Side)> {
        let (name, side) = match (old.get(self.old), new.get(self.new)) {
            (None, None) => return None,
            (Some(name), None) => (name, Side::Old),
            (None, Some(name)) => (name, Side::New),
            (Some(one), Some(other)) => match one.cmp(other) {
                std::cmp::Ordering::Less => (one, Side::Old),
                std::cmp::Ordering::Greater => (other, Side::New),
                std::cmp::Ordering::Equal => (other, Side::Both),
            },
        };
        self.old += usize::from(side != Side::New);
        self.new += usize::from(side != Side::Old);
        Some((name, side))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;

    fn names(list: &[&str]) -> Names {
        let folder = tempfile::tempdir().unwrap();
        for name in list {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let open: OwnedFd = std::fs::File::open(folder.path()).unwrap().into();
        let (names, _) = Names::read(open, b"").unwrap();
        assert_eq!(names.starts.len(), list.len());
        names
    }

    #[test]
    fn two_folders_are_merged_in_the_order_of_bytes() {
        let (old, new) = (names(&["b", "a", "a-b", "ä", "ab"]), names(&["z", "B", "b", "ab"]));
        let mut merge = Merge::default();
        let mut seen = Vec::new();
        while let Some((name, side)) = merge.next(&old, &new) {
            seen.push((name.to_str().unwrap().to_owned(), side));
        }
        let expected = [
            ("B", Side::New),
            ("a", Side::Old),
            ("a-b", Side::Old),
            ("ab", Side::Both),
            ("b", Side::Both),
            ("z", Side::New),
            ("ä", Side::Old),
        ];
        assert_eq!(seen, expected.map(|(name, side)| (name.to_owned(), side)));
    }
}
