//! The 512-byte header block: POSIX ustar, GNU and the format before both.
//!
//! # References
//! POSIX.1-2017, `pax`, "ustar Interchange Format"; GNU tar manual, "Basic Tar Format".

/// Bytes of a block.
pub(crate) const BLOCK: usize = 512;

type Range = std::ops::Range<usize>;

const NAME: Range = 0..100;
const MODE: Range = 100..108;
const UID: Range = 108..116;
const GID: Range = 116..124;
const SIZE: Range = 124..136;
const MTIME: Range = 136..148;
const CHECKSUM: Range = 148..156;
const TYPE: usize = 156;
const LINK: Range = 157..257;
const MAGIC: Range = 257..265;
const MAJOR: Range = 329..337;
const MINOR: Range = 337..345;
const PREFIX: Range = 345..500;
/// star's prefix is shorter: its times lie behind it.
const STAR_PREFIX: Range = 345..476;
const STAR_MARK: Range = 508..512;
/// GNU's old sparse form: four runs, a flag for more, the file's size.
const GNU_SPARSE: Range = 386..482;
const GNU_SPARSE_MORE: usize = 482;
const GNU_SPARSE_SIZE: Range = 483..495;

/// Why a field is no number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotANumber {
    /// Neither octal nor base-256.
    Digits,
    /// More than 63 bits.
    TooLarge,
}

/// Which fields a header has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Neither magic nor prefix.
    V7,
    /// POSIX: with a prefix.
    Ustar,
    /// POSIX with star's shorter prefix.
    Star,
    /// GNU: other fields where the prefix would be.
    Gnu,
}

/// One block.
#[derive(Clone)]
pub(crate) struct Header(pub(crate) [u8; BLOCK]);

/// A number as tar fields hold it: octal digits between spaces and NULs, or base-256 if the first bit is set.
pub(crate) fn number(field: &[u8]) -> Result<i64, NotANumber> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => base256(field),
        _ => octal(field),
    }
}

fn octal(field: &[u8]) -> Result<i64, NotANumber> {
    let start = field.iter().position(|byte| *byte != b' ').unwrap_or(field.len());
    let field = &field[start..];
    let end = field.iter().position(|byte| matches!(byte, 0 | b' ')).unwrap_or(field.len());
    if field[end..].iter().any(|byte| !matches!(byte, 0 | b' ')) {
        return Err(NotANumber::Digits);
    }
    let mut value = 0_i64;
    for digit in &field[..end] {
        if !matches!(digit, b'0'..=b'7') {
            return Err(NotANumber::Digits);
        }
        value = value
            .checked_mul(8)
            .and_then(|value| value.checked_add(i64::from(digit - b'0')))
            .ok_or(NotANumber::TooLarge)?;
    }
    Ok(value)
}

/// Two's complement, big-endian, over the whole field; the very first bit only marks the form.
fn base256(field: &[u8]) -> Result<i64, NotANumber> {
    let negative = field[0] & 0x40 != 0;
    let mut value: i128 = if negative { -1 } else { 0 };
    for (index, byte) in field.iter().enumerate() {
        let byte = match (index, negative) {
            (0, false) => byte & 0x7f,
            _ => *byte,
        };
        value = value.checked_mul(256).ok_or(NotANumber::TooLarge)? | i128::from(byte);
    }
    i64::try_from(value).map_err(|_| NotANumber::TooLarge)
}

/// Writes octal digits with a NUL behind them; false if they do not fit.
pub(crate) fn put_octal(field: &mut [u8], value: u64) -> bool {
    let digits = field.len() - 1;
    let mut rest = value;
    for place in field[..digits].iter_mut().rev() {
        *place = b'0' + u8::try_from(rest & 7).unwrap_or(0);
        rest >>= 3;
    }
    field[digits] = 0;
    rest == 0
}

/// Up to the first NUL.
pub(crate) fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    &field[..end]
}

impl Header {
    pub(crate) fn new(kind: u8) -> Self {
        let mut header = Self([0; BLOCK]);
        header.0[TYPE] = kind;
        header.0[MAGIC].copy_from_slice(b"ustar\x0000");
        for field in [MODE, UID, GID, SIZE, MTIME, MAJOR, MINOR] {
            put_octal(&mut header.0[field], 0);
        }
        header
    }

    pub(crate) fn is_zero(&self) -> bool {
        self.0.iter().all(|byte| *byte == 0)
    }

