//! Users and groups that have other numbers inside a user namespace than outside.

/// Consecutive numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IdRange {
    /// The first number as containers, and layers, have it.
    pub inside: u32,
    /// The number on the host that it stands for.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// How numbers in a layer stand for numbers on disk. Without ranges both are the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct IdMaps {
    /// Of users.
    pub uids: Vec<IdRange>,
    /// Of groups.
    pub gids: Vec<IdRange>,
}

impl IdMaps {
    /// Do numbers stay as they are?
    pub fn is_identity(&self) -> bool {
        self.uids.is_empty() && self.gids.is_empty()
    }

    /// A layer's user on disk; `None`: no range holds it.
    pub fn uid_outside(&self, uid: u32) -> Option<u32> {
        map(&self.uids, uid, |range| (range.inside, range.outside))
    }

    /// A layer's group on disk.
    pub fn gid_outside(&self, gid: u32) -> Option<u32> {
        map(&self.gids, gid, |range| (range.inside, range.outside))
    }

    /// A user on disk in a layer.
    pub fn uid_inside(&self, uid: u32) -> Option<u32> {
        map(&self.uids, uid, |range| (range.outside, range.inside))
    }

    /// A group on disk in a layer.
    pub fn gid_inside(&self, gid: u32) -> Option<u32> {
        map(&self.gids, gid, |range| (range.outside, range.inside))
    }
}

fn map(ranges: &[IdRange], id: u32, direction: impl Fn(&IdRange) -> (u32, u32)) -> Option<u32> {
    if ranges.is_empty() {
        return Some(id);
    }
    ranges.iter().find_map(|range| {
        let (from, to) = direction(range);
        let distance = id.checked_sub(from).filter(|distance| *distance < range.count)?;
        to.checked_add(distance).filter(|id| *id != u32::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_map_both_ways() {
        let range = |inside, outside, count| IdRange { inside, outside, count };
        let maps = IdMaps { uids: vec![range(0, 100_000, 1000), range(1000, 5, 1)], gids: vec![] };
        assert_eq!(maps.uid_outside(0), Some(100_000));
        assert_eq!(maps.uid_outside(999), Some(100_999));
        assert_eq!(maps.uid_outside(1000), Some(5));
        assert_eq!(maps.uid_outside(1001), None);
        assert_eq!(maps.uid_inside(100_999), Some(999));
        assert_eq!(maps.uid_inside(5), Some(1000));
        assert_eq!(maps.uid_inside(0), None);
        assert_eq!(maps.gid_outside(7), Some(7));
        assert_eq!(map(&[range(0, u32::MAX - 1, 5)], 1, |range| (range.inside, range.outside)), None);
    }
}
