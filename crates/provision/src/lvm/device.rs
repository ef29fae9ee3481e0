//! Is a device free to become a volume group? Everything is looked at, and nothing written.

use super::Programs;
use super::config::SetupConfig;
use super::journal::Identity;
use crate::backing::BlockDevice;
use crate::error::{Error, Result};
use crate::signature::{THIN_POOL, THIN_POOL_DAMAGED, UNRECOGNISED};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a volume group of one physical volume is made of, by LVM's defaults: extents of this size, of which about one is LVM's own.
const EXTENT: u64 = 4 << 20;
/// LVM on a device, as its own label says.
const LVM: &str = "LVM2_member";
/// What takes a device as a whole and gives parts of it to others: no force overwrites these.
const NEVER: &[&str] = &[
    "gpt",
    "dos",
    "PMBR",
    "atari",
    "bsd",
    "sun",
    "mac",
    "linux_raid_member",
    "zfs_member",
    "stratis",
    "vdo",
    "bcache",
    "drbd",
    "ceph_bluestore",
    "mpath_member",
    THIN_POOL,
    THIN_POOL_DAMAGED,
];

/// What `blkid --probe` says is on a device: file system or partition table.
pub(super) fn probe(programs: &dyn Programs, device: &str, deadline: Duration) -> Result<Option<String>> {
    // Where it is not installed the crate's own look must do.
    if programs.find("blkid").is_none() {
        return Ok(None);
    }
    let ended = programs.run("blkid", &["--probe", "--output", "export", device], deadline)?;
    let fields: HashMap<&str, &str> = ended.stdout.lines().filter_map(|line| line.split_once('=')).collect();
    Ok(match ended.code {
        // Nothing that it knows.
        Some(2) => None,
        Some(0) => {
            // A table counts above what may stand in its first partition.
            ["PTTYPE", "TYPE"].iter().find_map(|key| fields.get(key)).map(|name| (*name).to_owned())
        }
        Some(8) => Some("several things at once, as blkid has it".to_owned()),
        _ => {
            return Err(Error::Program {
                command: format!("blkid --probe {device}"),
                said: ended.said(),
                advice: String::new(),
            });
        }
    })
}

/// A device's serial number or world-wide name, where it has one and somebody knows it.
pub(super) fn serial(programs: &dyn Programs, device: &str, deadline: Duration) -> Option<String> {
    programs.find("lsblk")?;
    let ended = programs
        .run("lsblk", &["--json", "--nodeps", "--output", "WWN,SERIAL", device], deadline)
        .ok()
        .filter(super::Finished::success)?;
    let report: serde_json::Value = serde_json::from_str(&ended.stdout).ok()?;
    let row = report.get("blockdevices")?.get(0)?;
    ["wwn", "serial"].iter().find_map(|key| row.get(key)?.as_str().map(str::to_owned))
}

pub(super) fn identity(device: &BlockDevice, serial: Option<String>) -> Identity {
    Identity { number: device.number.to_string(), size: device.size.0, serial }
}

/// A device that somebody asks to give away.
#[derive(Debug)]
pub(super) struct Candidate<'a> {
    pub(super) path: &'a Path,
    pub(super) device: &'a BlockDevice,
    /// The volume group that LVM sees on it: `Some("")` for a physical volume in none, `None` for no physical volume.
    pub(super) group: Option<&'a str>,
    /// What blkid found.
    pub(super) probed: Option<&'a str>,
}

