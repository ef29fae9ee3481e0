//! Discarding a whole device, piece by piece, no faster than asked for.

use crate::backing::Progress;
use crate::error::{Error, Result};
use crate::file::{errno, failed};
use crate::sys;
use nix::errno::Errno;
use std::fs::File;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};
use thinlayer_dm::{Bytes, DeviceNumber};

/// The largest piece: small enough that progress is seen and others get their turn at the queue.
const LARGEST_PIECE: u64 = 256 << 20;
/// The smallest piece where the device does not ask for more: a block of a pool.
const SMALLEST_PIECE: u64 = 64 << 10;
/// With a rate, so many pieces a second, if pieces can be as small.
const PIECES_A_SECOND: u64 = 4;

/// [`crate::Backing::discard`].
pub(crate) fn discard(
    sysfs: &Path,
    path: &Path,
    rate: Option<Bytes>,
    progress: Progress<'_>,
) -> Result<bool> {
    if rate == Some(Bytes(0)) {
        return Err(Error::Unfit {
            path: path.to_owned(),
            why: "a discard of 0 bytes a second never ends; choose a higher rate, or none".into(),
        });
    }
    let found = std::fs::metadata(path).map_err(|error| failed("look at", path, errno(&error)))?;
    if !found.file_type().is_block_device() {
        return Err(Error::Unfit {
            path: path.to_owned(),
            why: "this is no block device, so it cannot discard".into(),
        });
    }
    let device = File::options()
        .read(true)
        .write(true)
        .open(path)
        .map_err(|error| failed("open", path, errno(&error)))?;
    let size = sys::block_size(&device).map_err(|errno| failed("measure", path, errno))?;
    let granularity = granularity(sysfs, DeviceNumber::from_stat(found.rdev()));
    let piece = piece(rate, granularity);
    let mut pace = rate.map(|rate| Pace::new(rate, Instant::now()));
    let mut done = 0;
    while done < size.0 {
        let length = piece.min(size.0 - done);
        if let Some(pace) = &mut pace {
            std::thread::sleep(pace.wait(Instant::now(), length));
        }
        match sys::block_discard(&device, done, length) {
            Ok(()) => {}
            Err(Errno::EINTR) => continue,
            Err(Errno::EOPNOTSUPP) => return Ok(false),
            Err(errno) => return Err(failed("discard", path, errno)),
        }
        done += length;
        progress(Bytes(done), size);
    }
    Ok(true)
}

/// The unit in which the device frees; a device without a queue of its own (a partition) has its disk's.
fn granularity(sysfs: &Path, number: DeviceNumber) -> u64 {
    let folder = sysfs.join("dev/block").join(number.to_string());
    ["queue/discard_granularity", "../queue/discard_granularity"]
        .iter()
        .find_map(|file| std::fs::read_to_string(folder.join(file)).ok()?.trim().parse().ok())
        .unwrap_or(0)
}

/// The size of a piece: a quarter of a second's worth, in whole units of the device.
fn piece(rate: Option<Bytes>, granularity: u64) -> u64 {
    let unit = granularity.clamp(1, LARGEST_PIECE);
    let wanted = rate.map_or(LARGEST_PIECE, |rate| rate.0 / PIECES_A_SECOND);
    let wanted = wanted.clamp(SMALLEST_PIECE, LARGEST_PIECE);
    // Pieces that begin inside of a unit would free neither half of it.
    let units = (wanted / unit).max(1);
    // Sectors are the least that the kernel takes.
    (units * unit).next_multiple_of(512)
}

/// Keeps a stream of pieces at a rate. Time that was lost is not caught up: the rate is a limit at every moment.
#[derive(Debug)]
struct Pace {
    bytes_a_second: u64,
    /// When the next piece may start.
    next: Instant,
}

impl Pace {
    fn new(rate: Bytes, now: Instant) -> Self {
        Self { bytes_a_second: rate.0.max(1), next: now }
    }

    /// How long to wait before a piece of this length.
    fn wait(&mut self, now: Instant, length: u64) -> Duration {
        let start = self.next.max(now);
        let nanos = u128::from(length) * 1_000_000_000 / u128::from(self.bytes_a_second);
        // A piece that takes longer than a day is a rate that nobody meant.
        let takes =
            Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)).min(Duration::from_secs(86_400));
        self.next = start + takes;
        start.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn pieces_follow_the_rate_and_the_device() {
        assert_eq!(piece(None, 0), 256 * MIB);
        assert_eq!(piece(Some(Bytes(40 * MIB)), 0), 10 * MIB);
        assert_eq!(piece(Some(Bytes(1)), 0), 64 << 10);
        assert_eq!(piece(Some(Bytes(u64::MAX)), 512), 256 * MIB);
        // A pool with blocks of 1 MiB frees nothing smaller.
        assert_eq!(piece(Some(Bytes(MIB)), MIB), MIB);
        assert_eq!(piece(Some(Bytes(10 * MIB)), MIB), 2 * MIB);
        assert_eq!(piece(None, 3 * 512), 256 * MIB / 1536 * 1536);
    }

    #[test]
    fn the_first_piece_starts_at_once_and_each_takes_its_time() {
        let start = Instant::now();
        let mut pace = Pace::new(Bytes(4 * MIB), start);
        assert_eq!(pace.wait(start, MIB), Duration::ZERO);
        assert_eq!(pace.wait(start, MIB), Duration::from_millis(250));
        assert_eq!(pace.wait(start + Duration::from_millis(400), MIB), Duration::from_millis(100));
        // Late: no hurry afterwards.
        let late = start + Duration::from_secs(9);
        assert_eq!(pace.wait(late, MIB), Duration::ZERO);
        assert_eq!(pace.wait(late, MIB), Duration::from_millis(250));
    }

    #[test]
    fn only_block_devices_and_rates_that_end() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = discard(Path::new("/sys"), file.path(), None, &|_, _| {}).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let error = discard(Path::new("/sys"), file.path(), Some(Bytes(0)), &|_, _| {}).unwrap_err();
        assert!(error.to_string().contains("never ends"), "{error}");
        let error = discard(Path::new("/sys"), Path::new("/nonexistent"), None, &|_, _| {}).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }

    proptest! {
        #[test]
        fn pieces_are_whole_units_and_never_nothing(rate in any::<u64>(), granularity in 0_u64..1 << 31) {
            let piece = piece(Some(Bytes(rate)), granularity);
            prop_assert!(piece >= 512 && piece.is_multiple_of(512) && piece <= LARGEST_PIECE + 512);
            if granularity.is_multiple_of(512) && (512..=LARGEST_PIECE).contains(&granularity) {
                prop_assert_eq!(piece % granularity, 0);
            }
        }

        #[test]
        fn no_window_of_time_gets_more_than_the_rate(
            rate in 1_u64..1 << 40,
            pieces in prop::collection::vec((1_u64..1 << 28, 0_u64..2_000), 2..40),
        ) {
            let start = Instant::now();
            let mut now = start;
            let mut pace = Pace::new(Bytes(rate), start);
            let mut earliest = None;
            for (length, work_ms) in pieces {
                now += pace.wait(now, length);
                if let Some(earliest) = earliest {
                    prop_assert!(now >= earliest);
                }
                let takes = u128::from(length) * 1_000_000_000 / u128::from(rate);
                let takes = Duration::from_nanos(u64::try_from(takes).unwrap_or(u64::MAX));
                earliest = Some(now + takes.min(Duration::from_secs(86_400)));
                now += Duration::from_millis(work_ms);
            }
        }
    }
}
