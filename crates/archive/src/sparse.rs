//! Files with holes: the four forms in which GNU tar has written them.
//!
//! | form | where the runs stand |
//! | --- | --- |
//! | old GNU | type `S`: four in the header, more in blocks behind it, as octal fields |
//! | PAX 0.0 | records `GNU.sparse.offset` and `GNU.sparse.numbytes`, in pairs |
//! | PAX 0.1 | one record `GNU.sparse.map`, with commas |
//! | PAX 1.0 | before the data, as decimal lines |
//!
//! This crate writes 1.0: its map is no record, so that neither its length nor its order is at the mercy of a reader of records.

use crate::entry::Extent;
use crate::header::{self, NotANumber};
use crate::pax::decimal;

/// Runs that a file may have: 4 MiB of them.
pub(crate) const MOST_EXTENTS: usize = 1 << 18;
/// Bytes of one run in the old form.
const OLD_RUN: usize = 24;

/// Why a map cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    #[error("its sparse map is not made of numbers")]
    Number,
    #[error("its sparse map has more than {MOST_EXTENTS} runs")]
    TooMany,
    #[error("its sparse map's runs are not in order, or overlap")]
    Order,
    #[error("its sparse map goes past the file's size")]
    Range,
    #[error("its sparse map and its stored bytes do not agree")]
    Stored,
}

impl From<NotANumber> for Fault {
    fn from(_: NotANumber) -> Self {
        Self::Number
    }
}

/// Adds a run, while there is room.
pub(crate) fn push(extents: &mut Vec<Extent>, offset: u64, length: u64) -> Result<(), Fault> {
    if extents.len() == MOST_EXTENTS {
        return Err(Fault::TooMany);
    }
    extents.push(Extent { offset, length });
    Ok(())
}

/// Runs of the old form; an empty one ends the list.
pub(crate) fn push_old(extents: &mut Vec<Extent>, fields: &[u8]) -> Result<(), Fault> {
    for run in fields.chunks_exact(OLD_RUN) {
        let (offset, length) = run.split_at(OLD_RUN / 2);
        if offset[0] == 0 {
            break;
        }
        let unsigned = |field| u64::try_from(header::number(field)?).map_err(|_| Fault::Number);
        push(extents, unsigned(offset)?, unsigned(length)?)?;
    }
    Ok(())
}

/// The list of form 0.1.
pub(crate) fn push_list(extents: &mut Vec<Extent>, list: &[u8]) -> Result<(), Fault> {
    if list.is_empty() {
        return Ok(());
    }
    let mut numbers = list.split(|byte| *byte == b',').map(|text| decimal(text).ok_or(Fault::Number));
    while let Some(offset) = numbers.next() {
        push(extents, offset?, numbers.next().ok_or(Fault::Number)??)?;
    }
    Ok(())
}

/// The runs of a file of `size` bytes of which `stored` are in the stream: in order and complete. Those without bytes are dropped.
pub(crate) fn checked(mut extents: Vec<Extent>, size: u64, stored: u64) -> Result<Vec<Extent>, Fault> {
    let mut end = 0;
    let mut sum = 0_u64;
    for extent in &extents {
        if extent.offset < end {
            return Err(Fault::Order);
        }
        end = extent.offset.checked_add(extent.length).filter(|end| *end <= size).ok_or(Fault::Range)?;
        sum += extent.length;
    }
    if sum != stored {
        return Err(Fault::Stored);
    }
    extents.retain(|extent| extent.length > 0);
    Ok(extents)
}

/// The map of form 1.0, padded to whole blocks. A file that ends in a hole has a last run without bytes at its end, as GNU tar writes it.
pub(crate) fn text(extents: &[Extent], size: u64) -> Vec<u8> {
    let end = extents.last().map_or(0, |last| last.offset + last.length);
    let last = (end < size).then_some(Extent { offset: size, length: 0 });
    let count = extents.len() + usize::from(last.is_some());
    let mut map = format!("{count}\n").into_bytes();
    for Extent { offset, length } in extents.iter().chain(&last) {
        map.extend_from_slice(format!("{offset}\n{length}\n").as_bytes());
    }
    map.resize(map.len().next_multiple_of(header::BLOCK), 0);
    map
}

