use super::*;
use crate::filesystems::Kind;
use crate::scripted::Scripted;
use nix::errno::Errno;

fn request() -> MountRequest {
    MountRequest {
        device: "/dev/dm-3".into(),
        target: PathBuf::new(),
        kind: Kind::Ext4,
        read_only: false,
        no_recovery: false,
        options: Vec::new(),
        label: None,
    }
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).unwrap().next().is_none()
}

#[test]
fn mounted_for_the_work_alone() {
    let home = tempfile::tempdir().unwrap();
    let base = home.path().join("run/mnt");
    let world = Scripted::default();
    let mut seen = Vec::new();
    for _ in 0..2 {
        let answer: Result<u32, Error> = with_temporary_mount(&world, &request(), &base, |mount_point| {
            assert!(mount_point.starts_with(&base) && mount_point.is_dir());
            assert_eq!(world.state().mounted, [mount_point]);
            seen.push(mount_point.to_owned());
            Ok(7)
        });
        assert_eq!(answer.unwrap(), 7);
        assert!(world.state().mounted.is_empty() && is_empty(&base));
    }
    assert_ne!(seen[0], seen[1]);
}

#[test]
fn the_first_error_is_the_one_and_all_is_undone() {
    let home = tempfile::tempdir().unwrap();
    let world = Scripted::default();
    world.state().mount_error = Some(Errno::EUCLEAN);
    let answer: Result<(), Error> =
        with_temporary_mount(&world, &request(), home.path(), |_| panic!("not mounted"));
    assert_eq!(answer.unwrap_err().errno, Errno::EUCLEAN);
    assert!(is_empty(home.path()));

    world.state().mount_error = None;
    world.state().busy = usize::MAX;
    let fail = |_: &Path| Err::<(), _>(Error::new("work", "/w", Errno::EIO));
    let answer = with_patience(&world, &request(), home.path(), Duration::from_millis(30), fail);
    assert_eq!(answer.unwrap_err().errno, Errno::EIO);
    assert!(world.state().mounted.is_empty() && is_empty(home.path()));
}

#[test]
fn a_mount_in_use_after_the_work_is_reported_and_detached() {
    let home = tempfile::tempdir().unwrap();
    let world = Scripted::default();
    world.state().busy = usize::MAX;
    let work = |_: &Path| Ok::<_, Error>(());
    let error = with_patience(&world, &request(), home.path(), Duration::from_millis(30), work).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.to_string().contains("keeps /dev/dm-3 open"), "{error}");
    assert_eq!(world.state().detached.len(), 1);
    assert!(is_empty(home.path()));
}

#[test]
fn what_is_in_the_folder_is_never_removed() {
    let home = tempfile::tempdir().unwrap();
    let world = Scripted::default();
    // As if unmounting had not taken the mount away: the work's file is in the folder itself.
    let answer: Result<PathBuf, Error> =
        with_temporary_mount(&world, &request(), home.path(), |mount_point| {
            std::fs::write(mount_point.join("precious"), "data").unwrap();
            Ok(mount_point.to_owned())
        });
    assert_eq!(answer.unwrap_err().kind(), ErrorKind::Busy);
    let left: Vec<_> = std::fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(std::fs::read_to_string(left[0].join("precious")).unwrap(), "data");
}

#[test]
fn a_panic_in_the_work_leaves_no_mount() {
    let home = tempfile::tempdir().unwrap();
    let world = Scripted::default();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _: Result<(), Error> =
            with_temporary_mount(&world, &request(), home.path(), |_| panic!("in the work"));
    }));
    assert!(panicked.is_err());
    assert!(world.state().mounted.is_empty() && is_empty(home.path()));
}
