use super::*;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

fn options(kind: Kind, args: &[&str]) -> MakeOptions {
    let args = args.iter().map(ToString::to_string).collect();
    MakeOptions { kind, args, deadline: Duration::from_secs(60) }
}

fn tried(kind: Kind, args: &[&str], kernel: (u32, u32)) -> Vec<String> {
    attempts(&options(kind, args), Path::new("/dev/dm-3"), Some(kernel))
        .iter()
        .map(|words| words.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join("|"))
        .collect()
}

#[test]
fn the_argument_lists_of_the_specification() {
    assert_eq!(tried(Kind::Xfs, &[], (6, 1)), ["/dev/dm-3"]);
    assert_eq!(tried(Kind::Xfs, &["-i", "size=512"], (3, 16)), ["-i|size=512|/dev/dm-3"]);
    assert_eq!(tried(Kind::Xfs, &["-K"], (3, 10)), ["-m|crc=0,finobt=0|-K|/dev/dm-3"]);
    // One argument stays one, blanks and all.
    assert_eq!(
        tried(Kind::Ext4, &["-L a b"], (3, 10)),
        [
            "-E|nodiscard,lazy_itable_init=0,lazy_journal_init=0|-L a b|/dev/dm-3",
            "-E|nodiscard,lazy_itable_init=0|-L a b|/dev/dm-3"
        ]
    );
}

#[test]
fn releases() {
    assert_eq!(version("6.1.0-18-cloud-amd64"), Some((6, 1)));
    assert_eq!(version("3.16-rc1"), Some((3, 16)));
    assert_eq!(version("2.6.32.61"), Some((2, 6)));
    assert_eq!(version("odd"), None);
    assert!(running_kernel().is_some_and(|version| version > (3, 0)));
}

/// A program with this body in a folder of its own.
fn fake(folder: &Path, body: &str) -> PathBuf {
    let path = folder.join("mkfs.ext4");
    std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn an_old_mkfs_is_tried_again_without_lazy_journal_init() {
    let folder = tempfile::tempdir().unwrap();
    let device = folder.path().join("image");
    // An ext4 superblock by hand: the magic number, and no checks.
    let body = format!(
        "case $2 in *lazy_journal_init*) echo Bad options: lazy_journal_init >&2; exit 1;; esac\n\
         head -c 131072 /dev/zero > {0}; printf '\\123\\357' | dd of={0} bs=1 seek=1080 conv=notrunc 2>&1",
        device.display()
    );
    let program = fake(folder.path(), &body);
    make(&program, &device, &options(Kind::Ext4, &[]), &|_| {}).unwrap();
    assert!(matches!(detect(&device).unwrap(), Detected::Known { kind: Kind::Ext4, .. }));
}

#[test]
fn the_error_has_the_last_lines_of_what_mkfs_said() {
    let folder = tempfile::tempdir().unwrap();
    let program = fake(folder.path(), "echo mke2fs 1.47; echo why not >&2; exit 7");
    let error = make(&program, Path::new("/dev/dm-3"), &options(Kind::Ext4, &[]), &|_| {}).unwrap_err();
    let text = error.to_string();
    for part in ["make ext4 on /dev/dm-3", "mkfs.ext4 ended with exit status: 7", "mke2fs 1.47; why not"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

#[test]
fn both_tries_share_one_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let program = fake(folder.path(), "case $2 in *lazy_journal_init*) sleep 0.5; exit 1;; esac; sleep 60");
    let options = MakeOptions { deadline: Duration::from_millis(1200), ..options(Kind::Ext4, &[]) };
    let start = Instant::now();
    let error = make(&program, Path::new("/dev/dm-3"), &options, &|_| {}).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Deadline);
    assert!(error.to_string().contains("still ran after 1.2 s and was killed"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn a_mkfs_that_made_nothing_is_found_out() {
    let folder = tempfile::tempdir().unwrap();
    let device = folder.path().join("image");
    std::fs::write(&device, vec![0; 131_072]).unwrap();
    let program = fake(folder.path(), "exit 0");
    let error = make(&program, &device, &options(Kind::Xfs, &[]), &|_| {}).unwrap_err();
    assert!(error.to_string().contains("ended well, but Nothing is there"), "{error}");
    // ext4's superblock is looked at before.
    let error = make(&program, &device, &options(Kind::Ext4, &[]), &|_| {}).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
}
