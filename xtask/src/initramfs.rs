//! The initramfs: the agent as `/init` and the modules of the first disk, as a newc cpio archive.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command;
use crate::kernel::Kernel;

/// What must work before the root disk can be mounted; what is built into the kernel is left out.
const MODULES: &[&str] = &["virtio_pci", "virtio_blk", "ext4"];

/// Writes the initramfs of this kernel and this agent.
pub(crate) fn write(kernel: &Kernel, agent: &Path, target: &Path) -> Result<()> {
    let mut archive = Cpio::default();
    for folder in ["dev", "proc", "sys", "root", "modules"] {
        archive.folder(folder);
    }
    // The kernel opens it for process 1 before anything is mounted.
    archive.console();
    let init = fs::read(agent).with_context(|| format!("cannot read {}", agent.display()))?;
    archive.file("init", 0o755, &init);
    for (index, module) in in_load_order(kernel)?.iter().enumerate() {
        let name = module.rsplit('/').next().unwrap_or(module).replace(".xz", "");
        archive.file(
            &format!("modules/{index:02}-{name}"),
            0o644,
            &uncompressed(&kernel.modules().join(module))?,
        );
    }
    let bytes = archive.finish();
    fs::write(target, bytes).with_context(|| format!("cannot write {}", target.display()))
}

/// Paths of the modules below the kernel's folder of modules, each after those it needs.
fn in_load_order(kernel: &Kernel) -> Result<Vec<String>> {
    let file = kernel.modules().join("modules.dep");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let builtin = fs::read_to_string(kernel.modules().join("modules.builtin"))?;
    load_order(&text, &builtin, MODULES)
}

fn load_order(dependencies: &str, builtin: &str, wanted: &[&str]) -> Result<Vec<String>> {
    let mut by_name = BTreeMap::new();
    for line in dependencies.lines() {
        let Some((module, needs)) = line.split_once(':') else { continue };
        by_name.insert(module_name(module), (module, needs));
    }
    let builtin: Vec<String> = builtin.lines().map(module_name).collect();
    let mut order: Vec<String> = Vec::new();
    for name in wanted {
        match by_name.get(*name) {
            Some((module, needs)) => {
                // depmod lists what is needed, the nearest first.
                for module in needs.split_whitespace().rev().chain([*module]) {
                    if !order.iter().any(|known| known == module) {
                        order.push(module.to_owned());
                    }
                }
            }
            None if builtin.iter().any(|known| known == name) => {}
            None => bail!("the kernel has no module {name}, neither built in nor to load"),
        }
    }
    Ok(order)
}

fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

fn uncompressed(module: &Path) -> Result<Vec<u8>> {
    if module.extension().is_some_and(|extension| extension == "xz") {
        command::output(Command::new("xz").arg("-dc").arg(module))
    } else {
        fs::read(module).with_context(|| format!("cannot read {}", module.display()))
    }
}

/// Writes the cpio format that the kernel unpacks (`newc`).
#[derive(Debug, Default)]
struct Cpio {
    bytes: Vec<u8>,
    entries: u32,
}

impl Cpio {
    fn folder(&mut self, name: &str) {
        self.entry(name, 0o040_755, (0, 0), &[]);
    }

    fn file(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entry(name, 0o100_000 | mode, (0, 0), content);
    }

    fn console(&mut self) {
        self.entry("dev/console", 0o020_600, (5, 1), &[]);
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.entries += 1;
        let size = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let name_size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        let links = if mode & 0o040_000 == 0 { 1 } else { 2 };
        self.bytes.extend_from_slice(b"070701");
        for field in [self.entries, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name_size, 0] {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_after_what_they_need() {
        let dependencies = "\
kernel/drivers/virtio/virtio.ko: kernel/drivers/virtio/virtio_ring.ko
kernel/drivers/virtio/virtio_ring.ko:
kernel/drivers/virtio/virtio_pci.ko.xz: kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko
kernel/drivers/block/virtio_blk.ko: kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko
";
        let order = load_order(dependencies, "kernel/fs/ext4/ext4.ko\n", MODULES).unwrap();
        let names: Vec<String> = order.iter().map(|path| module_name(path)).collect();
        assert_eq!(names, ["virtio_ring", "virtio", "virtio_pci", "virtio_blk"]);
        assert!(load_order("", "", MODULES).is_err());
    }

    #[test]
    fn an_archive_as_the_kernel_reads_it() {
        let mut archive = Cpio::default();
        archive.file("init", 0o755, b"abc");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.starts_with("07070100000001000081ed"), "{text}");
        assert!(text.contains("init\0\0abc\x00070701"), "{text}");
        assert!(text.contains("TRAILER!!!"));
    }
}
