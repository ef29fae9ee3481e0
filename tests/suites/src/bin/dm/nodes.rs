//! Device nodes, with udev and without.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use harness::{Test, test};
use thinlayer_dm::{Access, Control, DeviceMapper, DeviceNumber, activate};

use crate::{PATIENCE, make, name, zero};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("a node is there right after the resume", at_once),
        test("udev leaves our link, and the removal takes it", with_udev).needs_udev(),
        test("without udev the link is ours alone", without_udev).needs_no_udev(),
        test("where the kernel's node is missing one is made", missing),
        test("a node of another device is never handed out", foreign),
        test("what is no node is left alone", no_node),
    ]
}

fn stands_for(path: &Path, number: DeviceNumber) -> Result<bool> {
    let found = fs::metadata(path).with_context(|| path.display().to_string())?;
    Ok(found.file_type().is_block_device() && DeviceNumber::from_stat(found.rdev()) == number)
}

fn link_of(device: &thinlayer_dm::DmName) -> PathBuf {
    Path::new("/dev/mapper").join(device.as_str())
}

fn kernels_node(number: DeviceNumber) -> PathBuf {
    PathBuf::from(format!("/dev/dm-{}", number.minor))
}

fn at_once() -> Result<()> {
    let dm = Control::open()?;
    for round in 0..20 {
        let device = name(&format!("at-once-{round}"))?;
        let guard = activate(&dm, &device, None, &zero(8), Access::ReadWrite)?.with_patience(PATIENCE);
        let node = dm.node(&device, guard.number())?;
        ensure!(
            node == kernels_node(guard.number()) && stands_for(&node, guard.number())?,
            "{}",
            node.display()
        );
        let mut bytes = [1; 512];
        fs::File::open(&node)?.read_exact(&mut bytes)?;
        ensure!(bytes == [0; 512], "these are not zeroes");
        ensure!(stands_for(&link_of(&device), guard.number())?, "no name under /dev/mapper");
        guard.close()?;
    }
    Ok(())
}

fn with_udev() -> Result<()> {
    let dm = Control::open()?;
    let device = name("with-udev")?;
    let guard = make(&dm, &device)?;
    let link = link_of(&device);
    let theirs = fs::read_link(&link).context("udev made no link")?;
    dm.node(&device, guard.number())?;
    ensure!(fs::read_link(&link)? == theirs, "udev's link was changed");
    // Ours looks the same, and udev finds it in order.
    fs::remove_file(&link)?;
    dm.node(&device, guard.number())?;
    ensure!(
        fs::read_link(&link)? == theirs,
        "ours is {}, udev's {}",
        fs::read_link(&link)?.display(),
        theirs.display()
    );
    harness::run("udevadm", ["trigger", "--settle", &kernels_node(guard.number()).display().to_string()])?;
    ensure!(fs::read_link(&link)? == theirs, "udev changed the link");
    guard.close()?;
    harness::wait_for_udev()?;
    ensure!(link.symlink_metadata().is_err(), "the link is still there");
    Ok(())
}

fn without_udev() -> Result<()> {
    let dm = Control::open()?;
    let device = name("without-udev")?;
    let guard = make(&dm, &device)?;
    let link = link_of(&device);
    ensure!(link.symlink_metadata().is_err(), "somebody made a link");
    dm.node(&device, guard.number())?;
    ensure!(fs::read_link(&link)? == Path::new("..").join(format!("dm-{}", guard.number().minor)));
    harness::run("dmsetup", ["info", &link.display().to_string()])?;
    guard.close()?;
    ensure!(link.symlink_metadata().is_err(), "the link is still there");
    Ok(())
}

/// Runs with the kernel's node out of the way, and puts it back.
fn with_hidden_node(number: DeviceNumber, act: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let (node, hidden) = (kernels_node(number), PathBuf::from(format!("/dev/tlt-hidden-{}", number.minor)));
    fs::rename(&node, &hidden)?;
    let result = act(&node);
    fs::rename(&hidden, &node)?;
    result
}

fn missing() -> Result<()> {
    let dm = Control::open()?;
    let device = name("missing-node")?;
    let guard = make(&dm, &device)?;
    with_hidden_node(guard.number(), |_| {
        let node = dm.node(&device, guard.number())?;
        ensure!(node == link_of(&device), "{}", node.display());
        ensure!(node.symlink_metadata()?.file_type().is_block_device(), "it is no node");
        ensure!(stands_for(&node, guard.number())?, "it stands for another device");
        ensure!(node.metadata()?.mode() & 0o077 == 0, "others may open it");
        fs::File::open(&node)?;
        Ok(())
    })?;
    guard.close()?;
    harness::wait_for_udev()?;
    ensure!(link_of(&device).symlink_metadata().is_err(), "the node is still there");
    Ok(())
}

fn foreign() -> Result<()> {
    let dm = Control::open()?;
    let (device, other) = (name("foreign")?, name("foreign-other")?);
    let guard = make(&dm, &device)?;
    let other_guard = make(&dm, &other)?;
    let link = link_of(&device);
    with_hidden_node(guard.number(), |place| {
        // Another device's node lies where ours should be.
        let numbers = other_guard.number();
        let (major, minor) = (numbers.major.to_string(), numbers.minor.to_string());
        harness::run("mknod", [&place.display().to_string(), "b", &major, &minor])?;
        let node = dm.node(&device, guard.number())?;
        ensure!(node == link && stands_for(&node, guard.number())?, "{}", node.display());
        fs::remove_file(place)?;
        Ok(())
    })?;

    // A stale link to another device.
    if link.symlink_metadata().is_ok() {
        fs::remove_file(&link)?;
    }
    std::os::unix::fs::symlink(Path::new("..").join(format!("dm-{}", other_guard.number().minor)), &link)?;
    let node = dm.node(&device, guard.number())?;
    ensure!(stands_for(&node, guard.number())? && stands_for(&link, guard.number())?, "the stale link stays");
    // Forgetting another device of that name leaves it.
    dm.forget_node(&device, other_guard.number())?;
    ensure!(stands_for(&link, guard.number())?, "the link of a live device is gone");
    guard.close()?;
    other_guard.close()?;
    Ok(())
}

fn no_node() -> Result<()> {
    let dm = Control::open()?;
    let device = name("no-node")?;
    let guard = make(&dm, &device)?;
    let link = link_of(&device);
    if link.symlink_metadata().is_ok() {
        fs::remove_file(&link)?;
    }
    fs::write(&link, "notes")?;
    let result = with_hidden_node(guard.number(), |_| {
        let error = dm.node(&device, guard.number()).err().context("a text file was taken for a node")?;
        ensure!(error.to_string().contains("neither a link nor a block device"), "{error}");
        Ok(())
    });
    ensure!(fs::read_to_string(&link)? == "notes", "the file was changed");
    fs::remove_file(&link)?;
    result?;
    guard.close()?;
    Ok(())
}
