//! The kernel's tables of mounts and of swap areas, as values.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use thinlayer_dm::DeviceNumber;

/// What one line of mountinfo says that matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) number: DeviceNumber,
    pub(crate) point: PathBuf,
    /// The source, if it is a path.
    pub(crate) source: Option<PathBuf>,
}

/// `/proc/self/mountinfo` (proc(5)). A line that cannot be read is left out.
pub(crate) fn mountinfo(table: &[u8]) -> Vec<Mount> {
    table.split(|byte| *byte == b'\n').filter_map(mount).collect()
}

fn mount(line: &[u8]) -> Option<Mount> {
    let mut words = line.split(|byte| *byte == b' ');
    let number = std::str::from_utf8(words.nth(2)?).ok()?.parse().ok()?;
    let point = unescape(words.nth(1)?);
    // Optional fields end with a dash; then type and source.
    let source =
        words.skip_while(|word| *word != b"-").nth(2).map(unescape).filter(|source| source.is_absolute());
    Some(Mount { number, point, source })
}

/// The files and devices of `/proc/swaps`.
pub(crate) fn swaps(table: &[u8]) -> Vec<PathBuf> {
    let lines = table.split(|byte| *byte == b'\n').skip(1);
    lines
        .filter_map(|line| line.split(|byte| byte.is_ascii_whitespace()).next())
        .filter(|word| !word.is_empty())
        .map(unescape)
        .collect()
}

/// The kernel writes blanks, tabs, line ends and backslashes in paths as three octal digits.
fn unescape(word: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((first, tail)) = rest.split_first() {
        let digits = tail
            .get(..3)
            .filter(|digits| *first == b'\\' && digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        let octal = digits
            .map(|digits| digits.iter().fold(0_u32, |value, digit| value * 8 + u32::from(digit - b'0')))
            .and_then(|value| u8::try_from(value).ok());
        match octal {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn optional_fields_may_be_any_number() {
        let table = b"22 1 254:1 / / rw,relatime - ext4 /dev/vda1 rw\n\
            40 22 0:35 /sub /mnt/a\\040b\\134c rw shared:5 master:2 - btrfs /dev/dm\\0402 rw,subvol=/sub\n\
            nonsense\n41 22 0:5 / /proc rw - proc proc rw\n";
        let found = mountinfo(table);
        assert_eq!(found.len(), 3);
        assert_eq!(found[0].number, DeviceNumber { major: 254, minor: 1 });
        assert_eq!(found[0].source.as_deref(), Some("/dev/vda1".as_ref()));
        assert_eq!(found[1].point, PathBuf::from("/mnt/a b\\c"));
        assert_eq!(found[1].source.as_deref(), Some("/dev/dm 2".as_ref()));
        assert_eq!(found[2].source, None);
    }

    #[test]
    fn swap_areas_without_their_heading() {
        let table = b"Filename\t\t\t\tType\t\tSize\n/dev/dm-1    partition\t1\n/swap\\040file\tfile 2\n";
        assert_eq!(swaps(table), [PathBuf::from("/dev/dm-1"), PathBuf::from("/swap file")]);
        assert_eq!(swaps(b""), Vec::<PathBuf>::new());
    }

    proptest! {
        #[test]
        fn any_table_has_an_answer(table in prop::collection::vec(any::<u8>(), 0..400)) {
            let _mounts = mountinfo(&table);
            let _swaps = swaps(&table);
        }

        #[test]
        fn a_path_comes_back(path in "/[ -~\t\n]{0,40}") {
            let escaped: String = path
                .chars()
                .map(|c| if " \t\n\\".contains(c) { format!("\\{:03o}", u32::from(c)) } else { c.to_string() })
                .collect();
            let line = format!("22 1 8:0 / {escaped} rw - ext4 {escaped} rw");
            let found = mountinfo(line.as_bytes());
            prop_assert_eq!(found.len(), 1);
            prop_assert_eq!(&found[0].point, &PathBuf::from(&path));
            prop_assert_eq!(found[0].source.as_ref(), Some(&PathBuf::from(&path)));
        }
    }
}
