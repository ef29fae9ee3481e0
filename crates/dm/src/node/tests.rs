use super::Nodes;
use crate::name::{DeviceNumber, DmName};
use nix::errno::Errno;
use std::os::unix::fs::symlink;
use std::path::Path;
use tempfile::TempDir;

/// Block devices need privileges; here a file that holds `MAJOR:MINOR` is one. The real ones are tried in the virtual machine.
fn device_at(path: &Path) -> nix::Result<Option<DeviceNumber>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.parse().ok()),
        Err(error) => Err(Errno::from_raw(error.raw_os_error().unwrap())),
    }
}

fn make_node(path: &Path, number: DeviceNumber) -> nix::Result<()> {
    if path.exists() {
        return Err(Errno::EEXIST);
    }
    std::fs::write(path, number.to_string()).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap()))
}

struct Dev {
    folder: TempDir,
    nodes: Nodes,
    name: DmName,
}

const NUMBER: DeviceNumber = DeviceNumber { major: 253, minor: 5 };

impl Dev {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let nodes = Nodes { dev: folder.path().into(), device_at, make_node };
        Self { folder, nodes, name: DmName::new("a").unwrap() }
    }

    /// The kernel's node, as a devtmpfs has it.
    fn with_kernel_node(self, holds: &str) -> Self {
        std::fs::write(self.folder.path().join("dm-5"), holds).unwrap();
        self
    }

    fn mapper(&self) -> std::path::PathBuf {
        let mapper = self.folder.path().join("mapper");
        std::fs::create_dir_all(&mapper).unwrap();
        mapper
    }

    fn node(&self) -> crate::Result<std::path::PathBuf> {
        self.nodes.node(&self.name, NUMBER)
    }

    fn entries(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.mapper())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

#[test]
fn the_kernels_node_is_handed_out_and_linked() {
    let dev = Dev::new().with_kernel_node("253:5");
    assert_eq!(dev.node().unwrap(), dev.folder.path().join("dm-5"));
    assert_eq!(std::fs::read_link(dev.mapper().join("a")).unwrap(), Path::new("../dm-5"));
    // Again, with everything there.
    assert_eq!(dev.node().unwrap(), dev.folder.path().join("dm-5"));
    assert_eq!(dev.entries(), ["a"]);
}

#[test]
fn without_the_kernels_node_one_is_made() {
    let dev = Dev::new();
    assert_eq!(dev.node().unwrap(), dev.mapper().join("a"));
    assert_eq!(device_at(&dev.mapper().join("a")), Ok(Some(NUMBER)));
    assert_eq!(dev.node().unwrap(), dev.mapper().join("a"));
}

#[test]
fn a_kernel_node_of_another_device_is_not_handed_out() {
    let dev = Dev::new().with_kernel_node("8:5");
    assert_eq!(dev.node().unwrap(), dev.mapper().join("a"));
    assert_eq!(device_at(&dev.mapper().join("a")), Ok(Some(NUMBER)));
}

#[test]
fn stale_names_are_replaced() {
    let dev = Dev::new().with_kernel_node("253:5");
    std::fs::write(dev.folder.path().join("dm-6"), "253:6").unwrap();
    let named = dev.mapper().join("a");
    for stale in ["../dm-6", "../dm-7", "../nothing"] {
        symlink(stale, &named).unwrap();
        dev.node().unwrap();
        assert_eq!(std::fs::read_link(&named).unwrap(), Path::new("../dm-5"), "{stale}");
        std::fs::remove_file(&named).unwrap();
    }
    make_node(&named, DeviceNumber { major: 253, minor: 6 }).unwrap();
    dev.node().unwrap();
    assert_eq!(std::fs::read_link(&named).unwrap(), Path::new("../dm-5"));
    assert_eq!(dev.entries(), ["a"]);
}

#[test]
fn what_is_no_node_is_not_touched() {
    let dev = Dev::new();
    let named = dev.mapper().join("a");
    std::fs::write(&named, "somebody's notes").unwrap();
    let error = dev.node().unwrap_err();
    assert!(error.to_string().contains("neither a link nor a block device"), "{error}");
    assert_eq!(std::fs::read_to_string(&named).unwrap(), "somebody's notes");
    // With the kernel's node the link is not needed.
    let dev = dev.with_kernel_node("253:5");
    assert_eq!(dev.node().unwrap(), dev.folder.path().join("dm-5"));
    dev.nodes.forget(&dev.name, NUMBER).unwrap();
    assert_eq!(std::fs::read_to_string(&named).unwrap(), "somebody's notes");
}

#[test]
fn forgetting_removes_only_what_stands_for_the_device() {
    let dev = Dev::new();
    let named = dev.mapper().join("a");
    dev.nodes.forget(&dev.name, NUMBER).unwrap();

    symlink("../dm-5", &named).unwrap();
    dev.nodes.forget(&dev.name, NUMBER).unwrap();
    assert!(named.symlink_metadata().is_err());

    symlink("../dm-55", &named).unwrap();
    dev.nodes.forget(&dev.name, NUMBER).unwrap();
    assert!(named.symlink_metadata().is_ok());
    std::fs::remove_file(&named).unwrap();

    make_node(&named, NUMBER).unwrap();
    dev.nodes.forget(&dev.name, DeviceNumber { major: 253, minor: 6 }).unwrap();
    assert!(named.exists());
    dev.nodes.forget(&dev.name, NUMBER).unwrap();
    assert!(!named.exists());
}

#[test]
fn threads_that_ask_at_once_all_get_it() {
    let dev = Dev::new().with_kernel_node("253:5");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..50 {
                    dev.node().unwrap();
                    dev.nodes.forget(&dev.name, NUMBER).unwrap();
                }
            });
        }
    });
    dev.node().unwrap();
    assert_eq!(dev.entries(), ["a"]);
}
