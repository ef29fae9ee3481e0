//! The 512-byte header of a tar entry, as far as images need it: what is an entry called, and where does its data end? And the one form of header
//! that is written here.
//!
//! # References
//! POSIX.1-2017, `pax`, "ustar Interchange Format" and "pax Header Block"; GNU tar manual, "Basic Tar Format".

pub(crate) const BLOCK: usize = 512;
/// Bytes that the long name or the records before one entry may have.
pub(crate) const MOST_EXTENDED: u64 = 1 << 20;

pub(crate) type Block = [u8; BLOCK];

pub(crate) fn is_zero(block: &Block) -> bool {
    block.iter().all(|byte| *byte == 0)
}

/// Bytes from the end of data to the end of its block.
pub(crate) fn padding(bytes: u64) -> u64 {
    bytes.wrapping_neg() % BLOCK as u64
}

/// Up to the first NUL.
pub(crate) fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

pub(crate) fn checksum_fits(block: &Block) -> bool {
    let sum = |signed: bool| -> i64 {
        block
            .iter()
            .enumerate()
            .map(|(at, byte)| match at {
                148..156 => 32,
                _ if signed => i64::from(byte.cast_signed()),
                _ => i64::from(*byte),
            })
            .sum()
    };
    // Old programs summed signed bytes.
    octal(&block[148..156]).is_some_and(|stated| [sum(false), sum(true)].contains(&stated.cast_signed()))
}

pub(crate) fn flag(block: &Block) -> u8 {
    block[156]
}

/// Prefix and name of the header itself.
pub(crate) fn name(block: &Block) -> Vec<u8> {
    let prefix = match &block[257..263] {
        // star's prefix is shorter: its times lie behind it.
        b"ustar\0" if &block[508..512] == b"tar\0" => text(&block[345..476]),
        b"ustar\0" => text(&block[345..500]),
        _ => &[],
    };
    let name = text(&block[..100]);
    if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
}

pub(crate) fn link(block: &Block) -> &[u8] {
    text(&block[157..257])
}

/// `None` if it is no number of at most 63 bits.
pub(crate) fn size(block: &Block) -> Option<u64> {
    let field = &block[124..136];
    let value = match field[0] {
        0x80 => field[1..]
            .iter()
            .try_fold(0_u64, |value, byte| Some(value.checked_mul(256)? | u64::from(*byte)))?,
        0x81.. => return None,
        _ => octal(field)?,
    };
    (value <= i64::MAX.unsigned_abs() - BLOCK as u64).then_some(value)
}

fn octal(field: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(field).ok()?.trim_matches([' ', '\0']);
    if digits.is_empty() {
        return Some(0);
    }
    // `from_str_radix` would also take a sign.
    digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| u64::from_str_radix(digits, 8).ok())?
}

/// An old GNU sparse file's map goes on in the next block.
pub(crate) fn more_sparse_blocks(block: &Block, of_header: bool) -> bool {
    block[if of_header { 482 } else { 504 }] != 0
}

/// What PAX records, or GNU's long names, say about the next entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extended {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    /// Its data is not its content.
    pub(crate) sparse: bool,
}

impl Extended {
    /// PAX records: `LENGTH KEY=VALUE\n`. `None` if they are malformed.
    pub(crate) fn records(&mut self, mut rest: &[u8]) -> Option<()> {
        while !rest.is_empty() {
            let space = rest.iter().take(20).position(|byte| *byte == b' ')?;
            let digits = &rest[..space];
            if !digits.iter().all(u8::is_ascii_digit) {
                return None;
            }
            let length: usize = std::str::from_utf8(digits).ok()?.parse().ok()?;
            let record = rest.get(space + 1..length)?.strip_suffix(b"\n")?;
            let equals = record.iter().position(|byte| *byte == b'=')?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                // An empty value takes an earlier record back.
                b"path" => self.path = (!value.is_empty()).then(|| value.to_vec()),
                b"linkpath" => self.link = (!value.is_empty()).then(|| value.to_vec()),
                b"size" => {
                    let text = std::str::from_utf8(value).ok()?;
                    let number: u64 =
                        text.bytes().all(|digit| digit.is_ascii_digit()).then(|| text.parse().ok())??;
                    self.size = Some(number).filter(|size| *size <= i64::MAX.unsigned_abs() - BLOCK as u64);
                    self.size?;
                }
                _ if key.starts_with(b"GNU.sparse.") => self.sparse = true,
                _ => {}
            }
            rest = &rest[length..];
        }
        Some(())
    }
}

