use super::*;
use proptest::prelude::*;

fn parse(text: &str) -> MountOptions {
    text.parse().unwrap()
}

#[test]
fn flags_and_parameters_are_told_apart() {
    let options = MountOptions::parse(["ro,noatime", "discard", "logbsize=64k,sync"]).unwrap();
    assert_eq!(options.flags, MountFlags::READ_ONLY | MountFlags::NO_ATIME | MountFlags::SYNCHRONOUS);
    assert_eq!(options.data(), "discard,logbsize=64k");
    assert_eq!(options.to_string(), "ro,noatime,sync,discard,logbsize=64k");
    assert_eq!(options.superblock_words().collect::<Vec<_>>(), ["ro", "sync"]);
    assert_eq!(options.attributes(), 0x11);
    assert_eq!(options.ms_flags(), MsFlags::MS_RDONLY | MsFlags::MS_NOATIME | MsFlags::MS_SYNCHRONOUS);
}

#[test]
fn of_two_that_contradict_the_later_counts() {
    assert_eq!(parse("ro,rw").flags, NONE);
    assert_eq!(parse("rw,ro").flags, MountFlags::READ_ONLY);
    assert_eq!(parse("noatime,relatime").flags, NONE);
    assert_eq!(parse("noatime,strictatime").flags, MountFlags::STRICT_ATIME);
    assert_eq!(parse("strictatime,noatime").flags, MountFlags::NO_ATIME);
    assert_eq!(parse("nodev,dev,nosuid,suid,noexec,exec").flags, NONE);
}

#[test]
fn words_for_mount_8_alone_do_nothing() {
    let options =
        parse("defaults,auto,noauto,nofail,_netdev,x-systemd.automount,X-mount.mkdir=0755,comment=a");
    assert_eq!(options, MountOptions::default());
    assert_eq!(options.to_string(), "defaults");
    assert_eq!(parse(",,"), MountOptions::default());
    assert_eq!(parse(""), MountOptions::default());
}

#[test]
fn a_value_in_quotes_may_hold_commas() {
    let options = parse(r#"context="u:r:t:s0:c1,c2",noatime"#);
    assert_eq!(options.get("context"), Some("u:r:t:s0:c1,c2"));
    assert_eq!(options.flags, MountFlags::NO_ATIME);
    assert_eq!(options.data(), r#"context="u:r:t:s0:c1,c2""#);
    // Without a comma the quotes are not needed, and not kept.
    assert_eq!(parse(r#"context="u:r:t:s0""#).data(), "context=u:r:t:s0");
    assert_eq!(parse("context=").get("context"), Some(""));
}

#[test]
fn what_cannot_be_passed_on_is_refused_by_name() {
    for (text, word) in [
        ("remount,ro", "remount"),
        ("bind", "bind"),
        ("rprivate", "rprivate"),
        (r#"context="a,b"#, r#"context="a,b"#),
        (r#"a"b"c"#, r#"a"b"c"#),
        (r#"a=x"b"y"#, r#"a=x"b"y"#),
        ("=x", "=x"),
        ("a\0b", "a\0b"),
    ] {
        let error = text.parse::<MountOptions>().unwrap_err();
        assert_eq!(error.option, word, "{text}");
        assert!(error.to_string().contains(word));
    }
}

#[test]
fn a_parameter_can_be_added_as_it_is() {
    let mut options = parse("nouuid");
    options.set("context", Some("a,b")).unwrap();
    assert!(options.has("nouuid") && options.has("context") && !options.has("uuid"));
    assert_eq!(options.data(), r#"nouuid,context="a,b""#);
    assert!(options.set("context", Some("a\"b")).is_err());
    assert!(options.set("a,b", None).is_err());
    assert!(options.set("", Some("x")).is_err());
}

#[test]
fn every_flag_has_a_word_that_sets_it_and_a_bit_of_each_kind() {
    for flag in MountFlags::all().iter() {
        let options = MountOptions { flags: flag, parameters: Vec::new() };
        assert_eq!(parse(&options.to_string()).flags, flag, "{flag:?}");
        assert_ne!(options.ms_flags().bits(), 0, "{flag:?}");
        assert!(
            options.attributes() != 0
                || options.superblock_words().count() == 1
                || flag == MountFlags::SILENT,
            "{flag:?}"
        );
    }
}

proptest! {
    #[test]
    fn no_text_panics_and_what_parses_comes_back(text in r#"[a-z0-9,="\\ é-]{0,60}"#) {
        if let Ok(options) = text.parse::<MountOptions>() {
            prop_assert_eq!(&parse(&options.to_string()), &options, "{} {}", text, options);
            prop_assert_eq!(&parse(&options.data()).parameters, &options.parameters);
        }
    }

    #[test]
    fn a_parameter_comes_back(key in "[a-wyz_][a-z_.]{0,12}=", value in "[^\"\0]{0,40}") {
        let mut options = MountOptions::default();
        let key = key.trim_end_matches('=');
        prop_assume!(key != "comment");
        options.set(key, Some(&value)).unwrap();
        prop_assert_eq!(parse(&options.to_string()), options);
    }
}
