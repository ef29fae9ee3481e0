//! The records of a PAX extended header: `LENGTH KEY=VALUE\n`, where the length counts the whole record.
//!
//! A record is cut by its length and by nothing else: values hold newlines and NULs.
//!
//! # References
//! POSIX.1-2017, `pax`, "pax Extended Header"; GNU tar manual, "Storing Extended Attributes", "PAX 0" and "PAX 1".

use crate::entry::Timestamp;

/// Why records cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    #[error("a record's length is no number")]
    Length,
    #[error("a record's length goes past the extended header")]
    Overrun,
    #[error("a record is shorter than its own length field")]
    Short,
    #[error("a record does not end in a newline")]
    End,
    #[error("a record has no key")]
    Key,
}

/// Keys and values in their order.
pub(crate) struct Records<'a>(&'a [u8]);

impl<'a> Records<'a> {
    pub(crate) fn new(payload: &'a [u8]) -> Self {
        Self(payload)
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<(&'a [u8], &'a [u8]), Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let record = split(self.0).map(|(key, value, rest)| {
            self.0 = rest;
            (key, value)
        });
        if record.is_err() {
            self.0 = &[];
        }
        Some(record)
    }
}

type Split<'a> = (&'a [u8], &'a [u8], &'a [u8]);

fn split(payload: &[u8]) -> Result<Split<'_>, Fault> {
    let space = payload.iter().take(21).position(|byte| *byte == b' ').ok_or(Fault::Length)?;
    let length =
        usize::try_from(decimal(&payload[..space]).ok_or(Fault::Length)?).map_err(|_| Fault::Overrun)?;
    if length > payload.len() {
        return Err(Fault::Overrun);
    }
    if length < space + 2 {
        return Err(Fault::Short);
    }
    let (record, rest) = payload.split_at(length);
    let (body, end) = record[space + 1..].split_at(length - space - 2);
    if end != b"\n" {
        return Err(Fault::End);
    }
    let equals = body.iter().position(|byte| *byte == b'=').ok_or(Fault::Key)?;
    if equals == 0 {
        return Err(Fault::Key);
    }
    Ok((&body[..equals], &body[equals + 1..], rest))
}

/// Appends a record.
pub(crate) fn put(payload: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    // The length counts its own digits.
    let mut length = rest + digits(rest);
    if digits(length) != digits(rest) {
        length = rest + digits(length);
    }
    payload.extend_from_slice(length.to_string().as_bytes());
    payload.push(b' ');
    payload.extend_from_slice(key);
    payload.push(b'=');
    payload.extend_from_slice(value);
    payload.push(b'\n');
}

fn digits(number: usize) -> usize {
    number.to_string().len()
}

/// Decimal digits and nothing else, at most 64 bits.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |value, digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// A PAX time: decimal seconds, perhaps negative, perhaps with a fraction, of which nanoseconds are kept.
pub(crate) fn time(text: &[u8]) -> Option<Timestamp> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = match text.iter().position(|byte| *byte == b'.') {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &b""[..]),
    };
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let seconds = i64::try_from(decimal(whole)?).ok()?;
    let mut nanoseconds = 0_u32;
    for place in 0..9 {
        nanoseconds = nanoseconds * 10 + fraction.get(place).map_or(0, |digit| u32::from(digit - b'0'));
    }
    Some(match (negative, nanoseconds) {
        (false, nanoseconds) => Timestamp { seconds, nanoseconds },
        (true, 0) => Timestamp::at(-seconds),
        (true, nanoseconds) => {
            Timestamp { seconds: (-seconds).checked_sub(1)?, nanoseconds: 1_000_000_000 - nanoseconds }
        }
    })
}

/// The shortest text of a time.
pub(crate) fn time_text(time: Timestamp) -> String {
    let Timestamp { seconds, nanoseconds } = time;
    if nanoseconds == 0 {
        return seconds.to_string();
    }
    let (sign, whole, fraction) = match seconds {
        0.. => ("", seconds.unsigned_abs(), nanoseconds),
        _ => ("-", seconds.unsigned_abs() - 1, 1_000_000_000 - nanoseconds),
    };
    let text = format!("{sign}{whole}.{fraction:09}");
    text.trim_end_matches('0').to_owned()
}

/// An attribute's name as a key's part. `=` would end the key: GNU tar writes it, and `%`, in hexadecimal. A name is only changed
/// where it has to be, since others read it as it stands.
pub(crate) fn encode_name(name: &[u8]) -> Vec<u8> {
    if !name.contains(&b'=') && !is_encoded(name) {
        return name.to_vec();
    }
    let mut encoded = Vec::new();
    for byte in name {
        match byte {
            b'=' => encoded.extend_from_slice(b"%3D"),
            b'%' => encoded.extend_from_slice(b"%25"),
            byte => encoded.push(*byte),
        }
    }
    encoded
}

