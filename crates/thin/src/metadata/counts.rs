//! Counters for blocks, which take memory only where something was counted.

use std::collections::HashMap;

const PAGE: u64 = SLOTS as u64;
const SLOTS: usize = 1024;
/// From here on a count is kept beside its page.
const FULL: u8 = u8::MAX;

/// How often each block was met: one byte for each block of a page that has any.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pages: HashMap<u64, Box<[u8; SLOTS]>>,
    large: HashMap<u64, u32>,
}

impl Counts {
    /// Counts one more, and answers how many that makes.
    pub(super) fn add(&mut self, block: u64) -> u32 {
        let page = self.pages.entry(block / PAGE).or_insert_with(|| Box::new([0; SLOTS]));
        let count = &mut page[slot(block)];
        if *count < FULL - 1 {
            *count += 1;
            return (*count).into();
        }
        let large = self.large.entry(block).or_insert(u32::from(FULL) - 1);
        *count = FULL;
        *large = large.saturating_add(1);
        *large
    }

    pub(super) fn get(&self, block: u64) -> u32 {
        match self.pages.get(&(block / PAGE)).map_or(0, |page| page[slot(block)]) {
            FULL => self.large.get(&block).copied().unwrap_or(0),
            small => small.into(),
        }
    }
}

fn slot(block: u64) -> usize {
    (block % PAGE) as usize
}

#[cfg(test)]
mod tests {
    use super::Counts;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[test]
    fn counts_beyond_a_byte() {
        let mut counts = Counts::default();
        for wanted in 1..1000 {
            assert_eq!(counts.add(7), wanted);
            assert_eq!(counts.get(7), wanted);
        }
        assert_eq!((counts.get(6), counts.get(u64::MAX)), (0, 0));
    }

    proptest! {
        #[test]
        fn counts_like_a_map(blocks in proptest::collection::vec(prop_oneof![0..5_u64, 1020..1030_u64, any::<u64>()], 0..2000)) {
            let (mut counts, mut map) = (Counts::default(), HashMap::<u64, u32>::new());
            for block in blocks {
                *map.entry(block).or_default() += 1;
                prop_assert_eq!(counts.add(block), map[&block]);
            }
            for (block, count) in map {
                prop_assert_eq!(counts.get(block), count);
            }
        }
    }
}
