//! A pool that grows: LVM extends its data or its metadata, and reloads its table.

use super::pool::{PoolFacts, PoolVolume, look};
use super::report::report;
use super::{Programs, must};
use crate::error::{Error, Result};
use std::time::Duration;
use thinlayer_dm::Bytes;

const SECTOR: u64 = 512;

/// What [`grow`] made of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grown {
    /// The pool before.
    pub before: PoolFacts,
    /// The pool now. Sizes are whole extents of its volume group, so they may be above what was asked for.
    pub now: PoolFacts,
}

impl Grown {
    /// Is anything larger?
    pub fn changed(&self) -> bool {
        self.now.data > self.before.data || self.now.metadata > self.before.metadata
    }
}

/// Extends a pool of LVM's to at least these sizes, in all; what is not given, or that large already, stays.
///
/// Called by the owner's watcher at a threshold, and by hand by `thinlayer pool grow`. Metadata goes first: where there is little room
/// left, it is what a pool cannot do without. The pool may be active, also full or with I/O waiting for room: LVM reloads it without
/// flushing, and the kernel takes it on from there. `deadline` is for each of LVM's programs; there are at most six.
///
/// With data LVM may extend metadata too, to what it thinks the larger pool needs. It does so before it finds that there is no room for the data,
/// so the room is looked at first.
///
/// Where dmeventd watches the pool ([`PoolFacts::monitored`]), LVM extends it by itself and a watcher only watches; a call by hand is as good as any.
///
/// # Errors
/// [`crate::ErrorKind::NoSpace`] ([`Error::GroupFull`]) if the volume group has not got the room: data may then still be as it was while metadata
/// has grown. [`crate::ErrorKind::NotFound`] if LVM knows no such pool; [`crate::ErrorKind::Busy`] at the deadline; otherwise what LVM says.
pub fn grow(
    programs: &dyn Programs,
    pool: &PoolVolume,
    data: Option<Bytes>,
    metadata: Option<Bytes>,
    deadline: Duration,
) -> Result<Grown> {
    let found = || look(programs, pool, deadline)?.ok_or_else(|| unknown(pool));
    let before = found()?;
    let mut now = before.clone();
    let metadata = metadata.filter(|size| *size > before.metadata);
    let data = data.filter(|size| *size > before.data);
    let more = |wanted: Option<Bytes>, has: Bytes| wanted.map_or(0, |size| size.0.saturating_sub(has.0));
    let needed = more(metadata, before.metadata).saturating_add(more(data, before.data));
    if needed > 0 {
        let free = free(programs, pool.group(), deadline)?;
        if needed > free.0 {
            return Err(full(pool, free, &format!("{needed} bytes more")));
        }
    }
    if let Some(size) = metadata {
        extend(programs, pool, "--poolmetadatasize", size, "metadata", deadline)?;
        now.metadata = size;
    }
    if let Some(size) = data {
        extend(programs, pool, "--size", size, "data", deadline)?;
        now.data = size;
    }
    if now != before {
        now = found()?;
    }
    Ok(Grown { before, now })
}

/// Gives more metadata to a pool that has run out of it, so that something can be removed again: a fifth more out of its volume group, else
/// what the group's spare metadata volume takes.
///
/// LVM keeps that spare for a repair, as large as the metadata; it makes it again with the next extension of metadata that finds the room.
/// A crash between its removal and the extension leaves its room in the group, for the next call. At most seven programs are run.
///
/// # Errors
/// As [`grow`]; [`crate::ErrorKind::NoSpace`] if the group is full and has no spare.
pub fn relieve(programs: &dyn Programs, pool: &PoolVolume, deadline: Duration) -> Result<Grown> {
    let found = || look(programs, pool, deadline)?.ok_or_else(|| unknown(pool));
    let before = found()?;
    let to = |more: u64| Bytes(before.metadata.0.saturating_add(more.max(1)));
    let metadata = |size| extend(programs, pool, "--poolmetadatasize", size, "metadata", deadline);
    match metadata(to(before.metadata.0 / 5)) {
        Err(full @ Error::GroupFull { .. }) => {
            let Some((spare, size)) = spare(programs, pool.group(), deadline)? else { return Err(full) };
            must(programs, "lvremove", &["--yes", &format!("{}/{spare}", pool.group())], deadline)?;
            metadata(to(size.0))?;
        }
        other => other?,
    }
    Ok(Grown { now: found()?, before })
}