/// A regular file's or folder's header as this crate writes it: owner root, time 0, so that the same content gives the same archive.
/// Names have at most 100 bytes; sizes beyond 8 GiB are written in base-256, as GNU tar, Go and Python read them.
pub(crate) fn header(name: &str, size: u64, folder: bool) -> Block {
    let mut block = [0; BLOCK];
    let name = &name.as_bytes()[..name.len().min(100)];
    block[..name.len()].copy_from_slice(name);
    let octal = |field: &mut [u8], value: u64| {
        let digits = format!("{value:0width$o}", width = field.len() - 1);
        field[..digits.len()].copy_from_slice(digits.as_bytes());
    };
    octal(&mut block[100..108], if folder { 0o755 } else { 0o644 });
    octal(&mut block[108..116], 0);
    octal(&mut block[116..124], 0);
    if size < 1 << 33 {
        octal(&mut block[124..136], size);
    } else {
        block[124] = 0x80;
        block[128..136].copy_from_slice(&size.to_be_bytes());
    }
    octal(&mut block[136..148], 0);
    block[156] = if folder { b'5' } else { b'0' };
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    octal(&mut block[148..155], sum);
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_that_is_written_is_read() {
        for bytes in [0, 1, 511, (1 << 33) - 1, 1 << 33, 1 << 40] {
            let block = header("blobs/sha256/a", bytes, false);
            assert!(checksum_fits(&block));
            assert_eq!(
                (name(&block), size(&block), flag(&block)),
                (b"blobs/sha256/a".to_vec(), Some(bytes), b'0')
            );
            assert!(!is_zero(&block));
        }
        assert_eq!(flag(&header("blobs/", 0, true)), b'5');
    }

    #[test]
    fn a_changed_header_does_not_fit_its_checksum() {
        let mut block = header("a", 1, false);
        block[0] = b'b';
        assert!(!checksum_fits(&block));
    }

    #[test]
    fn numbers_that_are_none_are_refused() {
        let sized = |field: &[u8; 12]| {
            let mut block = header("a", 1, false);
            block[124..136].copy_from_slice(field);
            size(&block)
        };
        assert_eq!(sized(b"00000000010\0"), Some(8));
        assert_eq!(sized(b"        10 \0"), Some(8));
        assert_eq!(sized(b"\0\0\0\0\0\0\0\0\0\0\0\0"), Some(0));
        for bad in [
            b"-0000000010\0",
            b"00000000089\0",
            b"+0000000010\0",
            b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        ] {
            assert_eq!(sized(bad), None, "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn records_are_taken_by_length() {
        let mut extended = Extended::default();
        extended.records(b"22 comment=9 path=a\nx\n12 path=b\nc\n13 size=1234\n").unwrap();
        assert_eq!(extended.path.as_deref(), Some(&b"b\nc"[..]));
        assert_eq!(extended.size, Some(1234));
        extended.records(b"8 path=\n22 GNU.sparse.major=1\n").unwrap();
        assert_eq!((extended.path, extended.sparse), (None, true));
    }

    #[test]
    fn records_that_lie_are_refused() {
        for bad in [
            &b"99 path=a\n"[..],
            b"3 path=a\n",
            b"path=a\n",
            b"11 path=a\n",
            b"-9 path=a\n",
            b"8 path-a\n",
            b"0 path=a\n",
            b"18446744073709551616 path=a\n",
            b"9 size=-1\n",
            b"28 size=9223372036854775807\n",
        ] {
            assert_eq!(Extended::default().records(bad), None, "{}", bad.escape_ascii());
        }
    }
}
