use super::*;
use crate::filesystems::Kind;
use crate::scripted::Scripted;
use nix::errno::Errno;
use std::sync::Arc;

fn request() -> MountRequest {
    MountRequest {
        device: "/dev/dm-3".into(),
        target: "/m".into(),
        kind: Kind::Ext4,
        read_only: false,
        no_recovery: false,
        options: Vec::new(),
        label: None,
    }
}

#[test]
fn a_dropped_mount_goes_and_a_kept_one_stays() {
    let world = Scripted::default();
    let shared: &dyn Filesystems = &world;
    drop(Mounted::mount(shared, &request()).unwrap());
    assert!(world.state().mounted.is_empty());
    assert_eq!(Mounted::mount(shared, &request()).unwrap().keep(), Path::new("/m"));
    assert_eq!(world.state().mounted, [Path::new("/m")]);
    // Taken over again, and given back with an answer.
    let mut mounted = Mounted::adopt(shared, "/m");
    assert_eq!(mounted.unmount(Unmount::Now).unwrap(), Unmounted::Done);
    drop(mounted);
    assert!(world.state().mounted.is_empty());
}

#[test]
fn an_owner_may_be_counted() {
    let world = Arc::new(Scripted::default());
    let shared: Arc<dyn Filesystems> = world.clone();
    let mounted = Mounted::mount(shared, &request()).unwrap();
    assert_eq!(mounted.target(), Path::new("/m"));
    assert_eq!(world.state().mounted.len(), 1);
    drop(mounted);
    assert!(world.state().mounted.is_empty());
}

#[test]
fn a_mount_that_failed_is_not_owned() {
    let world = Scripted::default();
    world.state().mount_error = Some(Errno::EUCLEAN);
    assert!(Mounted::mount(&world, &request()).is_err());
    assert!(world.state().mounted.is_empty());
}

#[test]
fn a_busy_mount_is_still_owned_and_detached_at_the_end() {
    let world = Scripted::default();
    let mut mounted = Mounted::mount(&world, &request()).unwrap();
    world.state().busy = usize::MAX;
    assert_eq!(mounted.unmount(Unmount::Now).unwrap_err().kind(), ErrorKind::Busy);
    assert_eq!(world.state().mounted.len(), 1);
    drop(mounted);
    assert_eq!(world.state().detached, [Path::new("/m")]);
}

#[test]
fn patience_waits_for_the_last_user_and_ends() {
    let world = Scripted::default();
    let mut mounted = Mounted::mount(&world, &request()).unwrap();
    world.state().busy = 3;
    assert_eq!(mounted.unmount_within(Duration::from_secs(20)).unwrap(), Unmounted::Done);
    drop(mounted);
    world.state().busy = usize::MAX;
    let start = Instant::now();
    let error = unmount_within(&world, Path::new("/m"), Duration::from_millis(50)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(start.elapsed() >= Duration::from_millis(50) && start.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_freeze_ends_once() {
    let world = Scripted::default();
    let frozen = Frozen::freeze(&world, "/m").unwrap();
    assert_eq!(frozen.mount_point(), Path::new("/m"));
    assert_eq!(world.state().frozen.len(), 1);
    drop(frozen);
    assert!(world.state().frozen.is_empty());
    Frozen::freeze(&world, "/m").unwrap().thaw().unwrap();
    assert!(world.state().frozen.is_empty());
}

#[test]
fn a_thaw_that_failed_is_tried_once_more() {
    let world = Scripted::default();
    let frozen = Frozen::freeze(&world, "/m").unwrap();
    world.state().stuck = 1;
    assert!(frozen.thaw().is_err());
    assert!(world.state().frozen.is_empty());
}
