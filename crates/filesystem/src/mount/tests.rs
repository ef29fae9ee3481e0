use super::*;

fn request(kind: Kind) -> MountRequest {
    MountRequest {
        device: "/dev/dm-3".into(),
        target: "/nowhere/at/all".into(),
        kind,
        read_only: false,
        no_recovery: false,
        options: Vec::new(),
        label: None,
    }
}

fn words(request: &MountRequest) -> String {
    options_of(request).unwrap().to_string()
}

#[test]
fn what_each_kind_is_mounted_with() {
    let mut ext4 = request(Kind::Ext4);
    let mut xfs = request(Kind::Xfs);
    assert_eq!(words(&ext4), "errors=remount-ro");
    assert_eq!(words(&xfs), "nouuid");
    for request in [&mut ext4, &mut xfs] {
        request.options = vec!["noatime".to_owned(), "discard".to_owned()];
        request.label = Some("u:r:t:s0:c1,c2".to_owned());
    }
    assert_eq!(words(&ext4), r#"noatime,discard,errors=remount-ro,context="u:r:t:s0:c1,c2""#);
    assert_eq!(words(&xfs), r#"noatime,discard,nouuid,context="u:r:t:s0:c1,c2""#);
}

#[test]
fn read_only_and_without_recovery() {
    for (kind, read_only, no_recovery, expected) in [
        (Kind::Ext4, true, false, "ro"),
        (Kind::Ext4, true, true, "ro,noload"),
        (Kind::Ext4, false, true, "ro,noload"),
        (Kind::Xfs, true, false, "ro,nouuid,norecovery"),
        (Kind::Xfs, true, true, "ro,nouuid,norecovery"),
        (Kind::Xfs, false, true, "ro,nouuid,norecovery"),
    ] {
        let request = MountRequest { read_only, no_recovery, ..request(kind) };
        assert_eq!(words(&request), expected, "{request:?}");
    }
}

#[test]
fn a_word_that_is_there_is_not_added_again() {
    let options = vec!["nouuid,norecovery,rw".to_owned()];
    let request = MountRequest { read_only: true, options, ..request(Kind::Xfs) };
    assert_eq!(words(&request), "ro,nouuid,norecovery");
    let options = vec!["errors=continue".to_owned()];
    assert_eq!(words(&MountRequest { options, ..self::request(Kind::Ext4) }), "errors=continue");
}

#[test]
fn an_option_that_cannot_be_is_named_before_any_system_call() {
    let request = MountRequest { options: vec!["remount".to_owned()], ..request(Kind::Ext4) };
    for interface in [Interface::Newest, Interface::Classic] {
        let error = mount(&request, interface).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Options);
        let text = error.to_string();
        for part in ["`remount`", "/dev/dm-3", "/nowhere/at/all", "ext4"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }
}

#[test]
fn no_mount_point_or_a_link_to_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(open_target(&folder.path().join("absent")).unwrap_err().errno, Errno::ENOENT);
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(folder.path(), &link).unwrap();
    assert!(open_target(&link).is_err());
    assert!(open_target(folder.path()).is_ok());
}
