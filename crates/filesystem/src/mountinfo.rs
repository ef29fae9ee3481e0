//! The kernel's tables of mounts and of swap areas: `/proc/thread-self/mountinfo` and `/proc/swaps`, see proc(5).

use crate::error::{Error, Result};
use crate::filesystems::Mount;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Reads the mount table of the calling thread's mount namespace.
pub(crate) fn mounts() -> Result<Vec<Mount>> {
    // The thread's own: a thread may have left its process's mount namespace.
    let own = Path::new("/proc/thread-self/mountinfo");
    let all = Path::new("/proc/self/mountinfo");
    let table = match std::fs::read(own) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => std::fs::read(all),
        other => other,
    };
    table.map(|table| parse(&table)).map_err(|error| Error::io("read", own, &error))
}

/// The mounts of a mount table's text, in its order. A line that is not one of proc(5)'s is passed over.
pub fn parse(table: &[u8]) -> Vec<Mount> {
    table
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .filter_map(|line| {
            let mount = parse_line(line);
            if mount.is_none() {
                tracing::warn!(line = %String::from_utf8_lossy(line), "a line of the mount table cannot be read");
            }
            mount
        })
        .collect()
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`, with any number of fields before the `-`.
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = fields.nth(2)?;
    let target = fields.nth(1)?;
    let mount_options = fields.next()?;
    fields.by_ref().find(|field| *field == b"-")?;
    let kind = fields.next()?;
    let source = fields.next()?;
    let superblock_options = fields.next()?;
    Some(Mount {
        target: PathBuf::from(OsString::from_vec(unescape(target))),
        device: device_number(device)?,
        source: String::from_utf8_lossy(&unescape(source)).into_owned(),
        kind: String::from_utf8_lossy(&unescape(kind)).into_owned(),
        read_only: says_read_only(mount_options) || says_read_only(superblock_options),
    })
}

/// The files and devices of the text of `/proc/swaps`, in its order.
pub fn parse_swaps(table: &[u8]) -> Vec<PathBuf> {
    // The first line is a heading.
    let lines = table.split(|byte| *byte == b'\n').skip(1);
    lines
        .filter_map(|line| line.split(|byte| byte.is_ascii_whitespace()).next())
        .filter(|name| !name.is_empty())
        .map(|name| PathBuf::from(OsString::from_vec(unescape(name))))
        .collect()
}

fn device_number(text: &[u8]) -> Option<(u32, u32)> {
    let (major, minor) = std::str::from_utf8(text).ok()?.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn says_read_only(options: &[u8]) -> bool {
    options.split(|byte| *byte == b',').any(|option| option == b"ro")
}

/// The kernel writes blanks, tabs, line ends, backslashes (and, in sources, `#`) as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::ffi::OsStrExt;

    fn one(line: &str) -> Mount {
        let mut mounts = parse(line.as_bytes());
        assert_eq!(mounts.len(), 1, "{line}");
        mounts.remove(0)
    }

    #[test]
    fn the_line_of_the_manual() {
        let mount = one("36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue");
        assert_eq!(
            mount,
            Mount {
                target: "/mnt2".into(),
                device: (98, 0),
                source: "/dev/root".to_owned(),
                kind: "ext3".to_owned(),
                read_only: false,
            }
        );
    }

    #[test]
    fn any_number_of_optional_fields() {
        for optional in ["", "shared:7 ", "shared:7 master:2 propagate_from:3 unbindable "] {
            let mount = one(&format!("1 2 253:11 / /a rw,relatime {optional}- xfs /dev/dm-11 rw,nouuid"));
            assert_eq!((mount.device, mount.kind.as_str()), ((253, 11), "xfs"), "{optional:?}");
        }
    }

    #[test]
    fn read_only_by_mount_or_by_superblock() {
        assert!(one("1 2 253:1 / /a ro,relatime - ext4 /dev/dm-1 rw").read_only);
        assert!(one("1 2 253:1 / /a rw,relatime - ext4 /dev/dm-1 ro,noload").read_only);
        assert!(!one("1 2 253:1 / /a rw,relatime - ext4 /dev/dm-1 rw,errors=remount-ro").read_only);
    }

    #[test]
    fn an_empty_source_and_odd_bytes() {
        let mount = one("1 2 0:44 / /a\\040b\\011c\\012d\\134e rw - tmpfs  rw");
        assert_eq!(mount.target, Path::new("/a b\tc\nd\\e"));
        assert_eq!(mount.source, "");
        let mounts = parse(b"1 2 0:44 / /caf\xe9\\040x rw - tmpfs none rw\n");
        assert_eq!(mounts[0].target.as_os_str().as_bytes(), b"/caf\xe9 x");
    }

    #[test]
    fn swap_areas_without_their_heading() {
        let table = b"Filename\t\t\t\tType\t\tSize\n/dev/dm-1    partition\t1\n/swap\\040file\tfile 2\n";
        assert_eq!(parse_swaps(table), [PathBuf::from("/dev/dm-1"), PathBuf::from("/swap file")]);
        assert_eq!(parse_swaps(b""), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_bad_line_costs_only_itself() {
        let table =
            b"nonsense\n1 2 x:0 / /a rw - t s rw\n1 2 0:1 / /a rw t s rw\n1 2 0:1 / /good rw - t s rw\n\n";
        let mounts = parse(table);
        assert_eq!(mounts.len(), 1);
        assert_eq!(mounts[0].target, Path::new("/good"));
    }

    #[test]
    fn this_machine_has_mounts() {
        // Not "/": in a changed root nothing need be mounted there.
        let mounts = mounts().unwrap();
        assert!(mounts.iter().any(|mount| mount.kind == "proc"), "{mounts:?}");
        assert!(mounts.iter().all(|mount| mount.target.is_absolute()), "{mounts:?}");
    }

    /// As `mangle_path` in the kernel writes it.
    fn escape(bytes: &[u8]) -> Vec<u8> {
        bytes
            .iter()
            .flat_map(|byte| match byte {
                b' ' | b'\t' | b'\n' | b'\\' => format!("\\{byte:03o}").into_bytes(),
                other => vec![*other],
            })
            .collect()
    }

    proptest! {
        #[test]
        fn any_path_comes_back(path in prop::collection::vec(1u8.., 1..60), number in any::<(u32, u32)>(), optional in 0usize..4) {
            let mut line = format!("36 35 {}:{} / ", number.0, number.1).into_bytes();
            line.extend(escape(&path));
            line.extend_from_slice(b" rw ");
            line.extend(b"shared:1 ".repeat(optional));
            line.extend_from_slice(b"- ext4 ");
            line.extend(escape(&path));
            line.extend_from_slice(b" rw\n");
            let mounts = parse(&line);
            prop_assert_eq!(mounts.len(), 1);
            prop_assert_eq!(mounts[0].target.as_os_str().as_bytes(), &path[..]);
            prop_assert_eq!(mounts[0].device, number);
            prop_assert_eq!(&mounts[0].source, &String::from_utf8_lossy(&path).into_owned());
        }

        #[test]
        fn no_text_panics(text in prop::collection::vec(prop::sample::select(b"0 1:/-\\rwo,\n".to_vec()), 0..120)) {
            let _mounts = parse(&text);
            let _swaps = parse_swaps(&text);
        }
    }
}
