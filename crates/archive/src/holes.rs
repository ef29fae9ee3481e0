//! Where a file has data, and where holes.

use crate::entry::Extent;
use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use std::os::fd::BorrowedFd;

/// Runs of data that a stream tells of at most; of a file with more, the smallest holes are filled. Readers bound this, too.
const MOST_RUNS: usize = 8192;

/// A file's runs of data, or `None` if it has no holes that are worth telling, or its file system does not tell them.
pub(crate) fn runs(file: BorrowedFd<'_>, size: u64) -> nix::Result<Option<Vec<Extent>>> {
    let seek = |offset: u64, whence| {
        let offset = i64::try_from(offset).map_err(|_| Errno::EOVERFLOW)?;
        lseek(file, offset, whence).map(i64::unsigned_abs)
    };
    let mut runs = Vec::new();
    let mut offset = 0;
    while offset < size {
        let start = match seek(offset, Whence::SeekData) {
            Ok(start) if start < size => start,
            Ok(_) | Err(Errno::ENXIO) => break,
            Err(Errno::EINVAL | Errno::EOPNOTSUPP) => return Ok(None),
            Err(errno) => return Err(errno),
        };
        let end = seek(start, Whence::SeekHole)?.min(size);
        // A file that is written meanwhile may have neither here.
        if end <= start {
            break;
        }
        runs.push(Extent { offset: start, length: end - start });
        offset = end;
    }
    let runs = fewer(runs, MOST_RUNS);
    let data: u64 = runs.iter().map(|run| run.length).sum();
    Ok((data < size).then_some(runs))
}

/// At most so many runs: holes smaller than the rest are counted as data.
fn fewer(runs: Vec<Extent>, most: usize) -> Vec<Extent> {
    if runs.len() <= most {
        return runs;
    }
    let mut holes: Vec<u64> = runs.windows(2).map(|pair| hole(&pair[0], &pair[1])).collect();
    // So many holes stay between the runs.
    let kept = most - 1;
    let (larger, smallest, _) = holes.select_nth_unstable_by(kept, |one, other| other.cmp(one));
    let smallest = *smallest;
    // Of holes that are as large as the first one to go, some stay.
    let mut equal = larger.iter().filter(|hole| **hole == smallest).count();
    let mut joined: Vec<Extent> = Vec::with_capacity(most);
    for run in runs {
        let Some(last) = joined.last_mut() else {
            joined.push(run);
            continue;
        };
        let hole = hole(last, &run);
        let stays = hole > smallest || (hole == smallest && equal > 0);
        if stays {
            equal -= usize::from(hole == smallest);
            joined.push(run);
        } else {
            last.length = run.offset + run.length - last.offset;
        }
    }
    joined
}

fn hole(before: &Extent, after: &Extent) -> u64 {
    after.offset - (before.offset + before.length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_file_tells_its_runs() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        file.write_all_at(b"x", 65536).unwrap();
        let found = runs(file.as_fd(), 1 << 20).unwrap().unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].offset <= 65536 && found[0].offset + found[0].length > 65536);
        let empty = tempfile::tempfile().unwrap();
        empty.set_len(5000).unwrap();
        assert_eq!(runs(empty.as_fd(), 5000).unwrap(), Some(vec![]));
        empty.write_all_at(&[1; 5000], 0).unwrap();
        assert_eq!(runs(empty.as_fd(), 5000).unwrap(), None);
    }

    #[test]
    fn the_largest_holes_stay() {
        let run = |offset, length| Extent { offset, length };
        let runs = vec![run(0, 1), run(2, 1), run(10, 1), run(13, 1), run(30, 1)];
        assert_eq!(fewer(runs.clone(), 5), runs);
        assert_eq!(fewer(runs.clone(), 3), [run(0, 3), run(10, 4), run(30, 1)]);
        assert_eq!(fewer(runs, 2), [run(0, 14), run(30, 1)]);
        let even: Vec<_> = (0..10).map(|number| run(number * 4, 1)).collect();
        assert_eq!(fewer(even, 3), [run(0, 1), run(4, 1), run(8, 29)]);
    }
}