/// Reads the map of form 1.0 as its blocks come.
#[derive(Default)]
pub(crate) struct TextMap {
    number: Vec<u8>,
    /// How many numbers follow the first one.
    expected: Option<u64>,
    offset: Option<u64>,
    pub(crate) extents: Vec<Extent>,
}

impl TextMap {
    /// True when the map is complete.
    pub(crate) fn block(&mut self, block: &[u8]) -> Result<bool, Fault> {
        for byte in block {
            if *byte != b'\n' {
                self.number.push(*byte);
                if self.number.len() > 20 {
                    return Err(Fault::Number);
                }
                continue;
            }
            let number = decimal(&self.number).ok_or(Fault::Number)?;
            self.number.clear();
            match (self.expected, self.offset.take()) {
                (None, _) if number > MOST_EXTENTS as u64 => return Err(Fault::TooMany),
                (None, _) => self.expected = Some(number),
                (Some(_), None) => self.offset = Some(number),
                (Some(_), Some(offset)) => push(&mut self.extents, offset, number)?,
            }
            if self.expected == Some(self.extents.len() as u64) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(offset: u64, length: u64) -> Extent {
        Extent { offset, length }
    }

    #[test]
    fn a_map_is_in_order_complete_and_within() {
        assert_eq!(checked(vec![run(0, 5), run(5, 0), run(9, 1)], 10, 6), Ok(vec![run(0, 5), run(9, 1)]));
        assert_eq!(checked(vec![run(5, 1), run(0, 5)], 10, 6), Err(Fault::Order));
        assert_eq!(checked(vec![run(0, 5), run(4, 5)], 10, 10), Err(Fault::Order));
        assert_eq!(checked(vec![run(8, 3)], 10, 3), Err(Fault::Range));
        assert_eq!(checked(vec![run(u64::MAX, 1)], u64::MAX, 1), Err(Fault::Range));
        assert_eq!(checked(vec![run(0, 5)], 10, 6), Err(Fault::Stored));
        assert_eq!(checked(vec![], 10, 0), Ok(vec![]));
    }

    #[test]
    fn the_text_reads_as_written() {
        for (extents, size) in [
            (vec![], 0),
            (vec![], 9),
            (vec![run(4096, 1)], 4097),
            (vec![run(0, 512), run(1 << 40, 7)], 1 << 41),
        ] {
            let text = text(&extents, size);
            assert_eq!(text.len() % 512, 0);
            let mut map = TextMap::default();
            let blocks: Vec<_> = text.chunks(512).map(|block| map.block(block)).collect();
            assert_eq!(blocks.last(), Some(&Ok(true)));
            let stored = extents.iter().map(|extent| extent.length).sum();
            assert_eq!(checked(map.extents, size, stored), Ok(extents));
        }
    }

    #[test]
    fn a_count_that_nobody_can_hold_is_refused() {
        assert_eq!(TextMap::default().block(b"99999999999\n"), Err(Fault::TooMany));
        assert_eq!(TextMap::default().block(&[b'1'; 30]), Err(Fault::Number));
        assert_eq!(TextMap::default().block(b"1\n-5\n"), Err(Fault::Number));
        assert_eq!(TextMap::default().block(b"2\n0\n1\n"), Ok(false));
    }

    #[test]
    fn lists_have_pairs() {
        let mut extents = Vec::new();
        assert_eq!(push_list(&mut extents, b"0,5,10,2"), Ok(()));
        assert_eq!(extents, [run(0, 5), run(10, 2)]);
        assert_eq!(push_list(&mut extents, b"0,5,10"), Err(Fault::Number));
        assert_eq!(push_list(&mut extents, b"0,5,"), Err(Fault::Number));
        assert_eq!(push_list(&mut extents, b"0,-5"), Err(Fault::Number));
    }
}
