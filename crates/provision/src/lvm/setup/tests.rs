use super::*;
use crate::error::ErrorKind;
use crate::lvm::fake::{Crash, FakeLvm, State, Volume};

fn workshop(lvm: &FakeLvm) -> Workshop<'_> {
    Workshop { programs: lvm, backing: &lvm.backing, files: lvm, deadline: Duration::from_secs(1) }
}

fn config(device: &str) -> SetupConfig {
    SetupConfig { device: device.into(), ..SetupConfig::default() }
}

fn run(lvm: &FakeLvm) -> Result<SetUp> {
    set_up(workshop(lvm), &config("/dev/sdb"), false)
}

/// What is there, without the id that each set-up draws anew.
fn settled(lvm: &FakeLvm) -> State {
    let mut state = lvm.state();
    for (uuid, _) in state.physical.values_mut() {
        uuid.clear();
    }
    state
}

#[test]
fn the_steps_are_dockers() {
    let lvm = FakeLvm::new();
    let done = run(&lvm).unwrap();
    assert!(!done.resumed && done.pool.active && done.pool.profile == "docker-thinpool");
    let effects = lvm.effects();
    let commands: Vec<&str> = effects
        .iter()
        .map(String::as_str)
        .filter(|effect| !effect.starts_with("write thinlayer/") && !effect.ends_with("(commit)"))
        .collect();
    assert!(
        commands[0].starts_with("pvcreate -f --uuid ") && commands[0].ends_with(" --norestorefile /dev/sdb")
    );
    assert_eq!(
        commands[1..],
        [
            "vgcreate docker /dev/sdb",
            "lvcreate --yes --wipesignatures y -n thinpool docker --extents 95%VG",
            "lvcreate --yes --wipesignatures y -n thinpoolmeta docker --extents 1%VG",
            "lvconvert -y --zero n -c 512K --thinpool docker/thinpool --poolmetadata docker/thinpoolmeta",
            "profile",
            "lvchange --metadataprofile docker-thinpool docker/thinpool",
            "write setup-config.json",
            "remove thinlayer/direct-lvm.json",
        ]
    );
    // The journal says what comes before it comes.
    for (number, effect) in effects.iter().enumerate().filter(|(_, effect)| effect.starts_with("lvc")) {
        let before = &effects[..number];
        assert!(before.iter().any(|earlier| earlier.starts_with("write thinlayer/")), "{effect}");
    }
    assert_eq!(stored(&lvm).unwrap(), Some(config("/dev/sdb")));
}

#[test]
fn killed_anywhere_and_run_again_it_ends_in_the_same_pool() {
    let reference = FakeLvm::new();
    run(&reference).unwrap();
    let count = reference.effects().len();
    assert!(count > 12, "{count}");
    for at in 0..count {
        for crash in [Crash::Before(at), Crash::After(at)] {
            let lvm = FakeLvm::new();
            lvm.crash(Some(crash));
            let first = run(&lvm);
            let journal_was = Journal::read(&lvm).unwrap();
            let uuid_was = lvm.state().physical.values().next().map(|(uuid, _)| uuid.clone());
            // Killed a second time at each later point.
            for again in 0..4 {
                lvm.crash(Some(Crash::After(again)));
                if stored(&lvm).unwrap().is_none() {
                    let _ = run(&lvm);
                }
            }
            lvm.crash(None);
            if stored(&lvm).unwrap().is_none() {
                run(&lvm).unwrap_or_else(|error| panic!("{crash:?}: {error}"));
            }
            forget_journal(&lvm).unwrap();
            assert_eq!(settled(&lvm), settled(&reference), "{crash:?}");
            if let Some(uuid) = uuid_was {
                assert_eq!(lvm.state().physical["/dev/sdb"].0, uuid, "{crash:?}: made twice");
                assert!(first.is_err() || journal_was.is_none());
            }
        }
    }
}

#[test]
fn a_second_run_of_an_interrupted_set_up_says_so() {
    let lvm = FakeLvm::new();
    lvm.crash(Some(Crash::After(4)));
    run(&lvm).unwrap_err();
    lvm.crash(None);
    assert!(run(&lvm).unwrap().resumed);
}