impl Candidate<'_> {
    /// May it be overwritten? `force` is `dm.directlvm_device_force`, and skips only what is said of an existing file system.
    pub(super) fn check(&self, force: bool) -> Result<()> {
        let Self { path, device, .. } = self;
        let shown = path.display();
        if let Some(group) = self.group.filter(|group| !group.is_empty()) {
            return Err(self.unfit(format!(
                "it belongs to volume group {group}, and nothing was changed; name an empty device (dm.directlvm_device), or if nobody needs the group any more: vgremove {group}, then pvremove {shown}"
            )));
        }
        if !device.users.is_empty() {
            return Err(Error::InUse {
                path: PathBuf::from(path),
                user: device.users.join(", "),
                advice: "free it first, or name another device (dm.directlvm_device)".into(),
            });
        }
        if device.read_only {
            return Err(self.unfit(
                "it refuses writes; allow them (blockdev --setrw), or name another device (dm.directlvm_device)",
            ));
        }
        for found in [device.signature.as_deref(), self.probed].into_iter().flatten() {
            if found == UNRECOGNISED {
                // What a wiped file system leaves; blkid knows nothing of it either.
                continue;
            }
            if found == LVM && self.group.is_none() {
                return Err(self.unfit(format!(
                    "it holds a physical volume that LVM itself does not show (a filter, or a copy of another disk), and nothing was changed; see pvs --all, or if nobody needs it: wipefs --all {shown}"
                )));
            }
            if NEVER.contains(&found) {
                return Err(self.unfit(format!(
                    "it holds {found}, and nothing was changed; name an empty device (dm.directlvm_device), or if nobody needs what is there: wipefs --all {shown}"
                )));
            }
            if !force {
                return Err(self.unfit(format!(
                    "it holds {found}, and nothing was changed; name an empty device (dm.directlvm_device), or to destroy what is there set dm.directlvm_device_force=true"
                )));
            }
        }
        Ok(())
    }

    /// Is there room for data, metadata and the spare that LVM keeps of metadata?
    pub(super) fn check_room(&self, config: &SetupConfig) -> Result<()> {
        let (data, metadata) = (config.data_percent(), config.metadata_percent());
        let extents = (self.device.size.0 / EXTENT).saturating_sub(1);
        let part = |percent: u64| extents.saturating_mul(percent) / 100;
        if part(metadata) == 0 || part(data) == 0 {
            let least = 100_u64.div_ceil(metadata.min(data).max(1)) + 1;
            return Err(self.unfit(format!(
                "it has {}, and {metadata} % of that is no whole extent of 4 MiB for metadata; name a device of at least {} MiB, or raise dm.thinp_metapercent",
                self.device.size,
                least * (EXTENT >> 20)
            )));
        }
        if part(data) + 2 * part(metadata) > extents {
            return Err(self.unfit(format!(
                "{data} % for data and {metadata} % for metadata leave no room for LVM's spare copy of the metadata, which is as large again; lower dm.thinp_percent to {} or less",
                100_u64.saturating_sub(2 * metadata)
            )));
        }
        Ok(())
    }

    fn unfit(&self, why: impl Into<String>) -> Error {
        Error::Unfit { path: self.path.to_owned(), why: why.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use thinlayer_dm::{Bytes, DeviceNumber};

    fn device(signature: Option<&str>) -> BlockDevice {
        BlockDevice {
            number: DeviceNumber { major: 8, minor: 16 },
            size: Bytes(2 << 30),
            read_only: false,
            signature: signature.map(str::to_owned),
            users: Vec::new(),
        }
    }

    fn check(device: &BlockDevice, group: Option<&str>, probed: Option<&str>, force: bool) -> Result<()> {
        Candidate { path: Path::new("/dev/sdb"), device, group, probed }.check(force)
    }

    #[test]
    fn an_empty_device_is_taken() {
        check(&device(None), None, None, false).unwrap();
        // What wipefs leaves behind of an ext4.
        check(&device(Some(UNRECOGNISED)), None, None, false).unwrap();
    }

    #[test]
    fn force_skips_the_file_system_and_nothing_else() {
        for found in ["ext4", "xfs", "swap", "crypto_LUKS", "vfat"] {
            let error = check(&device(Some(found)), None, None, false).unwrap_err();
            assert!(error.to_string().contains(found) && error.to_string().contains("force=true"), "{error}");
            check(&device(None), None, Some(found), false).unwrap_err();
            check(&device(Some(found)), None, Some(found), true).unwrap();
        }
        for found in ["gpt", "dos", "linux_raid_member", "zfs_member", THIN_POOL, THIN_POOL_DAMAGED] {
            for force in [false, true] {
                let error = check(&device(Some(found)), None, None, force).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
                check(&device(None), None, Some(found), force).unwrap_err();
            }
        }
        // A file system in the first bytes does not hide a table behind it.
        check(&device(Some("vfat")), None, Some("dos"), true).unwrap_err();
    }

    #[test]
    fn volume_groups_users_and_read_only_devices_are_refused_with_force_too() {
        for force in [false, true] {
            let error = check(&device(Some(LVM)), Some("other"), Some(LVM), force).unwrap_err();
            assert!(error.to_string().contains("volume group other"), "{error}");
            let used = BlockDevice { users: vec!["mounted on /data".into()], ..device(None) };
            assert_eq!(check(&used, None, None, force).unwrap_err().kind(), ErrorKind::Busy);
            let protected = BlockDevice { read_only: true, ..device(None) };
            assert!(check(&protected, None, None, force).unwrap_err().to_string().contains("refuses writes"));
            let hidden = check(&device(Some(LVM)), None, Some(LVM), force).unwrap_err();
            assert!(hidden.to_string().contains("LVM itself does not show"), "{hidden}");
        }
        // A physical volume in no group is as a file system.
        check(&device(Some(LVM)), Some(""), Some(LVM), false).unwrap_err();
        check(&device(Some(LVM)), Some(""), Some(LVM), true).unwrap();
    }

    #[test]
    fn room_is_reckoned_before_anything_is_made() {
        let room = |size: u64, data: u64, metadata: u64| {
            let device = BlockDevice { size: Bytes(size), ..device(None) };
            let config =
                SetupConfig { thinp_percent: data, thinp_meta_percent: metadata, ..SetupConfig::default() };
            Candidate { path: Path::new("/dev/sdb"), device: &device, group: None, probed: None }
                .check_room(&config)
        };
        room(2 << 30, 0, 0).unwrap();
        room(404 << 20, 0, 0).unwrap();
        let error = room(400 << 20, 0, 0).unwrap_err().to_string();
        assert!(error.contains("at least 404 MiB"), "{error}");
        room(100 << 20, 80, 5).unwrap();
        assert!(room(2 << 30, 99, 1).unwrap_err().to_string().contains("to 98 or less"));
        room(0, 0, 0).unwrap_err();
    }
}
