//! The driver's options: Docker's `dm.*` with its parsing, defaults and checks (section 3 of the specification).

use crate::error::{Error, Result};
use crate::growth::Extend;
use crate::size::{checked_size, parse_size};
use std::path::PathBuf;
use thinlayer_dm::{Bytes, DmName, Sectors};
use thinlayer_filesystem::Kind;
use thinlayer_provision::lvm::SetupConfig;
use thinlayer_thin::BlockSize;

/// Everything that can be set. [`Options::parse`] reads it from `dm.KEY=VALUE` items; [`Options::default`] is an embedded loop pool.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// `dm.basesize`: the size of a new base device, where it was given. Given, it also makes an existing base grow.
    pub base_size: Option<Bytes>,
    /// `dm.loopdatasize`: the data file's size at least, where it was given. [`DEFAULT_LOOP_DATA_SIZE`] when the file is made.
    pub loop_data_size: Option<Bytes>,
    /// `dm.loopmetadatasize`: the metadata file's size at least, where it was given. [`DEFAULT_LOOP_METADATA_SIZE`] when the file is made.
    pub loop_metadata_size: Option<Bytes>,
    /// `dm.fs`: the base's file system, where it was given.
    pub filesystem: Option<Kind>,
    /// `dm.mkfsarg`: further arguments of mkfs.
    pub mkfs_args: Vec<String>,
    /// `dm.mountopt`: words for every mount, comma-joined items as given.
    pub mount_options: Vec<String>,
    /// `dm.datadev`: the data side of a pool that the driver makes.
    pub data_device: Option<PathBuf>,
    /// `dm.metadatadev`: the metadata side.
    pub metadata_device: Option<PathBuf>,
    /// `dm.thinpooldev`: a pool that is there already.
    pub thin_pool: Option<DmName>,
    /// `dm.directlvm_device`, `dm.thinp_percent`, `dm.thinp_metapercent`, `dm.thinp_autoextend_percent` and `dm.thinp_autoextend_threshold`, 0 or
    /// empty where they were not given. With a device the pool is LVM's, and is set up if need be.
    pub direct_lvm: SetupConfig,
    /// `dm.directlvm_device_force`: a file system on that device is no reason to leave it alone.
    pub direct_lvm_force: bool,
    /// `dm.blkdiscard`, where it was given.
    pub discard: Option<bool>,
    /// `dm.blocksize`: the data block of a pool that the driver makes, where it was given; 64 KiB otherwise.
    pub block_size: Option<BlockSize>,
    /// `dm.override_udev_sync_check`: accepted; no operation here waits for udev.
    pub override_udev_sync_check: bool,
    /// `dm.use_deferred_removal`, where it was given.
    pub deferred_removal: Option<bool>,
    /// `dm.use_deferred_deletion`, where it was given.
    pub deferred_deletion: Option<bool>,
    /// `dm.min_free_space`, in percent: creates stop when less is free. 0: never.
    pub min_free_percent: u8,
    /// `dm.xfs_nospace_max_retries`: how often xfs tries a write again on a full pool. Not given, it is 0, so that nothing hangs for ever.
    pub xfs_nospace_retries: Option<u64>,
    /// `dm.libdm_log_level`: accepted and checked; there is no libdm here.
    pub libdm_log_level: u8,
}

/// The size of a data file that is made without `dm.loopdatasize`. A file that is there keeps its size then.
pub const DEFAULT_LOOP_DATA_SIZE: Bytes = Bytes(100 << 30);
/// The size of a metadata file that is made without `dm.loopmetadatasize`. A file that is there keeps its size then.
pub const DEFAULT_LOOP_METADATA_SIZE: Bytes = Bytes(2 << 30);
/// The default of `dm.basesize`.
pub const DEFAULT_BASE_SIZE: Bytes = Bytes(10 << 30);