/// A group's spare metadata volume, by name and size.
fn spare(programs: &dyn Programs, group: &str, deadline: Duration) -> Result<Option<(String, Bytes)>> {
    let select = format!("vg_name=\"{group}\"");
    for row in report(programs, "lvs", &["lv_name", "lv_size"], Some(&select), deadline)? {
        // Volumes that LVM made for itself stand in brackets.
        let name = row.text("lv_name").trim_matches(['[', ']']);
        if name.ends_with("_pmspare") {
            return Ok(Some((name.to_owned(), row.bytes("lv_size")?)));
        }
    }
    Ok(None)
}

fn unknown(pool: &PoolVolume) -> Error {
    Error::System {
        action: "grow",
        path: format!("/dev/{pool}").into(),
        errno: nix::errno::Errno::ENOENT,
        advice: "LVM knows no such thin pool: see lvs --all".into(),
    }
}

fn extend(
    programs: &dyn Programs,
    pool: &PoolVolume,
    option: &str,
    size: Bytes,
    side: &str,
    deadline: Duration,
) -> Result<()> {
    // LVM takes whole sectors only, and rounds up to whole extents by itself.
    let wanted = format!("{}b", size.0.next_multiple_of(SECTOR));
    let failed = match must(programs, "lvextend", &["--yes", option, &wanted, &pool.to_string()], deadline) {
        Ok(_) => return Ok(()),
        Err(failed) => failed,
    };
    // LVM has no exit code of its own for this: `Insufficient free space: 25 extents needed, but only 3 available`,
    // `Insufficient suitable allocatable extents`.
    if !matches!(&failed, Error::Program { said, .. } if said.contains("nsufficient")) {
        return Err(failed);
    }
    let free = free(programs, pool.group(), deadline).unwrap_or(Bytes(0));
    Err(full(pool, free, &format!("{} bytes of {side}", size.0)))
}

fn full(pool: &PoolVolume, free: Bytes, wanted: &str) -> Error {
    Error::GroupFull { group: pool.group().to_owned(), free: free.0, wanted: format!("{wanted} for {pool}") }
}

