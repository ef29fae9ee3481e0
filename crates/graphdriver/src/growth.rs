//! When a pool grows by itself and by how much: arithmetic alone, as LVM's autoextend has it.

use thinlayer_dm::Bytes;

/// From which use on a pool is extended, and by what part of its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extend {
    /// Percent in use from which on it grows; 100: never by itself.
    pub threshold: u8,
    /// Percent of its size that one growth adds.
    pub percent: u8,
}

impl Default for Extend {
    /// At 80 % by 20 %, as Docker sets LVM up.
    fn default() -> Self {
        Self { threshold: 80, percent: 20 }
    }
}

impl Extend {
    /// Does the pool grow by itself?
    pub fn is_on(self) -> bool {
        self.threshold < 100 && self.percent > 0
    }

    /// With so many units free or fewer, of so many, it is time to grow.
    pub(crate) fn mark(self, total: u64) -> u64 {
        part(total, 100_u8.saturating_sub(self.threshold))
    }

    /// Is it time to grow? The same rule as the kernel's for its low-water mark.
    pub(crate) fn is_due(self, used: u64, total: u64) -> bool {
        total.saturating_sub(used) <= self.mark(total)
    }

    /// The size after one growth: larger by the percentage, and at least so large that it is not due again.
    pub(crate) fn step(self, used: u64, total: u64) -> u64 {
        let larger = total.saturating_add(part(total, self.percent).max(1));
        let threshold = u128::from(self.threshold.clamp(1, 99));
        let enough = u128::from(used) * 100 / threshold + 2;
        larger.max(u64::try_from(enough).unwrap_or(u64::MAX))
    }
}

/// So many percent of a number, rounded down.
pub(crate) fn part(of: u64, percent: u8) -> u64 {
    u64::try_from(u128::from(of) * u128::from(percent) / 100).unwrap_or(u64::MAX)
}

/// With less than this free, a host file system is as good as full: ext4 alone keeps up to 16 MiB for itself, and calls them free.
pub(crate) const LEAST_HOST: u64 = 16 << 20;

/// What the host can give to a file of the pool: all but a twentieth of what is free, and but [`LEAST_HOST`], so that the host's own programs go on.
pub(crate) fn host_share(free: u64) -> u64 {
    free.saturating_sub((free / 20).max(LEAST_HOST))
}

/// The largest size that a sparse file may have so that the host can hold all of it.
pub(crate) fn held_by_host(allocated: Bytes, free: u64) -> Bytes {
    Bytes(allocated.0.saturating_add(host_share(free)))
}

/// A growth by less than this part of the size is not worth a reload.
const LEAST_PART: u64 = 100;

/// Brings a wanted size within a limit; `None` if next to nothing would be gained.
pub(crate) fn within_limit(total: u64, wanted: u64, limit: u64, unit: u64) -> Option<u64> {
    let to = wanted.min(limit) / unit * unit;
    (to >= total.saturating_add((total / LEAST_PART).max(unit))).then_some(to)
}

/// The reserve for metadata beside a metadata file of this size: a sixteenth of it, from 4 MiB to 64 MiB.
pub(crate) fn reserve_size(metadata: Bytes) -> Bytes {
    Bytes((metadata.0 / 16).clamp(4 << 20, 64 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn at_eighty_by_twenty() {
        let extend = Extend::default();
        assert_eq!((extend.mark(1000), extend.step(800, 1000)), (200, 1200));
        assert!(!extend.is_due(799, 1000) && extend.is_due(800, 1000));
        // A pool that filled up before anybody looked gets what it needs in one step.
        assert_eq!(extend.step(1000, 1000), 1252);
        assert!(!Extend { threshold: 100, percent: 20 }.is_on());
    }

    #[test]
    fn the_host_limits_growth() {
        assert_eq!(held_by_host(Bytes(100), 2000 << 20), Bytes(100 + (1900 << 20)));
        assert_eq!(held_by_host(Bytes(100), 20 << 20), Bytes(100 + (4 << 20)));
        assert_eq!(held_by_host(Bytes(100), 1 << 20), Bytes(100));
        assert_eq!(within_limit(1000, 1200, 1100, 10), Some(1100));
        assert_eq!(within_limit(1000, 1200, 1005, 10), None);
        assert_eq!(within_limit(1000, 1200, 500, 10), None);
    }

    #[test]
    fn the_reserve_has_bounds() {
        for (metadata, reserve) in [(2 << 20, 4 << 20), (128 << 20, 8 << 20), (2 << 30, 64 << 20)] {
            assert_eq!(reserve_size(Bytes(metadata)), Bytes(reserve));
        }
    }

    proptest! {
        #[test]
        fn one_step_is_enough(threshold in 1_u8..100, percent in 1_u8..=100, total in 1_u64..1 << 40, used in 0_u64..1 << 40) {
            let extend = Extend { threshold, percent };
            let used = used.min(total);
            let to = extend.step(used, total);
            prop_assert!(to > total);
            prop_assert!(!extend.is_due(used, to), "{used} of {to} is due again");
        }

        #[test]
        fn a_limited_growth_is_a_growth_within_the_limit(total in 1_u64..1 << 40, wanted in 0_u64..1 << 41, limit in 0_u64..1 << 41, unit in 1_u64..1 << 20) {
            if let Some(to) = within_limit(total, wanted, limit, unit) {
                prop_assert!(to > total && to <= wanted && to <= limit && to % unit == 0);
            }
        }
    }
}
