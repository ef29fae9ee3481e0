//! Thin device ids, and which of them are in use: [`DeviceId`] and [`DeviceIds`].

use std::fmt;

/// The number of a thin device in its pool: 24 bits (what `thinlayer-thin` calls a thin id).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(u32);

impl DeviceId {
    /// The largest one.
    pub const MAX: Self = Self(0xff_ffff);

    /// The id with this number; `None` above 24 bits.
    pub const fn new(number: u32) -> Option<Self> {
        if number <= Self::MAX.0 { Some(Self(number)) } else { None }
    }

    /// Its number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The one after it; 0 after the last.
    pub const fn next(self) -> Self {
        Self((self.0 + 1) & Self::MAX.0)
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<DeviceId> for u32 {
    fn from(id: DeviceId) -> Self {
        id.0
    }
}

const WORD_BITS: u32 = u64::BITS;
const WORDS: u32 = (DeviceId::MAX.0 + 1) / WORD_BITS;

/// Which ids are in use: a bitmap (2 MiB of address space, of which only the touched pages take memory), and the last one handed out.
pub(crate) struct DeviceIds {
    words: Vec<u64>,
    last: DeviceId,
}

impl DeviceIds {
    pub(crate) fn new(last: DeviceId) -> Self {
        Self { words: vec![0; WORDS as usize], last }
    }

    pub(crate) fn start_after(&mut self, last: DeviceId) {
        self.last = last;
    }

    pub(crate) fn last(&self) -> DeviceId {
        self.last
    }

    fn place(id: DeviceId) -> (usize, u64) {
        ((id.0 / WORD_BITS) as usize, 1 << (id.0 % WORD_BITS))
    }

    pub(crate) fn mark(&mut self, id: DeviceId) {
        let (word, bit) = Self::place(id);
        self.words[word] |= bit;
    }

    pub(crate) fn clear(&mut self, id: DeviceId) {
        let (word, bit) = Self::place(id);
        self.words[word] &= !bit;
    }

    pub(crate) fn is_marked(&self, id: DeviceId) -> bool {
        let (word, bit) = Self::place(id);
        self.words[word] & bit != 0
    }

    /// The first free id after the last one handed out, marked; `None` when a full turn found none.
    pub(crate) fn take(&mut self) -> Option<DeviceId> {
        let start = self.last.next();
        // One word more than there are: the first word is looked at twice, its lower part at the end.
        for step in 0..=WORDS {
            let word = (start.0 / WORD_BITS + step) % WORDS;
            let mut free = !self.words[word as usize];
            if step == 0 {
                free &= u64::MAX << (start.0 % WORD_BITS);
            }
            if free != 0 {
                let id = DeviceId(word * WORD_BITS + free.trailing_zeros());
                self.mark(id);
                self.last = id;
                return Some(id);
            }
        }
        None
    }
}

impl fmt::Debug for DeviceIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let used: u32 = self.words.iter().map(|word| word.count_ones()).sum();
        f.debug_struct("DeviceIds").field("last", &self.last).field("used", &used).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u32) -> DeviceId {
        DeviceId::new(number).unwrap()
    }

    #[test]
    fn ids_have_24_bits() {
        assert_eq!(DeviceId::new(0xff_ffff), Some(DeviceId::MAX));
        assert_eq!(DeviceId::new(0x100_0000), None);
        assert_eq!(DeviceId::MAX.next(), id(0));
    }

    #[test]
    fn the_first_id_is_one_and_used_ones_are_skipped() {
        let mut ids = DeviceIds::new(id(0));
        ids.mark(id(2));
        assert_eq!(ids.take(), Some(id(1)));
        assert_eq!(ids.take(), Some(id(3)));
        ids.clear(id(1));
        assert_eq!(ids.take(), Some(id(4)), "freed ids wait for the next turn");
        assert_eq!(ids.last(), id(4));
    }

    #[test]
    fn it_wraps_and_ends() {
        let mut ids = DeviceIds::new(id(0xff_fffe));
        assert_eq!(ids.take(), Some(DeviceId::MAX));
        assert_eq!(ids.take(), Some(id(0)));
        ids.words.fill(u64::MAX);
        assert_eq!(ids.take(), None);
        for lonely in [0, 1, 63, 64, 1000, 0xff_ffff] {
            ids.clear(id(lonely));
            assert_eq!(ids.take(), Some(id(lonely)));
        }
    }

    #[test]
    fn the_lower_part_of_the_first_word_is_found_last() {
        let mut ids = DeviceIds::new(id(70));
        ids.words.fill(u64::MAX);
        ids.clear(id(65));
        assert_eq!(ids.take(), Some(id(65)));
    }
}
