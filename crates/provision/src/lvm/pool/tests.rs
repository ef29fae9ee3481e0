use super::*;
use proptest::prelude::*;

fn uuid(text: &str) -> DmUuid {
    DmUuid::new(text).unwrap()
}

const GROUP: &str = "5xa0cfkU9nXDuoCgFqDXOQ0sEcSjbmTT";
const VOLUME: &str = "wJ3ve3cVIUpGYcHVdSOfPtbMfSSGOzmL";

#[test]
fn the_ids_in_a_device_are_lvms() {
    let found = ids(&uuid(&format!("LVM-{GROUP}{VOLUME}-tpool"))).unwrap();
    assert_eq!(
        found,
        ("5xa0cf-kU9n-XDuo-CgFq-DXOQ-0sEc-SjbmTT".into(), "wJ3ve3-cVIU-pGYc-HVdS-OfPt-bMfS-SGOzmL".into())
    );
    assert!(is_lvm(&uuid(&format!("LVM-{GROUP}{VOLUME}"))));
    for other in [
        "CRYPT-LUKS2-0123".to_owned(),
        "LVM-short".to_owned(),
        format!("LVM-{GROUP}{VOLUME}tpool"),
        format!("LVM-{GROUP}{}-!", &VOLUME[..30]),
    ] {
        assert!(!is_lvm(&uuid(&other)), "{other}");
    }
}

#[test]
fn names_of_devices_are_taken_apart() {
    let of = |name: &str| PoolVolume::of_device(&DmName::new(name).unwrap()).map(|pool| pool.to_string());
    assert_eq!(of("docker-thinpool").as_deref(), Some("docker/thinpool"));
    assert_eq!(of("my--group-thin--pool").as_deref(), Some("my-group/thin-pool"));
    assert_eq!(of("a----b-c").as_deref(), Some("a--b/c"));
    for other in ["plain", "docker-8:1-42-pool", "docker-thinpool_tdata-x", "a--b", "a-", "--a-b"] {
        assert_eq!(of(other), None, "{other}");
    }
}

#[test]
fn names_that_lvm_would_not_take_are_refused() {
    for (group, volume) in
        [("", "a"), ("a", ""), ("-a", "b"), ("a b", "c"), ("a", "b/c"), ("..", "a"), ("a", "b\"")]
    {
        assert!(PoolVolume::new(group, volume).is_err(), "{group} {volume}");
    }
}

proptest! {
    #[test]
    fn a_volume_survives_its_devices_name(group in "[a-z+_.][a-z+_.-]{0,9}", volume in "[a-z+_.][a-z+_.-]{0,9}") {
        prop_assume!(![".", ".."].contains(&group.as_str()) && ![".", ".."].contains(&volume.as_str()));
        let pool = PoolVolume::new(group, volume).unwrap();
        prop_assert_eq!(PoolVolume::of_device(&pool.device_name().unwrap()), Some(pool));
    }
}

fn facts(thin_volumes: u64, transaction_id: u64) -> PoolFacts {
    PoolFacts {
        volume: PoolVolume::docker(),
        group_uuid: grouped(GROUP),
        uuid: grouped(VOLUME),
        active: true,
        data: Bytes(1 << 30),
        metadata: Bytes(8 << 20),
        chunk: Bytes(512 << 10),
        zero: false,
        profile: String::new(),
        thin_volumes,
        transaction_id,
        monitored: false,
    }
}

#[test]
fn a_pool_that_lvm_counts_in_is_not_shared() {
    facts(0, 0).check_shared().unwrap();
    let error = facts(2, 3).check_shared().unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::Invalid);
    assert!(
        error.to_string().contains("/dev/docker/thinpool") && error.to_string().contains("thin volumes"),
        "{error}"
    );
    let error = facts(0, 3).check_shared().unwrap_err();
    assert!(error.to_string().contains("transaction id 3"), "{error}");
}

#[test]
fn facts_and_device_are_matched_by_both_ids() {
    assert!(facts(0, 0).is_device(&uuid(&format!("LVM-{GROUP}{VOLUME}-tpool"))));
    assert!(!facts(0, 0).is_device(&uuid(&format!("LVM-{VOLUME}{GROUP}-tpool"))));
}
