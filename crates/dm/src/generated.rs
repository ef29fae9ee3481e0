// Made by `cargo xtask codegen` from crates/dm/headers/dm-ioctl.h. Do not edit.
#![allow(
    missing_docs,
    missing_debug_implementations,
    non_camel_case_types,
    unreachable_pub,
    unsafe_code,
    dead_code,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::undocumented_unsafe_blocks,
    reason = "names and shapes are the kernel header's"
)]

#[repr(C)]
#[derive(Default)]
pub struct __IncompleteArrayField<T>(::core::marker::PhantomData<T>, [T; 0]);
impl<T> __IncompleteArrayField<T> {
    #[inline]
    pub const fn new() -> Self {
        __IncompleteArrayField(::core::marker::PhantomData, [])
    }
    #[inline]
    pub fn as_ptr(&self) -> *const T {
        self as *const _ as *const T
    }
    #[inline]
    pub fn as_mut_ptr(&mut self) -> *mut T {
        self as *mut _ as *mut T
    }
    #[inline]
    pub unsafe fn as_slice(&self, len: usize) -> &[T] {
        unsafe { ::core::slice::from_raw_parts(self.as_ptr(), len) }
    }
    #[inline]
    pub unsafe fn as_mut_slice(&mut self, len: usize) -> &mut [T] {
        unsafe { ::core::slice::from_raw_parts_mut(self.as_mut_ptr(), len) }
    }
}
impl<T> ::core::fmt::Debug for __IncompleteArrayField<T> {
    fn fmt(&self, fmt: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
        fmt.write_str("__IncompleteArrayField")
    }
}
pub const DM_DIR: &::core::ffi::CStr = c"mapper";
pub const DM_CONTROL_NODE: &::core::ffi::CStr = c"control";
pub const DM_MAX_TYPE_NAME: u32 = 16;
pub const DM_NAME_LEN: u32 = 128;
pub const DM_UUID_LEN: u32 = 129;
pub const DM_NAME_LIST_FLAG_HAS_UUID: u32 = 1;
pub const DM_NAME_LIST_FLAG_DOESNT_HAVE_UUID: u32 = 2;
pub const DM_IOCTL: u32 = 253;
pub const DM_VERSION_MAJOR: u32 = 4;
pub const DM_VERSION_MINOR: u32 = 47;
pub const DM_VERSION_PATCHLEVEL: u32 = 0;
pub const DM_VERSION_EXTRA: &::core::ffi::CStr = c"-ioctl (2022-07-28)";
pub const DM_READONLY_FLAG: u32 = 1;
pub const DM_SUSPEND_FLAG: u32 = 2;
pub const DM_PERSISTENT_DEV_FLAG: u32 = 8;
pub const DM_STATUS_TABLE_FLAG: u32 = 16;
pub const DM_ACTIVE_PRESENT_FLAG: u32 = 32;
pub const DM_INACTIVE_PRESENT_FLAG: u32 = 64;
pub const DM_BUFFER_FULL_FLAG: u32 = 256;
pub const DM_SKIP_BDGET_FLAG: u32 = 512;
pub const DM_SKIP_LOCKFS_FLAG: u32 = 1024;
pub const DM_NOFLUSH_FLAG: u32 = 2048;
pub const DM_QUERY_INACTIVE_TABLE_FLAG: u32 = 4096;
pub const DM_UEVENT_GENERATED_FLAG: u32 = 8192;
pub const DM_UUID_FLAG: u32 = 16384;
pub const DM_SECURE_DATA_FLAG: u32 = 32768;
pub const DM_DATA_OUT_FLAG: u32 = 65536;
pub const DM_DEFERRED_REMOVE: u32 = 131072;
pub const DM_INTERNAL_SUSPEND_FLAG: u32 = 262144;
pub const DM_IMA_MEASUREMENT_FLAG: u32 = 524288;
pub type __s32 = ::core::ffi::c_int;
pub type __u32 = ::core::ffi::c_uint;
pub type __u64 = ::core::ffi::c_ulonglong;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dm_ioctl {
    pub version: [__u32; 3usize],
    pub data_size: __u32,
    pub data_start: __u32,
    pub target_count: __u32,
    pub open_count: __s32,
    pub flags: __u32,
    pub event_nr: __u32,
    pub padding: __u32,
    pub dev: __u64,
    pub name: [::core::ffi::c_char; 128usize],
    pub uuid: [::core::ffi::c_char; 129usize],
    pub data: [::core::ffi::c_char; 7usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of dm_ioctl"][::core::mem::size_of::<dm_ioctl>() - 312usize];
    ["Alignment of dm_ioctl"][::core::mem::align_of::<dm_ioctl>() - 8usize];
    ["Offset of field: dm_ioctl::version"][::core::mem::offset_of!(dm_ioctl, version) - 0usize];
    ["Offset of field: dm_ioctl::data_size"][::core::mem::offset_of!(dm_ioctl, data_size) - 12usize];
    ["Offset of field: dm_ioctl::data_start"][::core::mem::offset_of!(dm_ioctl, data_start) - 16usize];
    ["Offset of field: dm_ioctl::target_count"][::core::mem::offset_of!(dm_ioctl, target_count) - 20usize];
    ["Offset of field: dm_ioctl::open_count"][::core::mem::offset_of!(dm_ioctl, open_count) - 24usize];
    ["Offset of field: dm_ioctl::flags"][::core::mem::offset_of!(dm_ioctl, flags) - 28usize];
    ["Offset of field: dm_ioctl::event_nr"][::core::mem::offset_of!(dm_ioctl, event_nr) - 32usize];
    ["Offset of field: dm_ioctl::padding"][::core::mem::offset_of!(dm_ioctl, padding) - 36usize];
    ["Offset of field: dm_ioctl::dev"][::core::mem::offset_of!(dm_ioctl, dev) - 40usize];
    ["Offset of field: dm_ioctl::name"][::core::mem::offset_of!(dm_ioctl, name) - 48usize];
    ["Offset of field: dm_ioctl::uuid"][::core::mem::offset_of!(dm_ioctl, uuid) - 176usize];
    ["Offset of field: dm_ioctl::data"][::core::mem::offset_of!(dm_ioctl, data) - 305usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct dm_target_spec {
    pub sector_start: __u64,
    pub length: __u64,
    pub status: __s32,
    pub next: __u32,
    pub target_type: [::core::ffi::c_char; 16usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of dm_target_spec"][::core::mem::size_of::<dm_target_spec>() - 40usize];
    ["Alignment of dm_target_spec"][::core::mem::align_of::<dm_target_spec>() - 8usize];
    ["Offset of field: dm_target_spec::sector_start"]
        [::core::mem::offset_of!(dm_target_spec, sector_start) - 0usize];
    ["Offset of field: dm_target_spec::length"][::core::mem::offset_of!(dm_target_spec, length) - 8usize];
    ["Offset of field: dm_target_spec::status"][::core::mem::offset_of!(dm_target_spec, status) - 16usize];
    ["Offset of field: dm_target_spec::next"][::core::mem::offset_of!(dm_target_spec, next) - 20usize];
    ["Offset of field: dm_target_spec::target_type"]
        [::core::mem::offset_of!(dm_target_spec, target_type) - 24usize];
};
#[repr(C)]
#[derive(Debug)]
pub struct dm_target_deps {
    pub count: __u32,
    pub padding: __u32,
    pub dev: __IncompleteArrayField<__u64>,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of dm_target_deps"][::core::mem::size_of::<dm_target_deps>() - 8usize];
    ["Alignment of dm_target_deps"][::core::mem::align_of::<dm_target_deps>() - 8usize];
    ["Offset of field: dm_target_deps::count"][::core::mem::offset_of!(dm_target_deps, count) - 0usize];
    ["Offset of field: dm_target_deps::padding"][::core::mem::offset_of!(dm_target_deps, padding) - 4usize];
    ["Offset of field: dm_target_deps::dev"][::core::mem::offset_of!(dm_target_deps, dev) - 8usize];
};
#[repr(C)]
#[derive(Debug)]
pub struct dm_name_list {
    pub dev: __u64,
    pub next: __u32,
    pub name: __IncompleteArrayField<::core::ffi::c_char>,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of dm_name_list"][::core::mem::size_of::<dm_name_list>() - 16usize];
    ["Alignment of dm_name_list"][::core::mem::align_of::<dm_name_list>() - 8usize];
    ["Offset of field: dm_name_list::dev"][::core::mem::offset_of!(dm_name_list, dev) - 0usize];
    ["Offset of field: dm_name_list::next"][::core::mem::offset_of!(dm_name_list, next) - 8usize];
    ["Offset of field: dm_name_list::name"][::core::mem::offset_of!(dm_name_list, name) - 12usize];
};
#[repr(C)]
#[derive(Debug)]
pub struct dm_target_versions {
    pub next: __u32,
    pub version: [__u32; 3usize],
    pub name: __IncompleteArrayField<::core::ffi::c_char>,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of dm_target_versions"][::core::mem::size_of::<dm_target_versions>() - 16usize];
    ["Alignment of dm_target_versions"][::core::mem::align_of::<dm_target_versions>() - 4usize];
    ["Offset of field: dm_target_versions::next"][::core::mem::offset_of!(dm_target_versions, next) - 0usize];
    ["Offset of field: dm_target_versions::version"]
        [::core::mem::offset_of!(dm_target_versions, version) - 4usize];
    ["Offset of field: dm_target_versions::name"]
        [::core::mem::offset_of!(dm_target_versions, name) - 16usize];
};
#[repr(C)]
#[derive(Debug)]
pub struct dm_target_msg {
    pub sector: __u64,
    pub message: __IncompleteArrayField<::core::ffi::c_char>,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of dm_target_msg"][::core::mem::size_of::<dm_target_msg>() - 8usize];
    ["Alignment of dm_target_msg"][::core::mem::align_of::<dm_target_msg>() - 8usize];
    ["Offset of field: dm_target_msg::sector"][::core::mem::offset_of!(dm_target_msg, sector) - 0usize];
    ["Offset of field: dm_target_msg::message"][::core::mem::offset_of!(dm_target_msg, message) - 8usize];
};
pub const DM_VERSION_CMD: _bindgen_ty_1 = 0;
pub const DM_REMOVE_ALL_CMD: _bindgen_ty_1 = 1;
pub const DM_LIST_DEVICES_CMD: _bindgen_ty_1 = 2;
pub const DM_DEV_CREATE_CMD: _bindgen_ty_1 = 3;
pub const DM_DEV_REMOVE_CMD: _bindgen_ty_1 = 4;
pub const DM_DEV_RENAME_CMD: _bindgen_ty_1 = 5;
pub const DM_DEV_SUSPEND_CMD: _bindgen_ty_1 = 6;
pub const DM_DEV_STATUS_CMD: _bindgen_ty_1 = 7;
pub const DM_DEV_WAIT_CMD: _bindgen_ty_1 = 8;
pub const DM_TABLE_LOAD_CMD: _bindgen_ty_1 = 9;
pub const DM_TABLE_CLEAR_CMD: _bindgen_ty_1 = 10;
pub const DM_TABLE_DEPS_CMD: _bindgen_ty_1 = 11;
pub const DM_TABLE_STATUS_CMD: _bindgen_ty_1 = 12;
pub const DM_LIST_VERSIONS_CMD: _bindgen_ty_1 = 13;
pub const DM_TARGET_MSG_CMD: _bindgen_ty_1 = 14;
pub const DM_DEV_SET_GEOMETRY_CMD: _bindgen_ty_1 = 15;
pub const DM_DEV_ARM_POLL_CMD: _bindgen_ty_1 = 16;
pub const DM_GET_TARGET_VERSION_CMD: _bindgen_ty_1 = 17;
pub type _bindgen_ty_1 = ::core::ffi::c_uint;