/// The reverse.
pub(crate) fn decode_name(name: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some(first) = rest.first() {
        if let Some(after) = rest.strip_prefix(b"%3D") {
            decoded.push(b'=');
            rest = after;
        } else if let Some(after) = rest.strip_prefix(b"%25") {
            decoded.push(b'%');
            rest = after;
        } else {
            decoded.push(*first);
            rest = &rest[1..];
        }
    }
    decoded
}

fn is_encoded(name: &[u8]) -> bool {
    name.windows(3).any(|part| part == b"%3D" || part == b"%25")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

    fn read(payload: &[u8]) -> Result<Pairs, Fault> {
        Records::new(payload)
            .map(|record| record.map(|(key, value)| (key.to_vec(), value.to_vec())))
            .collect()
    }

    #[test]
    fn a_value_holds_newlines_and_equals() {
        let payload = b"18 a=1\n18 path=x\n\n6 b=2\n";
        assert_eq!(
            read(payload),
            Ok(vec![(b"a".to_vec(), b"1\n18 path=x\n".to_vec()), (b"b".to_vec(), b"2".to_vec())])
        );
    }

    #[test]
    fn lies_about_the_length_are_told_apart() {
        assert_eq!(read(b"99 a=1\n"), Err(Fault::Overrun));
        assert_eq!(read(b"18446744073709551616 a=1\n"), Err(Fault::Length));
        assert_eq!(read(b"0 a=1\n"), Err(Fault::Short));
        assert_eq!(read(b"3 a=1\n"), Err(Fault::End));
        assert_eq!(read(b"5 a=1\n"), Err(Fault::End));
        assert_eq!(read(b"-7 a=1\n"), Err(Fault::Length));
        assert_eq!(read(b"a=1\n"), Err(Fault::Length));
        assert_eq!(read(b"6 =12\n"), Err(Fault::Key));
        assert_eq!(read(b"6 abc\n"), Err(Fault::Key));
        assert_eq!(read(b"\0\0\0\0"), Err(Fault::Length));
    }

    #[test]
    fn times_before_1970() {
        let time_of = |text: &str| time(text.as_bytes());
        assert_eq!(time_of("-1.5"), Some(Timestamp { seconds: -2, nanoseconds: 500_000_000 }));
        assert_eq!(time_of("-0.000000001"), Some(Timestamp { seconds: -1, nanoseconds: 999_999_999 }));
        assert_eq!(time_of("-3"), Some(Timestamp::at(-3)));
        assert_eq!(time_of("5.1234567899"), Some(Timestamp { seconds: 5, nanoseconds: 123_456_789 }));
        assert_eq!(time_of("7."), Some(Timestamp::at(7)));
        for bad in ["", "-", ".5", "1.x", "1e3", "+1", "--1", "9223372036854775808", "nan"] {
            assert_eq!(time_of(bad), None, "{bad}");
        }
    }

    #[test]
    fn names_are_changed_only_where_they_must_be() {
        assert_eq!(encode_name(b"user.50%"), b"user.50%");
        assert_eq!(encode_name(b"user.a=b%"), b"user.a%3Db%25");
        assert_eq!(encode_name(b"user.%3D"), b"user.%253D");
    }

    proptest! {
        #[test]
        fn records_read_as_written(records in vec((vec(1_u8..=255, 1..90), vec(any::<u8>(), 0..1100)), 0..5)) {
            let records: Vec<_> = records.into_iter()
                .map(|(key, value)| (key.into_iter().map(|byte| if byte == b'=' { b'e' } else { byte }).collect::<Vec<_>>(), value))
                .collect();
            let mut payload = Vec::new();
            for (key, value) in &records {
                put(&mut payload, key, value);
            }
            prop_assert_eq!(read(&payload), Ok(records));
        }

        #[test]
        fn times_read_as_written(seconds in -1_000_000_000_000_i64..1_000_000_000_000, nanoseconds in 0_u32..1_000_000_000) {
            let stamp = Timestamp { seconds, nanoseconds };
            prop_assert_eq!(time(time_text(stamp).as_bytes()), Some(stamp));
        }

        #[test]
        fn names_read_as_written(name in "[a-z.=%3D25]{1,12}") {
            prop_assert_eq!(decode_name(&encode_name(name.as_bytes())), name.as_bytes());
        }

        #[test]
        fn no_payload_panics(payload in vec(any::<u8>(), 0..200)) {
            let _ = read(&payload);
        }
    }
}
