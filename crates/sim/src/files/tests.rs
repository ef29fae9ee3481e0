use super::*;
use std::collections::HashSet;
use std::path::PathBuf;

fn files() -> Files {
    let mut files = Files::new(1 << 30);
    files.make_folder(Path::new("/d"), 0o700).unwrap();
    files.sync_folder(Path::new("/")).unwrap();
    files
}

/// Everything that a power cut may leave of `/d`, over many seeds.
fn outcomes(files: &Files) -> HashSet<Vec<(String, Vec<u8>)>> {
    (0..200)
        .map(|seed| {
            let mut after = files.clone();
            after.power_cut(&mut Random::new(seed));
            let names = after.list(Path::new("/d")).unwrap_or_default();
            names
                .into_iter()
                .map(|(name, _)| {
                    let content = after.read(&PathBuf::from("/d").join(&name)).unwrap();
                    (name.into_string().unwrap(), content)
                })
                .collect()
        })
        .collect()
}

fn state(all: &[(&str, &str)]) -> Vec<(String, Vec<u8>)> {
    all.iter().map(|(name, content)| ((*name).to_owned(), content.as_bytes().to_vec())).collect()
}

#[test]
fn a_new_file_may_be_lost_empty_in_part_or_whole() {
    let mut files = files();
    files.write(Path::new("/d/f"), b"abcd").unwrap();
    let expected = [state(&[]), state(&[("f", "")]), state(&[("f", "ab")]), state(&[("f", "abcd")])];
    assert_eq!(outcomes(&files), expected.into_iter().collect());
    files.sync_file(Path::new("/d/f")).unwrap();
    let expected = [state(&[]), state(&[("f", "abcd")])];
    assert_eq!(outcomes(&files), expected.into_iter().collect(), "its name is not synced");
    files.sync_folder(Path::new("/d")).unwrap();
    assert_eq!(outcomes(&files), [state(&[("f", "abcd")])].into_iter().collect());
}

#[test]
fn a_rename_without_the_files_sync_may_leave_an_empty_file() {
    let mut files = files();
    files.write(Path::new("/d/f"), b"old!").unwrap();
    files.sync_file(Path::new("/d/f")).unwrap();
    files.sync_folder(Path::new("/d")).unwrap();
    files.write(Path::new("/d/t"), b"new!").unwrap();
    files.rename(Path::new("/d/t"), Path::new("/d/f")).unwrap();
    let seen = outcomes(&files);
    assert!(seen.contains(&state(&[("f", "old!")])), "{seen:?}");
    assert!(seen.contains(&state(&[("f", "")])), "{seen:?}");
    assert!(seen.contains(&state(&[("f", "new!")])), "{seen:?}");
    // Never neither of both names, and never the new file under both.
    assert!(seen.iter().all(|s| s.iter().any(|(name, _)| name == "f")), "{seen:?}");
    files.sync_file(Path::new("/d/f")).unwrap();
    let seen = outcomes(&files);
    assert!(!seen.contains(&state(&[("f", "")])), "{seen:?}");
}

#[test]
fn what_stands_on_a_lost_change_is_lost_too() {
    let mut files = files();
    files.write(Path::new("/d/t"), b"x").unwrap();
    files.sync_file(Path::new("/d/t")).unwrap();
    files.rename(Path::new("/d/t"), Path::new("/d/f")).unwrap();
    files.remove(Path::new("/d/f")).unwrap();
    let expected = [state(&[]), state(&[("t", "x")]), state(&[("f", "x")])];
    assert_eq!(outcomes(&files), expected.into_iter().collect());
}

#[test]
fn a_removal_may_come_back_until_it_is_synced() {
    let mut files = files();
    files.write(Path::new("/d/f"), b"x").unwrap();
    files.sync_file(Path::new("/d/f")).unwrap();
    files.sync_folder(Path::new("/d")).unwrap();
    files.remove(Path::new("/d/f")).unwrap();
    assert_eq!(outcomes(&files), [state(&[]), state(&[("f", "x")])].into_iter().collect());
    files.sync_folder(Path::new("/d")).unwrap();
    assert_eq!(outcomes(&files), [state(&[])].into_iter().collect());
}

#[test]
fn a_rename_across_folders_needs_both_synced() {
    let mut files = files();
    files.make_folder(Path::new("/e"), 0o700).unwrap();
    files.sync_folder(Path::new("/")).unwrap();
    files.write(Path::new("/d/f"), b"x").unwrap();
    files.sync_file(Path::new("/d/f")).unwrap();
    files.sync_folder(Path::new("/d")).unwrap();
    files.rename(Path::new("/d/f"), Path::new("/e/f")).unwrap();
    assert!(!files.is_synced(Path::new("/d")) && !files.is_synced(Path::new("/e")));
    files.sync_folder(Path::new("/e")).unwrap();
    assert!(files.is_synced(Path::new("/e")));
    // The new name is there for sure; the old one may be, too.
    let both = |seed| {
        let mut after = files.clone();
        after.power_cut(&mut Random::new(seed));
        assert_eq!(after.read(Path::new("/e/f")).unwrap(), b"x");
        after.read(Path::new("/d/f")).is_ok()
    };
    let seen: HashSet<bool> = (0..50).map(both).collect();
    assert_eq!(seen, [true, false].into_iter().collect());
}

#[test]
fn an_overwrite_is_durable() {
    let mut files = files();
    files.write(Path::new("/d/f"), b"12345").unwrap();
    files.sync_file(Path::new("/d/f")).unwrap();
    files.sync_folder(Path::new("/d")).unwrap();
    files.overwrite(Path::new("/d/f"), b"ab", true).unwrap();
    assert_eq!(outcomes(&files), [state(&[("f", "ab345")])].into_iter().collect());
    assert_eq!(files.overwrite(Path::new("/d/f"), b"123456", true), Err(Errno::EINVAL));
    files.overwrite(Path::new("/d/f"), b"XY", false).unwrap();
    let expected = [state(&[("f", "ab345")]), state(&[("f", "XY345")])];
    assert_eq!(outcomes(&files), expected.into_iter().collect(), "a kill before its sync");
}

#[test]
fn room_is_counted() {
    let mut files = files();
    let free = files.free();
    files.write(Path::new("/d/f"), &[1; 5000]).unwrap();
    assert_eq!(files.free(), free - 8192);
    files.capacity = files.used();
    assert_eq!(files.may_write(Path::new("/d/g"), 1), Err(Errno::ENOSPC));
    assert_eq!(files.may_write(Path::new("/d/f"), 8192), Ok(()));
    files.remove(Path::new("/d/f")).unwrap();
    assert_eq!(files.may_write(Path::new("/d/g"), 1), Ok(()));
}