    pub(crate) fn format(&self) -> Format {
        match &self.0[MAGIC] {
            b"ustar  \0" => Format::Gnu,
            magic if magic.starts_with(b"ustar\0") => {
                if &self.0[STAR_MARK] == b"tar\0" {
                    Format::Star
                } else {
                    Format::Ustar
                }
            }
            _ => Format::V7,
        }
    }

    /// The sum of all bytes, with spaces in its own place; old programs summed signed bytes.
    fn sums(&self) -> (i64, i64) {
        let mut unsigned = 0;
        let mut signed = 0;
        for (index, byte) in self.0.iter().enumerate() {
            let byte = if CHECKSUM.contains(&index) { b' ' } else { *byte };
            unsigned += i64::from(byte);
            signed += i64::from(byte.cast_signed());
        }
        (unsigned, signed)
    }

    pub(crate) fn checksum_fits(&self) -> bool {
        let (unsigned, signed) = self.sums();
        octal(&self.0[CHECKSUM]).is_ok_and(|sum| sum == unsigned || sum == signed)
    }

    /// The last step of writing.
    pub(crate) fn seal(&mut self) {
        let (sum, _) = self.sums();
        put_octal(&mut self.0[CHECKSUM.start..CHECKSUM.end - 1], sum.unsigned_abs());
        self.0[CHECKSUM.end - 1] = b' ';
    }

    pub(crate) fn kind(&self) -> u8 {
        self.0[TYPE]
    }

