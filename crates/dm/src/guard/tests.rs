use super::{DeviceGuard, SuspendGuard, activate, remove_within};
use crate::device_mapper::{Access, DeviceMapper, Removed, Suspend, Target};
use crate::error::Kind;
use crate::name::{DmName, DmUuid};
use crate::recorder::Recorder;
use crate::scripted::Scripted;
use crate::units::Sectors;
use nix::errno::Errno;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn name(text: &str) -> DmName {
    DmName::new(text).unwrap()
}

fn zero() -> Vec<Target> {
    vec![Target { start: Sectors(0), len: Sectors(8), kind: "zero".into(), params: String::new() }]
}

#[test]
fn activate_is_three_ioctls_and_the_guard_removes() {
    let dm = Recorder::new(Scripted::default());
    let guard = activate(&dm, &name("a"), None, &zero(), Access::ReadWrite).unwrap();
    assert_eq!(dm.commands(), ["DM_DEV_CREATE", "DM_TABLE_LOAD", "DM_DEV_SUSPEND"]);
    assert!(guard.info().live_table);
    drop(guard);
    assert!(dm.inner().names().is_empty());
    assert_eq!(dm.inner().forgotten(), ["a"]);
}

#[test]
fn kept_devices_stay_and_closed_ones_go() {
    let dm: Arc<dyn DeviceMapper> = Arc::new(Scripted::default());
    let kept = DeviceGuard::create(Arc::clone(&dm), &name("kept"), None).unwrap().keep();
    let closed = DeviceGuard::create(Arc::clone(&dm), &name("closed"), None).unwrap();
    assert_eq!(closed.close().unwrap(), Removed::Gone);
    let left = dm.devices().unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].name, kept.name);
}

#[test]
fn each_failing_step_of_activate_leaves_nothing_and_tells_the_first_error() {
    for (command, errno, kind) in [
        ("DM_DEV_CREATE", Errno::EBUSY, Kind::Exists),
        ("DM_TABLE_LOAD", Errno::EINVAL, Kind::Invalid),
        ("DM_DEV_RESUME", Errno::EIO, Kind::Other),
    ] {
        let dm = Scripted::default();
        dm.fail(command, errno, 1);
        let error = activate(&dm, &name("a"), None, &zero(), Access::ReadWrite).unwrap_err();
        assert_eq!(error.kind(), kind, "{command}");
        assert!(dm.names().is_empty(), "{command}");
    }
}

#[test]
fn a_failing_undo_does_not_hide_the_first_error() {
    let dm = Scripted::default();
    dm.fail("DM_TABLE_LOAD", Errno::EINVAL, 1);
    dm.fail("DM_DEV_REMOVE", Errno::EIO, 1);
    let error = activate(&dm, &name("a"), None, &zero(), Access::ReadWrite).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::EINVAL));
    assert_eq!(dm.names(), ["a"]);
}

#[test]
fn a_busy_removal_is_tried_again_until_the_patience_is_over() {
    let dm = Scripted::default();
    let guard = DeviceGuard::create(&dm, &name("a"), None).unwrap();
    dm.fail("DM_DEV_REMOVE", Errno::EBUSY, 3);
    assert_eq!(guard.close().unwrap(), Removed::Gone);

    DeviceGuard::create(&dm, &name("b"), None).unwrap().keep();
    dm.fail("DM_DEV_REMOVE", Errno::EBUSY, usize::MAX);
    let began = Instant::now();
    let error = remove_within(&dm, (&name("b")).into(), Duration::from_millis(60)).unwrap_err();
    assert_eq!(error.kind(), Kind::Busy);
    assert!(began.elapsed() >= Duration::from_millis(60));
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn no_patience_is_one_try() {
    let dm = Recorder::new(Scripted::default());
    let guard = DeviceGuard::create(&dm, &name("a"), None).unwrap().with_patience(Duration::ZERO);
    dm.inner().fail("DM_DEV_REMOVE", Errno::EBUSY, 1);
    assert_eq!(guard.close().unwrap_err().kind(), Kind::Busy);
    assert_eq!(dm.commands(), ["DM_DEV_CREATE", "DM_DEV_REMOVE"]);
}

#[test]
fn a_device_with_a_uuid_is_removed_by_it_even_after_a_rename() {
    let dm = Scripted::default();
    let uuid = DmUuid::new("u-1").unwrap();
    let guard = DeviceGuard::create(&dm, &name("a"), Some(&uuid)).unwrap();
    dm.rename(&name("a"), &name("b")).unwrap();
    assert_eq!(guard.close().unwrap(), Removed::Gone);
    assert!(dm.names().is_empty());
}

#[test]
fn suspensions_end() {
    let dm = Scripted::default();
    let a = name("a");
    DeviceGuard::create(&dm, &a, None).unwrap().keep();
    let suspended = || dm.info((&a).into()).unwrap().unwrap().suspended;

    let guard = SuspendGuard::suspend(&dm, &a, Suspend::default()).unwrap();
    assert!(suspended());
    drop(guard);
    assert!(!suspended());

    let guard = SuspendGuard::suspend(&dm, &a, Suspend::default()).unwrap();
    assert!(!guard.resume().unwrap().suspended);

    SuspendGuard::suspend(&dm, &a, Suspend::default()).unwrap().keep();
    assert!(suspended());
}

#[test]
fn a_failed_resume_is_told() {
    let dm = Scripted::default();
    let a = name("a");
    DeviceGuard::create(&dm, &a, None).unwrap().keep();
    let guard = SuspendGuard::suspend(&dm, &a, Suspend::default()).unwrap();
    dm.fail("DM_DEV_RESUME", Errno::EINVAL, 1);
    assert_eq!(guard.resume().unwrap_err().kind(), Kind::Invalid);
}
