//! Names of devices and mount points (section 1.12 of the specification). Every name that the driver uses is built here.

use crate::error::{Error, Result};
use crate::machine::Root;
use std::path::PathBuf;
use thinlayer_dm::{DeviceNumber, DmName, NAME_MAX_BYTES};
use thinlayer_store::LayerId;

/// The folder on a layer's device that is its tree.
pub(crate) const TREE: &str = "rootfs";

/// The names of one root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Names {
    prefix: String,
    mounts: PathBuf,
}

impl Names {
    pub(crate) fn of(root: &Root) -> Self {
        let device = DeviceNumber::from_stat(root.dev);
        // "container-" 10, numbers at most 4 + 1 + 7, "-", inode at most 20: 43 bytes, which leaves 83 for an id.
        let prefix = format!("{}-{}:{}-{}", root.family.prefix(), device.major, device.minor, root.inode);
        Self { prefix, mounts: root.path.join("mnt") }
    }

    /// The pool that the driver makes.
    pub(crate) fn pool(&self) -> Result<DmName> {
        Ok(DmName::new(format!("{}-pool", self.prefix))?)
    }

    /// A layer's device.
    pub(crate) fn device(&self, id: &LayerId) -> Result<DmName> {
        let name = format!("{}-{id}", self.prefix);
        if name.len() > NAME_MAX_BYTES {
            return Err(Error::Invalid {
                what: format!(
                    "the device name {name} would be longer than {NAME_MAX_BYTES} bytes; choose a shorter id"
                ),
            });
        }
        Ok(DmName::new(name)?)
    }

    /// The layer that a device of this root belongs to; `None` for other devices and for the pool.
    pub(crate) fn layer_of(&self, device: &str) -> Option<LayerId> {
        let id = device.strip_prefix(&self.prefix)?.strip_prefix('-')?;
        match id {
            "pool" => None,
            "base" => Some(LayerId::base()),
            _ => LayerId::found(id).ok(),
        }
    }

    /// The folder of all mount points.
    pub(crate) fn mounts(&self) -> &PathBuf {
        &self.mounts
    }

    /// Where a layer's device is mounted.
    pub(crate) fn mount_point(&self, id: &LayerId) -> PathBuf {
        self.mounts.join(id.file_name())
    }

    /// A layer's tree while it is mounted.
    pub(crate) fn tree(&self, id: &LayerId) -> PathBuf {
        self.mount_point(id).join(TREE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Family;

    fn names(dev: u64, inode: u64) -> Names {
        of(Family::Docker, dev, inode)
    }

    fn of(family: Family, dev: u64, inode: u64) -> Names {
        let owner = thinlayer_filesystem::Owner::default();
        let runtime = "/run/thinlayer/x".into();
        Names::of(&Root { path: "/var/lib/thinlayer".into(), dev, inode, owner, family, runtime })
    }

    #[test]
    fn podmans_roots_keep_podmans_names() {
        let names = of(Family::Containers, (253 << 8) | 1, 17_538_953);
        assert_eq!(names.pool().unwrap().as_str(), "container-253:1-17538953-pool");
        assert_eq!(names.layer_of("docker-253:1-17538953-web"), None);
    }

    #[test]
    fn names_are_dockers() {
        let names = names((253 << 8) | 1, 17_538_953);
        assert_eq!(names.pool().unwrap().as_str(), "docker-253:1-17538953-pool");
        assert_eq!(names.device(&LayerId::base()).unwrap().as_str(), "docker-253:1-17538953-base");
        let id = LayerId::given("web").unwrap();
        assert_eq!(names.device(&id).unwrap().as_str(), "docker-253:1-17538953-web");
        assert_eq!(names.layer_of("docker-253:1-17538953-web"), Some(id.clone()));
        assert_eq!(names.layer_of("docker-253:1-17538953-pool"), None);
        assert_eq!(names.layer_of("docker-253:1-1753895-web"), None);
        assert_eq!(names.layer_of("other"), None);
        assert_eq!(names.tree(&id), PathBuf::from("/var/lib/thinlayer/mnt/web/rootfs"));
    }

    #[test]
    fn dockers_own_ids_fit_on_any_root() {
        // 64 hex digits and "-init".
        let id = LayerId::found(&format!("{}-init", "f".repeat(64))).unwrap();
        names((4095 << 8) | 0xff | (0xf_ff00 << 12), u64::MAX).device(&id).unwrap();
        assert!(names(1, 1).device(&LayerId::found(&"x".repeat(120)).unwrap()).is_err());
    }
}