    /// Prefix and name.
    pub(crate) fn name(&self) -> Vec<u8> {
        let prefix = match self.format() {
            Format::Ustar => text(&self.0[PREFIX]),
            Format::Star => text(&self.0[STAR_PREFIX]),
            Format::Gnu | Format::V7 => &[],
        };
        let name = text(&self.0[NAME]);
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    pub(crate) fn link(&self) -> &[u8] {
        text(&self.0[LINK])
    }

    pub(crate) fn mode(&self) -> Result<i64, NotANumber> {
        number(&self.0[MODE])
    }

    pub(crate) fn uid(&self) -> Result<i64, NotANumber> {
        number(&self.0[UID])
    }

    pub(crate) fn gid(&self) -> Result<i64, NotANumber> {
        number(&self.0[GID])
    }

    pub(crate) fn size(&self) -> Result<i64, NotANumber> {
        number(&self.0[SIZE])
    }

    pub(crate) fn mtime(&self) -> Result<i64, NotANumber> {
        number(&self.0[MTIME])
    }

    /// Major and minor number; the format before ustar has none.
    pub(crate) fn device(&self) -> Result<(i64, i64), NotANumber> {
        match self.format() {
            Format::V7 => Ok((0, 0)),
            _ => Ok((number(&self.0[MAJOR])?, number(&self.0[MINOR])?)),
        }
    }

    /// The runs in a header of GNU's old sparse form, whether more blocks of them follow, and the file's size.
    pub(crate) fn gnu_sparse(&self) -> (&[u8], bool, Result<i64, NotANumber>) {
        (&self.0[GNU_SPARSE], self.0[GNU_SPARSE_MORE] != 0, number(&self.0[GNU_SPARSE_SIZE]))
    }

    /// False if the name fits neither the field nor, split at a slash, name and prefix.
    pub(crate) fn put_name(&mut self, name: &[u8]) -> bool {
        if name.len() <= NAME.len() {
            self.0[NAME][..name.len()].copy_from_slice(name);
            return true;
        }
        // The slash must not be the last byte: the name would be empty.
        let split = name
            .iter()
            .enumerate()
            .rev()
            .skip(1)
            .find(|(at, byte)| **byte == b'/' && *at <= PREFIX.len())
            .map(|(at, _)| at);
        match split {
            Some(at) if at > 0 && name.len() - at - 1 <= NAME.len() => {
                self.0[PREFIX][..at].copy_from_slice(&name[..at]);
                self.0[NAME][..name.len() - at - 1].copy_from_slice(&name[at + 1..]);
                true
            }
            _ => {
                self.0[NAME].copy_from_slice(&name[..NAME.len()]);
                false
            }
        }
    }

    /// False if it does not fit and was cut.
    pub(crate) fn put_link(&mut self, link: &[u8]) -> bool {
        let length = link.len().min(LINK.len());
        self.0[LINK][..length].copy_from_slice(&link[..length]);
        length == link.len()
    }

    pub(crate) fn put_mode(&mut self, mode: u32) {
        put_octal(&mut self.0[MODE], u64::from(mode & 0o7777));
    }

    /// False if it does not fit.
    pub(crate) fn put_uid(&mut self, uid: u32) -> bool {
        put_or_zero(&mut self.0[UID], u64::from(uid))
    }

    /// False if it does not fit.
    pub(crate) fn put_gid(&mut self, gid: u32) -> bool {
        put_or_zero(&mut self.0[GID], u64::from(gid))
    }

    /// False if it does not fit.
    pub(crate) fn put_size(&mut self, size: u64) -> bool {
        put_or_zero(&mut self.0[SIZE], size)
    }

    /// False if it does not fit.
    pub(crate) fn put_mtime(&mut self, seconds: i64) -> bool {
        match u64::try_from(seconds) {
            Ok(seconds) => put_or_zero(&mut self.0[MTIME], seconds),
            Err(_) => false,
        }
    }

    /// False if it does not fit.
    pub(crate) fn put_device(&mut self, (major, minor): (u32, u32)) -> bool {
        put_or_zero(&mut self.0[MAJOR], u64::from(major)) & put_or_zero(&mut self.0[MINOR], u64::from(minor))
    }
}

fn put_or_zero(field: &mut [u8], value: u64) -> bool {
    let fits = put_octal(field, value);
    if !fits {
        put_octal(field, 0);
    }
    fits
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_of_all_forms() {
        assert_eq!(number(b"0000644\0"), Ok(0o644));
        assert_eq!(number(b"   644 \0"), Ok(0o644));
        assert_eq!(number(b"77777777"), Ok(0o77_777_777));
        assert_eq!(number(b"\0\0\0\0"), Ok(0));
        assert_eq!(number(b"      "), Ok(0));
        assert_eq!(number(&[0x80, 0, 0, 1, 0]), Ok(256));
        assert_eq!(number(&[0xff, 0xff, 0xff, 0xfe]), Ok(-2));
        assert_eq!(number(b"0000648\0"), Err(NotANumber::Digits));
        assert_eq!(number(b"12\x003\0\0"), Err(NotANumber::Digits));
        assert_eq!(number(b"-1\0\0\0\0"), Err(NotANumber::Digits));
    }

    #[test]
    fn base256_keeps_within_63_bits() {
        let largest = [0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(number(&largest), Ok(i64::MAX));
        assert_eq!(number(&[0x80, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0]), Err(NotANumber::TooLarge));
        assert_eq!(number(&[0xbf; 12]), Err(NotANumber::TooLarge));
        let smallest = [0xff, 0xff, 0xff, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(number(&smallest), Ok(i64::MIN));
        assert_eq!(number(&[0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), Err(NotANumber::TooLarge));
    }

    #[test]
    fn both_checksums_are_taken() {
        let mut header = Header::new(b'0');
        assert!(header.put_name("größe".as_bytes()));
        header.seal();
        assert!(header.checksum_fits());
        let (unsigned, signed) = header.sums();
        assert_ne!(unsigned, signed);
        put_octal(&mut header.0[CHECKSUM], signed.unsigned_abs());
        assert!(header.checksum_fits());
        header.0[0] ^= 1;
        assert!(!header.checksum_fits());
    }

    #[test]
    fn a_name_is_split_at_a_slash() {
        let name = [vec![b'd'; 120], vec![b'/'], vec![b'f'; 90]].concat();
        let mut header = Header::new(b'0');
        assert!(header.put_name(&name));
        assert_eq!(header.name(), name);
        for long in [
            vec![b'x'; 101],
            [vec![b'd'; 156], b"/x".to_vec()].concat(),
            [vec![b'd'; 100], b"/".to_vec()].concat(),
        ] {
            assert!(!Header::new(b'0').put_name(&long), "{}", long.len());
        }
    }

    #[test]
    fn a_gnu_header_has_no_prefix() {
        let mut header = Header::new(b'0');
        header.put_name(b"name");
        header.0[PREFIX][..5].copy_from_slice(b"first");
        assert_eq!(header.name(), b"first/name");
        header.0[MAGIC].copy_from_slice(b"ustar  \0");
        assert_eq!(header.name(), b"name");
    }

    proptest! {
        #[test]
        fn octal_reads_what_it_wrote(value in 0_u64..0o77_777_777_777) {
            let mut field = [0; 12];
            prop_assert!(put_octal(&mut field, value));
            prop_assert_eq!(number(&field), Ok(i64::try_from(value).unwrap()));
        }

        #[test]
        fn no_field_panics(field in proptest::collection::vec(any::<u8>(), 1..13)) {
            let _ = number(&field);
        }
    }
}
