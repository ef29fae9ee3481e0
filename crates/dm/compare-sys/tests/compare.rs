//! The committed bindings against `devicemapper-sys`: constants, sizes, alignments, offsets, and the numbers that live in
//! libdevmapper's header and are written by hand in this project.

#[path = "../../src/generated.rs"]
mod generated;

use devicemapper_sys as theirs;
use generated as ours;

macro_rules! same_constants {
    ($($name:ident),+ $(,)?) => {
        #[test]
        fn constants() {
            $(assert_eq!(u64::from(ours::$name), u64::from(theirs::$name), stringify!($name));)+
        }
    };
}

// Versions are left out: the header of this machine may be another one than the committed copy.
same_constants!(
    DM_MAX_TYPE_NAME,
    DM_NAME_LEN,
    DM_UUID_LEN,
    DM_NAME_LIST_FLAG_HAS_UUID,
    DM_NAME_LIST_FLAG_DOESNT_HAVE_UUID,
    DM_IOCTL,
    DM_VERSION_MAJOR,
    DM_READONLY_FLAG,
    DM_SUSPEND_FLAG,
    DM_PERSISTENT_DEV_FLAG,
    DM_STATUS_TABLE_FLAG,
    DM_ACTIVE_PRESENT_FLAG,
    DM_INACTIVE_PRESENT_FLAG,
    DM_BUFFER_FULL_FLAG,
    DM_SKIP_BDGET_FLAG,
    DM_SKIP_LOCKFS_FLAG,
    DM_NOFLUSH_FLAG,
    DM_QUERY_INACTIVE_TABLE_FLAG,
    DM_UEVENT_GENERATED_FLAG,
    DM_UUID_FLAG,
    DM_SECURE_DATA_FLAG,
    DM_DATA_OUT_FLAG,
    DM_DEFERRED_REMOVE,
    DM_INTERNAL_SUSPEND_FLAG,
    DM_VERSION_CMD,
    DM_REMOVE_ALL_CMD,
    DM_LIST_DEVICES_CMD,
    DM_DEV_CREATE_CMD,
    DM_DEV_REMOVE_CMD,
    DM_DEV_RENAME_CMD,
    DM_DEV_SUSPEND_CMD,
    DM_DEV_STATUS_CMD,
    DM_DEV_WAIT_CMD,
    DM_TABLE_LOAD_CMD,
    DM_TABLE_CLEAR_CMD,
    DM_TABLE_DEPS_CMD,
    DM_TABLE_STATUS_CMD,
    DM_LIST_VERSIONS_CMD,
    DM_TARGET_MSG_CMD,
    DM_DEV_SET_GEOMETRY_CMD,
    DM_DEV_ARM_POLL_CMD,
    DM_GET_TARGET_VERSION_CMD,
);

macro_rules! same_layouts {
    ($($name:ident { $($field:ident),+ $(,)? })+) => {
        #[test]
        fn layouts() {
            $(
                assert_eq!(size_of::<ours::$name>(), size_of::<theirs::$name>(), stringify!($name));
                assert_eq!(align_of::<ours::$name>(), align_of::<theirs::$name>(), stringify!($name));
                $(
                    let (our, their) =
                        (std::mem::offset_of!(ours::$name, $field), std::mem::offset_of!(theirs::$name, $field));
                    assert_eq!(our, their, "{}.{}", stringify!($name), stringify!($field));
                )+
            )+
        }
    };
}

same_layouts! {
    dm_ioctl {
        version, data_size, data_start, target_count, open_count, flags, event_nr, padding, dev, name, uuid, data,
    }
    dm_target_spec { sector_start, length, status, next, target_type }
    dm_target_deps { count, padding, dev }
    dm_name_list { dev, next, name }
    dm_target_versions { next, version, name }
    dm_target_msg { sector, message }
}

#[test]
fn cookies_and_flags_of_libdevmapper() {
    use thinlayer_dm::{COOKIE_MAGIC, UdevFlags};

    assert_eq!(u32::from(COOKIE_MAGIC), theirs::DM_COOKIE_MAGIC);
    assert_eq!(theirs::DM_UDEV_FLAGS_SHIFT, 16);
    for (our, their) in [
        (UdevFlags::DISABLE_DM_RULES, theirs::DM_UDEV_DISABLE_DM_RULES_FLAG),
        (UdevFlags::DISABLE_SUBSYSTEM_RULES, theirs::DM_UDEV_DISABLE_SUBSYSTEM_RULES_FLAG),
        (UdevFlags::DISABLE_DISK_RULES, theirs::DM_UDEV_DISABLE_DISK_RULES_FLAG),
        (UdevFlags::DISABLE_OTHER_RULES, theirs::DM_UDEV_DISABLE_OTHER_RULES_FLAG),
        (UdevFlags::LOW_PRIORITY, theirs::DM_UDEV_LOW_PRIORITY_FLAG),
        (UdevFlags::DISABLE_LIBRARY_FALLBACK, theirs::DM_UDEV_DISABLE_LIBRARY_FALLBACK),
        (UdevFlags::PRIMARY_SOURCE, theirs::DM_UDEV_PRIMARY_SOURCE_FLAG),
    ] {
        assert_eq!(u32::from(our.bits()), their, "{our:?}");
    }
}
