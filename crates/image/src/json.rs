//! JSON that others wrote: read with a limit on its bytes and on its lists, and never kept as a tree.

use crate::error::{Error, Result};
use serde::de::{self, DeserializeOwned, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::io::Read;
use std::marker::PhantomData;

/// A list of at most `MOST` items, so that a few megabytes of text cannot become gigabytes. `null` and absence are the empty list, as Go writes it.
#[derive(Clone, Debug)]
pub(crate) struct Bounded<T, const MOST: usize>(pub(crate) Vec<T>);

impl<T, const MOST: usize> Default for Bounded<T, MOST> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>, const MOST: usize> Deserialize<'de> for Bounded<T, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct List<T, const MOST: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for List<T, MOST> {
            type Value = Vec<T>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "a list of at most {MOST} items")
            }

            fn visit_unit<E: de::Error>(self) -> std::result::Result<Vec<T>, E> {
                Ok(Vec::new())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> std::result::Result<Vec<T>, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    if list.len() == MOST {
                        return Err(de::Error::custom(format_args!("a list has more than {MOST} items")));
                    }
                    list.push(item);
                }
                Ok(list)
            }
        }
        deserializer.deserialize_any(List::<T, MOST>(PhantomData)).map(Self)
    }
}

/// `null` as absence.
pub(crate) fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> std::result::Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// The whole of a small stream.
pub(crate) fn read_limited(stream: impl Read, what: &str, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.take(limit + 1).read_to_end(&mut bytes).map_err(Error::from_stream)?;
    if bytes.len() as u64 > limit { Err(Error::too_large(what, limit)) } else { Ok(bytes) }
}

/// What a document says.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| Error::damaged(what, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_bounded_and_null_is_empty() {
        let parsed = |text: &str| parse::<Bounded<u8, 3>>(text.as_bytes(), "the list").map(|list| list.0);
        assert_eq!(parsed("[1,2,3]").unwrap(), [1, 2, 3]);
        assert!(parsed("null").unwrap().is_empty());
        let error = parsed("[1,2,3,4]").unwrap_err().to_string();
        assert!(error.contains("the list") && error.contains("more than 3"), "{error}");
        assert!(parsed("{}").is_err());
    }

    #[test]
    fn deep_documents_and_long_ones_are_refused() {
        let deep = "[".repeat(100_000);
        assert!(parse::<serde::de::IgnoredAny>(deep.as_bytes(), "it").is_err());
        assert!(matches!(read_limited(&b"12345"[..], "it", 4), Err(Error::TooLarge { .. })));
        assert_eq!(read_limited(&b"1234"[..], "it", 4).unwrap(), b"1234");
    }
}
