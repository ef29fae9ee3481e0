//! JSON as Go's `encoding/json` reads and writes it, for the three shapes of file that Docker wrote.
//!
//! Reading: keys match without regard to case, unknown keys are ignored, a missing key or a `null` value leaves the zero value, the
//! last of several equal keys wins, an integer is digits only, and broken UTF-8 or lone surrogates become U+FFFD. serde's reader
//! differs in each of these.

/// Why a text is not the JSON that was wanted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(pub(crate) String);

/// As deep as Go's reader goes.
const MAX_DEPTH: usize = 10_000;

/// A value, cut out but (unless it is a string) not converted.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Raw<'a> {
    Null,
    Bool(bool),
    Number(&'a str),
    String(String),
    /// An object, as it stands.
    Object(&'a [u8]),
    /// An array, as it stands.
    Array(&'a [u8]),
}

impl Raw<'_> {
    fn what(&self) -> &'static str {
        match self {
            Raw::Null => "null",
            Raw::Bool(_) => "a boolean",
            Raw::Number(_) => "a number",
            Raw::String(_) => "a string",
            Raw::Object(_) => "an object",
            Raw::Array(_) => "an array",
        }
    }

    fn not(&self, key: &str, wanted: &str) -> Malformed {
        Malformed(match self {
            Raw::Number(text) => format!("{key} is {}, not {wanted}", clip(text)),
            other => format!("{key} is {}, not {wanted}", other.what()),
        })
    }

    pub(crate) fn signed(&self, key: &str, into: &mut i64) -> Result<(), Malformed> {
        match self {
            Raw::Null => {}
            Raw::Number(text) => {
                *into = text.parse().map_err(|_| self.not(key, "a whole number of 64 bits"))?;
            }
            _ => return Err(self.not(key, "a number")),
        }
        Ok(())
    }

    pub(crate) fn unsigned(&self, key: &str, into: &mut u64) -> Result<(), Malformed> {
        match self {
            Raw::Null => {}
            Raw::Number(text) => {
                *into = text.parse().map_err(|_| self.not(key, "a whole number from 0 to 2^64-1"))?;
            }
            _ => return Err(self.not(key, "a number")),
        }
        Ok(())
    }

    pub(crate) fn boolean(&self, key: &str, into: &mut bool) -> Result<(), Malformed> {
        match self {
            Raw::Null => {}
            Raw::Bool(value) => *into = *value,
            _ => return Err(self.not(key, "true or false")),
        }
        Ok(())
    }

    pub(crate) fn string(&self, key: &str, into: &mut String) -> Result<(), Malformed> {
        match self {
            Raw::Null => {}
            Raw::String(value) => into.clone_from(value),
            _ => return Err(self.not(key, "a string")),
        }
        Ok(())
    }
}

fn clip(text: &str) -> &str {
    text.get(..40).unwrap_or(text)
}

/// A document's members in their order, duplicates included; `None` for the bare literal `null`.
pub(crate) fn document(bytes: &[u8]) -> Result<Option<Vec<(String, Raw<'_>)>>, Malformed> {
    let mut scanner = Scanner { bytes, at: 0 };
    scanner.space();
    if bytes.len() == scanner.at {
        return Err(Malformed(if bytes.is_empty() { "it is empty" } else { "it is blank" }.to_owned()));
    }
    let members = match scanner.value()? {
        Raw::Null => None,
        Raw::Object(text) => Some(members(text)?),
        other => return Err(Malformed(format!("it holds {}, not an object", other.what()))),
    };
    scanner.space();
    if scanner.at < bytes.len() {
        return Err(scanner.unexpected("after the end"));
    }
    Ok(members)
}

/// The members of an object that [`Raw::Object`] cut out.
pub(crate) fn members(text: &[u8]) -> Result<Vec<(String, Raw<'_>)>, Malformed> {
    let mut scanner = Scanner { bytes: text, at: 0 };
    let mut members = Vec::new();
    scanner.expect(b'{')?;
    scanner.space();
    if scanner.peek() == Some(b'}') {
        return Ok(members);
    }
    loop {
        scanner.space();
        let key = scanner.string()?;
        scanner.space();
        scanner.expect(b':')?;
        scanner.space();
        members.push((key, scanner.value()?));
        scanner.space();
        if scanner.peek() != Some(b',') {
            scanner.expect(b'}')?;
            return Ok(members);
        }
        scanner.at += 1;
    }
}

/// Whether Go takes `key` for the field `field` (lower-case ASCII): equal but for case, where Unicode's Kelvin sign is a K and its long s an S.
pub(crate) fn matches(key: &str, field: &str) -> bool {
    let fold = |c: char| match c {
        '\u{212a}' => 'k',
        '\u{17f}' => 's',
        other => other.to_ascii_lowercase(),
    };
    key.chars().map(fold).eq(field.chars())
}

