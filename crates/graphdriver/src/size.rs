//! Sizes as people write and read them (sections 3 and 4.6 of the specification).

use thinlayer_dm::Bytes;

/// The largest size that a layer can be given: what ext4 with blocks of 4 KiB addresses in 32 bits, and grows to from any smaller size. A layer that
/// others made larger keeps its size.
///
/// A larger one is far more often a slip of a unit, and a device never shrinks.
pub const MAX_LAYER_SIZE: Bytes = Bytes(16 << 40);

/// The size, if a layer can be given it.
pub(crate) fn checked_size(size: Bytes) -> Result<Bytes, String> {
    if size > MAX_LAYER_SIZE {
        return Err(format!(
            "{} is more than a layer can have, which is {} (16 TiB)",
            human_size(size),
            human_size(MAX_LAYER_SIZE)
        ));
    }
    Ok(size)
}

/// Reads a size: a decimal number (a fraction is allowed), an optional space, an optional unit `k m g t p` in any case, optionally
/// followed by `b` or `ib`, or `b` alone. Multiples are of 1024; a fraction of a byte is dropped.
///
/// # Errors
/// Why the text is no size, for people.
///
/// # Example
/// ```
/// use thinlayer_graphdriver::{Bytes, parse_size};
/// assert_eq!(parse_size("1.5 GiB"), Ok(Bytes(1_610_612_736)));
/// assert!(parse_size("10Q").is_err());
/// ```
pub fn parse_size(text: &str) -> Result<Bytes, String> {
    let bad = |why: &str| Err(format!("size {text:?} {why}; write a number and a unit, such as 512M or 10G"));
    let digits = text.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    let (number, rest) = text.split_at(digits);
    if number.is_empty() {
        return bad(if text.starts_with('-') { "is negative" } else { "does not start with a number" });
    }
    let unit = rest.strip_prefix(' ').unwrap_or(rest).to_ascii_lowercase();
    let power = match unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(&unit) {
        "" if unit == "ib" => return bad("has an unknown unit"),
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return bad("has an unknown unit"),
    };
    let multiple = 1024_u128.pow(power);
    let Some(bytes) = scaled(number, multiple) else { return bad("is not a number") };
    match u64::try_from(bytes) {
        // Go's driver keeps sizes as signed numbers; nothing larger can be in its records.
        Ok(bytes) if i64::try_from(bytes).is_ok() => Ok(Bytes(bytes)),
        _ => bad("is too large"),
    }
}

/// A decimal number times a multiple, exactly, rounded down.
fn scaled(number: &str, multiple: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    // Eighteen decimals are far below one byte of the largest unit.
    let fraction = &fraction[..fraction.len().min(18)];
    let part = if fraction.is_empty() {
        0
    } else {
        fraction.parse::<u128>().ok()?.checked_mul(multiple)?
            / 10_u128.pow(u32::try_from(fraction.len()).ok()?)
    };
    whole.checked_mul(multiple)?.checked_add(part)
}

/// Four significant digits and a unit of 1000, without a space: `65.54kB`, `10.74GB`, as Docker prints sizes.
pub fn human_size(size: Bytes) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    // 53 bits of precision are more than the four digits that are printed.
    #[expect(clippy::cast_precision_loss, reason = "four digits are printed")]
    let mut value = size.0 as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{}{}", four_digits(value), UNITS[unit])
}

/// C's `%.4g` for numbers from 0 to under 10,000.
fn four_digits(value: f64) -> String {
    // 999.95 and more round to 1000, which %.4g prints without a fraction.
    let decimals = if value >= 999.95 {
        0
    } else if value >= 99.995 {
        1
    } else if value >= 9.9995 {
        2
    } else {
        3
    };
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_docker_reads() {
        for (text, bytes) in [
            ("32", 32),
            ("32b", 32),
            ("32B", 32),
            ("32k", 32 << 10),
            ("32Kb", 32 << 10),
            ("32KiB", 32 << 10),
            ("32 MB", 32 << 20),
            ("32.5kB", 33_280),
            ("0.1k", 102),
            (".3kB", 307),
            ("32.", 32),
            ("10G", 10 << 30),
            ("1T", 1 << 40),
            ("1p", 1 << 50),
            ("0", 0),
        ] {
            assert_eq!(parse_size(text), Ok(Bytes(bytes)), "{text}");
        }
    }

    #[test]
    fn texts_that_are_no_size() {
        for text in [
            "",
            "hello",
            "-32",
            " 32",
            "32  k",
            "32 k ",
            "32bb",
            "32kbb",
            "32ibb",
            "10Q",
            "1.2.3",
            ".",
            ".m",
            "32ib",
            "9999999999p",
            "1e3",
        ] {
            assert!(parse_size(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn sizes_as_docker_prints_them() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (65_536, "65.54kB"),
            (10 << 30, "10.74GB"),
            (100 << 30, "107.4GB"),
            (2 << 30, "2.147GB"),
            (314_572_800, "314.6MB"),
            (999_949, "999.9kB"),
            (999_999, "1000kB"),
            (1_000_000, "1MB"),
        ] {
            assert_eq!(human_size(Bytes(bytes)), text);
        }
    }
}
