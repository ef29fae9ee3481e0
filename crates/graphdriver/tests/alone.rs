//! The crate can be used without naming any of those below it.

use std::sync::Arc;
use thinlayer_graphdriver::{
    Backing, BlockSize, Bytes, Clock, DeviceMapper, Disk, DmName, Filesystem, Filesystems, Machine, Options,
    SetupConfig,
};

#[test]
fn options_are_values_too() {
    let mut typed = Options::default();
    typed.base_size = Some(Bytes(20 << 30));
    typed.filesystem = Some(Filesystem::Ext4);
    typed.thin_pool = Some(DmName::new("vg-pool").unwrap());
    typed.block_size = Some(BlockSize::from_bytes(Bytes(128 << 10)).unwrap());
    typed.direct_lvm = SetupConfig::default();
    let parsed =
        Options::parse(&["dm.basesize=20G", "dm.fs=ext4", "dm.thinpooldev=vg-pool", "dm.blocksize=128K"]);
    assert_eq!(parsed.unwrap(), typed);
}

/// Whoever puts something in front of the machine needs its traits' names.
#[test]
fn a_machine_has_a_part_for_each_trait() {
    fn dm(machine: &Machine) -> Arc<dyn DeviceMapper> {
        machine.dm.clone()
    }
    fn backing(machine: &Machine) -> Arc<dyn Backing> {
        machine.backing.clone()
    }
    fn disk(machine: &Machine) -> Arc<dyn Disk> {
        machine.disk.clone()
    }
    fn filesystems(machine: &Machine) -> Arc<dyn Filesystems> {
        machine.filesystems.clone()
    }
    fn clock(machine: &Machine) -> Arc<dyn Clock> {
        machine.clock.clone()
    }
    let root = tempfile::tempdir().unwrap();
    let machine = Machine::looking(root.path()).unwrap();
    let again = Machine {
        dm: dm(&machine),
        backing: backing(&machine),
        disk: disk(&machine),
        filesystems: filesystems(&machine),
        clock: clock(&machine),
        ..machine.clone()
    };
    assert_eq!(again.backing.file(&root.path().join("data")).unwrap(), None);
    assert!(again.disk.list(std::path::Path::new("")).unwrap().is_empty());
}