#[test]
fn what_is_not_free_is_refused_and_nothing_is_done() {
    type Change = fn(&FakeLvm);
    let cases: [(&str, Change); 6] = [
        ("holds ext4", |lvm| lvm.put_disk("/dev/sdb", Some("ext4"))),
        ("holds gpt", |lvm| lvm.put_disk("/dev/sdb", Some("gpt"))),
        ("volume group other", |lvm| {
            lvm.change(|state| drop(state.physical.insert("/dev/sdb".into(), ("u".into(), "other".into()))));
        }),
        // Docker's look for a volume group would miss this one, and fail half-way.
        ("volume group docker already", |lvm| {
            lvm.change(|state| {
                state.physical.insert("/dev/sdc".into(), ("u".into(), "docker".into()));
                state.groups.insert("docker".into(), 7);
            });
        }),
        ("LVM itself does not show", |lvm| lvm.put_disk("/dev/sdb", Some("LVM2_member"))),
        ("pvcreate, thin_check cannot be found; install lvm2 and thin-provisioning-tools", |lvm| {
            lvm.uninstall("pvcreate");
            lvm.uninstall("thin_check");
        }),
    ];
    for (why, change) in cases {
        let lvm = FakeLvm::new();
        change(&lvm);
        let error = run(&lvm).unwrap_err();
        assert!(error.to_string().contains(why), "{why}: {error}");
        assert_eq!(lvm.effects(), Vec::<String>::new(), "{why}");
    }
}

#[test]
fn an_interrupted_set_up_is_not_finished_with_other_options_or_on_another_disk() {
    let lvm = FakeLvm::new();
    lvm.crash(Some(Crash::After(4)));
    run(&lvm).unwrap_err();
    lvm.crash(None);
    let error = set_up(workshop(&lvm), &config("/dev/sdc"), false).unwrap_err();
    assert!(error.to_string().contains("/dev/sdb") && error.to_string().contains("/dev/sdc"), "{error}");
    let error = set_up(
        workshop(&lvm),
        &SetupConfig { thinp_percent: 80, thinp_meta_percent: 2, ..config("/dev/sdb") },
        false,
    )
    .unwrap_err();
    assert!(error.to_string().contains("thinp_percent=80"), "{error}");
    assert_eq!(lvm.effects(), Vec::<String>::new());
    // The kernel has given the names to the other disks.
    lvm.change(|state| {
        let ours = state.physical.remove("/dev/sdb").unwrap();
        state.physical.insert("/dev/sdc".into(), ours);
    });
    let error = run(&lvm).unwrap_err();
    assert!(error.to_string().contains("/dev/sdc (8:32)"), "{error}");
    // And the disk is gone.
    lvm.change(|state| state.physical.clear());
    let error = run(&lvm).unwrap_err();
    assert!(error.to_string().contains("does not see it any more"), "{error}");
    assert_eq!(lvm.effects(), Vec::<String>::new());
}

#[test]
fn what_the_program_of_a_killed_set_up_makes_meanwhile_is_taken() {
    let reference = FakeLvm::new();
    run(&reference).unwrap();
    for program in ["pvcreate", "vgcreate", "lvcreate", "lvconvert"] {
        let lvm = FakeLvm::new();
        // It does its work, and complains that somebody else has.
        lvm.race(program);
        run(&lvm).unwrap_or_else(|error| panic!("{program}: {error}"));
        assert_eq!(settled(&lvm), settled(&reference), "{program}");
    }
}

#[test]
fn what_somebody_else_makes_meanwhile_is_not_taken() {
    // After the volume group was made.
    let lvm = FakeLvm::new();
    lvm.crash(Some(Crash::After(3)));
    run(&lvm).unwrap_err();
    lvm.crash(None);
    assert!(lvm.state().groups.contains_key("docker"));
    let theirs = Volume { kind: "linear".into(), extents: 3, active: true, profile: String::new() };
    lvm.change(|state| drop(state.volumes.insert("thinpool".into(), theirs.clone())));
    let error = run(&lvm).unwrap_err();
    assert!(error.to_string().contains("somebody else has made volume docker/thinpool"), "{error}");
    assert_eq!(lvm.state().volumes["thinpool"], theirs);
}

#[test]
fn a_journal_that_cannot_be_read_stops_before_anything_is_done() {
    for content in ["{", r#"{"version":2}"#] {
        let lvm = FakeLvm::new();
        lvm.change(|state| drop(state.files.insert(super::super::JOURNAL_FILE.into(), content.into())));
        let error = run(&lvm).unwrap_err();
        assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("direct-lvm"), "{error}");
        assert_eq!(lvm.effects(), Vec::<String>::new());
    }
}

#[test]
fn a_stored_configuration_that_cannot_be_read_is_an_error() {
    let lvm = FakeLvm::new();
    assert_eq!(stored(&lvm).unwrap(), None);
    lvm.change(|state| drop(state.files.insert(CONFIG_FILE.into(), b"{".into())));
    assert!(stored(&lvm).unwrap_err().to_string().contains("setup-config.json"));
}

#[test]
fn ids_have_lvms_form() {
    let id = random_id().unwrap();
    assert_eq!(id.split('-').map(str::len).collect::<Vec<_>>(), [6, 4, 4, 4, 4, 4, 6]);
    assert_ne!(id, random_id().unwrap());
}