impl Default for Options {
    fn default() -> Self {
        Self {
            base_size: None,
            loop_data_size: None,
            loop_metadata_size: None,
            filesystem: None,
            mkfs_args: Vec::new(),
            mount_options: Vec::new(),
            data_device: None,
            metadata_device: None,
            thin_pool: None,
            direct_lvm: SetupConfig::default(),
            direct_lvm_force: false,
            discard: None,
            block_size: None,
            override_udev_sync_check: false,
            deferred_removal: None,
            deferred_deletion: None,
            min_free_percent: 10,
            xfs_nospace_retries: None,
            libdm_log_level: 2,
        }
    }
}

impl Options {
    /// Reads items of the form `KEY=VALUE`, split at the first `=`, both sides trimmed, the key in any case.
    ///
    /// # Errors
    /// [`Error::Option`] for an unknown key, a bad value, or options that exclude each other.
    ///
    /// # Example
    /// ```
    /// use thinlayer_graphdriver::{Bytes, Options};
    /// let options = Options::parse(&["dm.basesize=20G", "dm.fs=xfs"])?;
    /// assert_eq!(options.base_size, Some(Bytes(20 << 30)));
    /// # Ok::<(), thinlayer_graphdriver::Error>(())
    /// ```
    pub fn parse<S: AsRef<str>>(items: &[S]) -> Result<Self> {
        let mut options = Self::default();
        for item in items {
            let item = item.as_ref();
            let Some((key, value)) = item.split_once('=') else {
                return Err(Error::option(item, "it is not of the form dm.KEY=VALUE"));
            };
            options.set(&key.trim().to_ascii_lowercase(), value.trim())?;
        }
        options.check()?;
        Ok(options)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        let wrong = |why: &str| Error::option(&format!("{key}={value}"), why);
        let size = || parse_size(value).map_err(|why| wrong(&why));
        let flag = || parse_flag(value).ok_or_else(|| wrong("the value is not true or false"));
        let percent = |most: u64| {
            let number = value.strip_suffix('%').unwrap_or(value).parse().ok();
            let why = || wrong(&format!("a whole number from 0 to {most} is expected, perhaps with %"));
            number.filter(|percent| *percent <= most).ok_or_else(why)
        };
        match key {
            "dm.basesize" => {
                let size = checked_size(size()?).map_err(|why| wrong(&why))?;
                self.base_size = Some(whole_sectors(size).ok_or_else(|| wrong("it is zero"))?)
            }
            "dm.loopdatasize" => self.loop_data_size = Some(size()?),
            "dm.loopmetadatasize" => self.loop_metadata_size = Some(size()?),
            "dm.fs" => {
                self.filesystem = Some(match value {
                    "ext4" => Kind::Ext4,
                    "xfs" => Kind::Xfs,
                    _ => return Err(wrong("unsupported filesystem; ext4 and xfs are supported")),
                });
            }
            "dm.mkfsarg" => self.mkfs_args.push(value.to_owned()),
            "dm.mountopt" => self.mount_options.push(value.to_owned()),
            "dm.datadev" => {
                self.data_device = Some(device_path(value).ok_or_else(|| wrong("it is no absolute path"))?)
            }
            "dm.metadatadev" => {
                self.metadata_device =
                    Some(device_path(value).ok_or_else(|| wrong("it is no absolute path"))?);
            }
            "dm.thinpooldev" => {
                let name = value.strip_prefix("/dev/mapper/").unwrap_or(value);
                self.thin_pool = Some(DmName::new(name).map_err(|e| wrong(&e.to_string()))?);
            }
            "dm.blkdiscard" => self.discard = Some(flag()?),
            "dm.blocksize" => {
                self.block_size =
                    Some(BlockSize::new(size()?.to_sectors()).map_err(|e| wrong(&e.to_string()))?);
            }
            "dm.override_udev_sync_check" => self.override_udev_sync_check = flag()?,
            "dm.use_deferred_removal" => self.deferred_removal = Some(flag()?),
            "dm.use_deferred_deletion" => self.deferred_deletion = Some(flag()?),
            "dm.min_free_space" => {
                self.min_free_percent = value
                    .strip_suffix('%')
                    .ok_or_else(|| wrong("a percentage is expected, such as 10%"))?
                    .parse()
                    .ok()
                    .filter(|percent| *percent < 100)
                    .ok_or_else(|| wrong("a percentage from 0% to 99% is expected"))?;
            }
            "dm.xfs_nospace_max_retries" => {
                self.xfs_nospace_retries =
                    Some(value.parse().map_err(|_| wrong("a whole number is expected"))?);
            }
            "dm.libdm_log_level" => {
                self.libdm_log_level = value
                    .parse()
                    .ok()
                    .filter(|level| (2..=7).contains(level))
                    .ok_or_else(|| wrong("a level from 2 (fatal) to 7 (debug) is expected"))?;
            }
            "dm.directlvm_device" => {
                device_path(value).ok_or_else(|| wrong("it is no absolute path"))?;
                value.clone_into(&mut self.direct_lvm.device);
            }
            "dm.directlvm_device_force" => self.direct_lvm_force = flag()?,
            "dm.thinp_percent" => self.direct_lvm.thinp_percent = percent(99)?,
            "dm.thinp_metapercent" => self.direct_lvm.thinp_meta_percent = percent(99)?,
            "dm.thinp_autoextend_percent" => self.direct_lvm.auto_extend_percent = percent(100)?,
            "dm.thinp_autoextend_threshold" => self.direct_lvm.auto_extend_threshold = percent(100)?,
            "size" => return Err(wrong("size belongs to a layer; give it to create")),
            _ => return Err(wrong("Unknown option")),
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        if self.deferred_removal == Some(false) && self.deferred_deletion == Some(true) {
            return Err(Error::option(
                "dm.use_deferred_deletion=true",
                "deferred deletion needs deferred removal; drop dm.use_deferred_removal=false",
            ));
        }
        self.check_direct_lvm()?;
        if let (Some(data), Some(metadata)) = (&self.data_device, &self.metadata_device)
            && data == metadata
        {
            return Err(Error::option(
                &format!("dm.metadatadev={}", metadata.display()),
                "it is the same device as dm.datadev",
            ));
        }
        Ok(())
    }

    fn check_direct_lvm(&self) -> Result<()> {
        let SetupConfig { device, thinp_percent, thinp_meta_percent, .. } = &self.direct_lvm;
        if self.direct_lvm == SetupConfig::default() {
            return Ok(());
        }
        if device.is_empty() && (*thinp_percent, *thinp_meta_percent) != (0, 0) {
            return Err(Error::option(
                &self.direct_lvm.to_string(),
                "a device is missing to make a pool on; give dm.directlvm_device",
            ));
        }
        if (*thinp_percent == 0) != (*thinp_meta_percent == 0) {
            return Err(Error::option(
                &self.direct_lvm.to_string(),
                "dm.thinp_percent and dm.thinp_metapercent belong together; give both or neither",
            ));
        }
        if thinp_percent + thinp_meta_percent > 100 {
            return Err(Error::option(
                &self.direct_lvm.to_string(),
                "dm.thinp_percent and dm.thinp_metapercent are more than 100 % together",
            ));
        }
        if let Some(pool) = &self.thin_pool {
            return Err(Error::option(
                &format!("dm.directlvm_device={device}"),
                &format!("dm.thinpooldev={pool} names a pool that is made already; drop one of them"),
            ));
        }
        Ok(())
    }

    /// Options that were given and mean nothing beside the others, and why.
    pub(crate) fn unused(&self) -> Vec<(&'static str, &'static str)> {
        const POOL: &str = "the pool is LVM's or made already";
        const FORCE: &str = "there is no dm.directlvm_device that it could be about";
        let direct_lvm = !self.direct_lvm.device.is_empty();
        let pool = self.thin_pool.is_some() || direct_lvm;
        let given = [
            ("dm.directlvm_device_force", self.direct_lvm_force, !direct_lvm, FORCE),
            ("dm.datadev", self.data_device.is_some(), pool, POOL),
            ("dm.metadatadev", self.metadata_device.is_some(), pool, POOL),
            ("dm.blocksize", self.block_size.is_some(), pool, POOL),
            ("dm.loopdatasize", self.loop_data_size.is_some(), pool, POOL),
            ("dm.loopmetadatasize", self.loop_metadata_size.is_some(), pool, POOL),
            (
                "dm.loopdatasize",
                self.loop_data_size.is_some(),
                self.data_device.is_some(),
                "dm.datadev names a device",
            ),
            (
                "dm.loopmetadatasize",
                self.loop_metadata_size.is_some(),
                self.metadata_device.is_some(),
                "dm.metadatadev names a device",
            ),
        ];
        given
            .into_iter()
            .filter(|(_, given, over, _)| *given && *over)
            .map(|(option, _, _, why)| (option, why))
            .collect()
    }

    /// Is the pool on the root's own files alone?
    pub(crate) fn is_on_own_files(&self) -> bool {
        self.data_device.is_none() && self.metadata_device.is_none() && self.thin_pool.is_none()
    }

    /// Are whole devices discarded before they are deleted? Off by default on devices that an operator gave, and on with direct-lvm.
    pub fn discards(&self) -> bool {
        self.discard.unwrap_or(self.data_device.is_none() && self.thin_pool.is_none())
    }

    /// When a pool grows by itself, and by how much. As with LVM, a threshold below 50 is 50.
    pub fn extend(&self) -> Extend {
        let given = |value: u64| u8::try_from(value).ok().filter(|value| (1..=100).contains(value));
        let default = Extend::default();
        Extend {
            threshold: given(self.direct_lvm.auto_extend_threshold).unwrap_or(default.threshold).max(50),
            percent: given(self.direct_lvm.auto_extend_percent).unwrap_or(default.percent),
        }
    }

    /// May a device that is open go at its last close? On where the kernel can, which all supported ones do.
    pub fn defers_removal(&self) -> bool {
        self.deferred_removal.unwrap_or(true)
    }

    /// May a layer whose device is open be deleted later? Follows removal: without it there is nothing to wait for.
    pub fn defers_deletion(&self) -> bool {
        self.defers_removal() && self.deferred_deletion.unwrap_or(true)
    }
}

/// Go's idea of a truth value.
fn parse_flag(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "True" | "TRUE" => Some(true),
        "0" | "f" | "F" | "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

fn device_path(text: &str) -> Option<PathBuf> {
    text.starts_with('/').then(|| PathBuf::from(text))
}

/// A device's size is a whole number of sectors; what is left over cannot be used.
pub(crate) fn whole_sectors(size: Bytes) -> Option<Bytes> {
    let Sectors(sectors) = size.to_sectors();
    if sectors == 0 { None } else { Sectors(sectors).to_bytes() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind as ErrorKind;

    #[test]
    fn defaults_are_dockers() {
        let options = Options::parse::<&str>(&[]).unwrap();
        assert_eq!(options, Options::default());
        assert!(options.discards() && options.defers_removal() && options.defers_deletion());
        assert_eq!(options.block_size, None);
    }

    #[test]
    fn every_option_is_read() {
        let options = Options::parse(&[
            " DM.BaseSize = 20G ",
            "dm.loopdatasize=1g",
            "dm.loopmetadatasize=64M",
            "dm.fs=ext4",
            "dm.mkfsarg=-O ^has_journal",
            "dm.mkfsarg=-q",
            "dm.mountopt=noatime,nodev",
            "dm.datadev=/dev/sdb",
            "dm.metadatadev=/dev/sdc",
            "dm.blkdiscard=T",
            "dm.blocksize=512k",
            "dm.override_udev_sync_check=1",
            "dm.use_deferred_removal=false",
            "dm.min_free_space=5%",
            "dm.xfs_nospace_max_retries=3",
            "dm.libdm_log_level=7",
            "dm.directlvm_device=/dev/sdd",
            "dm.directlvm_device_force=true",
            "dm.thinp_percent=90%",
            "dm.thinp_metapercent=2",
            "dm.thinp_autoextend_percent=25%",
            "dm.thinp_autoextend_threshold=100",
        ])
        .unwrap();
        assert_eq!(options.base_size, Some(Bytes(20 << 30)));
        assert_eq!(options.mkfs_args, ["-O ^has_journal", "-q"]);
        assert_eq!(options.block_size.map(BlockSize::sectors), Some(Sectors(1024)));
        assert!(options.discards());
        // Docker's driver refuses to start here (C18); without removal there is nothing to defer.
        assert!(!options.defers_removal() && !options.defers_deletion());
        assert_eq!((options.min_free_percent, options.xfs_nospace_retries), (5, Some(3)));
        assert_eq!(
            (options.direct_lvm, options.direct_lvm_force),
            (
                SetupConfig {
                    device: "/dev/sdd".into(),
                    thinp_percent: 90,
                    thinp_meta_percent: 2,
                    auto_extend_percent: 25,
                    auto_extend_threshold: 100,
                },
                true
            )
        );
        // Decided before the pool's name is (section 2.2).
        assert!(Options::parse(&["dm.directlvm_device=/dev/sdd"]).unwrap().discards());
        let pool = Options::parse(&["dm.thinpooldev=/dev/mapper/docker-thinpool"]).unwrap();
        assert_eq!(pool.thin_pool.as_ref().map(DmName::as_str), Some("docker-thinpool"));
        assert!(!pool.discards());
    }

    #[test]
    fn bad_items_are_refused() {
        for item in [
            "dm.basesize",
            "dm.basesize=10Q",
            "dm.basesize=0",
            "dm.basesize=10P",
            "dm.fs=btrfs",
            "dm.fs=",
            "dm.blocksize=63k",
            "dm.blocksize=100k",
            "dm.blocksize=2G",
            "dm.min_free_space=10",
            "dm.min_free_space=100%",
            "dm.min_free_space=-1%",
            "dm.libdm_log_level=8",
            "dm.libdm_log_level=1",
            "dm.blkdiscard=yes",
            "dm.xfs_nospace_max_retries=-1",
            "dm.thinpooldev=",
            "dm.thinpooldev=a/b",
            "dm.datadev=sdb",
            "dm.directlvm_device=sdd",
            "dm.directlvm_device=",
            "dm.directlvm_device_force=yes",
            "dm.thinp_percent=100",
            "dm.thinp_metapercent=-1",
            "dm.thinp_metapercent=1%%",
            "dm.thinp_autoextend_percent=101",
            "dm.thinp_autoextend_threshold=x",
            "dm.no_warn_on_loop_devices=true",
            "size=10G",
            "nonsense=1",
        ] {
            let error = Options::parse(&[item]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{item}: {error}");
        }
        let device = "dm.directlvm_device=/dev/sdb";
        for (item, part) in [
            (&[device, "dm.thinp_percent=95"][..], "give both or neither"),
            (&[device, "dm.thinp_metapercent=1"], "give both or neither"),
            (&[device, "dm.thinp_percent=95", "dm.thinp_metapercent=6"], "more than 100"),
            (&[device, "dm.thinpooldev=docker-thinpool"], "drop one of them"),
            (&["dm.thinp_percent=95", "dm.thinp_metapercent=1"], "give dm.directlvm_device"),
        ] {
            let error = Options::parse(item).unwrap_err();
            assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains(part), "{error}");
        }
        // Without a device they are about the pool that the root has.
        let extend = |items: &[&str]| Options::parse(items).unwrap().extend();
        assert_eq!(extend(&["dm.thinp_autoextend_threshold=80"]), Extend::default());
        assert_eq!(
            extend(&["dm.thinp_autoextend_threshold=70%", "dm.thinp_autoextend_percent=50"]),
            Extend { threshold: 70, percent: 50 }
        );
        assert!(!extend(&["dm.thinp_autoextend_threshold=100"]).is_on());
        assert_eq!(extend(&["dm.thinp_autoextend_threshold=10"]).threshold, 50);
        // 0 is as not given.
        Options::parse(&["dm.thinp_percent=0", "dm.thinp_autoextend_threshold=0"]).unwrap();
        for pair in [
            ["dm.use_deferred_removal=false", "dm.use_deferred_deletion=true"],
            ["dm.datadev=/dev/sdb", "dm.metadatadev=/dev/sdb"],
        ] {
            assert_eq!(Options::parse(&pair).unwrap_err().kind(), ErrorKind::Invalid);
        }
    }
}