/// What a volume group has left.
///
/// # Errors
/// What `vgs` says.
pub fn free(programs: &dyn Programs, group: &str, deadline: Duration) -> Result<Bytes> {
    let rows = report(programs, "vgs", &["vg_free"], Some(&format!("vg_name=\"{group}\"")), deadline)?;
    rows.first().map_or(Ok(Bytes(0)), |row| row.bytes("vg_free"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::lvm::Finished;
    use std::collections::VecDeque;
    use std::path::PathBuf;
    use std::sync::Mutex;

    const DEADLINE: Duration = Duration::from_secs(1);

    /// Answers in their order, and what was asked.
    #[derive(Debug, Default)]
    struct Played {
        answers: Mutex<VecDeque<Finished>>,
        asked: Mutex<Vec<String>>,
    }

    impl Programs for Played {
        fn find(&self, program: &str) -> Option<PathBuf> {
            Some(program.into())
        }

        fn run(&self, program: &str, arguments: &[&str], _: Duration) -> Result<Finished> {
            if program == "lvextend" {
                self.asked.lock().unwrap().push(arguments.join(" "));
            } else if program == "lvremove" {
                self.asked.lock().unwrap().push(format!("remove {}", arguments.join(" ")));
            }
            Ok(self.answers.lock().unwrap().pop_front().unwrap())
        }

        fn write_profile(&self, _: &str, _: &str) -> Result<()> {
            unreachable!()
        }
    }

    fn pool(data: u64, metadata: u64) -> Finished {
        let row = format!(
            r#"{{"report":[{{"lv":[{{"vg_name":"docker","lv_name":"thinpool","segtype":"thin-pool","lv_size":"{data}","lv_metadata_size":"{metadata}"}}]}}]}}"#
        );
        Finished { code: Some(0), stdout: row, stderr: String::new() }
    }

    fn left(bytes: u64) -> Finished {
        let row = format!(r#"{{"report":[{{"vg":[{{"vg_free":"{bytes}"}}]}}]}}"#);
        Finished { code: Some(0), stdout: row, stderr: String::new() }
    }

    fn done() -> Finished {
        Finished { code: Some(0), stdout: "resized".into(), stderr: String::new() }
    }

    fn played(answers: impl IntoIterator<Item = Finished>) -> Played {
        Played { answers: Mutex::new(answers.into_iter().collect()), asked: Mutex::default() }
    }

    #[test]
    fn metadata_grows_first_and_sizes_are_totals_in_whole_sectors() {
        let programs = played([pool(100, 10), left(910), done(), done(), pool(1024, 512)]);
        let grown =
            grow(&programs, &PoolVolume::docker(), Some(Bytes(1000)), Some(Bytes(20)), DEADLINE).unwrap();
        assert!(grown.changed() && grown.now.data == Bytes(1024));
        let asked = programs.asked.into_inner().unwrap();
        assert_eq!(
            asked,
            ["--yes --poolmetadatasize 512b docker/thinpool", "--yes --size 1024b docker/thinpool"]
        );
    }

    #[test]
    fn what_is_large_enough_stays() {
        let programs = played([pool(100, 10)]);
        let grown = grow(&programs, &PoolVolume::docker(), Some(Bytes(100)), None, DEADLINE).unwrap();
        assert!(!grown.changed());
        assert!(programs.asked.into_inner().unwrap().is_empty());
    }

    #[test]
    fn no_room_is_told_with_what_there_is() {
        let full = Finished {
            code: Some(5),
            stdout: String::new(),
            stderr: "  Insufficient free space: 2560 extents needed, but only 166 available\n".into(),
        };
        // The room is whole extents, and the spare metadata takes of it, too.
        let programs = played([pool(100, 10), left(1 << 40), full, left(696_254_464)]);
        let error = grow(&programs, &PoolVolume::docker(), Some(Bytes(1 << 40)), None, DEADLINE).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        assert!(error.to_string().contains("volume group docker has 696254464 bytes free"), "{error}");
    }

    /// LVM would extend the metadata before it finds that there is no room.
    #[test]
    fn what_cannot_be_had_is_not_tried() {
        let programs = played([pool(100, 10), left(99)]);
        let error = grow(&programs, &PoolVolume::docker(), Some(Bytes(200)), None, DEADLINE).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        assert!(error.to_string().contains("99 bytes free"), "{error}");
        assert!(programs.asked.into_inner().unwrap().is_empty());
    }

    fn refused() -> Finished {
        let stderr = "  Insufficient free space: 1 extents needed, but only 0 available\n".into();
        Finished { code: Some(5), stdout: String::new(), stderr }
    }

    fn volumes(names: &[&str]) -> Finished {
        let rows: Vec<_> =
            names.iter().map(|name| format!(r#"{{"lv_name":"{name}","lv_size":"50"}}"#)).collect();
        let stdout = format!(r#"{{"report":[{{"lv":[{}]}}]}}"#, rows.join(","));
        Finished { code: Some(0), stdout, stderr: String::new() }
    }

    #[test]
    fn a_pool_out_of_metadata_gets_what_the_group_has() {
        let programs = played([pool(100, 50), done(), pool(100, 60)]);
        assert!(relieve(&programs, &PoolVolume::docker(), DEADLINE).unwrap().changed());
        let asked = programs.asked.into_inner().unwrap();
        assert_eq!(asked, ["--yes --poolmetadatasize 512b docker/thinpool"]);
    }

    #[test]
    fn a_full_group_gives_its_spare() {
        let group = volumes(&["filler", "[lvol0_pmspare]", "thinpool"]);
        let programs = played([pool(100, 50), refused(), left(0), group, done(), done(), pool(100, 100)]);
        assert!(relieve(&programs, &PoolVolume::docker(), DEADLINE).unwrap().changed());
        let asked = programs.asked.into_inner().unwrap();
        assert_eq!(
            asked,
            [
                "--yes --poolmetadatasize 512b docker/thinpool",
                "remove --yes docker/lvol0_pmspare",
                "--yes --poolmetadatasize 512b docker/thinpool"
            ]
        );
        // Without one nothing is removed.
        let programs = played([pool(100, 50), refused(), left(0), volumes(&["filler", "thinpool"])]);
        let error = relieve(&programs, &PoolVolume::docker(), DEADLINE).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        assert_eq!(programs.asked.into_inner().unwrap().len(), 1);
    }

    #[test]
    fn other_refusals_and_unknown_pools_are_told_apart() {
        let refused = Finished { code: Some(5), stdout: String::new(), stderr: "  Pool is broken\n".into() };
        let programs = played([pool(100, 10), left(1000), refused]);
        let error = grow(&programs, &PoolVolume::docker(), Some(Bytes(200)), None, DEADLINE).unwrap_err();
        assert!(error.kind() == ErrorKind::Other && error.to_string().contains("Pool is broken"), "{error}");
        let none =
            Finished { code: Some(0), stdout: r#"{"report":[{"lv":[]}]}"#.into(), stderr: String::new() };
        let error = grow(&played([none]), &PoolVolume::docker(), None, None, DEADLINE).unwrap_err();
        assert!(
            error.kind() == ErrorKind::NotFound && error.to_string().contains("no such thin pool"),
            "{error}"
        );
    }
}