/// Appends a string as Go's writer does: `<`, `>`, `&`, U+2028 and U+2029 are escaped too.
pub(crate) fn push_string(out: &mut String, text: &str) {
    use std::fmt::Write as _;
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                // Writing to a String cannot fail.
                let written = write!(out, "\\u{:04x}", u32::from(c));
                debug_assert!(written.is_ok());
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn unexpected(&self, place: &str) -> Malformed {
        Malformed(match self.peek() {
            None => "it ends too early".to_owned(),
            Some(byte) => format!("byte {} is {:?} {place}", self.at, char::from(byte)),
        })
    }

    fn expect(&mut self, byte: u8) -> Result<(), Malformed> {
        if self.peek() != Some(byte) {
            return Err(self.unexpected(&format!("where {:?} should be", char::from(byte))));
        }
        self.at += 1;
        Ok(())
    }

    fn word(&mut self, word: &str) -> Result<(), Malformed> {
        word.bytes().try_for_each(|byte| self.expect(byte))
    }

    fn value(&mut self) -> Result<Raw<'a>, Malformed> {
        let start = self.at;
        Ok(match self.peek() {
            Some(b'{') => {
                self.skip_nested()?;
                Raw::Object(&self.bytes[start..self.at])
            }
            Some(b'[') => {
                self.skip_nested()?;
                Raw::Array(&self.bytes[start..self.at])
            }
            _ => self.scalar()?,
        })
    }

    fn scalar(&mut self) -> Result<Raw<'a>, Malformed> {
        Ok(match self.peek() {
            Some(b'n') => {
                self.word("null")?;
                Raw::Null
            }
            Some(b't') => {
                self.word("true")?;
                Raw::Bool(true)
            }
            Some(b'f') => {
                self.word("false")?;
                Raw::Bool(false)
            }
            Some(b'"') => Raw::String(self.string()?),
            Some(b'-' | b'0'..=b'9') => Raw::Number(self.number()?),
            _ => return Err(self.unexpected("where a value should be")),
        })
    }

    /// Passes an object or array with an explicit stack, as a file may nest deeper than a thread's stack.
    fn skip_nested(&mut self) -> Result<(), Malformed> {
        let mut open: Vec<bool> = Vec::new();
        loop {
            // A value begins here.
            match self.peek() {
                Some(byte @ (b'{' | b'[')) => {
                    self.at += 1;
                    open.push(byte == b'{');
                    if open.len() > MAX_DEPTH {
                        return Err(Malformed(format!("it nests deeper than {MAX_DEPTH}")));
                    }
                    self.space();
                    let end = if byte == b'{' { b'}' } else { b']' };
                    if self.peek() != Some(end) {
                        self.key_if(byte == b'{')?;
                        continue;
                    }
                    self.at += 1;
                    open.pop();
                }
                _ => {
                    self.scalar()?;
                }
            }
            // A value has ended: close what ends with it, or go on to the next.
            loop {
                let Some(&is_object) = open.last() else { return Ok(()) };
                self.space();
                if self.peek() == Some(b',') {
                    self.at += 1;
                    self.space();
                    self.key_if(is_object)?;
                    break;
                }
                self.expect(if is_object { b'}' } else { b']' })?;
                open.pop();
            }
        }
    }

    fn key_if(&mut self, is_object: bool) -> Result<(), Malformed> {
        if is_object {
            self.string()?;
            self.space();
            self.expect(b':')?;
            self.space();
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Malformed> {
        if !matches!(self.peek(), Some(b'0'..=b'9')) {
            return Err(self.unexpected("where a digit should be"));
        }
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<&'a str, Malformed> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        std::str::from_utf8(&self.bytes[start..self.at]).map_err(|error| Malformed(error.to_string()))
    }

    fn string(&mut self) -> Result<String, Malformed> {
        self.expect(b'"')?;
        let mut text = Vec::new();
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(String::from_utf8_lossy(&text).into_owned());
                }
                Some(b'\\') => {
                    self.at += 1;
                    let c = self.escape()?;
                    text.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                }
                Some(0..=0x1f) | None => return Err(self.unexpected("in a string")),
                Some(byte) => {
                    self.at += 1;
                    text.push(byte);
                }
            }
        }
    }

    fn escape(&mut self) -> Result<char, Malformed> {
        let c = match self.peek() {
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(byte @ (b'"' | b'\\' | b'/')) => char::from(byte),
            Some(b'u') => {
                self.at += 1;
                return self.unicode();
            }
            _ => return Err(self.unexpected("after a backslash")),
        };
        self.at += 1;
        Ok(c)
    }

    fn hex4(&mut self) -> Result<u32, Malformed> {
        let mut number = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|byte| char::from(byte).to_digit(16));
            number = number << 4 | digit.ok_or_else(|| self.unexpected("where a hex digit should be"))?;
            self.at += 1;
        }
        Ok(number)
    }

    fn unicode(&mut self) -> Result<char, Malformed> {
        let first = self.hex4()?;
        if let Some(c) = char::from_u32(first) {
            return Ok(c);
        }
        // A surrogate: with its other half it is one character, alone it is U+FFFD and what follows is read by itself.
        let after = self.at;
        if first < 0xdc00 && self.bytes.get(after..after + 2) == Some(b"\\u") {
            self.at += 2;
            let second = self.hex4()?;
            if (0xdc00..0xe000).contains(&second) {
                let code = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            self.at = after;
        }
        Ok(char::REPLACEMENT_CHARACTER)
    }
}

#[cfg(test)]
mod tests;
